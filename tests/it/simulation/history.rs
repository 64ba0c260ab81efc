//! What happened in a world, by nobody's clock but its own: all that the checkers look at.
#![allow(dead_code, reason = "some fields are there to be hashed and read by people")]

use std::fmt::Write;

use protem_core::event::Event;
use protem_core::request::Scopes;
use protem_verify::ids::{Epoch, GrantId, Hash, RequestId, Seq};
use protem_verify::names::{IdentityName, KeyId, ResourceName, TaskId};
use protem_verify::time::Time;
use sha2::{Digest, Sha256};

use super::rules::Account;

/// One thing that happened, in the order of the world.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The store holds this now.
    Row { seq: Seq, at: Time, event: Box<Event> },
    /// A command went to a broker.
    Asked { op: u64, what: String },
    /// A broker answered that these entries are durable. `answered` is when, in true milliseconds.
    Done { op: u64, answered: u64, rows: Vec<Seq> },
    /// A broker said no, or that it does not know.
    Stopped { op: u64, unknown: bool, why: String },
    /// A workload got a credential.
    Got(Got),
    /// A gateway applied an item of the feed, or a whole snapshot up to `seq`.
    Applied { gateway: usize, item: Applied },
    /// A gateway took a checkpoint of this place for true.
    Stands { gateway: usize, epoch: Epoch, seq: Seq },
    /// A gateway told the broker that it enforces everything up to here: a receipt.
    Acked { gateway: usize, seq: Seq },
    /// A gateway decided on a credential.
    Decided(Decided),
    /// A human made up their mind, before any broker hears of it.
    Clicked(Clicked),
    /// Somebody's chat got a message about an entry.
    Told(Told),
    /// A fault, or anything else that a reader of the history wants to see.
    Note(String),
}

/// A credential as a workload holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub grant: GrantId,
    pub number: u32,
    pub token: Hash,
    pub exp: Time,
    pub key: Option<RequestId>,
}

/// One step of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// From here on the view holds what a snapshot at this place says. `now` is when it was whole, in true milliseconds.
    Snapshot { at: Seq, now: u64, told: Vec<Item> },
    /// One more item.
    Item(Item),
}

/// What a gateway is told of an end: where it is, and until when it must be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub seq: Seq,
    pub forget: Option<Time>,
}

/// What a gateway said to one credential.
#[derive(Clone, Debug)]
pub struct Decided {
    pub gateway: usize,
    /// True milliseconds.
    pub now: u64,
    pub grant: GrantId,
    pub number: u32,
    pub fresh_ms: u64,
    pub accepted: bool,
    /// The code of a no.
    pub reason: &'static str,
}

/// What a human did at a screen.
#[derive(Clone, Debug)]
pub struct Clicked {
    pub grant: GrantId,
    pub account: &'static Account,
    pub chose: Chose,
    /// The digest on the screen.
    pub saw: Hash,
    /// The bundle in force where they clicked.
    pub bundle: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chose {
    Yes,
    No,
    /// The own yes is taken back.
    TakesBack,
    /// An emergency was looked at.
    Looked,
}

/// A message that arrived.
#[derive(Clone, Debug)]
pub struct Told {
    pub seq: Seq,
    pub what: &'static str,
    pub groups: Vec<String>,
    /// The bundle in force when it was made.
    pub bundle: Hash,
}

/// A credential as the journal records it, with what a cut-off looks at.
#[derive(Clone, Debug)]
pub struct Record {
    pub identity: IdentityName,
    pub task: TaskId,
    pub resource: ResourceName,
    pub scopes: Scopes,
    pub key: KeyId,
    pub activated: Seq,
    pub exp: Time,
}

/// A digest of a history: the same seed gives the same one.
pub fn digest(history: &[Fact]) -> Hash {
    let mut hash = Sha256::new();
    for fact in history {
        hash.update(format!("{fact:?}\n"));
    }
    Hash(hash.finalize().into())
}

/// The history as text, one fact a line.
pub fn print(history: &[Fact]) -> String {
    let mut text = String::new();
    for (at, fact) in history.iter().enumerate() {
        let line: String = format!("{fact:?}").chars().take(400).collect();
        writeln!(text, "{at:5} {line}").unwrap();
    }
    text
}
