//! A broker that is killed while it tells a webhook: nothing is lost, and what is told twice has the same id.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::process::{Broker, until};
use crate::receiver::{Manner, Received, Receiver};
use crate::webhooks::SECRET;

/// How often the broker is killed.
const KILLS: usize = 6;

/// A broker, a process of its own, that tells a receiver of all that begins to wait.
pub fn telling(chat: &Receiver) -> Broker {
    let mut broker = Broker::example();
    broker.kill();
    let secret = broker.home().join("chat.secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = format!(
        "[fetch]\nallow_private = [\"127.0.0.1/32\"]\n\
         [webhook.chat]\nurl = \"{}\"\nsecret_file = \"{}\"\neverything = true\nevents = [\"pending\"]\n",
        chat.url(),
        secret.display()
    );
    std::fs::write(broker.home().join("protem.toml"), settings).unwrap();
    broker.start();
    broker
}

#[test]
fn kill_9_loses_no_message() {
    let chat = Receiver::start();
    let mut broker = telling(&chat);
    let mut asked = Vec::new();
    for round in 0..KILLS {
        // Now the receiver fails, now it takes the message and the broker may die before it has noted that.
        let fails = round % 2 == 0;
        chat.always(fails.then_some(Manner::Status(429)));
        let task = format!("round-{round}");
        let line =
            ["request", "--task", &task, "--kind", "agent", "--on", "orders-api", "-o", "json"];
        broker.run(
            "payments/agent",
            &[&line[..], &["--scope", "orders:refund", "--purpose", "x"]].concat(),
        );
        let listed = broker.run("olga:operators", &["grants", "-o", "json"]).expect(0).json();
        asked.push(listed["grants"][0]["id"].as_str().unwrap().to_owned());
        let before = chat.received().len();
        if round % 3 != 2 {
            until("it is tried", || chat.received().len() > before || !chat.received().is_empty());
        }
        std::thread::sleep(Duration::from_millis(30 * u64::try_from(round).unwrap()));
        broker.kill();
        broker.start();
    }
    chat.always(None);
    let distinct = || chat.taken().iter().map(Received::id).collect::<BTreeSet<_>>();
    until("all arrive", || distinct().len() == KILLS);
    let taken = chat.taken();
    let mut subjects: Vec<String> = Vec::new();
    for one in &taken {
        assert!(one.signed_by(SECRET));
        let subject = one.json()["subject"].as_str().unwrap().to_owned();
        if subjects.last() != Some(&subject) {
            subjects.push(subject);
        }
    }
    assert_eq!(subjects, asked, "in order, and one that came twice came twice in a row");
    let ids: BTreeSet<String> = chat.received().iter().map(Received::id).collect();
    assert_eq!(ids.len(), KILLS, "no message has two ids");
    let shown = broker.run("olga:operators", &["webhooks"]).expect(0).out;
    assert!(shown.contains("chat") && shown.contains("told"), "{shown}");
    let again = broker.run("olga:operators", &["webhooks", "--retry", "chat"]).expect(0).out;
    assert!(again.contains("0 messages"), "{again}");
    assert!(!broker.log().contains("s3cret-path"), "the URL may be a secret");
}
