//! The feed: from committed entries to one encoded message per filter, shared by all its subscribers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use protem_core::event::Event;
use protem_core::limits::STALENESS;
use protem_proto::encoded::Encoded;
use protem_verify::ids::{Hash, Seq};
use protem_verify::time::Staleness;
use tokio::sync::watch;

use crate::engine::filter::{Filter, ends};
use crate::engine::keys::KeySets;
use crate::engine::parts::Parts;
use crate::engine::receipts::{Mark, Receipts};
use crate::engine::ring::{RING_MAX, Ring, keys_message};
use crate::engine::snapshot::Snapshot;
use crate::journal::committed::Committed;
use crate::journal::port::Head;
use crate::policy::bundle::Bundle;
use crate::policy::feed::To;

/// Rings of observers: each looks at every entry of every turn, before any gateway is told of the next.
pub const OBSERVED_RINGS_MAX: usize = 2_048;
/// Rings without a subscriber that are kept, of gateways and of observers each, so that who comes back at once finds its place.
const IDLE_RINGS_MAX: usize = 64;

/// What a turn brought, on its way to the subscribers.
pub struct News {
    /// The entries.
    pub rows: Arc<[Committed<Event>]>,
    /// The head after them.
    pub head: Head,
    /// When they were found durable.
    pub boot: Duration,
    /// The key sets, when they changed.
    pub keys: Option<Arc<KeySets>>,
    /// The bundle and its entry, when it changed.
    pub bundle: Option<(Arc<Bundle>, Seq)>,
}

/// All rings, and how far they are.
pub struct Feed {
    state: Mutex<Published>,
    /// How far every ring is.
    processed: watch::Sender<Head>,
    stopping: watch::Sender<bool>,
    ring_max: usize,
}

struct Published {
    cells: HashMap<(To, Hash), Arc<Cell>>,
    /// The key sets, and where they stand.
    keys: (Encoded, Seq),
    parts: Arc<Parts>,
}

/// One filter's ring, its bell, and the snapshot that newcomers share.
pub(in crate::engine) struct Cell {
    /// Whose it is: an observer's snapshot waits for those of gateways.
    pub(in crate::engine) to: To,
    pub(in crate::engine) ring: RwLock<Ring>,
    pub(in crate::engine) bell: watch::Sender<u64>,
    pub(in crate::engine) snapshot: tokio::sync::Mutex<Option<Arc<Snapshot>>>,
}

/// Keys and catalog as subscribers must know them.
pub(in crate::engine) struct Context {
    pub(in crate::engine) head: Head,
    pub(in crate::engine) keys: (Encoded, Seq),
    pub(in crate::engine) parts: Arc<Parts>,
}

impl Feed {
    /// Empty, at `head`. `former`: credentials of an earlier bundle may be alive.
    #[must_use]
    pub fn new(
        head: Head,
        keys: &KeySets,
        (bundle, catalog_seq): (Arc<Bundle>, Seq),
        former: bool,
    ) -> Self {
        let ceiling = if former { Staleness(*STALENESS.end()) } else { bundle.known_max_fresh() };
        let state = Published {
            cells: HashMap::new(),
            keys: (keys_message(keys), keys.seq),
            parts: Arc::new(Parts::new(bundle, catalog_seq, ceiling)),
        };
        Self {
            state: Mutex::new(state),
            processed: watch::Sender::new(head),
            stopping: watch::Sender::new(false),
            ring_max: RING_MAX,
        }
    }

    /// The same with short rings, for tests of slow subscribers.
    #[must_use]
    pub fn with_ring(mut self, ring_max: usize) -> Self {
        self.ring_max = ring_max;
        self
    }

    /// How many rings there are.
    pub(in crate::engine) fn rings(&self) -> usize {
        self.lock().cells.len()
    }

