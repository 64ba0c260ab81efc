//! One table of what happens to a caller, against nginx, Caddy and Envoy: each case with its exact status, and each closed where it must be.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::{Broker, until};
use crate::proxies::bundle::{BRIEF, CRM, FLEETING, OPERATOR, ORDERS, STEADY};
use crate::proxies::grpc::{Said, call};
use crate::proxies::prober::Prober;
use crate::proxies::proxy::Kind;
use crate::proxies::raw::{Answer, get, send};
use crate::proxies::site::{Credential, Revoker, credential, patient_broker};
use crate::proxies::stage::{CLOSE, LIST, Stage};
use crate::proxies::tools::tools;

/// What to type for what the case lacks.
const REQUEST: &str = "protem request --on orders-api --scope orders:write";

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
    let mut broker = patient_broker();
    let mut stage = Stage::start(kind, &tools, &broker);
    let fleeting = credential(&broker, FLEETING, ORDERS, "orders:read");
    check(&stage, "allowed", stage.read(&fleeting.token));
    let steady = credential(&broker, STEADY, ORDERS, "orders:read");
    callers(&stage, &broker, &steady);
    let revoked = ends(&stage, &broker, &steady);
    rotates(&stage, &broker, &steady);
    let brief = credential(&broker, BRIEF, ORDERS, "orders:read");
    grpc(&stage, &broker, &steady, &revoked);
    gate_goes(&mut stage, &steady, &revoked);
    broker_goes(&stage, &mut broker, &brief, &steady, &revoked);
    until("it expires", || stage.status(&fleeting.token) == Some(401));
    stage.upstream.taken();
    let answer = both(&stage, "expired", &fleeting.token);
    assert!(challenge(&answer).contains("PT-0407"));
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

/// The same over HTTP and over gRPC.
#[track_caller]
fn both(stage: &Stage, case: &str, token: &str) -> Answer {
    let answer = check(stage, case, stage.read(token));
    check_grpc(stage, case, stage.list(token));
    answer
}

/// Fails unless gRPC's caller is told the case's status in gRPC's way, and the API saw the call just when it was let through.
#[track_caller]
fn check_grpc(stage: &Stage, case: &str, said: Result<Said, String>) -> Said {
    let said = said.unwrap();
    let expect = expected(case, stage.kind);
    let words = match expect {
        200 => 0,
        401 => 16,
        403 => 7,
        503 | 502 => 14,
        other => panic!("{other}"),
    };
    // Envoy speaks gRPC to who speaks it, nginx HTTP as well, and Caddy HTTP alone, which gRPC's callers read as the same.
    let expect = match (stage.kind, expect) {
        (Kind::Envoy, _) | (_, 200) => (200, Some(words)),
        (Kind::Nginx, http) => (http, Some(words)),
        (Kind::Caddy, http) => (http, None),
    };
    assert_eq!((said.http, said.grpc), expect, "{case} at {:?}: {said:?}", stage.kind);
    let arrived = stage.grpc.taken().len();
    assert_eq!(arrived, usize::from(words == 0), "{case} at {:?}: {said:?}", stage.kind);
    said
}

