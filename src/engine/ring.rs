//! One ring of encoded messages per filter, shared by all its subscribers.

use std::collections::VecDeque;

use prost::Message;
use protem_core::event::Event;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::Seq;

use crate::engine::filter::{Filter, encode};
use crate::engine::keys::KeySets;
use crate::journal::committed::Committed;
use crate::journal::port::Head;

/// Messages that a ring keeps: some seconds of a busy broker. Who falls out of it begins again with a snapshot.
pub const RING_MAX: usize = 4_096;
/// Bytes that a ring keeps, for the same reason.
pub const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Items in one message, so that each stays far below a client's limit.
pub const BATCH_MAX: usize = 1_000;

/// What one turn meant to one filter.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Of items: sent with them, all up to here was sent. Of keys and catalog: where their turn began.
    pub seq: Seq,
    /// The message.
    pub what: What,
    /// As it goes out; of a catalog nothing, as each subscriber fetches its own part.
    pub encoded: Encoded,
}

/// A slot's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The full key sets of this seq.
    Keys(Seq),
    /// The catalog of this seq, or a later one.
    Catalog(Seq),
    /// Items.
    Items {
        /// The item before the first.
        prev: Seq,
        /// The first.
        first: Seq,
        /// The last.
        last: Seq,
    },
}

/// The newest messages of one filter.
pub struct Ring {
    filter: Filter,
    base: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Everything after this is, or was, in the ring.
    floor: Seq,
    /// The newest item.
    last: Seq,
    limit: usize,
}

/// What a position in a ring has to offer.
#[derive(Debug)]
pub enum Found {
    /// The slot there.
    Slot(Slot),
    /// Nothing yet.
    End,
    /// It fell out: its reader was too slow.
    Gone,
}

impl Ring {
    /// Empty, from `floor` on.
    #[must_use]
    pub fn new(filter: Filter, floor: Seq, limit: usize) -> Self {
        let last = Seq(0);
        Self { filter, base: 0, slots: VecDeque::new(), bytes: 0, floor, last, limit }
    }

    /// What it holds for.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The newest item it knows of.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }

    /// The item before the first that comes after `seq`.
    #[must_use]
    pub fn before(&self, seq: Seq) -> Seq {
        let after = self.slots.iter().filter(|slot| slot.seq > seq);
        let mut prevs = after.filter_map(|slot| match slot.what {
            What::Items { prev, .. } => Some(prev),
            What::Keys(_) | What::Catalog(_) => None,
        });
        prevs.next().unwrap_or(self.last)
    }

    /// The position after everything up to `seq`; `None` when that is not in the ring, or `seq` lies within a slot.
    #[must_use]
    pub fn position(&self, seq: Seq) -> Option<u64> {
        if seq < self.floor {
            return None;
        }
        let at = self.slots.partition_point(|slot| slot.seq <= seq);
        let within = self.slots.get(at).is_some_and(|slot| match slot.what {
            What::Items { first, .. } => first <= seq,
            What::Keys(_) | What::Catalog(_) => false,
        });
        let at = u64::try_from(at).ok()?;
        (!within).then(|| self.base.saturating_add(at))
    }

    /// What is at `position`.
    #[must_use]
    pub fn at(&self, position: u64) -> Found {
        let Some(offset) = position.checked_sub(self.base) else { return Found::Gone };
        let slot = usize::try_from(offset).ok().and_then(|offset| self.slots.get(offset));
        slot.map_or(Found::End, |slot| Found::Slot(slot.clone()))
    }

    /// Adds what a turn that ended at `head` means to this filter; whether that is anything.
    pub fn publish(
        &mut self,
        rows: &[Committed<Event>],
        head: &Head,
        keys: Option<&(Encoded, Seq)>,
        catalog: Option<Seq>,
    ) -> bool {
        let before = self.slots.len();
        let start = rows.first().map_or(head.seq, Committed::seq);
        // Keys and catalog go before anything above them.
        if let Some((encoded, seq)) = keys {
            self.push(start, What::Keys(*seq), encoded.clone());
        }
        if let Some(seq) = catalog {
            self.push(start, What::Catalog(seq), Encoded::default());
        }
        let items: Vec<_> = rows.iter().filter_map(|row| self.filter.item(row)).collect();
        let parts = items.chunks(BATCH_MAX);
        let count = parts.len();
        for (at, part) in parts.enumerate() {
            let (Some(first), Some(end)) = (part.first(), part.last()) else { continue };
            // A turn's cursor stands only on its last message: the others end within the turn.
            let seq = if at + 1 == count { head.seq } else { end.seq };
            let (prev, mut last) = (self.last, self.last);
            let mut wires = Vec::with_capacity(part.len());
            for item in part {
                wires.push(item.wire(last));
                last = item.seq;
            }
            let cursor = Some(self.filter.cursor(head, seq, last).wire());
            let batch = v1::RevocationBatch { items: wires, cursor };
            let what = What::Items { prev, first: first.seq, last };
            self.last = last;
            self.push(seq, what, encode(Wire::Batch(batch)));
        }
        self.slots.len() != before
    }

    fn push(&mut self, seq: Seq, what: What, encoded: Encoded) {
        self.bytes = self.bytes.saturating_add(encoded.0.len());
        self.slots.push_back(Slot { seq, what, encoded });
        while self.slots.len() > self.limit || self.bytes > RING_BYTES_MAX {
            let Some(gone) = self.slots.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(gone.encoded.0.len());
            self.base = self.base.saturating_add(1);
            self.floor = self.floor.max(gone.seq);
        }
    }
}

/// The key sets as a message.
#[must_use]
pub fn keys_message(keys: &KeySets) -> Encoded {
    encode(Wire::Keys(v1::Keys {
        jwks: keys.credential.to_string(),
        seq: keys.seq.0,
        checkpoint_jwks: keys.checkpoint.to_string(),
    }))
}

/// A batch again, whose first item comes after `prev`: for one who joined where the ring's own count began anew.
#[must_use]
pub fn relink(slot: &Slot, prev: Seq) -> Encoded {
    let decoded = v1::SubscribeResponse::decode(slot.encoded.0.clone()).ok();
    let Some(Wire::Batch(mut batch)) = decoded.and_then(|response| response.message) else {
        return slot.encoded.clone();
    };
    if let Some(first) = batch.items.first_mut() {
        first.prev_seq = prev.0;
    }
    encode(Wire::Batch(batch))
}
