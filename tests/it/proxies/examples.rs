//! The examples are closed by construction: what would open them is looked for, and the proxies' own checks are asked.

use std::path::Path;
use std::process::Command;

use crate::process::files_under;
use crate::proxies::proxy::{ALL, Kind};
use crate::proxies::tools::tools;

/// The identity headers that every proxy must set or replace.
const IDENTITY: [&str; 4] =
    ["X-Protem-Identity", "X-Protem-Grant", "X-Protem-Task", "X-Protem-Scope"];

/// Without comments.
fn bare(text: &str) -> String {
    let lines = text.lines().map(|line| match line.trim_start().starts_with('#') {
        true => "",
        false => line.split(" #").next().unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What of an Envoy configuration lets callers through that the gate did not.
fn envoy_flaws(text: &str) -> Vec<&'static str> {
    let text = bare(text);
    let squeezed: String = text.split_whitespace().collect();
    let has = |part: &str| squeezed.contains(part);
    let count = |part: &str| squeezed.matches(part).count();
    let filters =
        count("\"@type\":type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz")
            - count("ext_authz.v3.ExtAuthzPerRoute");
    let routes = count("match:");
    let rules: [(bool, &str); 14] = [
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
        (
            count("context_extensions:{resource:") + count("context_extensions:resource:")
                < routes.max(1),
            "a route without a resource",
        ),
        (has("allowed_headers") || has("http_service:"), "the check sees only some headers"),
        (!has(STRANGERS), "callers set the headers by which Envoy repeats and retimes calls"),
        (has("transport_api_version:V2"), "an old version of the check"),
    ];
    rules.into_iter().filter_map(|(flaw, what)| flaw.then_some(what)).collect()
}

/// Every caller is a stranger: without a range of its own, Envoy trusts all private addresses and its own machine.
const STRANGERS: &str = "use_remote_address:trueinternal_address_config:unix_sockets:false\
                         cidr_ranges:[{address_prefix:255.255.255.255,prefix_len:32}]";

/// The same of nginx.
fn nginx_flaws(text: &str) -> Vec<String> {
    let text = bare(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let count = |part: &str| words.matches(part).count();
    let mut flaws = Vec::new();
    for needed in [
        "internal;",
        "proxy_pass_request_body off;",
        "proxy_set_header Content-Length \"\";",
        "proxy_set_header X-Original-URI $request_uri;",
        "proxy_set_header X-Original-Method $request_method;",
        "underscores_in_headers off;",
        "error_page 500",
    ] {
        if count(needed) == 0 {
            flaws.push(format!("`{needed}` is missing"));
        }
    }
    let checked = count("auth_request /");
    if checked == 0 {
        flaws.push("nothing is checked".to_owned());
    }
    let sets = IDENTITY.map(|header| format!("_set_header {header} "));
    for set in sets.iter().map(String::as_str).chain(["_set_header Authorization \"\";"]) {
        if count(set) < checked {
            flaws.push(format!("the caller's own passes somewhere: `{set}`"));
        }
    }
    for opens in [
        "auth_request off",
        "underscores_in_headers on",
        "ignore_invalid_headers off",
        "satisfy any",
        "proxy_cache_valid",
        " =200",
        " =204",
    ] {
        if count(opens) > 0 {
            flaws.push(format!("`{opens}`"));
        }
    }
    flaws
}

/// All files of an example, one after the other.
fn read(kind: Kind) -> String {
    let folder = kind.example();
    let files = files_under(folder.parent().unwrap());
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// The same of Caddy.
fn caddy_flaws(text: &str) -> Vec<String> {
    let text = bare(text);
    let mut flaws = Vec::new();
    for needed in [
        "forward_auth ",
        "uri /authz/",
        "copy_headers",
        "request_header -Authorization",
        "request_header -Connection",
    ] {
        if !text.contains(needed) {
            flaws.push(format!("`{needed}` is missing"));
        }
    }
    for header in IDENTITY {
        if !text.contains(header) {
            flaws.push(format!("the caller's own {header} passes"));
        }
    }
    for opens in ["handle_errors", "handle_response", "trusted_proxies"] {
        if text.contains(opens) {
            flaws.push(format!("`{opens}`"));
        }
    }
    flaws
}

#[test]
fn examples_of_envoy_do_not_fail_open() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = 0;
    for file in files_under(&folder) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if !text.contains("filters.http.ext_authz.v3") {
            continue;
        }
        found += 1;
        assert_eq!(envoy_flaws(&text), Vec::<&str>::new(), "{}", file.display());
    }
    assert!(found > 0, "no example has Envoy's filter");
}

#[test]
fn examples_of_nginx_and_caddy_replace_what_callers_may_forge() {
    assert_eq!(nginx_flaws(&read(Kind::Nginx)), Vec::<String>::new());
    assert_eq!(caddy_flaws(&read(Kind::Caddy)), Vec::<String>::new());
}

#[test]
fn the_lint_finds_what_it_is_for() {
    let [nginx, caddy, envoy] = ALL.map(read);
    let change = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "the example has no `{from}`");
        text.replace(from, to)
    };
    for (from, to) in [
        ("failure_mode_allow: false", "failure_mode_allow: true"),
        ("encode_raw_headers: true", "encode_raw_headers: false"),
        ("status_on_error", "status_on_nothing"),
        ("REJECT_REQUEST", "ALLOW"),
        ("context_extensions", "no_extensions"),
        ("use_remote_address: true", "use_remote_address: false"),
        ("cidr_ranges: [{ address_prefix: 255.255.255.255, prefix_len: 32 }]", ""),
        ("prefix_len: 32", "prefix_len: 0"),
        ("unix_sockets: false", "unix_sockets: true"),
        ("transport_api_version: V3", "transport_api_version: V2"),
        ("encode_raw_headers: true", "encode_raw_headers: true\n filter_enabled: {}"),
        ("encode_raw_headers: true", "encode_raw_headers: true\n allowed_headers: {}"),
    ] {
        assert!(!envoy_flaws(&change(&envoy, from, to)).is_empty(), "{from} to {to}");
    }
    for (from, to) in [
        ("proxy_set_header X-Protem-Grant", "# proxy_set_header X-Protem-Grant"),
        ("proxy_set_header Authorization \"\";", ""),
        ("$request_uri", "$uri"),
        ("proxy_pass_request_body off;", ""),
        ("error_page 500", "error_page 502"),
        ("error_page 401 =", "error_page 401 =200"),
        ("server {", "server {\n underscores_in_headers on;"),
    ] {
        assert!(!nginx_flaws(&change(&nginx, from, to)).is_empty(), "{from} to {to}");
    }
    for (from, to) in [
        ("X-Protem-Task", ""),
        ("request_header -Authorization", ""),
        ("request_header -Connection", ""),
        ("forward_auth ", "reverse_proxy "),
    ] {
        assert!(!caddy_flaws(&change(&caddy, from, to)).is_empty(), "{from} to {to}");
    }
}

#[test]
fn the_proxies_themselves_accept_the_examples() {
    let Some(tools) = tools("the examples, checked by the proxies") else { return };
    let folder = tempfile::tempdir().unwrap();
    for kind in ALL {
        let file = kind.example();
        let mut command = Command::new(tools.program(kind.program()));
        command.current_dir(folder.path()).env("HOME", folder.path());
        match kind {
            Kind::Nginx => {
                command.args(["-t", "-e", "stderr", "-p"]).arg(folder.path()).arg("-c").arg(&file)
            }
            Kind::Caddy => {
                command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(&file)
            }
            Kind::Envoy => command.args(["--mode", "validate", "-c"]).arg(&file),
        };
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{kind:?}: {said}");
    }
}
