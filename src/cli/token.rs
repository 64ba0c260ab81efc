//! Where the caller's token comes from, and where it may go.

use std::fmt;
use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_gate::connect::{self, BadAddress, Dial};
use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::dev_key::{self, DevKey, TOKEN_LIFE};
use crate::cli::exit::{Exit, Failure};
use crate::cli::github::GitHub;
use crate::cli::id_token::Said;
use crate::cli::keeper::Keeper;
use crate::cli::spiffe::Spiffe;
use crate::cli::ways::{ID_TOKEN_VAR, Way};
use crate::fetch::web::Web;

/// A way to present oneself; it gives a token that is fresh enough each time.
#[derive(Clone)]
pub struct Login(Arc<Inner>);

struct Inner {
    source: Source,
    /// Why the last token could not be had: a call that failed for it tells no more than a status.
    trouble: Mutex<Option<Failure>>,
}

enum Source {
    Nothing,
    File(PathBuf),
    Certificate(PathBuf),
    IdToken(Zeroizing<String>),
    GitHub(Box<GitHub>),
    Spiffe(Box<Spiffe>),
    SignedIn(Box<Keeper>),
    Dev(Box<Dev>),
}

struct Dev {
    key: DevKey,
    /// Where the broker listens: after a restart it has another key.
    port: Option<u16>,
    name: String,
    kept: Mutex<Option<Kept>>,
}

/// How often to look whether the broker has another key: sooner than one starts, seldom for a thousand callers.
const LOOK: Duration = Duration::from_millis(100);

struct Kept {
    kid: String,
    token: Zeroizing<String>,
    until: Duration,
    looked: Duration,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    fn new(source: Source) -> Self {
        Self(Arc::new(Inner { source, trouble: Mutex::new(None) }))
    }

