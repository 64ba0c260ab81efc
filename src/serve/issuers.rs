//! Whose tokens are trusted: the issuers of the bundle in force and the trust domains of the settings, each with its keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use protem_clock::clock::Clock;
use protem_verify::codes::caller;
use protem_verify::ids::Hash;

use crate::config::{Fetch, IssuerSettings};
use crate::fetch::client::Fetcher;
use crate::fetch::web::Web;
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Issuer, IssuerKeys, Subjects};
use crate::policy::finding::did_you_mean;
use crate::policy::login::{DEV_ISSUER, SPIFFE_ISSUER};
use crate::serve::fetched::{Fetched, Way};
use crate::serve::grounds::Changes;
use crate::serve::jwt::{Keys, Kind, Rejected, Token, Trusted, clean, reject, unknown_issuer};
use crate::serve::trust::Trust;

/// How issuers are reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Where fetches may go.
    pub fetch: Fetch,
    /// Tokens and CAs, by the issuers' names.
    pub issuers: BTreeMap<String, IssuerSettings>,
    /// The audience of a trust domain's JWT-SVIDs, where it is not the broker's own name.
    pub svid_audiences: BTreeMap<String, String>,
}

/// Whose JWT-SVIDs count.
#[derive(Clone, Debug)]
pub struct Svids {
    /// The trust domains and their keys; none: nobody's.
    pub trust: Option<Arc<Trust>>,
    /// The broker's own name, which is their audience.
    pub audience: Arc<str>,
}

/// All issuers.
pub struct Issuers {
    dev: Option<Trusted>,
    svids: Svids,
    reach: Reach,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    changes: Changes,
    table: ArcSwapOption<Table>,
    /// It outlives bundles that keep the issuer.
    fetched: Mutex<ByName>,
}

/// What is fetched, by the issuer's name and URL.
type ByName = HashMap<(Arc<str>, Arc<str>), Arc<Fetched>>;

/// The issuers of one bundle.
struct Table {
    bundle: Hash,
    by_url: BTreeMap<Arc<str>, Known>,
}

struct Known {
    name: Arc<str>,
    url: Arc<str>,
    audience: Arc<str>,
    kind: Kind,
    keys: Source,
}

enum Source {
    /// A file of the bundle.
    File(Arc<Keys>),
    /// None that count, and why, as its callers are told.
    Bad(String),
    /// Its own server.
    Fetched(Arc<Fetched>),
}

impl Known {
    fn trusted(&self, keys: Arc<Keys>) -> Trusted {
        let (issuer, audience) = (Arc::clone(&self.url), Arc::clone(&self.audience));
        Trusted { issuer, audience, keys, kind: self.kind }
    }
}

impl Issuers {
    /// In development `dev` is one more, whose key only its user can read.
    #[must_use]
    pub fn new(
        dev: Option<Trusted>,
        svids: Svids,
        reach: Reach,
        clock: Arc<dyn Clock>,
        changes: Changes,
    ) -> Self {
        let fetcher = Fetcher::new(reach.fetch.allow_private.clone());
        let (table, fetched) = (ArcSwapOption::empty(), Mutex::default());
        Self { dev, svids, reach, fetcher, clock, changes, table, fetched }
    }

