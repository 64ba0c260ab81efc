//! Id tokens that GitHub Actions gives its jobs: fetched when needed, and anew before they end.

use std::time::Duration;

use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::cli::ways::GitHubVars;
use crate::cli::web::Web;
use crate::cli::welcome::Welcome;
use crate::fetch::client::encode;

/// A job of GitHub Actions.
pub struct GitHub {
    vars: GitHubVars,
    broker: Uri,
    web: Web,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    audience: Option<String>,
    /// The newest token, and until when on the boot clock it is used.
    token: Option<(Zeroizing<String>, Duration)>,
}

impl GitHub {
    /// With the job's variables; `audience` is asked of the broker when it is not given.
    #[must_use]
    pub fn new(vars: GitHubVars, broker: Uri, audience: Option<String>, web: Web) -> Self {
        Self { vars, broker, web, now: Mutex::new(Now { audience, token: None }) }
    }

    /// A token that lives for a while yet. Jobs outlive their tokens, so it is fetched anew as often as needed.
    ///
    /// # Errors
    /// When GitHub gives none, or it is not clear whom it must be for.
    pub async fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let mut now = self.now.lock().await;
        if let Some((token, until)) = &now.token
            && *until > SystemClock.boot()
        {
            return Ok(token.clone());
        }
        if now.audience.is_none() {
            let welcome = Welcome::of(&self.broker, &self.web).await?;
            now.audience = Some(welcome.audience(&self.broker)?.to_owned());
        }
        let url = with_audience(&self.vars.url, now.audience.as_deref().unwrap_or_default());
        let asked = SystemClock.boot();
        let token = self.fetch(&url).await?;
        // Its own times tell how long it lives, whatever this machine's clock says.
        let life = Said::by(&token)
            .map_or(Duration::ZERO, |said| said.life().saturating_sub(said.margin()));
        now.token = Some((token.clone(), asked.saturating_add(life)));
        Ok(token)
    }

    async fn fetch(&self, url: &str) -> Result<Zeroizing<String>, Failure> {
        let mut why = String::new();
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            match self.web.get(url, Some(&self.vars.secret)).await {
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

/// Before each try: its service fails for a moment now and then, and a lease is longer than all of them together.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
