//! One store for all brokers of a world, and the door through which each broker sees it fail.

use std::sync::{Arc, Mutex};

use protem::journal::committed::Committed;
use protem::journal::fault::Fault;
use protem::journal::port::{FOREIGN_MAX, Head, Journal, Turn};
use protem::journal::reader::Reader;
use protem::journal::records::GrantRecord;
use protem_core::event::{Draft, Event};
use protem_verify::ids::{GrantId, Seq, TurnId};

use super::chance::Chance;

/// The store itself: what it holds is what is durable.
#[derive(Clone)]
pub struct Store(Arc<Mutex<Box<dyn Journal>>>, Arc<dyn Reader>);

/// What the next calls through a door meet, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Nothing is appended, and the caller knows.
    pub before: u64,
    /// All is appended, and the caller does not know.
    pub unknown_done: u64,
    /// Nothing is appended, and the caller does not know.
    pub unknown_lost: u64,
    /// A call that only asks fails.
    pub deaf: u64,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub before: u64,
    pub unknown_done: u64,
    pub unknown_lost: u64,
    pub deaf: u64,
}

/// One broker's way to the store.
pub struct Door {
    store: Store,
    chance: Chance,
    weather: Arc<Mutex<(Weather, Met)>>,
}

impl Store {
    pub fn new(journal: Box<dyn Journal>, reader: Arc<dyn Reader>) -> Self {
        Self(Arc::new(Mutex::new(journal)), reader)
    }

    /// What brokers read beside their turns.
    pub fn reader(&self) -> &dyn Reader {
        &*self.1
    }

    /// A grant as people see it.
    pub fn grant(&self, id: &GrantId) -> Option<GrantRecord> {
        self.1.grant(id).unwrap()
    }

    pub fn door(&self, chance: Chance, weather: Arc<Mutex<(Weather, Met)>>) -> Door {
        Door { store: self.clone(), chance, weather }
    }

    pub fn head(&self) -> Head {
        self.0.lock().unwrap().head().unwrap()
    }

    /// One entry.
    pub fn row(&self, seq: Seq) -> Option<Committed<Event>> {
        let before = Seq(seq.0.checked_sub(1)?);
        self.0.lock().unwrap().read(before, 1).unwrap().pop()
    }

    /// What is durable, whatever anybody believes.
    pub fn rows(&self, after: Seq) -> Vec<Committed<Event>> {
        let journal = self.0.lock().unwrap();
        let mut rows: Vec<Committed<Event>> = Vec::new();
        loop {
            let from = rows.last().map_or(after, Committed::seq);
            let more = journal.read(from, 1_000).unwrap();
            if more.is_empty() {
                return rows;
            }
            rows.extend(more);
        }
    }
}

impl Door {
    fn meets(&mut self, pick: fn(&Weather) -> u64, count: fn(&mut Met) -> &mut u64) -> bool {
        let mut weather = self.weather.lock().unwrap();
        let met = self.chance.percent(pick(&weather.0));
        if met {
            *count(&mut weather.1) += 1;
        }
        met
    }

    fn deaf(&mut self) -> Result<(), Fault> {
        if self.meets(|weather| weather.deaf, |met| &mut met.deaf) {
            return Err(Fault::Store("the store does not answer".into()));
        }
        Ok(())
    }
}

impl Journal for Door {
    fn turn(
        &mut self,
        known: &Head,
        id: TurnId,
        decide: &mut dyn FnMut(&[Committed<Event>]) -> Vec<Draft>,
    ) -> Result<Turn, Fault> {
        if self.meets(|weather| weather.before, |met| &mut met.before) {
            return Err(Fault::Store("the store failed before the commit".into()));
        }
        if self.meets(|weather| weather.unknown_lost, |met| &mut met.unknown_lost) {
            let others = self.store.rows(known.seq);
            if others.len() <= FOREIGN_MAX {
                decide(&others);
            }
            return Err(Fault::Unknown("the connection broke; nothing was stored".into()));
        }
        let turn = self.store.0.lock().unwrap().turn(known, id, decide)?;
        if self.meets(|weather| weather.unknown_done, |met| &mut met.unknown_done) {
            return Err(Fault::Unknown("the connection broke; all was stored".into()));
        }
        Ok(turn)
    }

    fn find(&mut self, id: TurnId) -> Result<Option<Turn>, Fault> {
        self.deaf()?;
        self.store.0.lock().unwrap().find(id)
    }

    fn head(&mut self) -> Result<Head, Fault> {
        self.deaf()?;
        self.store.0.lock().unwrap().head()
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        self.store.0.lock().unwrap().read(after, limit)
    }

    fn beat(&mut self) -> Result<(), Fault> {
        self.deaf()?;
        self.store.0.lock().unwrap().beat()
    }
}
