//! `gate.toml`: parsed once, strictly, into a struct without holes.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use protem_verify::names::{GatewayName, ResourceName};
use serde::Deserialize;
use toml::Spanned;

use crate::connect::{TlsFiles, check};
use crate::forward::Proxy;
use crate::listener::Place;
use crate::rate::RATE;

/// What a sidecar must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in the bundle.
    pub name: GatewayName,
    /// The proxy that asks by forward-auth; none: only Envoy asks.
    pub proxy: Option<Proxy>,
    /// Where it listens for its proxy.
    pub listen: Place,
    /// Who may connect to its socket.
    pub socket_mode: u32,
    /// A folder of its own.
    pub state: PathBuf,
    /// Where `/livez`, `/readyz` and metrics are; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Calls a second of one credential; none: as many as it likes.
    pub rate: Option<NonZeroU32>,
    /// The resources that it protects; none: all that the bundle gives it.
    pub resources: Vec<ResourceName>,
    /// Its brokers, one for each issuer.
    pub brokers: Vec<BrokerSettings>,
    /// Secrets of APIs that cannot check tokens: names and files.
    pub secrets: BTreeMap<String, PathBuf>,
    /// What it says on stderr.
    pub log: LogSettings,
}

/// One broker to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Its address.
    pub url: String,
    /// The issuer whose credentials count.
    pub issuer: String,
    /// Whom it believes, and the certificate that it shows.
    pub tls: TlsFiles,
    /// A file with the token that says who it is.
    pub token_file: Option<PathBuf>,
    /// The resources that its credentials open here; none: all that this gate protects.
    pub resources: Option<Vec<ResourceName>>,
}

/// How much is said, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What must be looked at.
    Error,
    /// What might have to be.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// All of it.
    Debug,
}

/// A settings file that cannot be used: which, where in it, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct BadSettings {
    /// The file.
    pub file: String,
    /// Line and column, and what is wrong there.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    proxy: Option<Proxy>,
    listen: Spanned<String>,
    #[serde(default)]
    socket_mode: Option<Spanned<String>>,
    #[serde(default)]
    beyond_loopback: bool,
    #[serde(default)]
    only_proxy_connects: bool,
    state: PathBuf,
    metrics: Option<SocketAddr>,
    #[serde(default = "rate")]
    rate: u32,
    #[serde(default)]
    resources: Vec<Spanned<String>>,
    broker: Vec<Spanned<RawBroker>>,
    #[serde(default)]
    login: RawLogin,
    #[serde(default)]
    secret: BTreeMap<String, RawSecret>,
    #[serde(default)]
    log: LogSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBroker {
    url: Spanned<String>,
    issuer: String,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
    resources: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLogin {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    file: PathBuf,
}

/// A settings file: what is read before it is understood costs memory.
const FILE_MAX: u64 = 256 * 1024;
/// Brokers that one gateway follows: each costs a stream and a view.
const BROKERS_MAX: usize = 64;
/// Who may connect to the socket when nothing is said: the gateway's user and group.
pub const SOCKET_MODE: u32 = 0o660;

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is unknown, missing or not what it should be.
    pub fn read(file: &Path) -> Result<Self, BadSettings> {
        let name = file.display().to_string();
        let bad = |why: String| BadSettings { file: name.clone(), why };
        let size = fs::metadata(file).map_err(|why| bad(why.to_string()))?.len();
        if size > FILE_MAX {
            return Err(bad(format!("it is larger than {FILE_MAX} bytes")));
        }
        let text = fs::read_to_string(file).map_err(|why| bad(why.to_string()))?;
        Self::parse(&text).map_err(bad)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|why| why.to_string().trim_end().to_owned())?;
        let at = |spot: std::ops::Range<usize>, why: &str| located(text, spot.start, why);
        let name = GatewayName::try_from(raw.name.get_ref().as_str());
        let name = name.map_err(|why| at(raw.name.span(), &why.to_string()))?;
        let listen: Place =
            raw.listen.get_ref().parse().map_err(|why: String| at(raw.listen.span(), &why))?;
        if let Place::Address(address) = listen
            && !address.ip().is_loopback()
            && !raw.beyond_loopback
        {
            let why = "credentials would travel in the clear there: listen on 127.0.0.1, `[::1]` or `unix:`, or say \
                       `beyond_loopback = true` where the network itself is yours alone";
            return Err(at(raw.listen.span(), why));
        }
        let socket_mode = match &raw.socket_mode {
            None => SOCKET_MODE,
            Some(mode) => octal(mode.get_ref()).ok_or_else(|| {
                at(mode.span(), "write the socket's mode in octal digits, like \"660\" or \"0660\"")
            })?,
        };
        if !raw.secret.is_empty() && !raw.only_proxy_connects {
            closed_to_others(&raw, &listen, socket_mode, &at)?;
        }
        let resources = names(&raw.resources, &at)?;
        let brokers = brokers(&raw, &at)?;
        let secrets = raw.secret.into_iter().map(|(name, secret)| (name, secret.file)).collect();
        let Raw { proxy, state, metrics, rate, log, .. } = raw;
        Ok(Self {
            name,
            proxy,
            listen,
            socket_mode,
            state,
            metrics,
            rate: NonZeroU32::new(rate),
            resources,
            brokers,
            secrets,
            log,
        })
    }
}

