//! What a token says of itself, read without verifying: the broker verifies, and this is for ourselves.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::Value;

/// The claims that matter to the one who presents a token.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Said {
    /// Who made it.
    #[serde(default)]
    pub iss: String,
    /// About whom.
    #[serde(default)]
    pub sub: String,
    /// For whom.
    #[serde(default)]
    pub aud: Value,
    /// To which of several it was given.
    pub azp: Option<String>,
    /// Which sign-in it answers.
    #[serde(default)]
    pub nonce: String,
    /// When it ends, in Unix seconds.
    pub exp: u64,
    /// When it was made, in Unix seconds.
    #[serde(default)]
    pub iat: u64,
}

impl Said {
    /// Reads a compact JWT's payload; none when it is no JWT with an end.
    #[must_use]
    pub fn by(token: &str) -> Option<Self> {
        let (signed, _) = token.rsplit_once('.')?;
        let (_, payload) = signed.split_once('.')?;
        serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
    }

    /// Whether it is for `client` (OpenID Connect Core §3.1.3.7, 3 to 5).
    #[must_use]
    pub fn is_for(&self, client: &str) -> bool {
        let listed = match &self.aud {
            Value::String(one) => one == client,
            Value::Array(many) => many.iter().any(|one| one == client),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        listed && self.azp.as_deref().is_none_or(|azp| azp == client)
    }

    /// How long it lives in all.
    #[must_use]
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.exp.saturating_sub(self.iat))
    }

    /// How long before its end it is replaced: half a minute for the way and for clocks that differ, less of a short life.
    #[must_use]
    pub fn margin(&self) -> Duration {
        (self.life() / 4).min(Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(claims: &Value, client: &str, expect: bool) {
        let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        let said = Said::by(&format!("e30.{payload}.c2ln")).unwrap();
        assert_eq!(said.is_for(client), expect, "{claims}");
    }

    #[test]
    fn a_token_is_for_its_audience() {
        check(&json!({"exp": 1, "aud": "a"}), "a", true);
        check(&json!({"exp": 1, "aud": ["b", "a"], "azp": "a"}), "a", true);
        check(&json!({"exp": 1, "aud": ["b", "a"], "azp": "b"}), "a", false);
        check(&json!({"exp": 1, "aud": "ab"}), "a", false);
        check(&json!({"exp": 1}), "a", false);
        assert!(Said::by("a.b").is_none() && Said::by("e30.e30.e30").is_none());
    }

    #[test]
    fn a_short_life_has_a_short_margin() {
        let said = |life: u64| Said { iat: 100, exp: 100 + life, ..Said::default() };
        assert_eq!(said(4).margin(), Duration::from_secs(1));
        assert_eq!(said(3_600).margin(), Duration::from_secs(30));
    }
}
