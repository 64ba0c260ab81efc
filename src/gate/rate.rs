//! How often one credential may be used at a gateway: a task that runs wild is slowed here, and nobody else with it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protem_verify::ids::GrantId;

/// Calls a second of one credential, and as many at once: a job that uses an API hard makes hundreds; a loop without a pause
/// makes thousands.
pub const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(999); // 1 and 999 more

/// Counts calls by grant, so that a renewed credential begins nothing anew.
pub struct Rate {
    limiter: DefaultKeyedRateLimiter<GrantId>,
    clock: DefaultClock,
}

impl std::fmt::Debug for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rate")
    }
}

impl Rate {
    /// At most `rate` calls a second of each credential.
    #[must_use]
    pub fn new(rate: NonZeroU32) -> Self {
        let limiter = RateLimiter::keyed(Quota::per_second(rate));
        Self { limiter, clock: DefaultClock::default() }
    }

    /// Counts one call.
    ///
    /// # Errors
    /// When it comes too early: how long to wait.
    pub fn count(&self, grant: &GrantId) -> Result<(), Duration> {
        let counted = self.limiter.check_key(grant);
        counted.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Forgets credentials that were not used lately; called now and then, beside the calls. What is left are those of some
    /// seconds, each of which an issuer signed.
    pub fn tidy(&self) {
        self.limiter.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_credential_has_a_rate_of_its_own() {
        let rate = Rate::new(NonZeroU32::new(3).unwrap());
        let (one, other) = (GrantId([1; 16]), GrantId([2; 16]));
        assert!((0..3).all(|_| rate.count(&one).is_ok()), "so many at once");
        // However long this thread is away now and then.
        let wait = (0..100_000).find_map(|_| rate.count(&one).err()).expect("there is no limit");
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(rate.count(&other), Ok(()));
        assert_eq!(RATE.get(), 1_000);
    }
}
