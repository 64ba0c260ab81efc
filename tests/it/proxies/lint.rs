//! What of a proxy's configuration lets callers through that its gate did not, or has an API believe what callers wrote.

use std::collections::BTreeMap;

use crate::proxies::directives::{Directive, caddy, nginx};

/// The headers that tell who calls, which every way to an API must set.
const IDENTITY: [&str; 4] =
    ["X-Protem-Identity", "X-Protem-Grant", "X-Protem-Task", "X-Protem-Scope"];
/// Those that tell from where a call came and by which name, which are the proxy's to set or to clear.
const FORWARDED: [&str; 5] =
    ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded"];
/// What nginx knows itself.
const KNOWN: [&str; 4] = ["\"\"", "$remote_addr", "$server_name", "$scheme"];
/// What a gate says to people, and to nobody's API.
const SAID: [&str; 4] =
    ["x_protem_error", "x_protem_reason", "x_protem_request", "www_authenticate"];
/// How nginx asks.
const QUESTION: [&str; 8] = [
    "proxy_pass http://protem_gate/authz/$protem_resource",
    "proxy_pass_request_body off",
    "proxy_set_header Content-Length \"\"",
    "proxy_set_header Transfer-Encoding \"\"",
    "proxy_set_header X-Original-Method $request_method",
    "proxy_set_header X-Original-URI $request_uri",
    "proxy_set_header X-Forwarded-Method \"\"",
    "proxy_set_header X-Forwarded-Uri \"\"",
];
/// What nginx may say nowhere, by what it begins with.
const NEVER: [&str; 8] = [
    "auth_request off",
    "underscores_in_headers on",
    "ignore_invalid_headers off",
    "satisfy any",
    "proxy_cache_valid",
    "rewrite ",
    "if ",
    "try_files ",
];

/// The flaws of nginx's files, of which one is read first.
pub fn nginx_flaws(main: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let tree = nginx(main, files);
    let all = tree.all();
    let mut flaws = Vec::new();
    for one in &all {
        let text = one.text() + " ";
        flaws.extend(NEVER.iter().filter(|never| text.starts_with(**never)).map(|_| text.clone()));
    }
    let servers: Vec<_> =
        all.iter().filter(|one| one.name() == "server" && !one.block.is_empty()).collect();
    if servers.is_empty() {
        flaws.push("there is no server".to_owned());
    }
    for server in servers {
        let name = server.named("listen").map(Directive::text).collect::<String>();
        let found = server_flaws(server);
        flaws.extend(found.into_iter().map(|flaw| format!("{name}: {flaw}")));
    }
    flaws
}

fn server_flaws(server: &Directive) -> Vec<String> {
    let mut flaws = Vec::new();
    for needed in ["underscores_in_headers off", "ignore_invalid_headers on"] {
        if !server.says(needed) {
            flaws.push(format!("no `{needed}`"));
        }
    }
    let named: Vec<_> = server.named("server_name").collect();
    if !matches!(named[..], [one] if one.word(1).starts_with(char::is_alphanumeric)) {
        flaws.push("no one name that APIs are told as their Host".to_owned());
    }
    for (code, becomes) in [("401", "401"), ("403", "403"), ("500", "503")] {
        if !refuses(server, code, becomes) {
            flaws.push(format!("{code} does not become {becomes}"));
        }
    }
    let pages = server.all().into_iter().filter(|one| one.name() == "error_page");
    for page in pages.filter(|one| one.words.iter().any(|word| word.starts_with("=2"))) {
        flaws.push(page.text());
    }
    let locations: Vec<_> =
        server.all().into_iter().filter(|one| one.name() == "location").collect();
    for location in &locations {
        let found = location_flaws(location, server);
        let name = location.text();
        flaws.extend(found.into_iter().map(|flaw| format!("{name}: {flaw}")));
    }
    if !locations.iter().any(|one| one.named("auth_request").next().is_some()) {
        flaws.push("nothing is checked".to_owned());
    }
    flaws
}

/// Whether a status becomes one that says no, in a location that says nothing else.
fn refuses(server: &Directive, code: &str, becomes: &str) -> bool {
    let page = server.named("error_page").find(|one| one.word(1) == code);
    let Some([_, _, equals, place]) = page.map(|page| &page.words[..]) else { return false };
    let place = server.named("location").find(|one| one.word(1) == place);
    let returns = place.and_then(|place| place.named("return").next());
    equals == "=" && returns.is_some_and(|one| one.word(1) == becomes)
}

