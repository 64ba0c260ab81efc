//! Settings, parsed once into a struct without holes; the documentation of each field is the text of the sample file.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::fetch::network::Network;

/// What is wrong with a settings file: where, with line and column, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct Unusable {
    /// The file.
    pub file: String,
    /// The parser's words, which name line and column.
    pub why: String,
}

/// Documentation of one key, as the sample shows it.
struct Entry {
    name: &'static str,
    doc: &'static [&'static str],
    sample: &'static str,
}

/// Declares a table of settings: the struct, its defaults, and its text in the sample file, from one source.
macro_rules! table {
    ($(#[doc = $head:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr, $sample:literal;)*
    }) => {
        $(#[doc = $head])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self { Self { $($field: $default,)* } }
        }
        impl $name {
            const HEAD: &'static [&'static str] = &[$($head),*];
            const ENTRIES: &'static [Entry] =
                &[$(Entry { name: stringify!($field), doc: &[$($doc),*], sample: $sample }),*];
        }
    };
}

table! {
    /// A broker for real: `protem serve --config protem.toml`.
    Broker {
        /// Where API and discovery documents are served. Beyond loopback only with `[tls]`.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), "\"127.0.0.1:7420\"";
        /// The `iss` of all credentials, and where their verifiers find the key set. It cannot change later. Empty: `http://` or,
        /// with `[tls]`, `https://` and `listen`.
        issuer: String = String::new(), "\"http://127.0.0.1:7420\"";
        /// The bundle that a new journal begins with: a folder as `protem init` writes it. Later ones come by
        /// `protem policy apply`.
        policies: PathBuf = PathBuf::from("policies"), "\"policies\"";
        /// The folder of the signing keys, made with mode 0700; each key is a file of mode 0600. Left out: `./protem-keys`.
        keys: PathBuf = PathBuf::from("protem-keys"), "\"/var/lib/protem/keys\"";
        /// This region's name, which policies see as `context.region`.
        region: String = String::new(), "\"eu1\"";
        /// Where `/livez`, `/readyz` and `/metrics` are served, in plain HTTP: keep it off the internet. Left out: nowhere.
        probes: Option<SocketAddr> = None, "\"127.0.0.1:7421\"";
        /// Where people open the page, `/ui/`, if not at `issuer`; it answers under this name alone.
        page: String = String::new(), "\"https://access.shop.example\"";
        /// How long a stopping broker waits for calls that have begun.
        drain: Span = Span(Duration::from_secs(10)), "\"10s\"";
    }
}

table! {
    /// TLS for the whole port, gRPC and HTTP. All three files, and those of `[spiffe]`, are read anew every 2 s and on SIGHUP.
    Tls {
        /// The broker's certificate and its intermediates, in PEM. Empty: no TLS.
        cert: PathBuf = PathBuf::new(), "\"/etc/protem/tls/cert.pem\"";
        /// Its key, in PEM. A file that others may read is refused.
        key: PathBuf = PathBuf::new(), "\"/etc/protem/tls/key.pem\"";
        /// The oldest version that is spoken: `1.3`, or `1.2` for clients that know nothing newer.
        min_version: TlsVersion = TlsVersion::Tls13, "\"1.3\"";
    }
}

table! {
    /// Whose X.509-SVIDs and JWT-SVIDs count, here those of the trust domain `shop.example`. Certificates need `[tls]`.
    TrustDomain {
        /// Its trust bundle: SPIFFE's JSON, or roots in PEM.
        bundle: PathBuf = PathBuf::new(), "\"/run/spire/bundle.json\"";
        /// The `aud` that its JWT-SVIDs must have. Empty: `broker.issuer`.
        audience: String = String::new(), "\"https://protem.shop.example\"";
    }
}

table! {
    /// Where the journal is.
    Store {
        /// The journal, an SQLite file, made if it is missing. Its folder must be on a local disk. Left out: `./protem.db`.
        path: PathBuf = PathBuf::from("protem.db"), "\"/var/lib/protem/journal.db\"";
        /// A file outside the store that keeps the newest signed checkpoint, so that a store restored from an old
        /// backup is noticed. Put it on another disk. Empty: none.
        anchor: PathBuf = PathBuf::new(), "\"/var/lib/protem-anchor/checkpoint\"";
    }
}

