//! A person's sign-in at an OpenID Connect issuer: what is asked, what comes back, and what it is worth.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use protem_verify::codes::tool;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::cli::web::{Web, never_in_the_clear};
use crate::cli::welcome::PeopleIssuer;
use crate::fetch::client::encode;

/// What an issuer says of itself (OpenID Connect Discovery §3).
#[derive(Clone, Debug, Deserialize)]
pub struct Provider {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    revocation_endpoint: Option<String>,
    scopes_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    claims_parameter_supported: bool,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// One sign-in: what only its own answer can know.
pub struct Attempt {
    state: String,
    nonce: String,
    verifier: Zeroizing<String>,
    redirect: String,
}

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

/// What came back to the redirect.
#[derive(Debug)]
pub enum Answer {
    /// Not of this sign-in: it is answered with an error, and the wait goes on, so that no other page can end it.
    NotOurs,
    /// The code to exchange.
    Code(Zeroizing<String>),
    /// It failed.
    Failed(Failure),
}

fn broken(why: impl Into<String>) -> Failure {
    Failure::of(Exit::NotAuthenticated, tool::SIGN_IN, why)
}

impl Provider {
    /// Asks the issuer.
    ///
    /// # Errors
    /// When it cannot be reached, is another one than asked, or cannot do PKCE.
    pub async fn discover(web: &Web, issuer: &str) -> Result<Self, Failure> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let unreachable = |why: String| {
            let what = format!("the issuer `{issuer}` cannot be used");
            Failure::of(Exit::Unreachable, tool::SIGN_IN, what).because(why)
        };
        Self::read(issuer, web.get(&url, None).await.map_err(unreachable)?)
    }

    /// Reads the document that `issuer` publishes.
    ///
    /// # Errors
    /// When it is another issuer's, names what could be read on the way, or knows no PKCE.
    pub fn read(issuer: &str, document: Value) -> Result<Self, Failure> {
        let unfit = |why: serde_json::Error| {
            let what = format!("the issuer `{issuer}` cannot be used");
            Failure::of(Exit::Unreachable, tool::SIGN_IN, what).because(why.to_string())
        };
        let found: Self = serde_json::from_value(document).map_err(unfit)?;
        if found.issuer != issuer {
            return Err(broken(format!("`{issuer}` calls itself `{}`", found.issuer)));
        }
        let revocation = found.revocation_endpoint.iter();
        for url in
            [&found.authorization_endpoint, &found.token_endpoint].into_iter().chain(revocation)
        {
            never_in_the_clear(url).map_err(broken)?;
        }
        let methods = found.code_challenge_methods_supported.as_ref();
        if methods.is_some_and(|known| !known.iter().any(|method| method == "S256")) {
            return Err(broken(format!("`{issuer}` knows no PKCE with S256")));
        }
        Ok(found)
    }

