//! One table of what happens to a caller, against nginx, Caddy and Envoy: each case with its exact status, and each closed where it must be.

use std::time::Instant;

use rustix::process::Signal;

use crate::process::{Broker, until};
use crate::proxies::bundle::{BRIEF, CRM, FLEETING, OPERATOR, ORDERS, STEADY};
use crate::proxies::grpc::{Said, call};
use crate::proxies::prober::Prober;
use crate::proxies::proxy::Kind;
use crate::proxies::raw::{Answer, get, send};
use crate::proxies::site::{Credential, Revoker, broker, credential};
use crate::proxies::stage::{CLOSE, Stage};
use crate::proxies::tools::tools;

/// What each case is answered with, by nginx, Caddy and Envoy.
const TABLE: &[(&str, [u16; 3])] = &[
    ("allowed", [200, 200, 200]),
    ("missing", [401, 401, 401]),
    ("no token", [401, 401, 401]),
    ("expired", [401, 401, 401]),
    ("revoked", [401, 401, 401]),
    ("wrong audience", [401, 401, 401]),
    ("wrong operation", [403, 403, 403]),
    ("unmapped operation", [403, 403, 403]),
    ("stale", [503, 503, 503]),
    // Nobody to ask: each proxy's own word, and all of them closed.
    ("gate down", [503, 502, 503]),
    ("gate restarted", [200, 200, 200]),
    ("broker down, view fresh", [200, 200, 200]),
    ("broker restarted", [200, 200, 200]),
    ("key rotated", [200, 200, 200]),
];

fn expected(case: &str, kind: Kind) -> u16 {
    let found = TABLE.iter().find(|(name, _)| *name == case);
    let (_, statuses) = found.unwrap_or_else(|| panic!("no case {case}"));
    match kind {
        Kind::Nginx => statuses[0],
        Kind::Caddy => statuses[1],
        Kind::Envoy => statuses[2],
    }
}

#[test]
fn every_case_behind_nginx() {
    every_case(Kind::Nginx);
}

#[test]
fn every_case_behind_caddy() {
    every_case(Kind::Caddy);
}

#[test]
fn every_case_behind_envoy() {
    every_case(Kind::Envoy);
}

fn every_case(kind: Kind) {
    let Some(tools) = tools("gateways behind real proxies") else { return };
    let mut broker = broker(Vec::new());
    let mut stage = Stage::start(kind, &tools, &broker);
    let fleeting = credential(&broker, FLEETING, ORDERS, "orders:read");
    check(&stage, "allowed", stage.read(&fleeting.token));
    let steady = credential(&broker, STEADY, ORDERS, "orders:read");
    callers(&stage, &broker, &steady);
    let revoked = ends(&stage, &broker, &steady);
    rotates(&stage, &broker, &steady);
    let brief = credential(&broker, BRIEF, ORDERS, "orders:read");
    if kind != Kind::Caddy {
        grpc(&stage, &broker, &steady, &revoked);
    }
    gate_goes(&mut stage, &steady, &revoked);
    broker_goes(&stage, &mut broker, &brief, &steady, &revoked);
    until("it expires", || stage.status(&fleeting.token) == Some(401));
    stage.upstream.taken();
    let answer = stage.read(&fleeting.token);
    assert!(challenge(&check(&stage, "expired", answer)).contains("PT-0407"));
}

/// Fails unless the answer has the case's status, and the API saw the call just when it was let through.
#[track_caller]
fn check(stage: &Stage, case: &str, answer: std::io::Result<Answer>) -> Answer {
    let answer = answer.unwrap();
    let expect = expected(case, stage.kind);
    assert_eq!(answer.status, expect, "{case} at {:?}: {answer:?}", stage.kind);
    let arrived = stage.upstream.taken().len();
    assert_eq!(arrived, usize::from(expect == 200), "{case} at {:?}: {answer:?}", stage.kind);
    if expect == 503 && case != "gate down" {
        assert_eq!(answer.header("retry-after"), Some("1"), "{case}: {answer:?}");
    }
    answer
}