table! {
    /// How long signing keys live. Each has one purpose, and is known everywhere before it signs.
    Keys {
        /// How long a key signs before the next one does. `0s`: until somebody types `protem keys rotate`.
        rotate_every: Span = Span(Duration::from_secs(24 * 60 * 60)), "\"24h\"";
        /// How long a credential key is in `/jwks.json` before it signs, for verifiers that read that now and then. A key
        /// that replaces a compromised or a lost one does not wait for them.
        jwks_wait: Span = Span(Duration::from_secs(20 * 60)), "\"20m\"";
    }
}

table! {
    /// What the broker says about itself, on stderr.
    Log {
        /// `text` for people, `json` for machines.
        format: Format = Format::Text, "\"text\"";
        /// What to log: `error`, `warn`, `info`, `debug`, or a filter such as `info,protem::engine=debug`.
        filter: String = "info".to_owned(), "\"info\"";
    }
}

table! {
    /// What the other commands use when neither a flag nor the environment says it.
    Client {
        /// The broker to talk to.
        broker: String = format!("http://127.0.0.1:{PORT}"), "\"http://127.0.0.1:7420\"";
        /// A file that holds the caller's token (a JWT of an issuer that the bundle trusts), read anew each time.
        /// Empty: none.
        token_file: PathBuf = PathBuf::new(), "\"/var/run/secrets/protem/token\"";
        /// The caller's certificate and its intermediates in PEM, an X.509-SVID, read anew at each connection. It says who
        /// the caller is where no token does. Empty: none.
        cert: PathBuf = PathBuf::new(), "\"/run/spiffe/svid.pem\"";
        /// Its key, in PEM.
        key: PathBuf = PathBuf::new(), "\"/run/spiffe/key.pem\"";
        /// CAs in PEM that the broker's certificate must come from. Empty: the system's.
        ca: PathBuf = PathBuf::new(), "\"/etc/protem/ca.pem\"";
        /// `text` or `json`.
        output: Format = Format::Text, "\"text\"";
    }
}

table! {
    /// How the broker reaches an issuer of the bundle, here `k8s`, that has no JWKS file: by OpenID Connect discovery.
    IssuerSettings {
        /// Its `url`, exactly as the bundle has it. Needed with `token_file` or `ca`: whoever changes the bundle chooses where
        /// the name leads, and these go nowhere but here.
        url: String = String::new(), "\"https://kubernetes.default.svc.cluster.local\"";
        /// A file with the bearer token that the issuer wants to see before it shows its keys, as kube-apiserver does.
        /// Read at each fetch, and sent to the issuer's own server only. Empty: none.
        token_file: PathBuf = PathBuf::new(), "\"/var/run/secrets/kubernetes.io/serviceaccount/token\"";
        /// CAs in PEM that its certificate may also come from. Empty: the system's alone.
        ca: PathBuf = PathBuf::new(), "\"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt\"";
    }
}

table! {
    /// Where the broker may go, to fetch issuers' keys and to tell webhooks.
    Fetch {
        /// Networks of private or loopback addresses that names may lead to. All others are refused, so that nobody who
        /// names a URL reaches the inside of your network.
        allow_private: Vec<Network> = Vec::new(), "[\"10.96.0.0/12\"]";
    }
}

