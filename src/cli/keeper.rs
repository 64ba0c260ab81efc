//! The sign-in that `protem auth login` keeps: a file for each broker, and a fresh token before the old one ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::cli::oidc::{Renewed, Tokens, forget, refresh};
use crate::cli::private_file::{make_folder, read_private, write_private};
use crate::cli::token::base;
use crate::fetch::web::Web;
use crate::serve::oidc::{PeopleIssuer, Provider};

/// The sign-in at one broker.
pub struct Keeper {
    path: PathBuf,
    web: Web,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    /// The broker, for people who look into the file.
    pub broker: String,
    /// The issuer's name in the bundle.
    pub name: String,
    /// Its `iss`.
    pub issuer: String,
    /// The client.
    pub client_id: String,
    id_token: String,
    refresh_token: Option<String>,
    /// How many seconds the issuer's clock was ahead of this machine's when it made the token; never less than zero, as a
    /// token may be older than the answer that brings it.
    #[serde(default)]
    ahead: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.id_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// Where the sign-in at a broker is kept: `$XDG_STATE_HOME/protem/login/`.
#[must_use]
pub fn place(state: &Path, broker: &Uri) -> PathBuf {
    let name = HEXLOWER.encode(&Sha256::digest(base(broker).as_bytes()));
    state.join("protem/login").join(format!("{name}.json"))
}

impl Keeper {
    /// For a broker, in the user's own state folder.
    #[must_use]
    pub fn of(broker: &Uri, web: Web) -> Self {
        Self { path: place(&crate::cli::dev_key::state(), broker), web }
    }

    /// Whether there is a sign-in.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.path.is_file()
    }

    /// Where it comes from, in words.
    #[must_use]
    pub fn source(&self) -> String {
        match self.read() {
            Ok(Some(kept)) => format!("`protem auth login` at `{}` ({})", kept.name, kept.issuer),
            Ok(None) | Err(_) => "`protem auth login`".to_owned(),
        }
    }

    /// Keeps a sign-in, in place of an earlier one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(
        &self,
        broker: &Uri,
        issuer: &PeopleIssuer,
        tokens: &Tokens,
    ) -> Result<(), Failure> {
        if let Some(folder) = self.path.parent() {
            make_folder(folder)?;
        }
        self.write(&Kept {
            broker: base(broker),
            name: issuer.name.clone(),
            issuer: issuer.issuer.clone(),
            client_id: issuer.client_id.clone(),
            id_token: tokens.id_token.as_str().to_owned(),
            refresh_token: tokens.refresh_token.as_ref().map(|token| token.as_str().to_owned()),
            ahead: ahead(&tokens.id_token, SystemClock.unix()),
        })
    }

    /// Forgets the sign-in, here and, where the issuer listens, there. Tells whether there was one.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub async fn forget(&self) -> Result<bool, Failure> {
        // A file that cannot be read is removed all the same.
        let kept = self.read().unwrap_or_default();
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(why) => return Err(Failure::file(&self.path, &why)),
        }
        if let Some(kept) = kept
            && let Some(token) = &kept.refresh_token
            && let Ok(provider) = Provider::discover(&self.web, &kept.issuer).await
        {
            forget(&provider, &self.web, &kept.client_id, token).await;
        }
        Ok(true)
    }

    /// A token that has not ended.
    ///
    /// # Errors
    /// When it has, and cannot be renewed.
    pub async fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let kept = self.read()?.ok_or_else(|| over("nobody is signed in"))?;
        if kept.left() == Left::Enough {
            return Ok(Zeroizing::new(kept.id_token.clone()));
        }
        // Two that renew at once would show the same refresh token twice, which issuers take for theft.
        let _lock = self.lock().await?;
        let mut kept = self.read()?.ok_or_else(|| over("nobody is signed in"))?;
        let left = kept.left();
        if left == Left::Enough {
            return Ok(Zeroizing::new(kept.id_token.clone()));
        }
        match self.renewed(&kept).await {
            Ok(renewed) => {
                let fresh = kept.take(renewed, SystemClock.unix());
                // What was shown may be void by now: its successor is kept in any case.
                self.write(&kept)?;
                if !fresh && left == Left::Nothing {
                    return Err(over("the token has expired, and the issuer gave no fresh one"));
                }
                Ok(Zeroizing::new(kept.id_token.clone()))
            }
            Err(_) if left == Left::Little => Ok(Zeroizing::new(kept.id_token.clone())),
            Err(why) => Err(why),
        }
    }

    async fn renewed(&self, kept: &Kept) -> Result<Renewed, Failure> {
        let Some(token) = &kept.refresh_token else {
            return Err(over(
                "the token has expired, and the issuer gave nothing to renew it with",
            ));
        };
        let provider = Provider::discover(&self.web, &kept.issuer).await?;
        let refused = |why: Failure| match why.code == tool::SIGN_IN_REFUSED.id {
            true => over(&why.what),
            false => why,
        };
        let (client, old) = (&kept.client_id, &kept.id_token);
        refresh(&provider, &self.web, client, token, old).await.map_err(refused)
    }

    fn read(&self) -> Result<Option<Kept>, Failure> {
        let Some(text) = read_private(&self.path, KEPT_MAX)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|_| over("what was kept cannot be read"))
    }

    fn write(&self, kept: &Kept) -> Result<(), Failure> {
        let text = Zeroizing::new(serde_json::to_vec(kept).unwrap_or_default());
        write_private(&self.path, &text)
    }

    /// One process at a time renews; it lasts as long as what is returned.
    async fn lock(&self) -> Result<std::fs::File, Failure> {
        let path = self.path.with_extension("lock");
        let bad = |why: std::io::Error| Failure::file(&path, &why);
        let file = std::fs::File::create(&path).map_err(bad)?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(std::fs::TryLockError::Error(why)) => return Err(bad(why)),
            }
        }
        Err(bad(std::io::Error::from(std::io::ErrorKind::TimedOut)))
    }
}