fn challenge(answer: &Answer) -> String {
    answer.header("www-authenticate").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// Who calls, and with what.
fn callers(stage: &Stage, broker: &Broker, steady: &Credential) {
    let at = stage.proxy.address();
    let bearer = format!("Bearer {}", steady.token);
    let path = "/v1/orders?from=1&q=%2F..";
    let answer = get(&at, path, &[("Authorization", &bearer), ("X-Note", "hello"), CLOSE]);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "orders"), "{answer:?}");
    let seen = stage.upstream.taken();
    let [seen] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", path));
    let expect = [
        ("x-protem-identity", vec![STEADY]),
        ("x-protem-grant", vec![steady.grant.as_str()]),
        ("x-protem-task", vec![steady.task.as_str()]),
        ("x-protem-scope", vec!["orders:read"]),
        ("x-note", vec!["hello"]),
        // The API has no use for it, and what it does not have it cannot lose.
        ("authorization", vec![]),
    ];
    for (name, values) in expect {
        assert_eq!(seen.like(name), values, "{name} at {:?}: {seen:?}", stage.kind);
    }
    let answer = check(stage, "missing", get(&at, "/v1/orders", &[CLOSE]));
    assert_eq!(challenge(&answer), "Bearer");
    check(stage, "no token", stage.read("not.a.token"));
    let crm = credential(broker, STEADY, CRM, "crm:read");
    let answer = check(stage, "wrong audience", stage.read(&crm.token));
    assert!(challenge(&answer).contains(r#"error="invalid_token""#), "{answer:?}");
    for (case, method, path) in [
        ("wrong operation", "DELETE", "/v1/orders/7"),
        ("unmapped operation", "PATCH", "/v1/orders"),
        ("unmapped operation", "GET", "/v1/secrets"),
    ] {
        let ask = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n"
        );
        let answer = check(stage, case, send(&at, ask.as_bytes()));
        if case == "wrong operation" && stage.kind != Kind::Nginx {
            // nginx hands on the challenge of a 401 alone.
            assert!(challenge(&answer).contains(r#"scope="orders:write""#), "{answer:?}");
            assert!(answer.body.contains("protem request"), "{answer:?}");
        }
    }
}

/// A revocation holds; another credential of the same identity goes on.
fn ends(stage: &Stage, broker: &Broker, steady: &Credential) -> Credential {
    let revoked = credential(broker, STEADY, ORDERS, "orders:read");
    check(stage, "allowed", stage.read(&revoked.token));
    Revoker::of(broker).grant(&revoked);
    until("the revocation is known", || stage.status(&revoked.token) == Some(401));
    stage.upstream.taken();
    let answer = check(stage, "revoked", stage.read(&revoked.token));
    assert!(challenge(&answer).contains("PT-0410"), "{answer:?}");
    check(stage, "allowed", stage.read(&steady.token));
    revoked
}

fn kid(token: &str) -> String {
    let head = data_encoding::BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes());
    let head: serde_json::Value = serde_json::from_slice(&head.unwrap()).unwrap();
    head["kid"].as_str().unwrap().to_owned()
}

/// A key goes while calls come: none of them is refused, whichever key signed its credential.
fn rotates(stage: &Stage, broker: &Broker, steady: &Credential) {
    let (address, bearer) = (stage.proxy.address(), format!("Bearer {}", steady.token));
    let calls = Prober::start(move || {
        let headers = [("Authorization", bearer.as_str()), CLOSE];
        get(&address, "/v1/orders", &headers).ok().map(|answer| answer.status)
    });
    broker
        .run(OPERATOR, &["keys", "rotate", "--purpose", "credential", "--note", "a test"])
        .expect(0);
    let mut young = credential(broker, STEADY, ORDERS, "orders:read");
    until("another key signs", || {
        if kid(&young.token) == kid(&steady.token) {
            young = credential(broker, STEADY, ORDERS, "orders:read");
        }
        kid(&young.token) != kid(&steady.token)
    });
    assert_eq!(stage.status(&young.token), Some(200), "the first token of a new key");
    calls.passes("calls go on", Instant::now(), 3);
    let refused: Vec<_> = calls.asked().into_iter().filter(|one| !one.passed()).collect();
    assert!(refused.is_empty(), "{:?}: {refused:?}", stage.kind);
    drop(calls);
    stage.upstream.taken();
    check(stage, "key rotated", stage.read(&steady.token));
    check(stage, "key rotated", stage.read(&young.token));
}

/// gRPC callers get gRPC's answers.
fn grpc(stage: &Stage, broker: &Broker, steady: &Credential, revoked: &Credential) {
    let ask = |path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|it| ("authorization", it.as_str())).collect();
        call(&stage.proxy.grpc(), path, &headers).unwrap()
    };
    let crm = credential(broker, STEADY, CRM, "crm:read");
    let list = "/shop.v1.Orders/List";
    for (case, path, token, expect) in [
        ("allowed", list, Some(&steady.token), 0),
        ("missing", list, None, 16),
        ("revoked", list, Some(&revoked.token), 16),
        ("wrong audience", list, Some(&crm.token), 16),
        ("wrong operation", "/shop.v1.Orders/Delete", Some(&steady.token), 7),
        ("unmapped operation", "/shop.v1.Orders/Drop", Some(&steady.token), 7),
    ] {
        let Said { http, grpc, message } = ask(path, token.map(String::as_str));
        // Envoy speaks gRPC to who speaks it; nginx says it by HTTP, which gRPC's callers read as the same.
        let said = match (stage.kind, expect) {
            (Kind::Nginx, 16) => (401, None),
            (Kind::Nginx, 7) => (403, None),
            _ => (200, Some(expect)),
        };
        assert_eq!((http, grpc), said, "{case} at {:?}: {message}", stage.kind);
        let seen = stage.grpc.taken();
        assert_eq!(seen.len(), usize::from(expect == 0), "{case}: {seen:?}");
        for call in &seen {
            assert_eq!(call.path, list);
            assert_eq!(call.headers["x-protem-identity"], STEADY);
            assert!(!call.headers.contains_key("authorization"), "{call:?}");
        }
    }
    assert!(stage.upstream.taken().is_empty());
}

