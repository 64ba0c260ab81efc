//! What is usual, as readers beside the turns see it: after each answer, after a restart, after a sweep.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::{Clock as _, ManualClock, SystemClock};
use protem_core::event::Event;
use protem_core::state::State;
use protem_core::usual::{REMEMBERED, Usual};
use protem_verify::ids::Seq;

use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, ask, caller};
use crate::engine::usual::Mirror;
use crate::policy::bundle::read_folder;
use crate::policy::login::{Caller, Login};

const DAY: Duration = Duration::from_secs(86_400);

fn agent(broker: &Broker) -> Caller {
    caller(broker, Login::dev_identity("payments/agent"))
}

fn words(broker: &Broker, by: &Caller) -> Vec<String> {
    let found = broker.findings(&ask(by, "next", None), broker.now());
    found.iter().map(|one| one.split_once(':').unwrap().0.to_owned()).collect()
}

async fn grant(broker: &Broker, by: &Caller, number: u32) {
    let granted = broker.request_access(by, ask(by, &format!("t-{number}"), None)).await.unwrap();
    assert!(granted.credential.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_usual_is_known_with_the_answer_and_after_a_restart() {
    let home = Home::new();
    let clock = Arc::new(ManualClock::new(SystemClock.unix()));
    let start = || {
        let bundle = read_folder(Path::new("policies")).unwrap();
        home.start_on(bundle, clock.clone()).unwrap()
    };
    let broker = start();
    let by = agent(&broker);
    assert_eq!(words(&broker, &by), ["new-resource", "new-scope"]);
    for number in 0..24 {
        grant(&broker, &by, number).await;
        assert!(words(&broker, &by).is_empty(), "the answer came after it was known");
        if number % 3 == 2 {
            clock.advance(DAY);
        }
    }
    clock.advance(DAY / 2);
    assert_eq!(words(&broker, &by), ["unusual-hour"]);
    broker.stop().await;
    drop(broker);
    let broker = start();
    assert_eq!(words(&broker, &by), ["unusual-hour"]);
    clock.advance(DAY * 30);
    assert_eq!(words(&broker, &by), ["unusual-hour", "dormant"]);
    clock.advance(DAY * 60);
    assert_eq!(words(&broker, &by), ["new-resource", "new-scope", "dormant"]);
    broker.stop().await;
}

/// What readers hold is no more than the state, some hours later.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_forgets_is_let_go_of() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let by = agent(&broker);
    grant(&broker, &by, 1).await;
    let mut state = State::new();
    let rows = broker.reader().read(Seq(0), 1_000).unwrap();
    rows.iter().for_each(|row| state.apply(row.at(), row.what()));
    broker.stop().await;
    let name = "payments/agent".try_into().unwrap();
    let mirror = Mirror::default();
    mirror.learn(&state);
    mirror.committed(&[], &state);
    let (known, last) = (mirror.get(&name).unwrap(), state.last_at());
    let later = |hours: u32| last + Duration::from_secs(3_600) * hours;
    state.sweep(later(REMEMBERED), usize::MAX);
    mirror.committed(&[], &state);
    assert_eq!(mirror.get(&name), Some(Arc::clone(&known)), "no entry told of it");
    for hour in 1..=64 {
        let digest = state.bundle().unwrap();
        state.apply(later(REMEMBERED + hour), &Event::BundleSettled { digest });
        mirror.committed(&[], &state);
    }
    let bare = Usual { last: known.last, ..Usual::default() };
    assert_eq!(mirror.get(&name).as_deref(), Some(&bare));
}
