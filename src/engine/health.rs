//! Whether something failed since the last commit, for those who must not wait for a turn to know.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the sequencer's thread after each turn.
#[derive(Debug, Default)]
pub struct Health(AtomicBool);

impl Health {
    /// After a turn.
    pub fn set(&self, failed: bool) {
        self.0.store(failed, Ordering::Release);
    }

    /// Whether a proof needs a commit first.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
