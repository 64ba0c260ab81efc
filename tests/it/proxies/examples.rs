//! The examples are closed by construction: what would open them is looked for, and the proxies' own checks are asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pki::Pki;
use crate::process::files_under;
use crate::proxies::lint::{caddy_flaws, envoy_flaws, nginx_flaws};
use crate::proxies::proxy::{ALL, Kind, with_tls};
use crate::proxies::tools::{Tools, tools};
use crate::units::block;

/// The files of an example, by their names.
fn read(kind: Kind) -> BTreeMap<String, String> {
    let files = files_under(kind.example().parent().unwrap());
    let named = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        (file.file_name().unwrap().to_str().unwrap().to_owned(), text)
    };
    files.into_iter().map(named).collect()
}

fn flaws(kind: Kind, files: &BTreeMap<String, String>) -> Vec<String> {
    match kind {
        Kind::Nginx => nginx_flaws("nginx.conf", files),
        Kind::Caddy => caddy_flaws(&files["Caddyfile"]),
        Kind::Envoy => envoy_flaws(&files["envoy.yaml"]).into_iter().map(str::to_owned).collect(),
    }
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
    for kind in [Kind::Nginx, Kind::Caddy] {
        assert_eq!(flaws(kind, &read(kind)), Vec::<String>::new(), "{kind:?}");
    }
}

/// Changes an example in one place, and in each such place; fails unless the flaw is found every time.
#[track_caller]
fn finds(kind: Kind, from: &str, to: &str, flaw: &str) {
    let files = read(kind);
    let mut places = 0;
    for (name, text) in &files {
        for (at, _) in text.match_indices(from) {
            places += 1;
            let changed = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
            let mut files = files.clone();
            files.insert(name.clone(), changed);
            let found = flaws(kind, &files);
            assert!(
                found.iter().any(|found| found.contains(flaw)),
                "{kind:?}, `{from}` to `{to}`, place {places}: {found:?}"
            );
        }
    }
    assert!(places > 0, "the example of {kind:?} has no `{from}`");
}

#[test]
fn the_lint_of_envoy_finds_what_it_is_for() {
    let raw = "encode_raw_headers: true";
    let more = |text: &str| format!("{raw}\n                      {text}");
    let checked = "context_extensions: { resource:";
    for (from, to, flaw) in [
        (
            "filters.http.ext_authz.v3.ExtAuthz\n",
            "filters.http.buffer.v3.Buffer\n".to_owned(),
            "no ext_authz filter",
        ),
        ("failure_mode_allow: false", "failure_mode_allow: true".into(), "failure_mode_allow"),
        (raw, more("failure_mode_allow_header_add: true"), "failure_mode_allow_header_add"),
        (raw, "encode_raw_headers: false".into(), "merged and repaired"),
        ("status_on_error", "status_on_nothing".into(), "looks like a refusal"),
        (raw, more("filter_enabled: {}"), "by a share or at run time"),
        (raw, more("deny_at_disable: false"), "switched off lets all through"),
        (raw, more("disabled: true"), "without a check"),
        (checked, format!("disabled: true\n{checked}"), "without a check"),
        (
            "underscores_action: REJECT_REQUEST",
            "underscores_action: ALLOW".into(),
            "`_` passes for `-`",
        ),
        ("headers_with_underscores_action: REJECT_REQUEST", String::new(), "by default"),
        ("context_extensions", "no_extensions".into(), "a route without a resource"),
        (", host_rewrite_literal: shop.example", String::new(), "callers choose the Host"),
        (raw, more("allowed_headers: {}"), "sees only some headers"),
        ("grpc_service:", "http_service:".into(), "sees only some headers"),
        ("use_remote_address: true", "use_remote_address: false".into(), "repeats and retimes"),
        (
            "cidr_ranges: [{ address_prefix: 255.255.255.255, prefix_len: 32 }]",
            String::new(),
            "repeats and retimes",
        ),
        ("prefix_len: 32", "prefix_len: 0".into(), "repeats and retimes"),
        ("unix_sockets: false", "unix_sockets: true".into(), "repeats and retimes"),
        ("[forwarded, ", "[".into(), "from where they call"),
        ("x-forwarded-host, ", String::new(), "from where they call"),
        ("OVERWRITE_IF_EXISTS_OR_ADD", "APPEND_IF_EXISTS_OR_ADD".into(), "which address they have"),
        ("transport_api_version: V3", "transport_api_version: V2".into(), "an old version"),
    ] {
        finds(Kind::Envoy, from, &to, flaw);
    }
}

