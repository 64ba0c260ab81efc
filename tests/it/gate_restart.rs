//! A broker that is restarted while it is busy: gates find it again before anything that counts is refused for being stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bundle::{FILES, NARROW, WORKERS};
use crate::drain::ask;
use crate::gate::Gate;
use crate::process::{Broker, PATIENCE};

/// The credential's `fresh` is 5 s; a broker that takes longer than this from its signal to its next answer leaves a gate no
/// time to find it, and shows nothing: it is restarted again.
const SWIFT: Duration = Duration::from_secs(3);
const RESTARTS_MAX: u32 = 8;
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_busy_broker_is_restarted_and_no_gate_goes_stale() {
    let mut broker = tokio::task::block_in_place(|| Broker::with_bundle(FILES));
    let gate = Arc::new(tokio::task::block_in_place(|| Gate::start(&broker, &[])));
    let line = ["request", "--task", "t-1", "--on", "orders-api", "--scope", "orders:read"];
    let token = tokio::task::block_in_place(|| broker.run(NARROW[0], &line).expect(0).out);
    let (stop, granted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = broker.client(WORKERS[caller % WORKERS.len()]);
            let (stop, granted) = (Arc::clone(&stop), Arc::clone(&granted));
            tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match ask(&client, &format!("r-{caller}-{number}")).await {
                        Ok(_) => drop(granted.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            })
        })
        .collect();
    let refused = Arc::new(AtomicU64::new(0));
    let (asking, ended, count) = (Arc::clone(&gate), Arc::clone(&stop), Arc::clone(&refused));
    let checker = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            if asking.nginx("GET", "/v1/orders", token.trim()).status != 200 {
                count.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut swift = 0;
    for round in 0..RESTARTS_MAX {
        let before = granted.load(Ordering::Relaxed);
        wait("the broker is busy", || granted.load(Ordering::Relaxed) > before + 100).await;
        let (since, bad) = (Instant::now(), refused.load(Ordering::Relaxed));
        tokio::task::block_in_place(|| {
            broker.signal(Signal::TERM);
            assert_eq!(broker.ended(PATIENCE), Some(0));
            broker.start();
        });
        let took = since.elapsed();
        wait("the gate has a new proof", || gate.probe("/readyz").status == 200).await;
        let bad = refused.load(Ordering::Relaxed) - bad;
        println!("restart {round}: {took:?}, {bad} refusals");
        if took <= SWIFT {
            assert_eq!(bad, 0, "after {took:?}: {}", gate.log());
            swift += 1;
        }
        if swift == 3 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    checker.join().unwrap();
    for caller in load {
        caller.await.unwrap();
    }
    assert!(swift > 0, "no restart took less than {SWIFT:?}");
}

async fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !tokio::task::block_in_place(&done) {
        assert!(Instant::now() < end, "not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
