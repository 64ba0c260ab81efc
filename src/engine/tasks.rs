//! Held tasks: a stream's silence is forgiven for its lease, and then the task is abandoned.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_clock::random;
use protem_core::command::Command;
use protem_core::limits::LEASE_DEFAULT;
use protem_core::refusal::Refusal;
use protem_verify::ids::HoldId;
use protem_verify::names::{IdentityName, TaskId, Words};

use crate::engine::broker::Broker;
use crate::engine::changes::{Changes, Watched};
use crate::engine::granted::Finished;
use crate::engine::lane::{Lane, Lanes};
use crate::engine::sequencer::{Job, Work};
use crate::engine::stop::Stop;
use crate::engine::thread::system;
use crate::policy::login::{Caller, Principal};

/// How long an abandonment that the store did not take waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest sleep between looks at the leases; the monotonic clock also counts a suspend that a sleep does not.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A held task, as the stream that holds it sees it. Dropped without [`Hold::complete`], it is lost: its lease runs.
pub struct Hold {
    id: HoldId,
    caller: Caller,
    task: TaskId,
    lease: Duration,
    broker: Broker,
    key: (IdentityName, TaskId),
}

impl Hold {
    /// How long silence is forgiven.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A sign of life.
    pub fn beat(&self) {
        let now = self.broker.0.clock.boot();
        self.broker.0.leases.touch(&self.key, self.id, now);
    }

    /// Whether this stream still holds the task: a newer hold, or the task's end, makes it mean nothing.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broker.0.leases.holds(&self.key, self.id)
    }

    /// The changes of the task's grants, with credentials for the grants of the stream's own subject.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let holder = match &self.caller.principal {
            Principal::Workload { by, .. } => Some(by.clone()),
            Principal::Person(_) | Principal::Gateway { .. } => None,
        };
        let watched = Watched::Task(self.key.0.clone(), self.key.1.clone());
        self.broker.0.watchers.watch(watched, &self.broker, holder)
    }

    /// The stream was closed in order: the task is complete, unless a newer stream holds it.
    ///
    /// # Errors
    /// When the world broke; the lease then runs, and the task ends with it.
    pub async fn complete(self, outcome: Words) -> Result<Finished, Stop> {
        let done =
            self.broker.complete(&self.caller, self.task.clone(), Some(self.id), outcome).await;
        if done.is_ok() {
            self.broker.0.leases.forget(&self.key, self.id);
        }
        done
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The loss is now: the lease counts from here. After `complete` there is nothing left to touch.
        self.beat();
    }
}

impl Broker {
    /// Ties a task to the caller's stream; it may hold no grant yet. A newer hold replaces an older one.
    ///
    /// # Errors
    /// When the lease is out of range, the task has ended, too many are held, or the world broke.
    pub async fn hold_task(
        &self,
        caller: &Caller,
        task: TaskId,
        lease: Option<Duration>,
    ) -> Result<Hold, Stop> {
        let Principal::Workload { by, .. } = &caller.principal else {
            return Err(Refusal::UnknownTask(task).into());
        };
        let lease = lease.unwrap_or(LEASE_DEFAULT);
        let id = HoldId(random::bytes());
        let key = (by.identity.clone(), task.clone());
        let command = Command::HoldTask { by: by.clone(), task: task.clone(), hold: id, lease };
        // Its lease begins where its entry is durable, in the tail: also when the caller left, or was told that nobody knew.
        self.submit(Lane::Ordinary, caller.actor(), command, |_| ()).await?;
        Ok(Hold { id, caller: caller.clone(), task, lease, broker: self.clone(), key })
    }
}

/// The leases of all held tasks, by the monotonic clock.
#[derive(Default)]
pub struct Leases {
    known: Mutex<Known>,
    wake: Condvar,
}

#[derive(Default)]
struct Known {
    held: BTreeMap<(IdentityName, TaskId), Lease>,
    closed: bool,
}

#[derive(Clone, Copy)]
struct Lease {
    hold: HoldId,
    lease: Duration,
    touched: Duration,
    /// It ran out: no beat revives it.
    lost: bool,
}

impl Leases {
    /// A stream, or after a restart its memory, holds a task from `now` on.
    pub fn hold(&self, key: (IdentityName, TaskId), hold: HoldId, lease: Duration, now: Duration) {
        let mut known = self.lock();
        // Nobody is woken: the shortest lease is as long as the longest sleep.
        known.held.insert(key, Lease { hold, lease, touched: now, lost: false });
    }

