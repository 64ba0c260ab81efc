//! Wall time, and monotonic time that goes on counting while the machine is suspended.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A pair of clocks. Everything that needs time gets one of these, so a test can turn the hands.
pub trait Clock: Send + Sync {
    /// Time since 1970-01-01T00:00:00Z by the wall clock; it may step.
    fn unix(&self) -> Duration;
    /// Time since an arbitrary start by `CLOCK_BOOTTIME`: it never steps and counts suspend.
    fn boot(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    // By the C library, whose wall clock a test can move for one process alone.
    #[expect(clippy::disallowed_methods, reason = "this is the one door to the system's clocks")]
    fn unix(&self) -> Duration {
        // A wall clock before 1970 reads as 1970; the sequencer refuses to work on it, as it stands before the last event.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // It never reads less than zero.
        let secs = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Duration::new(secs, nanos)
    }
}

/// Clocks that a test or a simulation moves by hand.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Duration, Duration)>);

impl ManualClock {
    /// Starts with the wall clock at `unix` and the monotonic one at zero.
    #[must_use]
    pub const fn new(unix: Duration) -> Self {
        Self(Mutex::new((unix, Duration::ZERO)))
    }

    /// Lets both clocks run on.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands();
        hands.0 = hands.0.saturating_add(by);
        hands.1 = hands.1.saturating_add(by);
    }

    /// Sets the wall clock alone, as a broken time service does.
    pub fn set_unix(&self, unix: Duration) {
        self.hands().0 = unix;
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, (Duration, Duration)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn unix(&self) -> Duration {
        self.hands().0
    }

    fn boot(&self) -> Duration {
        self.hands().1
    }
}
