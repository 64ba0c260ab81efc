//! Connections: accepted with a pause when descriptors run out, let in when there is a place, and aged.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::serve::limits::ACCEPT_PAUSE;
use crate::serve::peers::{ConnectionLimits, Peer, Peers};

/// The connections that come.
#[derive(Debug)]
pub struct Connections {
    peers: Arc<Peers>,
    /// Connections that were closed at once, for the broker's metrics.
    pub turned_away: AtomicU64,
    /// Pauses because descriptors ran out.
    pub pauses: AtomicU64,
}

impl Connections {
    /// None are open.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        let peers = Peers::new(limits);
        Self { peers, turned_away: AtomicU64::new(0), pauses: AtomicU64::new(0) }
    }

    /// The next connection. While all places are taken one waits at the door, and the kernel's queue holds who comes then; so
    /// whoever drops this future sends one away.
    pub async fn next(&self, listener: &TcpListener) -> (TcpStream, Arc<Peer>) {
        loop {
            let (stream, address) = self.accept(|| listener.accept()).await;
            if let Some(peer) = self.peers.admit(address).await {
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
