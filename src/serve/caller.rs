//! Who calls: one bearer token, verified, and what the bundle in force makes of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use protem_clock::clock::Clock;
use protem_verify::codes::{Code, caller};
use protem_verify::ids::Hash;
use protem_verify::spiffe::SpiffeId;
use protem_verify::time::Time;
use serde_json::Value;
use tonic::Code as Grpc;

use crate::fetch::web::Web;
use crate::policy::bundle::Bundle;
use crate::policy::login::{Caller, Claim, DEV_ISSUER, Login, NoMatch, SPIFFE_ISSUER};
use crate::serve::grounds::{Changes, Grounds, KeyPrint};
use crate::serve::issuers::{Issuers, Reach, Svids};
use crate::serve::jwt::{Keys, Kind, Rejected, Token, Trusted, Verified, reject, unreadable};
use crate::serve::limits::{FAULT_RETRY, TOKENS_REMEMBERED_MAX};
use crate::serve::status::Problem;
use crate::serve::svid::PeerCert;

/// Somebody who proved who they are; whether the bundle knows them is another matter.
#[derive(Debug)]
pub struct SignedIn {
    /// Who the bundle takes it for.
    pub who: Result<Caller, NoMatch>,
    /// What the token says.
    pub login: Arc<Login>,
    /// Its `iss`.
    pub issuer: String,
    /// When the token ends; a stream ends with it.
    pub expires: Time,
    /// The bundle that was asked; under another one it is asked again.
    pub bundle: Hash,
    /// Why it was believed.
    pub grounds: Grounds,
    /// How often something had changed when it was believed ([`Changes`]); after one more it is asked again.
    pub generation: u64,
}

impl SignedIn {
    /// The caller.
    ///
    /// # Errors
    /// When the bundle knows nobody with this login.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.who.as_ref().map_err(|no| {
            let why = format!("nobody in the bundle has this login: {}", no.why_not);
            Problem::new(Grpc::Unauthenticated, caller::NO_MATCH, why)
        })
    }
}

/// What a sign-in is judged by.
#[derive(Clone, Copy)]
pub struct Asked<'b> {
    /// The bundle in force.
    pub bundle: &'b Bundle,
    /// How often something had changed *before* that bundle was looked up ([`Changes::generation`]).
    pub generation: u64,
    /// Now.
    pub now: Time,
}

/// Verifies callers' tokens and remembers those that were good.
pub struct Door {
    issuers: Issuers,
    changes: Changes,
    remembered: Mutex<HashMap<KeyPrint, Arc<SignedIn>>>,
}

impl Door {
    /// A door for the bundle's issuers, and in development for one more, whose key only its user can read.
    #[must_use]
    pub fn new(dev: Option<Trusted>, svids: Svids, reach: Reach, clock: Arc<dyn Clock>) -> Self {
        let changes = Changes::default();
        let issuers = Issuers::new(dev, svids, reach, clock, changes.clone());
        Self { issuers, changes, remembered: Mutex::default() }
    }

    /// The development issuer, of a development broker.
    #[must_use]
    pub fn dev(&self) -> Option<&Trusted> {
        self.issuers.dev()
    }

    /// Fetches issuers' keys ahead of need; called every second or so.
    pub fn tend(&self, bundle: &Bundle) {
        self.issuers.tend(bundle);
    }

    /// Where whoever changes what sign-ins rest on says so.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Whether what was believed once would be believed again, but for its end: the same key vouches for the same audience.
    #[must_use]
    pub fn still(&self, signed_in: &SignedIn, bundle: &Bundle, now: Time) -> bool {
        match &signed_in.grounds {
            Grounds::Token { issuer, audience, key } => {
                let trusted = self.issuers.trusted(&signed_in.issuer, bundle);
                trusted.is_some_and(|(name, now)| {
                    name == *issuer && *now.audience == **audience && now.keys.hold(key)
                })
            }
            Grounds::Certificate(certificate) => certificate.check(now).is_ok(),
        }
    }

    /// The development issuer: its JWKS, and the audience its tokens must hold.
    ///
    /// # Errors
    /// When it is no JWKS.
    pub fn dev_issuer(jwks: &str, audience: &str) -> Result<Trusted, String> {
        let keys = Arc::new(Keys::parse(jwks.as_bytes())?);
        let (issuer, audience) = (DEV_ISSUER.into(), audience.into());
        Ok(Trusted { issuer, audience, keys, kind: Kind::Oidc })
    }

    /// Who sent these headers over this connection, when their token or certificate was good before and still is. No
    /// signature is looked at.
    #[must_use]
    pub fn known(
        &self,
        headers: &HeaderMap,
        peer: Option<&Arc<PeerCert>>,
        (bundle, now): (&Bundle, Time),
    ) -> Option<Arc<SignedIn>> {
        let proof = match certificate(headers, peer) {
            Some(certificate) => {
                certificate.check(now).ok()?;
                certificate.print()
            }
            None => token_print(bearer(headers).ok()?),
        };
        self.remembered(&proof, bundle.digest(), now)
    }