    /// What is asked for: what the bundle looks at, as far as the issuer has a scope of that name, and a way to renew.
    fn scopes(&self, wanted: &[String]) -> String {
        let known = |scope: &str| match &self.scopes_supported {
            Some(known) => known.iter().any(|one| one == scope),
            None => ["email", "profile"].contains(&scope),
        };
        let of_claim = |claim: &String| match claim.as_str() {
            "name" | "nickname" | "preferred_username" => "profile".to_owned(),
            "email" | "email_verified" => "email".to_owned(),
            other => other.to_owned(),
        };
        let mut scopes = vec!["openid".to_owned()];
        let extra = ["offline_access".to_owned()];
        for scope in wanted.iter().map(of_claim).chain(extra) {
            if known(&scope) && !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes.join(" ")
    }

    /// Exchanges a code (RFC 6749 §4.1.3, RFC 7636 §4.5), and checks whose token it is. Its signature is the broker's to check:
    /// it came from the issuer's own TLS (OpenID Connect Core §3.1.3.7, 6).
    ///
    /// # Errors
    /// When the issuer refuses, or the token is not this sign-in's.
    pub async fn exchange(
        &self,
        web: &Web,
        client: &str,
        attempt: &Attempt,
        code: &str,
    ) -> Result<Tokens, Failure> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", attempt.redirect.as_str()),
            ("client_id", client),
            ("code_verifier", attempt.verifier.as_str()),
        ];
        let answer = self.asked(web, &form).await?;
        let id_token =
            text(&answer, "id_token").ok_or_else(|| broken("the issuer gave no id token"))?;
        let said = self.said(id_token, client)?;
        if said.nonce != attempt.nonce {
            return Err(broken("the id token answers another sign-in: its `nonce` is not ours"));
        }
        let refresh_token = text(&answer, "refresh_token").map(keep);
        Ok(Tokens { id_token: keep(id_token), refresh_token })
    }

    /// Gets a fresh token (RFC 6749 §6) in place of `old`.
    ///
    /// # Errors
    /// When the issuer refuses, or the token is not this client's or about somebody else than `old`.
    pub async fn refresh(
        &self,
        web: &Web,
        client: &str,
        token: &str,
        old: &str,
    ) -> Result<Renewed, Failure> {
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client)];
        self.renewed(&self.asked(web, &form).await?, client, old)
    }

    /// Reads what an issuer answers to a refresh token (OpenID Connect Core §12.2).
    fn renewed(&self, answer: &Value, client: &str, old: &str) -> Result<Renewed, Failure> {
        let id_token = text(answer, "id_token");
        if let Some(id_token) = id_token {
            let said = self.said(id_token, client)?;
            if Said::by(old).is_none_or(|old| old.sub != said.sub) {
                return Err(broken("the fresh id token is about somebody else: its `sub` changed"));
            }
        }
        let refresh_token = text(answer, "refresh_token").map(keep);
        Ok(Renewed { id_token: id_token.map(keep), refresh_token })
    }

    /// Tells the issuer that a refresh token is not needed any more (RFC 7009), where it listens.
    pub async fn forget(&self, web: &Web, client: &str, token: &str) {
        if let Some(url) = &self.revocation_endpoint {
            let form =
                [("token", token), ("token_type_hint", "refresh_token"), ("client_id", client)];
            // The token is removed here either way.
            let _ = web.post(url, &form).await;
        }
    }

    /// What the token endpoint answers when it agrees.
    async fn asked(&self, web: &Web, form: &[(&str, &str)]) -> Result<Value, Failure> {
        let unreachable = |why| {
            let what = format!("the issuer `{}` does not answer", self.issuer);
            Failure::of(Exit::Unreachable, tool::SIGN_IN, what).because(why)
        };
        let (status, answer) = web.post(&self.token_endpoint, form).await.map_err(unreachable)?;
        if status >= 500 {
            return Err(unreachable(format!("it answered {status}")));
        }
        if status != 200 {
            let why = text(&answer, "error_description").unwrap_or_default();
            let error = text(&answer, "error").unwrap_or("no");
            let what = format!("`{}` said `{error}`: {why}", self.issuer);
            return Err(Failure::of(Exit::NotAuthenticated, tool::SIGN_IN_REFUSED, what));
        }
        Ok(answer)
    }

    /// What a token of this issuer for this client says.
    fn said(&self, id_token: &str, client: &str) -> Result<Said, Failure> {
        let said = Said::by(id_token).ok_or_else(|| broken("the id token cannot be read"))?;
        if said.iss != self.issuer || !said.is_for(client) {
            return Err(broken(format!("the id token is not of `{}` for `{client}`", self.issuer)));
        }
        Ok(said)
    }
}

fn text<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    answer.get(name).and_then(Value::as_str)
}

fn keep(token: &str) -> Zeroizing<String> {
    Zeroizing::new(token.to_owned())
}

impl Attempt {
    /// With fresh secrets, to come back at `redirect`.
    #[must_use]
    pub fn new(redirect: String) -> Self {
        let fresh = || BASE64URL_NOPAD.encode(&random::bytes::<32>());
        Self { state: fresh(), nonce: fresh(), verifier: Zeroizing::new(fresh()), redirect }
    }

