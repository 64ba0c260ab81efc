//! Webhooks are told what happens: in order, signed, until they take it, whatever they do, and nothing that they could misuse.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protem::config::{Fetch, WebhookSettings};
use protem::policy::bundle::Files;
use protem::serve::webhook::Webhooks;
use protem::serve::webhook_run::Pace;
use protem_proto::wire::v1;
use tonic::Code;

use crate::broker::{TestBroker, Wish, ask, fresh_task, policies};
use crate::process::{PATIENCE, until};
use crate::receiver::{Manner, Received, Receiver};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_c2VjcmV0LW9mLWEtcm90YXRlZC1lbmRwb2ludA==";

/// As fast as a test wants; a try ends as late as it does for people, so that no slow machine's answer comes after it.
pub const PACE: Pace = Pace {
    look: Duration::from_millis(20),
    first: Duration::from_millis(20),
    most: Duration::from_millis(100),
    whole: Duration::from_secs(10),
};
/// The same for receivers that never answer.
const HASTY: Pace = Pace { whole: Duration::from_secs(1), ..PACE };

/// A folder for secrets.
pub struct Room(pub tempfile::TempDir);

impl Room {
    pub fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        room.secret(SECRET, 0o600);
        room
    }

    pub fn secret(&self, text: &str, mode: u32) -> PathBuf {
        let file = self.file();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("secret")
    }

    pub fn to(&self, receiver: &Receiver) -> WebhookSettings {
        let (url, secret_file) = (receiver.url(), self.file());
        WebhookSettings { url, secret_file, ..WebhookSettings::default() }
    }
}

pub fn inside() -> Fetch {
    Fetch { allow_private: vec!["127.0.0.0/8".parse().unwrap()] }
}

pub fn made(all: &[(&str, WebhookSettings)]) -> Webhooks {
    let all: BTreeMap<_, _> =
        all.iter().map(|(name, one)| ((*name).to_owned(), one.clone())).collect();
    Webhooks::new(&all, &inside()).unwrap()
}

/// The example bundle, where the shop's on-call group is told by `chat`, and is reminded.
pub fn told_by_chat() -> Files {
    let all = policies();
    let changed = all.iter().map(|(name, content)| {
        let text = str::from_utf8(content).unwrap();
        let text = text
            .replace(
                "claims = { groups = \"shop-oncall\" }",
                "claims = { groups = \"shop-oncall\" }\nnotify = \"chat\"",
            )
            .replace(
                "@decide_within(\"30m\")",
                "@decide_within(\"30m\")\n@remind(\"1s\")\n@then(\"shop-leads\")",
            );
        (Arc::clone(name), text.as_bytes().into())
    });
    changed.collect()
}

pub async fn broker(webhooks: Webhooks) -> TestBroker {
    paced(webhooks, PACE).await
}

pub async fn paced(webhooks: Webhooks, pace: Pace) -> TestBroker {
    let bundle = Some(told_by_chat());
    TestBroker::with(Wish { webhooks, pace, bundle, ..Wish::default() }).await
}

/// A request that waits for people.
pub async fn refund(broker: &TestBroker, purpose: &str) -> v1::Grant {
    let request = v1::RequestAccessRequest {
        scopes: vec!["orders:refund".into()],
        purpose: purpose.into(),
        ..ask(&fresh_task())
    };
    let mut agent = broker.identity("payments/agent");
    let grant = agent.access.request_access(request).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(grant.state(), v1::GrantState::Pending);
    grant
}

/// Why the first of the webhooks is not told what it should be.
pub fn fails(webhooks: &Webhooks) -> Option<String> {
    webhooks.iter().next().unwrap().failing().map(|failing| failing.why)
}