    /// Adds what a turn brought to every ring. Called in journal order, by one thread.
    pub fn publish(&self, news: &News, receipts: &Receipts) {
        let keys = news.keys.as_deref().map(|keys| (keys_message(keys), keys.seq));
        let mut state = self.lock();
        if let Some(keys) = &keys {
            state.keys.clone_from(keys);
        }
        if let Some((bundle, seq)) = &news.bundle {
            let ceiling = state.parts.ceiling.max(bundle.known_max_fresh());
            state.parts = Arc::new(Parts::new(Arc::clone(bundle), *seq, ceiling));
        }
        if let Some(ended) = ended(&news.rows, news.boot) {
            receipts.committed(ended);
        }
        for cell in state.cells.values() {
            let mut ring = cell.ring.write().unwrap_or_else(PoisonError::into_inner);
            // Its subscribers fetch their part of it: encoding a large catalog here would hold up every revocation.
            let catalog = news.bundle.as_ref().map(|(_, seq)| *seq);
            let rang = ring.publish(&news.rows, &news.head, keys.as_ref(), catalog);
            drop(ring);
            if rang {
                cell.bell.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
        // Still under the lock: a ring made right after must begin at this head, or it would miss this turn.
        self.processed.send_replace(news.head);
        drop(state);
    }

    /// How far every ring is.
    #[must_use]
    pub fn processed(&self) -> Head {
        *self.processed.borrow()
    }

    /// Waits until every ring is at `seq` or further; the head there. `None` when the broker stops first.
    pub(in crate::engine) async fn reached(&self, seq: Seq) -> Option<Head> {
        let mut processed = self.processed.subscribe();
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            head = processed.wait_for(|head| head.seq >= seq) => head.ok().map(|head| *head),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        }
    }

    /// Tells every subscriber to go.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(in crate::engine) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// The ring of a filter, made at this moment if there is none; none when there are too many.
    pub(in crate::engine) fn cell(&self, to: To, filter: &Filter) -> Option<Arc<Cell>> {
        let mut state = self.lock();
        let key = (to, filter.digest());
        if let Some(cell) = state.cells.get(&key) {
            return Some(Arc::clone(cell));
        }
        let of_kind = state.cells.values().filter(|cell| cell.to == to);
        let idle = of_kind.filter(|cell| Arc::strong_count(cell) == 1).count();
        if idle >= IDLE_RINGS_MAX {
            state.cells.retain(|_, cell| cell.to != to || Arc::strong_count(cell) > 1);
        }
        let same = state.cells.values().filter(|cell| cell.to == to).count();
        if to == To::Observer && same >= OBSERVED_RINGS_MAX {
            return None;
        }
        // Under the lock of `publish`, so nothing falls between this head and the ring's first entry.
        let floor = self.processed.borrow().seq;
        let cell = Arc::new(Cell {
            to,
            ring: RwLock::new(Ring::new(filter.clone(), floor, self.ring_max)),
            bell: watch::Sender::new(0),
            snapshot: tokio::sync::Mutex::new(None),
        });
        state.cells.insert(key, Arc::clone(&cell));
        Some(cell)
    }

    /// Keys and catalog now, and a head that they are not younger than by more than what the ring still says.
    pub(in crate::engine) fn context(&self) -> Context {
        let state = self.lock();
        let (keys, parts) = (state.keys.clone(), Arc::clone(&state.parts));
        let head = *self.processed.borrow();
        drop(state);
        Context { head, keys, parts }
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a turn ended, if anything: its last entry that gateways are told, and whom it concerns.
pub(in crate::engine) fn ended(rows: &[Committed<Event>], committed: Duration) -> Option<Mark> {
    let told = rows.iter().filter_map(|row| Some((row.seq(), ends(row)?)));
    told.fold(None, |before: Option<Mark>, (seq, covers)| {
        let covers = before.map_or(covers.clone(), |mark| mark.covers.and(covers));
        Some(Mark { seq, committed, covers })
    })
}
