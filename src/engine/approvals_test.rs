//! Approvals on a whole broker in memory: who counts, for what, until when, over restarts and new bundles.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protem_core::event::EndReason;
use protem_core::refusal::Refusal;
use protem_core::request::{AccessRequest, Scopes};
use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{ScopeName, Words};
use protem_verify::time::Lifetime;

use crate::engine::approvals::{Decision, DecisionKind, Narrow, Waiting};
use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, PATIENCE, ask, caller};
use crate::engine::stop::Stop;
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::bundle::{Bundle, Files, Load, read_folder};
use crate::policy::login::{Caller, Claim, Login, Person, Principal};

/// The repository's bundle, with changes: a file's name, what is there, and what is there instead.
pub(super) fn edited(edits: &[(&str, &str, &str)]) -> Files {
    let files = read_folder(Path::new("policies")).unwrap();
    let change = |(name, text): &(Arc<str>, Arc<[u8]>)| {
        let mut text = String::from_utf8(text.to_vec()).unwrap();
        for (_, from, to) in edits.iter().filter(|(file, ..)| *file == &**name) {
            assert!(text.contains(from), "{name} has no `{from}`");
            text = text.replace(from, to);
        }
        (Arc::clone(name), Arc::from(text.into_bytes()))
    };
    // The cases of the repository are about the repository's own policies.
    let kept = files.iter().filter(|(name, _)| !name.starts_with("tests/"));
    kept.map(change).collect()
}

pub(super) const TWO: (&str, &str, &str) =
    ("payments.cedar", "@approvals(\"1\")", "@approvals(\"2\")");
const SOON: (&str, &str, &str) = (
    "payments.cedar",
    "@decide_within(\"30m\")",
    "@decide_within(\"10s\")\n@remind(\"5s\")\n@then(\"shop-leads\")",
);

pub(super) fn words(text: &str) -> Words {
    Words::parse("note", text).unwrap()
}

pub(super) fn agent(broker: &Broker) -> Caller {
    caller(broker, Login::dev_identity("payments/agent"))
}

/// A CI job, started by the person with this GitHub account.
pub(super) fn deployer(broker: &Broker, actor: &str) -> Caller {
    let text = |text: &str| Claim::Text(text.to_owned());
    let claims = [
        ("repository_id", "4711"),
        ("repository_owner_id", "42"),
        ("environment", "production"),
        ("actor", actor),
    ];
    let claims = claims.map(|(name, value)| (name.to_owned(), text(value)));
    let (issuer, subject) = ("github".to_owned(), "repo:shop/payments".to_owned());
    caller(broker, Login { issuer, subject, claims: claims.into() })
}

pub(super) fn dev(broker: &Broker, name: &str, groups: &[&str]) -> Caller {
    caller(broker, Login::dev_person(name, groups))
}

/// Somebody's account at the staff's issuer.
pub(super) fn staff(broker: &Broker, email: &str, groups: &[&str]) -> Caller {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let claims = BTreeMap::from([
        ("email".to_owned(), Claim::Text(email.to_owned())),
        ("email_verified".to_owned(), Claim::Text("true".to_owned())),
        ("groups".to_owned(), Claim::List(groups)),
    ]);
    caller(broker, Login { issuer: "corp".to_owned(), subject: email.to_owned(), claims })
}

pub(super) fn person(caller: &Caller) -> &Person {
    let Principal::Person(person) = &caller.principal else { panic!("{caller:?}") };
    person
}

pub(super) fn refund(caller: &Caller, task: &str) -> AccessRequest {
    let scopes = ["orders:read", "orders:refund"].map(|name| ScopeName::try_from(name).unwrap());
    AccessRequest {
        scopes: Scopes::new(scopes.into()).unwrap(),
        purpose: words("INC-42: refund the double charge"),
        ..ask(caller, task, None)
    }
}

pub(super) async fn waits(broker: &Broker, who: &Caller, task: &str) -> GrantId {
    let granted = broker.request_access(who, refund(who, task)).await.unwrap();
    assert!(matches!(granted.grant.status, Shown::Pending { .. }), "{granted:?}");
    assert!(granted.credential.is_none());
    granted.grant.id
}

