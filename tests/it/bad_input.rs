//! Bad input changes nothing: each case has a stable code and a remedy, and the journal's head stays where it was.

use prost_types::{Duration, Timestamp};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::broker::{TestBroker, ask, fresh_task, reason};
use crate::callers::call;

#[track_caller]
fn check(status: &Status, code: Code, expect: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, expect), "{status:?}");
    let details = status.get_error_details();
    assert!(details.help().is_some_and(|help| !help.links.is_empty()), "no remedy in {status:?}");
    if code == Code::InvalidArgument && expect != "PT-0203" && expect != "PT-0204" {
        assert!(details.bad_request().is_some(), "no field in {status:?}");
    }
}

fn spoilt(spoil: impl FnOnce(&mut v1::RequestAccessRequest)) -> v1::RequestAccessRequest {
    let mut request = ask(&fresh_task());
    spoil(&mut request);
    request
}

fn cases() -> Vec<(v1::RequestAccessRequest, &'static str)> {
    let task = |id: &str, kind: &str, url: &str| {
        Some(v1::Task { id: id.into(), kind: kind.into(), url: url.into() })
    };
    vec![
        (spoilt(|r| r.task = None), "PT-0201"),
        (spoilt(|r| r.task = task("", "agent", "")), "PT-0201"),
        (spoilt(|r| r.task = task(&"x".repeat(201), "agent", "")), "PT-0201"),
        (spoilt(|r| r.task = task("a b", "agent", "")), "PT-0201"),
        (spoilt(|r| r.task = task("a", "Agent!", "")), "PT-0201"),
        (spoilt(|r| r.task = task("a", "agent", "javascript:alert(1)")), "PT-0201"),
        (spoilt(|r| r.resource = String::new()), "PT-0201"),
        (spoilt(|r| r.resource = "Orders API".into()), "PT-0201"),
        (spoilt(|r| r.resource = "orders-apx".into()), "PT-0202"),
        (spoilt(|r| r.scopes.clear()), "PT-0201"),
        (spoilt(|r| r.scopes = vec![String::new()]), "PT-0201"),
        (spoilt(|r| r.scopes = vec!["*".into()]), "PT-0201"),
        (spoilt(|r| r.scopes = vec!["orders:raed".into()]), "PT-0202"),
        (spoilt(|r| r.scopes = vec!["orders:read".into(); 33]), "PT-0201"),
        (spoilt(|r| r.purpose = "x".repeat(1_025)), "PT-0201"),
        (spoilt(|r| r.purpose = "a\u{202e}b".into()), "PT-0201"),
        (spoilt(|r| r.purpose = "\u{1b}[31m".into()), "PT-0201"),
        (spoilt(|r| r.request_id = "7".into()), "PT-0201"),
        (spoilt(|r| r.request_id = "01939b2e-7c00-4abc-8def-0123456789ab".into()), "PT-0201"),
        // A UUIDv7 of 2024: its first use may be forgotten.
        (spoilt(|r| r.request_id = "01939b2e-7c00-7abc-8def-0123456789ab".into()), "PT-0107"),
        (spoilt(|r| r.request_id = "ffffffff-ffff-7abc-8def-0123456789ab".into()), "PT-0108"),
        (spoilt(|r| r.proof_key = Some(v1::ProofKey { kind: None })), "PT-0210"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_change_nothing() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let head = broker.head();
    for (request, expect) in cases() {
        let said = format!("{request:?}");
        let status = agent.access.request_access(request).await.expect_err(&said);
        check(&status, Code::InvalidArgument, expect);
    }
    let status =
        agent.access.request_access(spoilt(|r| r.scopes = vec!["orders:raed".into()])).await;
    assert!(status.unwrap_err().message().contains("did you mean `orders:read`"));
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}

/// What is no message of its kind is refused by the same name wherever it comes: of a call with one message, and as the first
/// of a stream.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_change_nothing() {
    let broker = TestBroker::start().await;
    let agent = broker.identity_token("payments/agent");
    let gateway = broker.sign(&broker.claims("edge-eu-1", "gateway", &[]));
    let head = broker.head();
    // A string that is no UTF-8, in the message's first field or in that one's first.
    let (plain, nested): (&[u8], &[u8]) = (&[0x0a, 1, 0xff], &[0x0a, 3, 0x0a, 1, 0xff]);
    for (path, token, no_text) in [
        ("/protem.v1.AccessService/RequestAccess", &agent, nested),
        ("/protem.v1.AccessService/HoldTask", &agent, plain),
        ("/protem.v1.RevocationService/Subscribe", &gateway, nested),
    ] {
        // A varint that does not end, and a number where there is text or a message.
        for body in [no_text, &[0x0a, 0x80], &[0x08, 1]] {
            let status = call(&broker, path, Some(token.clone()), body).await;
            let found = (status.code(), reason(&status));
            let expected = (Code::InvalidArgument, "PT-0204".to_owned());
            assert_eq!(found, expected, "{path} {body:?} {status:?}");
            check(&status, Code::InvalidArgument, "PT-0204");
        }
    }
    assert_eq!(broker.head(), head, "nothing changed");
    // And nobody is worse off for it.
    broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    broker.stop().await;
}

/// Row 18.
#[tokio::test(flavor = "multi_thread")]
async fn attack_ttl_negative_zero_max_overflow() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let head = broker.head();
    for (seconds, nanos) in [
        (0, 0),
        (-1, 0),
        (0, -1),
        (1, 0),
        (9, 999_999_999),
        (43_200, 1),
        (43_201, 0),
        (60, -1),
        (-60, 1),
        (60, 1_000_000_000),
        (60, i32::MAX),
        (i64::MAX, i32::MAX),
        (i64::MIN, i32::MIN),
        (u32::MAX.into(), 0),
    ] {
        let lifetime = Some(Duration { seconds, nanos });
        let status = agent.access.request_access(spoilt(|r| r.lifetime = lifetime)).await;
        check(&status.unwrap_err(), Code::InvalidArgument, "PT-0201");
    }
    assert_eq!(broker.head(), head, "nothing changed");
    // The longest that may be asked for is cut to what scope, tier and policy allow: never wrapped, never endless.
    let most = Some(Duration { seconds: 43_200, nanos: 0 });
    let granted = agent.access.request_access(spoilt(|r| r.lifetime = most)).await.unwrap();
    let grant = granted.into_inner().grant.unwrap();
    let (from, until) = (grant.active_from.unwrap(), grant.active_until.unwrap());
    assert!((10..=3_601).contains(&(until.seconds - from.seconds)), "{from:?} {until:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ends_change_nothing() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let mut operator = broker.operator();
    let head = broker.head();
    for (task_id, wait) in [("", 0), ("a b", 0), ("known", -1)] {
        let wait = Some(Duration { seconds: wait, nanos: 0 });
        let request =
            v1::CompleteTaskRequest { task_id: task_id.into(), wait, ..Default::default() };
        check(
            &agent.access.complete_task(request).await.unwrap_err(),
            Code::InvalidArgument,
            "PT-0201",
        );
    }
    check(&agent.complete("never-opened").await.unwrap_err(), Code::NotFound, "PT-0104");
    for (by, code, expect) in [
        (By::Grant("x".into()), Code::InvalidArgument, "PT-0201"),
        (By::Grant("gr_00000000000000000000000000".into()), Code::NotFound, "PT-0105"),
        (By::Identity("Payments".into()), Code::InvalidArgument, "PT-0201"),
        (By::Task("no-hash".into()), Code::InvalidArgument, "PT-0201"),
        (By::Resource("orders-apo".into()), Code::InvalidArgument, "PT-0202"),
        (By::Scope("orders-api#orders:raed".into()), Code::InvalidArgument, "PT-0202"),
        (By::Owner("group:nobody".into()), Code::InvalidArgument, "PT-0202"),
        (By::Everything(false), Code::InvalidArgument, "PT-0201"),
    ] {
        check(&operator.revoke(by).await.unwrap_err(), code, expect);
    }
    let silent = v1::RevokeRequest {
        selector: Some(v1::Selector { by: Some(By::Everything(true)) }),
        ..Default::default()
    };
    check(&operator.governance.revoke(silent).await.unwrap_err(), Code::InvalidArgument, "PT-0201");
    let list = v1::ListGrantsRequest { page_token: "' OR 1=1".into(), ..Default::default() };
    check(
        &operator.governance.list_grants(list).await.unwrap_err(),
        Code::InvalidArgument,
        "PT-0201",
    );
    let before = Some(Timestamp { seconds: -1, nanos: 0 });
    let list = v1::ListGrantsRequest { since: before, ..Default::default() };
    check(
        &operator.governance.list_grants(list).await.unwrap_err(),
        Code::InvalidArgument,
        "PT-0201",
    );
    let list = v1::ListGrantsRequest { page_size: 1_001, ..Default::default() };
    check(
        &operator.governance.list_grants(list).await.unwrap_err(),
        Code::InvalidArgument,
        "PT-0201",
    );
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_messages_are_refused_and_bundles_may_be_larger() {
    let broker = TestBroker::start().await;
    let head = broker.head();
    let large = spoilt(|r| r.purpose = "x".repeat(70_000));
    let status = broker.identity("payments/agent").access.request_access(large).await.unwrap_err();
    check(&status, Code::InvalidArgument, "PT-0203");
    // Beyond 64 KiB a bundle is read, and then refused for what it says.
    let files = [("catalog.toml".to_owned(), vec![b'#'; 1_000_000])].into();
    let apply = v1::ApplyBundleRequest { files, dry_run: true, ..Default::default() };
    let answer = broker.operator().bundles.apply_bundle(apply.clone()).await.unwrap().into_inner();
    assert!(answer.digest.is_empty() && !answer.findings.is_empty());
    let status = broker.identity("payments/agent").bundles.apply_bundle(apply).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}
