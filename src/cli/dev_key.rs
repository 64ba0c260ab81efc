//! The key that `protem dev` and `protem demo` trust: a file only its own user can read; the command line signs with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signer, SigningKey};
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_private::file::{self, Readers, Unfit};
use protem_verify::codes::tool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::private_file::{make_folder, write_private};
use crate::serve::ui::limits::TICKET_LIFE;
use crate::serve::ui::ticket::{UNTIL, audience};

/// The issuer of development tokens.
pub const ISSUER: &str = "protem-dev";
/// How long a development token lives: longer than a coffee, shorter than a day. Streams reconnect with a fresh one.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// The development key of one broker.
pub struct DevKey {
    key: SigningKey,
    names: Names,
}

/// What a signer must know of the broker: whom it signs to, and which names of the bundle are no identities.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// The broker's issuer: the audience of what is signed.
    pub issuer: String,
    /// Gateways.
    pub gateways: Vec<String>,
    /// Persons.
    pub people: Vec<String>,
}

impl fmt::Debug for DevKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevKey(…)")
    }
}

/// Where state is kept: `$XDG_STATE_HOME`, else `~/.local/state`.
#[must_use]
pub fn state() -> PathBuf {
    let home = || std::env::home_dir().unwrap_or_default().join(".local/state");
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty());
    state.map_or_else(home, PathBuf::from)
}

/// The folder of the broker at `port`: `$XDG_STATE_HOME/protem/dev/PORT`.
#[must_use]
pub fn folder(state: &Path, port: u16) -> PathBuf {
    state.join("protem/dev").join(port.to_string())
}

/// Makes a fresh key for the broker at `port`, replacing one of an earlier life.
///
/// # Errors
/// When the folder or file cannot be written.
pub fn make(port: u16, names: &Names) -> Result<DevKey, Failure> {
    let folder = folder(&state(), port);
    make_folder(&folder)?;
    let seed = Zeroizing::new(random::bytes::<32>());
    let text = Zeroizing::new(HEXLOWER.encode(seed.as_slice()));
    write_private(&folder.join(KEY), text.as_bytes())?;
    let known = serde_json::to_vec(names).unwrap_or_default();
    write_private(&folder.join(NAMES), &known)?;
    Ok(DevKey { key: SigningKey::from_bytes(&seed), names: names.clone() })
}

/// Removes what [`make`] made; a leftover does no harm, as its broker is gone.
pub fn remove(port: u16) {
    let folder = folder(&state(), port);
    let _ = std::fs::remove_file(folder.join(KEY));
    let _ = std::fs::remove_file(folder.join(NAMES));
    let _ = std::fs::remove_dir(folder);
}

/// Reads the key in the folder of the broker at `port`.
///
/// # Errors
/// When there is none, or anybody else could have read or written it.
pub fn read(state: &Path, port: u16) -> Result<DevKey, Failure> {
    let folder = folder(state, port);
    let path = folder.join(KEY);
    let bad = |what: String| Failure::of(Exit::NotAuthenticated, tool::DEV_KEY, what);
    // A key is 64 digits; more is something else.
    let text = file::read(&path, 128, Readers::Nobody).map_err(|why| {
        bad(match why {
            Unfit::File(why) if why.kind() == std::io::ErrorKind::NotFound => {
                format!("what listens at port {port} is no `protem dev` of yours")
            }
            Unfit::File(why) => format!("`{}`: {why}", path.display()),
            Unfit::Open { .. } | Unfit::Foreign(_) => {
                format!("`{}` is not a file that only you can read", path.display())
            }
        })
    })?;
    let seed = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(text.trim_ascii()).unwrap_or_default());
    let seed = <&[u8; 32]>::try_from(seed.as_slice())
        .map_err(|_| bad(format!("`{}` is no development key", path.display())))?;
    let names = std::fs::read(folder.join(NAMES)).unwrap_or_default();
    let names = serde_json::from_slice(&names).unwrap_or_default();
    Ok(DevKey { key: SigningKey::from_bytes(seed), names })
}

