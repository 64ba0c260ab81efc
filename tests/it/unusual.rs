//! What is unusual about a request: policy looks at it as it is asked and as it is decided, and approvers see the same.

use std::sync::Arc;
use std::time::Duration;

use protem::policy::bundle::Files;
use protem_clock::clock::{Clock, ManualClock};
use protem_proto::wire::v1;
use serde_json::Value;
use tonic::{Code, Status};

use crate::broker::{Clients, TestBroker, Wish, ask, fresh_task, policies, reason};

/// Ten o'clock in the morning of some day.
const TEN: Duration = Duration::from_secs(1_795_168_800);
const HOUR: Duration = Duration::from_secs(3_600);

/// A broker with more policies, on a clock of its own.
struct Stage {
    broker: TestBroker,
    clock: Arc<ManualClock>,
}

impl Stage {
    async fn new(policies: &str) -> Self {
        let clock = Arc::new(ManualClock::new(TEN));
        let bundle = Some(bundle(policies));
        let of = Some(Arc::clone(&clock) as Arc<dyn Clock>);
        let broker = TestBroker::with(Wish { bundle, clock: of, ..Wish::default() }).await;
        Self { broker, clock }
    }

    /// Signed in as of now.
    fn clients(&self, name: &str, kind: &str, groups: &[&str]) -> Clients {
        let mut claims = self.broker.claims(name, kind, groups);
        let now = self.clock.unix().as_secs();
        for (claim, at) in [("iat", now), ("nbf", now), ("exp", now + 3_600)] {
            claims[claim] = at.into();
        }
        self.broker.clients(Some(self.broker.sign(&claims)))
    }

    fn agent(&self) -> Clients {
        self.clients("payments/agent", "identity", &[])
    }

    fn person(&self, name: &str, groups: &[&str]) -> Clients {
        self.clients(name, "person", groups)
    }

    /// Three tasks at ten on each of eight days; then it is ten on the ninth.
    async fn settle(&self) {
        for _ in 0..8 {
            for _ in 0..3 {
                self.agent().ask(&fresh_task()).await.unwrap();
            }
            self.clock.advance(HOUR * 24);
        }
    }

    /// What was journaled as Cedar's input of a grant.
    fn recorded(&self, grant: &str) -> Vec<String> {
        let found = self.broker.broker.reader().grant(&grant.parse().unwrap()).unwrap();
        let input: Value = serde_json::from_slice(&found.unwrap().ruling.input).unwrap();
        let findings = input["findings"].as_array().unwrap().iter();
        findings.map(|one| one.as_str().unwrap().to_owned()).collect()
    }
}

fn bundle(policies_too: &str) -> Files {
    let added: (Arc<str>, Arc<[u8]>) = ("unusual.cedar".into(), policies_too.as_bytes().into());
    // Its own cases are of its own policies alone.
    let all = policies();
    let rules = all.iter().filter(|(name, _)| !name.starts_with("tests/")).cloned();
    let mut files: Vec<_> = rules.chain([added]).collect();
    files.sort();
    files.into()
}

fn refund() -> v1::RequestAccessRequest {
    v1::RequestAccessRequest { scopes: vec!["orders:refund".into()], ..ask(&fresh_task()) }
}

fn words(findings: &[String]) -> Vec<&str> {
    findings.iter().map(|one| one.split_once(": ").expect("numbers").0).collect()
}

async fn refunded(by: &mut Clients) -> v1::Grant {
    by.access.request_access(refund()).await.unwrap().into_inner().grant.unwrap()
}

async fn waiting(by: &mut Clients) -> v1::PendingGrant {
    let all = by.approvals.list_pending(v1::ListPendingRequest::default()).await.unwrap();
    all.into_inner().pending.pop().expect("one that waits")
}

async fn approve(by: &mut Clients, grant: &v1::Grant) -> Result<v1::Grant, Status> {
    let (grant_id, digest) = (grant.id.clone(), grant.digest.clone());
    let yes = v1::DecideRequest { grant_id, digest, approve: true, ..Default::default() };
    by.approvals.decide(yes).await.map(|answer| answer.into_inner().grant.unwrap())
}

const NOT_AT_NIGHT: &str = "@id(\"not-at-unusual-hours\")\n\
    forbid (principal, action == Action::\"issue\", resource)\n\
    when { context.findings.contains(\"unusual-hour\") };\n";