/// Without its gate a proxy lets nobody through; the gate comes back knowing nothing, and what was revoked stays so.
fn gate_goes(stage: &mut Stage, steady: &Credential, revoked: &Credential) {
    stage.gate.kill();
    check(stage, "gate down", stage.read(&steady.token));
    check(stage, "gate down", stage.read(&revoked.token));
    let (address, bearer) = (stage.proxy.address(), format!("Bearer {}", revoked.token));
    let tries = Prober::start(move || {
        let headers = [("Authorization", bearer.as_str()), CLOSE];
        get(&address, "/v1/orders", &headers).ok().map(|answer| answer.status)
    });
    stage.gate.restart();
    until("it lets the living through again", || stage.status(&steady.token) == Some(200));
    tries.hears("the revoked are answered", Instant::now(), 3);
    let passed = tries.asked().into_iter().filter(|one| one.passed()).count();
    assert_eq!(passed, 0, "revoked, and let through {passed} times by a gate that had just begun");
    drop(tries);
    stage.upstream.taken();
    check(stage, "gate restarted", stage.read(&steady.token));
    check(stage, "revoked", stage.read(&revoked.token));
}

/// A broker that is silent costs nothing while the view is fresh, and everything after.
fn broker_goes(
    stage: &Stage,
    broker: &mut Broker,
    brief: &Credential,
    steady: &Credential,
    revoked: &Credential,
) {
    until("it is well", || stage.status(&brief.token) == Some(200));
    stage.upstream.taken();
    broker.signal(Signal::STOP);
    until("the view is too old", || stage.status(&brief.token) == Some(503));
    stage.upstream.taken();
    check(stage, "stale", stage.read(&brief.token));
    broker.signal(Signal::CONT);
    until("the view is proven again", || stage.status(&brief.token) == Some(200));
    // One that may be accepted for ten seconds, by a view that was proven a moment ago.
    broker.kill();
    stage.upstream.taken();
    check(stage, "broker down, view fresh", stage.read(&steady.token));
    check(stage, "revoked", stage.read(&revoked.token));
    until("the view is too old", || stage.status(&brief.token) == Some(503));
    stage.upstream.taken();
    check(stage, "stale", stage.read(&brief.token));
    broker.start();
    until("the gate follows again", || stage.status(&brief.token) == Some(200));
    stage.upstream.taken();
    check(stage, "broker restarted", stage.read(&brief.token));
    check(stage, "revoked", stage.read(&revoked.token));
}
