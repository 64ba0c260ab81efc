//! What issuers say of themselves, remembered for minutes: however many people sign in, an issuer is asked once at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::fetch::web::Web;
use crate::serve::oidc::{Failed, PeopleIssuer, Provider};
use crate::serve::ui::limits::PROVIDER_FRESH;

/// All that were asked lately.
#[derive(Default)]
pub struct Providers(Mutex<HashMap<(String, String), Known>>);

/// One that is or was asked.
struct Known {
    heard: watch::Receiver<Option<Heard>>,
    /// Since when, by the monotonic clock.
    at: Duration,
}

type Heard = Result<Arc<Provider>, Failed>;

impl Providers {
    /// What an issuer says of itself; at `now` by the monotonic clock. Whoever comes while it is asked waits for the same
    /// answer, which comes although the first of them has gone.
    ///
    /// # Errors
    /// As [`Provider::discover`]. The next one asks again.
    pub async fn of(&self, web: Web, issuer: &PeopleIssuer, now: Duration) -> Heard {
        let mut heard = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, known| known.counts(now));
            let key = (issuer.name.clone(), issuer.issuer.clone());
            let ask = || Known { heard: asked(web, issuer.issuer.clone()), at: now };
            all.entry(key).or_insert_with(ask).heard.clone()
        };
        let found = heard.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        found.unwrap_or_else(|| Err(Failed::Broken("asking the issuer has failed".to_owned())))
    }
}

impl Known {
    fn counts(&self, now: Duration) -> bool {
        match &*self.heard.borrow() {
            None => self.heard.has_changed().is_ok(),
            Some(Ok(_)) => now.saturating_sub(self.at) <= PROVIDER_FRESH,
            Some(Err(_)) => false,
        }
    }
}

fn asked(web: Web, issuer: String) -> watch::Receiver<Option<Heard>> {
    let (tell, heard) = watch::channel(None);
    tokio::spawn(async move {
        let found = Provider::discover(&web, &issuer).await.map(Arc::new);
        tell.send_replace(Some(found));
    });
    heard
}
