//! Sign-ins at an issuer that have begun: each belongs to one browser, ends once, and not late.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::serve::grounds::KeyPrint;
use crate::serve::handshakes::{Own, OwnPlace};
use crate::serve::oidc::{Attempt, PeopleIssuer, Provider};
use crate::serve::ui::limits::{
    ATTEMPT_LIFE, ATTEMPTS_MAX, ATTEMPTS_OF_ONE_MAX, EXCHANGE_QUEUE_WITHIN, EXCHANGES_MAX,
    EXCHANGES_OF_ONE_MAX,
};

/// All of them.
pub struct Attempts {
    all: Mutex<HashMap<KeyPrint, Begun>>,
    /// Places to exchange a code: those of each household, and all.
    own: Own,
    exchanges: Semaphore,
}

/// One of them.
pub struct Begun {
    /// What only its own answer can know.
    pub attempt: Attempt,
    /// What its issuer says of itself.
    pub provider: Arc<Provider>,
    /// Where.
    pub issuer: PeopleIssuer,
    /// Where the person wanted to go.
    pub to: String,
    /// From where, as addresses are counted.
    pub from: Option<IpAddr>,
    /// When, by the monotonic clock.
    pub at: Duration,
}

/// Room to exchange one code, free again when dropped.
pub struct Room<'a> {
    _all: SemaphorePermit<'a>,
    _own: OwnPlace<'a>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            own: Own::new(EXCHANGES_OF_ONE_MAX),
            exchanges: Semaphore::new(EXCHANGES_MAX),
        }
    }
}

impl Attempts {
    /// Keeps one, and tells its cookie's value. Of too many the oldest of the same address goes, so that nobody takes the
    /// places of others.
    pub fn begin(&self, begun: Begun) -> String {
        let value = BASE64URL_NOPAD.encode(&random::bytes::<32>());
        let (from, now) = (begun.from, begun.at);
        let mut all = self.lock();
        all.retain(|_, known| now.saturating_sub(known.at) <= ATTEMPT_LIFE);
        let own = |known: &Begun| known.from == from;
        if all.values().filter(|known| own(known)).count() >= ATTEMPTS_OF_ONE_MAX {
            drop_oldest(&mut all, own);
        }
        if all.len() >= ATTEMPTS_MAX {
            drop_oldest(&mut all, |_| true);
        }
        all.insert(print(&value), begun);
        value
    }

    /// Takes one out: its answer counts once.
    pub fn take(&self, value: &str, now: Duration) -> Option<Begun> {
        let begun = self.lock().remove(&print(value))?;
        (now.saturating_sub(begun.at) <= ATTEMPT_LIFE).then_some(begun)
    }

    /// From where one began, if its answer would count.
    pub fn from(&self, value: &str, now: Duration) -> Option<IpAddr> {
        let all = self.lock();
        let begun = all.get(&print(value))?;
        let from = begun.from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (now.saturating_sub(begun.at) <= ATTEMPT_LIFE).then_some(from)
    }

    /// Room to exchange a code: the own household's first, so that who brings many waits for itself, not before others. None
    /// when it does not become free in time.
    pub async fn room(&self, from: IpAddr) -> Option<Room<'_>> {
        let room = async {
            let own = self.own.enter(from).await;
            self.exchanges.acquire().await.ok().map(|all| Room { _all: all, _own: own })
        };
        tokio::time::timeout(EXCHANGE_QUEUE_WITHIN, room).await.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyPrint, Begun>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_oldest(all: &mut HashMap<KeyPrint, Begun>, of: impl Fn(&Begun) -> bool) {
    let some = all.iter().filter(|(_, begun)| of(begun));
    if let Some(oldest) = some.min_by_key(|(_, begun)| begun.at).map(|(print, _)| *print) {
        all.remove(&oldest);
    }
}

fn print(secret: &str) -> KeyPrint {
    KeyPrint::of(&[b"sign-in", secret.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made-up codes of one host, each of which its issuer takes its time to refuse.
    #[tokio::test]
    async fn attack_one_host_takes_all_places_to_exchange_codes() {
        let attempts = Attempts::default();
        let room = async |text: &str| {
            let room = attempts.room(text.parse().unwrap());
            tokio::time::timeout(Duration::from_millis(50), room).await.ok().flatten()
        };
        let mut held = Vec::new();
        for number in 0..EXCHANGES_OF_ONE_MAX {
            let own = format!("2001:db8:1:2::{number:x}").parse().unwrap();
            held.push(attempts.room(own).await.expect("it is the first of its own"));
        }
        assert!(room("2001:db8:1:2:ffff::1").await.is_none());
        assert!(attempts.room("2001:db8:1:3::1".parse().unwrap()).await.is_some());
        assert!(attempts.room("192.0.2.1".parse().unwrap()).await.is_some());
        held.pop();
        assert!(attempts.room("2001:db8:1:2:ffff::1".parse().unwrap()).await.is_some());
    }
}
