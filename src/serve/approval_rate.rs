//! How often one person may say yes: who reads what they approve takes longer, and whoever took their session over does not.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protem_verify::codes::wire;
use protem_verify::names::PersonName;
use tonic::Code as Grpc;

use crate::serve::limits::{APPROVALS_BURST, APPROVALS_EVERY, RATE_KEYS_MAX};
use crate::serve::status::Problem;

/// Counts the approvals of each person, over all of their sessions and tools.
pub struct ApprovalRate {
    limiter: DefaultKeyedRateLimiter<PersonName>,
    clock: DefaultClock,
}

impl Default for ApprovalRate {
    fn default() -> Self {
        let burst = NonZeroU32::new(APPROVALS_BURST).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(APPROVALS_EVERY).unwrap_or(Quota::per_minute(burst));
        let limiter = RateLimiter::keyed(quota.allow_burst(burst));
        Self { limiter, clock: DefaultClock::default() }
    }
}

impl ApprovalRate {
    /// Counts one approval. A no, and a yes that is taken back, are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back.
    pub fn count(&self, person: &PersonName) -> Result<(), Problem> {
        if self.limiter.len() >= RATE_KEYS_MAX {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(person).map_err(|not_until| {
            let wait: Duration = not_until.wait_time_from(self.clock.now());
            let why = format!(
                "`{person}` approves more often than once in {APPROVALS_EVERY:?}, {APPROVALS_BURST} at once"
            );
            Problem::new(Grpc::ResourceExhausted, wire::APPROVES_TOO_OFTEN, why).retry(wait)
        })
    }
}