pub fn subjects(received: &[Received]) -> Vec<String> {
    received.iter().map(|one| one.json()["subject"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_receiver_does_it_misses_nothing_and_gets_all_in_order() {
    let (room, mut receiver) = (Room::new(), Receiver::start());
    let elsewhere = Receiver::start();
    let chat = WebhookSettings { events: vec!["pending".into()], ..room.to(&receiver) };
    let webhooks = made(&[("chat", chat)]);
    let broker = paced(webhooks.clone(), HASTY).await;
    receiver.next(&[
        Manner::Status(500),
        Manner::Redirect(elsewhere.url()),
        Manner::Hang,
        Manner::Take,
        Manner::Drip,
        Manner::Cut,
        Manner::Huge,
        Manner::Status(429),
        Manner::Status(204),
    ]);
    let mut asked = Vec::new();
    for number in 0..5 {
        asked.push(refund(&broker, &format!("number {number}")).await.id);
    }
    tokio::task::block_in_place(|| receiver.wait(3));
    receiver.stop();
    for number in 5..8 {
        asked.push(refund(&broker, &format!("number {number}")).await.id);
    }
    let away = || fails(&webhooks).is_some_and(|why| why.contains("no connection"));
    tokio::task::block_in_place(|| until("nobody is there", away));
    receiver.restart();
    let distinct = || {
        let mut taken = receiver.taken();
        // One that was taken in the last moment of its try came too late, and is sent again before any other.
        taken.dedup_by_key(|one| one.id());
        taken
    };
    tokio::task::block_in_place(|| until("the messages arrive", || distinct().len() >= 8));
    let taken = distinct();
    assert_eq!(subjects(&taken), asked, "each of them, in order");
    let ids: BTreeSet<String> = taken.iter().map(Received::id).collect();
    assert_eq!(ids.len(), 8);
    for one in receiver.received() {
        assert!(ids.contains(&one.id()), "every try has the message's own id");
        assert_eq!(one.json()["id"], one.id().as_str());
        assert!(one.signed_by(SECRET) && !one.signed_by(OTHER));
        assert_eq!(one.headers["content-type"], "application/cloudevents+json; charset=utf-8");
    }
    assert!(elsewhere.received().is_empty(), "redirects are not followed");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_receiver_delays_no_other_and_no_request() {
    let (room, bad, good) = (Room::new(), Receiver::start(), Receiver::start());
    bad.always(Some(Manner::Hang));
    let all = |receiver| WebhookSettings { everything: true, ..room.to(receiver) };
    let broker = broker(made(&[("bad", all(&bad)), ("good", all(&good))])).await;
    for number in 0..10 {
        refund(&broker, &format!("number {number}")).await;
    }
    tokio::task::block_in_place(|| good.wait(10));
    // All that while the bad one has the first of them, and says nothing.
    tokio::task::block_in_place(|| until("it hangs", || !bad.received().is_empty()));
    assert!(bad.taken().is_empty());
    let problems =
        protem::serve::webhook_list::problems_of(&Webhooks::default(), &broker.broker).await;
    assert!(
        problems.iter().any(|why| why.contains("`chat`")),
        "a group names what is not there: {problems:?}"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_what() {
    let room = Room::new();
    let [chat, leads, owners, archive, nobody] = [(); 5].map(|()| Receiver::start());
    let of =
        |receiver, group: &str| WebhookSettings { groups: vec![group.into()], ..room.to(receiver) };
    let webhooks = made(&[
        ("chat", room.to(&chat)),
        ("leads", of(&leads, "shop-leads")),
        ("owners", of(&owners, "payments-oncall")),
        ("archive", WebhookSettings { everything: true, ..room.to(&archive) }),
        ("nobody", of(&nobody, "auditors")),
    ]);
    let broker = broker(webhooks).await;
    let grant = refund(&broker, "as agreed").await;
    let what = |receiver: &Receiver| -> Vec<String> {
        let kind = |one: &Received| one.json()["type"].as_str().unwrap().to_owned();
        receiver.taken().iter().map(kind).collect()
    };
    tokio::task::block_in_place(|| until("they are reminded", || what(&leads).len() == 1));
    assert_eq!(
        what(&leads),
        ["protem.request.reminder"],
        "the other group hears of it at the reminder"
    );
    tokio::task::block_in_place(|| chat.wait(2));
    assert_eq!(what(&chat), ["protem.request.pending", "protem.request.reminder"]);
    let pending = chat.taken()[0].json();
    let data = &pending["data"];
    assert_eq!(
        (&pending["specversion"], &pending["source"]),
        (&"1.0".into(), &broker.url.as_str().into())
    );
    assert_eq!(data["link"], format!("{}/ui/requests/{}", broker.url, grant.id));
    assert_eq!(data["command"], format!("protem approve {}", grant.id));
    assert_eq!(data["purpose"], "as agreed");
    assert_eq!(data["scopes"][0]["risk"], "high");
    assert_eq!(data["approvals"]["required"], 1);
    assert_eq!(data["approvals"]["groups"], serde_json::json!(["shop-oncall"]));
    assert_eq!(data["identity"], "payments/agent");
    let text = pending.to_string();
    for never in ["eyJ", "digest", "whsec_", "token"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
    let quarantine = v1::SetQuarantineRequest {
        identity: "payments/agent".into(),
        quarantined: true,
        note: "odd".into(),
    };
    broker.operator().governance.set_quarantine(quarantine).await.unwrap();
    tokio::task::block_in_place(|| until("the owners hear of it", || !what(&owners).is_empty()));
    assert_eq!(what(&owners), ["protem.identity.quarantined"]);
    assert_eq!(owners.taken()[0].json()["data"]["note"], "odd");
    // The wait is over with it, and those who were asked hear that too.
    let over = "protem.grant.ended".to_owned();
    tokio::task::block_in_place(|| until("they hear of the end", || what(&chat).contains(&over)));
    tokio::task::block_in_place(|| until("the archive has all", || what(&archive).contains(&over)));
    let ended = chat.taken().into_iter().find(|one| one.json()["type"] == over.as_str()).unwrap();
    assert_eq!(ended.json()["data"]["end"]["reason"], "quarantined");
    assert!(nobody.received().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_is_told_once_and_how_it_ended_if_that_is_news() {
    let (room, chat, deaf) = (Room::new(), Receiver::start(), Receiver::start());
    let only =
        |receiver, what: &str| WebhookSettings { events: vec![what.into()], ..room.to(receiver) };
    let both = WebhookSettings { events: vec!["decided".into(), "ended".into()], ..room.to(&chat) };
    let broker = broker(made(&[("chat", both), ("deaf", only(&deaf, "quarantined"))])).await;
    let mut ann = broker.person("ann", &["shop-oncall"]);
    let mut agent = broker.identity("payments/agent");
    let decide = |grant: &v1::Grant, approve, reason: &str| v1::DecideRequest {
        grant_id: grant.id.clone(),
        digest: grant.digest.clone(),
        approve,
        reason: reason.into(),
        ..Default::default()
    };
    let told =
        |count: usize| tokio::task::block_in_place(|| chat.wait(count)).pop().unwrap().json();
    // Approved, and shorter than it was asked for.
    let yes = refund(&broker, "approved").await;
    let shorter = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let wish = v1::DecideRequest { lifetime: shorter, ..decide(&yes, true, "go ahead") };
    ann.approvals.decide(wish).await.unwrap();
    let (one, data) = (told(1), told(1)["data"].clone());
    assert_eq!(
        (&one["type"], &one["subject"]),
        (&"protem.request.decided".into(), &yes.id.as_str().into())
    );
    assert_eq!(data["approvals"]["given_by"], serde_json::json!(["ann"]));
    assert_eq!((&data["actor"], &data["lifetime_seconds"]), (&"person:ann".into(), &60.into()));
    assert!(data["until"].is_string() && data["end"].is_null(), "{data}");
    assert!(!one.to_string().contains("eyJ"), "no credential is in it: {one}");
    // Denied.
    let no = refund(&broker, "denied").await;
    ann.approvals.decide(decide(&no, false, "wrong ticket")).await.unwrap();
    let one = told(2);
    assert_eq!(
        (&one["type"], &one["subject"]),
        (&"protem.request.decided".into(), &no.id.as_str().into())
    );
    assert_eq!(
        one["data"]["end"],
        serde_json::json!({ "reason": "denied", "note": "wrong ticket" })
    );
    // Nobody decides what its job takes back: that is an end and no decision.
    let back = refund(&broker, "withdrawn").await;
    let give = v1::ReturnGrantRequest { grant_id: back.id.clone(), note: "not needed".into() };
    agent.access.return_grant(give).await.unwrap();
    let one = told(3);
    assert_eq!(
        (&one["type"], &one["subject"]),
        (&"protem.grant.ended".into(), &back.id.as_str().into())
    );
    assert_eq!(one["data"]["end"]["reason"], "withdrawn");
    // What was approved and ends as it should is nobody's news; what is cut short is.
    let give = v1::ReturnGrantRequest { grant_id: yes.id.clone(), note: "done".into() };
    agent.access.return_grant(give).await.unwrap();
    let cut = refund(&broker, "cut short").await;
    ann.approvals.decide(decide(&cut, true, "")).await.unwrap();
    assert_eq!(told(4)["subject"], cut.id.as_str());
    let target = v1::selector::By::Grant(cut.id.clone());
    broker.operator().revoke(target).await.unwrap();
    let one = told(5);
    assert_eq!(
        (&one["type"], &one["subject"]),
        (&"protem.grant.ended".into(), &cut.id.as_str().into())
    );
    assert_eq!(one["data"]["end"]["reason"], "revoked");
    assert_eq!((chat.taken().len(), deaf.received().len()), (5, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_is_told_to_those_who_were_skipped() {
    let (room, chat) = (Room::new(), Receiver::start());
    let broker = broker(made(&[("chat", room.to(&chat))])).await;
    let mut agent = broker.identity("payments/agent");
    let request = v1::RequestAccessRequest {
        scopes: vec!["orders:refund".into()],
        purpose: "the shop is down".into(),
        emergency: true,
        ..ask(&fresh_task())
    };
    let granted = agent.access.request_access(request.clone()).await.unwrap().into_inner();
    assert!(granted.credential.is_some());
    let told = tokio::task::block_in_place(|| chat.wait(1));
    assert_eq!(told[0].json()["type"], "protem.grant.emergency");
    assert_eq!(told[0].json()["data"]["purpose"], "the shop is down");
    let text = String::from_utf8(told[0].body.clone()).unwrap();
    assert!(!text.contains("eyJ"), "no credential is in it: {text}");
    agent.complete(&request.task.unwrap().id).await.unwrap();
    let told = tokio::task::block_in_place(|| chat.wait(2));
    assert_eq!(told[1].json()["type"], "protem.grant.ended");
    // What was granted at once, and ended as it should, is nobody's news.
    let task = fresh_task();
    agent.ask(&task).await.unwrap();
    agent.complete(&task).await.unwrap();
    let next = refund(&broker, "after it").await;
    let told = tokio::task::block_in_place(|| chat.wait(3));
    assert_eq!(subjects(&told)[2], next.id);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_parked_in_sight_and_sent_again() {
    let (room, chat) = (Room::new(), Receiver::start());
    chat.always(Some(Manner::Status(500)));
    let give_up = protem::config::Span(Duration::ZERO);
    let settings = WebhookSettings { give_up, events: vec!["pending".into()], ..room.to(&chat) };
    let webhooks = made(&[("chat", settings)]);
    let broker = broker(webhooks.clone()).await;
    let first = refund(&broker, "first").await.id;
    let mut operator = broker.operator();
    let end = Instant::now() + PATIENCE;
    let shown = loop {
        let shown = operator.governance.list_webhooks(v1::ListWebhooksRequest {}).await.unwrap();
        let shown = shown.into_inner().webhooks.remove(0);
        if shown.parked_count == 1 {
            break shown;
        }
        assert!(Instant::now() < end, "it is never parked: {shown:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let parked = &shown.parked[0];
    assert_eq!((parked.what.as_str(), parked.tries), ("pending", 3));
    assert!(parked.why.contains("500") && !parked.why.contains("s3cret-path"), "{parked:?}");
    let problems = protem::serve::webhook_list::problems_of(&webhooks, &broker.broker).await;
    assert!(problems.iter().any(|why| why.contains("1 messages are parked")), "{problems:?}");
    // What comes after it is not held up.
    chat.always(None);
    let second = refund(&broker, "second").await.id;
    tokio::task::block_in_place(|| chat.wait(1));
    let retry = v1::RetryWebhookRequest { name: "chat".into() };
    let mut agent = broker.identity("payments/agent");
    let refused = agent.governance.retry_webhook(retry.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = agent.governance.list_webhooks(v1::ListWebhooksRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let sent = operator.governance.retry_webhook(retry).await.unwrap().into_inner();
    assert_eq!(sent.messages, 1);
    let taken = tokio::task::block_in_place(|| chat.wait(2));
    assert_eq!(subjects(&taken), [second, first]);
    assert_eq!(taken[1].id(), chat.received()[0].id(), "it is still the same message");
    let nothing = v1::RetryWebhookRequest { name: "other".into() };
    let refused = operator.governance.retry_webhook(nothing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_change_without_a_restart_and_are_never_left_out() {
    let (room, chat) = (Room::new(), Receiver::start());
    let settings = WebhookSettings { events: vec!["pending".into()], ..room.to(&chat) };
    let webhooks = made(&[("chat", settings)]);
    let broker = broker(webhooks.clone()).await;
    let told = async |count: usize| {
        refund(&broker, "again").await;
        let taken = tokio::task::block_in_place(|| chat.wait(count));
        (taken[count - 1].signed_by(SECRET), taken[count - 1].signed_by(OTHER))
    };
    assert_eq!(told(1).await, (true, false));
    room.secret(&format!("{OTHER}\n{SECRET}\n"), 0o600);
    assert_eq!(told(2).await, (true, true));
    room.secret(OTHER, 0o600);
    assert_eq!(told(3).await, (false, true));
    // Others could have read it: better late than signed by them.
    room.secret(OTHER, 0o644);
    refund(&broker, "late").await;
    let unsigned = || fails(&webhooks).is_some_and(|why| why.contains("0600"));
    tokio::task::block_in_place(|| until("it is not signed", unsigned));
    assert_eq!(chat.received().len(), 3);
    room.secret(OTHER, 0o600);
    let taken = tokio::task::block_in_place(|| chat.wait(4));
    assert!(taken[3].signed_by(OTHER));
    broker.stop().await;
}
