//! What a sign-in in a terminal is worth: the tokens that the command line keeps, and how they are renewed.

use std::fmt;

use protem_verify::codes::tool;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::fetch::web::Web;
use crate::serve::oidc::{Attempt, Failed, Provider, text};

/// What a sign-in is worth.
pub struct Tokens {
    /// The token that the broker is shown.
    pub id_token: Zeroizing<String>,
    /// With which a fresh one is got, where the issuer gives one.
    pub refresh_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// What a renewal brought: an issuer may leave out either (OpenID Connect Core §12.2, RFC 6749 §6).
pub struct Renewed {
    /// A fresh token.
    pub id_token: Option<Zeroizing<String>>,
    /// What takes the place of the refresh token that was shown, which may be void by now.
    pub refresh_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed(…)")
    }
}

fn broken(why: impl Into<String>) -> Failure {
    Failure::of(Exit::NotAuthenticated, tool::SIGN_IN, why)
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(what, why) => {
                Self::of(Exit::Unreachable, tool::SIGN_IN, what).because(why)
            }
            Failed::Refused(what) => Self::of(Exit::NotAuthenticated, tool::SIGN_IN_REFUSED, what),
            Failed::Broken(what) => broken(what),
        }
    }
}

/// Exchanges a code (RFC 6749 §4.1.3, RFC 7636 §4.5), and checks whose token it is. Its signature is the broker's to check:
/// it came from the issuer's own TLS (OpenID Connect Core §3.1.3.7, 6).
///
/// # Errors
/// When the issuer refuses, or the token is not this sign-in's.
pub async fn exchange(
    provider: &Provider,
    web: &Web,
    client: &str,
    attempt: &Attempt,
    code: &str,
) -> Result<Tokens, Failure> {
    signed_in(
        provider,
        &provider.asked(web, &attempt.exchange(client, code)).await?,
        client,
        attempt,
    )
}

/// Reads what an issuer answers to a code (OpenID Connect Core §3.1.3.3, §3.1.3.7).
fn signed_in(
    provider: &Provider,
    answer: &Value,
    client: &str,
    attempt: &Attempt,
) -> Result<Tokens, Failure> {
    let id_token = text(answer, "id_token").ok_or_else(|| broken("the issuer gave no id token"))?;
    let said = said(provider, id_token, client)?;
    if said.nonce != attempt.nonce() {
        return Err(broken("the id token answers another sign-in: its `nonce` is not ours"));
    }
    let refresh_token = text(answer, "refresh_token").map(keep);
    Ok(Tokens { id_token: keep(id_token), refresh_token })
}

/// Gets a fresh token (RFC 6749 §6) in place of `old`.
///
/// # Errors
/// When the issuer refuses, or the token is not this client's or about somebody else than `old`.
pub async fn refresh(
    provider: &Provider,
    web: &Web,
    client: &str,
    token: &str,
    old: &str,
) -> Result<Renewed, Failure> {
    let form = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client)];
    renewed(provider, &provider.asked(web, &form).await?, client, old)
}

/// Reads what an issuer answers to a refresh token (OpenID Connect Core §12.2).
fn renewed(
    provider: &Provider,
    answer: &Value,
    client: &str,
    old: &str,
) -> Result<Renewed, Failure> {
    let id_token = text(answer, "id_token");
    if let Some(id_token) = id_token {
        let said = said(provider, id_token, client)?;
        if Said::by(old).is_none_or(|old| old.sub != said.sub) {
            return Err(broken("the fresh id token is about somebody else: its `sub` changed"));
        }
    }
    let refresh_token = text(answer, "refresh_token").map(keep);
    Ok(Renewed { id_token: id_token.map(keep), refresh_token })
}

/// Tells the issuer that a refresh token is not needed any more (RFC 7009), where it listens.
pub async fn forget(provider: &Provider, web: &Web, client: &str, token: &str) {
    if let Some(url) = provider.revocation_endpoint() {
        let form = [("token", token), ("token_type_hint", "refresh_token"), ("client_id", client)];
        // The token is removed here either way.
        let _ = web.post(url, &form).await;
    }
}

