//! Foreign JWTs: a strict reader, and `ring` for their signatures.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use protem_verify::codes::{Code, caller};
use protem_verify::time::Time;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use crate::serve::grounds::KeyPrint;
use crate::serve::limits::{CLOCK_LEEWAY, JWKS_KEYS_MAX, JWKS_MAX, TOKEN_MAX};
use crate::serve::strict_json;

/// An issuer whose tokens are trusted: its exact `iss`, the audience its tokens must hold, and its keys.
#[derive(Debug)]
pub struct Trusted {
    /// Compared byte by byte (RFC 8725 §3.8).
    pub issuer: String,
    /// Must be in `aud` (RFC 8725 §3.9). Never empty.
    pub audience: String,
    /// Never asked for over the network here, and never named by a token.
    pub keys: Keys,
}

/// A set of public keys.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// What a valid token says.
#[derive(Debug)]
pub struct Verified {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `exp`.
    pub expires: Time,
    /// All claims.
    pub claims: Map<String, Value>,
    /// The key that signed it.
    pub key: KeyPrint,
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The stable code.
    pub code: Code,
    /// In words, without anything of the token but its `iss` and `kid`.
    pub why: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Verifies a compact JWT of one of the trusted issuers.
///
/// # Errors
/// With the code that says what is wrong: nothing is trusted before the signature is.
pub fn verify<'t>(
    text: &str,
    find: impl FnOnce(&str) -> Option<&'t Trusted>,
    now: Time,
) -> Result<Verified, Rejected> {
    // The length comes first: what follows allocates no more than this (CVE-2025-30204).
    if text.len() > TOKEN_MAX {
        return Err(unreadable("is longer than 8 KiB"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(unreadable("is no compact JWT"))?;
    let (header, payload) = signed.split_once('.').ok_or(unreadable("is no compact JWT"))?;
    let header = Header::parse(&decode(header)?)?;
    let claims = object(&decode(payload)?)?;
    let signature = decode(signature)?;
    let issuer = text_of(&claims, "iss")?;
    let trusted = find(issuer).filter(|trusted| trusted.issuer == issuer).ok_or_else(|| {
        reject(caller::UNKNOWN_ISSUER, &format!("`{}` is no issuer of the bundle", clean(issuer)))
    })?;
    let key = trusted.keys.find(&header)?;
    if !key.verifies(signed.as_bytes(), &signature) {
        return Err(reject(caller::BAD_SIGNATURE, "the caller token's signature is wrong"));
    }
    // INVARIANT(only_verified_claims_count): nothing of the token decides anything before this line but where to look for the key.
    check_audience(&claims, &trusted.audience)?;
    let expires = check_times(&claims, now)?;
    let subject = text_of(&claims, "sub")?.to_owned();
    Ok(Verified { issuer: trusted.issuer.clone(), subject, expires, claims, key: key.print() })
}

fn check_audience(claims: &Map<String, Value>, audience: &str) -> Result<(), Rejected> {
    let wrong = || {
        reject(
            caller::WRONG_AUDIENCE,
            &format!("the caller token is not for `{audience}`: its `aud` says otherwise"),
        )
    };
    let found = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            many.iter().any(|one| one.as_str() == Some(audience))
        }
        None
        | Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_),
        ) => false,
    };
    if found && !audience.is_empty() { Ok(()) } else { Err(wrong()) }
}

fn check_times(claims: &Map<String, Value>, now: Time) -> Result<Time, Rejected> {
    let expires = number(claims, "exp")?.ok_or(unreadable("has no `exp`"))?;
    let soon = now + CLOCK_LEEWAY;
    for name in ["nbf", "iat"] {
        if number(claims, name)?.is_some_and(|from| from > soon) {
            return Err(reject(
                caller::TOKEN_EARLY,
                &format!("the caller token is not valid yet: its `{name}` lies in the future"),
            ));
        }
    }
    if expires <= now {
        return Err(reject(caller::TOKEN_EXPIRED, "the caller token has expired"));
    }
    Ok(expires)
}

/// A NumericDate: whole seconds. Anything else under that name is an error, never an absent claim (CVE-2026-25537).
fn number(claims: &Map<String, Value>, name: &str) -> Result<Option<Time>, Rejected> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_u64().filter(|seconds| *seconds < SECONDS_MAX);
    let seconds = seconds
        .ok_or_else(|| unreadable(&format!("has a `{name}` that is no whole number of seconds")))?;
    Ok(Some(Time::from_secs(seconds)))
}

