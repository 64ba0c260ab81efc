//! Whom the broker tells what happens: the webhooks of its settings, checked once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use protem_verify::names::GroupName;
use protem_verify::time::Time;

use crate::config::{Fetch, WebhookFormat, WebhookSettings};
use crate::engine::notify::{Notice, Occasion};
use crate::fetch::client::{Fetcher, Limits};
use crate::fetch::error::FetchError;
use crate::fetch::target;
use crate::policy::bundle::Bundle;
use crate::serve::tls::read_key;
use crate::serve::webhook_body::{CLOUDEVENTS, cloudevent};
use crate::serve::webhook_sign::Secrets;
use crate::serve::webhook_slack::slack;

/// All webhooks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Webhooks(Arc<[Arc<Webhook>]>);

/// One webhook.
#[derive(Debug)]
pub struct Webhook {
    /// Its name in settings and bundle.
    pub name: String,
    /// How its messages look.
    pub format: WebhookFormat,
    /// How long a message is tried.
    pub give_up: Duration,
    url: Place,
    secret_file: Option<PathBuf>,
    events: BTreeSet<Occasion>,
    groups: BTreeSet<GroupName>,
    everything: bool,
    fetcher: Fetcher,
    failing: Mutex<Option<Failing>>,
}

/// Where messages go. A URL may be a secret, so it prints nowhere.
enum Place {
    Url(String),
    File(PathBuf),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place(…)")
    }
}

/// A message that could not be told so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Of what.
    pub occasion: Occasion,
    /// The entry that it is about.
    pub seq: u64,
    /// Tries.
    pub tries: u32,
    /// Of the last try.
    pub why: String,
    /// When it is tried again.
    pub next: Time,
}

/// Why a message did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The receiver wants no such message, today or later: 400, 413, 415 or 422.
    Unwanted(String),
    /// Another try may do. It can be the message's own fault: the receiver had it, or would not say.
    Failed(String),
    /// No message would have arrived: nobody is there, or wants fewer of them (429), or it cannot be signed.
    Away(String),
}

impl Undelivered {
    /// In words that hold no URL and nothing that was sent.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Unwanted(why) | Self::Failed(why) | Self::Away(why) => why,
        }
    }
}

impl Webhooks {
    /// Reads the settings.
    ///
    /// # Errors
    /// In words, when a name, a URL, a file, a group or an event is not what it should be.
    pub fn new(
        settings: &BTreeMap<String, WebhookSettings>,
        fetch: &Fetch,
    ) -> Result<Self, String> {
        if settings.len() > WEBHOOKS_MAX {
            return Err(format!("there are more than {WEBHOOKS_MAX} webhooks"));
        }
        let fetcher = Fetcher::new(fetch.allow_private.clone());
        let read = |(name, settings): (&String, &WebhookSettings)| {
            let made = Webhook::new(name, settings, &fetcher);
            made.map(Arc::new).map_err(|why| format!("`webhook.{name}`: {why}"))
        };
        settings.iter().map(read).collect::<Result<Vec<_>, _>>().map(|all| Self(all.into()))
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.0.iter()
    }

    /// What somebody should look at: receivers that fail, and groups of the bundle that name a webhook which is not there.
    #[must_use]
    pub fn problems(&self, bundle: &Bundle) -> Vec<String> {
        let mut found = Vec::new();
        for webhook in self.iter() {
            if let Some(Failing { tries, why, .. }) = webhook.failing() {
                let name = &webhook.name;
                found.push(format!(
                    "webhook `{name}` does not take messages ({tries} tries): {why}"
                ));
            }
        }
        for (name, group) in &bundle.people().groups {
            let missing = |notify: &&String| !self.iter().any(|one| one.name == **notify);
            if let Some(notify) = group.notify.as_ref().filter(missing) {
                found.push(format!(
                    "group `{name}` is told by webhook `{notify}`, which is not in the settings"
                ));
            }
        }
        found
    }
}