table! {
    /// Somebody whom the broker tells what happens, here under the name `chat`, which groups of the bundle give as `notify`.
    WebhookSettings {
        /// Where messages are posted. Private addresses must be in `fetch.allow_private`; redirects are not followed.
        url: String = String::new(), "\"https://hooks.shop.example/protem\"";
        /// A file that holds the URL instead, for one that is a secret itself, as those of Slack are. Mode 0600.
        url_file: PathBuf = PathBuf::new(), "\"/etc/protem/chat.url\"";
        /// A file of mode 0600 with the secret that messages are signed with: `whsec_` and base64 of 24 to 64 bytes. While it
        /// changes, two, each on a line of its own: both sign. Read anew for each message. `slack` needs none.
        secret_file: PathBuf = PathBuf::new(), "\"/etc/protem/chat.secret\"";
        /// What is told: `pending`, `reminder`, `emergency`, `decided`, `ended`, `quarantined`. Empty: all of them.
        events: Vec<String> = Vec::new(), "[\"pending\", \"reminder\", \"emergency\", \"decided\"]";
        /// Groups that it tells, beside those of the bundle whose `notify` names it.
        groups: Vec<String> = Vec::new(), "[\"shop-oncall\"]";
        /// Tells it everything, whomever it concerns: for an archive, not for a room full of people.
        everything: bool = false, "false";
        /// `cloudevents`: CloudEvents 1.0 as structured JSON. `slack`: what Slack and its like show.
        format: WebhookFormat = WebhookFormat::CloudEvents, "\"cloudevents\"";
        /// CAs in PEM that its certificate may also come from. Empty: the system's alone.
        ca: PathBuf = PathBuf::new(), "\"/etc/protem/inside-ca.pem\"";
        /// How long a message is tried before it is parked; `protem webhooks` shows what is, and sends it again.
        give_up: Span = Span(Duration::from_secs(24 * 60 * 60)), "\"24h\"";
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A broker for real.
    pub broker: Broker,
    /// TLS for its port.
    pub tls: Tls,
    /// Whose SVIDs count, by trust domain.
    pub spiffe: BTreeMap<String, TrustDomain>,
    /// Where the journal is.
    pub store: Store,
    /// How long signing keys live.
    pub keys: Keys,
    /// What the broker says about itself.
    pub log: Log,
    /// What the other commands use.
    pub client: Client,
    /// Where issuers' keys may be fetched.
    pub fetch: Fetch,
    /// How issuers of the bundle are reached, by their names there.
    pub issuer: BTreeMap<String, IssuerSettings>,
    /// Who is told what happens, by name.
    pub webhook: BTreeMap<String, WebhookSettings>,
    /// Keys of `[client]` that the working directory's file has and that were not taken from it.
    #[serde(skip)]
    pub not_taken: Vec<&'static str>,
}

/// What the working directory's file must not say: it may be somebody else's checkout, and these send the caller's token, or
/// another file's content, to whom it names.
const NOT_FROM_HERE: [&str; 5] = ["broker", "token_file", "cert", "key", "ca"];

/// The port that a broker listens on unless told otherwise.
pub const PORT: u16 = 7420;

/// For people, or for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// How a webhook's messages look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// CloudEvents 1.0, structured JSON.
    #[default]
    CloudEvents,
    /// Slack's incoming webhooks.
    Slack,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 and newer.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// A length of time as people write it: `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let span = humantime::parse_duration(&text);
        span.map(Span).map_err(|why| serde::de::Error::custom(format!("`{text}`: {why}")))
    }
}

/// Reads settings: `named` alone if given, else `./protem.toml`, then the user's, then the machine's; a key of an
/// earlier file wins. No file at all gives the defaults. Which broker and which login are the user's to say: of
/// `./protem.toml`, that nobody named, those keys are not taken, and [`Settings::not_taken`] has them.
///
/// # Errors
/// When a file cannot be read, has an unknown key, or a value is not what it should be: with line and column.
pub fn read(named: Option<&Path>) -> Result<Settings, Unusable> {
    let files = match named {
        Some(file) => vec![file.to_owned()],
        None => places().into_iter().filter(|file| file.is_file()).collect(),
    };
    let mut tables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|why| unusable(&file, &why))?;
        tables.push((named.is_none() && file == Path::new(FILE), parse(&file, &text)?));
    }
    merge(tables)
}

/// One of all these, an earlier one first; with each, whether nobody but the working directory vouches for it.
fn merge(tables: Vec<(bool, toml::Table)>) -> Result<Settings, Unusable> {
    let mut merged = toml::Table::new();
    let mut kept_out = toml::Table::new();
    for (is_here, mut table) in tables {
        if is_here && let Some(toml::Value::Table(client)) = table.get_mut("client") {
            for key in NOT_FROM_HERE {
                kept_out.extend(client.remove(key).map(|value| (key.to_owned(), value)));
            }
        }
        fill(&mut merged, table);
    }
    // What another file says as well is taken from there.
    let client = merged.get("client").and_then(toml::Value::as_table);
    let taken = |key: &str| client.and_then(|client| client.get(key)) == kept_out.get(key);
    let not_taken = NOT_FROM_HERE.into_iter().filter(|key| !taken(key)).collect();
    Ok(Settings { not_taken, ..checked(merged, Path::new("settings"))? })
}