fn location_flaws(location: &Directive, server: &Directive) -> Vec<String> {
    if location.word(1).starts_with('@') {
        let plain = ["default_type", "add_header", "return"];
        let more = location.block.iter().filter(|one| !plain.contains(&one.name()));
        return more.map(|one| format!("a refusal that does more: {}", one.text())).collect();
    }
    if is_question(location) {
        let missing = QUESTION.iter().filter(|line| !location.says(line));
        return missing.map(|line| format!("no `{line}`")).collect();
    }
    let mut flaws = Vec::new();
    let asks = location.named("auth_request").next().map(|one| one.word(1));
    let asked = server.named("location").find(|one| {
        one.word(1) == "=" && Some(one.word(2)) == asks && one.named("set").next().is_some()
    });
    if !asked.is_some_and(is_question) {
        flaws.push("it is not checked".to_owned());
    }
    let passes = location.block.iter().filter(|one| one.name().ends_with("_pass"));
    let [pass] = passes.collect::<Vec<_>>()[..] else {
        flaws.push("it has not one API".to_owned());
        return flaws;
    };
    let place = pass.word(1).split_once("://").map_or("/", |(_, place)| place);
    if place.contains(['/', '$']) {
        flaws.push(format!("what is sent is not what was checked: {}", pass.text()));
    }
    let sets = match pass.name() {
        "proxy_pass" => "proxy_set_header",
        "grpc_pass" => "grpc_set_header",
        other => {
            flaws.push(other.to_owned());
            return flaws;
        }
    };
    flaws.extend(header_flaws(location, sets));
    flaws
}

/// Whether it is where the gate is asked, and nobody else can ask.
fn is_question(location: &Directive) -> bool {
    location.says("internal") && location.text().starts_with("location = /_protem/")
}

fn header_flaws(location: &Directive, sets: &str) -> Vec<String> {
    let mut flaws = Vec::new();
    let sent = |name: &str| {
        let found = location.named(sets).find(|one| one.word(1).eq_ignore_ascii_case(name));
        found.map(|one| one.word(2))
    };
    // Each word of the gate has a variable, and each variable its header.
    let mut heard = BTreeMap::new();
    for one in location.named("auth_request_set") {
        let Some(header) = one.word(2).strip_prefix("$upstream_http_") else {
            flaws.push(one.text());
            continue;
        };
        heard.insert(header.to_owned(), one.word(1));
        if !SAID.contains(&header) && sent(&header.replace('_', "-")) != Some(one.word(1)) {
            flaws.push(format!("the gate's word is not sent, or the caller's own is: {header}"));
        }
    }
    for header in IDENTITY {
        if !heard.contains_key(&header.to_ascii_lowercase().replace('-', "_")) {
            flaws.push(format!("the caller's own {header} passes"));
        }
    }
    if !heard.contains_key("authorization") && sent("Authorization") != Some("\"\"") {
        flaws.push("the credential passes".to_owned());
    }
    for header in FORWARDED {
        if !sent(header).is_some_and(|value| KNOWN.contains(&value)) {
            flaws.push(format!("the caller's own {header} passes"));
        }
    }
    let fixed = |value: &str| value == "$server_name" || !value.contains('$');
    // gRPC's is the name of the upstream, unless it is set.
    if !sent("Host").map_or(sets == "grpc_set_header", fixed) {
        flaws.push("callers choose the Host".to_owned());
    }
    flaws
}

/// The flaws of Caddy's file.
pub fn caddy_flaws(text: &str) -> Vec<String> {
    let tree = caddy(text);
    let mut flaws = Vec::new();
    for one in tree.all() {
        let opens = ["handle_errors", "handle_response", "trusted_proxies"];
        if opens.contains(&one.name()) {
            flaws.push(one.text());
        }
    }
    let sites: Vec<_> = tree.block.iter().filter(|one| !one.words.is_empty()).collect();
    if sites.is_empty() {
        flaws.push("there is no site".to_owned());
    }
    for site in sites {
        let mut found = Vec::new();
        way(site, Way::default(), &mut found);
        if !site.all().iter().any(|one| one.name() == "reverse_proxy") {
            found.push("it has no API".to_owned());
        }
        flaws.extend(found.into_iter().map(|flaw| format!("{}: {flaw}", site.text())));
    }
    flaws
}

/// What happened to a call on its way through a `route`.
#[derive(Clone, Debug, Default)]
struct Way {
    /// Headers that were taken away before it was checked, and after.
    before: Vec<String>,
    after: Vec<String>,
    checked: bool,
}

/// What a caller must not bring.
const TAKEN: [&str; 5] = ["-Connection", "-*_*", "-Forwarded", "-X-Real-IP", "-X-Forwarded-*"];

