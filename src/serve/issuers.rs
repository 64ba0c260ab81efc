//! Whose tokens are trusted: the issuers of the bundle in force and the trust domains of the settings, each with its keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use protem_clock::clock::Clock;
use protem_verify::codes::caller;
use protem_verify::ids::Hash;

use crate::config::{Fetch, IssuerSettings};
use crate::fetch::client::Fetcher;
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Issuer, IssuerKeys};
use crate::policy::finding::did_you_mean;
use crate::policy::login::DEV_ISSUER;
use crate::serve::fetched::{Fetched, Way};
use crate::serve::grounds::Changes;
use crate::serve::jwt::{Keys, Kind, Rejected, Token, Trusted, reject, unknown_issuer};

/// How issuers are reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Where fetches may go.
    pub fetch: Fetch,
    /// Tokens and CAs, by the issuers' names.
    pub issuers: BTreeMap<String, IssuerSettings>,
}

/// All issuers.
pub struct Issuers {
    dev: Option<Trusted>,
    reach: Reach,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    changes: Changes,
    table: ArcSwapOption<Table>,
    /// What was fetched, by name and URL: it outlives bundles that keep the issuer.
    fetched: Mutex<HashMap<(Arc<str>, Arc<str>), Arc<Fetched>>>,
}

/// The issuers of one bundle.
struct Table {
    bundle: Hash,
    by_url: BTreeMap<Arc<str>, Known>,
}

struct Known {
    name: Arc<str>,
    url: Arc<str>,
    audience: Arc<str>,
    keys: Source,
}

enum Source {
    /// A file of the bundle.
    File(Arc<Keys>),
    /// A file of the bundle that cannot be used, and why.
    Bad(String),
    /// Its own server.
    Fetched(Arc<Fetched>),
}

impl Known {
    fn trusted(&self, keys: Arc<Keys>) -> Trusted {
        let (issuer, audience) = (Arc::clone(&self.url), Arc::clone(&self.audience));
        Trusted { issuer, audience, keys, kind: Kind::Oidc }
    }
}

impl Issuers {
    /// In development `dev` is one more, whose key only its user can read.
    #[must_use]
    pub fn new(
        dev: Option<Trusted>,
        reach: Reach,
        clock: Arc<dyn Clock>,
        changes: Changes,
    ) -> Self {
        let fetcher = Fetcher::new(reach.fetch.allow_private.clone());
        let (table, fetched) = (ArcSwapOption::empty(), Mutex::default());
        Self { dev, reach, fetcher, clock, changes, table, fetched }
    }

    /// Whose token this says it is: its issuer's name in the bundle, and what is trusted of it. Waits for that issuer's keys
    /// if it must, and for no other's.
    ///
    /// # Errors
    /// When nobody of that name is trusted, or its keys cannot be had.
    pub async fn of(
        &self,
        token: &Token<'_>,
        bundle: &Bundle,
    ) -> Result<(Arc<str>, Trusted), Rejected> {
        // The dev issuer has no entry; a bundle's issuer of the same `iss` never hides behind it.
        if let Some(dev) = self.dev.as_ref().filter(|dev| token.issuer() == Some(&dev.issuer)) {
            return Ok((DEV_ISSUER.into(), dev.clone()));
        }
        let table = self.table(bundle);
        let Some(known) = token.issuer().and_then(|iss| table.by_url.get(iss)) else {
            let hint =
                token.issuer().map(|iss| did_you_mean(iss, table.by_url.keys().map(|url| &**url)));
            return Err(unknown_issuer(token.issuer(), &hint.unwrap_or_default()));
        };
        let keys = match &known.keys {
            Source::File(keys) => Arc::clone(keys),
            Source::Fetched(fetched) => fetched.keys_for(token).await?,
            Source::Bad(why) => {
                let why = format!("the JWKS file of issuer `{}` {why}", known.name);
                return Err(reject(caller::ISSUER_UNREACHABLE, &why));
            }
        };
        Ok((Arc::clone(&known.name), known.trusted(keys)))
    }

    /// What is trusted of an issuer now, by its `iss`; nothing when its keys were never fetched.
    #[must_use]
    pub fn trusted(&self, iss: &str, bundle: &Bundle) -> Option<Trusted> {
        if let Some(dev) = self.dev.as_ref().filter(|dev| *dev.issuer == *iss) {
            return Some(dev.clone());
        }
        let table = self.table(bundle);
        let known = table.by_url.get(iss)?;
        match &known.keys {
            Source::File(keys) => Some(known.trusted(Arc::clone(keys))),
            Source::Fetched(fetched) => fetched.last().map(|keys| known.trusted(keys)),
            Source::Bad(_) => None,
        }
    }

    /// Fetches what is due for the bundle in force, and forgets issuers that it does not have. Called every second or so.
    pub fn tend(&self, bundle: &Bundle) {
        let table = self.table(bundle);
        let due: Vec<_> = table.by_url.values().filter_map(Known::fetched).cloned().collect();
        // A development broker asks nobody in the world before somebody comes with a token of theirs.
        let asked = |known: &&Arc<Fetched>| self.dev.is_none() || known.is_wanted();
        due.iter().filter(asked).for_each(Fetched::tend);
        let mut all = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| due.iter().any(|kept| Arc::ptr_eq(kept, known)));
    }

    /// The issuers of this bundle, made once.
    fn table(&self, bundle: &Bundle) -> Arc<Table> {
        let digest = bundle.digest();
        if let Some(known) = self.table.load_full().filter(|known| known.bundle == digest) {
            return known;
        }
        let by_url = bundle.issuers().values().map(|issuer| self.known(issuer));
        let by_url = by_url.map(|known| (Arc::clone(&known.url), known)).collect();
        let fresh = Arc::new(Table { bundle: digest, by_url });
        self.table.store(Some(Arc::clone(&fresh)));
        fresh
    }

    fn known(&self, issuer: &Issuer) -> Known {
        let (name, url) = (Arc::clone(&issuer.name), Arc::from(issuer.url.as_str()));
        let keys = match &issuer.keys {
            IssuerKeys::Discovery => Source::Fetched(self.fetched(&name, &url)),
            IssuerKeys::File(jwks) => match Keys::parse(jwks) {
                Ok(keys) => Source::File(Arc::new(keys)),
                Err(why) => {
                    tracing::error!(issuer = %name, why, "the issuer's JWKS file cannot be used, so its tokens are refused");
                    Source::Bad(why)
                }
            },
        };
        Known { name, url, audience: Arc::from(issuer.audience.as_str()), keys }
    }

    fn fetched(&self, name: &Arc<str>, url: &Arc<str>) -> Arc<Fetched> {
        let mut all = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let settings = self.reach.issuers.get(&**name).cloned().unwrap_or_default();
            let named = |path: std::path::PathBuf| Some(path).filter(|p| !p.as_os_str().is_empty());
            let fetcher = match named(settings.ca) {
                Some(ca) => self.fetcher.with_ca(ca),
                None => self.fetcher.clone(),
            };
            let way = Way { fetcher, token_file: named(settings.token_file) };
            let (clock, changes) = (Arc::clone(&self.clock), self.changes.clone());
            Fetched::new(Arc::clone(name), Arc::clone(url), way, clock, changes)
        };
        Arc::clone(all.entry((Arc::clone(name), Arc::clone(url))).or_insert_with(fresh))
    }
}

impl Known {
    fn fetched(&self) -> Option<&Arc<Fetched>> {
        match &self.keys {
            Source::Fetched(fetched) => Some(fetched),
            Source::File(_) | Source::Bad(_) => None,
        }
    }
}