    /// Who sent these headers over this connection. Nothing but the one `authorization` header is looked at, and without one
    /// the certificate that the connection was opened with: identity never comes from other metadata.
    ///
    /// # Errors
    /// UNAUTHENTICATED with a code of its own for each reason.
    pub async fn sign_in(
        &self,
        headers: &HeaderMap,
        peer: Option<&Arc<PeerCert>>,
        asked: &Asked<'_>,
    ) -> Result<Arc<SignedIn>, Problem> {
        if let Some(certificate) = certificate(headers, peer) {
            return self.certified(certificate, asked);
        }
        let token = bearer(headers).map_err(|rejected| unauthenticated(&rejected))?;
        let proof = token_print(token);
        let signed_in = self.verify(token, asked).await;
        let signed_in = Arc::new(signed_in.map_err(|rejected| unauthenticated(&rejected))?);
        let now = asked.now;
        // Anybody can get tokens of a public issuer: those that are nobody's take no place.
        if signed_in.who.is_ok() {
            self.remember(proof, &signed_in, now);
        }
        Ok(signed_in)
    }

    /// By a certificate: its SPIFFE ID is the login, and its end the login's end.
    fn certified(
        &self,
        certificate: &Arc<PeerCert>,
        asked: &Asked<'_>,
    ) -> Result<Arc<SignedIn>, Problem> {
        let Asked { bundle, generation, now } = *asked;
        certificate.check(now).map_err(|untrusted| {
            Problem::new(Grpc::Unauthenticated, untrusted.code, untrusted.why)
        })?;
        let login = Arc::new(spiffe_login(&certificate.id));
        let issuer = login.issuer.clone();
        let who =
            bundle.who(&login).map(|principal| Caller { principal, login: Arc::clone(&login) });
        let (expires, bundle) = (certificate.not_after, bundle.digest());
        let grounds = Grounds::Certificate(Arc::clone(certificate));
        let signed_in =
            Arc::new(SignedIn { who, login, issuer, expires, bundle, grounds, generation });
        if signed_in.who.is_ok() {
            self.remember(certificate.print(), &signed_in, now);
        }
        Ok(signed_in)
    }

    /// Believes a token that came another way than with a call, as an issuer's answer to the page.
    ///
    /// # Errors
    /// As a call that brings it is refused.
    pub async fn believe(&self, token: &str, asked: &Asked<'_>) -> Result<SignedIn, Rejected> {
        self.verify(token, asked).await
    }

    /// How an issuer for people is asked for more than its keys.
    ///
    /// # Errors
    /// When what the settings have for its name is for another URL.
    pub fn web(&self, name: &str, url: &str) -> Result<Web, String> {
        self.issuers.web(name, url)
    }

    async fn verify(&self, token: &str, asked: &Asked<'_>) -> Result<SignedIn, Rejected> {
        let Asked { bundle, generation, now } = *asked;
        let token = Token::read(token)?;
        let (name, trusted) = self.issuers.of(&token, bundle).await?;
        let verified = token.verify(&trusted, now)?;
        let login = Arc::new(match trusted.kind {
            Kind::Oidc | Kind::People => login(&name, &verified)?,
            Kind::Svid => svid_login(&verified)?,
        });
        let who =
            bundle.who(&login).map(|principal| Caller { principal, login: Arc::clone(&login) });
        if let Err(NoMatch { untold: Some(near), .. }) = &who {
            // What strangers must not learn, those who keep the bundle want to know.
            tracing::info!(issuer = %name, subject = ?login.subject, ?near, "a valid token is nobody's");
        }
        let audience = trusted.audience.to_string();
        let grounds = Grounds::Token { issuer: name, audience, key: verified.key };
        let (issuer, expires) = (verified.issuer.to_string(), verified.expires);
        Ok(SignedIn { who, login, issuer, expires, bundle: bundle.digest(), grounds, generation })
    }

    /// Forgets sign-ins that count no more.
    pub fn tidy(&self, asked: &Asked<'_>) {
        let Asked { bundle, generation, now } = *asked;
        let bundle = bundle.digest();
        let counts = |known: &SignedIn| {
            known.bundle == bundle && known.generation == generation && known.expires > now
        };
        self.lock().retain(|_, known| counts(known));
    }

    /// How many sign-ins are remembered.
    #[must_use]
    pub fn remembers(&self) -> usize {
        self.lock().len()
    }

    fn remembered(&self, proof: &KeyPrint, bundle: Hash, now: Time) -> Option<Arc<SignedIn>> {
        let known = self.lock().get(proof).cloned()?;
        let unchanged = known.bundle == bundle && known.generation == self.changes.generation();
        (unchanged && known.expires > now).then_some(known)
    }

