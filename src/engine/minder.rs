//! What must happen now and then without anybody asking: the anchor, bounds that pass, keys that come into force, snapshots.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::KeyPurpose;
use protem_core::grant::KeyState;
use protem_core::state::State;
use protem_verify::ids::Seq;
use protem_verify::names::KeyId;

use crate::engine::keys::KeyRing;
use crate::engine::lane::{Lane, Lanes};
use crate::engine::proof::Prover;
use crate::engine::receipts::{Covers, Mark, Receipts};
use crate::engine::sequencer::Work;
use crate::engine::stop::Stop;
use crate::engine::thread;
use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::reader::Reader;

/// How often it looks: soon enough that a bound that passed is told at once.
const EVERY: Duration = Duration::from_millis(100);
/// How often the keys are looked at.
const KEYS_EVERY: Duration = Duration::from_secs(1);
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
    pub(in crate::engine) lanes: Arc<Lanes>,
    pub(in crate::engine) clock: Arc<dyn Clock>,
    pub(in crate::engine) head: Arc<ArcSwap<Head>>,
    pub(in crate::engine) keys: Arc<KeyRing>,
    pub(in crate::engine) signing: Arc<ArcSwap<Option<KeyId>>>,
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
            if looked.is_none_or(|then| now.saturating_sub(then) >= KEYS_EVERY) {
                looked = Some(now);
                if let Err(stop) = minded.succeed() {
                    tracing::warn!(%stop, "the next signing key is not in force yet");
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
        while !self.sleep(KEYS_EVERY) {
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

impl Minded {
    /// When the key that the journal says signs is not here, or is void: this broker's own published key comes into force
    /// as soon as every enforcing gateway knows it or the bound has passed.
    fn succeed(&self) -> Result<(), Stop> {
        let usable =
            (**self.signing.load()).as_ref().is_some_and(|id| self.keys.find(id).is_some());
        if usable {
            return Ok(());
        }
        let own: Vec<KeyId> =
            self.keys.of(KeyPurpose::Credential).iter().map(|key| key.id().clone()).collect();
        let found = thread::wait(&self.lanes, Lane::Ordinary, Work::Look, move |answered| {
            let published = answered
                .state
                .keys()
                .find(|record| record.state == KeyState::Published && own.contains(&record.key.id));
            published.map(|record| (record.key.id.clone(), record.created, answered.head))
        })?;
        let Some((key, created, head)) = found else { return Ok(()) };
        // Published at `created` or before: the bound is counted from the moment it was seen, which is later.
        let age = head.at.max(protem_verify::time::Time::from(self.clock.unix())).since(created);
        let committed = self.clock.boot().saturating_sub(age);
        let mark = Mark { seq: head.seq, committed, covers: Covers::Everything };
        if !self.receipts.enforcement(&mark, self.clock.boot()).everywhere {
            return Ok(());
        }
        let work = Work::Command(Box::new(Command::ActivateKey { key }));
        thread::wait(&self.lanes, Lane::Ordinary, work, |_| ())
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
