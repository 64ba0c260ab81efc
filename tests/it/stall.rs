//! A store in memory whose turns a test holds up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protem::journal::memory::{Call, MemoryJournal, MemoryStore, Mishap};
use protem::journal::port::Journal;
use protem::journal::reader::Reader;

use crate::broker::{Clients, TestBroker, fresh_task};
use crate::process::PATIENCE;

/// What [`Wish`](crate::broker::Wish) takes.
pub type Store = (Box<dyn Journal>, Arc<dyn Reader>);

/// Whether turns are held up, and whether one is.
#[derive(Clone, Default)]
pub struct Stall {
    on: Arc<AtomicBool>,
    felt: Arc<AtomicBool>,
}

impl Stall {
    /// A store, and what holds it up.
    pub fn new() -> (Self, Store) {
        let stall = Self::default();
        let held = stall.clone();
        let faults = move |call: Call| {
            while call == Call::Turn && held.on.load(Ordering::SeqCst) {
                held.felt.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
            Mishap::None
        };
        let (journal, reader) = MemoryJournal::on(&MemoryStore::default(), Some(Box::new(faults)));
        (stall, (Box::new(journal), reader))
    }

    /// The next turn is held up.
    pub fn begin(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    /// Turns go on.
    pub fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// Completes a task while turns are held up: when this returns the call is under way, and it is answered once they go on.
    pub async fn completing(
        &self,
        broker: &TestBroker,
        agent: &Clients,
        task: &str,
    ) -> tokio::task::JoinHandle<Result<u64, tonic::Status>> {
        self.begin();
        // Something else is in the turn that is held up, so what ends access is seen to wait for the next one.
        let mut other = agent.clone();
        tokio::spawn(async move { other.ask(&fresh_task()).await });
        until("a turn is held up", || self.felt.load(Ordering::SeqCst)).await;
        let (mut agent, task) = (agent.clone(), task.to_owned());
        let done = tokio::spawn(async move { agent.complete(&task).await.map(|done| done.seq) });
        until("the call waits for its turn", || broker.broker.waiting().0 > 0).await;
        done
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