/// How much of a token's life is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Enough,
    /// It is time for another, and this one still counts.
    Little,
    Nothing,
}

impl Kept {
    fn left(&self) -> Left {
        let now = SystemClock.unix().saturating_add(Duration::from_secs(self.ahead));
        left(&self.id_token, now)
    }

    /// Takes over what a renewal brought. Whether there is a fresh token.
    fn take(&mut self, renewed: Renewed, now: Duration) -> bool {
        if let Some(token) = renewed.refresh_token {
            self.refresh_token.zeroize();
            self.refresh_token = Some(token.as_str().to_owned());
        }
        let Some(token) = renewed.id_token else { return false };
        self.ahead = ahead(&token, now);
        self.id_token.zeroize();
        self.id_token = token.as_str().to_owned();
        true
    }
}

/// By how much this machine's clock is surely slow: nobody makes a token that is from the future.
fn ahead(token: &str, now: Duration) -> u64 {
    Said::by(token).map_or(0, |said| said.iat.saturating_sub(now.as_secs()))
}

fn left(token: &str, now: Duration) -> Left {
    let Some(said) = Said::by(token) else { return Left::Nothing };
    let end = Duration::from_secs(said.exp);
    if now.saturating_add(said.margin()) < end {
        Left::Enough
    } else if now < end {
        Left::Little
    } else {
        Left::Nothing
    }
}

fn over(why: &str) -> Failure {
    Failure::of(Exit::NotAuthenticated, tool::SIGN_IN_OVER, why)
}

/// Two tokens of 8 KiB each and some names.
const KEPT_MAX: u64 = 64 * 1024;
/// A renewal takes two exchanges of at most 10 s; who waits for another's waits a little longer.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    fn token(iat: u64, exp: u64) -> String {
        let claims = format!("{{\"iat\":{iat},\"exp\":{exp}}}");
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    fn kept() -> Kept {
        Kept {
            broker: String::new(),
            name: String::new(),
            issuer: String::new(),
            client_id: String::new(),
            id_token: token(1_000, 1_300),
            refresh_token: Some("r1".to_owned()),
            ahead: 0,
        }
    }

    /// A token of 300 s, taken when our clock showed `taken` and looked at when it shows `now`.
    #[track_caller]
    fn check(taken: u64, now: u64, expect: Left) {
        let token = token(1_000, 1_300);
        let ahead = ahead(&token, Duration::from_secs(taken));
        assert_eq!(left(&token, Duration::from_secs(now + ahead)), expect, "{taken} {now}");
    }

    #[test]
    fn a_slow_clock_does_not_take_a_dead_token_for_a_live_one() {
        check(1_000, 1_100, Left::Enough);
        check(1_000, 1_280, Left::Little);
        check(1_000, 1_300, Left::Nothing);
        // Ten minutes slow.
        check(400, 500, Left::Enough);
        check(400, 700, Left::Nothing);
        // A token that was made long before it was handed out lives no longer for it.
        check(1_200, 1_300, Left::Nothing);
    }

    #[test]
    fn a_rotated_refresh_token_is_kept_also_without_an_id_token() {
        let mut kept = kept();
        let rotated = Some(Zeroizing::new("r2".to_owned()));
        let renewed = Renewed { id_token: None, refresh_token: rotated };
        assert!(!kept.take(renewed, Duration::from_secs(1_290)));
        assert_eq!(kept.refresh_token.as_deref(), Some("r2"));
        let fresh = Some(Zeroizing::new(token(1_290, 1_590)));
        let renewed = Renewed { id_token: fresh, refresh_token: None };
        assert!(kept.take(renewed, Duration::from_secs(1_200)));
        assert_eq!((kept.ahead, kept.refresh_token.as_deref()), (90, Some("r2")));
    }
}
