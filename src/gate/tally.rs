//! How the feed has gone since the gateway started, in counts.

use std::sync::atomic::{AtomicU64, Ordering};

use protem_proto::wire::v1::subscribe_response::Message;

/// Counts that only rise; anybody may read them at any time.
#[derive(Debug, Default)]
pub struct Tally {
    opened: AtomicU64,
    snapshots: AtomicU64,
}

impl Tally {
    /// Streams that the broker opened: one more than connections were lost.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Complete snapshots: one at the start, and one more for each time that the view could not go on from its cursor.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Counts a message.
    pub(crate) fn heard(&self, message: &Message) {
        match message {
            Message::Opened(_) => self.opened.fetch_add(1, Ordering::Relaxed),
            Message::SnapshotEnd(_) => self.snapshots.fetch_add(1, Ordering::Relaxed),
            Message::SnapshotBegin(_)
            | Message::Batch(_)
            | Message::Checkpoint(_)
            | Message::Reset(_)
            | Message::Keys(_)
            | Message::Catalog(_)
            | Message::GoAway(_) => return,
        };
    }
}
