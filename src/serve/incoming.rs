//! Connections: accepted with a pause when descriptors run out, counted, aged, and closed when nobody signs in.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::serve::limits::{ACCEPT_PAUSE, CONNECTIONS_MAX, STRANGERS_MAX};
use crate::serve::rates::household;

/// How many connections there may be; tests choose smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// In all.
    pub connections: usize,
    /// Of one address (or IPv6 network) without anybody signed in.
    pub strangers: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, strangers: STRANGERS_MAX }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
    room: Notify,
    /// Connections that were closed at once, for the broker's metrics.
    pub turned_away: AtomicU64,
    /// Pauses because descriptors ran out.
    pub pauses: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    strangers: HashMap<IpAddr, usize>,
}

/// One connection's place among the others; dropping it gives the place back.
#[derive(Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    signed_in: AtomicBool,
    refused: Notify,
    of: Arc<Connections>,
}

impl Connections {
    /// None are open.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            counts: Mutex::default(),
            room: Notify::new(),
            turned_away: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        })
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lock().open
    }

    /// The next connection. While all places are taken nothing is accepted: the kernel's queue holds who comes, then refuses.
    pub async fn next(self: &Arc<Self>, listener: &TcpListener) -> (TcpStream, Arc<Peer>) {
        loop {
            self.wait_for_room().await;
            let (stream, address) = self.accept(|| listener.accept()).await;
            if let Some(peer) = self.admit(address) {
                return (stream, peer);
            }
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Accepts until it works: an error of one connection is nobody else's, and running out of descriptors needs time.
    async fn accept<T, F: Future<Output = io::Result<T>>>(&self, accept: impl Fn() -> F) -> T {
        loop {
            match accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.pauses.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "no connection can be accepted; trying again soon");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.lock().open < self.limits.connections {
                return;
            }
            room.await;
        }
    }

    fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        let mut counts = self.lock();
        let strangers = counts.strangers.entry(household(address.ip())).or_default();
        if *strangers >= self.limits.strangers {
            return None;
        }
        *strangers = strangers.saturating_add(1);
        counts.open = counts.open.saturating_add(1);
        let (of, signed_in) = (Arc::clone(self), AtomicBool::new(false));
        Some(Arc::new(Peer { address, signed_in, refused: Notify::new(), of }))
    }

    fn no_stranger(&self, ip: IpAddr) {
        let ip = household(ip);
        let mut counts = self.lock();
        if let Some(strangers) = counts.strangers.get_mut(&ip) {
            *strangers = strangers.saturating_sub(1);
            if *strangers == 0 {
                counts.strangers.remove(&ip);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Somebody signed in on it: it no longer counts as a stranger.
    pub fn sign_in(&self) {
        if !self.signed_in.swap(true, Ordering::Relaxed) {
            self.of.no_stranger(self.address.ip());
        }
    }

    /// A call was refused for the certificate of the connection, which will never be another's.
    pub fn refuse(&self) {
        self.refused.notify_one();
    }

    /// Done when [`Self::refuse`] was called.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Whether anybody has signed in on it.
    #[must_use]
    pub fn is_signed_in(&self) -> bool {
        self.signed_in.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.sign_in();
        let mut counts = self.of.lock();
        counts.open = counts.open.saturating_sub(1);
        drop(counts);
        self.of.room.notify_one();
    }
}

/// A peer that was gone before it was accepted; everything else needs a pause, EMFILE and ENFILE first of all.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection's age, spread by a fifth to both sides so that a fleet does not come back at once.
#[must_use]
pub fn spread(age: Duration, chance: [u8; 4]) -> Duration {
    let part = u64::from(u32::from_be_bytes(chance));
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let two_fifths = millis / 5 * 2;
    let least = millis.saturating_sub(two_fifths / 2);
    let more = u128::from(two_fifths) * u128::from(part) / u128::from(u32::MAX);
    Duration::from_millis(least.saturating_add(u64::try_from(more).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1))
    }

    #[test]
    fn strangers_of_one_address_are_few_until_they_sign_in() {
        let connections = Connections::new(ConnectionLimits { connections: 10, strangers: 2 });
        let first = connections.admit(address(1)).unwrap();
        let _second = connections.admit(address(1)).unwrap();
        assert!(connections.admit(address(1)).is_none());
        assert!(connections.admit(address(2)).is_some());
        first.sign_in();
        first.sign_in();
        let third = connections.admit(address(1)).unwrap();
        assert!(connections.admit(address(1)).is_none());
        drop(third);
        assert!(connections.admit(address(1)).is_some());
    }

    #[test]
    fn attack_strangers_from_a_whole_network() {
        let connections = Connections::new(ConnectionLimits { connections: 10, strangers: 2 });
        let from = |text: &str| connections.admit(SocketAddr::new(text.parse().unwrap(), 1));
        let first = from("2001:db8:1:2::1").unwrap();
        let _second = from("2001:db8:1:2:3:4:5:6").unwrap();
        assert!(from("2001:db8:1:2:ffff::").is_none());
        assert!(from("2001:db8:1:3::1").is_some());
        first.sign_in();
        assert!(from("2001:db8:1:2:ffff::").is_some());
    }

    #[tokio::test]
    async fn beyond_the_cap_nothing_is_accepted_until_one_leaves() {
        let connections = Connections::new(ConnectionLimits { connections: 1, strangers: 9 });
        let only = connections.admit(address(1)).unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(30), connections.wait_for_room());
        assert!(waits.await.is_err());
        drop(only);
        let waits = tokio::time::timeout(Duration::from_secs(5), connections.wait_for_room());
        assert!(waits.await.is_ok());
        assert_eq!(connections.open(), 0);
    }

    #[tokio::test]
    async fn attack_fd_exhaustion() {
        let connections = Connections::new(ConnectionLimits::default());
        let calls = AtomicU32::new(0);
        let accept = || {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let answer = match call {
                0 => Err(io::ErrorKind::ConnectionAborted.into()),
                // EMFILE and ENFILE.
                1 => Err(io::Error::from_raw_os_error(24)),
                2 => Err(io::Error::from_raw_os_error(23)),
                _ => Ok(call),
            };
            async move { answer }
        };
        let before = tokio::time::Instant::now();
        assert_eq!(connections.accept(accept).await, 3);
        assert_eq!(connections.pauses.load(Ordering::Relaxed), 2);
        assert!(before.elapsed() >= ACCEPT_PAUSE * 2);
    }

    #[test]
    fn ages_are_spread_by_a_fifth() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(spread(hour, [0; 4]), Duration::from_secs(2_880));
        assert_eq!(spread(hour, [255; 4]), Duration::from_secs(4_320));
    }
}
