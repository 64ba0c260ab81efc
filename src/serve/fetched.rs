//! The keys that one issuer publishes: fetched ahead of need, one fetch at a time, kept for a while when it cannot be reached.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use protem_clock::clock::Clock;
use protem_verify::codes::caller;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::fetch::client::{Fetcher, Limits};
use crate::fetch::error::FetchError;
use crate::fetch::file::read_small;
use crate::fetch::target::same_origin;
use crate::serve::claims::length;
use crate::serve::grounds::Changes;
use crate::serve::jwt::{Keys, Rejected, Token, clean, reject};
use crate::serve::limits::{
    BEARER_MAX, FAULT_RETRY, FETCH_PAUSE, FETCH_PAUSE_MAX, FETCH_WITHIN, ISSUER_WAIT,
    ISSUER_WAITING_MAX, KEYS_FRESH, KEYS_FRESH_LEAST, KEYS_FRESH_MOST, KEYS_KEPT,
    UNKNOWN_KEY_EVERY,
};
use crate::serve::strict_json;

/// An issuer's published keys.
pub struct Fetched {
    name: Arc<str>,
    url: Arc<str>,
    way: Way,
    clock: Arc<dyn Clock>,
    changes: Changes,
    held: ArcSwapOption<Held>,
    book: Mutex<Book>,
    /// Whether anybody came with a token of it.
    wanted: AtomicBool,
    /// Counts fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    /// Whoever reads the token file: one at most, should its file system hang.
    reading: Arc<Semaphore>,
}

/// How the issuer is reached.
#[derive(Clone, Debug)]
pub struct Way {
    /// With its CA, if it has one of its own.
    pub fetcher: Fetcher,
    /// The file of the token that it wants to see.
    pub token_file: Option<PathBuf>,
}

/// What was fetched, and when by the monotonic clock.
struct Held {
    keys: Arc<Keys>,
    at: Duration,
}

/// When to fetch, and how it went.
#[derive(Default)]
struct Book {
    flying: bool,
    due: Duration,
    failures: u32,
    /// When an unknown key last had it fetched.
    asked: Option<Duration>,
    why: Option<String>,
}

/// A document and how long it may be kept.
struct Published {
    keys: Keys,
    max_age: Option<Duration>,
}

impl Fetched {
    /// Of the issuer `name` at `url`. Nothing is fetched yet.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        url: Arc<str>,
        way: Way,
        clock: Arc<dyn Clock>,
        changes: Changes,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            url,
            way,
            clock,
            changes,
            held: ArcSwapOption::empty(),
            book: Mutex::default(),
            wanted: AtomicBool::new(false),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(ISSUER_WAITING_MAX),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    /// The last keys that were fetched, however long ago: what was believed by them ends by itself.
    #[must_use]
    pub fn last(&self) -> Option<Arc<Keys>> {
        self.held.load().as_ref().map(|held| Arc::clone(&held.keys))
    }

