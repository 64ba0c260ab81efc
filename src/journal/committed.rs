//! Durable is a value: only an adapter of this room makes a [`Committed`].

use protem_core::event::{Actor, CredentialIssued, Event};
use protem_verify::ids::Seq;
use protem_verify::time::Time;

/// Something that is in the journal. There is no other way to get one, so what takes one cannot run ahead of the disk.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    seq: Seq,
    at: Time,
    actor: Actor,
    what: T,
}

impl<T> Committed<T> {
    /// For the adapters of this room, after a commit or a read.
    pub(in crate::journal) fn new(seq: Seq, at: Time, actor: Actor, what: T) -> Self {
        Self { seq, at, actor, what }
    }

    /// Its place.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// When it happened.
    pub fn at(&self) -> Time {
        self.at
    }

    /// Who caused it.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What it is.
    pub fn what(&self) -> &T {
        &self.what
    }
}

impl Committed<Event> {
    /// The credential that this entry records, if it records one, with the place of its grant's activation filled in.
    #[must_use]
    pub fn credential(&self) -> Option<Committed<CredentialIssued>> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "two kinds of entry record a credential; a third would be found by its test"
        )]
        let issued = match &self.what {
            Event::GrantActivated(activated) => &activated.credential,
            Event::CredentialIssued(issued) => issued,
            _ => return None,
        };
        let mut issued = issued.clone();
        issued.activated = Some(issued.activated.unwrap_or(self.seq));
        Some(Committed::new(self.seq, self.at, self.actor.clone(), issued))
    }
}
