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
use crate::engine::sequencer::{Answered, Job, Work};
use crate::engine::stop::Stop;
use crate::engine::thread::system;
use crate::policy::login::{Caller, Principal};

/// How long an abandonment that the store did not take waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Abandonments on their way at once, one turn's worth: however many tasks are lost, whoever ends access waits behind no more
/// than these, and finds room.
pub const ABANDONED_MAX: usize = 256;
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
    /// Abandonments that have no answer yet.
    on_their_way: usize,
    /// There is room for more since the leases were looked at.
    room: bool,
    closed: bool,
}

#[derive(Clone, Copy)]
struct Lease {
    hold: HoldId,
    lease: Duration,
    /// When it runs out; once it has, when its task may be abandoned next.
    due: Duration,
    /// It ran out: no beat revives it.
    lost: bool,
    /// Its abandonment has no answer yet.
    ending: bool,
}

/// A task whose lease ran out, and the stream that held it.
type Lost = ((IdentityName, TaskId), HoldId);

/// An abandonment's place among those on their way, free again with its answer.
struct OnItsWay {
    leases: Weak<Leases>,
    lost: Lost,
}

impl Leases {
    /// A stream, or after a restart its memory, holds a task from `now` on.
    pub fn hold(&self, key: (IdentityName, TaskId), hold: HoldId, lease: Duration, now: Duration) {
        let mut known = self.lock();
        // Nobody is woken: the shortest lease is as long as the longest sleep.
        let due = now.saturating_add(lease);
        known.held.insert(key, Lease { hold, lease, due, lost: false, ending: false });
    }

    /// Ends the loop of [`Self::run`].
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Abandons what runs out, until closed.
    pub fn run(self: &Arc<Self>, lanes: &Lanes, clock: &dyn Clock) {
        loop {
            let next = self.step(lanes, clock.boot());
            let known = self.lock();
            let waits = |known: &mut Known| !known.closed && !known.room;
            let waited = self.wake.wait_timeout_while(known, next, waits);
            if waited.unwrap_or_else(PoisonError::into_inner).0.closed {
                return;
            }
        }
    }

    /// Abandons as much of what ran out as there is room for. Returns how long until the next does.
    fn step(self: &Arc<Self>, lanes: &Lanes, now: Duration) -> Duration {
        let (lost, next) = self.lock().lose(now);
        for lost in lost {
            self.abandon(lanes, lost);
        }
        next
    }

