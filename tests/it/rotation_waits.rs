//! When a key begins to sign: not before everybody who must know it does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protem::engine::plan::Schedule;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;

use crate::broker::{TestBroker, Wish, fresh_task};
use crate::key_scope::Guard;
use crate::process::PATIENCE;
use crate::rotation::{kid, list, rotate, signing};

/// The machine's clock, which a test lets run ahead.
#[derive(Default)]
struct Hurried(Mutex<Duration>);

impl Hurried {
    fn hurry(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for Hurried {
    fn unix(&self) -> Duration {
        SystemClock.unix() + *self.0.lock().unwrap()
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + *self.0.lock().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_by_hand_when_everybody_knows_the_next() {
    let jwks_wait = Duration::from_secs(60);
    let rotation = Schedule { rotate_every: None, jwks_wait };
    let clock = Arc::<Hurried>::default();
    let wish = Wish { rotation, clock: Some(clock.clone()), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let guard = Guard::of(&broker).await;
    let mut agent = broker.identity("payments/agent");
    let token = agent.ask(&fresh_task()).await.unwrap().credential.unwrap().token;
    let old = kid(&token);
    let asked = rotate("credential", &old, false);
    let done = broker.operator().governance.rotate_key(asked.clone()).await.unwrap().into_inner();
    assert_eq!(done.replaced, old);
    assert!(!done.signs && !done.waits_for.is_empty(), "pollers had no time yet: {done:?}");
    assert_eq!(signing(&list(&broker).await, "credential").key_id, old, "it signs on");
    clock.hurry(jwks_wait);
    let end = Instant::now() + PATIENCE;
    while signing(&list(&broker).await, "credential").key_id != done.key_id {
        assert!(Instant::now() < end, "never: {:?}", list(&broker).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(guard.reads_orders(&token).await, Ok(()), "what it signed lives to its end");
    let keys = list(&broker).await;
    let next = keys.iter().find(|key| key.key_id == done.key_id).unwrap();
    let waited = span(next.signs_since) - span(next.created);
    assert!(waited >= jwks_wait, "pollers had {waited:?}");
    let next = agent.ask(&fresh_task()).await.unwrap().credential.unwrap().token;
    assert_eq!(kid(&next), done.key_id);
    let kept = broker.folder.path().join("keys").join(format!("{old}.key"));
    assert!(kept.exists(), "a request that is repeated needs it while its token lives");
    broker.operator().governance.rotate_key(asked).await.expect("a repeated call is no fault");
    assert_eq!(signing(&list(&broker).await, "credential").key_id, done.key_id, "and no rotation");
    broker.stop().await;
}

/// A gateway that is fresh and does not say that it knows a key is waited for until it must be stale.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_not_sign_before_a_silent_gateway_must_be_stale() {
    let every = Some(Duration::from_millis(500));
    let rotation = Schedule { rotate_every: every, jwks_wait: Duration::ZERO };
    let broker = TestBroker::with(Wish { rotation, ..Wish::default() }).await;
    let (say, said) = tokio::sync::mpsc::unbounded_channel();
    let said = tokio_stream::wrappers::UnboundedReceiverStream::new(said);
    let open = v1::Open {
        gateway: "edge-eu-1".into(),
        resources: vec!["orders-api".into()],
        enforcing: true,
        instance: "silent".into(),
        version: 1,
        ..v1::Open::default()
    };
    let message = |message| v1::SubscribeRequest { message: Some(message) };
    say.send(message(v1::subscribe_request::Message::Open(open))).unwrap();
    let mut gateway = broker.gateway("edge-eu-1");
    let mut heard = gateway.revocations.subscribe(said).await.unwrap().into_inner();
    let hearing = tokio::spawn(async move { while let Ok(Some(_)) = heard.message().await {} });
    let pinging = tokio::spawn(async move {
        for nonce in 0_u64.. {
            let ping = v1::Ping { nonce: nonce.to_be_bytes().into(), ..v1::Ping::default() };
            let ping = message(v1::subscribe_request::Message::Ping(ping));
            if say.send(ping).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let end = Instant::now() + PATIENCE;
    let next = loop {
        // The gateway is there, and one key is always known ahead.
        let is_next = |key: &v1::Key| key.purpose == "credential" && key.state == "published";
        let keys = list(&broker).await;
        let waits = keys.iter().find(|key| is_next(key) && key.known_by.len() == 1);
        if let Some(key) = waits {
            break key.clone();
        }
        assert!(Instant::now() < end, "no key waits for it: {keys:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let signs = loop {
        let known = list(&broker).await.into_iter().find(|key| key.key_id == next.key_id);
        if let Some(key) = known.filter(|key| key.signs_since.is_some()) {
            break key;
        }
        assert!(Instant::now() < end, "it never signs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let waited = span(signs.signs_since) - span(signs.created);
    // The greatest `fresh` of the repository's bundle.
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
    pinging.abort();
    hearing.abort();
    broker.stop().await;
}

/// Since the epoch.
fn span(stamp: Option<prost_types::Timestamp>) -> Duration {
    let stamp = stamp.unwrap();
    Duration::new(stamp.seconds.try_into().unwrap(), stamp.nanos.try_into().unwrap())
}
