//! What a sign-in rests on, and the word that it may no longer hold: then every open stream asks whether its own still does.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_verify::time::Time;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::serve::svid::PeerCert;

/// Why a caller was believed. What is not written here cannot be asked again, so it must not have mattered.
#[derive(Clone, Debug)]
pub enum Grounds {
    /// A token: whose, the audience that it was for, and the key that signed it.
    Token {
        /// The issuer's name in the bundle: a bundle may give its URL to another.
        issuer: Arc<str>,
        /// The audience that its issuer had in the bundle.
        audience: String,
        /// The issuer's key.
        key: KeyPrint,
    },
    /// The certificate of the caller's connection; it knows the chain that was verified.
    Certificate(Arc<PeerCert>),
}

/// Tells one public key, under one name and for one algorithm, from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyPrint([u8; 32]);

impl KeyPrint {
    /// Of all that makes the key; each part has its length before it, so that no two keys share a print.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// The word that a bundle, an issuer's keys, a trust bundle or a clock has changed. Whoever changes one of them says so
/// *after* the change can be seen; remembered sign-ins of before count no more, and open streams ask again.
#[derive(Clone, Debug)]
pub struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Changes {
    /// Something changed.
    pub fn raise(&self) {
        self.0.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// How often something has changed. Read before what it is about: then a change in between is never missed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.0.borrow()
    }

    /// For those who wait for the next change.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// The time that callers' tokens are judged by: the wall clock's, but never less than has passed since the broker's start, so
/// that a clock set back lends no token a longer life.
#[derive(Clone)]
pub struct CallerTime {
    clock: Arc<dyn Clock>,
    start: (Duration, Duration),
}

impl CallerTime {
    /// Counts from now.
    #[must_use]
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        let start = (clock.unix(), clock.boot());
        Self { clock, start }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        let (unix, boot) = self.start;
        let passed = self.clock.boot().saturating_sub(boot);
        Time::from(self.clock.unix().max(unix.saturating_add(passed)))
    }

    /// How far the wall clock stands ahead of the monotonic one; it changes when one of them is set.
    #[must_use]
    pub fn lead(&self) -> Duration {
        self.clock.unix().saturating_sub(self.clock.boot())
    }

    /// Monotonic time, which counts suspend.
    #[must_use]
    pub fn boot(&self) -> Duration {
        self.clock.boot()
    }
}

#[cfg(test)]
mod tests {
    use protem_clock::clock::ManualClock;

    use super::*;

    #[test]
    fn a_clock_set_back_lends_no_time_and_one_set_ahead_takes_it() {
        let at = Duration::from_secs;
        let clock = Arc::new(ManualClock::new(at(1_000)));
        let time = CallerTime::start(clock.clone());
        let now = || time.now().as_millis() / 1_000;
        assert_eq!(now(), 1_000);
        clock.advance(at(5));
        assert_eq!(now(), 1_005);
        clock.set_unix(at(400));
        assert_eq!(now(), 1_005);
        clock.advance(at(10));
        assert_eq!(now(), 1_015);
        clock.set_unix(at(1_600));
        assert_eq!(now(), 1_600);
    }

    #[test]
    fn prints_tell_where_a_part_ends() {
        assert_ne!(KeyPrint::of(&[b"ab", b"c"]), KeyPrint::of(&[b"a", b"bc"]));
        assert_ne!(KeyPrint::of(&[b"", b"a"]), KeyPrint::of(&[b"a", b""]));
    }

    #[test]
    fn changes_are_counted_and_told() {
        let changes = Changes::default();
        let followed = changes.follow();
        assert!(!followed.has_changed().unwrap());
        changes.raise();
        assert_eq!((followed.has_changed().unwrap(), changes.generation()), (true, 1));
    }
}
