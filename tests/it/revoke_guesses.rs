//! What may be ended is told to nobody who asks for it without a right, and nobody tries it out for long.

use std::time::Instant;

use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::broker::{Clients, TestBroker, fresh_task, reason};
use crate::process::PATIENCE;

/// Row 67: selectors of what is there, of what is nearly so, and of what is not.
#[tokio::test(flavor = "multi_thread")]
async fn attack_names_learned_from_refused_ends() {
    let broker = TestBroker::start().await;
    let head = broker.head();
    let owner = |text: &str| By::Owner(text.to_owned());
    for mut caller in [
        broker.identity("shop/checkout"),
        broker.gateway("edge-eu-1"),
        broker.person("mallory", &[]),
        broker.person("anna", &["auditors"]),
    ] {
        let mut answers = Vec::new();
        for by in [
            owner("group:payments-leads"),
            owner("payments-leads"),
            owner("group:payments-lead"),
            owner("person:nobody"),
            By::Resource("orders-api".into()),
            By::Resource("orders-apx".into()),
            By::Scope("orders-api#orders:read".into()),
            By::Scope("orders-api#orders:raed".into()),
            By::Identity("payments/agent".into()),
            By::Identity("payments/agemt".into()),
            By::Everything(true),
        ] {
            let status = caller.revoke(by).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
            answers.push((reason(&status), status.message().to_owned()));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
    // Who may end something, but not see all, learns no name that they do not know.
    for by in [owner("payments-leads"), By::Resource("orders-apx".into())] {
        let status = broker.person("otto", &["shop-oncall"]).revoke(by.clone()).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0202");
        assert!(!status.message().contains("did you mean"), "{status:?}");
        let status = broker.operator().revoke(by).await.unwrap_err();
        assert!(status.message().contains("did you mean"), "{status:?}");
    }
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}

/// Row 67: the same by what is listed.
#[tokio::test(flavor = "multi_thread")]
async fn attack_owners_learned_from_lists() {
    let broker = TestBroker::start().await;
    broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    for mut caller in [
        broker.identity("shop/checkout"),
        broker.gateway("edge-eu-1"),
        broker.person("mallory", &[]),
        broker.person("otto", &["shop-oncall"]),
    ] {
        let mut answers = Vec::new();
        for owner in ["group:payments-leads", "payments-leads", "group:payments-lead", "x"] {
            let answer = listed(&mut caller, owner).await;
            answers.push(answer.map_err(|status| status.message().to_owned()));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(!matches!(answers[0], Ok(1..)), "{answers:?}");
    }
    let mut operator = broker.operator();
    assert_eq!(listed(&mut operator, "group:payments-leads").await.unwrap(), 1);
    let status = listed(&mut operator, "payments-leads").await.unwrap_err();
    assert!(status.message().contains("did you mean `group:payments-leads`"), "{status:?}");
    broker.stop().await;
}

async fn listed(caller: &mut Clients, owner: &str) -> Result<usize, Status> {
    let selector = Some(v1::Selector { by: Some(By::Owner(owner.into())) });
    let list = v1::ListGrantsRequest { selector, ..Default::default() };
    Ok(caller.governance.list_grants(list).await?.into_inner().grants.len())
}

/// Row 67: whoever tries out what they may end, or which token counts, is slowed down; nobody else, and nobody who ends.
#[tokio::test(flavor = "multi_thread")]
async fn attack_trying_out_what_to_end() {
    let broker = TestBroker::start().await;
    let mut mallory = broker.person("mallory", &[]);
    let mut finder = broker.identity("shop/checkout");
    let mut agent = broker.identity("payments/agent");
    let end = Instant::now() + PATIENCE;
    for count in 0.. {
        let status = mallory.revoke(By::Everything(true)).await.unwrap_err();
        if reason(&status) == "PT-0206" {
            assert!(status.get_error_details().retry_info().is_some());
            break;
        }
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(Instant::now() < end, "{count} were refused and none was slowed down");
    }
    for count in 0.. {
        if let Err(status) = finder.revoke(By::Token(format!("a.b.{count}"))).await {
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::ResourceExhausted, "PT-0206".into())
            );
            break;
        }
        assert!(Instant::now() < end, "{count} tokens were tried and none was slowed down");
    }
    // What the same caller may do anyway is not counted with it, and nobody waits for another.
    finder.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let task = fresh_task();
    agent.ask(&task).await.unwrap();
    agent.complete(&task).await.unwrap();
    // More than may be refused at once.
    let mut operator = broker.operator();
    for _ in 0..150 {
        operator.revoke(By::Identity("payments/agent".into())).await.unwrap();
    }
    broker.stop().await;
}