#[test]
fn the_lint_of_nginx_finds_what_it_is_for() {
    let open = "location /x { proxy_pass http://orders; }\n";
    for (from, to, flaw) in [
        ("        location / {", open, "location /x: it is not checked"),
        ("        location / {", "location /x { root /srv; }\nlocation / {", "it is not checked"),
        ("auth_request /_protem/orders-api;", "", "it is not checked"),
        ("auth_request /_protem/orders-api;", "auth_request off;", "it is not checked"),
        ("auth_request /_protem/legacy-crm;", "auth_request /free;", "it is not checked"),
        ("internal;", "", "it is not checked"),
        ("proxy_pass http://orders;", "proxy_pass http://orders/v1;", "not what was checked"),
        ("proxy_pass http://orders;", "proxy_pass http://$host;", "not what was checked"),
        (
            "proxy_pass http://orders;",
            "rewrite ^ /v1/secrets; proxy_pass http://orders;",
            "rewrite",
        ),
        ("proxy_pass_request_body off;", "", "proxy_pass_request_body"),
        ("proxy_set_header Content-Length \"\";", "", "Content-Length"),
        ("$request_uri", "$uri", "X-Original-URI"),
        ("proxy_set_header X-Forwarded-Uri \"\";", "", "X-Forwarded-Uri"),
        ("proxy_set_header X-Protem-Grant $protem_grant;", "", "x_protem_grant"),
        ("grpc_set_header X-Protem-Task $protem_task;", "", "x_protem_task"),
        ("X-Protem-Scope $protem_scope", "X-Protem-Scope $http_x_protem_scope", "x_protem_scope"),
        ("$upstream_http_x_protem_identity", "$http_x_protem_identity", "X-Protem-Identity passes"),
        ("include protem_answer.conf;", "", "X-Protem-Identity passes"),
        ("include protem_send.conf;", "", "the credential passes"),
        ("proxy_set_header X-Api-Key $protem_key;", "", "x_api_key"),
        (
            "_set_header Authorization \"\";",
            "_set_header Authorized \"\";",
            "the credential passes",
        ),
        (
            "X-Forwarded-For $remote_addr",
            "X-Forwarded-For $proxy_add_x_forwarded_for",
            "For passes",
        ),
        ("_set_header X-Forwarded-Host ", "_set_header X-Other ", "X-Forwarded-Host passes"),
        ("X-Forwarded-Proto $scheme", "X-Forwarded-Proto $http_x_forwarded_proto", "Proto passes"),
        ("_set_header X-Real-IP ", "_set_header X-Other ", "X-Real-IP passes"),
        ("_set_header Forwarded ", "_set_header X-Other ", "Forwarded passes"),
        ("proxy_set_header Host $server_name;", "proxy_set_header Host $host;", "choose the Host"),
        ("proxy_set_header Host $server_name;", "", "choose the Host"),
        (
            "grpc_set_header Forwarded",
            "grpc_set_header Host $host; grpc_set_header Forwarded",
            "choose",
        ),
        ("server_name shop.example;", "", "no one name"),
        ("server_name shop.example;", "server_name _;", "no one name"),
        ("underscores_in_headers off;", "", "underscores_in_headers off"),
        ("underscores_in_headers off;", "underscores_in_headers on;", "underscores_in_headers on"),
        ("ignore_invalid_headers on;", "", "ignore_invalid_headers"),
        ("error_page 401 = ", "error_page 401 =200 ", "error_page 401 =200"),
        ("error_page 403 = @protem_refused_403;", "", "403 does not become 403"),
        ("error_page 500 = @protem_closed;", "", "500 does not become 503"),
        ("error_page 500 = @protem_closed;", "error_page 502 = @protem_closed;", "500 does not"),
        ("return 503", "return 200", "500 does not become 503"),
        ("            return 503", "proxy_pass http://orders;\nreturn 503", "that does more"),
        ("        error_page 500", "satisfy any;\nerror_page 500", "satisfy any"),
        ("        error_page 500", "if ($arg_x) { return 200; }\nerror_page 500", "if ("),
    ] {
        finds(Kind::Nginx, from, to, flaw);
    }
}

