//! A journal in memory that can fail on command: for simulation, and for tests that need no disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use protem_core::charter::concerns;
use protem_core::event::{Draft, Event};
use protem_verify::ids::{Hash, Seq, TurnId};
use protem_verify::merkle;

use crate::journal::codec;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::memory_reader::MemoryReader;
use crate::journal::outbox::Told;
use crate::journal::port::{FOREIGN_MAX, Head, Journal, Turn};
use crate::journal::projection::Projection;
use crate::journal::reader::Reader;
use crate::journal::tip::{Row, Tip};
use crate::journal::usage::Used;

/// What a call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// The store fails, and nothing was changed.
    Before,
    /// All was stored, and the caller is told that nobody knows.
    UnknownDone,
    /// Nothing was stored, and the caller is told that nobody knows.
    UnknownLost,
}

/// A call that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `Journal::turn`.
    Turn,
    /// `Journal::find`.
    Find,
    /// `Journal::head`.
    Head,
    /// `Journal::beat`.
    Beat,
}

/// Says what the next call meets. A slow store is one that takes its time here.
pub type Faults = Box<dyn FnMut(Call) -> Mishap + Send>;

/// What is durable. Brokers that share one see each other's entries; a broker that restarts finds all of it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stored: Mutex<Stored>,
    /// How often anybody asked which entries concern a grant.
    histories: AtomicU64,
    /// A snapshot may be read.
    given: Condvar,
}

pub(in crate::journal) struct Stored {
    pub(in crate::journal) tip: Tip,
    pub(in crate::journal) entries: Vec<StoredEntry>,
    pub(in crate::journal) rows: Projection,
    pub(in crate::journal) snapshot: Option<(Head, Vec<u8>)>,
    /// Whoever reads the snapshot waits.
    withheld: bool,
    pub(in crate::journal) outbox: Told,
    pub(in crate::journal) used: Used,
}

/// One stored entry.
#[derive(Clone)]
pub(in crate::journal) struct StoredEntry {
    turn: TurnId,
    pub(in crate::journal) leaf: Hash,
    pub(in crate::journal) body: Vec<u8>,
    /// It says something of the journal itself.
    pub(in crate::journal) chartered: bool,
}

/// One broker's journal on a store in memory.
pub struct MemoryJournal {
    store: MemoryStore,
    faults: Option<Faults>,
}

impl Default for Stored {
    fn default() -> Self {
        let (tip, rows) = (Tip::empty(), Projection::default());
        let (outbox, used) = (Told::default(), Used::default());
        Self { tip, entries: Vec::new(), rows, snapshot: None, withheld: false, outbox, used }
    }
}

impl MemoryStore {
    /// Forgets all after `seq`, as a restored backup has.
    pub fn roll_back(&self, seq: Seq) {
        let mut stored = self.lock();
        let kept = usize::try_from(seq.0).unwrap_or(usize::MAX);
        let entries: Vec<StoredEntry> = stored.entries.iter().take(kept).cloned().collect();
        *stored = Stored::default();
        for StoredEntry { turn, leaf, body, chartered } in entries {
            let seq = stored.tip.head.seq.next();
            let Ok(entry) = codec::decode(seq, &body) else { return };
            let (at, actor) = (entry.at(), entry.actor().clone());
            let draft = Draft { actor, at, event: entry.what().clone() };
            stored.tip.append(vec![draft]);
            stored.rows.fold(&entry);
            stored.entries.push(StoredEntry { turn, leaf, body, chartered });
        }
    }

    /// How often anybody asked which entries concern a grant.
    #[must_use]
    pub fn histories_asked(&self) -> u64 {
        self.0.histories.load(Ordering::Relaxed)
    }

    pub(in crate::journal) fn history_asked(&self) {
        self.0.histories.fetch_add(1, Ordering::Relaxed);
    }

    /// Flips the last bit of an entry's body, as a bad disk does.
    pub fn flip(&self, seq: Seq) {
        let at = usize::try_from(seq.0.saturating_sub(1)).unwrap_or(usize::MAX);
        if let Some(last) = self.lock().entries.get_mut(at).and_then(|row| row.body.last_mut()) {
            *last ^= 1;
        }
    }

    /// Lets whoever reads the snapshot wait until it is given: a state that takes long to load.
    pub fn withhold_snapshot(&self, withheld: bool) {
        self.lock().withheld = withheld;
        self.0.given.notify_all();
    }

