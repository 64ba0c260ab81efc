//! The secret of an API that cannot check tokens, through each proxy: the gate's counts, the caller's never does.

use crate::process::until;
use crate::proxies::attacks::{LAST, authorization, refused_or_true, request, tried};
use crate::proxies::gate::FIRST_SECRET;
use crate::proxies::proxy::Kind;
use crate::proxies::raw::{Answer, send};
use crate::proxies::stage::{Stage, Trio};

/// What all its secrets begin with.
const CANARY: &str = "canary-";
const CALL: &str = "GET /api/customers/7";

/// Calls with these headers beside the credential; tells the answer, and each secret that reached the API in each call.
fn called(trio: &Trio, stage: &Stage, lines: &[&[u8]]) -> (Answer, Vec<Vec<String>>) {
    let good = authorization(&trio.customers.token);
    let all = [&[good.as_slice()], lines, &[LAST]].concat();
    stage.upstream.taken();
    let answer = send(&stage.proxy.address(), &request(CALL, &all)).unwrap();
    assert!(!format!("{answer:?}").contains(CANARY), "{:?} tells it: {answer:?}", stage.kind);
    let seen = stage.upstream.taken().into_iter().map(|one| {
        assert_eq!(one.target, "/api/customers/7");
        assert_eq!(one.like("authorization"), Vec::<&str>::new(), "{:?}", stage.kind);
        one.like("x-api-key").into_iter().map(str::to_owned).collect()
    });
    (answer, seen.collect())
}

#[test]
fn attack_secret_behind_a_proxy_is_forged_or_dropped() {
    let Some(trio) = Trio::shared("secrets of APIs behind real proxies") else { return };
    let lines: [&[&[u8]]; 9] = [
        &[],
        &[b"X-Api-Key: mine"],
        &[b"x-api-key: mine"],
        &[b"X-Api-Key: mine", b"X-API-KEY: mine too"],
        &[b"X-Api-Key:"],
        &[b"X_Api_Key: mine"],
        &[b"X-Api_Key: mine", b"X-Api-Key: mine"],
        &[b"X.Api.Key: mine"],
        &[b"Connection: close, X-Api-Key", b"X-Api-Key: mine"],
    ];
    trio.each(|stage| {
        let mut passed = Vec::new();
        for some in lines {
            let (answer, seen) = called(&trio, stage, some);
            let said = format!("{:?}: {answer:?} after {some:?}", stage.kind);
            match answer.status {
                200 => assert_eq!(seen, [[FIRST_SECRET]], "{said}"),
                400.. => assert!(seen.is_empty(), "{said}: {seen:?}"),
                _ => panic!("{said}"),
            }
            passed.push(answer.status == 200);
        }
        // A caller's own copy is no reason to refuse: it is replaced.
        assert!(passed[..3].iter().all(|passed| *passed), "{:?}: {passed:?}", stage.kind);
        // What it opens nothing else gets, and nothing else opens it.
        let orders = authorization(&trio.reads.token);
        let ask = request("GET /v1/orders", &[&orders, b"X-Note: a", LAST]);
        assert!(refused_or_true(&trio, stage, &ask));
        let ask = request(CALL, &[&orders, b"X-Api-Key: mine", LAST]);
        let (status, seen) = tried(stage, &ask);
        assert!(status == 401 && seen.is_empty(), "{:?}: {status}, {seen:?}", stage.kind);
        let customers = authorization(&trio.customers.token);
        for first in ["GET /v1/orders", "GET /api/customers/", "GET /api/customers/../../v1/orders"]
        {
            let (_, seen) = tried(stage, &request(first, &[&customers, LAST]));
            assert!(seen.is_empty(), "{:?}: {first}: {seen:?}", stage.kind);
        }
    });
}

#[test]
fn a_secret_is_rotated_behind_each_proxy_without_a_restart_and_a_lost_one_closes() {
    let Some(trio) = Trio::shared("secrets that change behind real proxies") else { return };
    trio.each(|stage| {
        let is = |secret: &str| called(&trio, stage, &[]).1 == [[secret.to_owned()]];
        assert!(is(FIRST_SECRET), "{:?}", stage.kind);
        stage.gate.put_secret("canary-second");
        until("the new secret is sent", || is("canary-second"));
        stage.gate.lose_secret();
        until("without its secret it is closed", || called(&trio, stage, &[]).0.status == 503);
        for lines in [&[][..], &[&b"X-Api-Key: mine"[..]]] {
            let (answer, seen) = called(&trio, stage, lines);
            assert!(answer.status == 503 && seen.is_empty(), "{answer:?}, {seen:?}");
            assert!(answer.body.contains("PT-0424"), "{:?}: {answer:?}", stage.kind);
            assert_eq!(answer.header("retry-after"), Some("1"), "{:?}", stage.kind);
        }
        // Other APIs need no secret.
        let orders = authorization(&trio.reads.token);
        assert!(refused_or_true(&trio, stage, &request("GET /v1/orders", &[&orders, LAST])));
        stage.gate.put_secret(FIRST_SECRET);
        until("it is open again", || is(FIRST_SECRET));
        assert!(!stage.gate.log().contains(CANARY), "{:?}", stage.kind);
        assert!(!stage.proxy.log().contains(CANARY) || stage.kind == Kind::Envoy);
    });
}
