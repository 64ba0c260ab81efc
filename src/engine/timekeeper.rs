//! The time of a turn, and the refusal to work on a clock that cannot be trusted.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_verify::time::Time;

use crate::journal::fault::Fault;

/// How far the wall clock may stand before the last event, or step against the monotonic clock: what a time service
/// corrects in passing. More would move everybody's expiries.
pub const OFF_MAX: Duration = Duration::from_secs(2);

/// Of a step that was let pass, one second is taken for granted in so many, all of [`OFF_MAX`] in ten minutes. Until then the
/// next one counts on top of it, so that many small steps do not move everybody's expiries either.
const FORGIVEN_IN: u32 = 300;

/// Reads the clock for one user and remembers when it last made sense.
pub struct Timekeeper {
    clock: Arc<dyn Clock>,
    /// What the wall clock should have shown when the two last agreed, and the monotonic time of that.
    agreed: (Duration, Duration),
}

impl Timekeeper {
    /// Trusts the clock as it is found.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let agreed = (clock.unix(), clock.boot());
        Self { clock, agreed }
    }

    /// The time of a turn after an event at `last`: the clock's, never before `last`.
    ///
    /// # Errors
    /// [`Fault::Clock`] when the clock stands more than two seconds before `last`, or stepped by more than that, at once or
    /// bit by bit within ten minutes, against the monotonic clock. It stays so until they agree again.
    pub fn now(&mut self, last: Time) -> Result<Time, Fault> {
        let (unix, boot) = (self.clock.unix(), self.clock.boot());
        let (unix_then, boot_then) = self.agreed;
        let elapsed = boot.saturating_sub(boot_then);
        let expected = unix_then.saturating_add(elapsed);
        let off = unix.abs_diff(expected);
        if off > OFF_MAX {
            return Err(Fault::Clock { off, why: "the wall clock stepped" });
        }
        let wall = Time::from(unix);
        let behind = last.since(wall);
        if behind > OFF_MAX {
            return Err(Fault::Clock {
                off: behind,
                why: "the wall clock stands before the journal's last event",
            });
        }
        let forgiven = off.min(elapsed / FORGIVEN_IN);
        let right = if unix > expected {
            expected.saturating_add(forgiven)
        } else {
            expected.saturating_sub(forgiven)
        };
        self.agreed = (right, boot);
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

    /// Steps of these many milliseconds against the clock of the machine, so many seconds apart: how many are let pass.
    #[track_caller]
    fn in_turn(step_ms: i64, apart_secs: u64, steps: usize, expect: usize) {
        let clock = Arc::new(ManualClock::new(START));
        let mut keeper = Timekeeper::new(clock.clone());
        let passed = (0..steps).take_while(|_| {
            for _ in 0..apart_secs {
                clock.advance(Duration::from_secs(1));
                assert!(keeper.now(Time::ZERO).is_ok(), "a clock that runs on is right");
            }
            let (unix, step) = (clock.unix(), Duration::from_millis(step_ms.unsigned_abs()));
            clock.set_unix(if step_ms < 0 { unix - step } else { unix + step });
            keeper.now(Time::ZERO).is_ok()
        });
        assert_eq!(passed.count(), expect, "{step_ms} ms every {apart_secs} s");
    }

    #[test]
    fn small_steps_add_up() {
        in_turn(1_900, 0, 10, 1);
        in_turn(-1_900, 0, 10, 1);
        in_turn(1_900, 60, 10, 1);
        in_turn(300, 1, 100, 6);
        in_turn(-300, 1, 100, 6);
        // What a time service corrects in passing goes on for ever.
        in_turn(1_900, 600, 20, 20);
        in_turn(-10, 10, 1_000, 1_000);
    }

    /// Also one that comes before the first turn.
    #[test]
    fn a_clock_that_steps_at_the_start_is_refused() {
        let clock = Arc::new(ManualClock::new(START));
        let mut keeper = Timekeeper::new(clock.clone());
        clock.set_unix(START + Duration::from_secs(20));
        assert!(keeper.now(Time::ZERO).is_err());
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
