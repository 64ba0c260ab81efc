//! Places for those who open TLS connections: silence takes none of those where hands are shaken, and who stalls gives way.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::serve::limits::{
    HANDSHAKE_PRESSED, HANDSHAKE_QUEUE_WITHIN, HANDSHAKE_WITHIN, HANDSHAKES_MAX,
    HANDSHAKES_OF_ONE_MAX, HELLOS_OF_ONE_MAX,
};
use crate::serve::rates::household;

/// All of them. Addresses count by [`household`]: an IPv6 host has a whole network of them.
#[derive(Debug)]
pub struct Handshakes {
    /// For those who have said nothing whole yet.
    hellos: Own,
    own: Own,
    all: Arc<Semaphore>,
    /// How many wait for one of `all`.
    waiting: watch::Sender<usize>,
}

/// The places of one handshake, free again when dropped.
#[derive(Debug)]
pub struct Places<'a> {
    _all: OwnedSemaphorePermit,
    _own: OwnPlace<'a>,
}

/// Some places for each household, of whatever kind.
#[derive(Debug)]
pub(in crate::serve) struct Own {
    max: usize,
    households: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// One of a household's places, free again when dropped.
#[derive(Debug)]
pub struct OwnPlace<'a> {
    permit: Option<OwnedSemaphorePermit>,
    household: IpAddr,
    of: &'a Own,
}

/// Counts as one who waits, until dropped.
struct Waits<'a>(&'a watch::Sender<usize>);

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            hellos: Own::new(HELLOS_OF_ONE_MAX),
            own: Own::new(HANDSHAKES_OF_ONE_MAX),
            all: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            waiting: watch::Sender::new(0),
        }
    }
}

impl Handshakes {
    /// A place to say hello from: only one's own household may be in the way.
    ///
    /// # Errors
    /// When none becomes free in time.
    pub async fn hello(&self, from: IpAddr) -> io::Result<OwnPlace<'_>> {
        in_time(HANDSHAKE_QUEUE_WITHIN, self.hellos.enter(from)).await
    }

    /// A place to shake hands, for who has said hello: the own one first, so that who has too many waits for itself, not
    /// before others.
    ///
    /// # Errors
    /// When none becomes free in time.
    pub async fn enter(&self, from: IpAddr) -> io::Result<Places<'_>> {
        let places = async {
            let own = self.own.enter(from).await;
            if let Ok(all) = Arc::clone(&self.all).try_acquire_owned() {
                return Ok(Places { _all: all, _own: own });
            }
            let _waits = Waits::new(&self.waiting);
            let all = Arc::clone(&self.all).acquire_owned().await.map_err(io::Error::other)?;
            Ok(Places { _all: all, _own: own })
        };
        in_time(HANDSHAKE_QUEUE_WITHIN, places).await?
    }

    /// Done when a handshake that begins now has had its time: a shorter one while others wait for its place.
    pub async fn over(&self) {
        let pressed = async {
            tokio::time::sleep(HANDSHAKE_PRESSED).await;
            let mut waiting = self.waiting.subscribe();
            // It cannot close: its other end is our own.
            let _ = waiting.wait_for(|waiting| *waiting > 0).await;
        };
        let _ = tokio::time::timeout(HANDSHAKE_WITHIN, pressed).await;
    }
}

/// What is done in time.
///
/// # Errors
/// When it is not.
pub async fn in_time<T>(within: Duration, what: impl Future<Output = T>) -> io::Result<T> {
    tokio::time::timeout(within, what).await.map_err(|_| late())
}

/// The error of who was too slow.
#[must_use]
pub fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
}

impl Own {
    /// So many for each of them.
    pub(in crate::serve) fn new(max: usize) -> Self {
        Self { max, households: Mutex::default() }
    }

    /// One of a household's places, once one is free.
    pub(in crate::serve) async fn enter(&self, from: IpAddr) -> OwnPlace<'_> {
        let household = household(from);
        // Made before the wait: who gives up waiting tidies, too.
        let mut place = OwnPlace { permit: None, household, of: self };
        let places = {
            let mut households = self.households.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(self.max));
            Arc::clone(households.entry(household).or_insert_with(fresh))
        };
        place.permit = places.acquire_owned().await.ok();
        place
    }
}

impl Drop for OwnPlace<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut households = self.of.households.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds or waits for a place of this household has a share in it.
        if households.get(&self.household).is_some_and(|places| Arc::strong_count(places) == 1) {
            households.remove(&self.household);
        }
    }
}

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting = waiting.saturating_add(1));
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_free<T>(place: impl Future<Output = io::Result<T>>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(50), place).await.ok().map(Result::unwrap)
    }

    fn address(text: &str, number: usize) -> IpAddr {
        format!("{text}{number:x}").parse().unwrap()
    }

    /// Row 57: one host with a network of its own is one host.
    #[tokio::test]
    async fn attack_handshakes_from_a_whole_network() {
        let handshakes = Handshakes::default();
        let mut held = Vec::new();
        for number in 0..HANDSHAKES_OF_ONE_MAX {
            held.push(handshakes.enter(address("2001:db8:1:2::", number)).await.unwrap());
        }
        assert!(is_free(handshakes.enter(address("2001:db8:1:2:ffff::", 1))).await.is_none());
        assert!(is_free(handshakes.enter(address("2001:db8:1:3::", 1))).await.is_some());
        let mut silent = Vec::new();
        for number in 0..HELLOS_OF_ONE_MAX {
            silent.push(handshakes.hello(address("2001:db8:1:2::", number)).await.unwrap());
        }
        assert!(is_free(handshakes.hello(address("2001:db8:1:2:ffff::", 1))).await.is_none());
        assert!(is_free(handshakes.hello(address("2001:db8:1:3::", 1))).await.is_some());
        drop((held, silent));
        assert!(handshakes.own.households.lock().unwrap().is_empty());
        assert!(handshakes.hellos.households.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_stalls_gives_way_to_who_waits() {
        let handshakes = Handshakes::default();
        let mut held = Vec::new();
        for number in 0..HANDSHAKES_MAX {
            held.push(handshakes.enter(address("192.0.2.", number % 10)).await.unwrap());
        }
        let waits = tokio::time::timeout(HANDSHAKE_PRESSED * 2, handshakes.enter(address("::", 1)));
        let spent = async {
            let before = tokio::time::Instant::now();
            handshakes.over().await;
            before.elapsed()
        };
        let (spent, _) = tokio::join!(spent, waits);
        assert!((HANDSHAKE_PRESSED..HANDSHAKE_WITHIN).contains(&spent), "{spent:?}");
        drop(held);
        assert!(is_free(handshakes.enter(address("::", 1))).await.is_some());
        let over = tokio::time::timeout(HANDSHAKE_PRESSED * 2, handshakes.over()).await;
        assert!(over.is_err(), "nobody waits any more");
    }
}
