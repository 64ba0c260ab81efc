//! Whose people somebody is: by any of their accounts, and by any run that they started.

use protem_core::refusal::Refusal;
use protem_core::request::{AccessRequest, Scopes};
use protem_verify::names::ScopeName;

use crate::engine::approvals::DecisionKind;
use crate::engine::approvals_test::{
    agent, apply, approve, decide, deployer, edited, may_not, refund, seen, staff, waits, words,
};
use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, caller};
use crate::engine::stop::Stop;
use crate::policy::bundle::Files;
use crate::policy::login::{Caller, Claim, Login};

/// Two issuers for people, each with its groups. Rosa has an account at either, Otto two at the staff's, Bob has one.
fn two_issuers(more: &[(&str, &str, &str)]) -> Files {
    let partner = "[issuer.partner]\npurpose = \"Partners\"\nurl = \"https://partner.example\"\naudience = \"people\"\nfor = \"people\"\nname = \"sub\"\nowner = { business = \"group:shop-leads\", technical = \"group:operators\" }\n\n[issuer.corp]";
    let people = "[group.partners]\nissuer = \"partner\"\nclaims = { groups = \"desk\" }\n\n[person.rosa]\nlogins = [{ issuer = \"corp\", name = \"rosa@shop.example\" }, { issuer = \"partner\", name = \"rosa-p\" }]\n\n[person.otto]\nlogins = [{ issuer = \"corp\", name = \"otto@shop.example\" }, { issuer = \"corp\", name = \"otto-adm@shop.example\" }]\n\n[person.alice]";
    let decide = "@id(\"partners-decide\")\npermit (principal in Group::\"partners\", action == Action::\"approve\", resource in Resource::\"orders-api\");\n\n@id(\"partners-review\")\npermit (principal in Group::\"partners\", action == Action::\"review\", resource in Broker::\"protem\");\n\n@id(\"operators-stop";
    let mut edits = vec![
        ("issuers.toml", "[issuer.corp]", partner),
        ("people.toml", "claims = {", "issuer = \"corp\"\nclaims = {"),
        ("people.toml", "[person.alice]", people),
        ("people.cedar", "@id(\"operators-stop", decide),
        ("payments.cedar", "@approvals(\"1\")", "@approvals(\"2\")"),
    ];
    edits.extend(more);
    edited(&edits)
}

fn partner(broker: &Broker, name: &str) -> Caller {
    let claims = [("groups".to_owned(), Claim::List(vec!["desk".to_owned()]))].into();
    let (issuer, subject) = ("partner".to_owned(), name.to_owned());
    caller(broker, Login { issuer, subject, claims })
}

const ONCALL: [&str; 1] = ["shop-oncall"];

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_owner_approves_by_a_second_account() {
    let home = Home::new();
    let broker = home.start_with(two_issuers(&[])).unwrap();
    let job = agent(&broker);
    let grant = waits(&broker, &job, "t-1").await;
    for (who, word) in [
        (staff(&broker, "otto@shop.example", &["shop-oncall", "payments-leads"]), "they own"),
        (staff(&broker, "otto-adm@shop.example", &ONCALL), "another account of theirs"),
        (partner(&broker, "rosa-p"), "another account of theirs"),
    ] {
        let shown = seen(&broker, &who, grant).await.expect("they may know of it");
        assert!(shown.may.unwrap_err().contains(word));
        may_not(approve(&broker, &who, grant).await, word);
        let no = DecisionKind::Deny { reason: words("no") };
        may_not(decide(&broker, &who, grant, no).await, word);
    }
    // By the account that tells, it is known that she owns nothing; and whoever has one account only is no owner by another.
    let rosa = staff(&broker, "rosa@shop.example", &ONCALL);
    assert_eq!(approve(&broker, &rosa, grant).await.unwrap().approvals.len(), 1);
    let stays = approve(&broker, &partner(&broker, "pia"), waits(&broker, &job, "t-2").await).await;
    assert_eq!(stays.unwrap().approvals.len(), 1);
    broker.stop().await;
}