    /// Whether anybody came with a token of it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// How many fetches have ended, well or badly.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        *self.ended.borrow()
    }

    /// Fetches when it is time; called every second or so.
    pub fn tend(self: &Arc<Self>) {
        let due = self.book().due;
        if due <= self.clock.boot() {
            self.fly();
        }
    }

    /// The keys to verify this token by. Waits, for a bounded time, only when there are none or the token's is not among them.
    ///
    /// # Errors
    /// When there are none that are young enough: with why they could not be fetched, and when they last were. When the
    /// token's key is not among them, and they were not fetched again since it came: with when to try again.
    pub async fn keys_for(self: &Arc<Self>, token: &Token<'_>) -> Result<Arc<Keys>, Rejected> {
        self.wanted.store(true, Ordering::Relaxed);
        if let Some(keys) = self.usable() {
            if token.names_one_of(&keys) {
                return Ok(keys);
            }
            self.wait(Because::UnknownKey).await;
            // Only keys that were fetched since then say that there is no such key.
            let fresh = self.usable().filter(|fresh| !Arc::ptr_eq(fresh, &keys));
            return fresh.ok_or_else(|| self.not_yet());
        }
        if !self.rests() {
            self.wait(Because::NoKeys).await;
        }
        self.usable().ok_or_else(|| self.unreachable())
    }

    fn usable(&self) -> Option<Arc<Keys>> {
        let now = self.clock.boot();
        let held = self.held.load();
        let young = |held: &&Arc<Held>| now.saturating_sub(held.at) < KEYS_KEPT;
        held.as_ref().filter(young).map(|held| Arc::clone(&held.keys))
    }

    /// Whether an unknown key may have the keys fetched again: not so soon after another one had.
    fn may_ask(&self) -> bool {
        let now = self.clock.boot();
        let mut book = self.book();
        let recently = |asked: Duration| now.saturating_sub(asked) < UNKNOWN_KEY_EVERY;
        if book.asked.is_some_and(recently) {
            return false;
        }
        book.asked = Some(now);
        true
    }

    /// Whether a fetch failed a moment ago and the next one is not due: waiting would not help.
    fn rests(&self) -> bool {
        let book = self.book();
        !book.flying && book.failures > 0 && book.due > self.clock.boot()
    }

    /// Waits for the end of the fetch that is under way, or of one that it may begin. Without a seat nothing is begun, nor
    /// is the turn to begin used up.
    async fn wait(self: &Arc<Self>, because: Because) {
        let Ok(_seat) = self.waiting.try_acquire() else { return };
        let mut ended = self.ended.subscribe();
        let begins = match because {
            Because::NoKeys => true,
            Because::UnknownKey => self.may_ask(),
        };
        if begins {
            self.fly();
        } else if !self.book().flying {
            return;
        }
        // What came of it is seen in what is held.
        let _ = timeout(ISSUER_WAIT, ended.changed()).await;
    }

    /// Begins a fetch, unless one is under way. It ends by itself, also when whoever wanted it has gone.
    fn fly(self: &Arc<Self>) {
        let mut book = self.book();
        if std::mem::replace(&mut book.flying, true) {
            return;
        }
        drop(book);
        let landing = Landing(Arc::clone(self));
        tokio::spawn(async move {
            let late = |_| Err(format!("fetching them took longer than {FETCH_WITHIN:?}"));
            let published = timeout(FETCH_WITHIN, landing.0.fetch()).await.unwrap_or_else(late);
            landing.0.land(published);
        });
    }

    async fn fetch(&self) -> Result<Published, String> {
        let bearer = self.bearer().await?;
        let bearer = bearer.as_ref().map(|token| token.as_str());
        let limits = Limits::default();
        let place = format!("{}{DISCOVERY}", self.url.trim_end_matches('/'));
        let plain = |why: FetchError| why.to_string();
        let found = self.way.fetcher.get(&place, limits, bearer).await.map_err(plain)?;
        let jwks = &jwks_of(&found.bytes, &found.content_type, &self.url, &place)?;
        // The token is for the issuer's own server; where its document points is somebody else until proven otherwise.
        let own = same_origin(&self.url, jwks);
        let found = self.way.fetcher.get(jwks, limits, bearer.filter(|_| own)).await;
        let found = found.map_err(|why| match bearer {
            Some(_) if !own => {
                format!("{why} (it is not the issuer's own server, so the token was not sent)")
            }
            Some(_) | None => why.to_string(),
        })?;
        let keys = Keys::published(&found.bytes)
            .map_err(|why| format!("the key set `{}` {why}", clean(jwks)))?;
        Ok(Published { keys, max_age: found.max_age })
    }

    /// The token that the issuer wants to see, read anew: it is renewed under our hands.
    async fn bearer(&self) -> Result<Option<Zeroizing<String>>, String> {
        let Some(file) = &self.way.token_file else { return Ok(None) };
        let bad =
            |why: &str| format!("`{}`, the token to fetch its keys with, {why}", file.display());
        let seat = Arc::clone(&self.reading).try_acquire_owned();
        let seat = seat.map_err(|_| bad("is still being read"))?;
        let path = file.clone();
        let read = move || {
            let _seat = seat;
            read_small(&path, BEARER_MAX).map(Zeroizing::new)
        };
        let bytes = tokio::task::spawn_blocking(read).await.map_err(|why| bad(&why.to_string()))?;
        let bytes = bytes.map_err(|why| bad(&why.to_string()))?;
        let token = bytes.trim_ascii();
        match str::from_utf8(token) {
            Ok(text) if !token.is_empty() && token.iter().all(u8::is_ascii_graphic) => {
                Ok(Some(Zeroizing::new(text.to_owned())))
            }
            Ok(_) | Err(_) => Err(bad("does not hold one token")),
        }
    }

    fn land(&self, published: Result<Published, String>) {
        let now = self.clock.boot();
        let Published { keys, max_age } = match published {
            Ok(published) => published,
            Err(why) => {
                tracing::warn!(issuer = %self.name, why, "the issuer's keys cannot be fetched");
                let mut book = self.book();
                let pause = FETCH_PAUSE
                    .saturating_mul(1_u32.checked_shl(book.failures).unwrap_or(u32::MAX));
                book.failures = book.failures.saturating_add(1).min(FAILURES_COUNTED);
                book.due = now.saturating_add(pause.min(FETCH_PAUSE_MAX));
                book.why = Some(why);
                return;
            }
        };
        if keys.are_none() {
            tracing::warn!(issuer = %self.name, "the issuer publishes no usable key, so nobody of it comes in");
        }
        let lost = self.last().is_some_and(|old| old.lose_any_in(&keys));
        self.held.store(Some(Arc::new(Held { keys: Arc::new(keys), at: now })));
        let fresh = max_age.unwrap_or(KEYS_FRESH).clamp(KEYS_FRESH_LEAST, KEYS_FRESH_MOST);
        let mut book = self.book();
        book.due = now.saturating_add(fresh / 2);
        book.failures = 0;
        book.why = None;
        drop(book);
        if lost {
            tracing::info!(issuer = %self.name, "the issuer took keys back: who came in by them is asked again");
            self.changes.raise();
        }
    }

    /// A token whose key is not known, while its issuer is not asked again. Whether it is made up nobody knows yet.
    fn not_yet(&self) -> Rejected {
        let passed = self.book().asked.map(|asked| self.clock.boot().saturating_sub(asked));
        let left = passed.map_or(Duration::ZERO, |passed| UNKNOWN_KEY_EVERY.saturating_sub(passed));
        let name = &self.name;
        let why = format!(
            "no key of issuer `{name}` that is known here has the caller token's `kid`; they are fetched again soon"
        );
        let retry = Some(left.max(FAULT_RETRY));
        Rejected { retry, ..reject(caller::KEY_NOT_YET, &why) }
    }

    fn unreachable(&self) -> Rejected {
        let now = self.clock.boot();
        let why = self.book().why.clone();
        let why = why.unwrap_or_else(|| "it has not answered yet".to_owned());
        let last = match self.held.load().as_ref() {
            None => "never since this broker started".to_owned(),
            Some(held) => format!("last {} ago", length(now.saturating_sub(held.at))),
        };
        let name = &self.name;
        let why = format!("the keys of issuer `{name}` cannot be fetched ({last}): {why}");
        reject(caller::ISSUER_UNREACHABLE, &why)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an issuer's discovery document says that its keys are (OpenID Connect Discovery §4.3, RFC 8414 §3.3). `place`: where
/// the document came from.
///
/// # Errors
/// When it is no document, is another issuer's, or names no place to fetch from.
pub fn jwks_of(bytes: &[u8], kind: &str, issuer: &str, place: &str) -> Result<String, String> {
    let document = strict_json::object(bytes)
        .map_err(|_| format!("`{place}` is no JSON object (its type is `{}`)", clean(kind)))?;
    let text = |name| document.get(name).and_then(Value::as_str).unwrap_or_default();
    // Another issuer's document says nothing of this one's keys.
    if text("issuer") != issuer {
        return Err(format!("`{place}` is of another issuer, `{}`", clean(text("issuer"))));
    }
    let jwks = text("jwks_uri");
    if !jwks.starts_with("https://") && !issuer.starts_with("http://") {
        return Err(format!("`{place}` names no https `jwks_uri`: `{}`", clean(jwks)));
    }
    Ok(jwks.to_owned())
}

/// Why a login waits.
#[derive(Clone, Copy)]
enum Because {
    /// There are no keys that count.
    NoKeys,
    /// Its token's is not among them.
    UnknownKey,
}

/// Ends a fetch, whatever became of it.
struct Landing(Arc<Fetched>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.book().flying = false;
        self.0.ended.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Where an issuer describes itself (OpenID Connect Discovery §4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Failures after which the pause grows no more.
const FAILURES_COUNTED: u32 = 16;
