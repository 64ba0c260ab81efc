//! Rates: how often one identity may ask, and how often one address may fail to sign in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protem_verify::codes::{caller, wire};
use tonic::Code as Grpc;

use crate::policy::bundle::Bundle;
use crate::policy::catalog::Rate;
use crate::policy::login::{Caller, Principal};
use crate::serve::limits::{FAILED_SIGN_INS_BURST, FAILED_SIGN_INS_RATE, RATE_KEYS_MAX};
use crate::serve::status::Problem;

type Limiter<K> = DefaultKeyedRateLimiter<K>;
type ByName = Arc<Limiter<Arc<str>>>;

/// All rates.
pub struct Rates {
    /// One limiter per rate that some tier names: tiers are few.
    by_rate: Mutex<HashMap<(u32, Duration), ByName>>,
    failed: Limiter<IpAddr>,
    /// Addresses that failed too often, until when.
    blocked: Mutex<HashMap<IpAddr, Duration>>,
    clock: DefaultClock,
}

impl Default for Rates {
    fn default() -> Self {
        let failed = quota(FAILED_SIGN_INS_RATE, Duration::from_secs(1));
        let burst = NonZeroU32::new(FAILED_SIGN_INS_BURST).unwrap_or(NonZeroU32::MIN);
        Self {
            by_rate: Mutex::default(),
            failed: RateLimiter::keyed(failed.allow_burst(burst)),
            blocked: Mutex::default(),
            clock: DefaultClock::default(),
        }
    }
}

impl Rates {
    /// Counts one call of an identity, a person or a gateway.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back: the tier's `rate` is used up.
    pub fn count(&self, caller: &Caller, bundle: &Bundle) -> Result<(), Problem> {
        let (rate, key) = match &caller.principal {
            Principal::Workload { by, .. } => {
                let identity = bundle.identities().get(&by.identity);
                let tier = identity.and_then(|known| bundle.catalog().tiers.get(&known.tier));
                (tier.map_or(OTHERS, |tier| tier.rate), by.identity.as_str())
            }
            // Names of persons and gateways cannot be told from identities' by spelling, so each kind has its own limiter.
            Principal::Person(person) => (PEOPLE, person.name.as_str()),
            Principal::Gateway { name, .. } => (OTHERS, name.as_str()),
        };
        let limiter = self.limiter(rate);
        limiter.check_key(&Arc::from(key)).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            let why =
                format!("`{key}` asks more often than {} times in {:?}", rate.count, rate.per);
            Problem::new(Grpc::ResourceExhausted, wire::RATE_EXCEEDED, why).retry(wait)
        })
    }

    /// Whether this address may try to sign in at `now`, by the monotonic clock.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back: too many of its tokens were bad.
    pub fn may_try(&self, peer: IpAddr, now: Duration) -> Result<(), Problem> {
        let until = lock(&self.blocked).get(&household(peer)).copied();
        match until.filter(|until| *until > now) {
            None => Ok(()),
            Some(until) => {
                let why = "too many sign-ins from this address failed";
                let problem = Problem::new(Grpc::ResourceExhausted, caller::FAILED_TOO_OFTEN, why);
                Err(problem.retry(until.saturating_sub(now)))
            }
        }
    }

    /// A sign-in from this address failed.
    pub fn failed(&self, peer: IpAddr, now: Duration) {
        let peer = household(peer);
        if let Err(not_until) = self.failed.check_key(&peer) {
            let wait = not_until.wait_time_from(self.clock.now());
            let mut blocked = lock(&self.blocked);
            if blocked.len() >= RATE_KEYS_MAX {
                blocked.retain(|_, until| *until > now);
            }
            if blocked.len() < RATE_KEYS_MAX {
                blocked.insert(peer, now.saturating_add(wait));
            }
        }
    }

    /// Forgets what no longer matters; called now and then.
    pub fn tidy(&self) {
        self.failed.retain_recent();
        let limiters: Vec<_> = lock(&self.by_rate).values().cloned().collect();
        for limiter in limiters {
            limiter.retain_recent();
        }
    }

    fn limiter(&self, rate: Rate) -> ByName {
        let mut by_rate = lock(&self.by_rate);
        let fresh = || Arc::new(RateLimiter::keyed(quota(rate.count, rate.per)));
        Arc::clone(by_rate.entry((rate.count, rate.per)).or_insert_with(fresh))
    }
}

/// Whom an address is counted with: an IPv6 host has a whole /64 to choose from, and an IPv4 one may come in IPv6's clothes.
#[must_use]
pub fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `count` in `per`, all of them at once if they like.
fn quota(count: u32, per: Duration) -> Quota {
    let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
    let every = per.checked_div(count.get()).unwrap_or(per).max(Duration::from_nanos(1));
    Quota::with_period(every).unwrap_or(Quota::per_second(count)).allow_burst(count)
}

/// People and their tools; odd, so that no tier's limiter is shared with them.
const PEOPLE: Rate = Rate { count: 101, per: Duration::from_millis(1_001) };
/// Gateways, and identities whose tier is gone: a fleet of 64 replicas reconnects at once.
const OTHERS: Rate = Rate { count: 251, per: Duration::from_millis(1_001) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_in_force_and_each_key_has_its_own() {
        let rates = Rates::default();
        let limiter = rates.limiter(Rate { count: 3, per: Duration::from_secs(60) });
        let (one, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let passed = (0..10).filter(|_| limiter.check_key(&one).is_ok()).count();
        assert_eq!(passed, 3);
        assert!(limiter.check_key(&other).is_ok());
    }

    #[test]
    fn a_host_cannot_walk_through_its_own_network() {
        let counted = |text: &str| household(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(counted("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn failing_often_blocks_an_address_for_a_while() {
        let rates = Rates::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let now = Duration::from_secs(100);
        for _ in 0..FAILED_SIGN_INS_BURST {
            rates.failed(peer, now);
            assert!(rates.may_try(peer, now).is_ok());
        }
        // However long this thread is away now and then.
        let mut once_more = (0..100_000).map(|_| rates.failed(peer, now));
        assert!(once_more.any(|()| rates.may_try(peer, now).is_err()));
        assert!(rates.may_try(IpAddr::from([192, 0, 2, 2]), now).is_ok());
        assert!(rates.may_try(peer, now + Duration::from_secs(2)).is_ok());
    }
}