/// Reads one file's text.
///
/// # Errors
/// As [`read`].
pub fn from_text(text: &str) -> Result<Settings, Unusable> {
    let file = Path::new("settings");
    checked(parse(file, text)?, file)
}

/// What no single key says, but all of them together.
fn checked(merged: toml::Table, file: &Path) -> Result<Settings, Unusable> {
    let settings: Settings = merged.try_into().map_err(|why| unusable(file, &why))?;
    for (name, issuer) in &settings.issuer {
        if issuer.url.is_empty() && !issuer.gives_nothing() {
            let why = format!(
                "`[issuer.{name}]` needs `url`, exactly as the bundle has it: its token and CA are for that issuer alone"
            );
            return Err(unusable(file, &why));
        }
    }
    Ok(settings)
}

impl IssuerSettings {
    /// Whether it changes nothing of how the issuer is reached.
    #[must_use]
    pub fn gives_nothing(&self) -> bool {
        [&self.token_file, &self.ca].iter().all(|file| file.as_os_str().is_empty())
    }
}

/// One file's settings, checked alone so that a mistake is told with its line and column.
fn parse(file: &Path, text: &str) -> Result<toml::Table, Unusable> {
    toml::from_str::<Settings>(text).map_err(|why| unusable(file, &why))?;
    toml::from_str(text).map_err(|why| unusable(file, &why))
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> Unusable {
    Unusable { file: file.display().to_string(), why: why.to_string().trim_end().to_owned() }
}

/// Takes from `later` what `earlier` does not say.
fn fill(earlier: &mut toml::Table, later: toml::Table) {
    for (key, value) in later {
        match (earlier.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(outer)) => fill(inner, outer),
            (Some(_), _) => {}
            (None, value) => drop(earlier.insert(key, value)),
        }
    }
}

