//! What a webhook's receiver fails to take is set aside: it holds up no other message, and comes all the same.

use protem::config::WebhookSettings;
use protem_proto::wire::v1;

use crate::broker::TestBroker;
use crate::process::until;
use crate::receiver::{Received, Receiver};
use crate::webhooks::{PACE, Room, broker, made, refund, subjects};
use crate::webhooks_kill::telling;

async fn shown(broker: &TestBroker) -> v1::Webhook {
    let mut operator = broker.operator();
    let listed = operator.governance.list_webhooks(v1::ListWebhooksRequest {}).await.unwrap();
    listed.into_inner().webhooks.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_holds_up_no_other_and_comes_in_the_end() {
    let (room, chat) = (Room::new(), Receiver::start());
    chat.refuse(&[("pending", "poison")]);
    let settings = WebhookSettings { events: vec!["pending".into()], ..room.to(&chat) };
    let webhooks = made(&[("chat", settings)]);
    let broker = broker(webhooks.clone()).await;
    let mut bad = [refund(&broker, "poison").await.id, refund(&broker, "poison too").await.id];
    let mut good = Vec::new();
    for number in 0..4 {
        good.push(refund(&broker, &format!("number {number}")).await.id);
    }
    let taken = tokio::task::block_in_place(|| chat.wait(4));
    assert_eq!(subjects(&taken), good, "in the log's order");
    let shown = shown(&broker).await;
    assert_eq!((shown.aside_count, shown.parked_count), (2, 0), "{shown:?}");
    let mut aside: Vec<_> = shown.aside.iter().map(|one| (one.seq, one.what.as_str())).collect();
    aside.sort_unstable();
    assert_eq!(aside.iter().map(|one| one.1).collect::<Vec<_>>(), ["pending", "pending"]);
    assert!(shown.aside.iter().all(|one| one.why.contains("500") && one.next_try.is_some()));
    let problems = protem::serve::webhook_list::problems_of(&webhooks, &broker.broker).await;
    assert!(problems.iter().any(|why| why.contains("2 messages are set aside")), "{problems:?}");
    // It is tried again and again, and others go on.
    let before = chat.received().len();
    tokio::task::block_in_place(|| {
        until("they are tried again", || chat.received().len() >= before + 4);
    });
    good.push(refund(&broker, "one more").await.id);
    tokio::task::block_in_place(|| chat.wait(5));
    chat.refuse(&[]);
    let taken = tokio::task::block_in_place(|| chat.wait(7));
    let mut late = subjects(&taken).split_off(5);
    late.sort_unstable();
    bad.sort_unstable();
    assert_eq!((&subjects(&taken)[..5], &late[..]), (&good[..], &bad[..]));
    for one in &taken {
        let tries = chat.received().into_iter().filter(|other| other.body == one.body);
        assert!(tries.into_iter().all(|other| other.id() == one.id()), "each try has its id");
    }
    while self::shown(&broker).await.aside_count > 0 {
        tokio::time::sleep(PACE.look).await;
    }
    broker.stop().await;
}

fn said(received: &[Received]) -> Vec<(String, String)> {
    let word = |one: &Received, field: &str| one.json()[field].as_str().unwrap().to_owned();
    received.iter().map(|one| (word(one, "type"), word(one, "subject"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_request_is_told_after_the_request() {
    let (room, chat) = (Room::new(), Receiver::start());
    // Only the question: what came of it would be taken.
    chat.refuse(&[("protem.request.pending", "a bad one")]);
    let events = vec!["pending".into(), "decided".into(), "ended".into()];
    let broker = broker(made(&[("chat", WebhookSettings { events, ..room.to(&chat) })])).await;
    let bad = refund(&broker, "a bad one").await;
    let mut ann = broker.person("ann", &["shop-oncall"]);
    let yes = v1::DecideRequest {
        grant_id: bad.id.clone(),
        digest: bad.digest.clone(),
        approve: true,
        ..Default::default()
    };
    ann.approvals.decide(yes).await.unwrap();
    broker.operator().revoke(v1::selector::By::Grant(bad.id.clone())).await.unwrap();
    let good = refund(&broker, "a good one").await;
    tokio::task::block_in_place(|| chat.wait(1));
    let pending = || "protem.request.pending".to_owned();
    assert_eq!(said(&chat.taken()), [(pending(), good.id.clone())], "it went past all of them");
    let shown = shown(&broker).await;
    let mut aside: Vec<_> = shown.aside.iter().collect();
    aside.sort_unstable_by_key(|one| one.seq);
    let why: Vec<(&str, bool)> =
        aside.iter().map(|one| (one.what.as_str(), one.why.contains("follows"))).collect();
    assert_eq!(why, [("pending", false), ("decided", true), ("ended", true)], "{shown:?}");
    chat.refuse(&[]);
    let taken = tokio::task::block_in_place(|| chat.wait(4));
    let words = ["protem.request.pending", "protem.request.decided", "protem.grant.ended"];
    let all = words.map(|what| (what.to_owned(), bad.id.clone()));
    assert_eq!(said(&taken[1..]), all);
    broker.stop().await;
}

#[test]
fn what_is_set_aside_outlives_kill_9() {
    let chat = Receiver::start();
    let mut broker = telling(&chat);
    chat.refuse(&[("pending", "poison")]);
    for purpose in ["poison", "good"] {
        let line = ["request", "--kind", "agent", "--on", "orders-api", "--scope", "orders:refund"];
        let (task, purpose) = (["--task", purpose], ["--purpose", purpose]);
        broker.run("payments/agent", &[&line[..], &task, &purpose].concat()).expect(6);
    }
    chat.wait(1);
    let shown = broker.run("olga:operators", &["webhooks"]).expect(0).out;
    let row = shown.lines().find(|line| line.contains("set aside"));
    assert!(row.is_some_and(|row| row.contains("pending") && row.contains("500")), "{shown}");
    broker.kill();
    broker.start();
    chat.refuse(&[]);
    let taken = chat.wait(2);
    assert_eq!(taken[1].json()["data"]["purpose"], "poison");
    assert_eq!(taken[1].id(), chat.received()[0].id(), "it is still the same message");
}
