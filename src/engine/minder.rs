//! What must happen now and then without anybody asking: the anchor, bounds that pass, keys that come into force, snapshots.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_clock::clock::Clock;
use protem_core::state::State;
use protem_verify::ids::Seq;

use crate::engine::proof::Prover;
use crate::engine::receipts::Receipts;
use crate::engine::rotation::Rotation;
use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::reader::Reader;

/// How often it looks: soon enough that a bound that passed is told at once.
const EVERY: Duration = Duration::from_millis(100);
/// How often it is looked whether a snapshot is due.
const SNAPSHOT_LOOK: Duration = Duration::from_secs(1);
/// Entries between two snapshots: a start reads at most about so many, some seconds.
pub const SNAPSHOT_EVERY: u64 = 100_000;
/// Entries read at once.
const READ_MAX: u32 = 1_000;

/// Ends its loops when closed.
#[derive(Default)]
pub struct Minder {
    closed: Mutex<bool>,
    wake: Condvar,
}

/// What the minder minds.
pub(in crate::engine) struct Minded {
    pub(in crate::engine) clock: Arc<dyn Clock>,
    pub(in crate::engine) head: Arc<ArcSwap<Head>>,
    pub(in crate::engine) rotation: Arc<Rotation>,
    pub(in crate::engine) receipts: Arc<Receipts>,
    pub(in crate::engine) prover: Arc<Prover>,
}

impl Minder {
    /// Ends its loops.
    pub fn close(&self) {
        *self.lock() = true;
        self.wake.notify_all();
    }

    /// Anchor, bounds and keys, until closed.
    pub(in crate::engine) fn run(&self, minded: &Minded) {
        let mut looked: Option<Duration> = None;
        while !self.sleep(EVERY) {
            let now = minded.clock.boot();
            minded.receipts.sweep(now);
            minded.prover.anchor(&minded.head.load(), false);
            let every = minded.rotation.every();
            let due = looked.is_none_or(|then| now.saturating_sub(then) >= every);
            if minded.rotation.woken() || due {
                looked = Some(now);
                if let Err(halted) = minded.rotation.pass() {
                    tracing::warn!(%halted, "a step of the signing keys was not taken");
                }
            }
        }
        minded.prover.anchor(&minded.head.load(), true);
    }

    /// Keeps a snapshot every so many entries from a replica of its own, until closed.
    pub(in crate::engine) fn snapshots(&self, reader: &dyn Reader, head: &ArcSwap<Head>) {
        let kept = reader.snapshot().ok().flatten().map_or(Seq(0), |(head, _)| head.seq);
        let mut replica: Option<State> = None;
        let mut last = kept;
        while !self.sleep(SNAPSHOT_LOOK) {
            if head.load().seq.0.saturating_sub(last.0) < SNAPSHOT_EVERY {
                continue;
            }
            match snapshot(reader, replica.take()) {
                Ok((state, seq)) => {
                    last = seq;
                    replica = Some(state);
                }
                Err(fault) => tracing::warn!(%fault, "a snapshot was not kept"),
            }
        }
    }

    /// Sleeps; whether it is over.
    fn sleep(&self, patience: Duration) -> bool {
        let waited = self.wake.wait_timeout_while(self.lock(), patience, |closed| !*closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn snapshot(reader: &dyn Reader, replica: Option<State>) -> Result<(State, Seq), Fault> {
    let mut state = match replica {
        Some(state) => state,
        None => reader.snapshot()?.map_or_else(State::new, |(_, parts)| State::from_parts(parts)),
    };
    let head = reader.head()?;
    while state.seq() < head.seq {
        let rows = reader.read(state.seq(), READ_MAX)?;
        if rows.is_empty() {
            return Err(Fault::Store(format!("the entry after {} cannot be read", state.seq())));
        }
        for row in rows.iter().filter(|row| row.seq() <= head.seq) {
            state.apply(row.at(), row.what());
        }
    }
    state.sweep(head.at, usize::MAX);
    reader.keep_snapshot(&head, &state.parts())?;
    Ok((state, head.seq))
}
