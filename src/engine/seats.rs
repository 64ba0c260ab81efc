//! Who follows the feed: counted by caller, and by how many different parts of it one caller asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_core::event::Actor;
use protem_verify::ids::Hash;

use crate::engine::subscribe::Unsubscribed;
use crate::policy::feed::To;

/// Subscriptions of one gateway identity, or of one observer: a large fleet of replicas, not a leak.
pub const SUBSCRIPTIONS_MAX: usize = 64;
/// Subscriptions of a broker: one per connection that it takes.
pub const SUBSCRIPTIONS_TOTAL: usize = 16_384;
/// Those of observers: however many there are, a gateway finds a place.
pub const OBSERVERS_TOTAL: usize = SUBSCRIPTIONS_TOTAL / 2;
/// Different filters of one observer: a job that looks at a few things at once. Each has a ring and a snapshot of its own.
pub const FILTERS_MAX: usize = 16;
/// The same of one gateway identity: each of its replicas may protect something else, and they are replaced one by one.
pub const FILTERS_OF_GATEWAY_MAX: usize = 2 * SUBSCRIPTIONS_MAX;
/// How long a filter counts after its last subscription: one after another costs as much as all at once.
pub const FILTER_KEPT: Duration = Duration::from_secs(60);
/// Callers that are remembered before the first look for those of whom nothing is left.
const MANY: usize = 1_024;

/// Everybody who follows.
pub(in crate::engine) struct Seats {
    taken: Mutex<Taken>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Taken {
    by: HashMap<Actor, Own>,
    total: usize,
    observers: usize,
    /// Callers beyond which those of whom nothing is left are looked for.
    many: usize,
}

/// What one caller has.
#[derive(Default)]
struct Own {
    seats: usize,
    filters: HashMap<Hash, Kept>,
}

/// One of its filters.
#[derive(Default)]
struct Kept {
    seats: usize,
    /// When the last of them was left.
    left: Duration,
}

/// Counts a subscription while it lives.
pub(in crate::engine) struct Seat {
    seats: Arc<Seats>,
    who: Actor,
    to: To,
    filter: Hash,
}

impl Seats {
    pub(in crate::engine) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { taken: Mutex::default(), clock }
    }

    /// How many follow.
    pub(in crate::engine) fn total(&self) -> usize {
        self.lock().total
    }

    /// A place for one more subscription of `who` with this filter.
    pub(in crate::engine) fn seat(
        self: &Arc<Self>,
        who: &Actor,
        to: To,
        filter: Hash,
    ) -> Result<Seat, Unsubscribed> {
        let now = self.clock.boot();
        let mut taken = self.lock();
        let observes = usize::from(to == To::Observer);
        if taken.total >= SUBSCRIPTIONS_TOTAL
            || taken.observers.saturating_add(observes) > OBSERVERS_TOTAL
        {
            return Err(Unsubscribed::TooMany);
        }
        taken.tidy(now);
        let own = taken.by.entry(who.clone()).or_default();
        if own.seats >= SUBSCRIPTIONS_MAX {
            return Err(Unsubscribed::TooMany);
        }
        own.filters.retain(|_, kept| kept.counts(now));
        let most = match to {
            To::Gateway => FILTERS_OF_GATEWAY_MAX,
            To::Observer => FILTERS_MAX,
        };
        if !own.filters.contains_key(&filter) && own.filters.len() >= most {
            return Err(Unsubscribed::TooVaried);
        }
        let kept = own.filters.entry(filter).or_default();
        kept.seats = kept.seats.saturating_add(1);
        own.seats = own.seats.saturating_add(1);
        taken.total = taken.total.saturating_add(1);
        taken.observers = taken.observers.saturating_add(observes);
        Ok(Seat { seats: Arc::clone(self), who: who.clone(), to, filter })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn tidy(&mut self, now: Duration) {
        if self.by.len() >= self.many.max(MANY) {
            self.by.retain(|_, own| own.filters.values().any(|kept| kept.counts(now)));
            self.many = self.by.len().saturating_mul(2);
        }
    }
}

impl Kept {
    fn counts(&self, now: Duration) -> bool {
        self.seats > 0 || now < self.left.saturating_add(FILTER_KEPT)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = self.seats.clock.boot();
        let mut taken = self.seats.lock();
        taken.total = taken.total.saturating_sub(1);
        taken.observers = taken.observers.saturating_sub(usize::from(self.to == To::Observer));
        let Some(own) = taken.by.get_mut(&self.who) else { return };
        own.seats = own.seats.saturating_sub(1);
        if let Some(kept) = own.filters.get_mut(&self.filter) {
            kept.seats = kept.seats.saturating_sub(1);
            kept.left = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use protem_clock::clock::ManualClock;

    use super::*;

    fn filter(number: usize) -> Hash {
        Hash([u8::try_from(number).unwrap(); 32])
    }

    #[test]
    fn one_caller_asks_for_few_different_parts_at_once_or_one_after_another() {
        for (to, most) in [(To::Observer, FILTERS_MAX), (To::Gateway, FILTERS_OF_GATEWAY_MAX)] {
            let clock = Arc::new(ManualClock::new(Duration::from_secs(1)));
            let seats = Arc::new(Seats::new(clock.clone()));
            let seat = |who: &str, number| seats.seat(&Actor(who.into()), to, filter(number));
            for number in 0..most {
                drop(seat("a", number).unwrap());
            }
            let more = seat("a", most).map(drop);
            assert_eq!(more, Err(Unsubscribed::TooVaried));
            drop(seat("a", 0).unwrap());
            drop(seat("b", most).unwrap());
            let stays = seat("a", 1).unwrap();
            clock.advance(FILTER_KEPT);
            drop(seat("a", most).unwrap());
            // What is still followed counts on.
            for number in 2..most {
                drop(seat("a", number).unwrap());
            }
            assert_eq!(seat("a", 0).map(drop), Err(Unsubscribed::TooVaried));
            drop(stays);
        }
    }

    #[test]
    fn observers_leave_places_for_gateways_and_who_has_left_is_forgotten() {
        let clock = Arc::new(ManualClock::new(Duration::from_secs(1)));
        let seats = Arc::new(Seats::new(clock.clone()));
        let seat = |number: usize, to| {
            seats.seat(&Actor(format!("{}", number / SUBSCRIPTIONS_MAX).into()), to, filter(0))
        };
        let all: Vec<_> =
            (0..OBSERVERS_TOTAL).map(|number| seat(number, To::Observer).unwrap()).collect();
        assert_eq!(seat(OBSERVERS_TOTAL, To::Observer).map(drop), Err(Unsubscribed::TooMany));
        assert!(seat(OBSERVERS_TOTAL, To::Gateway).is_ok());
        drop(all);
        clock.advance(FILTER_KEPT);
        for number in 0..2 * MANY {
            drop(seats.seat(&Actor(format!("c{number}").into()), To::Observer, filter(0)).unwrap());
            clock.advance(FILTER_KEPT);
        }
        assert_eq!(seats.total(), 0);
        assert!(seats.lock().by.len() <= MANY, "{}", seats.lock().by.len());
    }
}