#[tokio::test(flavor = "multi_thread")]
async fn policy_refuses_at_an_unusual_hour_and_approvers_see_it() {
    let stage = Stage::new(NOT_AT_NIGHT).await;
    stage.settle().await;
    stage.agent().ask(&fresh_task()).await.expect("ten is usual");
    stage.clock.advance(HOUR * 12 + Duration::from_secs(5 * 60));
    let denied = stage.agent().ask(&fresh_task()).await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied)), (Code::PermissionDenied, "PT-0351".to_owned()));
    let text = String::from_utf8_lossy(denied.details()).into_owned();
    assert!(text.contains("unusual-hour: 22:05 UTC, usually 10"), "{text}");
    // What people must decide waits all the same, and they see what policy saw: listed, watched, and on record.
    let grant = refunded(&mut stage.agent()).await;
    let mut ann = stage.person("ann", &["shop-oncall"]);
    let shown = waiting(&mut ann).await;
    assert_eq!(words(&shown.findings), ["new-scope", "unusual-hour"]);
    assert_eq!(shown.findings, stage.recorded(&grant.id));
    assert_eq!(shown.findings, grant.verdict.unwrap().findings);
    let watch = v1::WatchPendingRequest::default();
    let mut watched = ann.approvals.watch_pending(watch).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap().pending.unwrap();
    assert_eq!(first.findings, shown.findings);
    approve(&mut ann, &shown.grant.unwrap()).await.unwrap();
    // A grant of this night does not make the night usual, and the scope is not new any more.
    let denied = stage.agent().ask(&fresh_task()).await.unwrap_err();
    assert_eq!(reason(&denied), "PT-0351");
    refunded(&mut stage.agent()).await;
    assert_eq!(words(&waiting(&mut ann).await.findings), ["unusual-hour"]);
    // It is asked for what is so now, with nothing recorded.
    let request = Some(ask(&fresh_task()));
    let explain = v1::ExplainAccessRequest { request, ..Default::default() };
    let told = stage.agent().access.explain_access(explain).await.unwrap().into_inner();
    assert_eq!(words(&told.verdict.unwrap().findings), ["unusual-hour"]);
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hurries_and_who_was_silent_is_told() {
    let stage = Stage::new("").await;
    stage.settle().await;
    let mut agent = stage.agent();
    for _ in 0..60 {
        agent.ask(&fresh_task()).await.unwrap();
    }
    let grant = agent.ask(&fresh_task()).await.unwrap().grant.unwrap();
    let found = stage.recorded(&grant.id);
    assert_eq!(found, ["unusual-rate: 61 grants this hour, at most 3 in any of the week before"]);
    stage.clock.advance(HOUR * 24 * 31);
    let grant = stage.agent().ask(&fresh_task()).await.unwrap().grant.unwrap();
    let found = stage.recorded(&grant.id);
    assert_eq!(found, ["dormant: `payments/agent` was granted nothing for 31 days"]);
    stage.broker.stop().await;
}

/// The first use of a scope is looked at by a person; after that it is granted at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_waits_for_a_person_once() {
    let stage = Stage::new(
        "@id(\"nothing-new-at-once\")\n\
         forbid (principal, action == Action::\"issue\", resource)\n\
         when { context.findings.contains(\"new-scope\") };\n\
         @id(\"first-reads-need-a-person\")\n\
         permit (principal == Identity::\"payments/agent\", action == Action::\"request\",\n\
           resource == Scope::\"orders-api#orders:read\");\n",
    )
    .await;
    let mut agent = stage.agent();
    let first = agent.ask(&fresh_task()).await.unwrap();
    assert!(first.credential.is_none());
    let mut ann = stage.person("ann", &["shop-oncall"]);
    let shown = waiting(&mut ann).await;
    assert_eq!(words(&shown.findings), ["new-resource", "new-scope"]);
    approve(&mut ann, &shown.grant.unwrap()).await.unwrap();
    let second = agent.ask(&fresh_task()).await.unwrap();
    assert!(second.credential.is_some());
    assert_eq!(stage.recorded(&second.grant.unwrap().id), Vec::<String>::new());
    stage.broker.stop().await;
}

/// Policy of who may approve looks at the same findings.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_for_those_whom_policy_lets_decide_it() {
    let stage = Stage::new(
        "@id(\"leads-approve-what-is-new\")\n\
         permit (principal in Group::\"shop-leads\", action == Action::\"approve\", resource in Resource::\"orders-api\");\n\
         @id(\"on-call-approves-what-is-known\")\n\
         forbid (principal, action == Action::\"approve\", resource)\n\
         when { context.findings.contains(\"new-scope\") }\n\
         unless { principal in Group::\"shop-leads\" };\n",
    )
    .await;
    refunded(&mut stage.agent()).await;
    let (mut ann, mut sue) =
        (stage.person("ann", &["shop-oncall", "auditors"]), stage.person("sue", &["shop-leads"]));
    let shown = waiting(&mut ann).await;
    assert!(!shown.may_decide && shown.why_not.contains("forbids"), "{shown:?}");
    let grant = shown.grant.unwrap();
    let refused = approve(&mut ann, &grant).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(waiting(&mut sue).await.may_decide);
    approve(&mut sue, &grant).await.unwrap();
    // The next one is known.
    refunded(&mut stage.agent()).await;
    let known = waiting(&mut ann).await;
    assert!(known.may_decide && known.findings.is_empty(), "{known:?}");
    approve(&mut ann, &known.grant.unwrap()).await.unwrap();
    stage.broker.stop().await;
}
