//! Id tokens that GitHub Actions gives its jobs: fetched when first needed, and anew in the background before they end.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::cli::ways::GitHubVars;
use crate::cli::welcome::Welcome;
use crate::fetch::client::encode;
use crate::fetch::web::Web;

/// A job of GitHub Actions.
pub struct GitHub(Arc<Inner>);

struct Inner {
    vars: GitHubVars,
    broker: Uri,
    web: Web,
    /// What is at hand. Never held while anybody waits for GitHub.
    now: Mutex<Now>,
    /// Held by the one who asks GitHub; others wait for that answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Now {
    audience: Option<String>,
    token: Option<Held>,
    /// The last exchange that failed, and when it ended on the boot clock.
    failed: Option<(Duration, Failure)>,
}

/// A token, by the boot clock.
#[derive(Clone)]
struct Held {
    token: Zeroizing<String>,
    /// When another one is fetched.
    renew: Duration,
    /// When it counts no more.
    dies: Duration,
}

impl GitHub {
    /// With the job's variables; `audience` is asked of the broker when it is not given.
    #[must_use]
    pub fn new(vars: GitHubVars, broker: Uri, audience: Option<String>, web: Web) -> Self {
        let now = Mutex::new(Now { audience, ..Now::default() });
        Self(Arc::new(Inner { vars, broker, web, now, asking: tokio::sync::Mutex::new(()) }))
    }

    /// A token that lives. Jobs outlive their tokens, so another is fetched ahead of each end, and the one at hand serves
    /// until it comes: a hold that waited for GitHub could outlast its lease.
    ///
    /// # Errors
    /// When GitHub gives none, or it is not clear whom it must be for.
    pub async fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let called = SystemClock.boot();
        if let Some(token) = self.0.alive() {
            return Ok(token);
        }
        let _asking = self.0.asking.lock().await;
        if let Some(token) = self.0.alive() {
            return Ok(token);
        }
        // Who waited for a try that failed has waited enough.
        if let Some(why) = self.0.failed_since(called) {
            return Err(why);
        }
        let held = self.0.fetched().await?;
        tokio::spawn(renew(Arc::downgrade(&self.0), held.clone()));
        Ok(held.token)
    }
}

/// Fetches the token after `held`, and so on, until nobody wants one or none was to be had in a token's whole life.
async fn renew(job: Weak<Inner>, mut held: Held) {
    loop {
        let now = SystemClock.boot();
        if now >= held.dies {
            return; // the next call asks for itself
        }
        tokio::time::sleep(held.renew.saturating_sub(now)).await;
        let Some(job) = job.upgrade() else { return };
        let _asking = job.asking.lock().await;
        let other = job.now().token.as_ref().is_none_or(|newest| newest.dies != held.dies);
        if other {
            return; // a call could not wait, and began to renew what it got
        }
        match job.fetched().await {
            Ok(next) => held = next,
            Err(_) => held.renew = SystemClock.boot().saturating_add(AGAIN),
        }
    }
}

impl Inner {
    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Option<Zeroizing<String>> {
        let now = self.now();
        let held = now.token.as_ref().filter(|held| held.dies > SystemClock.boot())?;
        Some(held.token.clone())
    }

    fn failed_since(&self, called: Duration) -> Option<Failure> {
        let now = self.now();
        now.failed.as_ref().filter(|(at, _)| *at > called).map(|(_, why)| why.clone())
    }

    /// Asks for one, and keeps it or the reason why there is none.
    async fn fetched(&self) -> Result<Held, Failure> {
        let asked = SystemClock.boot();
        let got = self.ask().await;
        let mut now = self.now();
        match got {
            Ok(token) => {
                // Its own times tell how long it lives, whatever this machine's clock says.
                let (life, margin) = Said::by(&token)
                    .map_or((Duration::ZERO, Duration::ZERO), |said| (said.life(), said.margin()));
                let dies = asked.saturating_add(life.saturating_sub(margin.min(AT_LEAST)));
                let renew = asked.saturating_add(life.saturating_sub(margin.saturating_mul(2)));
                let held = Held { token, renew, dies };
                now.token = Some(held.clone());
                Ok(held)
            }
            Err(why) => {
                now.failed = Some((SystemClock.boot(), why.clone()));
                Err(why)
            }
        }
    }

    async fn ask(&self) -> Result<Zeroizing<String>, Failure> {
        let known = self.now().audience.clone();
        let audience = match known {
            Some(audience) => audience,
            None => {
                let welcome = Welcome::of(&self.broker, &self.web).await?;
                let audience = welcome.audience(&self.broker)?.to_owned();
                self.now().audience = Some(audience.clone());
                audience
            }
        };
        self.fetch(&with_audience(&self.vars.url, &audience)).await
    }

    async fn fetch(&self, url: &str) -> Result<Zeroizing<String>, Failure> {
        let mut why = String::new();
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            match self.web.get_within(url, Some(&self.vars.secret), TRY).await {
                Ok(answer) => {
                    let token = answer.get("value").and_then(|value| value.as_str());
                    let token = token.map(|token| Zeroizing::new(token.to_owned()));
                    return token.ok_or_else(|| refused("its answer holds no token".to_owned()));
                }
                Err(failed) => why = failed,
            }
        }
        Err(refused(why))
    }
}

fn refused(why: String) -> Failure {
    let what = "GitHub Actions gave no id token";
    Failure::of(Exit::NotAuthenticated, tool::CI_TOKEN, what).because(why)
}

/// GitHub's URL has a query already; one of another server may not.
fn with_audience(url: &str, audience: &str) -> String {
    let join = if url.contains('?') { '&' } else { '?' };
    format!("{url}{join}audience={}", encode(audience))
}

/// Before each try: its service fails for a moment now and then, and a lease of 15 s is longer than all of them together.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// How long one try may take.
const TRY: Duration = Duration::from_secs(3);
/// Between two rounds of tries in the background.
const AGAIN: Duration = Duration::from_secs(2);
/// What a token that is presented lives at least, for the way to the broker.
const AT_LEAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers the first question with a token of twelve seconds, and then takes calls and says nothing.
    async fn answers_once() -> (String, Arc<Mutex<u32>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked: Arc<Mutex<u32>> = Arc::default();
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut line, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                if open.is_empty() {
                    let payload = BASE64URL_NOPAD.encode(br#"{"iat":100,"exp":112}"#);
                    let body = format!("{{\"value\":\"e30.{payload}.c2ln\"}}");
                    let size = body.len();
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
                    let answer = format!("{head}\r\ncontent-length: {size}\r\n\r\n{body}");
                    let _ = line.read(&mut [0; 4096]).await;
                    line.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(line);
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn the_next_token_is_fetched_ahead_and_nobody_waits_for_it() {
        let (url, asked) = answers_once().await;
        let vars = GitHubVars { url, secret: Zeroizing::new("s".to_owned()) };
        let broker = Uri::from_static("http://127.0.0.1:1");
        let github = GitHub::new(vars, broker, Some("a".to_owned()), Web::new(None));
        let first = github.token().await.unwrap();
        let next = async {
            while *asked.lock().unwrap() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let next = tokio::time::timeout(Duration::from_secs(60), next).await;
        next.expect("asked before the end, though nobody calls");
        let quick = tokio::time::timeout(Duration::from_millis(200), github.token()).await;
        assert_eq!(quick.expect("nobody waits while a token lives").unwrap(), first);
    }
}