    fn abandon(self: &Arc<Self>, lanes: &Lanes, lost: Lost) {
        let ((identity, task), hold) = lost.clone();
        let place = OnItsWay { leases: Arc::downgrade(self), lost };
        let answer = move |answer: Result<Answered<'_>, Stop>| match answer {
            Ok(_) | Err(Stop::Refused(_)) => {
                if let Some(leases) = place.leases.upgrade() {
                    leases.forget(&place.lost.0, place.lost.1);
                }
            }
            Err(stop) => tracing::warn!(%stop, "a lost task was not ended yet"),
        };
        let command = Command::AbandonTask { identity, task, hold };
        let work = Work::Command(Box::new(command));
        lanes.push(Lane::Ending, Job { actor: system(), work, answer: Box::new(answer) });
    }

    fn touch(&self, key: &(IdentityName, TaskId), hold: HoldId, now: Duration) {
        let mut known = self.lock();
        if let Some(lease) = known.held.get_mut(key).filter(|lease| lease.hold == hold) {
            // INVARIANT(a_lost_lease_stays_lost): a beat that comes after the lease ran out revives nothing.
            if !lease.lost && lease.due > now {
                lease.due = lease.due.max(now.saturating_add(lease.lease));
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

impl Known {
    /// What ran out and may be abandoned now, the longest lost first, each marked as on its way; and how long until there may
    /// be more.
    fn lose(&mut self, now: Duration) -> (Vec<Lost>, Duration) {
        self.room = false;
        let mut next = SLEEP_MAX;
        let mut due: Vec<(Duration, Lost)> = Vec::new();
        for (key, lease) in self.held.iter().filter(|(_, lease)| !lease.ending) {
            let left = lease.due.saturating_sub(now);
            if left.is_zero() {
                due.push((lease.due, (key.clone(), lease.hold)));
            } else {
                next = next.min(left);
            }
        }
        due.sort_unstable();
        // INVARIANT(lost_tasks_leave_room): few are on their way, and none twice, whatever the store does meanwhile.
        due.truncate(ABANDONED_MAX.saturating_sub(self.on_their_way));
        self.on_their_way = self.on_their_way.saturating_add(due.len());
        for (_, (key, _)) in &due {
            if let Some(lease) = self.held.get_mut(key) {
                lease.lost = true;
                lease.ending = true;
                lease.due = now.saturating_add(AGAIN);
            }
        }
        (due.into_iter().map(|(_, lost)| lost).collect(), next)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Some(leases) = self.leases.upgrade() else { return };
        let mut known = leases.lock();
        known.on_their_way = known.on_their_way.saturating_sub(1);
        let (key, hold) = &self.lost;
        if let Some(lease) = known.held.get_mut(key).filter(|lease| lease.hold == *hold) {
            lease.ending = false; // it was not ended: its next time comes
        }
        // Not with each answer: whoever is woken looks at all leases.
        if known.on_their_way == ABANDONED_MAX / 2 || known.on_their_way == 0 {
            known.room = true;
            leases.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lane::{Drained, LaneLimits};

    const LEASE: Duration = Duration::from_secs(15);

    fn key() -> (IdentityName, TaskId) {
        (IdentityName::try_from("payments/job").unwrap(), TaskId::try_from("t-1").unwrap())
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn due(leases: &Leases, now: Duration) -> Vec<Lost> {
        leases.lock().lose(now).0
    }

    #[test]
    fn a_lost_lease_stays_lost() {
        let (leases, old, new) = (Leases::default(), HoldId([1; 16]), HoldId([2; 16]));
        leases.hold(key(), old, LEASE, secs(100));
        leases.touch(&key(), old, secs(110));
        assert!(due(&leases, secs(124)).is_empty(), "a beat counts");
        assert_eq!(due(&leases, secs(125)), [(key(), old)]);
        leases.touch(&key(), old, secs(125));
        assert!(leases.lock().held[&key()].due < secs(126), "a late beat revives nothing");
        leases.hold(key(), new, LEASE, secs(126));
        leases.touch(&key(), old, secs(130));
        assert!(due(&leases, secs(140)).is_empty());
        assert_eq!(due(&leases, secs(141)), [(key(), new)], "the old stream says nothing");
        leases.forget(&key(), old);
        assert!(leases.holds(&key(), new));
    }

    /// Takes a turn's share of what waits and answers it as a store does that fails, or takes it.
    fn answer(lanes: &Lanes, taken: bool) -> usize {
        let Drained::Batch(jobs) = lanes.drain(Duration::ZERO) else { panic!("it is open") };
        let count = jobs.len();
        for job in jobs {
            let gone = Stop::Refused(Refusal::UnknownTask(key().1));
            (job.answer)(Err(if taken { gone } else { Stop::busy() }));
        }
        count
    }

    #[test]
    fn lost_tasks_leave_room() {
        let (leases, lanes) = (Arc::new(Leases::default()), Lanes::new(LaneLimits::default()));
        let all = ABANDONED_MAX * 3 + 7;
        for number in 0..all {
            let task = TaskId::try_from(format!("t-{number}").as_str()).unwrap();
            leases.hold((key().0, task), HoldId([1; 16]), LEASE, secs(100));
        }
        // A disk that stalls for an hour: nothing is answered, and nothing is asked for again.
        for second in 115..3_700 {
            leases.step(&lanes, secs(second));
            assert_eq!(lanes.waiting().0, ABANDONED_MAX);
        }
        // It fails: each is tried again once its time has come, beside none of the others.
        assert_eq!(answer(&lanes, false), ABANDONED_MAX);
        leases.step(&lanes, secs(3_700));
        assert_eq!(lanes.waiting().0, ABANDONED_MAX);
        // It is back: all of them end, a share at a time, and each answer's place is given on.
        let mut ended = 0;
        for second in 3_701..3_710 {
            ended += answer(&lanes, true);
            leases.step(&lanes, secs(second));
            assert!(lanes.waiting().0 <= ABANDONED_MAX);
        }
        assert_eq!(ended, all);
        let known = leases.lock();
        assert!(known.held.is_empty() && known.on_their_way == 0);
    }

    #[test]
    fn an_abandonment_that_nobody_answers_is_tried_again() {
        let (leases, lanes) = (Arc::new(Leases::default()), Lanes::new(LaneLimits::default()));
        leases.hold(key(), HoldId([1; 16]), LEASE, secs(100));
        leases.step(&lanes, secs(115));
        let Drained::Batch(jobs) = lanes.drain(Duration::ZERO) else { panic!("it is open") };
        leases.step(&lanes, secs(116));
        assert_eq!(lanes.waiting().0, 0, "it has no answer yet");
        drop(jobs);
        leases.step(&lanes, secs(117));
        assert_eq!(lanes.waiting().0, 1);
    }
}