    /// The page to open (OpenID Connect Core §3.1.2.1, RFC 7636 §4.3).
    #[must_use]
    pub fn url(&self, provider: &Provider, issuer: &PeopleIssuer) -> String {
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(self.verifier.as_bytes()));
        let mut asked = vec![
            ("response_type", "code".to_owned()),
            ("client_id", issuer.client_id.clone()),
            ("redirect_uri", self.redirect.clone()),
            ("scope", provider.scopes(&issuer.claims)),
            ("state", self.state.clone()),
            ("nonce", self.nonce.clone()),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256".to_owned()),
        ];
        if provider.claims_parameter_supported {
            // Many issuers keep claims out of id tokens unless asked to put them there (OpenID Connect Core §5.5).
            let verified =
                (issuer.claims.iter().any(|claim| claim == "email")).then_some("email_verified");
            let claims = issuer.claims.iter().map(String::as_str).chain(verified);
            let wanted: Map<String, Value> =
                claims.map(|claim| (claim.to_owned(), Value::Null)).collect();
            asked.push(("claims", json!({ "id_token": wanted }).to_string()));
        }
        let asked: Vec<String> =
            asked.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let url = &provider.authorization_endpoint;
        format!("{url}{}{}", if url.contains('?') { '&' } else { '?' }, asked.join("&"))
    }

    /// Reads what came back (RFC 6749 §4.1.2, RFC 9207 §2.4).
    #[must_use]
    pub fn answer(&self, provider: &Provider, query: &[(String, String)]) -> Answer {
        let one = |name: &str| {
            let mut found =
                query.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
            // A parameter that stands twice is read as another one by another reader.
            found.next().filter(|_| found.next().is_none())
        };
        if one("state") != Some(self.state.as_str()) {
            return Answer::NotOurs;
        }
        let iss = query.iter().any(|(name, _)| name == "iss");
        let must = provider.authorization_response_iss_parameter_supported;
        if (iss || must) && one("iss") != Some(provider.issuer.as_str()) {
            return Answer::Failed(broken("the answer came from another issuer than was asked"));
        }
        if query.iter().any(|(name, _)| name == "error") {
            let why = one("error_description").unwrap_or_default();
            let what =
                format!("`{}` said `{}`: {why}", provider.issuer, one("error").unwrap_or("?"));
            return Answer::Failed(Failure::of(
                Exit::NotAuthenticated,
                tool::SIGN_IN_REFUSED,
                what,
            ));
        }
        match one("code") {
            Some(code) => Answer::Code(Zeroizing::new(code.to_owned())),
            None => Answer::Failed(broken("the answer holds neither one code nor an error")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Provider {
        Provider {
            issuer: "https://idp".into(),
            authorization_endpoint: "https://idp/auth".into(),
            token_endpoint: "https://idp/token".into(),
            revocation_endpoint: None,
            scopes_supported: None,
            code_challenge_methods_supported: None,
            claims_parameter_supported: true,
            authorization_response_iss_parameter_supported: true,
        }
    }

    fn attempt() -> Attempt {
        // The verifier of RFC 7636, Appendix B.
        let verifier = Zeroizing::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned());
        let redirect = "http://127.0.0.1:1/callback".to_owned();
        Attempt { state: "s".into(), nonce: "n".into(), verifier, redirect }
    }

    #[track_caller]
    fn check(query: &str, expect: &str) {
        let query: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let found = match attempt().answer(&provider(), &query) {
            Answer::NotOurs => "not ours".to_owned(),
            Answer::Code(code) => format!("code {}", code.as_str()),
            Answer::Failed(failure) => failure.code,
        };
        assert_eq!(found, expect, "{query:?}");
    }

    #[test]
    fn an_answer_must_be_of_this_sign_in_and_of_this_issuer() {
        check("state=s&iss=https://idp&code=c", "code c");
        check("state=t&iss=https://idp&code=c", "not ours");
        check("iss=https://idp&code=c", "not ours");
        check("state=s&state=s&iss=https://idp&code=c", "not ours");
        check("state=s&iss=https://evil&code=c", "PT-0730");
        check("state=s&iss=https://idp/&code=c", "PT-0730");
        check("state=s&code=c", "PT-0730");
        check("state=s&iss=https://idp&iss=https://idp&code=c", "PT-0730");
        check("state=s&iss=https://idp&code=c&code=d", "PT-0730");
        check("state=s&iss=https://idp", "PT-0730");
        check("state=s&iss=https://idp&error=access_denied", "PT-0731");
        check("state=s&iss=https://idp&error=access_denied&code=c", "PT-0731");
        check("state=t&iss=https://idp&error=access_denied", "not ours");
    }

    #[test]
    fn a_renewal_is_about_the_same_person_and_may_bring_one_token_alone() {
        let token = |sub: &str| {
            let claims = json!({"iss": "https://idp", "aud": "c", "sub": sub, "exp": 9});
            format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()))
        };
        let renewed = |answer: Value| provider().renewed(&answer, "c", &token("alice"));
        let both = renewed(json!({"id_token": token("alice"), "refresh_token": "r2"})).unwrap();
        assert_eq!(both.id_token.unwrap().as_str(), token("alice"));
        let one = renewed(json!({"access_token": "a", "refresh_token": "r2"})).unwrap();
        assert!(one.id_token.is_none());
        assert_eq!(one.refresh_token.unwrap().as_str(), "r2");
        let other = renewed(json!({"id_token": token("mallory"), "refresh_token": "r2"}));
        assert_eq!(other.unwrap_err().code, "PT-0730");
    }

    #[test]
    fn the_page_is_asked_for_what_the_bundle_looks_at() {
        let issuer = PeopleIssuer {
            name: "corp".into(),
            issuer: "https://idp".into(),
            client_id: "protem people".into(),
            claims: vec!["email".into(), "groups".into()],
        };
        let url = attempt().url(&provider(), &issuer);
        for part in [
            "https://idp/auth?response_type=code&client_id=protem%20people&",
            "&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback&scope=openid%20email&",
            "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256",
            "email_verified",
        ] {
            assert!(url.contains(part), "{part} in {url}");
        }
        let known = Some(vec!["groups".into(), "offline_access".into()]);
        let knowing = Provider { scopes_supported: known, ..provider() };
        assert_eq!(knowing.scopes(&issuer.claims), "openid groups offline_access");
    }
}