    pub(in crate::journal) fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, once the snapshot is given.
    pub(in crate::journal) fn when_given(&self) -> MutexGuard<'_, Stored> {
        let waited = self.0.given.wait_while(self.lock(), |stored| stored.withheld);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    pub(in crate::journal) fn entry(&self, seq: Seq) -> Result<Option<Committed<Event>>, Fault> {
        let Some(body) = self.body(seq)? else { return Ok(None) };
        codec::decode(seq, &body).map(Some)
    }

    pub(in crate::journal) fn body(&self, seq: Seq) -> Result<Option<Vec<u8>>, Fault> {
        let at = seq.0.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        let Some(row) = at.and_then(|at| self.entries.get(at)) else { return Ok(None) };
        if merkle::leaf(&row.body) != row.leaf {
            return Err(Fault::Damaged { seq, why: "the body is not what its leaf says".into() });
        }
        Ok(Some(row.body.clone()))
    }

    pub(in crate::journal) fn read(
        &self,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<Committed<Event>>, Fault> {
        let mut found = Vec::new();
        let mut seq = after.next();
        while u64::try_from(found.len()).unwrap_or(u64::MAX) < u64::from(limit) {
            let Some(entry) = self.entry(seq)? else { break };
            found.push(entry);
            seq = seq.next();
        }
        Ok(found)
    }
}

impl MemoryJournal {
    /// A new store that never fails.
    #[must_use]
    pub fn new() -> (Self, Arc<dyn Reader>) {
        Self::on(&MemoryStore::default(), None)
    }

    /// One more broker, or the same one again, on a store.
    #[must_use]
    pub fn on(store: &MemoryStore, faults: Option<Faults>) -> (Self, Arc<dyn Reader>) {
        let reader = Arc::new(MemoryReader::new(store.clone()));
        (Self { store: store.clone(), faults }, reader)
    }

    fn meets(&mut self, call: Call) -> Mishap {
        self.faults.as_mut().map_or(Mishap::None, |faults| faults(call))
    }

    /// A call that only asks fails, whatever it meets.
    fn asked(&mut self, call: Call) -> Result<(), Fault> {
        match self.meets(call) {
            Mishap::None => Ok(()),
            Mishap::Before | Mishap::UnknownDone | Mishap::UnknownLost => Err(failed()),
        }
    }
}

fn failed() -> Fault {
    Fault::Store("the store does not answer".into())
}

impl Journal for MemoryJournal {
    fn turn(
        &mut self,
        known: &Head,
        id: TurnId,
        decide: &mut dyn FnMut(&[Committed<Event>]) -> Vec<Draft>,
    ) -> Result<Turn, Fault> {
        let mishap = self.meets(Call::Turn);
        if mishap == Mishap::Before {
            return Err(failed());
        }
        let mut stored = self.store.lock();
        stored.tip.grew_from(known)?;
        let foreign = stored.tip.head.seq.0.saturating_sub(known.seq.0);
        if foreign > u64::try_from(FOREIGN_MAX).unwrap_or(u64::MAX) {
            return Ok(Turn::Behind);
        }
        let others = stored.read(known.seq, u32::MAX)?;
        let drafts = decide(&others);
        if mishap == Mishap::UnknownLost {
            return Err(Fault::Unknown("the connection broke; nothing was stored".into()));
        }
        let rows = stored.tip.append(drafts);
        for Row { entry, leaf, body } in &rows {
            stored.rows.fold(entry);
            let (leaf, body, chartered) = (*leaf, body.clone(), concerns(entry.what()));
            stored.entries.push(StoredEntry { turn: id, leaf, body, chartered });
        }
        if mishap == Mishap::UnknownDone {
            return Err(Fault::Unknown("the connection broke; all was stored".into()));
        }
        let rows = rows.into_iter().map(|row| row.entry).collect();
        Ok(Turn::Done { head: stored.tip.head, rows })
    }

    fn find(&mut self, id: TurnId) -> Result<Option<Turn>, Fault> {
        self.asked(Call::Find)?;
        let stored = self.store.lock();
        let mut rows = Vec::new();
        for (at, row) in stored.entries.iter().enumerate().rev() {
            let seq = Seq(u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1));
            if row.turn == id {
                rows.extend(stored.entry(seq)?);
            }
        }
        rows.reverse();
        let head = stored.tip.head;
        Ok((!rows.is_empty()).then_some(Turn::Done { head, rows }))
    }

    fn head(&mut self) -> Result<Head, Fault> {
        self.asked(Call::Head)?;
        Ok(self.store.lock().tip.head)
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        self.store.lock().read(after, limit)
    }

    fn beat(&mut self) -> Result<(), Fault> {
        self.asked(Call::Beat)
    }
}