impl DevKey {
    /// What the broker has: its issuer, and names that are no identities.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The key set that a development broker trusts.
    #[must_use]
    pub fn jwks(&self) -> String {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": self.x(), "kid": self.kid(), "alg": "EdDSA", "use": "sig"});
        json!({ "keys": [jwk] }).to_string()
    }

    /// A token for `name`: an identity or gateway of the bundle, or `person:group,group`.
    #[must_use]
    pub fn sign(&self, name: &str) -> Zeroizing<String> {
        self.sign_for(name, TOKEN_LIFE)
    }

    /// The same for another life than usual.
    #[must_use]
    pub fn sign_for(&self, name: &str, life: Duration) -> Zeroizing<String> {
        self.signed(&self.claims(name, life))
    }

    fn claims(&self, name: &str, life: Duration) -> Map<String, Value> {
        let (who, kind, groups) = self.known_as(name);
        let now = SystemClock.unix().as_secs();
        let claims = [
            ("iss", json!(ISSUER)),
            ("sub", json!(who)),
            ("aud", json!(self.names.issuer)),
            ("iat", json!(now)),
            ("nbf", json!(now)),
            ("exp", json!(now.saturating_add(life.as_secs()))),
            ("jti", json!(HEXLOWER.encode(&random::bytes::<16>()))),
            ("protem/as", json!(who)),
            ("protem/kind", json!(kind)),
            ("groups", json!(groups)),
        ];
        claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn signed(&self, claims: &Map<String, Value>) -> Zeroizing<String> {
        let head = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid()}).to_string();
        let claims = serde_json::to_string(claims).unwrap_or_default();
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.key.sign(signed.as_bytes());
        Zeroizing::new(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes())))
    }

    /// What signs a person in to the page once, within minutes, for as long as a token lives.
    #[must_use]
    pub fn ticket(&self, name: &str) -> Zeroizing<String> {
        let until = SystemClock.unix().saturating_add(TOKEN_LIFE).as_secs();
        let mut claims = self.claims(name, TICKET_LIFE);
        claims.insert("aud".to_owned(), json!(audience(&self.names.issuer)));
        claims.insert(UNTIL.to_owned(), json!(until));
        self.signed(&claims)
    }

    /// Whether a name is a person's.
    #[must_use]
    pub fn is_person(&self, name: &str) -> bool {
        self.known_as(name).1 == "person"
    }

    fn known_as<'a>(&self, name: &'a str) -> (&'a str, &'static str, Vec<&'a str>) {
        let known = |names: &[String]| names.iter().any(|known| known == name);
        match name.split_once(':') {
            Some((who, groups)) => {
                (who, "person", groups.split(',').filter(|group| !group.is_empty()).collect())
            }
            None if known(&self.names.gateways) => (name, "gateway", Vec::new()),
            None if known(&self.names.people) => (name, "person", Vec::new()),
            None => (name, "identity", Vec::new()),
        }
    }

    fn x(&self) -> String {
        BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes())
    }

    /// RFC 7638's thumbprint.
    #[must_use]
    pub fn kid(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        BASE64URL_NOPAD.encode(&Sha256::digest(members.as_bytes()))
    }
}

const KEY: &str = "key";
const NAMES: &str = "names.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DevKey {
        let names = Names {
            issuer: "http://127.0.0.1:1".into(),
            gateways: vec!["edge".into()],
            people: vec!["alice".into()],
        };
        DevKey { key: SigningKey::from_bytes(&[7; 32]), names }
    }

    #[track_caller]
    fn check(name: &str, who: &str, kind: &str, groups: &[&str]) {
        let token = key().sign(name);
        let body = token.split('.').nth(1).unwrap();
        let body = BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
        let claims: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&claims["sub"], &claims["protem/kind"]), (&json!(who), &json!(kind)));
        assert_eq!(claims["aud"], "http://127.0.0.1:1");
        assert_eq!(claims["groups"], json!(groups));
    }

    #[test]
    fn a_name_tells_what_it_is_of() {
        check("payments/agent", "payments/agent", "identity", &[]);
        check("edge", "edge", "gateway", &[]);
        check("alice", "alice", "person", &[]);
        check("bob:a,b", "bob", "person", &["a", "b"]);
        check("bob:", "bob", "person", &[]);
    }
}