/// What puts an error at its line and column.
type At<'text> = &'text dyn Fn(std::ops::Range<usize>, &str) -> String;

fn names(names: &[Spanned<String>], at: At<'_>) -> Result<Vec<ResourceName>, String> {
    let read = |name: &Spanned<String>| {
        let read = ResourceName::try_from(name.get_ref().as_str());
        read.map_err(|why| at(name.span(), &why.to_string()))
    };
    names.iter().map(read).collect()
}

/// A gate's answer holds the secret that it adds, so whoever may ask and has a credential of his own may read it.
fn closed_to_others(raw: &Raw, listen: &Place, mode: u32, at: At<'_>) -> Result<(), String> {
    const OR: &str = "or say `only_proxy_connects = true` where nothing but the proxy can reach it";
    match listen {
        Place::Address(_) => {
            let why = "with `[secret]`, whoever connects and has a credential is told the secret: listen on `unix:`";
            Err(at(raw.listen.span(), &format!("{why}, {OR}")))
        }
        Place::Socket(_) if mode & 0o007 != 0 => {
            let span = raw.socket_mode.as_ref().map_or(raw.listen.span(), Spanned::span);
            let why = "with `[secret]`, whoever connects and has a credential is told the secret: end the mode in 0";
            Err(at(span, &format!("{why}, {OR}")))
        }
        Place::Socket(_) => Ok(()),
    }
}

/// The resources that a broker's credentials open: an empty list would be a broker that opens nothing.
fn opened(raw: &Raw, broker: &RawBroker, at: At<'_>) -> Result<Option<Vec<ResourceName>>, String> {
    let Some(listed) = &broker.resources else { return Ok(None) };
    if listed.get_ref().is_empty() {
        let why = "name the resources that this broker's credentials open, or leave `resources` out for all";
        return Err(at(listed.span(), why));
    }
    let all = &raw.resources;
    let stray = |name: &&Spanned<String>| !all.iter().any(|one| one.get_ref() == name.get_ref());
    if let Some(name) = listed.get_ref().iter().find(stray).filter(|_| !all.is_empty()) {
        let why = format!("`{}` is not in the gate's own `resources`", name.get_ref());
        return Err(at(name.span(), &why));
    }
    names(listed.get_ref(), at).map(Some)
}

fn brokers(raw: &Raw, at: At<'_>) -> Result<Vec<BrokerSettings>, String> {
    let identity = match (&raw.login.cert, &raw.login.key) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        _ => return Err("`[login]` needs both `cert` and `key`".to_owned()),
    };
    if identity.is_some() && raw.login.token_file.is_some() {
        return Err("`[login]` has either `cert` and `key`, or `token_file`".to_owned());
    }
    if raw.broker.is_empty() || raw.broker.len() > BROKERS_MAX {
        return Err(format!("name 1 to {BROKERS_MAX} brokers, each as `[[broker]]`"));
    }
    let mut made: Vec<BrokerSettings> = Vec::new();
    for spanned in &raw.broker {
        let broker = spanned.get_ref();
        let url = broker.url.get_ref();
        let uri =
            url.parse::<http::Uri>().map_err(|why| at(broker.url.span(), &why.to_string()))?;
        check(&uri).map_err(|why| at(broker.url.span(), &why.to_string()))?;
        if broker.issuer.is_empty() {
            return Err(at(
                spanned.span(),
                "`issuer` is the exact `iss` of the broker's credentials",
            ));
        }
        if made.iter().any(|other| other.issuer == broker.issuer) {
            let why = format!(
                "two brokers have the issuer `{}`: a credential's issuer chooses its view",
                broker.issuer
            );
            return Err(at(spanned.span(), &why));
        }
        let token_file = broker.token_file.clone().or_else(|| raw.login.token_file.clone());
        if token_file.is_none() && identity.is_none() {
            let why =
                "nothing says who the gateway is: give `[login]` `cert` and `key`, or `token_file`";
            return Err(at(spanned.span(), why));
        }
        // A certificate is shown where no token is sent.
        let identity = if token_file.is_some() { None } else { identity.clone() };
        if identity.is_some() && uri.scheme_str() == Some("http") {
            return Err(at(broker.url.span(), "a certificate is shown over https:// only"));
        }
        made.push(BrokerSettings {
            url: url.clone(),
            issuer: broker.issuer.clone(),
            tls: TlsFiles { ca: broker.ca.clone(), identity },
            token_file,
            resources: opened(raw, broker, at)?,
        });
    }
    Ok(made)
}

