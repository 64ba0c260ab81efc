//! The time of a turn, and the refusal to work on a clock that cannot be trusted.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_verify::time::Time;

use crate::journal::fault::Fault;

/// How far the wall clock may stand before the last event, or step against the monotonic clock: what a time service
/// corrects in passing. More would move everybody's expiries.
pub const OFF_MAX: Duration = Duration::from_secs(2);

/// Reads the clock for one user and remembers when it last made sense.
pub struct Timekeeper {
    clock: Arc<dyn Clock>,
    /// Wall and monotonic time at the last agreement.
    agreed: Option<(Duration, Duration)>,
}

impl Timekeeper {
    /// Trusts the clock as it is found.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, agreed: None }
    }

    /// The time of a turn after an event at `last`: the clock's, never before `last`.
    ///
    /// # Errors
    /// [`Fault::Clock`] when the clock stands more than two seconds before `last`, or stepped by more than that against
    /// the monotonic clock since they last agreed. It stays so until they agree again.
    pub fn now(&mut self, last: Time) -> Result<Time, Fault> {
        let (unix, boot) = (self.clock.unix(), self.clock.boot());
        if let Some((unix_then, boot_then)) = self.agreed {
            let expected = unix_then.saturating_add(boot.saturating_sub(boot_then));
            let off = unix.abs_diff(expected);
            if off > OFF_MAX {
                return Err(Fault::Clock { off, why: "the wall clock stepped" });
            }
        }
        let wall = Time::from(unix);
        let behind = last.since(wall);
        if behind > OFF_MAX {
            return Err(Fault::Clock {
                off: behind,
                why: "the wall clock stands before the journal's last event",
            });
        }
        self.agreed = Some((unix, boot));
        Ok(wall.max(last))
    }

    /// Monotonic time, suspend included.
    #[must_use]
    pub fn boot(&self) -> Duration {
        self.clock.boot()
    }
}

#[cfg(test)]
mod tests {
    use protem_clock::clock::ManualClock;

    use super::*;

    const START: Duration = Duration::from_secs(1_700_000_000);

    #[track_caller]
    fn check(step_ms: i64, last_ahead_ms: u64, expect: bool) {
        let clock = Arc::new(ManualClock::new(START));
        let mut keeper = Timekeeper::new(clock.clone());
        assert!(keeper.now(Time::ZERO).is_ok());
        clock.advance(Duration::from_secs(60));
        let honest = START + Duration::from_secs(60);
        let step = Duration::from_millis(step_ms.unsigned_abs());
        clock.set_unix(if step_ms < 0 { honest - step } else { honest + step });
        let last = Time::from(honest) + Duration::from_millis(last_ahead_ms);
        let now = keeper.now(last);
        assert_eq!(now.is_ok(), expect, "{now:?}");
        assert!(now.is_err() || now.unwrap() >= last);
        clock.set_unix(honest);
        assert!(keeper.now(Time::ZERO).is_ok(), "the clocks agree again");
    }

    #[test]
    fn a_clock_that_steps_or_lags_is_refused_until_it_agrees() {
        check(0, 0, true);
        check(2_000, 0, true);
        check(2_001, 0, false);
        check(-2_000, 0, true);
        check(-2_001, 0, false);
        check(0, 2_000, true);
        check(0, 2_001, false);
    }
}