/// What a refusal's body says.
fn body(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|why| panic!("{why}: {answer:?}"))
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
    assert_eq!(
        (&body(&answer)["error"], &body(&answer)["code"]),
        (&json!("no_credential"), &json!("PT-0401"))
    );
    let answer = both(stage, "no token", "not.a.token");
    assert_eq!(body(&answer)["error"], "invalid_token", "{answer:?}");
    let crm = credential(broker, STEADY, CRM, "crm:read");
    let answer = both(stage, "wrong audience", &crm.token);
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
        let (challenge, body) = (challenge(&answer), body(&answer));
        assert!(challenge.starts_with(r#"Bearer error="insufficient_scope""#), "{answer:?}");
        assert_eq!(body["error"], "insufficient_scope", "{answer:?}");
        assert!(challenge.contains(body["code"].as_str().unwrap()), "{answer:?}");
        let missing = case == "wrong operation";
        assert_eq!(challenge.contains(r#"scope="orders:write""#), missing, "{answer:?}");
        let request = body["request"].as_str().unwrap_or_default();
        assert_eq!(request, if missing { REQUEST } else { "" }, "{answer:?}");
    }
}

/// A revocation holds; another credential of the same identity goes on.
fn ends(stage: &Stage, broker: &Broker, steady: &Credential) -> Credential {
    let revoked = credential(broker, STEADY, ORDERS, "orders:read");
    both(stage, "allowed", &revoked.token);
    Revoker::of(broker).grant(&revoked);
    until("the revocation is known", || stage.status(&revoked.token) == Some(401));
    stage.upstream.taken();
    let answer = both(stage, "revoked", &revoked.token);
    assert!(challenge(&answer).contains("PT-0410"), "{answer:?}");
    both(stage, "allowed", &steady.token);
    revoked
}

fn kid(token: &str) -> String {
    let head = data_encoding::BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes());
    let head: Value = serde_json::from_slice(&head.unwrap()).unwrap();
    head["kid"].as_str().unwrap().to_owned()
}

/// A key goes while calls come: none of them is refused, whichever key signed its credential.
fn rotates(stage: &Stage, broker: &Broker, steady: &Credential) {
    let (address, bearer) = (stage.proxy.address(), format!("Bearer {}", steady.token));
    let calls = Prober::start(move || {
        let headers = [("Authorization", bearer.as_str()), CLOSE];
        get(&address, "/v1/orders", &headers).ok().map(|answer| answer.status)
    });
    let (address, bearer) = (stage.proxy.grpc(), format!("Bearer {}", steady.token));
    let lists = Prober::start(move || {
        let said = call(&address, LIST, &[("authorization", &bearer)]).ok()?;
        Some(if said.grpc == Some(0) { 200 } else { said.http.max(400) })
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
    for calls in [calls, lists] {
        calls.passes("calls go on", Instant::now(), 3);
        let refused: Vec<_> = calls.asked().into_iter().filter(|one| !one.passed()).collect();
        assert!(refused.is_empty(), "{:?}: {refused:?}", stage.kind);
    }
    stage.upstream.taken();
    stage.grpc.taken();
    both(stage, "key rotated", &steady.token);
    both(stage, "key rotated", &young.token);
}

/// gRPC callers are told what HTTP's are, as far as gRPC can say it.
fn grpc(stage: &Stage, broker: &Broker, steady: &Credential, revoked: &Credential) {
    let bearer = |token: &str| format!("Bearer {token}");
    let (good, gone) = (bearer(&steady.token), bearer(&revoked.token));
    let crm = bearer(&credential(broker, STEADY, CRM, "crm:read").token);
    let said = stage.list(&steady.token).unwrap();
    let seen = stage.grpc.taken();
    let [arrived] = &seen[..] else { panic!("{said:?}: {seen:?}") };
    assert_eq!(arrived.path, LIST);
    assert_eq!(arrived.headers["x-protem-identity"], STEADY);
    assert!(!arrived.headers.contains_key("authorization"), "{arrived:?}");
    for (case, path, bearer, code) in [
        ("missing", LIST, None, "PT-0401"),
        ("revoked", LIST, Some(&gone), "PT-0410"),
        ("wrong audience", LIST, Some(&crm), "PT-0406"),
        ("wrong operation", "/shop.v1.Orders/Delete", Some(&good), "PT-0413"),
        ("unmapped operation", "/shop.v1.Orders/Drop", Some(&good), "PT-0414"),
    ] {
        let headers: Vec<_> = bearer.iter().map(|it| ("authorization", it.as_str())).collect();
        let said = check_grpc(stage, case, call(&stage.proxy.grpc(), path, &headers));
        let reason = if stage.kind == Kind::Caddy { &said.body } else { &said.message };
        assert!(reason.contains(code), "{case} at {:?}: {said:?}", stage.kind);
        assert_eq!(reason.contains(REQUEST), case == "wrong operation", "{said:?}");
        let bare = reason.contains("invalid_token") || said.challenge.contains("invalid_token");
        assert!(case != "missing" || (said.challenge == "Bearer" && !bare), "{said:?}");
        let scope = said.challenge.contains(r#"scope="orders:write""#);
        assert_eq!(scope, case == "wrong operation", "{case} at {:?}: {said:?}", stage.kind);
    }
    assert!(stage.upstream.taken().is_empty());
}

/// Without its gate a proxy lets nobody through; the gate comes back knowing nothing, and what was revoked stays so.
fn gate_goes(stage: &mut Stage, steady: &Credential, revoked: &Credential) {
    stage.gate.kill();
    both(stage, "gate down", &steady.token);
    both(stage, "gate down", &revoked.token);
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
    both(stage, "gate restarted", &steady.token);
    both(stage, "revoked", &revoked.token);
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
    both(stage, "stale", &brief.token);
    broker.signal(Signal::CONT);
    until("the view is proven again", || stage.status(&brief.token) == Some(200));
    // One that may be accepted for a minute, by a view that was proven a moment ago.
    broker.kill();
    stage.upstream.taken();
    both(stage, "broker down, view fresh", &steady.token);
    both(stage, "revoked", &revoked.token);
    until("the view is too old", || stage.status(&brief.token) == Some(503));
    stage.upstream.taken();
    both(stage, "stale", &brief.token);
    broker.start();
    until("the gate follows again", || stage.status(&brief.token) == Some(200));
    until("for gRPC as well", || stage.list(&brief.token).is_ok_and(|said| said.grpc == Some(0)));
    stage.upstream.taken();
    stage.grpc.taken();
    both(stage, "broker restarted", &steady.token);
    both(stage, "revoked", &revoked.token);
}