/// Where settings are looked for, first wins.
fn places() -> Vec<PathBuf> {
    // A place that is empty or relative would be the working directory's again (XDG Base Directory, "Basics").
    let whole = |path: &PathBuf| path.is_absolute();
    let home = || std::env::home_dir().filter(whole).map(|home| home.join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(whole).or_else(home);
    let mut places = vec![PathBuf::from(FILE)];
    places.extend(user.map(|folder| folder.join("protem").join(FILE)));
    places.push(PathBuf::from("/etc/protem").join(FILE));
    places
}

/// The name of a settings file.
pub const FILE: &str = "protem.toml";

/// A complete commented settings file; every value is an example, and every line is optional.
#[must_use]
pub fn sample() -> String {
    let mut text = String::from(
        "# Settings of protem. Every key is optional. An unknown key is refused with its line and column.\n\
         # Searched in this order: ./protem.toml, $XDG_CONFIG_HOME/protem/, /etc/protem/; flags and PROTEM_… win. Of\n\
         # `[client]` only `output` is taken from ./protem.toml, which may be anybody's: a file there names no broker.\n",
    );
    section(&mut text, "broker", Broker::HEAD, Broker::ENTRIES);
    section(&mut text, "tls", Tls::HEAD, Tls::ENTRIES);
    section(&mut text, "spiffe.\"shop.example\"", TrustDomain::HEAD, TrustDomain::ENTRIES);
    section(&mut text, "store", Store::HEAD, Store::ENTRIES);
    section(&mut text, "keys", Keys::HEAD, Keys::ENTRIES);
    section(&mut text, "log", Log::HEAD, Log::ENTRIES);
    section(&mut text, "client", Client::HEAD, Client::ENTRIES);
    section(&mut text, "fetch", Fetch::HEAD, Fetch::ENTRIES);
    section(&mut text, "issuer.k8s", IssuerSettings::HEAD, IssuerSettings::ENTRIES);
    section(&mut text, "webhook.chat", WebhookSettings::HEAD, WebhookSettings::ENTRIES);
    text
}

fn section(text: &mut String, name: &str, head: &[&str], entries: &[Entry]) {
    text.push('\n');
    for line in head {
        text.push_str(&format!("#{line}\n"));
    }
    // A table of names is an example whole: a name that nobody gave is no setting.
    let off = if name.contains('.') { "# " } else { "" };
    text.push_str(&format!("{off}[{name}]\n"));
    for entry in entries {
        for line in entry.doc {
            text.push_str(&format!("#{line}\n"));
        }
        text.push_str(&format!("# {} = {}\n", entry.name, entry.sample));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<fn(&Settings) -> bool, &str>) {
        let read = parse(Path::new("protem.toml"), text)
            .map(|table| -> Settings { table.try_into().unwrap() });
        match (read, expect) {
            (Ok(settings), Ok(holds)) => assert!(holds(&settings), "{settings:?}"),
            (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{why}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn a_file_says_only_what_differs() {
        check("", Ok(|s| *s == Settings::default()));
        check("[log]\nformat = \"json\"", Ok(|s| s.log.format == Format::Json));
        check("[keys]\nrotate_every = \"0s\"", Ok(|s| s.keys.rotate_every.0.is_zero()));
        check("[broker]\ndrain = \"1m 5s\"", Ok(|s| s.broker.drain.0.as_secs() == 65));
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        check("[store]\npth = \"x\"", Err("line 2, column 1"));
        check("[broker]\nlisten = \"here\"", Err("line 2, column 10"));
        check("[broker]\ndrain = \"soon\"", Err("`soon`"));
        check("[nothing]", Err("unknown field `nothing`"));
        check("[fetch]\nallow_private = [\"10.0.0.1/8\"]", Err("line 2, column 17"));
        check("[issuer.k8s]\ntoken = \"x\"", Err("unknown field `token`"));
    }

    #[test]
    fn what_goes_to_an_issuer_names_where_it_is() {
        for text in ["token_file = \"t\"", "ca = \"c\""] {
            let why = from_text(&format!("[issuer.k8s]\n{text}")).unwrap_err().to_string();
            assert!(why.contains("needs `url`"), "{text}: {why}");
            from_text(&format!("[issuer.k8s]\n{text}\nurl = \"https://idp.example\"")).unwrap();
        }
    }

    #[test]
    fn an_earlier_file_wins_key_by_key() {
        let mut first = parse(Path::new("a"), "[log]\nfilter = \"debug\"").unwrap();
        let second = "[log]\nfilter = \"warn\"\nformat = \"json\"\n[store]\npath = \"s\"";
        fill(&mut first, parse(Path::new("b"), second).unwrap());
        let settings: Settings = first.try_into().unwrap();
        assert_eq!(settings.log, Log { format: Format::Json, filter: "debug".into() });
        assert_eq!(settings.store.path, Path::new("s"));
    }

    #[test]
    fn attack_a_checkout_names_the_broker_and_the_files_to_send_it() {
        let merged = |here: &str, users: &str| {
            let table = |text| parse(Path::new("protem.toml"), text).unwrap();
            merge(vec![(true, table(here)), (false, table(users))]).unwrap()
        };
        let evil = "[client]\nbroker = \"https://evil.example\"\ntoken_file = \"/home/a/.token\"\n\
                    cert = \"c\"\nkey = \"k\"\nca = \"evil.pem\"\noutput = \"json\"";
        let settings = merged(evil, "");
        assert_eq!(settings.client, Client { output: Format::Json, ..Client::default() });
        assert_eq!(settings.not_taken, NOT_FROM_HERE);
        let settings =
            merged(evil, "[client]\nbroker = \"https://good.example\"\nca = \"evil.pem\"");
        assert_eq!(settings.client.broker, "https://good.example");
        assert_eq!(settings.not_taken, ["broker", "token_file", "cert", "key"]);
        assert_eq!(merged("[log]\nfilter = \"warn\"", "").not_taken, Vec::<&str>::new());
    }

    #[test]
    fn every_line_of_the_sample_is_a_setting() {
        let lines = sample();
        let uncommented = lines.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.split(' ').nth(1) == Some("=") => rest,
            _ => line,
        });
        check(&uncommented.collect::<Vec<_>>().join("\n"), Ok(|s| s.broker.region == "eu1"));
        assert!(lines.contains("# token_file = "));
    }
}