    /// Nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new(Source::Nothing)
    }

    /// With the token in a file, read anew each time.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::new(Source::File(path))
    }

    /// With the sign-in that is kept.
    #[must_use]
    pub fn kept(keeper: Keeper) -> Self {
        Self::new(Source::SignedIn(Box::new(keeper)))
    }

    /// The way that counts, against a broker.
    ///
    /// # Errors
    /// When there is no development key for `--as`.
    pub fn by(way: Way, broker: &Uri, audience: Option<String>, web: Web) -> Result<Self, Failure> {
        Ok(match way {
            Way::File(path) => Self::file(path),
            Way::Certificate(..) if broker.scheme_str() == Some("http") => {
                let what = format!("a certificate cannot be shown to `{broker}`");
                let why = "certificates come with TLS, so the address begins with https://";
                let failure = Failure::of(Exit::Usage, tool::USAGE, what).because(why);
                return Err(failure.helps("give the broker's https:// address with `--broker`"));
            }
            Way::Certificate(cert, _) => Self::new(Source::Certificate(cert)),
            Way::IdToken(token) => Self::new(Source::IdToken(one_token(&token).map_err(bad_var)?)),
            Way::As(name) => {
                let port = broker.port_u16().unwrap_or(80);
                let key = dev_key::read(&dev_key::state(), port);
                let key = key.map_err(|why| nobody_at(broker).unwrap_or(why))?;
                let dev = Dev { key, port: Some(port), name, kept: Mutex::new(None) };
                Self::new(Source::Dev(Box::new(dev)))
            }
            Way::GitHub(vars) => {
                let github = GitHub::new(vars, broker.clone(), audience, web);
                Self::new(Source::GitHub(Box::new(github)))
            }
            Way::Spiffe(agent) => {
                Self::new(Source::Spiffe(Box::new(Spiffe::by(agent, broker, audience, web)?)))
            }
            Way::SignedIn => Self::kept(Keeper::of(broker, web)),
            Way::Nothing => Self::nobody(),
        })
    }

    /// With a development key.
    #[must_use]
    pub fn dev(key: DevKey, name: &str) -> Self {
        let dev = Dev { key, port: None, name: name.to_owned(), kept: Mutex::new(None) };
        Self::new(Source::Dev(Box::new(dev)))
    }

    /// The token to present now; none when nothing says who the caller is.
    ///
    /// # Errors
    /// When it cannot be read or fetched.
    pub async fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let found = match &self.0.source {
            Source::Nothing | Source::Certificate(_) => Ok(None),
            Source::File(path) => read_token(path).map(Some),
            Source::IdToken(token) => Ok(Some(token.clone())),
            Source::GitHub(github) => github.token().await.map(Some),
            Source::Spiffe(agent) => agent.token().await,
            Source::SignedIn(keeper) => keeper.token().await.map(Some),
            Source::Dev(dev) => Ok(Some(dev.token())),
        };
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = found.as_ref().err().cloned();
        found
    }

    /// Why the last token could not be had, if it could not.
    #[must_use]
    pub fn trouble(&self) -> Option<Failure> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no other call will ever be taken, if that is so: the one id token that there is has expired, and nothing renews
    /// it.
    #[must_use]
    pub fn spent(&self) -> Option<Failure> {
        let Source::IdToken(token) = &self.0.source else { return None };
        let said = Said::by(token)?;
        (Duration::from_secs(said.exp) <= SystemClock.unix()).then(|| {
            let what = format!("the id token in {ID_TOKEN_VAR} has expired, and nothing renews it");
            Failure::of(Exit::NotAuthenticated, tool::TOKEN_FILE, what)
        })
    }

    /// Whether there is anything to present.
    #[must_use]
    pub fn is_somebody(&self) -> bool {
        !matches!(&self.0.source, Source::Nothing)
    }

    /// Whether the certificate of the connection says who calls, and no token.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        match &self.0.source {
            Source::Certificate(_) => true,
            Source::Spiffe(agent) => agent.is_certificate(),
            Source::Nothing
            | Source::File(_)
            | Source::IdToken(_)
            | Source::GitHub(_)
            | Source::SignedIn(_)
            | Source::Dev(_) => false,
        }
    }

    /// The same way to a broker, with what this login does to connections.
    #[must_use]
    pub fn dial(&self, dial: Dial) -> Dial {
        match &self.0.source {
            Source::Spiffe(agent) => agent.dial(dial),
            Source::Nothing
            | Source::File(_)
            | Source::Certificate(_)
            | Source::IdToken(_)
            | Source::GitHub(_)
            | Source::SignedIn(_)
            | Source::Dev(_) => dial,
        }
    }

    /// What is wrong with where it comes from, though there is something to present.
    #[must_use]
    pub fn ails(&self) -> Option<String> {
        let Source::Spiffe(agent) = &self.0.source else { return None };
        agent.ails()
    }

    /// Whether it is `--as`: the broker is a development broker, where everybody may be anybody.
    #[must_use]
    pub fn is_dev(&self) -> bool {
        self.dev_name().is_some()
    }

    /// The name that `--as` gave.
    #[must_use]
    pub fn dev_name(&self) -> Option<&str> {
        match &self.0.source {
            Source::Dev(dev) => Some(&dev.name),
            Source::Nothing
            | Source::File(_)
            | Source::Certificate(_)
            | Source::IdToken(_)
            | Source::GitHub(_)
            | Source::Spiffe(_)
            | Source::SignedIn(_) => None,
        }
    }

    /// Where the token comes from, in words.
    #[must_use]
    pub fn source(&self) -> String {
        match &self.0.source {
            Source::Nothing => "nothing says who you are".to_owned(),
            Source::File(path) => format!("the token file `{}`", path.display()),
            Source::Certificate(file) => format!("the certificate `{}`", file.display()),
            Source::IdToken(_) => format!("the id token in {ID_TOKEN_VAR}"),
            Source::GitHub(_) => "the id token that GitHub Actions gives this job".to_owned(),
            Source::Spiffe(agent) => agent.source(),
            Source::SignedIn(keeper) => keeper.source(),
            Source::Dev(dev) => format!("`--as {}`, signed with the development key", dev.name),
        }
    }
}

impl Dev {
    fn token(&self) -> Zeroizing<String> {
        let now = SystemClock.boot();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.until.min(kept.looked + LOOK) > now) {
            return kept.token.clone();
        }
        // While the broker is away its key may be, too: the old one is as good as any then.
        let newest = self.port.and_then(|port| dev_key::read(&dev_key::state(), port).ok());
        let key = newest.as_ref().unwrap_or(&self.key);
        let kid = key.kid();
        if let Some(kept) = kept.as_mut().filter(|kept| kept.until > now && kept.kid == kid) {
            kept.looked = now;
            return kept.token.clone();
        }
        let token = key.sign(&self.name);
        let until = now.saturating_add(TOKEN_LIFE / 2);
        *kept = Some(Kept { kid, token: token.clone(), until, looked: now });
        token
    }
}

