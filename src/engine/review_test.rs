//! Emergencies: who looks at them afterwards, and who does not.

use protem_core::refusal::Refusal;
use protem_core::request::{AccessRequest, Scopes};
use protem_verify::names::ScopeName;

use crate::engine::approvals_test::{agent, apply, dev, edited, person, refund, staff, words};
use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, caller};
use crate::engine::stop::Stop;
use crate::policy::login::{Claim, Login};

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_is_looked_at_by_somebody_else_before_the_next() {
    let home = Home::new();
    let broker = home.start_with(edited(&[])).unwrap();
    let job = agent(&broker);
    let refund_scope = Scopes::new(vec![ScopeName::try_from("orders:refund").unwrap()]).unwrap();
    let urgent = |task: &str| AccessRequest {
        emergency: true,
        scopes: refund_scope.clone(),
        ..refund(&job, task)
    };
    let granted = broker.request_access(&job, urgent("t-1")).await.unwrap();
    assert!(granted.credential.is_some());
    let grant = granted.grant.id;
    let again = broker.request_access(&job, urgent("t-2")).await;
    assert!(matches!(again, Err(Stop::Refused(Refusal::ReviewOpen(_)))), "{again:?}");
    let olga = dev(&broker, "olga", &["operators"]);
    let open = broker.reviews(person(&olga), false).await.unwrap();
    assert_eq!(open.iter().map(|one| one.grant.id).collect::<Vec<_>>(), [grant]);
    let note = || words("looked at the refunds: fine");
    for (who, known) in [
        (dev(&broker, "otto", &["operators", "payments-leads"]), true),
        (dev(&broker, "ada", &["auditors"]), true),
        (dev(&broker, "sid", &[]), false),
    ] {
        let closed = broker.close_review(&who, grant, note()).await;
        let expected = match closed {
            Err(Stop::Refused(Refusal::MayNotReview { .. })) => known,
            Err(Stop::Refused(Refusal::UnknownGrant(_))) => !known,
            _ => false,
        };
        assert!(expected, "{closed:?}");
    }
    let closed = broker.close_review(&olga, grant, note()).await.unwrap();
    assert_eq!(closed.grant.reviewed.unwrap().by.as_str(), "olga");
    let twice = broker.close_review(&olga, grant, note()).await;
    assert!(matches!(twice, Err(Stop::Refused(Refusal::NoReview(_)))), "{twice:?}");
    assert!(broker.reviews(person(&olga), false).await.unwrap().is_empty());
    broker.request_access(&job, urgent("t-3")).await.unwrap();
    broker.stop().await;
}

/// Whoever may have broken the glass does not look at it themselves: not before it is known whose account it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_of_an_unknown_account_is_looked_at_by_nobody_yet() {
    let home = Home::new();
    let breaks = (
        "payments.cedar",
        "principal == Identity::\"payments/agent\",\n  action == Action::\"emergency\"",
        "principal in Team::\"payments\",\n  action == Action::\"emergency\"",
    );
    let broker = home.start_with(edited(&[breaks])).unwrap();
    let text = |(name, value): (&str, &str)| (name.to_owned(), Claim::Text(value.to_owned()));
    let claims = [
        ("repository_id", "4711"),
        ("repository_owner_id", "42"),
        ("environment", "production"),
        ("actor", "bob-gh"),
    ];
    let login = Login {
        issuer: "github".to_owned(),
        subject: "repo:shop/pay".to_owned(),
        claims: claims.map(text).into_iter().collect(),
    };
    let job = caller(&broker, login);
    let refund = Scopes::new(vec![ScopeName::try_from("orders:refund").unwrap()]).unwrap();
    let urgent = AccessRequest { emergency: true, scopes: refund, ..self::refund(&job, "t-1") };
    let grant = broker.request_access(&job, urgent).await.unwrap().grant.id;
    let note = || words("looked at the refunds: fine");
    let bob = |broker: &Broker| staff(broker, "bob@shop.example", &["operators"]);
    let olga = dev(&broker, "olga", &["operators"]);
    for who in [bob(&broker), olga.clone()] {
        let closed = broker.close_review(&who, grant, note()).await;
        let Err(Stop::Refused(Refusal::MayNotReview { why, .. })) = closed else {
            panic!("{closed:?}")
        };
        assert!(why.contains("bob-gh"), "{why}");
    }
    let joined = (
        "people.toml",
        "[person.alice]",
        "[person.bob]\nlogins = [{ issuer = \"corp\", name = \"bob@shop.example\" }, { issuer = \"github\", name = \"bob-gh\" }]\n\n[person.alice]",
    );
    apply(&broker, edited(&[breaks, joined])).await;
    let closed = broker.close_review(&bob(&broker), grant, note()).await;
    assert!(matches!(closed, Err(Stop::Refused(Refusal::MayNotReview { .. }))), "{closed:?}");
    broker.close_review(&olga, grant, note()).await.unwrap();
    broker.stop().await;
}
