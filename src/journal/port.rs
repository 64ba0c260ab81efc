//! The port: what the sequencer needs of a journal, and what everybody else may read.

use protem_core::event::{Draft, Event};
use protem_verify::ids::{Epoch, Hash, JournalId, Seq, TurnId};
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;

/// How far a journal has come. A lower head, or another root at the same place, is [`Fault::RolledBack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which journal; all zero before its first entry.
    pub journal: JournalId,
    /// Its life.
    pub epoch: Epoch,
    /// Its last entry.
    pub seq: Seq,
    /// Its Merkle root there.
    pub root: Hash,
    /// When its last entry happened.
    pub at: Time,
}

/// What became of a turn.
#[derive(Debug)]
pub enum Turn {
    /// It is durable, all of it.
    Done {
        /// The journal's head now.
        head: Head,
        /// What this turn appended, in order.
        rows: Vec<Committed<Event>>,
    },
    /// Others appended more than a turn may apply under the lock: read up to the head first, then try again.
    Behind,
}

/// What `decide` may see of others' entries under the journal's lock; more is [`Turn::Behind`].
pub const FOREIGN_MAX: usize = 1_000;

/// The one writer's side.
pub trait Journal: Send {
    /// Under the journal's lock, `decide` sees what others appended since `known` and returns what to append. `id` is
    /// stored with the rows: after [`Fault::Unknown`], [`Journal::find`] tells whether the turn happened.
    ///
    /// # Errors
    /// When nothing was appended (any fault but `Unknown`), or when nobody can say (`Unknown`).
    fn turn(
        &mut self,
        known: &Head,
        id: TurnId,
        decide: &mut dyn FnMut(&[Committed<Event>]) -> Vec<Draft>,
    ) -> Result<Turn, Fault>;

    /// After an unknown commit: reconnects, takes the lock, so that the old transaction has ended, and looks for the turn.
    ///
    /// # Errors
    /// When the store still cannot be asked.
    fn find(&mut self, id: TurnId) -> Result<Option<Turn>, Fault>;

    /// The head, from the store.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn head(&mut self) -> Result<Head, Fault>;

    /// At most `limit` entries after `after`, in order.
    ///
    /// # Errors
    /// When the store cannot be asked, or a row is not what its leaf says.
    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault>;

    /// Writes a durable proof that the journal can still commit, without an entry.
    ///
    /// # Errors
    /// When it cannot.
    fn beat(&mut self) -> Result<(), Fault>;
}

impl<J: Journal + ?Sized> Journal for Box<J> {
    fn turn(
        &mut self,
        known: &Head,
        id: TurnId,
        decide: &mut dyn FnMut(&[Committed<Event>]) -> Vec<Draft>,
    ) -> Result<Turn, Fault> {
        (**self).turn(known, id, decide)
    }

    fn find(&mut self, id: TurnId) -> Result<Option<Turn>, Fault> {
        (**self).find(id)
    }

    fn head(&mut self) -> Result<Head, Fault> {
        (**self).head()
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        (**self).read(after, limit)
    }

    fn beat(&mut self) -> Result<(), Fault> {
        (**self).beat()
    }
}