fn text_of<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<&'c str, Rejected> {
    let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| unreadable(&format!("has no `{name}`")))
}

struct Header {
    alg: Alg,
    kid: Option<String>,
}

impl Header {
    /// A closed set of members: a token never names its own key, and a `crit` is never understood.
    fn parse(bytes: &[u8]) -> Result<Self, Rejected> {
        let header = object(bytes)?;
        for name in header.keys() {
            if !HEADER_KNOWN.contains(&name.as_str()) {
                return Err(unreadable(&format!("has a header `{}`", clean(name))));
            }
        }
        let typ = header.get("typ").map(|typ| typ.as_str().unwrap_or_default());
        if typ.is_some_and(|typ| !TYPES.iter().any(|known| known.eq_ignore_ascii_case(typ))) {
            return Err(unreadable("has a `typ` that no caller token has"));
        }
        let alg = header.get("alg").and_then(Value::as_str).and_then(Alg::named);
        let alg = alg.ok_or(unreadable("has an `alg` that is not allowed"))?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= KID_MAX => Some(kid.clone()),
            Some(_) => return Err(unreadable("has a `kid` that is no short text")),
        };
        Ok(Self { alg, kid })
    }
}

/// Signature algorithms of others that are accepted; the key says which one, the token only agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alg {
    Rs256,
    Ps256,
    Es256,
    Ed25519,
}

impl Alg {
    fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            // RFC 9864 names it anew; both mean the same.
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    alg: Alg,
    /// Modulus and exponent, or the point or key in the first part.
    parts: (Vec<u8>, Vec<u8>),
}

impl Key {
    /// One member of a JWKS (RFC 7517); `None` for one that is not for signatures or not of a kind that is accepted.
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let part = |name: &str| text(name).and_then(|t| BASE64URL_NOPAD.decode(t.as_bytes()).ok());
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let named = text("alg").map(Alg::named);
        let (natural, parts) = match (text("kty")?, text("crv")) {
            ("RSA", None) => (Alg::Rs256, (part("n")?, part("e")?)),
            ("EC", Some("P-256")) => {
                (Alg::Es256, ([vec![4], part("x")?, part("y")?].concat(), vec![]))
            }
            ("OKP", Some("Ed25519")) => (Alg::Ed25519, (part("x")?, vec![])),
            _ => return None,
        };
        let alg = match named {
            None => natural,
            Some(named) => named?,
        };
        let fits = alg == natural || (natural == Alg::Rs256 && alg == Alg::Ps256);
        fits.then(|| Self { kid: text("kid").map(str::to_owned), alg, parts })
    }

    fn print(&self) -> KeyPrint {
        let (alg, kid) = (format!("{:?}", self.alg), self.kid.as_deref().map(str::as_bytes));
        KeyPrint::of(&[alg.as_bytes(), kid.unwrap_or(&[0]), &self.parts.0, &self.parts.1])
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (first, second) = (&self.parts.0, &self.parts.1);
        let rsa = RsaPublicKeyComponents { n: first, e: second };
        let plain = |alg: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(alg, first).verify(message, signature)
        };
        let verified = match self.alg {
            Alg::Rs256 => rsa.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Alg::Ps256 => rsa.verify(&RSA_PSS_2048_8192_SHA256, message, signature),
            Alg::Es256 => plain(&ECDSA_P256_SHA256_FIXED),
            Alg::Ed25519 => plain(&ED25519),
        };
        verified.is_ok()
    }
}

