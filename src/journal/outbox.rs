//! How far each webhook was told, and what it is told later: durable beside the log, never part of it.

use std::collections::BTreeMap;

use protem_verify::ids::Seq;
use protem_verify::time::Time;

use crate::journal::fault::Fault;

/// What those who tell others remember. A call blocks; a row that is lost means that something is told again, never that it
/// is not told.
pub trait Outbox: Send + Sync {
    /// The entry up to which a webhook was told; none of one that was never noted.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn told(&self, webhook: &str) -> Result<Option<Seq>, Fault>;
    /// Notes what became of a message, in one step.
    ///
    /// # Errors
    /// When nothing was noted.
    fn note(&self, webhook: &str, note: &Note) -> Result<(), Fault>;
    /// At most `limit` of what a webhook is told out of order, the first due first.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn later(&self, webhook: &str, place: Place, limit: u32) -> Result<Vec<Later>, Fault>;
    /// How many messages of a webhook are at a place.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn count(&self, webhook: &str, place: Place) -> Result<u64, Fault>;
    /// Makes all that is parked due at once. Returns how many that are.
    ///
    /// # Errors
    /// When nothing was changed.
    fn let_go(&self, webhook: &str) -> Result<u64, Fault>;
}

/// Which of what is told out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Due at this moment or before, and not parked.
    Due(Time),
    /// Set aside, due or not.
    Aside,
    /// Parked.
    Parked,
}

/// Which message of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The entry that it is about.
    pub seq: Seq,
    /// What it says of it: one entry can be worth several messages.
    pub kind: String,
}

/// A message that is told out of the log's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later {
    /// Which.
    pub key: Key,
    /// When it is to be told.
    pub due: Time,
    /// Why it is told out of order.
    pub waits: Waits,
}

/// Why a message is told out of the log's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It has a time of its own, or somebody let go of it: nobody tried it since.
    Due,
    /// It was set aside, so that others go on: it is tried again when it is due.
    Aside(Aside),
    /// It was given up until somebody lets go of it.
    Parked(Parked),
}

/// A message that others go past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Tries; none of one that follows another.
    pub tries: u32,
    /// Of the last try, or what it follows; never empty.
    pub why: String,
}

/// A message that was given up until somebody lets go of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Since when.
    pub at: Time,
    /// Tries.
    pub tries: u32,
    /// Of the last try.
    pub why: String,
}

/// What became of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// All entries up to here are told, or kept below. Never moves back.
    pub told: Option<Seq>,
    /// Kept for later; what has the same key is replaced.
    pub keep: Vec<Later>,
    /// Told, or of no use any more.
    pub done: Option<Key>,
}

/// All of it in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Told {
    places: BTreeMap<String, Seq>,
    later: BTreeMap<(String, Key), Later>,
}

impl Told {
    pub(in crate::journal) fn told(&self, webhook: &str) -> Option<Seq> {
        self.places.get(webhook).copied()
    }

    pub(in crate::journal) fn note(&mut self, webhook: &str, note: &Note) {
        if let Some(to) = note.told {
            let place = self.places.entry(webhook.to_owned()).or_insert(to);
            *place = (*place).max(to);
        }
        if let Some(key) = &note.done {
            self.later.remove(&(webhook.to_owned(), key.clone()));
        }
        for later in &note.keep {
            self.later.insert((webhook.to_owned(), later.key.clone()), later.clone());
        }
    }

    pub(in crate::journal) fn later(&self, webhook: &str, place: Place, limit: u32) -> Vec<Later> {
        let is = |later: &&Later| match place {
            Place::Due(now) => !matches!(later.waits, Waits::Parked(_)) && later.due <= now,
            Place::Aside => matches!(later.waits, Waits::Aside(_)),
            Place::Parked => matches!(later.waits, Waits::Parked(_)),
        };
        let mut found: Vec<Later> = self.of(webhook).filter(is).cloned().collect();
        found.sort_by_key(|later| (later.due, later.key.clone()));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        found
    }

    pub(in crate::journal) fn count(&self, webhook: &str, place: Place) -> u64 {
        u64::try_from(self.later(webhook, place, u32::MAX).len()).unwrap_or(u64::MAX)
    }

    pub(in crate::journal) fn let_go(&mut self, webhook: &str) -> u64 {
        let mut count = 0_u64;
        for ((name, _), later) in &mut self.later {
            if name == webhook && matches!(later.waits, Waits::Parked(_)) {
                (later.due, later.waits) = (Time::ZERO, Waits::Due);
                count = count.saturating_add(1);
            }
        }
        count
    }

    fn of(&self, webhook: &str) -> impl Iterator<Item = &Later> {
        self.later.iter().filter(move |((name, _), _)| name == webhook).map(|(_, later)| later)
    }
}
