//! What is usual for each identity, for those who ask beside the turns, and what of a request is unlike it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use protem_core::event::Event;
use protem_core::request::AccessRequest;
use protem_core::state::State;
use protem_core::usual::{Hour, Usual, findings};
use protem_verify::names::IdentityName;
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::journal::committed::Committed;

/// What the state knows is usual, as it was after the newest turn. Readers wait for nobody but a write to the same part.
pub(in crate::engine) struct Mirror {
    parts: Vec<RwLock<HashMap<IdentityName, Arc<Usual>>>>,
    /// When a part was last compared with the state, and the one that is next.
    compared: AtomicU32,
    next: AtomicUsize,
}

impl Default for Mirror {
    /// Of no state.
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            compared: AtomicU32::new(0),
            next: AtomicUsize::new(0),
        }
    }
}

/// So many that readers on all cores seldom meet a write, and that comparing one of them takes no turn noticeably longer.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 6;

impl Mirror {
    /// Knows what the state has, before the first turn.
    pub(in crate::engine) fn learn(&self, state: &State) {
        for (identity, usual) in state.all_usual() {
            self.put(identity, usual);
        }
    }

    /// What is usual for an identity.
    pub(in crate::engine) fn get(&self, identity: &IdentityName) -> Option<Arc<Usual>> {
        let part = self.part(identity)?.read().unwrap_or_else(PoisonError::into_inner);
        part.get(identity).cloned()
    }

    /// Follows a turn: whoever was granted something. On the sequencer's thread, before anybody is answered.
    pub(in crate::engine) fn committed(&self, rows: &[Committed<Event>], state: &State) {
        for row in rows {
            if let Event::GrantActivated(activated) = row.what() {
                let identity = &activated.credential.by.identity;
                if let Some(usual) = state.usual(identity) {
                    self.put(identity, usual);
                }
            }
        }
        let hour = Hour::of(state.last_at()).0;
        if self.compared.swap(hour, Ordering::Relaxed) != hour {
            self.compare(state);
        }
    }

    /// Lets go of what the state has let go of, a part an hour: a sweep of it is no entry that could be followed.
    fn compare(&self, state: &State) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(part) = self.parts.get(next % PARTS) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        for (identity, mine) in part.iter_mut() {
            if let Some(usual) = state.usual(identity) {
                *mine = Arc::clone(usual);
            }
        }
    }

    fn put(&self, identity: &IdentityName, usual: &Arc<Usual>) {
        let Some(part) = self.part(identity) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        match part.get_mut(identity) {
            Some(known) => *known = Arc::clone(usual),
            None => drop(part.insert(identity.clone(), Arc::clone(usual))),
        }
    }

    fn part(&self, identity: &IdentityName) -> Option<&RwLock<HashMap<IdentityName, Arc<Usual>>>> {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        self.parts.get(usize::from(
            u8::try_from(hasher.finish() >> (u64::BITS - PART_BITS)).unwrap_or_default(),
        ))
    }
}

impl Broker {
    /// What is unusual about a request as it is asked, in policy's words, each with its numbers: of its identity's past, and
    /// of the use of its access. Cheap: nothing is asked of the sequencer or the store.
    #[must_use]
    pub fn findings(&self, request: &AccessRequest, now: Time) -> Vec<String> {
        let identity = &request.by.identity;
        let past = self.0.usual.get(identity);
        let past = findings(past.as_deref(), request, now);
        let mut found: Vec<String> = past.iter().map(ToString::to_string).collect();
        found.extend(self.usage_findings(identity, now));
        found
    }
}