impl Keys {
    /// Reads a JWKS document; keys of kinds that are not accepted are left out.
    ///
    /// # Errors
    /// When it is no JWKS, is larger than 64 KiB, holds more than 32 keys, two of one `kid`, or none that is accepted.
    pub fn parse(jwks: &[u8]) -> Result<Self, String> {
        if jwks.len() > JWKS_MAX {
            return Err("is larger than 64 KiB".into());
        }
        let set = strict_json::object(jwks).map_err(|error| format!("is no JWKS: {error}"))?;
        let members = set.get("keys").and_then(Value::as_array).ok_or("has no `keys`")?;
        if members.len() > JWKS_KEYS_MAX {
            return Err("has more than 32 keys".into());
        }
        let keys: Vec<Key> =
            members.iter().filter_map(Value::as_object).filter_map(Key::parse).collect();
        let mut kids: Vec<_> = keys.iter().filter_map(|key| key.kid.as_deref()).collect();
        kids.sort_unstable();
        if kids.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err("has two keys of one `kid`".into());
        }
        if keys.is_empty() {
            return Err("has no key of RS256, PS256, ES256 or EdDSA".into());
        }
        Ok(Self(keys))
    }

    /// Whether a key that once signed is still among them.
    #[must_use]
    pub fn hold(&self, print: &KeyPrint) -> bool {
        self.0.iter().any(|key| key.print() == *print)
    }

    /// A map from `kid` to key and nothing else (RFC 8725 §3.10); without a `kid` only a single key can be meant.
    fn find(&self, header: &Header) -> Result<&Key, Rejected> {
        let unknown = |why: &str| reject(caller::UNKNOWN_KEY, why);
        let key = match (&header.kid, self.0.as_slice()) {
            (None, [only]) => only,
            (None, _) => return Err(unknown("the caller token names no key")),
            (Some(kid), keys) => keys
                .iter()
                .find(|key| key.kid.as_ref() == Some(kid))
                .ok_or_else(|| unknown(&format!("the issuer has no key `{}`", clean(kid))))?,
        };
        if key.alg != header.alg {
            return Err(unknown("the caller token's `alg` is not its key's"));
        }
        Ok(key)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Rejected> {
    BASE64URL_NOPAD
        .decode(part.as_bytes())
        .map_err(|_| unreadable("is not unpadded base64url in three parts"))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Rejected> {
    strict_json::object(bytes).map_err(|_| unreadable("holds JSON that is not strict"))
}

fn unreadable(why: &str) -> Rejected {
    reject(caller::TOKEN_UNREADABLE, &format!("the caller token {why}"))
}

fn reject(code: Code, why: &str) -> Rejected {
    Rejected { code, why: why.to_owned() }
}

/// What strangers wrote, short and without characters that could play tricks on a terminal.
fn clean(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_default).collect()
}

/// Header members that are read or known to be harmless: `x5t` names a certificate that nobody looks at.
const HEADER_KNOWN: [&str; 5] = ["alg", "typ", "kid", "x5t", "x5t#S256"];
/// What caller tokens call themselves; every other kind of JWT is refused (RFC 8725 §3.11).
const TYPES: [&str; 4] = ["JWT", "JOSE", "at+jwt", "application/at+jwt"];
/// The longest `kid`.
const KID_MAX: usize = 256;
/// NumericDates from here on are mistakes: the year 9999.
const SECONDS_MAX: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: u64 = 1_000_000;

    struct Issuer {
        pair: Ed25519KeyPair,
        trusted: Trusted,
    }

    fn issuer() -> Issuer {
        let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(bytes.as_ref()).unwrap();
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let jwks = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"{x}"}},{{"kty":"oct","k":"AA"}}]}}"#
        );
        let trusted = Trusted {
            issuer: "https://idp.example".into(),
            audience: "protem".into(),
            keys: Keys::parse(jwks.as_bytes()).unwrap(),
        };
        Issuer { pair, trusted }
    }

    const HEADER: &str = r#"{"typ":"JWT","alg":"EdDSA","kid":"k1"}"#;
    const CLAIMS: &str = r#"{"iss":"https://idp.example","sub":"a","aud":["x","protem"],"iat":1000000,"exp":1000001}"#;

    fn sign(issuer: &Issuer, header: &str, claims: &str) -> String {
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = issuer.pair.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    #[track_caller]
    fn check(issuer: &Issuer, token: &str, expect: Option<Code>) {
        let found = verify(token, |_| Some(&issuer.trusted), Time::from_secs(NOW));
        assert_eq!(found.as_ref().err().map(|rejected| rejected.code), expect, "{found:?}");
    }

    #[test]
    fn a_good_token_is_read() {
        let issuer = issuer();
        check(&issuer, &sign(&issuer, HEADER, CLAIMS), None);
        check(&issuer, &sign(&issuer, r#"{"alg":"Ed25519","kid":"k1","x5t":"a"}"#, CLAIMS), None);
        check(
            &issuer,
            &sign(&issuer, HEADER, &CLAIMS.replace(r#"["x","protem"]"#, "\"protem\"")),
            None,
        );
    }

    #[test]
    fn claims_are_strict() {
        let issuer = issuer();
        let bad = |from: &str, to: &str, code| {
            let claims = CLAIMS.replace(from, to);
            assert_ne!(claims, CLAIMS);
            check(&issuer, &sign(&issuer, HEADER, &claims), Some(code));
        };
        for (from, to) in [
            (r#""exp":1000001"#, r#""x":1"#),
            (r#""exp":1000001"#, r#""exp":"1000001""#),
            (r#""exp":1000001"#, r#""exp":1000001.5"#),
            (r#""exp":1000001"#, r#""exp":-1"#),
            (r#""exp":1000001"#, r#""exp":null"#),
            (r#""exp":1000001"#, r#""exp":18446744073709551616"#),
            (r#""exp":1000001"#, r#""exp":9007199254740993000"#),
            (r#""exp":1000001"#, r#""exp":1000001,"exp":2000000"#),
            (r#""exp":1000001"#, r#""exp":1000001,"nbf":"1""#),
            (r#""iat":1000000"#, r#""iat":[1]"#),
            (r#""sub":"a","#, ""),
            (r#""sub":"a""#, r#""sub":"""#),
            (r#""sub":"a""#, r#""sub":7"#),
            (r#""iss":"https://idp.example","#, ""),
        ] {
            bad(from, to, caller::TOKEN_UNREADABLE);
        }
        bad(r#""exp":1000001"#, r#""exp":1000000"#, caller::TOKEN_EXPIRED);
        bad(r#""exp":1000001"#, r#""exp":2000000,"nbf":1000006"#, caller::TOKEN_EARLY);
        bad(r#""iat":1000000"#, r#""iat":1000006"#, caller::TOKEN_EARLY);
        for aud in [
            r#"[]"#,
            r#""""#,
            r#""prote""#,
            r#""protem2""#,
            r#"["x"]"#,
            r#"["protem",1]"#,
            "1",
            "{}",
        ] {
            bad(r#"["x","protem"]"#, aud, caller::WRONG_AUDIENCE);
        }
        for iss in [
            "https://idp.example/",
            "https://idp.exampl",
            "xhttps://idp.example",
            "HTTPS://idp.example",
        ] {
            bad("https://idp.example", iss, caller::UNKNOWN_ISSUER);
        }
    }

    #[test]
    fn headers_are_closed_and_the_key_fixes_the_algorithm() {
        let issuer = issuer();
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256","kid":"k1"}"#,
            r#"{"alg":"eddsa","kid":"k1"}"#,
            r#"{"alg":"EdDSA","kid":"k1","crit":["exp"]}"#,
            r#"{"alg":"EdDSA","kid":"k1","jku":"https://evil.example"}"#,
            r#"{"alg":"EdDSA","kid":"k1","x5u":"https://evil.example"}"#,
            r#"{"alg":"EdDSA","kid":"k1","jwk":{}}"#,
            r#"{"alg":"EdDSA","kid":"k1","zip":"DEF"}"#,
            r#"{"alg":"EdDSA","alg":"EdDSA","kid":"k1"}"#,
            r#"{"alg":"EdDSA","kid":7}"#,
            r#"{"alg":"EdDSA","kid":"k1","typ":"secevent+jwt"}"#,
            r#"{"alg":"EdDSA","kid":"k1","typ":5}"#,
        ] {
            check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::TOKEN_UNREADABLE));
        }
        for header in [
            r#"{"alg":"RS256","kid":"k1"}"#,
            r#"{"alg":"EdDSA","kid":"k2"}"#,
            r#"{"alg":"EdDSA","kid":"../k1"}"#,
        ] {
            check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::UNKNOWN_KEY));
        }
    }

    #[test]
    fn forms_are_strict() {
        let issuer = issuer();
        let good = sign(&issuer, HEADER, CLAIMS);
        let (signed, _) = good.rsplit_once('.').unwrap();
        check(&issuer, &format!("{signed}."), Some(caller::BAD_SIGNATURE));
        check(&issuer, &sign(&self::issuer(), HEADER, CLAIMS), Some(caller::BAD_SIGNATURE));
        let long = ".".repeat(1_000_000);
        for bad in
            ["", "..", "a.b", &format!("{good}="), &format!("{good}.x"), &format!(" {good}"), &long]
        {
            check(&issuer, bad, Some(caller::TOKEN_UNREADABLE));
        }
    }

    #[test]
    fn key_sets_are_strict() {
        for bad in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"oct","k":"AA","kid":"a"}]}"#,
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","alg":"RS256"}]}"#,
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","use":"enc"}]}"#,
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"a"},{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"a"}]}"#,
        ] {
            assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
