//! Approvals over the wire: what people see, what they decide, and what the waiting workload gets.

use std::time::Duration;

use protem_proto::wire::v1;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::broker::{Clients, TestBroker, ask, fresh_task, reason};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

fn refund(task: &str) -> v1::RequestAccessRequest {
    let scopes = vec!["orders:refund".into()];
    v1::RequestAccessRequest { scopes, purpose: "INC-42".into(), ..ask(task) }
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
    next.unwrap().expect("one more")
}

async fn decide(by: &mut Clients, wish: v1::DecideRequest) -> Result<v1::Grant, Status> {
    by.approvals.decide(wish).await.map(|answer| answer.into_inner().grant.unwrap())
}

/// What contradicts itself, or names nothing that was seen, is no decision.
async fn contradictions_are_refused(by: &mut Clients, yes: &v1::DecideRequest) {
    for bad in [
        v1::DecideRequest { digest: String::new(), ..yes.clone() },
        v1::DecideRequest { undo: true, ..yes.clone() },
        v1::DecideRequest { approve: false, ..yes.clone() },
        v1::DecideRequest {
            approve: false,
            reason: "no".into(),
            scopes: vec!["orders:refund".into()],
            ..yes.clone()
        },
    ] {
        let status = decide(by, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_waits_decides_it_and_the_job_goes_on() {
    let broker = TestBroker::start().await;
    let mut ann = broker.person("ann", &["shop-oncall"]);
    let watch = v1::WatchPendingRequest { mine_only: true };
    let mut pending = ann.approvals.watch_pending(watch).await.unwrap().into_inner();
    assert!(next(&mut pending).await.caught_up, "nothing waits");
    let mut agent = broker.identity("payments/agent");
    let asked = agent.access.request_access(refund(&fresh_task())).await.unwrap().into_inner();
    let grant = asked.grant.unwrap();
    assert!(asked.credential.is_none());
    let watch = v1::WatchGrantRequest { grant_id: grant.id.clone() };
    let mut watched = agent.access.watch_grant(watch).await.unwrap().into_inner();
    assert_eq!(next(&mut watched).await.grant.unwrap().state(), v1::GrantState::Pending);
    let shown = next(&mut pending).await.pending.unwrap();
    assert!(shown.may_decide && !shown.approved_by_me, "{shown:?}");
    assert_eq!((shown.risk.as_str(), shown.trust_tier.as_str()), ("high", "internal"));
    assert_eq!(shown.owner_business, "group:payments-leads");
    assert_eq!(shown.scopes[0].name, "orders:refund");
    assert!(shown.operations.contains(&"POST /v1/orders/{id}/refund".to_owned()));
    assert!(
        shown.findings.iter().any(|finding| finding.starts_with("new-resource: ")),
        "{shown:?}"
    );
    let seen = shown.grant.unwrap();
    assert_eq!((seen.id.as_str(), seen.purpose.as_str()), (grant.id.as_str(), "INC-42"));
    let yes = v1::DecideRequest {
        grant_id: seen.id.clone(),
        digest: seen.digest.clone(),
        approve: true,
        ..Default::default()
    };
    contradictions_are_refused(&mut ann, &yes).await;
    let stale = v1::DecideRequest { digest: "00".repeat(32), ..yes.clone() };
    let status = decide(&mut ann, stale).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let active = decide(&mut ann, yes.clone()).await.unwrap();
    assert_eq!(active.state(), v1::GrantState::Active);
    assert_eq!(active.approvals[0].approver, "ann");
    // The last approval and what it brings are one change, so that no client waits for a second.
    let change = next(&mut watched).await;
    assert_eq!(change.grant.unwrap().state(), v1::GrantState::Active);
    let got = change.credential.expect("with the change that brings it");
    assert!(!got.token.is_empty());
    assert_eq!(next(&mut pending).await.settled, grant.id);
    let status = decide(&mut ann, yes).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "it is decided: {status:?}");
    // The next one tells what was decided before.
    let asked = agent.access.request_access(refund(&fresh_task())).await.unwrap().into_inner();
    let listed = ann.approvals.list_pending(v1::ListPendingRequest::default()).await.unwrap();
    let listed = listed.into_inner().pending;
    assert_eq!((listed.len(), listed[0].similar_granted, listed[0].similar_denied), (1, 1, 0));
    assert!(listed[0].findings.is_empty(), "{listed:?}");
    let seen = asked.grant.unwrap();
    let no = v1::DecideRequest {
        grant_id: seen.id.clone(),
        digest: seen.digest,
        reason: "wrong ticket".into(),
        ..Default::default()
    };
    let denied = decide(&mut ann, no).await.unwrap();
    assert_eq!(
        (denied.end_reason(), denied.end_note.as_str()),
        (v1::EndReason::Denied, "wrong ticket")
    );
    broker.stop().await;
}

/// Row 26: whatever way a decision comes in, it is one call, and it asks who decides.
#[tokio::test(flavor = "multi_thread")]
async fn attack_self_approve_by_every_entry_point() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let asked = agent.access.request_access(refund(&fresh_task())).await.unwrap().into_inner();
    let grant = asked.grant.unwrap();
    let head = broker.head();
    let wish = |approve, undo| v1::DecideRequest {
        grant_id: grant.id.clone(),
        digest: grant.digest.clone(),
        approve,
        undo,
        reason: "mine".into(),
        ..Default::default()
    };
    for (mut who, code) in [
        (agent.clone(), Code::PermissionDenied),
        (broker.identity("shop/checkout"), Code::PermissionDenied),
        (broker.gateway("edge-eu-1"), Code::PermissionDenied),
        (broker.person("otto", &["shop-oncall", "payments-leads"]), Code::PermissionDenied),
        (broker.person("olga", &["operators"]), Code::PermissionDenied),
        (broker.person("sid", &[]), Code::NotFound),
    ] {
        for (approve, undo) in [(true, false), (false, false)] {
            let status = decide(&mut who, wish(approve, undo)).await.unwrap_err();
            assert_eq!(status.code(), code, "{status:?}");
            assert!(!reason(&status).is_empty());
        }
        assert!(decide(&mut who, wish(false, true)).await.is_err());
    }
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}

/// Every page of what somebody may know of.
async fn pages(by: &mut Clients, asked: &v1::ListPendingRequest) -> Vec<Vec<String>> {
    let (mut all, mut asked) = (Vec::new(), asked.clone());
    loop {
        let page = by.approvals.list_pending(asked.clone()).await.unwrap().into_inner();
        all.push(page.pending.into_iter().map(|one| one.grant.unwrap().id).collect());
        asked.page_token = page.next_page_token;
        if asked.page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_listed_page_by_page_or_by_its_id() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let mut ids = Vec::new();
    for _ in 0..4 {
        let asked = agent.access.request_access(refund(&fresh_task())).await.unwrap().into_inner();
        ids.push(asked.grant.unwrap().id);
    }
    let ann = broker.person("ann", &["shop-oncall"]);
    let olga = broker.person("olga", &["operators"]);
    let sid = broker.person("sid", &[]);
    let blank = || v1::ListPendingRequest { page_size: 3, ..Default::default() };
    let mine = || v1::ListPendingRequest { mine_only: true, ..blank() };
    let others = || v1::ListPendingRequest { others_only: true, ..blank() };
    let all = || vec![ids[..3].to_vec(), ids[3..].to_vec()];
    let none = || vec![Vec::new()];
    for (mut who, asked, expect) in [
        (ann.clone(), blank(), all()),
        (ann.clone(), mine(), all()),
        (ann.clone(), others(), none()),
        (ann.clone(), v1::ListPendingRequest { page_size: 4, ..mine() }, vec![ids.clone()]),
        (olga.clone(), blank(), all()),
        (olga.clone(), mine(), none()),
        (olga.clone(), others(), all()),
        (sid.clone(), blank(), none()),
    ] {
        assert_eq!(pages(&mut who, &asked).await, expect, "{asked:?}");
    }
    let named =
        |page: v1::ListPendingRequest| v1::ListPendingRequest { grant_id: ids[2].clone(), ..page };
    let one = vec![vec![ids[2].clone()]];
    for (mut who, asked, expect) in [
        (ann.clone(), named(blank()), one.clone()),
        (olga.clone(), named(others()), one),
        (olga.clone(), named(mine()), none()),
        (sid.clone(), named(blank()), none()),
    ] {
        assert_eq!(pages(&mut who, &asked).await, expect, "{asked:?}");
    }
    let both = v1::ListPendingRequest { mine_only: true, ..others() };
    let mut ann = ann;
    let status = ann.approvals.list_pending(both).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    broker.stop().await;
}

/// Whoever took a session over approves no queue at once; and nothing keeps anybody from saying no.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_queue_is_approved_unread() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let asked = agent.access.request_access(refund(&fresh_task())).await.unwrap().into_inner();
    let grant = asked.grant.unwrap();
    let [mut ann, mut again, mut bob] =
        ["ann", "ann", "bob"].map(|name| broker.person(name, &["shop-oncall"]));
    let blind = v1::DecideRequest {
        grant_id: grant.id.clone(),
        digest: "0".repeat(64),
        approve: true,
        ..v1::DecideRequest::default()
    };
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut given = 0;
    let status = loop {
        let status = decide(&mut ann, blind.clone()).await.unwrap_err();
        if reason(&status) != "PT-0117" {
            break status;
        }
        given += 1;
        assert!(tokio::time::Instant::now() < end, "{given} approvals and no end of them");
    };
    assert!(given >= 30, "{given}");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0215"));
    assert!(status.get_error_details().retry_info().is_some());
    // It is the person who is counted, not the connection; somebody else is not.
    let (mut more, mut refused) = (0, false);
    while !refused && more < 20 {
        let other = decide(&mut again, blind.clone()).await.unwrap_err();
        refused = reason(&other) == "PT-0215";
        more += 1;
    }
    assert!(refused, "another connection has {more} approvals of its own");
    assert_eq!(reason(&decide(&mut bob, blind.clone()).await.unwrap_err()), "PT-0117");
    let no = v1::DecideRequest {
        approve: false,
        reason: "not like this".into(),
        digest: grant.digest,
        ..blind
    };
    assert_eq!(decide(&mut ann, no).await.unwrap().state(), v1::GrantState::Ended);
    broker.stop().await;
}