/// That nothing listens at a broker's address on this machine, if that is so: then no key is missing, but the broker.
fn nobody_at(broker: &Uri) -> Option<Failure> {
    let host = broker.host().unwrap_or_default().trim_matches(['[', ']']);
    let at = (host, broker.port_u16().unwrap_or(80)).to_socket_addrs().ok()?.next()?;
    let refused = TcpStream::connect_timeout(&at, LOOK).err()?;
    (refused.kind() == ErrorKind::ConnectionRefused).then(|| {
        let what = format!("no broker answers at {broker}");
        Failure::of(Exit::Unreachable, tool::UNREACHABLE, what).because("nothing listens there")
    })
}

fn bad_var(why: &str) -> Failure {
    let what = format!("{ID_TOKEN_VAR}: {why}");
    Failure::of(Exit::NotAuthenticated, tool::TOKEN_FILE, what)
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bad = |why: &dyn fmt::Display| {
        let what = format!("`{}`: {why}", path.display());
        Failure::of(Exit::NotAuthenticated, tool::TOKEN_FILE, what)
    };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|why| bad(&why))?);
    one_token(&text).map_err(|why| bad(&why))
}

/// The one token of a text.
pub fn one_token(text: &str) -> Result<Zeroizing<String>, &'static str> {
    let token = text.trim();
    if token.is_empty() {
        return Err("it is empty");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it does not hold one token");
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// Reads the broker's address, and refuses one that a token must not be sent to.
///
/// # Errors
/// When it is no address, or lies beyond loopback.
pub fn broker_uri(text: &str) -> Result<Uri, Failure> {
    let bad = |why: &str| {
        let what = format!("`{text}` is no broker's address: {why}");
        Failure::of(Exit::Usage, tool::USAGE, what)
            .because("a broker's address is a URL, and plain http is for this machine alone")
            .helps("write it like https://broker.example:7420")
    };
    let uri: Uri = text.parse().map_err(|why: http::uri::InvalidUri| bad(&why.to_string()))?;
    match connect::check(&uri) {
        Ok(()) => Ok(uri),
        Err(BadAddress::InTheClear(_)) => Err(Failure::of(
            Exit::Usage,
            tool::PLAIN_HTTP,
            format!("`{text}` is beyond loopback and has no TLS"),
        )),
        Err(BadAddress::NoAddress(_)) => Err(bad("it does not begin with https:// or http://")),
    }
}

/// A broker's address as a text that paths are put behind.
#[must_use]
pub fn base(broker: &Uri) -> String {
    broker.to_string().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expect: Result<(), &str>) {
        let code = broker_uri(url).map(drop).map_err(|failure| failure.code);
        assert_eq!(code, expect.map_err(str::to_owned), "{url}");
    }

    #[test]
    fn a_token_never_travels_in_the_clear() {
        check("http://127.0.0.1:7420", Ok(()));
        check("http://localhost:7420/", Ok(()));
        check("http://[::1]:7420", Ok(()));
        check("http://127.0.0.1.evil.example", Err("PT-0702"));
        check("http://10.0.0.1:7420", Err("PT-0702"));
        check("http://localhost.example", Err("PT-0702"));
        check("https://broker.example:7420", Ok(()));
        check("ftp://127.0.0.1", Err("PT-0719"));
        check("nothing", Err("PT-0719"));
    }

    #[test]
    fn an_id_token_that_nothing_renews_is_spent_when_it_has_expired() {
        let login = |exp: u64| {
            let payload =
                data_encoding::BASE64URL_NOPAD.encode(format!("{{\"exp\":{exp}}}").as_bytes());
            let token = Zeroizing::new(format!("e30.{payload}.c2ln"));
            Login::new(Source::IdToken(token))
        };
        assert!(login(1).spent().is_some());
        assert_eq!(login(u64::MAX).spent(), None);
        assert_eq!(Login::file("t".into()).spent(), None, "another may lie there in a moment");
    }

    #[tokio::test]
    async fn a_token_file_is_read_anew_and_holds_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let login = Login::file(path.clone());
        assert!(login.token().await.is_err());
        assert_eq!(login.trouble().unwrap().code, "PT-0705");
        std::fs::write(&path, "a.b.c\n").unwrap();
        assert_eq!(login.token().await.unwrap().unwrap().as_str(), "a.b.c");
        assert_eq!(login.trouble(), None);
        std::fs::write(&path, "two tokens").unwrap();
        assert!(login.token().await.is_err());
    }
}
