//! A view at one moment, as verifiers read it, and how old it is.

use std::sync::Arc;
use std::time::Duration;

use crate::fences::Fences;
use crate::ids::{Epoch, Seq};
use crate::keys::Keys;
use crate::operation::Catalog;
use crate::time::Time;

/// One reading of both clocks, from `protem-clock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock that counts suspend.
    pub boot: Duration,
    /// The wall clock; only ever compared with the other one.
    pub unix: Duration,
}

/// What a view knows. It does not change; the writer publishes another one.
#[derive(Clone, Debug)]
pub struct Known {
    /// Whose credentials count.
    pub issuer: Arc<str>,
    /// The journal's life that credentials must be of.
    pub epoch: Epoch,
    /// Everything up to here has been applied.
    pub seq: Seq,
    /// The keys that sign credentials.
    pub keys: Arc<Keys>,
    /// Resources, scopes, operations.
    pub catalog: Arc<Catalog>,
    /// What no longer counts.
    pub fences: Fences,
    /// The newest proof.
    pub proven: Option<Proven>,
    /// The greatest age at which any credential may be accepted.
    pub max_staleness: Duration,
    /// Something was not understood.
    pub blind: bool,
    /// The broker went back.
    pub closed: bool,
}

/// A proof that the view was whole when a ping was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// When the ping was sent.
    pub sent: Moment,
    /// The broker's time, the end of the second in which it signed.
    pub at: Time,
    /// The time that had been reached before this proof came: time never goes back.
    pub floor: Time,
    /// The head that was proven.
    pub seq: Seq,
}

/// How a gateway stands, in the feed's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It knows nothing; everything is refused.
    Unready,
    /// It is fetching what it needs.
    Syncing,
    /// It has a fresh proof.
    Fresh,
    /// Its newest proof is too old for any credential, or the broker went back.
    Stale,
}

/// How far the wall clock may move against the monotonic one since the ping of the newest proof.
pub const STEP_MAX: Duration = Duration::from_secs(1);

impl Proven {
    fn age(self, now: Moment) -> Duration {
        now.boot.saturating_sub(self.sent.boot)
    }

    /// The broker's time by this proof, never before the time that had been reached when it came.
    #[must_use]
    pub fn now(self, now: Moment) -> Time {
        (self.at + self.age(now)).max(self.floor)
    }
}

impl Known {
    /// Knows nothing.
    #[must_use]
    pub fn empty(issuer: &str) -> Self {
        Self {
            issuer: issuer.into(),
            epoch: Epoch(0),
            seq: Seq(0),
            keys: Arc::default(),
            catalog: Arc::default(),
            fences: Fences::default(),
            proven: None,
            max_staleness: Duration::ZERO,
            blind: false,
            closed: false,
        }
    }

    /// Time since the newest proven ping was sent.
    #[must_use]
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.proven.map(|proven| proven.age(now))
    }

    /// The broker's time by the newest proof; never the wall clock, never backwards.
    #[must_use]
    pub fn now(&self, now: Moment) -> Option<Time> {
        self.proven.map(|proven| proven.now(now))
    }

    /// Whether the wall clock stepped since the ping of the newest proof.
    #[must_use]
    pub fn stepped(&self, now: Moment) -> bool {
        let Some((proven, age)) = self.proven.zip(self.age(now)) else { return false };
        now.unix.abs_diff(proven.sent.unix.saturating_add(age)) > STEP_MAX
    }

    /// How the gateway stands.
    #[must_use]
    pub fn state(&self, now: Moment) -> State {
        if self.closed {
            return State::Stale;
        }
        let Some(age) = self.age(now) else {
            return if self.seq == Seq(0) { State::Unready } else { State::Syncing };
        };
        let stale = self.blind || self.stepped(now) || age > self.max_staleness;
        if stale { State::Stale } else { State::Fresh }
    }
}

impl State {
    /// As the feed's pings spell it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unready => "UNREADY",
            Self::Syncing => "SYNCING",
            Self::Fresh => "FRESH",
            Self::Stale => "STALE",
        }
    }
}