/// An approval by the one account of a `[person]` that gets a second one.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_lost_when_its_giver_gets_an_account_that_may_own() {
    let one = "[person.kim]\nlogins = [{ issuer = \"partner\", name = \"kim\" }]\n\n[person.alice]";
    let two = "[person.kim]\nlogins = [{ issuer = \"partner\", name = \"kim\" }, { issuer = \"corp\", name = \"kim@shop.example\" }]\n\n[person.alice]";
    let home = Home::new();
    let broker = home.start_with(two_issuers(&[("people.toml", "[person.alice]", one)])).unwrap();
    let grant = waits(&broker, &agent(&broker), "t-1").await;
    approve(&broker, &partner(&broker, "kim"), grant).await.unwrap();
    apply(&broker, two_issuers(&[("people.toml", "[person.alice]", two)])).await;
    let ann = staff(&broker, "ann@shop.example", &ONCALL);
    let record = approve(&broker, &ann, grant).await.unwrap();
    let by: Vec<&str> = record.approvals.iter().map(|one| one.by.as_str()).collect();
    assert_eq!(by, ["corp|ann@shop.example"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_owner_reviews_by_a_second_account() {
    let home = Home::new();
    let broker = home.start_with(two_issuers(&[])).unwrap();
    let job = agent(&broker);
    let scopes = Scopes::new(vec![ScopeName::try_from("orders:refund").unwrap()]).unwrap();
    let urgent = AccessRequest { emergency: true, scopes, ..refund(&job, "t-1") };
    let grant = broker.request_access(&job, urgent).await.unwrap().grant.id;
    let note = || words("looked at the refunds: fine");
    for who in [partner(&broker, "rosa-p"), staff(&broker, "otto-adm@shop.example", &["operators"])]
    {
        let closed = broker.close_review(&who, grant, note()).await;
        let Err(Stop::Refused(Refusal::MayNotReview { why, .. })) = closed else {
            panic!("{closed:?}")
        };
        assert!(why.contains("another account of theirs"), "{why}");
    }
    broker.close_review(&partner(&broker, "pia"), grant, note()).await.unwrap();
    broker.stop().await;
}

/// All runs of a CI job have one `sub`: what one person's run asked for is not another one's, who may approve it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_an_approvers_own_run_takes_up_a_waiting_request() {
    let bob = "[person.bob]\nlogins = [{ issuer = \"corp\", name = \"bob@shop.example\" }, { issuer = \"github\", name = \"bob-gh\" }]\n\n[person.alice]";
    let home = Home::new();
    let broker = home.start_with(edited(&[("people.toml", "[person.alice]", bob)])).unwrap();
    let (hers, his) = (deployer(&broker, "alice-gh"), deployer(&broker, "bob-gh"));
    let grant = waits(&broker, &hers, "t-1").await;
    let own = waits(&broker, &his, "t-1").await;
    assert_ne!(own, grant, "his own, of which he cannot be the approver");
    let bob = staff(&broker, "bob@shop.example", &ONCALL);
    may_not(approve(&broker, &bob, own).await, "your own");
    // Who is behind it is asked of each run, also of one that asks what another one has asked before.
    let unknown = deployer(&broker, "mallory");
    let denied = broker.request_access(&unknown, refund(&unknown, "t-1")).await;
    assert!(matches!(&denied, Err(Stop::Denied(ruling)) if ruling.code == "PT-0358"), "{denied:?}");
    // And what he approves for her is not for his run to renew.
    approve(&broker, &bob, grant).await.unwrap();
    broker.renew(&hers, grant).await.unwrap();
    for other in [&his, &unknown] {
        let renewed = broker.renew(other, grant).await;
        let refused = matches!(renewed, Err(Stop::Refused(Refusal::UnknownGrant(_))));
        assert!(refused, "{renewed:?}");
    }
    broker.stop().await;
}
