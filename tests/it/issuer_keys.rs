//! When one issuer's keys are fetched, by a clock that the test turns, and who waits for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protem::fetch::client::Fetcher;
use protem::serve::fetched::{Fetched, Way};
use protem::serve::grounds::Changes;
use protem::serve::jwt::Token;
use protem_clock::clock::ManualClock;
use serde_json::{Value, json};

use crate::foreign::Foreign;
use crate::issuers::{claims, reach, token_of};
use crate::process::PATIENCE;
use crate::site::{Answer, DISCOVERY, Site};

/// One issuer's keys by themselves, with a clock that the test turns.
struct Alone {
    fetched: Arc<Fetched>,
    clock: Arc<ManualClock>,
    changes: Changes,
}

impl Alone {
    fn of(site: &Site) -> Self {
        let (clock, changes) =
            (Arc::new(ManualClock::new(Duration::from_secs(1_000))), Changes::default());
        let way = Way { fetcher: Fetcher::new(reach().fetch.allow_private), token_file: None };
        let url: Arc<str> = site.url.as_str().into();
        let fetched = Fetched::new("idp".into(), url, way, clock.clone(), changes.clone());
        Self { fetched, clock, changes }
    }

    /// Waits until this many fetches have ended, and then some for one too many.
    async fn fetched(&self, times: u64) {
        let until = Instant::now() + PATIENCE;
        while self.fetched.fetches() < times {
            assert!(Instant::now() < until, "{times} fetches, not {}", self.fetched.fetches());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(self.fetched.fetches(), times);
    }

    fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// The code that a token is refused with before its signature is looked at.
    async fn refused(&self, token: &str) -> Option<String> {
        let token = Token::read(token).unwrap();
        let keys = self.fetched.keys_for(&token).await;
        keys.map(|keys| (!token.names_one_of(&keys)).then(|| "PT-0605".to_owned()))
            .unwrap_or_else(|rejected| Some(format!("{} {}", rejected.code.id, rejected.why)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_ahead_of_need_and_no_more_often_than_that() {
    let foreign = Foreign::new();
    let mut site = Site::with_keys(&foreign.jwks()).await;
    site.set("/keys", Answer::Json(foreign.jwks(), "max-age=1"));
    let alone = Alone::of(&site);
    let token = foreign.token("ES256", &claims(&site.url));
    let strange = token_of(&foreign, "made-up", &claims(&site.url));
    alone.fetched.tend();
    alone.fetched(1).await;
    assert_eq!(alone.refused(&token).await, None);
    for (secs, cache, times) in [
        (29, "max-age=1", 1),
        (1, "max-age=100000000", 2),
        // It may not say more than an hour, nor less than a minute; half of that is when it is fetched again.
        (1_799, "", 2),
        (1, "", 3),
        (149, "", 3),
        (1, "no-store", 4),
        (29, "no-store", 4),
        (1, "", 5),
    ] {
        site.set("/keys", Answer::Json(foreign.jwks(), cache));
        alone.pass(secs);
        alone.fetched.tend();
        alone.fetched(times).await;
    }
    // An unknown key has them fetched at once, and not again within 30 s.
    for (secs, times, code) in [(0, 6, "PT-0605"), (29, 6, "PT-0617"), (1, 7, "PT-0605")] {
        alone.pass(secs);
        let why = alone.refused(&strange).await.unwrap();
        assert!(why.starts_with(code), "{why}");
        alone.fetched(times).await;
    }
    assert_eq!(alone.changes.generation(), 0, "no key was lost");
    // Down: the last good keys count for an hour, and nobody waits; then it is said since when.
    site.stop().await;
    alone.pass(3_599);
    assert_eq!(alone.refused(&token).await, None);
    alone.pass(1);
    let why = alone.refused(&token).await.unwrap();
    assert!(why.starts_with("PT-0616") && why.contains("last 1h ago"), "{why}");
    assert!(alone.fetched.last().is_some(), "who is in by them stays until the token ends");
}

/// Many come at once: one fetch, and no more of them wait than may.
#[tokio::test(flavor = "multi_thread")]
async fn many_logins_of_a_slow_issuer_make_one_fetch_and_few_wait() {
    let foreign = Foreign::new();
    let site = Site::with_keys(&foreign.jwks()).await;
    site.set(DISCOVERY, Answer::Silent);
    let alone = Arc::new(Alone::of(&site));
    let token = Arc::new(foreign.token("ES256", &claims(&site.url)));
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (alone, token) = (Arc::clone(&alone), Arc::clone(&token));
        logins.spawn(async move { alone.refused(&token).await });
    }
    // Beyond 64 they are told at once, while the fetch is still under way.
    for _ in 0..136 {
        let why = logins.join_next().await.unwrap().unwrap().unwrap();
        assert!(why.contains("has not answered yet"), "{why}");
    }
    assert_eq!((logins.len(), alone.fetched.fetches()), (64, 0));
    while let Some(refused) = logins.join_next().await {
        assert!(refused.unwrap().unwrap().starts_with("PT-0616"));
    }
    assert_eq!(site.count(DISCOVERY), 1);
    // It failed a moment ago, and by the clock none has passed: the next one does not have it asked again, nor wait for that.
    assert!(alone.refused(&token).await.unwrap().contains("longer than 3s"));
    assert_eq!(site.count(DISCOVERY), 1);
}

/// Who finds no seat does not use up the turn to ask of those who will.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_without_a_seat_use_up_nothing() {
    let foreign = Foreign::new();
    let site = Site::with_keys(&foreign.jwks()).await;
    let alone = Arc::new(Alone::of(&site));
    let strange = Arc::new(token_of(&foreign, "made-up", &claims(&site.url)));
    alone.fetched.tend();
    alone.fetched(1).await;
    site.set("/keys", Answer::Silent);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..65 {
        let (alone, strange) = (Arc::clone(&alone), Arc::clone(&strange));
        waiting.spawn(async move { alone.refused(&strange).await });
    }
    // All seats are taken, as one was turned away; half a minute later another one is.
    waiting.join_next().await.unwrap().unwrap();
    alone.pass(30);
    assert!(alone.refused(&strange).await.unwrap().starts_with("PT-0617"));
    site.set("/keys", Answer::Json(foreign.jwks(), ""));
    while waiting.join_next().await.is_some() {}
    alone.fetched(2).await;
    assert_eq!(alone.refused(&strange).await.as_deref(), Some("PT-0605"));
    alone.fetched(3).await;
}

/// A key that the issuer took back is told to everybody who holds a stream by it; one that is added is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_back_is_told() {
    let foreign = Foreign::new();
    let all: Value = serde_json::from_str(&foreign.jwks()).unwrap();
    let some = |kids: &[&str]| {
        let keys = all["keys"].as_array().unwrap().iter();
        let keys: Vec<&Value> =
            keys.filter(|key| kids.contains(&key["kid"].as_str().unwrap())).collect();
        Answer::Json(json!({"keys": keys}).to_string(), "max-age=60")
    };
    let site = Site::with_keys("").await;
    let alone = Alone::of(&site);
    for (round, (kids, generation)) in
        [(&["ES256"][..], 0), (&["ES256", "EdDSA"], 0), (&["EdDSA"], 1), (&[], 2), (&["EdDSA"], 2)]
            .into_iter()
            .enumerate()
    {
        site.set("/keys", some(kids));
        alone.fetched.tend();
        alone.fetched(u64::try_from(round).unwrap() + 1).await;
        assert_eq!(alone.changes.generation(), generation, "{kids:?}");
        alone.pass(30);
    }
}
