//! Two bounded queues: what ends access is served first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::sequencer::Job;
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;

/// Ordinary commands that may wait for a turn; one more is told to come back later, so a burst costs latency, not memory.
pub const WAITING_MAX: usize = 4_096;
/// Commands that end access and may wait: four times as many, since turning one away leaves access standing.
pub const ENDING_MAX: usize = 16_384;
/// Commands in one turn: enough to share an fsync well, few enough that what comes behind it waits milliseconds.
pub const TURN_MAX: usize = 256;
/// Ordinary commands in a turn that ends access: it is answered as a whole, so each of them delays the end; some, so that
/// work goes on during a mass revocation.
pub const BESIDE_ENDING_MAX: usize = 16;

/// Which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Ends access: drained first.
    Ending,
    /// All else.
    Ordinary,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// In the ordinary queue.
    pub waiting: usize,
    /// In the ending queue.
    pub ending: usize,
    /// In one turn.
    pub turn: usize,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self { waiting: WAITING_MAX, ending: ENDING_MAX, turn: TURN_MAX }
    }
}

/// The queues in front of the sequencer.
pub struct Lanes {
    limits: LaneLimits,
    queues: Mutex<Queues>,
    wake: Condvar,
}

#[derive(Default)]
struct Queues {
    ending: VecDeque<Job>,
    ordinary: VecDeque<Job>,
    closed: bool,
}

/// What a wait brought.
pub enum Drained {
    /// A batch, ending lane first; empty when the time was up.
    Batch(Vec<Job>),
    /// Closed, and nothing is left.
    Closed,
}

impl Lanes {
    /// Empty queues.
    #[must_use]
    pub fn new(limits: LaneLimits) -> Self {
        Self { limits, queues: Mutex::default(), wake: Condvar::new() }
    }

    /// Lets a job wait for a turn. A job that finds no room is answered so, at once.
    pub fn push(&self, lane: Lane, job: Job) {
        let mut queues = self.lock();
        if queues.closed {
            drop(queues);
            return (job.answer)(Err(Stop::Faulted(Fault::Stopping)));
        }
        let (queue, limit) = match lane {
            Lane::Ending => (&mut queues.ending, self.limits.ending),
            Lane::Ordinary => (&mut queues.ordinary, self.limits.waiting),
        };
        if queue.len() >= limit {
            drop(queues);
            return (job.answer)(Err(Stop::busy()));
        }
        queue.push_back(job);
        drop(queues);
        self.wake.notify_one();
    }

    /// Waits for work, at most for `patience`, and takes one turn's share of it.
    pub fn drain(&self, patience: Duration) -> Drained {
        let mut queues = self.lock();
        if queues.is_empty() && !queues.closed {
            let waited = self
                .wake
                .wait_timeout_while(queues, patience, |queues| queues.is_empty() && !queues.closed);
            queues = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if queues.is_empty() && queues.closed {
            return Drained::Closed;
        }
        Drained::Batch(queues.take(self.limits.turn))
    }

    /// Takes nothing new from here on; what waits is still served.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Whether it takes nothing new.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many wait: ending, ordinary.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queues = self.lock();
        (queues.ending.len(), queues.ordinary.len())
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn is_empty(&self) -> bool {
        self.ending.is_empty() && self.ordinary.is_empty()
    }

    fn take(&mut self, turn: usize) -> Vec<Job> {
        let ending = self.ending.len().min(turn);
        let room = if ending == 0 { turn } else { BESIDE_ENDING_MAX };
        let ordinary = self.ordinary.len().min(room);
        let mut batch: Vec<Job> = self.ending.drain(..ending).collect();
        batch.extend(self.ordinary.drain(..ordinary));
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use protem_core::event::Actor;

    use super::*;
    use crate::engine::sequencer::Work;

    fn job(name: &str, turned_away: &Arc<AtomicUsize>) -> Job {
        let turned_away = Arc::clone(turned_away);
        Job {
            actor: Actor(name.into()),
            work: Work::Look,
            answer: Box::new(move |answer| {
                if answer.is_err() {
                    turned_away.fetch_add(1, Ordering::Relaxed);
                }
            }),
        }
    }

    fn batch(lanes: &Lanes) -> Vec<String> {
        match lanes.drain(Duration::ZERO) {
            Drained::Batch(jobs) => jobs.iter().map(|job| job.actor.0.to_string()).collect(),
            Drained::Closed => vec!["closed".to_owned()],
        }
    }

    #[test]
    fn what_ends_access_goes_first_and_has_its_own_room() {
        let lanes = Lanes::new(LaneLimits { waiting: 2, ending: 2, turn: 2 });
        let away = Arc::new(AtomicUsize::new(0));
        for name in ["o1", "o2", "o3"] {
            lanes.push(Lane::Ordinary, job(name, &away));
        }
        assert_eq!(away.load(Ordering::Relaxed), 1, "the third found no room");
        for name in ["e1", "e2"] {
            lanes.push(Lane::Ending, job(name, &away));
        }
        assert_eq!(away.load(Ordering::Relaxed), 1, "a flood of requests leaves room for ending");
        assert_eq!(batch(&lanes), ["e1", "e2", "o1", "o2"]);
    }

    #[test]
    fn a_turn_that_ends_access_takes_few_others_along() {
        let lanes = Lanes::new(LaneLimits { waiting: 100, ending: 2, turn: 50 });
        let away = Arc::new(AtomicUsize::new(0));
        (0..100).for_each(|_| lanes.push(Lane::Ordinary, job("o", &away)));
        lanes.push(Lane::Ending, job("e", &away));
        assert_eq!(batch(&lanes).len(), 1 + BESIDE_ENDING_MAX);
        assert_eq!(batch(&lanes).len(), 50);
    }

    #[test]
    fn a_closed_queue_serves_what_waits_and_takes_no_more() {
        let lanes = Lanes::new(LaneLimits::default());
        let away = Arc::new(AtomicUsize::new(0));
        lanes.push(Lane::Ordinary, job("o1", &away));
        lanes.close();
        lanes.push(Lane::Ending, job("e1", &away));
        assert_eq!(away.load(Ordering::Relaxed), 1);
        assert_eq!(batch(&lanes), ["o1"]);
        assert_eq!(batch(&lanes), ["closed"]);
    }
}
