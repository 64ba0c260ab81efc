//! Where a journal stands and how it grows: the same steps for every adapter.

use protem_core::event::{Draft, Event};
use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::merkle::{Frontier, leaf};
use protem_verify::time::Time;

use crate::journal::codec;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::Head;

/// The head and the tree that its root is of.
#[derive(Clone, Debug)]
pub(in crate::journal) struct Tip {
    pub(in crate::journal) head: Head,
    pub(in crate::journal) tree: Frontier,
}

/// An entry as it is stored. It counts as committed only once its transaction is.
pub(in crate::journal) struct Row {
    pub(in crate::journal) entry: Committed<Event>,
    pub(in crate::journal) leaf: Hash,
    pub(in crate::journal) body: Vec<u8>,
}

impl Tip {
    /// Before the first entry.
    pub(in crate::journal) fn empty() -> Self {
        let tree = Frontier::default();
        let head = Head {
            journal: JournalId([0; 16]),
            epoch: Epoch(0),
            seq: Seq(0),
            root: tree.root(),
            at: Time::ZERO,
        };
        Self { head, tree }
    }

    /// Whether a store that stands here can have grown from what is known.
    pub(in crate::journal) fn grew_from(&self, known: &Head) -> Result<(), Fault> {
        let found = self.head;
        let other_root = found.seq == known.seq && found.root != known.root && known.seq.0 > 0;
        let other_life =
            known.seq.0 > 0 && (found.journal != known.journal || found.epoch < known.epoch);
        if found.seq < known.seq || other_root || other_life {
            return Err(Fault::RolledBack { known: known.seq, found: found.seq });
        }
        Ok(())
    }

    /// Appends drafts: their places, bodies and leaves, and the head after them.
    pub(in crate::journal) fn append(&mut self, drafts: Vec<Draft>) -> Vec<Row> {
        let rows = drafts.into_iter().map(|Draft { actor, at, event }| {
            let seq = self.head.seq.next();
            let body = codec::encode(seq, at, &actor, &event);
            let leaf = leaf(&body);
            self.tree.push(leaf);
            self.head.seq = seq;
            self.head.at = at;
            if let Some((journal, epoch)) = opens(&event) {
                self.head.journal = journal.unwrap_or(self.head.journal);
                self.head.epoch = epoch;
            }
            Row { entry: Committed::new(seq, at, actor, event), leaf, body }
        });
        let rows = rows.collect();
        self.head.root = self.tree.root();
        rows
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "two kinds of entry begin a life of the journal"
)]
fn opens(event: &Event) -> Option<(Option<JournalId>, Epoch)> {
    match event {
        Event::JournalOpened { journal, epoch, .. } => Some((Some(*journal), *epoch)),
        Event::EpochBegan { epoch, .. } => Some((None, *epoch)),
        _ => None,
    }
}
