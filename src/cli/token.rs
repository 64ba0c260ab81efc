//! Where the caller's token comes from, and where it may go.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::dev_key::{self, DevKey, TOKEN_LIFE};
use crate::cli::exit::{Exit, Failure};

/// A way to present oneself; it gives a token that is fresh enough each time.
#[derive(Clone)]
pub struct Login(Arc<Source>);

enum Source {
    Nothing,
    File(PathBuf),
    Dev(Box<Dev>),
}

struct Dev {
    key: DevKey,
    name: String,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: Zeroizing<String>,
    until: Duration,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    /// Nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Arc::new(Source::Nothing))
    }

    /// As flags and settings say: an explicit `--as` against a development broker, else a token file.
    ///
    /// # Errors
    /// When there is no development key for `--as`.
    pub fn find(
        broker: &Uri,
        act_as: Option<&str>,
        file: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let from_environment = (
            file.is_some() && std::env::var_os(TOKEN_FILE_VAR).map(PathBuf::from) == file,
            act_as.is_some() && std::env::var(AS_VAR).ok().as_deref() == act_as,
        );
        let source = match one_way(file, act_as, from_environment)? {
            (Some(file), _) => Source::File(file),
            (None, None) => Source::Nothing,
            (None, Some(name)) => {
                let key = dev_key::read(&dev_key::state(), broker.port_u16().unwrap_or(80))?;
                return Ok(Self::dev(key, name));
            }
        };
        Ok(Self(Arc::new(source)))
    }

    /// With a development key.
    #[must_use]
    pub fn dev(key: DevKey, name: &str) -> Self {
        let dev = Dev { key, name: name.to_owned(), kept: Mutex::new(None) };
        Self(Arc::new(Source::Dev(Box::new(dev))))
    }

    /// The token to present now; none when nothing says who the caller is.
    ///
    /// # Errors
    /// When the token file cannot be used.
    pub fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        match &*self.0 {
            Source::Nothing => Ok(None),
            Source::File(path) => read_token(path).map(Some),
            Source::Dev(dev) => {
                let now = SystemClock.boot();
                let mut kept = dev.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = kept.as_ref().filter(|kept| kept.until > now) {
                    return Ok(Some(kept.token.clone()));
                }
                let token = dev.key.sign(&dev.name);
                let until = now.saturating_add(TOKEN_LIFE / 2);
                *kept = Some(Kept { token: token.clone(), until });
                Ok(Some(token))
            }
        }
    }

    /// Whether there is anything to present.
    #[must_use]
    pub fn is_somebody(&self) -> bool {
        !matches!(&*self.0, Source::Nothing)
    }
}

/// Of two ways to say who the caller is, an explicit flag wins over the environment; of two in the environment, the file.
fn one_way(
    file: Option<PathBuf>,
    act_as: Option<&str>,
    from_environment: (bool, bool),
) -> Result<(Option<PathBuf>, Option<&str>), Failure> {
    if file.is_none() || act_as.is_none() {
        return Ok((file, act_as));
    }
    match from_environment {
        (true, false) => Ok((None, act_as)),
        (_, true) => Ok((file, None)),
        (false, false) => {
            let what = "`--as` and `--token-file` are two ways to say who you are";
            Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("give one of them"))
        }
    }
}

const TOKEN_FILE_VAR: &str = "PROTEM_TOKEN_FILE";
const AS_VAR: &str = "PROTEM_AS";

fn read_token(path: &std::path::Path) -> Result<Zeroizing<String>, Failure> {
    let bad = |why: &dyn fmt::Display| {
        let what = format!("`{}`: {why}", path.display());
        Failure::of(Exit::NotAuthenticated, tool::TOKEN_FILE, what)
    };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|why| bad(&why))?);
    let token = text.trim();
    if token.is_empty() {
        return Err(bad(&"it is empty"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad(&"it does not hold one token"));
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
        Failure::of(Exit::Usage, tool::USAGE, what).helps("write it like http://127.0.0.1:7420")
    };
    let uri: Uri = text.parse().map_err(|why: http::uri::InvalidUri| bad(&why.to_string()))?;
    let host = uri.host().ok_or_else(|| bad("it names no host"))?;
    match uri.scheme_str() {
        Some("http") if is_loopback(host) => Ok(uri),
        Some("http") => Err(Failure::of(
            Exit::Usage,
            tool::PLAIN_HTTP,
            format!("`{text}` is beyond loopback and has no TLS"),
        )),
        Some("https") => Err(bad("this version speaks no TLS yet")),
        Some(_) | None => Err(bad("it does not begin with http://")),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_flag_wins_over_the_environment() {
        let check = |environment, file: bool, act_as: bool| {
            let found = one_way(Some("f".into()), Some("a"), environment).unwrap();
            assert_eq!((found.0.is_some(), found.1.is_some()), (file, act_as));
        };
        check((true, false), false, true);
        check((false, true), true, false);
        check((true, true), true, false);
        assert!(one_way(Some("f".into()), Some("a"), (false, false)).is_err());
        assert_eq!(one_way(None, Some("a"), (false, false)).unwrap().1, Some("a"));
    }

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
        check("ftp://127.0.0.1", Err("PT-0719"));
        check("nothing", Err("PT-0719"));
    }

    #[test]
    fn a_token_file_is_read_anew_and_holds_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let uri = broker_uri("http://127.0.0.1:1").unwrap();
        let login = Login::find(&uri, None, Some(path.clone())).unwrap();
        assert!(login.token().is_err());
        std::fs::write(&path, "a.b.c\n").unwrap();
        assert_eq!(login.token().unwrap().unwrap().as_str(), "a.b.c");
        std::fs::write(&path, "two tokens").unwrap();
        assert!(login.token().is_err());
    }
}