#[test]
fn the_lint_of_caddy_finds_what_it_is_for() {
    let auth = "forward_auth unix//run/protem-gate/gate.sock {";
    for (from, to, flaw) in [
        (auth, "reverse_proxy unix//x {", "it is not checked"),
        ("X-Protem-Task", "X-Protem-Other", "X-Protem-Task passes"),
        ("uri /authz/", "uri /", "names no resource"),
        ("request_header -Authorization", "request_header -Other", "the credential passes"),
        ("request_header -Connection", "", "-Connection"),
        ("request_header -*_*", "", "-*_*"),
        ("request_header -Forwarded", "", "-Forwarded"),
        ("request_header -X-Real-IP", "", "-X-Real-IP"),
        ("request_header -X-Forwarded-*", "", "-X-Forwarded-*"),
        ("import protem_clean", "", "-Connection"),
        ("import protem_host", "", "choose the Host"),
        ("header_up Host shop.example", "header_up Host {host}", "choose the Host"),
        ("header_up X-Forwarded-Host shop.example", "", "choose the X-Forwarded-Host"),
        ("admin off", "servers {\ntrusted_proxies static 0.0.0.0/0\n}", "trusted_proxies"),
        ("	bind ", "	file_server\n	bind ", "file_server"),
        (auth, "handle_errors {\n}\nforward_auth unix//x {", "handle_errors"),
    ] {
        finds(Kind::Caddy, from, to, flaw);
    }
}

/// Fails unless the proxy takes the file for a whole configuration.
#[track_caller]
fn accepted(kind: Kind, tools: &Tools, file: &Path) {
    let folder = file.parent().unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(tools.program(kind.program()));
    command.current_dir(folder).env("HOME", home.path()).env("XDG_DATA_HOME", home.path());
    match kind {
        Kind::Nginx => {
            command.args(["-t", "-e", "stderr", "-p"]).arg(home.path()).arg("-c").arg(file)
        }
        Kind::Caddy => command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(file),
        Kind::Envoy => command.args(["--mode", "validate", "-c"]).arg(file),
    };
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{kind:?}, {}: {said}", file.display());
}

#[test]
fn the_proxies_themselves_accept_the_examples() {
    let Some(tools) = tools("the examples, checked by the proxies") else { return };
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    for kind in ALL {
        accepted(kind, &tools, &kind.example());
        // And with TLS, which they have in comments.
        for (name, text) in read(kind) {
            std::fs::write(folder.path().join(name), with_tls(&text, &pki)).unwrap();
        }
        accepted(kind, &tools, &folder.path().join(kind.example().file_name().unwrap()));
    }
}

/// The sidecar's proxy reads what the example for nginx reads, in the shape that its image includes.
#[test]
fn the_sidecars_nginx_is_whole_and_closed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/sidecar.yaml");
    let manifest = std::fs::read_to_string(path).unwrap();
    let example = read(Kind::Nginx);
    let mut files = BTreeMap::from([("default.conf".to_owned(), block(&manifest, "default.conf"))]);
    for name in ["protem_ask", "protem_answer", "protem_send"] {
        let text = block(&manifest, &format!("{name}.inc"));
        assert_eq!(text, example[&format!("{name}.conf")], "{name}");
        files.insert(format!("{name}.inc"), text);
    }
    assert_eq!(nginx_flaws("default.conf", &files), Vec::<String>::new());
    let conf = &files["default.conf"];
    assert!(conf.contains("server 127.0.0.1:7431;"), "the gate listens there");
    for text in
        ["containerPort: 8443", "mountPath: /etc/nginx/conf.d,", "mountPath: /etc/nginx/tls,"]
    {
        assert!(manifest.contains(text), "{text}");
    }
    assert!(conf.contains("listen 8443 ssl http2;") && conf.contains("/etc/nginx/tls/tls.crt;"));
    let Some(tools) = tools("the sidecar's configuration, checked by nginx") else { return };
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(folder.path().join("conf.d")).unwrap();
    for (name, text) in &files {
        let text = text.replace("/etc/nginx/tls/tls.crt", pki.path("tls.pem").to_str().unwrap());
        let text = text.replace("/etc/nginx/tls/tls.key", pki.path("tls.key").to_str().unwrap());
        std::fs::write(folder.path().join("conf.d").join(name), text).unwrap();
    }
    // As the image's own.
    let main = folder.path().join("nginx.conf");
    let pid = folder.path().join("pid");
    let text = format!("pid {};\nevents {{}}\nhttp {{ include conf.d/*.conf; }}\n", pid.display());
    std::fs::write(&main, text).unwrap();
    accepted(Kind::Nginx, &tools, &main);
}