pub(super) async fn seen(broker: &Broker, by: &Caller, grant: GrantId) -> Option<Waiting> {
    broker.pending_one(person(by), grant).await.unwrap()
}

pub(super) async fn decide(
    broker: &Broker,
    by: &Caller,
    grant: GrantId,
    kind: DecisionKind,
) -> Result<GrantRecord, Stop> {
    let digest = broker.reader().grant(&grant).unwrap().and_then(|grant| grant.digest);
    let digest = digest.unwrap_or_default();
    broker.decide(by, Decision { grant, digest, kind }).await
}

fn yes() -> DecisionKind {
    DecisionKind::Approve { note: Words::default(), narrow: None }
}

pub(super) async fn approve(
    broker: &Broker,
    by: &Caller,
    grant: GrantId,
) -> Result<GrantRecord, Stop> {
    decide(broker, by, grant, yes()).await
}

pub(super) fn active(record: &GrantRecord) -> bool {
    matches!(record.status, Shown::Active { .. })
}

#[track_caller]
fn ended(record: &GrantRecord, why: EndReason) {
    assert!(matches!(record.status, Shown::Ended { reason, .. } if reason == why), "{record:?}");
}

#[track_caller]
pub(super) fn may_not(answer: Result<GrantRecord, Stop>, word: &str) {
    let Err(Stop::Refused(Refusal::MayNotDecide { why, .. })) = answer else {
        panic!("{answer:?}")
    };
    assert!(why.contains(word), "{why}");
}