    fn remember(&self, proof: KeyPrint, signed_in: &Arc<SignedIn>, now: Time) {
        let mut remembered = self.lock();
        if remembered.len() >= TOKENS_REMEMBERED_MAX {
            let unchanged = |known: &SignedIn| {
                known.bundle == signed_in.bundle && known.generation == signed_in.generation
            };
            remembered.retain(|_, known| unchanged(known) && known.expires > now);
        }
        if remembered.len() >= TOKENS_REMEMBERED_MAX {
            // All of them are in use: forgetting costs a signature check each, keeping more costs memory without end.
            remembered.clear();
        }
        remembered.insert(proof, Arc::clone(signed_in));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyPrint, Arc<SignedIn>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificate that speaks for a call: that of its connection, unless the call says by a token of its own who it is.
fn certificate<'p>(
    headers: &HeaderMap,
    peer: Option<&'p Arc<PeerCert>>,
) -> Option<&'p Arc<PeerCert>> {
    peer.filter(|_| !headers.contains_key(AUTHORIZATION))
}

fn token_print(token: &str) -> KeyPrint {
    KeyPrint::of(&[b"token", token.as_bytes()])
}

/// The one bearer token of a call.
fn bearer(headers: &HeaderMap) -> Result<&str, Rejected> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| reject(caller::NO_TOKEN, "nobody signed in"))?;
    if values.next().is_some() {
        return Err(reject(caller::MANY_TOKENS, "the call has more than one caller token"));
    }
    let text = value.to_str().map_err(|_| {
        reject(caller::TOKEN_UNREADABLE, "the caller token is not of plain characters")
    })?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(reject(caller::NO_TOKEN, "the `authorization` is not of the scheme Bearer"));
    }
    // A proxy that merges two headers writes a comma; no JWT has one.
    if token.contains([',', ' ']) {
        return Err(reject(caller::MANY_TOKENS, "the call has more than one caller token"));
    }
    Ok(token)
}

fn unauthenticated(rejected: &Rejected) -> Problem {
    let problem = |grpc| Problem::new(grpc, rejected.code, rejected.why.clone());
    // Over when the issuer is back, or was asked again.
    if nobodys_fault(rejected.code) {
        return problem(Grpc::Unavailable).retry(rejected.retry.unwrap_or(FAULT_RETRY));
    }
    problem(Grpc::Unauthenticated)
}

/// Refusals that say nothing against whoever calls: they must not lock its address out.
#[must_use]
pub fn nobodys_fault(code: Code) -> bool {
    [caller::ISSUER_UNREACHABLE, caller::KEY_NOT_YET].contains(&code)
}

/// What a SPIFFE ID is to policy, whether a certificate or a token proves it.
fn spiffe_login(id: &SpiffeId) -> Login {
    let (issuer, subject) = (SPIFFE_ISSUER.to_owned(), id.as_str().to_owned());
    let claims = BTreeMap::from([("sub".to_owned(), Claim::Text(subject.clone()))]);
    Login { issuer, subject, claims }
}

/// Whose JWT-SVID it is: a SPIFFE ID of the trust domain whose key signed it.
fn svid_login(verified: &Verified) -> Result<Login, Rejected> {
    let bad = |why: &str| unreadable(&format!("is no JWT-SVID: {why}"));
    let id = SpiffeId::parse(&verified.subject).map_err(|unfit| bad(&unfit.to_string()))?;
    if verified.issuer.strip_prefix("spiffe://") != Some(id.domain()) {
        return Err(bad("it is of another trust domain than its key"));
    }
    Ok(spiffe_login(&id))
}

/// What policy looks at of a verified token: texts and lists of texts; numbers and flags as their text; what is nested under
/// the names on its way, as in `kubernetes.io/serviceaccount/name`.
pub(in crate::serve) fn login(issuer: &str, verified: &Verified) -> Result<Login, Rejected> {
    let mut claims = BTreeMap::new();
    for (name, value) in &verified.claims {
        flatten(&mut claims, name.clone(), value)?;
    }
    Ok(Login { issuer: issuer.to_owned(), subject: verified.subject.clone(), claims })
}

fn flatten(
    claims: &mut BTreeMap<String, Claim>,
    name: String,
    value: &Value,
) -> Result<(), Rejected> {
    if let Value::Object(inner) = value {
        // A `/` inside a nested name could be read as one more level, so such a claim says nothing.
        for (inner, value) in inner.iter().filter(|(inner, _)| !inner.contains('/')) {
            flatten(claims, format!("{name}/{inner}"), value)?;
        }
        return Ok(());
    }
    let Some(claim) = claim(value) else { return Ok(()) };
    match claims.insert(name, claim) {
        None => Ok(()),
        Some(_) => Err(unreadable("has two claims that read alike")),
    }
}

