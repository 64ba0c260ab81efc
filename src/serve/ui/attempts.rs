//! Sign-ins at an issuer that have begun: each belongs to one browser, ends once, and not late.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::serve::grounds::KeyPrint;
use crate::serve::oidc::{Attempt, PeopleIssuer, Provider};
use crate::serve::ui::limits::{ASKING_MAX, ATTEMPT_LIFE, ATTEMPTS_MAX, ATTEMPTS_OF_ONE_MAX};

/// All of them.
pub struct Attempts {
    all: Mutex<HashMap<KeyPrint, Begun>>,
    asking: Semaphore,
}

/// One of them.
pub struct Begun {
    /// What only its own answer can know.
    pub attempt: Attempt,
    /// What its issuer says of itself.
    pub provider: Provider,
    /// Where.
    pub issuer: PeopleIssuer,
    /// Where the person wanted to go.
    pub to: String,
    /// From where, as addresses are counted.
    pub from: Option<IpAddr>,
    /// When, by the monotonic clock.
    pub at: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { all: Mutex::default(), asking: Semaphore::new(ASKING_MAX) }
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

    /// Room to ask an issuer something; none while others take all of it.
    #[must_use]
    pub fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.asking.try_acquire().ok()
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