#[track_caller]
fn hidden(answer: Result<GrantRecord, Stop>) {
    assert!(matches!(answer, Err(Stop::Refused(Refusal::UnknownGrant(_)))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_approve_and_the_waiting_job_gets_its_credential() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let (job, ann, bob) = (
        agent(&broker),
        dev(&broker, "ann", &["shop-oncall"]),
        dev(&broker, "bob", &["shop-oncall"]),
    );
    let mut changed = broker.pending_changed();
    let grant = waits(&broker, &job, "t-1").await;
    tokio::time::timeout(PATIENCE, changed.changed()).await.unwrap().unwrap();
    let mut watched = broker.watch_grant(&job, grant);
    let shown = seen(&broker, &ann, grant).await.unwrap();
    assert_eq!((shown.rule.needed, shown.may.is_ok(), shown.approved), (2, true, false));
    assert_eq!(shown.risk.unwrap().as_str(), "high");
    assert!(shown.scopes[1].operations.contains(&"POST /v1/orders/{id}/refund".to_owned()));
    let first = approve(&broker, &ann, grant).await.unwrap();
    assert_eq!((first.approvals.len(), active(&first)), (1, false));
    assert!(!active(&approve(&broker, &ann, grant).await.unwrap()), "one person counts once");
    // A restart forgets nothing of it, and a repeated request answers the same grant.
    broker.stop().await;
    drop(broker);
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let again = broker.request_access(&job, refund(&job, "t-1")).await.unwrap();
    assert_eq!(again.grant.id, grant);
    drop(watched);
    watched = broker.watch_grant(&job, grant);
    assert!(active(&approve(&broker, &bob, grant).await.unwrap()));
    loop {
        let next = tokio::time::timeout(PATIENCE, watched.next()).await.unwrap();
        if let Some(credential) = next.unwrap().unwrap().credential {
            let again = broker.request_access(&job, refund(&job, "t-1")).await.unwrap();
            assert_eq!(again.credential.unwrap().token, credential.token);
            break;
        }
    }
    assert!(seen(&broker, &ann, grant).await.is_none(), "it waits no more");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_self_approve_by_owned_workload_or_alias() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let job = deployer(&broker, "alice-gh");
    let grant = waits(&broker, &job, "t-1").await;
    // Neither the person behind it, by any account, nor those who answer for the identity, nor the workload itself.
    for (who, word) in [
        (staff(&broker, "alice@shop.example", &["shop-oncall"]), "behind"),
        (dev(&broker, "alice", &["shop-oncall"]), "behind"),
        (dev(&broker, "otto", &["shop-oncall", "payments-oncall"]), "own"),
        (dev(&broker, "olga", &["operators"]), "no policy permits"),
    ] {
        let shown = seen(&broker, &who, grant).await.expect("they may know of it");
        assert!(shown.may.unwrap_err().contains(word));
        for kind in [yes(), DecisionKind::Deny { reason: words("no") }] {
            let word = if word == "behind" { "your own" } else { word };
            may_not(decide(&broker, &who, grant, kind).await, word);
        }
    }
    hidden(approve(&broker, &job, grant).await);
    let stranger = dev(&broker, "sid", &[]);
    hidden(approve(&broker, &stranger, grant).await);
    assert!(seen(&broker, &stranger, grant).await.is_none());
    assert!(broker.pending(person(&stranger)).await.unwrap().is_empty());
    assert!(broker.reader().grant(&grant).unwrap().unwrap().approvals.is_empty());
    // An actor whom nobody knows cannot ask for it at all.
    let unknown = deployer(&broker, "mallory");
    let denied = broker.request_access(&unknown, refund(&unknown, "t-2")).await;
    assert!(matches!(&denied, Err(Stop::Denied(ruling)) if ruling.code == "PT-0358"), "{denied:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_n_of_m_same_human_n_times() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let job = agent(&broker);
    let grant = waits(&broker, &job, "t-1").await;
    let accounts = [
        staff(&broker, "alice@shop.example", &["shop-oncall"]),
        dev(&broker, "alice", &["shop-oncall"]),
    ];
    for account in accounts.iter().cycle().take(6) {
        let record = approve(&broker, account, grant).await.unwrap();
        assert_eq!((record.approvals.len(), active(&record)), (1, false));
    }
    // Nor when she takes it back under one name and gives it under the other.
    let back = decide(&broker, &accounts[1], grant, DecisionKind::TakeBack).await.unwrap();
    assert!(back.approvals.is_empty());
    let none = decide(&broker, &accounts[0], grant, DecisionKind::TakeBack).await;
    assert!(matches!(none, Err(Stop::Refused(_))), "{none:?}");
    approve(&broker, &accounts[0], grant).await.unwrap();
    let other = staff(&broker, "bob@shop.example", &["shop-oncall"]);
    assert!(active(&approve(&broker, &other, grant).await.unwrap()));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_concurrent_double_spend() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let job = agent(&broker);
    let grant = waits(&broker, &job, "t-1").await;
    let people = (0..8).map(|at| dev(&broker, &format!("p{}", at % 4), &["shop-oncall"]));
    let all = people.map(|who| {
        let broker = broker.clone();
        tokio::spawn(async move { approve(&broker, &who, grant).await })
    });
    let mut refused = 0;
    for one in all.collect::<Vec<_>>() {
        refused += usize::from(one.await.unwrap().is_err());
    }
    let record = broker.reader().grant(&grant).unwrap().unwrap();
    assert_eq!((record.approvals.len(), active(&record)), (2, true));
    assert!(refused >= 4, "who came after the second person came too late: {refused}");
    let rows = broker.reader().read(protem_verify::ids::Seq(0), 1_000).unwrap();
    let began = |event: &protem_core::event::Event| {
        matches!(event, protem_core::event::Event::GrantActivated(_))
    };
    assert_eq!(rows.iter().filter(|row| began(row.what())).count(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_change_request_after_approval() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let (job, ann, bob) = (
        agent(&broker),
        dev(&broker, "ann", &["shop-oncall"]),
        dev(&broker, "bob", &["shop-oncall"]),
    );
    let grant = waits(&broker, &job, "t-1").await;
    let first = seen(&broker, &ann, grant).await.unwrap().digest;
    approve(&broker, &ann, grant).await.unwrap();
    let narrow = |lifetime: u64| DecisionKind::Approve {
        note: Words::default(),
        narrow: Some(Narrow {
            lifetime: Some(Lifetime(Duration::from_secs(lifetime))),
            scopes: None,
        }),
    };
    let wider = decide(&broker, &bob, grant, narrow(7_200)).await;
    assert!(matches!(wider, Err(Stop::Refused(Refusal::NotNarrower))), "{wider:?}");
    // Ann narrows: what she approved before still counts, and whoever saw the wider request decides nothing.
    let narrowed = decide(&broker, &ann, grant, narrow(60)).await.unwrap();
    assert_eq!((narrowed.approvals.len(), active(&narrowed)), (1, false));
    assert_eq!(narrowed.ruling.terms.lifetime, Lifetime(Duration::from_secs(60)));
    for digest in [first, Hash([1; 32])] {
        let late = broker.decide(&bob, Decision { grant, digest, kind: yes() }).await;
        let Err(Stop::Refused(Refusal::DigestChanged(now))) = late else { panic!("{late:?}") };
        assert_eq!(Some(now), narrowed.digest);
    }
    let done = approve(&broker, &bob, grant).await.unwrap();
    let Shown::Active { from, until } = done.status else { panic!("{done:?}") };
    assert_eq!(until.since(from), Duration::from_secs(60));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_dropped_by_who_may_approve_it() {
    let home = Home::new();
    let broker = home.start_with(edited(&[])).unwrap();
    let (job, ann) = (agent(&broker), dev(&broker, "ann", &["shop-oncall"]));
    let grant = waits(&broker, &job, "t-1").await;
    let scopes = Scopes::new(vec![ScopeName::try_from("orders:read").unwrap()]).unwrap();
    let narrow = Some(Narrow { lifetime: None, scopes: Some(scopes.clone()) });
    let less =
        || DecisionKind::Approve { note: words("reading is enough"), narrow: narrow.clone() };
    let otto = dev(&broker, "otto", &["operators"]);
    may_not(decide(&broker, &otto, grant, less()).await, "no policy permits");
    let done = decide(&broker, &ann, grant, less()).await.unwrap();
    assert!(active(&done));
    assert_eq!(done.request.scopes, scopes);
    assert!(done.ruling.terms.operations.iter().all(|it| it.starts_with("orders:read ")));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_denied_withdrawn_or_lapsed_and_then_nobody_decides_it() {
    let home = Home::new();
    let broker = home.start_with(edited(&[SOON])).unwrap();
    let (job, ann) = (agent(&broker), dev(&broker, "ann", &["shop-oncall"]));
    let grant = waits(&broker, &job, "t-1").await;
    let silent = decide(&broker, &ann, grant, DecisionKind::Deny { reason: words(" ") }).await;
    assert!(matches!(silent, Err(Stop::Refused(Refusal::ReasonRequired))), "{silent:?}");
    let no = DecisionKind::Deny { reason: words("not this ticket") };
    ended(&decide(&broker, &ann, grant, no).await.unwrap(), EndReason::Denied);
    let back = waits(&broker, &job, "t-2").await;
    ended(&broker.withdraw(&job, back, Words::default()).await.unwrap(), EndReason::Withdrawn);
    let lapses = waits(&broker, &job, "t-3").await;
    let mut watched = broker.watch_grant(&job, lapses);
    let mut kinds = 0;
    let last = loop {
        let next = tokio::time::timeout(PATIENCE, watched.next()).await.unwrap();
        let grant = next.unwrap().unwrap().grant;
        kinds += 1;
        if grant.stage() == crate::journal::reader::Stage::Ended {
            break grant;
        }
    };
    ended(&last, EndReason::Lapsed);
    assert_eq!(kinds, 2, "the reminder, and the end");
    let rows = broker.reader().read(protem_verify::ids::Seq(0), 1_000).unwrap();
    let reminded = rows.iter().filter_map(|row| {
        let protem_core::event::Event::RequestReminded { grant, then } = row.what() else {
            return None;
        };
        Some((*grant, then.clone()))
    });
    let then = Some(protem_verify::names::GroupName::try_from("shop-leads").unwrap());
    assert_eq!(reminded.collect::<Vec<_>>(), [(lapses, then)]);
    for over in [grant, back, lapses] {
        let late = approve(&broker, &ann, over).await;
        assert!(matches!(late, Err(Stop::Refused(Refusal::NotPending(_)))), "{late:?}");
        assert!(seen(&broker, &ann, over).await.is_none());
    }
    broker.stop().await;
}

pub(super) async fn apply(broker: &Broker, files: Files) {
    let bundle = Bundle::load(files, Load::Activate, true).unwrap();
    broker.apply_bundle(crate::engine::thread::system(), bundle, None).await.unwrap();
    let settled = async {
        while !broker.ask(protem_core::state::State::settled).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("the bundle is not settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bundle_asks_again_about_requests_and_their_approvals() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let (job, ann, bob) = (
        agent(&broker),
        dev(&broker, "ann", &["shop-oncall"]),
        dev(&broker, "bob", &["shop-oncall", "shop-leads"]),
    );
    let (first, second) = (waits(&broker, &job, "t-1").await, waits(&broker, &job, "t-2").await);
    for grant in [first, second] {
        approve(&broker, &bob, grant).await.unwrap();
    }
    approve(&broker, &ann, second).await.unwrap();
    let record = |grant: GrantId| broker.reader().grant(&grant).unwrap().unwrap();
    // What has nothing to do with the request voids nothing.
    let digest = record(first).digest;
    apply(&broker, edited(&[TWO, ("catalog.toml", "Read customers", "Read shop customers")])).await;
    assert_eq!((record(first).digest, record(first).approvals.len()), (digest, 1));
    assert!(active(&record(second)));
    // Other people decide now: Bob is one of them, Ann is not, so hers counts no more.
    let leads = (
        "people.cedar",
        "principal in Group::\"shop-oncall\", action == Action::\"approve\"",
        "principal in Group::\"shop-leads\", action == Action::\"approve\"",
    );
    apply(&broker, edited(&[TWO, leads])).await;
    assert_eq!(record(first).approvals.len(), 1);
    ended(&record(second), EndReason::Policy);
    let third = waits(&broker, &job, "t-3").await;
    approve(&broker, &bob, third).await.unwrap();
    apply(&broker, edited(&[TWO])).await;
    approve(&broker, &ann, third).await.unwrap();
    assert!(active(&record(third)));
    // The policy that asks for approval itself changes: nobody approved that.
    let text = (
        "payments.cedar",
        "resource == Scope::\"orders-api#orders:refund\"\n);\n\n@id(\"payments-breaks",
        "resource == Scope::\"orders-api#orders:refund\"\n) when { true };\n\n@id(\"payments-breaks",
    );
    apply(&broker, edited(&[TWO, text])).await;
    assert_ne!(record(first).digest, digest);
    assert!(record(first).approvals.is_empty(), "what was approved is not what it says now");
    // And without any policy for it, it ends.
    let none =
        ("payments.cedar", "action == Action::\"request\"", "action == Action::\"emergency\"");
    let notes = ("payments.cedar", "@approvals(\"1\")\n@decide_within(\"30m\")\n", "");
    apply(&broker, edited(&[notes, none])).await;
    ended(&record(first), EndReason::Policy);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_lost_when_its_account_is_joined_to_another_person() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let job = agent(&broker);
    let grant = waits(&broker, &job, "t-1").await;
    let bob = staff(&broker, "bob@shop.example", &["shop-oncall"]);
    assert_eq!(approve(&broker, &bob, grant).await.unwrap().approvals.len(), 1);
    let joined = (
        "people.toml",
        "[person.alice]",
        "[person.bob]\nlogins = [{ issuer = \"corp\", name = \"bob@shop.example\" }]\n\n[person.alice]",
    );
    apply(&broker, edited(&[TWO, joined])).await;
    let again = staff(&broker, "bob@shop.example", &["shop-oncall"]);
    let record = approve(&broker, &again, grant).await.unwrap();
    assert_eq!((record.approvals.len(), active(&record)), (1, false), "one human counts once");
    broker.stop().await;
}