fn claim(value: &Value) -> Option<Claim> {
    match value {
        Value::Array(items) => Some(Claim::List(items.iter().filter_map(text).collect())),
        Value::Null | Value::Object(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text(value).map(Claim::Text)
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::Load;
    use crate::policy::example::example;

    #[track_caller]
    fn check(values: &[&str], expect: Result<&str, &str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers.append("x-protem-identity", "payments/agent".parse().unwrap());
        let found = bearer(&headers);
        assert_eq!(found.map_err(|rejected| rejected.code.id), expect);
    }

    #[test]
    fn sign_ins_that_count_no_more_are_forgotten() {
        let clock = Arc::new(protem_clock::clock::ManualClock::new(std::time::Duration::ZERO));
        let svids = Svids { trust: None, audience: "protem".into() };
        let door = Door::new(None, svids, Reach::default(), clock);
        let bundle = Bundle::load(example(), Load::Activate, false).unwrap();
        let now = Time::from_secs(1_000);
        let remember = |name: &str, bundle: Hash, expires: u64, generation: u64| {
            let (key, audience) = (KeyPrint::of(&[name.as_bytes()]), "protem".to_owned());
            let grounds = Grounds::Token { issuer: "corp".into(), audience, key };
            let login =
                Login { issuer: "corp".into(), subject: name.into(), claims: BTreeMap::new() };
            let nobody = NoMatch { why_not: String::new(), untold: None };
            let signed_in = Arc::new(SignedIn {
                who: Err(nobody),
                login: Arc::new(login),
                issuer: "https://idp.example".into(),
                expires: Time::from_secs(expires),
                bundle,
                grounds,
                generation,
            });
            door.remember(key, &signed_in, now);
        };
        remember("good", bundle.digest(), 1_001, 0);
        remember("over", bundle.digest(), 1_000, 0);
        remember("before another key", bundle.digest(), 1_001, 1);
        remember("of another bundle", Hash([7; 32]), 1_001, 0);
        assert_eq!(door.remembers(), 4);
        door.tidy(&Asked { bundle: &bundle, generation: 0, now });
        assert_eq!(door.remembers(), 1);
    }

    #[test]
    fn a_call_has_one_bearer_token() {
        check(&["Bearer a.b.c"], Ok("a.b.c"));
        check(&["bearer a.b.c"], Ok("a.b.c"));
        check(&[], Err("PT-0601"));
        check(&["a.b.c"], Err("PT-0601"));
        check(&["Basic a.b.c"], Err("PT-0601"));
        check(&["Bearer a.b.c", "Bearer a.b.c"], Err("PT-0602"));
        check(&["Bearer a.b.c,Bearer d.e.f"], Err("PT-0602"));
        check(&["Bearer a.b.c d"], Err("PT-0602"));
    }

    #[test]
    fn nested_claims_are_named_by_their_way_and_never_by_two() {
        let flat = |json: Value| {
            let mut claims = BTreeMap::new();
            let mut all = json.as_object().unwrap().iter();
            all.try_for_each(|(name, value)| flatten(&mut claims, name.clone(), value))
                .map(|()| claims.into_keys().collect::<Vec<_>>())
                .map_err(|rejected| rejected.code.id)
        };
        let kubernetes = serde_json::json!({"sub": "a", "kubernetes.io": {
            "namespace": "shop", "pod": {"name": "p", "uid": "1"}, "serviceaccount": {"name": "s"},
        }});
        let names = [
            "kubernetes.io/namespace",
            "kubernetes.io/pod/name",
            "kubernetes.io/pod/uid",
            "kubernetes.io/serviceaccount/name",
            "sub",
        ];
        assert_eq!(flat(kubernetes), Ok(names.map(str::to_owned).to_vec()));
        for twice in [
            serde_json::json!({"a": {"b": 1}, "a/b": 2}),
            serde_json::json!({"a/b": {"c": 1}, "a": {"b": {"c": 1}}}),
        ] {
            assert_eq!(flat(twice), Err("PT-0603"));
        }
        assert_eq!(flat(serde_json::json!({"a": {"b/c": 1}})), Ok(vec![]));
    }

    #[test]
    fn claims_are_texts_and_lists_of_texts() {
        for (value, expect) in [
            (serde_json::json!("a"), Some(Claim::Text("a".into()))),
            (serde_json::json!(4711), Some(Claim::Text("4711".into()))),
            (serde_json::json!(true), Some(Claim::Text("true".into()))),
            (serde_json::json!(["a", 1, {}]), Some(Claim::List(vec!["a".into(), "1".into()]))),
            (serde_json::json!({"a": 1}), None),
            (serde_json::json!(null), None),
        ] {
            assert_eq!(claim(&value), expect);
        }
    }
}