/// Calls a second of one credential when nothing is said.
fn rate() -> u32 {
    RATE.get()
}

/// Three digits, or four of which the first is 0, as people write it.
fn octal(text: &str) -> Option<u32> {
    let text = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let plain = text.len() == 3 && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    plain.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

/// In the words of the TOML parser, so that all mistakes look alike.
fn located(text: &str, offset: usize, why: &str) -> String {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    format!("TOML parse error at line {line}, column {column}\n{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"edge-eu-1\"\nlisten = \"127.0.0.1:7431\"\nstate = \"s\"\n";
    const BROKER: &str =
        "[[broker]]\nurl = \"https://b.example\"\nissuer = \"https://b.example\"\n";
    const LOGIN: &str = "[login]\ntoken_file = \"t\"\n";

    #[track_caller]
    fn check(text: &str, expect: Result<fn(&Settings) -> bool, &str>) {
        match (Settings::parse(text), expect) {
            (Ok(settings), Ok(holds)) => assert!(holds(&settings), "{settings:?}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn a_file_says_what_is_needed() {
        check(
            &format!("{HEAD}{BROKER}{LOGIN}"),
            Ok(|s| s.proxy.is_none() && s.socket_mode == 0o660 && s.rate == Some(RATE)),
        );
        check(
            &format!(
                "proxy = \"caddy\"\nonly_proxy_connects = true\n{HEAD}{BROKER}token_file = \"own\"\n{LOGIN}[secret.crm-key]\nfile = \"k\"\n"
            ),
            Ok(|s| {
                s.proxy == Some(Proxy::Caddy)
                    && s.brokers[0].token_file == Some("own".into())
                    && s.secrets["crm-key"] == Path::new("k")
            }),
        );
        let certificate = "[login]\ncert = \"c\"\nkey = \"k\"\n";
        check(&format!("{HEAD}{BROKER}{certificate}"), Ok(|s| s.brokers[0].tls.identity.is_some()));
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        let whole = format!("{HEAD}{BROKER}{LOGIN}");
        check(&format!("prxy = \"nginx\"\n{whole}"), Err("line 1, column 1"));
        check(&format!("proxy = \"apache\"\n{whole}"), Err("line 1, column 9"));
        check(&whole.replace("edge-eu-1", "Edge"), Err("line 1, column 8"));
        check(&whole.replace("127.0.0.1:7431", "7431"), Err("line 2, column 10"));
        check(&whole.replace("127.0.0.1:7431", "0.0.0.0:7431"), Err("line 2, column 10"));
        check(&format!("socket_mode = \"0x1\"\n{whole}"), Err("line 1, column 15"));
        check(&format!("resources = [\"a\", \"B\"]\n{whole}"), Err("line 1, column 19"));
        check(&format!("{whole}[secret.a]\nvalue = \"hunter2\"\n"), Err("unknown field `value`"));
        check(
            &whole.replace("https://b.example\"\nissuer", "http://b.example\"\nissuer"),
            Err("line 5, column 7"),
        );
        check(&format!("{HEAD}{BROKER}"), Err("nothing says who the gateway is"));
        check(&format!("{HEAD}{BROKER}{BROKER}{LOGIN}"), Err("line 7, column 1"));
        check(&format!("{HEAD}broker = []\n{LOGIN}"), Err("1 to 64 brokers"));
        check(&format!("{whole}cert = \"c\"\n"), Err("both `cert` and `key`"));
        check(&format!("{whole}cert = \"c\"\nkey = \"k\"\n"), Err("either `cert` and `key`"));
    }

    #[test]
    fn attack_secret_read_by_whoever_may_connect() {
        let whole = format!("{HEAD}{BROKER}{LOGIN}[secret.crm-key]\nfile = \"k\"\n");
        let socket = whole.replace("127.0.0.1:7431", "unix:/run/protem-gate/gate.sock");
        check(&whole, Err("line 2, column 10"));
        check(&whole, Err("only_proxy_connects"));
        check(&socket, Ok(|s| s.socket_mode & 0o007 == 0));
        for (mode, open) in [("660", false), ("0600", false), ("666", true), ("0661", true)] {
            let with = format!("socket_mode = \"{mode}\"\n{socket}");
            match open {
                true => check(&with, Err("line 1, column 15")),
                false => check(&with, Ok(|_| true)),
            }
        }
        // Beyond this machine is one word, and what others may learn there another.
        let beyond = whole.replace("127.0.0.1:7431", "0.0.0.0:7431");
        check(&format!("beyond_loopback = true\n{beyond}"), Err("only_proxy_connects"));
        check(&format!("only_proxy_connects = true\n{beyond}"), Err("beyond_loopback"));
        for text in [&whole, &format!("socket_mode = \"666\"\n{socket}")] {
            check(&format!("only_proxy_connects = true\n{text}"), Ok(|_| true));
        }
    }

    #[test]
    fn a_mode_is_written_as_people_write_it() {
        let with = |mode| format!("socket_mode = \"{mode}\"\n{HEAD}{BROKER}{LOGIN}");
        for mode in ["660", "0660"] {
            check(&with(mode), Ok(|s| s.socket_mode == 0o660));
        }
        for bad in ["", "0", "66", "1660", "00660", "680", "0o660", "u=rw"] {
            check(&with(bad), Err("line 1, column 15"));
        }
    }

    #[test]
    fn a_broker_may_open_a_part_of_the_resources() {
        let with =
            |all: &str, list: &str| format!("{all}{HEAD}{BROKER}resources = {list}\n{LOGIN}");
        check(
            &with("", "[\"orders-api\"]"),
            Ok(|s| s.resources.is_empty() && s.brokers[0].resources.as_ref().unwrap().len() == 1),
        );
        check(&with("resources = [\"a\", \"b\"]\n", "[\"b\"]"), Ok(|s| s.resources.len() == 2));
        check(&with("", "[]"), Err("line 7, column 13"));
        check(&with("", "[\"B\"]"), Err("line 7, column 14"));
        check(&with("resources = [\"a\"]\n", "[\"b\"]"), Err("line 8, column 14"));
    }

    #[test]
    fn a_rate_can_be_set_or_taken_away() {
        let with = |rate| format!("rate = {rate}\n{HEAD}{BROKER}{LOGIN}");
        check(&with("50"), Ok(|s| s.rate == NonZeroU32::new(50)));
        check(&with("0"), Ok(|s| s.rate.is_none()));
        check(&with("-1"), Err("line 1, column 8"));
    }

    #[test]
    fn the_sample_has_every_key() {
        let sample = include_str!("../../examples/gate.toml");
        check(
            sample,
            Ok(|s| s.secrets.contains_key("crm-key") && s.brokers[0].tls.identity.is_some()),
        );
        // What is commented out is a key all the same; a login is one or the other.
        let all = sample.lines().map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split(' ').nth(1) == Some("=") => key,
            _ => line,
        });
        let login = |line: &&str| !line.starts_with("cert =") && !line.starts_with("key =");
        let all: Vec<&str> = all.filter(login).collect();
        check(&all.join("\n"), Ok(|s| s.brokers[0].tls.ca.is_some() && s.resources.len() == 1));
        // Each table of it, and what the reader takes there.
        let told = sample.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let told: Vec<&str> =
            told.filter_map(|line| line.split_once(" = ").map(|it| it.0)).collect();
        for table in ["", "[[broker]]\n", "[login]\n", "[secret.a]\n", "[log]\n"] {
            let unknown = format!("{table}no_such_key = 1\n");
            let why = Settings::parse(&unknown).unwrap_err();
            let known = why.split("expected").nth(1).unwrap_or_else(|| panic!("{why}"));
            let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
            let table_names = ["broker", "login", "secret", "log"];
            for key in known.iter().filter(|key| !table_names.contains(key)) {
                assert!(told.contains(key), "the sample has no `{key}`");
            }
        }
    }

    #[test]
    fn beyond_loopback_only_by_name() {
        let text = format!("beyond_loopback = true\n{HEAD}{BROKER}{LOGIN}");
        check(&text.replace("127.0.0.1:7431", "0.0.0.0:7431"), Ok(|_| true));
    }
}