/// What a token of this issuer for this client says.
fn said(provider: &Provider, id_token: &str, client: &str) -> Result<Said, Failure> {
    let said = Said::by(id_token).ok_or_else(|| broken("the id token cannot be read"))?;
    if said.iss != provider.issuer() || !said.is_for(client) {
        return Err(broken(format!(
            "the id token is not of `{}` for `{client}`",
            provider.issuer()
        )));
    }
    Ok(said)
}

fn keep(token: &str) -> Zeroizing<String> {
    Zeroizing::new(token.to_owned())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::json;

    use super::*;

    fn provider() -> Provider {
        let about = json!({"issuer": "https://idp", "authorization_endpoint": "https://idp/auth", "token_endpoint": "https://idp/token"});
        Provider::read("https://idp", about).unwrap()
    }

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()))
    }

    /// What an id token must be about, whether it comes by a code or by a renewal; `spoilt`: claims replaced by a lying issuer.
    #[track_caller]
    fn check(spoilt: &Value, by_code: bool, by_renewal: bool) {
        let attempt = Attempt::new("http://127.0.0.1:1/callback".into());
        let mut claims = json!({"iss": "https://idp", "aud": "c", "sub": "alice", "exp": 9, "nonce": attempt.nonce()});
        let old = token(&claims);
        for (name, value) in spoilt.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let answer = json!({"id_token": token(&claims), "refresh_token": "r"});
        let told = |failed: Failure| failed.code;
        let expect = |fine: bool| if fine { Ok(()) } else { Err("PT-0730".to_owned()) };
        let found = signed_in(&provider(), &answer, "c", &attempt).map(drop).map_err(told);
        assert_eq!(found, expect(by_code), "by code: {spoilt}");
        let found = renewed(&provider(), &answer, "c", &old).map(drop).map_err(told);
        assert_eq!(found, expect(by_renewal), "renewed: {spoilt}");
    }

    #[test]
    fn attack_an_issuer_gives_a_token_of_another_sign_in_issuer_or_client() {
        check(&json!({}), true, true);
        check(&json!({"aud": ["b", "c"], "azp": "c"}), true, true);
        // A token that somebody else got, or got before: a code was put in place of ours.
        for nonce in [json!("another"), json!(""), json!(null)] {
            // A renewal answers no page: no `nonce` of its own is waited for, but one that is no text makes no token.
            check(&json!({"nonce": nonce}), false, nonce.is_string());
        }
        for iss in ["https://evil", "https://idp/", "", "HTTPS://IDP"] {
            check(&json!({"iss": iss}), false, false);
        }
        for aud in [json!("d"), json!([]), json!(["d"]), json!(null), json!({"c": 1})] {
            check(&json!({"aud": aud}), false, false);
        }
        check(&json!({"aud": ["b", "c"], "azp": "b"}), false, false);
        // A renewal stays about the same person; a sign-in may be about anybody.
        check(&json!({"sub": "mallory"}), true, false);
    }

    #[test]
    fn a_sign_in_without_an_id_token_is_none() {
        let attempt = Attempt::new("http://127.0.0.1:1/callback".into());
        for answer in
            [json!({"access_token": "a"}), json!({"id_token": 1}), json!({"id_token": "a.b"})]
        {
            let found = signed_in(&provider(), &answer, "c", &attempt);
            assert_eq!(found.unwrap_err().code, "PT-0730", "{answer}");
        }
    }

    #[test]
    fn a_renewal_is_about_the_same_person_and_may_bring_one_token_alone() {
        let token =
            |sub: &str| token(&json!({"iss": "https://idp", "aud": "c", "sub": sub, "exp": 9}));
        let provider = provider();
        let fresh = |answer: Value| renewed(&provider, &answer, "c", &token("alice"));
        let both = fresh(json!({"id_token": token("alice"), "refresh_token": "r2"})).unwrap();
        assert_eq!(both.id_token.unwrap().as_str(), token("alice"));
        let one = fresh(json!({"access_token": "a", "refresh_token": "r2"})).unwrap();
        assert!(one.id_token.is_none());
        assert_eq!(one.refresh_token.unwrap().as_str(), "r2");
        let other = fresh(json!({"id_token": token("mallory"), "refresh_token": "r2"}));
        assert_eq!(other.unwrap_err().code, "PT-0730");
    }
}
