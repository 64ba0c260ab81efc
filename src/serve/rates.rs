//! Rates: how often one identity may ask, how often one address may fail to sign in, one person approve, and one
//! caller guess what it may end.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Response;
use protem_core::event::Actor;
use protem_verify::codes::{caller, wire};
use protem_verify::names::PersonName;
use tonic::{Code as Grpc, Status};

use crate::policy::bundle::Bundle;
use crate::policy::catalog::Rate;
use crate::policy::login::{Caller, Principal};
use crate::serve::limits::{
    APPROVALS_BURST, APPROVALS_EVERY, FAILED_SIGN_INS_BURST, FAILED_SIGN_INS_RATE, GUESSES_BURST,
    GUESSES_RATE, RATE_KEYS_MAX,
};
use crate::serve::status::Problem;

type Limiter<K> = DefaultKeyedRateLimiter<K>;
type ByName = Arc<Limiter<Arc<str>>>;

/// All rates.
pub struct Rates {
    /// One limiter per rate that some tier names: tiers are few.
    by_rate: Mutex<HashMap<(u32, Duration), ByName>>,
    failed: Failures<IpAddr>,
    guesses: Failures<Actor>,
    approvals: Limiter<PersonName>,
    clock: DefaultClock,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            by_rate: Mutex::default(),
            failed: Failures::new(FAILED_SIGN_INS_RATE, FAILED_SIGN_INS_BURST),
            guesses: Failures::new(GUESSES_RATE, GUESSES_BURST),
            approvals: RateLimiter::keyed(bursting(quota(1, APPROVALS_EVERY), APPROVALS_BURST)),
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
        self.failed.may_try(&household(peer), now).map_err(|wait| {
            let why = "too many sign-ins from this address failed";
            Problem::new(Grpc::ResourceExhausted, caller::FAILED_TOO_OFTEN, why).retry(wait)
        })
    }

    /// A sign-in from this address failed.
    pub fn failed(&self, peer: IpAddr, now: Duration) {
        self.failed.count(household(peer), now);
    }

    /// Whether this caller may say at `now` what is to end of others'.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back: too much of it was refused, or was said by the tokens it found.
    pub fn may_guess(&self, who: &Actor, now: Duration) -> Result<(), Problem> {
        self.guesses.may_try(who, now).map_err(|wait| {
            let why = format!("`{}` was refused too often what ends access", who.0);
            Problem::new(Grpc::ResourceExhausted, wire::RATE_EXCEEDED, why).retry(wait)
        })
    }

    /// What this caller wanted to end was refused, or it knew it by a token.
    pub fn guessed(&self, who: Actor, now: Duration) {
        self.guesses.count(who, now);
    }

    /// Counts one approval of a person, over all of their sessions and tools: who reads what they approve takes longer than
    /// this allows, and whoever took their session over does not. A no, and a yes that is taken back, are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back.
    pub fn approves(&self, person: &PersonName) -> Result<(), Problem> {
        self.approvals.check_key(person).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            let why = format!(
                "`{person}` approves more often than once in {APPROVALS_EVERY:?}, {APPROVALS_BURST} at once"
            );
            Problem::new(Grpc::ResourceExhausted, wire::APPROVES_TOO_OFTEN, why).retry(wait)
        })
    }

    /// Forgets what no longer matters; called now and then.
    pub fn tidy(&self) {
        self.failed.limiter.retain_recent();
        self.guesses.limiter.retain_recent();
        self.approvals.retain_recent();
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

/// An answer to a guess: it counts as one, whether it was right or not, so that the rate tells nobody which.
#[derive(Clone, Copy, Debug)]
pub struct Guess;

impl Guess {
    /// Whether an answer refused something, or would not say whether there was anything to do.
    #[must_use]
    pub fn is<B>(response: &Response<B>) -> bool {
        let refused = |status: Status| match status.code() {
            Grpc::InvalidArgument
            | Grpc::NotFound
            | Grpc::PermissionDenied
            | Grpc::FailedPrecondition => true,
            Grpc::Ok
            | Grpc::Cancelled
            | Grpc::Unknown
            | Grpc::DeadlineExceeded
            | Grpc::AlreadyExists
            | Grpc::ResourceExhausted
            | Grpc::Aborted
            | Grpc::OutOfRange
            | Grpc::Unimplemented
            | Grpc::Internal
            | Grpc::Unavailable
            | Grpc::DataLoss
            | Grpc::Unauthenticated => false,
        };
        response.extensions().get::<Self>().is_some()
            || Status::from_header_map(response.headers()).is_some_and(refused)
    }
}

/// How often each may fail before it has to wait. A success costs nothing.
struct Failures<K: Clone + Eq + Hash> {
    limiter: Limiter<K>,
    /// Who failed too often, until when.
    blocked: Mutex<HashMap<K, Duration>>,
    clock: DefaultClock,
}

impl<K: Clone + Eq + Hash> Failures<K> {
    fn new(rate: u32, burst: u32) -> Self {
        let limiter = RateLimiter::keyed(bursting(quota(rate, Duration::from_secs(1)), burst));
        Self { limiter, blocked: Mutex::default(), clock: DefaultClock::default() }
    }

    /// Or how long to wait.
    fn may_try(&self, who: &K, now: Duration) -> Result<(), Duration> {
        let until = lock(&self.blocked).get(who).copied();
        until.filter(|until| *until > now).map_or(Ok(()), |until| Err(until.saturating_sub(now)))
    }

    fn count(&self, who: K, now: Duration) {
        let Err(not_until) = self.limiter.check_key(&who) else { return };
        let wait = not_until.wait_time_from(self.clock.now());
        let mut blocked = lock(&self.blocked);
        if blocked.len() >= RATE_KEYS_MAX {
            blocked.retain(|_, until| *until > now);
        }
        if blocked.len() < RATE_KEYS_MAX {
            blocked.insert(who, now.saturating_add(wait));
        }
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

/// The same, with so many at once.
fn bursting(quota: Quota, burst: u32) -> Quota {
    quota.allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN))
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