/// Follows a call through a block, in order.
fn way(block: &Directive, mut so_far: Way, flaws: &mut Vec<String>) {
    for one in &block.block {
        match one.name() {
            // What happens inside happens to those calls only that it matches.
            "route" => way(one, so_far.clone(), flaws),
            "request_header" => {
                let list = if so_far.checked { &mut so_far.after } else { &mut so_far.before };
                list.push(one.word(1).to_owned());
            }
            "forward_auth" => {
                so_far.checked = true;
                let copied: Vec<_> = one.named("copy_headers").flat_map(|one| &one.words).collect();
                for header in IDENTITY.iter().filter(|name| !copied.iter().any(|of| of == *name)) {
                    flaws.push(format!("the caller's own {header} passes"));
                }
                if !one.named("uri").any(|one| one.word(1).starts_with("/authz/")) {
                    flaws.push("the route names no resource".to_owned());
                }
            }
            "reverse_proxy" => {
                if !so_far.checked {
                    flaws.push(format!("it is not checked: {}", one.text()));
                }
                for header in TAKEN.iter().filter(|it| !so_far.before.iter().any(|of| of == **it)) {
                    flaws.push(format!("`request_header {header}` is missing"));
                }
                if !so_far.after.iter().any(|header| header == "-Authorization") {
                    flaws.push("the credential passes".to_owned());
                }
                for header in ["Host", "X-Forwarded-Host"] {
                    let mut up = one.named("header_up").filter(|up| up.word(1) == header);
                    if !up.any(|up| !up.word(2).is_empty() && !up.word(2).contains('{')) {
                        flaws.push(format!("callers choose the {header}"));
                    }
                }
            }
            "bind" | "tls" => {}
            _ => flaws.push(format!("it is not known whether it lets through: {}", one.text())),
        }
    }
}

/// The flaws of Envoy's file.
pub fn envoy_flaws(text: &str) -> Vec<&'static str> {
    let lines = text.lines().map(|line| match line.trim_start().starts_with('#') {
        true => "",
        false => line.split(" #").next().unwrap(),
    });
    let squeezed: String = lines.flat_map(str::split_whitespace).collect();
    let has = |part: &str| squeezed.contains(part);
    let count = |part: &str| squeezed.matches(part).count();
    let filters =
        count("\"@type\":type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz")
            - count("ext_authz.v3.ExtAuthzPerRoute");
    let routes: Vec<_> = squeezed.split("match:").skip(1).collect();
    let some_route =
        |lacks: &str| routes.is_empty() || routes.iter().any(|route| !route.contains(lacks));
    let rules: [(bool, &str); 17] = [
        (filters == 0, "no ext_authz filter"),
        (has("failure_mode_allow:true"), "failure_mode_allow"),
        (has("failure_mode_allow_header_add:true"), "failure_mode_allow_header_add"),
        (
            count("encode_raw_headers:true") < filters,
            "headers are merged and repaired before the gate sees them",
        ),
        (count("status_on_error") < filters, "a dead gate looks like a refusal"),
        (has("filter_enabled"), "the filter may be switched off by a share or at run time"),
        (has("deny_at_disable:false"), "a filter that is switched off lets all through"),
        (has("disabled:true"), "a route or filter without a check"),
        (has("headers_with_underscores_action:ALLOW"), "`_` passes for `-`"),
        (!has("headers_with_underscores_action:REJECT_REQUEST"), "`_` passes for `-`, by default"),
        (some_route("context_extensions:{resource:"), "a route without a resource"),
        (some_route("host_rewrite_literal:"), "callers choose the Host"),
        (has("allowed_headers") || has("http_service:"), "the check sees only some headers"),
        (!has(STRANGERS), "callers set the headers by which Envoy repeats and retimes calls"),
        (!has(CLEARED), "callers say from where they call, or by which name"),
        (!has(ADDRESS), "callers say which address they have"),
        (has("transport_api_version:V2"), "an old version of the check"),
    ];
    rules.into_iter().filter_map(|(flaw, what)| flaw.then_some(what)).collect()
}

/// Every caller is a stranger: without a range of its own, Envoy trusts all private addresses and its own machine.
const STRANGERS: &str = "use_remote_address:trueinternal_address_config:unix_sockets:false\
                         cidr_ranges:[{address_prefix:255.255.255.255,prefix_len:32}]";
/// x-forwarded-proto is Envoy's own word where callers are strangers.
const CLEARED: &str = "request_headers_to_remove:[forwarded,x-forwarded-host,x-real-ip]";
const ADDRESS: &str = "header:{key:x-forwarded-for,value:\"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}\
                       append_action:OVERWRITE_IF_EXISTS_OR_ADD";
