//! The marks of what people ended lately, so that somebody who comes later can still follow how it took force.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protem_verify::ids::Seq;

use crate::engine::receipts::Mark;

/// Marks that are remembered: a busy night of revocations, a few hundred bytes each. What is older is in force anyway.
const MARKS_MAX: usize = 1_024;

/// The newest of them.
#[derive(Debug, Default)]
pub(in crate::engine) struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    /// Remembers one. A call that ended nothing new may name an entry again: its first mark is the truer one.
    pub(in crate::engine) fn keep(&self, mark: &Mark) {
        let mut known = self.lock();
        if known.iter().any(|one| one.seq == mark.seq) {
            return;
        }
        if known.len() >= MARKS_MAX {
            known.pop_front();
        }
        known.push_back(mark.clone());
    }

    /// The mark of an entry.
    pub(in crate::engine) fn find(&self, seq: Seq) -> Option<Mark> {
        self.lock().iter().find(|mark| mark.seq == seq).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::receipts::Covers;

    #[test]
    fn the_newest_are_found_and_a_repeated_one_keeps_its_moment() {
        let marks = Marks::default();
        let mark = |seq: u64, secs: u64| Mark {
            seq: Seq(seq),
            committed: Duration::from_secs(secs),
            covers: Covers::Everything,
        };
        marks.keep(&mark(7, 1));
        marks.keep(&mark(7, 9));
        assert_eq!(marks.find(Seq(7)), Some(mark(7, 1)));
        assert_eq!(marks.find(Seq(8)), None);
        for more in 0..u64::try_from(MARKS_MAX).unwrap() {
            marks.keep(&mark(100 + more, 2));
        }
        assert_eq!(marks.find(Seq(7)), None);
        assert!(marks.find(Seq(100)).is_some());
    }
}
