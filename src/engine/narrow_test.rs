//! What an approver narrows gets no wider by it, and what policy words anew meanwhile is looked at again.

use std::time::Duration;

use protem_core::refusal::Refusal;
use protem_core::request::{AccessRequest, Scopes};
use protem_verify::ids::GrantId;
use protem_verify::names::{ScopeName, Words};
use protem_verify::time::Lifetime;

use crate::engine::approvals::{DecisionKind, Narrow};
use crate::engine::approvals_test::{
    active, agent, approve, decide, dev, edited, refund, seen, waits,
};
use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, ask};
use crate::engine::stop::Stop;
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::login::Caller;

fn read_only() -> Scopes {
    Scopes::new(vec![ScopeName::try_from("orders:read").unwrap()]).unwrap()
}

fn less(lifetime: Option<u64>, scopes: Option<Scopes>) -> DecisionKind {
    let lifetime = lifetime.map(|secs| Lifetime(Duration::from_secs(secs)));
    DecisionKind::Approve { note: Words::default(), narrow: Some(Narrow { lifetime, scopes }) }
}

fn lasts(record: &GrantRecord) -> Duration {
    let Shown::Active { from, until } = record.status else { panic!("{record:?}") };
    until.since(from)
}

/// Refunds last half an hour at most, and reading an hour.
const BRIEF: (&str, &str, &str) =
    ("payments.cedar", "@approvals(\"1\")", "@approvals(\"1\")\n@max_lifetime(\"30m\")");

#[tokio::test(flavor = "multi_thread")]
async fn attack_a_narrowing_makes_the_rest_last_longer() {
    let home = Home::new();
    let broker = home.start_with(edited(&[BRIEF])).unwrap();
    let (job, ann) = (agent(&broker), dev(&broker, "ann", &["shop-oncall"]));
    for (task, lifetime) in [("t-1", Some(7_200)), ("t-2", None)] {
        let lifetime = lifetime.map(|secs| Lifetime(Duration::from_secs(secs)));
        let asked = AccessRequest { lifetime, ..refund(&job, task) };
        let grant = broker.request_access(&job, asked).await.unwrap().grant;
        let shown = grant.ruling.terms.lifetime.0;
        assert!(shown <= Duration::from_secs(1_800));
        let done = decide(&broker, &ann, grant.id, less(None, Some(read_only()))).await.unwrap();
        assert_eq!((lasts(&done), done.request.scopes), (shown, read_only()));
    }
    broker.stop().await;
}

/// Refunds need two people, by other words while the agent holds a grant.
fn by_use(more: &str) -> (&'static str, &'static str, String) {
    let rule = |id: &str, when: &str| {
        format!(
            "@id(\"{id}\")\n@approvals(\"2\")\npermit (principal in Team::\"payments\", action == Action::\"request\", resource == Scope::\"orders-api#orders:refund\")\nwhen {{ {when} }};\n\n"
        )
    };
    let rules = rule("refunds-first", "context.active < 1")
        + &rule("refunds-more", "context.active >= 1")
        + more;
    ("payments.cedar", "@id(\"payments-breaks-glass\")", rules + "@id(\"payments-breaks-glass\")")
}

const NO_OTHER: [(&str, &str, &str); 3] = [
    ("payments.cedar", "@id(\"refunds-need-a-person\")", "@id(\"shadowed\")\n@mode(\"shadow\")"),
    ("payments.cedar", "@approvals(\"1\")\n", ""),
    ("payments.cedar", "@decide_within(\"30m\")\n", ""),
];

async fn begun(home: &Home, more: &str) -> (Broker, Caller, GrantId) {
    let (file, from, to) = by_use(more);
    let [a, b, c] = NO_OTHER;
    let broker = home.start_with(edited(&[a, b, c, (file, from, &to)])).unwrap();
    let job = agent(&broker);
    let grant = waits(&broker, &job, "t-1").await;
    let ann = dev(&broker, "ann", &["shop-oncall"]);
    assert_eq!(approve(&broker, &ann, grant).await.unwrap().approvals.len(), 1);
    // No bundle changes: the agent is given something else.
    let other = broker.request_access(&job, ask(&job, "t-2", None)).await.unwrap();
    assert!(active(&other.grant));
    (broker, job, grant)
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_approval_of_other_rules_carries_over_by_a_narrowing() {
    let home = Home::new();
    let (broker, _, grant) = begun(&home, "").await;
    let [ann, bob] = ["ann", "bob"].map(|name| dev(&broker, name, &["shop-oncall"]));
    let before = seen(&broker, &bob, grant).await.unwrap();
    let late = decide(&broker, &bob, grant, less(Some(60), None)).await;
    let Err(Stop::Refused(Refusal::DigestChanged(now))) = late else { panic!("{late:?}") };
    // It waits by its new words, and nobody has approved those.
    let shown = seen(&broker, &bob, grant).await.unwrap();
    assert_eq!((shown.digest, shown.grant.approvals.len()), (now, 0));
    assert_ne!(now, before.digest);
    let first = decide(&broker, &bob, grant, less(Some(60), None)).await.unwrap();
    assert!(!active(&first));
    assert_eq!(lasts(&approve(&broker, &ann, grant).await.unwrap()), Duration::from_secs(60));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policy_words_anew_without_a_bundle_can_still_be_approved() {
    let home = Home::new();
    let (broker, _, grant) = begun(&home, "").await;
    let [ann, bob] = ["ann", "bob"].map(|name| dev(&broker, name, &["shop-oncall"]));
    let late = approve(&broker, &bob, grant).await;
    assert!(matches!(late, Err(Stop::Refused(Refusal::DigestChanged(_)))), "{late:?}");
    for (who, done) in [(&bob, false), (&ann, true)] {
        assert_eq!(active(&approve(&broker, who, grant).await.unwrap()), done);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowing_that_policy_refuses_leaves_the_request_waiting() {
    let home = Home::new();
    let rule = "@id(\"nothing-so-short\")\nforbid (principal, action == Action::\"request\", resource == Scope::\"orders-api#orders:refund\")\nwhen { context.lifetime < duration(\"2m\") };\n\n@id(\"payments-breaks-glass\")";
    let rule = ("payments.cedar", "@id(\"payments-breaks-glass\")", rule);
    let broker = home.start_with(edited(&[rule])).unwrap();
    let (job, ann) = (agent(&broker), dev(&broker, "ann", &["shop-oncall"]));
    let grant = waits(&broker, &job, "t-1").await;
    let brief = decide(&broker, &ann, grant, less(Some(60), None)).await;
    assert!(matches!(brief, Err(Stop::Refused(Refusal::NarrowerRefused(_)))), "{brief:?}");
    assert!(active(&approve(&broker, &ann, grant).await.unwrap()));
    broker.stop().await;
}
