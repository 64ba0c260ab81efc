//! Places: how many calls may be in flight, in all and of one caller.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_verify::codes::wire;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code as Grpc;

use crate::policy::login::{Caller, Principal};
use crate::serve::limits::{
    BUSY_RETRY, CALLS_MAX, ENDING_CALLS_MAX, ENDING_CALLS_OF_ONE_MAX, ENDING_CALLS_RESERVED,
    FOLLOWED_MAX, FOLLOWED_OF_ONE_MAX, HOLDS_OF_ONE_MAX, STRANGERS_CALL_WITHIN,
    STRANGERS_CALLS_MAX, STRANGERS_CALLS_OF_ONE_MAX, WAITS_MAX, WAITS_OF_ONE_MAX,
};
use crate::serve::methods::Lane;
use crate::serve::rates::household;
use crate::serve::seats::{Seat, Seats};
use crate::serve::status::Problem;
use crate::serve::waits::Waits;

/// All places.
pub(in crate::serve) struct Places {
    ordinary: Arc<Semaphore>,
    ending: Arc<Semaphore>,
    /// Those of the ending lane that only people get.
    reserved: Arc<Semaphore>,
    /// Calls of the ending lane, per caller.
    ends: Arc<Seats>,
    /// Those of who has not signed in: they take none of the others.
    strangers: Arc<Semaphore>,
    /// Calls of who has not signed in, per address or IPv6 network.
    households: Arc<Seats<IpAddr>>,
    limits: CallLimits,
}

/// A call's room among those in flight; a service that has done its work and only waits for others leaves it early.
#[derive(Debug)]
pub struct Room {
    place: Mutex<Option<Place>>,
    waits: Waits,
}

/// One of the places of all, in the ending lane one of the caller's own, and of a stranger one of its address's own.
#[derive(Debug)]
pub(in crate::serve) struct Place {
    _of_all: OwnedSemaphorePermit,
    _own: Option<Seat>,
    _household: Option<Seat<IpAddr>>,
}

impl Room {
    pub(in crate::serve) fn of(place: Place, waits: Waits) -> Self {
        Self { place: Mutex::new(Some(place)), waits }
    }

    /// Where a call waits that leaves its room early.
    #[must_use]
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Makes room for the next call.
    pub fn leave(&self) {
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// How many calls may be in flight; tests choose fewer.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// All but those that end access and those of strangers.
    pub ordinary: usize,
    /// Those that end access.
    pub ending: usize,
    /// Those that end access, for people alone.
    pub reserved: usize,
    /// Those that end access, of one caller.
    pub ending_of_one: usize,
    /// Those that wait for a task's end to be enforced.
    pub waits: usize,
    /// The same, of one caller.
    pub waits_of_one: usize,
    /// Those that follow a revocation's receipts.
    pub followed: usize,
    /// The same, of one person.
    pub followed_of_one: usize,
    /// Streams that hold tasks, of one caller.
    pub holds_of_one: usize,
    /// Those of who has not signed in.
    pub strangers: usize,
    /// The same of one address (or IPv6 network).
    pub strangers_of_one: usize,
    /// How long one of these may take until its first answer.
    pub strangers_within: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            ordinary: CALLS_MAX,
            ending: ENDING_CALLS_MAX,
            reserved: ENDING_CALLS_RESERVED,
            ending_of_one: ENDING_CALLS_OF_ONE_MAX,
            waits: WAITS_MAX,
            waits_of_one: WAITS_OF_ONE_MAX,
            followed: FOLLOWED_MAX,
            followed_of_one: FOLLOWED_OF_ONE_MAX,
            holds_of_one: HOLDS_OF_ONE_MAX,
            strangers: STRANGERS_CALLS_MAX,
            strangers_of_one: STRANGERS_CALLS_OF_ONE_MAX,
            strangers_within: STRANGERS_CALL_WITHIN,
        }
    }
}

impl Places {
    /// All of them free.
    pub(in crate::serve) fn new(limits: CallLimits) -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(limits.ordinary)),
            ending: Arc::new(Semaphore::new(limits.ending)),
            reserved: Arc::new(Semaphore::new(limits.reserved)),
            ends: Seats::new(limits.ending_of_one),
            strangers: Arc::new(Semaphore::new(limits.strangers)),
            households: Seats::new(limits.strangers_of_one),
            limits,
        }
    }

    /// Done when all are free; nobody gets one from then on.
    pub(in crate::serve) async fn empty(&self) {
        let all = |lane: &Arc<Semaphore>, count: usize| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Arc::clone(lane).acquire_many_owned(count)
        };
        let taken = tokio::join!(
            all(&self.ordinary, self.limits.ordinary),
            all(&self.ending, self.limits.ending),
            all(&self.reserved, self.limits.reserved),
            all(&self.strangers, self.limits.strangers),
        );
        let keep = |permit: OwnedSemaphorePermit| permit.forget();
        [taken.0, taken.1, taken.2, taken.3].into_iter().flatten().for_each(keep);
    }

    /// How long a stranger's call may take until its first answer.
    pub(in crate::serve) fn strangers_within(&self) -> Duration {
        self.limits.strangers_within
    }

    /// A place. One caller cannot take all that end access, and workloads together cannot take
    /// those that people need to stop them.
    pub(in crate::serve) fn take(&self, lane: Lane, caller: &Caller) -> Result<Place, Problem> {
        let own = match lane {
            Lane::Ordinary => None,
            Lane::Ending => {
                let seat = self.ends.take(caller.actor());
                Some(seat.ok_or_else(|| {
                    let (who, max) = (caller.actor(), self.ends.max());
                    busy(&format!("`{}` has {max} calls in flight that end access", who.0))
                })?)
            }
        };
        let of_all = match lane {
            Lane::Ordinary => Arc::clone(&self.ordinary).try_acquire_owned(),
            Lane::Ending => Arc::clone(&self.ending).try_acquire_owned().or_else(|full| {
                let kept = Some(&self.reserved).filter(|_| is_person(caller));
                kept.map_or(Err(full), |kept| Arc::clone(kept).try_acquire_owned())
            }),
        };
        let full = |_| busy("as many calls are in flight as the broker takes at once");
        Ok(Place { _of_all: of_all.map_err(full)?, _own: own, _household: None })
    }

    /// A place for a call of somebody whom the bundle does not know. Its message may never come, and anybody may begin it: so
    /// it takes none that callers need, and one address takes few of those that are left.
    pub(in crate::serve) fn take_as_stranger(&self, from: IpAddr) -> Result<Place, Problem> {
        let own = self.households.take(household(from)).ok_or_else(|| {
            let max = self.households.max();
            busy(&format!("this address has {max} calls in flight without a caller"))
        })?;
        let of_all = Arc::clone(&self.strangers).try_acquire_owned();
        let full = |_| busy("as many calls without a caller are in flight as the broker takes");
        Ok(Place { _of_all: of_all.map_err(full)?, _own: None, _household: Some(own) })
    }
}

fn busy(why: &str) -> Problem {
    Problem::new(Grpc::ResourceExhausted, wire::BUSY, why).retry(BUSY_RETRY)
}

fn is_person(caller: &Caller) -> bool {
    match &caller.principal {
        Principal::Person(_) => true,
        Principal::Workload { .. } | Principal::Gateway { .. } => false,
    }
}
