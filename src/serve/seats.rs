//! Places that are counted per caller or address, so that none of them takes them all; and the answers that occupy one until they end.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use protem_core::event::Actor;

/// Who occupies how many places of one kind.
#[derive(Debug)]
pub struct Seats<K = Actor> {
    max: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One place, free again when this is dropped.
#[derive(Debug)]
pub struct Seat<K: Eq + Hash = Actor> {
    seats: Arc<Seats<K>>,
    who: K,
}

impl<K: Clone + Eq + Hash> Seats<K> {
    /// At most `max` places for each caller.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// How many places each caller may occupy.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// One more place for `who`; `None` when it occupies as many as it may.
    #[must_use]
    pub fn take(self: &Arc<Self>, who: K) -> Option<Seat<K>> {
        let mut taken = self.lock();
        let own = taken.get(&who).copied().unwrap_or(0);
        if own >= self.max {
            return None;
        }
        taken.insert(who.clone(), own.saturating_add(1));
        drop(taken);
        Some(Seat { seats: Arc::clone(self), who })
    }
}

impl<K> Seats<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        one_less(&mut self.seats.lock(), &self.who);
    }
}

/// Takes one away from what is counted of somebody, and forgets whom nothing is counted of.
pub(in crate::serve) fn one_less<K: Eq + Hash>(counted: &mut HashMap<K, usize>, who: &K) {
    if let Some(own) = counted.get_mut(who) {
        *own = own.saturating_sub(1);
        if *own == 0 {
            counted.remove(who);
        }
    }
}

/// An answer that occupies a place until its reader has all of it, or has gone.
pub struct Seated<B> {
    body: B,
    _seat: Seat,
}

impl<B> Seated<B> {
    /// The answer that occupies this place.
    #[must_use]
    pub fn new(body: B, seat: Seat) -> Self {
        Self { body, _seat: seat }
    }
}

impl<B: Body + Unpin> Body for Seated<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_own_places_and_gets_them_back() {
        let seats = Seats::new(2);
        let (one, other) = (Actor("identity:a".into()), Actor("person:a".into()));
        let first = seats.take(one.clone()).unwrap();
        let _second = seats.take(one.clone()).unwrap();
        assert!(seats.take(one.clone()).is_none());
        let third = seats.take(other.clone()).unwrap();
        drop(first);
        assert!(seats.take(one).is_some());
        drop(third);
        assert!(!seats.lock().contains_key(&other), "who has none is forgotten");
    }
}