    /// Ends the loop of [`Self::run`].
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// What ran out, and how long until the next does.
    #[must_use]
    pub fn due(&self, now: Duration) -> (Vec<(IdentityName, TaskId, HoldId)>, Duration) {
        let known = self.lock();
        let mut next = SLEEP_MAX;
        let mut due = Vec::new();
        for ((identity, task), lease) in &known.held {
            let left = lease.touched.saturating_add(lease.lease).saturating_sub(now);
            if left.is_zero() {
                due.push((identity.clone(), task.clone(), lease.hold));
            } else {
                next = next.min(left);
            }
        }
        (due, next)
    }

    /// Abandons what runs out, until closed.
    pub fn run(self: &Arc<Self>, lanes: &Lanes, clock: &dyn Clock) {
        loop {
            let now = clock.boot();
            let (due, next) = self.due(now);
            for (identity, task, hold) in due {
                self.abandon(lanes, (identity, task), hold, now);
            }
            let known = self.lock();
            if known.closed {
                return;
            }
            let waited = self.wake.wait_timeout(known, next);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn abandon(
        self: &Arc<Self>,
        lanes: &Lanes,
        key: (IdentityName, TaskId),
        hold: HoldId,
        now: Duration,
    ) {
        {
            // Not due again while this try is on its way.
            let mut known = self.lock();
            let Some(lease) = known.held.get_mut(&key).filter(|lease| lease.hold == hold) else {
                return;
            };
            lease.lost = true;
            lease.touched = now.saturating_add(AGAIN).saturating_sub(lease.lease);
        }
        let (identity, task) = key.clone();
        let leases: Weak<Self> = Arc::downgrade(self);
        let answer =
            move |answer: Result<crate::engine::sequencer::Answered<'_>, Stop>| match answer {
                Ok(_) | Err(Stop::Refused(_)) => {
                    if let Some(leases) = leases.upgrade() {
                        leases.forget(&key, hold);
                    }
                }
                Err(stop) => tracing::warn!(%stop, "a lost task was not ended yet"),
            };
        let command = Command::AbandonTask { identity, task, hold };
        lanes.push(
            Lane::Ending,
            Job {
                actor: system(),
                work: Work::Command(Box::new(command)),
                answer: Box::new(answer),
            },
        );
    }

    fn touch(&self, key: &(IdentityName, TaskId), hold: HoldId, now: Duration) {
        let mut known = self.lock();
        if let Some(lease) = known.held.get_mut(key).filter(|lease| lease.hold == hold) {
            // INVARIANT(a_lost_lease_stays_lost): a beat that comes after the lease ran out revives nothing.
            if !lease.lost && lease.touched.saturating_add(lease.lease) > now {
                lease.touched = lease.touched.max(now);
            }
        }
    }

    fn holds(&self, key: &(IdentityName, TaskId), hold: HoldId) -> bool {
        self.lock().held.get(key).is_some_and(|lease| lease.hold == hold)
    }

    pub(in crate::engine) fn forget(&self, key: &(IdentityName, TaskId), hold: HoldId) {
        let mut known = self.lock();
        if known.held.get(key).is_some_and(|lease| lease.hold == hold) {
            known.held.remove(key);
        }
    }

    /// A task ended, whoever ended it: nothing holds it any more.
    pub(in crate::engine) fn ended(&self, key: &(IdentityName, TaskId)) {
        self.lock().held.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn key() -> (IdentityName, TaskId) {
        (IdentityName::try_from("payments/job").unwrap(), TaskId::try_from("t-1").unwrap())
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_lost_lease_stays_lost() {
        let (leases, old, new) = (Leases::default(), HoldId([1; 16]), HoldId([2; 16]));
        leases.hold(key(), old, LEASE, secs(100));
        leases.touch(&key(), old, secs(110));
        assert!(leases.due(secs(124)).0.is_empty(), "a beat counts");
        assert_eq!(leases.due(secs(125)).0.len(), 1);
        leases.touch(&key(), old, secs(126));
        assert_eq!(leases.due(secs(126)).0.len(), 1, "a late beat revives nothing");
        leases.hold(key(), new, LEASE, secs(126));
        leases.touch(&key(), old, secs(130));
        assert_eq!(
            leases.due(secs(141)).0,
            [(key().0, key().1, new)],
            "the old stream says nothing"
        );
        leases.forget(&key(), old);
        assert!(leases.holds(&key(), new));
    }
}