impl Webhook {
    fn new(name: &str, settings: &WebhookSettings, fetcher: &Fetcher) -> Result<Self, String> {
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err("its name is empty, too long or unprintable".to_owned());
        }
        let file = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let url = match (settings.url.as_str(), file(&settings.url_file)) {
            ("", None) => return Err("it has no `url`".to_owned()),
            ("", Some(path)) => Place::File(path),
            (url, None) => Place::Url(url.to_owned()),
            (_, Some(_)) => return Err("it has both `url` and `url_file`".to_owned()),
        };
        let secret_file = file(&settings.secret_file);
        if secret_file.is_none() && settings.format == WebhookFormat::CloudEvents {
            return Err("it has no `secret_file` to sign messages with".to_owned());
        }
        let event = |word: &String| {
            let known = Occasion::ALL.map(Occasion::as_str).join(", ");
            Occasion::named(word).ok_or_else(|| format!("`{word}` is none of {known}"))
        };
        let events: BTreeSet<Occasion> = match settings.events.is_empty() {
            true => Occasion::ALL.into(),
            false => settings.events.iter().map(event).collect::<Result<_, _>>()?,
        };
        let group = |group: &String| GroupName::try_from(group.as_str());
        let groups: Result<_, _> = settings.groups.iter().map(group).collect();
        let webhook = Self {
            name: name.to_owned(),
            format: settings.format,
            give_up: settings.give_up.0,
            url,
            secret_file,
            events,
            groups: groups.map_err(|why| why.to_string())?,
            everything: settings.everything,
            fetcher: match file(&settings.ca) {
                Some(ca) => fetcher.with_ca(ca),
                None => fetcher.clone(),
            },
            failing: Mutex::default(),
        };
        webhook.url()?;
        webhook.secrets()?;
        Ok(webhook)
    }

    /// Whether it is told of that at all.
    #[must_use]
    pub fn wants(&self, occasion: Occasion) -> bool {
        self.events.contains(&occasion)
    }

    /// Whether it is told of this.
    #[must_use]
    pub fn concerns(&self, notice: &Notice, bundle: &Bundle) -> bool {
        let tells = |group: &GroupName| {
            let notify = bundle.people().groups.get(group).and_then(|group| group.notify.as_ref());
            self.groups.contains(group) || notify == Some(&self.name)
        };
        self.wants(notice.occasion) && (self.everything || notice.groups.iter().any(tells))
    }

    /// What it does not take at the moment.
    #[must_use]
    pub fn failing(&self) -> Option<Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::serve) fn set_failing(&self, failing: Option<Failing>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failing;
    }

    /// Says it once. `at`: now, for the signature; `whole`: how long it may take, from the first lookup to the status.
    ///
    /// # Errors
    /// When nobody says that it arrived.
    pub async fn post(
        &self,
        notice: &Notice,
        issuer: &str,
        at: Time,
        whole: Duration,
    ) -> Result<(), Undelivered> {
        let body = match self.format {
            WebhookFormat::CloudEvents => cloudevent(notice, issuer),
            WebhookFormat::Slack => slack(notice, issuer),
        };
        let url = self.url().map_err(Undelivered::Away)?;
        let headers = self.headers(&notice.id, at, &body).map_err(Undelivered::Away)?;
        let limits = Limits { whole, body: 0 };
        let sent = self.fetcher.post(&url, limits, headers, Bytes::from(body)).await;
        sent.map_err(|why| undelivered(&why))
    }

    fn headers(&self, id: &str, at: Time, body: &[u8]) -> Result<HeaderMap, String> {
        let kind = match self.format {
            WebhookFormat::CloudEvents => CLOUDEVENTS,
            WebhookFormat::Slack => "application/json",
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("protem/", env!("CARGO_PKG_VERSION"))),
        );
        let mut say = |name: &'static str, value: String| {
            let value = HeaderValue::try_from(value).map_err(|why| why.to_string())?;
            headers.insert(HeaderName::from_static(name), value);
            Ok::<(), String>(())
        };
        say("webhook-id", id.to_owned())?;
        say("webhook-timestamp", at.as_secs().to_string())?;
        if let Some(secrets) = self.secrets()? {
            say("webhook-signature", secrets.sign(id, at.as_secs(), body))?;
        }
        Ok(headers)
    }

    /// Read anew each time, so that a new secret needs no restart.
    fn secrets(&self) -> Result<Option<Secrets>, String> {
        self.secret_file.as_deref().map(Secrets::read).transpose()
    }

    fn url(&self) -> Result<String, String> {
        let url = match &self.url {
            Place::Url(url) => url.clone(),
            Place::File(file) => {
                let bad = |why: &str| format!("`{}` {why}", file.display());
                let bytes = read_key(file).map_err(|why| bad(&why))?;
                str::from_utf8(&bytes).map_err(|_| bad("is no text"))?.trim().to_owned()
            }
        };
        target::host(&url).map(|_| url).ok_or_else(|| "its URL is no `https` URL".to_owned())
    }
}

/// Whose fault it may be.
fn undelivered(why: &FetchError) -> Undelivered {
    let text = why.to_string();
    match why {
        FetchError::Status { status: 400 | 413 | 415 | 422, .. } => Undelivered::Unwanted(text),
        // Its text would show the URL.
        FetchError::BadUrl { why, .. } => Undelivered::Away(format!("its URL: {why}")),
        FetchError::Status { status: 429, .. }
        | FetchError::Redirect { .. }
        | FetchError::Plain(_)
        | FetchError::Unresolved { .. }
        | FetchError::Private { .. }
        | FetchError::Unreachable { .. }
        | FetchError::Tls { .. }
        | FetchError::Ca { .. } => Undelivered::Away(text),
        FetchError::Slow { step, .. } if *step != "answer" => Undelivered::Away(text),
        FetchError::Slow { .. }
        | FetchError::Status { .. }
        | FetchError::TooLarge { .. }
        | FetchError::Broken { .. } => Undelivered::Failed(text),
    }
}

/// Webhooks of one broker: each has a task and a place of its own.
const WEBHOOKS_MAX: usize = 64;
/// A webhook's name, in bytes.
const NAME_MAX: usize = 128;
