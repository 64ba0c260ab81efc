//! A person's sign-in at an OpenID Connect issuer, as far as it is the same in a terminal and on the page: what is asked, and
//! what comes back.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::fetch::client::encode;
use crate::fetch::web::{Web, never_in_the_clear};

/// An issuer where people sign in.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PeopleIssuer {
    /// Its name in the bundle.
    pub name: String,
    /// Its `iss`.
    pub issuer: String,
    /// The client that people sign in as, and the audience of their tokens.
    pub client_id: String,
    /// What the bundle looks at in a person's token.
    pub claims: Vec<String>,
}

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

/// What came back to the redirect.
#[derive(Debug)]
pub enum Answer {
    /// Not of this sign-in: it is answered with an error, and the wait goes on, so that no other page can end it.
    NotOurs,
    /// The code to exchange.
    Code(Zeroizing<String>),
    /// It failed.
    Failed(Failed),
}

/// Why a sign-in failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The issuer cannot be reached or used, and why.
    Unreachable(String, String),
    /// It refused, in its own words.
    Refused(String),
    /// What came back is not what was asked for.
    Broken(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(what, why) => write!(f, "{what}: {why}"),
            Self::Refused(what) | Self::Broken(what) => f.write_str(what),
        }
    }
}

fn broken(why: impl Into<String>) -> Failed {
    Failed::Broken(why.into())
}

impl Provider {
    /// Asks the issuer.
    ///
    /// # Errors
    /// When it cannot be reached, is another one than asked, or cannot do PKCE.
    pub async fn discover(web: &Web, issuer: &str) -> Result<Self, Failed> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let unreachable =
            |why: String| Failed::Unreachable(format!("the issuer `{issuer}` cannot be used"), why);
        Self::read(issuer, web.get(&url, None).await.map_err(unreachable)?)
    }

    /// Reads the document that `issuer` publishes.
    ///
    /// # Errors
    /// When it is another issuer's, names what could be read on the way, or knows no PKCE.
    pub fn read(issuer: &str, document: Value) -> Result<Self, Failed> {
        let unfit = |why: serde_json::Error| {
            let what = format!("the issuer `{issuer}` cannot be used");
            Failed::Unreachable(what, why.to_string())
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

    /// What the token endpoint answers when it agrees.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn asked(&self, web: &Web, form: &[(&str, &str)]) -> Result<Value, Failed> {
        let unreachable =
            |why| Failed::Unreachable(format!("the issuer `{}` does not answer", self.issuer), why);
        let (status, answer) = web.post(&self.token_endpoint, form).await.map_err(unreachable)?;
        if status >= 500 {
            return Err(unreachable(format!("it answered {status}")));
        }
        if status != 200 {
            let why = text(&answer, "error_description").unwrap_or_default();
            let error = text(&answer, "error").unwrap_or("no");
            let what = format!("`{}` said `{error}`: {why}", self.issuer);
            return Err(Failed::Refused(what));
        }
        Ok(answer)
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where it is told that a refresh token is not needed any more, if anywhere.
    #[must_use]
    pub fn revocation_endpoint(&self) -> Option<&str> {
        self.revocation_endpoint.as_deref()
    }
}

/// A member of an answer that is a text.
#[must_use]
pub fn text<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    answer.get(name).and_then(Value::as_str)
}

impl Attempt {
    /// With fresh secrets, to come back at `redirect`.
    #[must_use]
    pub fn new(redirect: String) -> Self {
        let fresh = || BASE64URL_NOPAD.encode(&random::bytes::<32>());
        Self { state: fresh(), nonce: fresh(), verifier: Zeroizing::new(fresh()), redirect }
    }

    /// What exchanges the code (RFC 6749 §4.1.3, RFC 7636 §4.5).
    #[must_use]
    pub fn exchange<'a>(&'a self, client: &'a str, code: &'a str) -> [(&'a str, &'a str); 5] {
        [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.redirect.as_str()),
            ("client_id", client),
            ("code_verifier", self.verifier.as_str()),
        ]
    }

    /// What its id token holds.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What its answer holds.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
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
            return Answer::Failed(Failed::Refused(what));
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
            Answer::Failed(Failed::Refused(_)) => "refused".to_owned(),
            Answer::Failed(_) => "broken".to_owned(),
        };
        assert_eq!(found, expect, "{query:?}");
    }

    /// `spoilt`: what a lying or careless issuer's document says instead.
    #[track_caller]
    fn read(spoilt: &Value, expect: Result<(), &str>) {
        let mut document = json!({
            "issuer": "https://idp",
            "authorization_endpoint": "https://idp/auth",
            "token_endpoint": "https://idp/token",
            "code_challenge_methods_supported": ["plain", "S256"],
        });
        for (name, value) in spoilt.as_object().unwrap() {
            document[name] = value.clone();
        }
        match (Provider::read("https://idp", document), expect) {
            (Ok(_), Ok(())) => {}
            (Err(Failed::Broken(why)), Err(expect)) => assert!(why.contains(expect), "{why}"),
            (found, expect) => panic!("{spoilt}: {found:?} is not {expect:?}"),
        }
    }

    #[test]
    fn attack_an_issuer_that_is_another_or_knows_no_pkce() {
        read(&json!({}), Ok(()));
        // Who answers for another issuer would have its tokens taken for that one's (RFC 8414 §3.3).
        for other in ["https://evil", "https://idp/", "https://idp.evil", "HTTPS://idp", ""] {
            read(&json!({ "issuer": other }), Err("calls itself"));
        }
        // Without S256 whoever sees a code could exchange it. An issuer that lists nothing may still know it: it gets the
        // challenge, and nothing else is ever asked for.
        for methods in [json!(["plain"]), json!([]), json!(["s256"])] {
            read(&json!({ "code_challenge_methods_supported": methods }), Err("no PKCE with S256"));
        }
        read(&json!({ "code_challenge_methods_supported": null }), Ok(()));
        for endpoint in ["authorization_endpoint", "token_endpoint", "revocation_endpoint"] {
            read(&json!({ endpoint: "http://idp.example/in-the-clear" }), Err("is not https"));
        }
    }

    #[test]
    fn an_answer_must_be_of_this_sign_in_and_of_this_issuer() {
        check("state=s&iss=https://idp&code=c", "code c");
        check("state=t&iss=https://idp&code=c", "not ours");
        check("iss=https://idp&code=c", "not ours");
        check("state=s&state=s&iss=https://idp&code=c", "not ours");
        check("state=s&iss=https://evil&code=c", "broken");
        check("state=s&iss=https://idp/&code=c", "broken");
        check("state=s&code=c", "broken");
        check("state=s&iss=https://idp&iss=https://idp&code=c", "broken");
        check("state=s&iss=https://idp&code=c&code=d", "broken");
        check("state=s&iss=https://idp", "broken");
        check("state=s&iss=https://idp&error=access_denied", "refused");
        check("state=s&iss=https://idp&error=access_denied&code=c", "refused");
        check("state=t&iss=https://idp&error=access_denied", "not ours");
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
