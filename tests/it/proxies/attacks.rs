//! What callers try on the way through a proxy and its gate; what counts is what the API behind them got.

use crate::proxies::bundle::STEADY;
use crate::proxies::raw::send;
use crate::proxies::stage::{Stage, Trio};
use crate::proxies::upstream::Received;

/// The headers by which the API is told who calls.
const IDENTITY: [&str; 4] =
    ["x-protem-identity", "x-protem-grant", "x-protem-task", "x-protem-scope"];

/// Sends a request's head, and tells its status and what reached the API.
pub fn tried(stage: &Stage, request: &[u8]) -> (u16, Vec<Received>) {
    stage.upstream.taken();
    // No answer at all is a refusal too.
    let status = send(&stage.proxy.address(), request).map_or(0, |answer| answer.status);
    (status, stage.upstream.taken())
}

/// A request's head.
pub fn request(first: &str, lines: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("{first} HTTP/1.1\r\nHost: shop.example\r\n").into_bytes();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The header of a credential.
pub fn authorization(token: &str) -> Vec<u8> {
    format!("Authorization: Bearer {token}").into_bytes()
}

/// After one answer there is no other.
pub const LAST: &[u8] = b"Connection: close";

/// Fails unless nothing reached the API.
#[track_caller]
fn refused(stage: &Stage, request: &[u8]) {
    let (status, seen) = tried(stage, request);
    let text = String::from_utf8_lossy(request).into_owned();
    assert!(seen.is_empty(), "{:?} let through {text}\n{seen:?}", stage.kind);
    assert!(!(200..400).contains(&status), "{:?}: {status} for {text}", stage.kind);
}

/// Fails unless it was refused, or the API was told the truth, once. Tells whether it was let through.
#[track_caller]
pub fn refused_or_true(trio: &Trio, stage: &Stage, request: &[u8]) -> bool {
    let (status, seen) = tried(stage, request);
    let text = String::from_utf8_lossy(request).into_owned();
    let truth = [STEADY, &trio.reads.grant, &trio.reads.task, "orders:read"];
    for one in &seen {
        for (name, value) in IDENTITY.iter().zip(truth) {
            assert_eq!(one.like(name), [value], "{:?}: {name} after {text}: {one:?}", stage.kind);
        }
        let ours = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
        let more = one.headers.iter().filter(|(name, _)| {
            ours(name).starts_with("x-protem-") && !IDENTITY.contains(&ours(name).as_str())
        });
        assert_eq!(more.count(), 0, "{:?} after {text}: {one:?}", stage.kind);
    }
    assert_eq!(status == 200, !seen.is_empty(), "{:?}: {status} for {text}", stage.kind);
    !seen.is_empty()
}

/// Row 45: of several credentials none counts, wherever the good one stands.
#[test]
fn attack_multi_value_headers() {
    let Some(trio) = Trio::shared("several credentials at once") else { return };
    let (good, bad) = (authorization(&trio.reads.token), authorization(&trio.revoked.token));
    let joined =
        format!("Authorization: Bearer {}, Bearer {}", trio.reads.token, trio.revoked.token);
    let glued = format!("Authorization: Bearer {},{}", trio.reads.token, trio.reads.token);
    let empty = b"Authorization:".to_vec();
    let basic = b"Authorization: Basic YTpi".to_vec();
    trio.each(|stage| {
        assert!(refused_or_true(&trio, stage, &request("GET /v1/orders", &[&good, LAST])));
        for pair in [[&good, &bad], [&bad, &good], [&good, &good], [&basic, &good]] {
            refused(stage, &request("GET /v1/orders", &[pair[0], pair[1], LAST]));
        }
        for pair in [[&good, &empty], [&empty, &good]] {
            // Envoy drops one without a value before it asks.
            refused_or_true(&trio, stage, &request("GET /v1/orders", &[pair[0], pair[1], LAST]));
        }
        for line in [joined.as_bytes(), glued.as_bytes()] {
            refused(stage, &request("GET /v1/orders", &[line, LAST]));
        }
    });
}

/// Row 46: bytes that are no text break no check open.
#[test]
fn attack_non_utf8_header() {
    let Some(trio) = Trio::shared("bytes that are no text") else { return };
    let odd: [&[u8]; 4] = [
        b"X-Note: \xff\xfe\x80",
        b"Cookie: a=\xc3\x28",
        b"User-Agent: \xed\xa0\x80",
        b"X-\xc3\xa4: a",
    ];
    trio.each(|stage| {
        for line in odd {
            let good = authorization(&trio.reads.token);
            refused_or_true(&trio, stage, &request("GET /v1/orders", &[&good, line, LAST]));
            let bad = authorization(&trio.revoked.token);
            refused(stage, &request("GET /v1/orders", &[&bad, line, LAST]));
            refused(stage, &request("GET /v1/orders", &[line, LAST]));
        }
        let mut token = authorization(&trio.reads.token);
        token.push(0xff);
        refused(stage, &request("GET /v1/orders", &[&token, LAST]));
        let mut ask = request("GET /v1/orders/@", &[&authorization(&trio.reads.token), LAST]);
        let at = ask.iter().position(|byte| *byte == b'@').unwrap();
        ask[at] = 0xff;
        // Caddy escapes it, for the gate and for the API alike.
        let (_, seen) = tried(stage, &ask);
        assert!(seen.iter().all(|one| one.target == "/v1/orders/%FF"), "{seen:?}");
    });
}

/// Row 47: who calls is what the gate says, whatever the caller says and however it spells it.
#[test]
fn attack_spoofed_identity_header_variants() {
    let Some(trio) = Trio::shared("forged identities") else { return };
    let good = authorization(&trio.reads.token);
    let mut lines: Vec<String> = Vec::new();
    for name in IDENTITY.iter().chain(&["x-protem-admin", "x-protem-"]) {
        let title = name.split('-').map(|part| {
            let (first, rest) = part.split_at(part.len().min(1));
            first.to_ascii_uppercase() + rest
        });
        let title = title.collect::<Vec<_>>().join("-");
        for spelled in [
            (*name).to_owned(),
            title,
            name.to_ascii_uppercase(),
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
            format!("{name} "),
            format!(" {name}"),
        ] {
            lines.push(format!("{spelled}: admin"));
            lines.push(format!("{spelled}:"));
        }
    }
    trio.each(|stage| {
        let mut passed = 0;
        for line in &lines {
            let ask = request("GET /v1/orders", &[&good, line.as_bytes(), LAST]);
            passed += usize::from(refused_or_true(&trio, stage, &ask));
            let ask = request("GET /v1/orders", &[line.as_bytes(), &good, line.as_bytes(), LAST]);
            refused_or_true(&trio, stage, &ask);
            // A forged word is no credential.
            refused(stage, &request("GET /v1/orders", &[line.as_bytes(), LAST]));
        }
        println!(
            "{:?}: {passed} of {} forged headers were let through, replaced",
            stage.kind,
            lines.len()
        );
    });
}

/// Row 48: no hop drops what the gate says because the caller told it to.
#[test]
fn attack_connection_strips_identity() {
    let Some(trio) = Trio::shared("headers that a hop should drop") else { return };
    let good = authorization(&trio.reads.token);
    let mut lines: Vec<Vec<String>> = Vec::new();
    for name in ["X-Protem-Identity", "x-protem-grant", "X_Protem_Task", "x-protem-scope"] {
        lines.push(vec![format!("Connection: {name}")]);
        lines.push(vec![format!("Connection: close, {name}")]);
        lines.push(vec![format!("connection: close,{name},keep-alive")]);
        lines.push(vec!["Connection: close".into(), format!("Connection: {name}")]);
        lines.push(vec![format!("Connection: close\t, {name}")]);
        lines.push(vec!["Connection: close".into(), format!("Proxy-Connection: {name}")]);
        lines.push(vec![format!("Keep-Alive: {name}"), format!("Connection: Keep-Alive, {name}")]);
    }
    trio.each(|stage| {
        for some in &lines {
            let mut all: Vec<&[u8]> = vec![&good];
            all.extend(some.iter().map(String::as_bytes));
            refused_or_true(&trio, stage, &request("GET /v1/orders", &all));
        }
        // What names the credential, or what was called, opens nothing either.
        for name in [
            "Authorization",
            "X-Original-URI",
            "x-original-method",
            "X-Forwarded-Uri",
            "x-forwarded-method",
            "Host",
        ] {
            let line = format!("Connection: close, {name}");
            for token in [&trio.revoked.token, "a.b.c"] {
                let token = authorization(token);
                refused(stage, &request("GET /v1/orders", &[&token, line.as_bytes()]));
            }
            let ask = request("DELETE /v1/orders/7", &[&good, line.as_bytes()]);
            refused(stage, &ask);
        }
    });
}

/// Row 49: what was called is what the proxy says, never what the caller says was called.
#[test]
fn attack_forwarded_uri_spoof() {
    let Some(trio) = Trio::shared("forged targets") else { return };
    let good = authorization(&trio.reads.token);
    let mut lies: Vec<Vec<String>> = vec![
        vec!["X-HTTP-Method-Override: GET".into()],
        vec!["X-HTTP-Method: GET".into(), "X-Method-Override: GET".into()],
        vec!["X-Rewrite-URL: /v1/orders".into(), "X-Envoy-Original-Path: /v1/orders".into()],
        vec!["X-Envoy-Original-Method: GET".into()],
        vec!["Forwarded: for=127.0.0.1;proto=http;path=/v1/orders".into()],
    ];
    for name in
        ["X-Forwarded", "X-Original", "x-forwarded", "X_Forwarded", "X_Original", "X.Original"]
    {
        let sign = if name.contains('_') { '_' } else { '-' };
        let (method, uri) =
            (format!("{name}{sign}Method: GET"), format!("{name}{sign}Uri: /v1/orders"));
        lies.push(vec![uri.clone()]);
        lies.push(vec![method.clone()]);
        lies.push(vec![method.clone(), uri.clone()]);
        lies.push(vec![method.clone(), uri.clone(), method, uri]);
    }
    trio.each(|stage| {
        for lie in &lies {
            let mut lines: Vec<&[u8]> = vec![&good];
            lines.extend(lie.iter().map(String::as_bytes));
            lines.push(LAST);
            for first in
                ["DELETE /v1/orders/7", "GET /v1/secrets", "GET /v1/orders/7/../../secrets"]
            {
                refused(stage, &request(first, &lines));
            }
            // Beside the truth they are no way in for somebody without a credential.
            refused(stage, &request("GET /v1/orders", &lines[1..]));
        }
    });
}

/// Row 51: nobody is let through for looking like a probe.
#[test]
fn attack_probe_bypass() {
    let Some(trio) = Trio::shared("callers that look like probes") else { return };
    let agents =
        ["kube-probe/1.31", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Envoy/HC", "Prometheus/3.0"];
    trio.each(|stage| {
        for agent in agents {
            let agent = format!("User-Agent: {agent}");
            for first in [
                "GET /v1/orders",
                "HEAD /v1/orders",
                "OPTIONS /v1/orders",
                "TRACE /v1/orders",
                "GET /",
                "GET /healthz",
                "GET /livez",
                "GET /readyz",
                "GET /ping",
                "GET /metrics",
                "GET /_authz",
                "GET /authz/orders-api",
                "CONNECT shop.example:443",
                "PRI *",
                "get /v1/orders",
            ] {
                let lines: [&[u8]; 4] = [
                    agent.as_bytes(),
                    b"X-Forwarded-For: 127.0.0.1",
                    b"X-Real-IP: 127.0.0.1",
                    LAST,
                ];
                refused(stage, &request(first, &lines));
            }
        }
        // Go's server, which Caddy is, answers this one itself.
        let (_, seen) = tried(stage, &request("OPTIONS *", &[LAST]));
        assert!(seen.is_empty(), "{seen:?}");
        let good = authorization(&trio.reads.token);
        for first in [
            "HEAD /v1/orders",
            "OPTIONS /v1/orders",
            "TRACE /v1/orders",
            "GET /healthz",
            "GET /_authz",
            "GET /authz/orders-api",
        ] {
            refused(stage, &request(first, &[&good, LAST]));
        }
    });
}