    /// The development issuer, of a development broker.
    #[must_use]
    pub fn dev(&self) -> Option<&Trusted> {
        self.dev.as_ref()
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
            return match token.trust_domain() {
                Some(domain) => self.svid(domain).map(|trusted| (SPIFFE_ISSUER.into(), trusted)),
                None => Err(self.unknown(token.issuer(), &table)),
            };
        };
        let keys = match &known.keys {
            Source::File(keys) => Arc::clone(keys),
            Source::Fetched(fetched) => fetched.keys_for(token).await?,
            Source::Bad(why) => return Err(reject(caller::ISSUER_UNREACHABLE, why)),
        };
        Ok((Arc::clone(&known.name), known.trusted(keys)))
    }

    /// What is trusted of an issuer now, by its `iss`, and its name; nothing when its keys were never fetched.
    #[must_use]
    pub fn trusted(&self, iss: &str, bundle: &Bundle) -> Option<(Arc<str>, Trusted)> {
        if let Some(dev) = self.dev.as_ref().filter(|dev| *dev.issuer == *iss) {
            return Some((DEV_ISSUER.into(), dev.clone()));
        }
        if let Some(domain) = iss.strip_prefix(SPIFFE) {
            return self.svid(domain).ok().map(|trusted| (SPIFFE_ISSUER.into(), trusted));
        }
        let table = self.table(bundle);
        let known = table.by_url.get(iss)?;
        let keys = match &known.keys {
            Source::File(keys) => Arc::clone(keys),
            Source::Fetched(fetched) => fetched.last()?,
            Source::Bad(_) => return None,
        };
        Some((Arc::clone(&known.name), known.trusted(keys)))
    }

    /// What is trusted of a trust domain's JWT-SVIDs: its own keys and no other's.
    fn svid(&self, domain: &str) -> Result<Trusted, Rejected> {
        let Svids { trust, audience } = &self.svids;
        let known = trust.as_ref().filter(|trust| trust.domains().any(|known| known == domain));
        let Some(trust) = known else {
            let domains = trust.iter().flat_map(|trust| trust.domains());
            let hint = did_you_mean(domain, domains);
            let why = format!("`{}` is no trust domain of `[spiffe]`{hint}", clean(domain));
            return Err(reject(caller::UNKNOWN_ISSUER, &why));
        };
        let keys = trust.jwt_keys(domain).ok_or_else(|| {
            let why = format!("the trust bundle of `{domain}` has no keys for JWT-SVIDs");
            reject(caller::UNKNOWN_KEY, &why)
        })?;
        let own = self.reach.svid_audiences.get(domain).map(|own| Arc::from(own.as_str()));
        let (issuer, audience) =
            (Arc::from(format!("{SPIFFE}{domain}")), own.unwrap_or_else(|| Arc::clone(audience)));
        Ok(Trusted { issuer, audience, keys, kind: Kind::Svid })
    }

    fn unknown(&self, iss: Option<&str>, table: &Table) -> Rejected {
        let urls = table.by_url.keys().map(|url| &**url);
        let hint = iss.map(|iss| did_you_mean(iss, urls)).unwrap_or_default();
        unknown_issuer(iss, &hint)
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
        for name in self.reach.issuers.keys() {
            if !bundle.issuers().contains_key(name.as_str()) {
                tracing::warn!(
                    name,
                    "the settings have an `[issuer.NAME]` that the bundle in force has not"
                );
            }
        }
        let by_url = bundle.issuers().values().map(|issuer| self.known(issuer));
        let by_url = by_url.map(|known| (Arc::clone(&known.url), known)).collect();
        let fresh = Arc::new(Table { bundle: digest, by_url });
        self.table.store(Some(Arc::clone(&fresh)));
        fresh
    }

    /// How an issuer is asked for more than its keys: over the same ways, trusting the same CAs.
    ///
    /// # Errors
    /// When what the settings have for its name is for another URL.
    pub fn web(&self, name: &str, url: &str) -> Result<Web, String> {
        let ca = self.settings_of(name, url)?.ca;
        let own = !ca.as_os_str().is_empty();
        let fetcher = if own { self.fetcher.with_ca(ca) } else { self.fetcher.clone() };
        Ok(Web::by(fetcher))
    }

    fn known(&self, issuer: &Issuer) -> Known {
        let (name, url) = (Arc::clone(&issuer.name), Arc::from(issuer.url.as_str()));
        let keys = match &issuer.keys {
            IssuerKeys::Discovery => match self.settings_of(&name, &url) {
                Ok(settings) => Source::Fetched(self.fetched(&name, &url, settings)),
                Err(why) => {
                    tracing::error!(issuer = %name, %url, "the settings' `[issuer.NAME]` is for another `url`, so nothing is fetched");
                    Source::Bad(why)
                }
            },
            IssuerKeys::File(jwks) => match Keys::parse(jwks) {
                Ok(keys) => Source::File(Arc::new(keys)),
                Err(why) => {
                    tracing::error!(issuer = %name, why, "the issuer's JWKS file cannot be used, so its tokens are refused");
                    Source::Bad(format!("the JWKS file of issuer `{name}` {why}"))
                }
            },
        };
        let kind = match issuer.subjects {
            Subjects::Workloads => Kind::Oidc,
            Subjects::People => Kind::People,
        };
        Known { name, url, audience: Arc::from(issuer.audience.as_str()), kind, keys }
    }

    /// How an issuer is reached, if what the settings have for its name is for it: who may change a bundle chooses where a
    /// name leads, and must not be sent a token with it.
    fn settings_of(&self, name: &str, url: &str) -> Result<IssuerSettings, String> {
        let Some(settings) = self.reach.issuers.get(name) else {
            return Ok(IssuerSettings::default());
        };
        // INVARIANT(an_issuers_token_goes_to_its_own_url): named by the operator, not by the bundle.
        if settings.gives_nothing() || settings.url == url {
            return Ok(settings.clone());
        }
        Err(format!(
            "`[issuer.{name}]` of the broker's settings is for another `url` than the bundle's issuer `{name}` has, so its keys are not fetched"
        ))
    }

    fn fetched(&self, name: &Arc<str>, url: &Arc<str>, settings: IssuerSettings) -> Arc<Fetched> {
        let mut all = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
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

/// How the name of a trust domain's issuer begins; no issuer of a bundle is called so, as those are http URLs.
const SPIFFE: &str = "spiffe://";
