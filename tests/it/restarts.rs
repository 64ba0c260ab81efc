//! A broker that is restarted under load costs nobody access: a gate's view outlives the gap.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protem::cli::ask::fresh_key;
use protem::cli::client::Client;
use protem_proto::wire::v1;
use rustix::process::Signal;
use tonic::Code;

use crate::process::{Broker, PATIENCE, until};
use crate::proxies::bundle::{FILES, FLEETING, ORDERS, STEADY};
use crate::proxies::gate::ask;
use crate::proxies::prober::Prober;
use crate::proxies::site::{credential, fresh_gate};

/// The `fresh` of the credentials that must not notice.
const FRESH: &str = "5s";
/// How long a restart may take, from the signal to the first answer, for the gate to be held to that: what is left of [`FRESH`] is for
/// the age of its newest proof, a pause and the next one. A machine that needs longer tells nothing about the gate.
const AWAY: Duration = Duration::from_secs(3);
/// Restarts that no caller of the gate noticed, and how many are tried.
const UNNOTICED: usize = 2;
const TRIED: usize = 12;
/// Restarts that were as short as that, of which callers noticed every single one: more than a loaded machine makes of a gate that
/// finds its broker in time.
const NOTICED: usize = 5;
/// Callers that ask and complete all the while.
const CALLERS: usize = 16;

/// What the callers share.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    /// The broker is on its way, and has a new key for the tokens of callers: who came with an old one would only be in the way.
    away: AtomicBool,
    done: AtomicUsize,
}

/// Asks for access and gives it back, over and over; a broker that is away is waited for.
async fn work(client: Client, load: Arc<Load>, caller: usize) {
    for number in 0.. {
        while load.away.load(Ordering::Relaxed) && !load.over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if load.over.load(Ordering::Relaxed) {
            return;
        }
        let task = format!("w-{caller}-{number}");
        let ask = v1::RequestAccessRequest {
            task: Some(v1::Task { id: task.clone(), kind: "load".into(), url: String::new() }),
            resource: ORDERS.into(),
            scopes: vec!["orders:read".into()],
            request_id: fresh_key().to_string(),
            ..v1::RequestAccessRequest::default()
        };
        let complete = v1::CompleteTaskRequest { task_id: task, ..Default::default() };
        let asked = client.access().request_access(ask).await.map(drop);
        let ended = match asked {
            Ok(()) => client.access().complete_task(complete).await.map(drop),
            Err(status) => Err(status),
        };
        match ended {
            Ok(()) => drop(load.done.fetch_add(1, Ordering::Relaxed)),
            Err(status) => {
                let away =
                    [Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Unauthenticated];
                let lost = [Code::NotFound, Code::FailedPrecondition];
                // A loaded machine may not get to an answer in time, and says so.
                let busy = [Code::ResourceExhausted, Code::DeadlineExceeded];
                let known = [&away[..], &lost, &busy].concat().contains(&status.code());
                assert!(known, "{status:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_makes_no_credential_of_five_seconds_stale() {
    let files: Vec<(&str, String)> = FILES
        .iter()
        .map(|(name, text)| {
            (*name, text.replace("\"10s\"\nactive", &format!("\"{FRESH}\"\nactive")))
        })
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    assert!(files[0].1.contains(FRESH), "the bundle has no such tier");
    let mut broker = tokio::task::block_in_place(|| Broker::with_env(&files, Vec::new()));
    let load = Arc::<Load>::default();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = broker.client(FLEETING);
            tokio::spawn(work(client, Arc::clone(&load), caller))
        })
        .collect();
    tokio::task::block_in_place(|| {
        let gate = fresh_gate(&broker, Some("nginx"));
        let steady = credential(&broker, STEADY, ORDERS, "orders:read");
        let (address, token) = (gate.address(), steady.token);
        let prober = Prober::start(move || {
            ask(&address, ORDERS, "/v1/orders", &token).ok().map(|answer| answer.status)
        });
        prober.passes("it counts", Instant::now(), 3);
        let (mut short, mut unnoticed) = (0, 0);
        for round in 0..TRIED {
            if unnoticed == UNNOTICED {
                break;
            }
            let before = load.done.load(Ordering::Relaxed);
            until("the load goes on", || load.done.load(Ordering::Relaxed) > before + CALLERS);
            let began = Instant::now();
            broker.signal(Signal::TERM);
            load.away.store(true, Ordering::Relaxed);
            assert_eq!(broker.ended(PATIENCE), Some(0), "{}", broker.log());
            let gone = Instant::now();
            broker.start();
            let away = began.elapsed();
            load.away.store(false, Ordering::Relaxed);
            let before = load.done.load(Ordering::Relaxed);
            until("the load is served again", || {
                load.done.load(Ordering::Relaxed) > before + CALLERS
            });
            gate.proven_since(gone);
            prober.passes("it counts again", Instant::now(), 3);
            let asked = prober.asked();
            let asked = asked.iter().filter(|one| one.sent > began);
            let refused: Vec<u16> =
                asked.filter_map(|one| one.status).filter(|status| *status != 200).collect();
            let drain = gone.duration_since(began);
            println!("round {round}: drained in {drain:?}, back after {away:?}, {refused:?}");
            // However long it takes, nothing but a view that is too old refuses.
            assert!(refused.iter().all(|status| *status == 503), "{refused:?}: {}", gate.log());
            if away <= AWAY {
                short += 1;
                unnoticed += usize::from(refused.is_empty());
            }
        }
        assert!(unnoticed > 0 || short < NOTICED, "callers noticed all {short} short restarts");
        if unnoticed == 0 {
            let said = "no restart was short enough to tell whether callers notice it";
            writeln!(std::io::stderr(), "{said}").unwrap();
        }
    });
    load.over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}
