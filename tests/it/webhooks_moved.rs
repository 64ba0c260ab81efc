//! A bundle that changes who is told loses no message: not while the former webhook fails, and not if it never comes back.

use protem::config::WebhookSettings;
use protem::policy::bundle::Files;
use serde_json::Value;

use crate::broker::{TestBroker, Wish, policies};
use crate::process::until;
use crate::receiver::{Manner, Receiver};
use crate::streams::{apply, edited};
use crate::webhooks::{PACE, Room, made, refund, subjects, told_by_chat};

/// The same bundle, with another `notify` of the shop's on-call group.
fn told_by(notify: &str) -> Files {
    edited(&told_by_chat(), "people.toml", |text| text.replace("notify = \"chat\"", notify))
}

/// Two webhooks, of which groups name the first; the requests of which it was to be told while it failed.
async fn failing(
    old: &Receiver,
    new: &Receiver,
    manner: Manner,
    what: &str,
    room: &Room,
) -> (TestBroker, Vec<String>) {
    old.always(Some(manner));
    let only = |one| WebhookSettings { events: vec![what.into()], ..room.to(one) };
    let webhooks = made(&[("chat", only(old)), ("pager", only(new))]);
    let wish = Wish { webhooks, pace: PACE, bundle: Some(told_by_chat()), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let mut asked = Vec::new();
    for number in 0..3 {
        asked.push(refund(&broker, &format!("number {number}")).await.id);
    }
    tokio::task::block_in_place(|| until("it is tried", || !old.received().is_empty()));
    (broker, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_webhook_was_to_tell_moves_with_its_group() {
    for manner in [Manner::Status(500), Manner::Status(429)] {
        let (room, old, new) = (Room::new(), Receiver::start(), Receiver::start());
        let (broker, mut asked) = failing(&old, &new, manner, "pending", &room).await;
        apply(&broker, &told_by("notify = \"pager\"")).await;
        asked.push(refund(&broker, "after it").await.id);
        let taken = tokio::task::block_in_place(|| new.wait(4));
        let mut subjects = subjects(&taken);
        subjects.sort_unstable();
        asked.sort_unstable();
        assert_eq!(subjects, asked);
        assert!(old.taken().is_empty());
        // Nobody tells them again.
        old.always(None);
        let last = refund(&broker, "the last").await.id;
        let taken = tokio::task::block_in_place(|| new.wait(5));
        assert_eq!(taken[4].json()["subject"], last.as_str());
        assert!(old.taken().is_empty(), "{:?}", old.taken());
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_else_is_told_now_stays_where_it_was() {
    let (room, old, new) = (Room::new(), Receiver::start(), Receiver::start());
    let (broker, mut asked) = failing(&old, &new, Manner::Status(500), "pending", &room).await;
    apply(&broker, &told_by("")).await;
    // It concerns nobody who could be told.
    refund(&broker, "after it").await;
    old.always(None);
    let taken = tokio::task::block_in_place(|| old.wait(3));
    let mut subjects = subjects(&taken);
    subjects.sort_unstable();
    asked.sort_unstable();
    assert_eq!(subjects, asked);
    assert!(new.received().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_that_failed_moves_with_its_group() {
    let (room, old, new) = (Room::new(), Receiver::start(), Receiver::start());
    let (broker, mut asked) = failing(&old, &new, Manner::Status(500), "reminder", &room).await;
    tokio::task::block_in_place(|| {
        until("each is tried", || {
            let mut tried = subjects(&old.received());
            tried.sort_unstable();
            tried.dedup();
            tried.len() == 3
        });
    });
    apply(&broker, &told_by("notify = \"pager\"")).await;
    let taken = tokio::task::block_in_place(|| new.wait(3));
    let mut subjects = subjects(&taken);
    subjects.sort_unstable();
    asked.sort_unstable();
    assert_eq!(subjects, asked);
    assert!(taken.iter().all(|one| one.json()["type"] == "protem.request.reminder"));
    assert!(old.taken().is_empty());
    broker.stop().await;
}

/// Two groups, each with a webhook of its own.
#[tokio::test(flavor = "multi_thread")]
async fn whom_a_new_bundle_asks_hears_of_what_waits() {
    let (room, oncall, leads) = (Room::new(), Receiver::start(), Receiver::start());
    let of = |receiver, group: &str| WebhookSettings {
        events: vec!["pending".into()],
        groups: vec![group.into()],
        ..room.to(receiver)
    };
    let webhooks =
        made(&[("oncall", of(&oncall, "shop-oncall")), ("leads", of(&leads, "shop-leads"))]);
    // The cases of the bundle are about its own people.
    let all = policies();
    let files: Files =
        all.iter().filter(|(name, _)| !name.starts_with("tests/")).cloned().collect();
    let wish = Wish { webhooks, pace: PACE, bundle: Some(files.clone()), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let grant = refund(&broker, "as agreed").await.id;
    let first = tokio::task::block_in_place(|| oncall.wait(1))[0].json();
    assert_eq!(
        (&first["subject"], &first["data"]["changed"]),
        (&grant.as_str().into(), &Value::Null)
    );
    let files = edited(&files, "people.cedar", |text| {
        let from = "principal in Group::\"shop-oncall\", action == Action::\"approve\"";
        text.replace(from, "principal in Group::\"shop-leads\", action == Action::\"approve\"")
    });
    apply(&broker, &files).await;
    let asked = tokio::task::block_in_place(|| leads.wait(1))[0].json();
    assert_eq!((&asked["type"], &asked["subject"]), (&first["type"], &first["subject"]));
    assert_ne!(asked["id"], first["id"]);
    assert_eq!(asked["data"]["changed"], Value::Null);
    assert_eq!(asked["data"]["approvals"]["groups"], serde_json::json!(["shop-leads"]));
    // What it says is other than before, too.
    let files = edited(&files, "payments.cedar", |text| {
        let from = "resource == Scope::\"orders-api#orders:refund\"\n);\n\n@id(\"payments-breaks";
        text.replace(from, &from.replace(");", ") when { true };"))
    });
    apply(&broker, &files).await;
    let changed = tokio::task::block_in_place(|| leads.wait(2))[1].json();
    assert_eq!((&changed["type"], &changed["subject"]), (&first["type"], &first["subject"]));
    assert_eq!(changed["data"]["changed"], true);
    let summary = changed["data"]["summary"].as_str().unwrap();
    assert!(summary.ends_with("earlier approvals no longer count"), "{summary}");
    assert_eq!((oncall.taken().len(), leads.taken().len()), (1, 2));
    broker.stop().await;
}
