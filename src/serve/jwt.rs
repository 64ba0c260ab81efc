//! Foreign JWTs: a strict reader, and `ring` for their signatures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protem_verify::codes::{Code, caller};
use protem_verify::time::Time;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use crate::serve::claims::{check_audience, check_client, check_times, text_of};
use crate::serve::grounds::KeyPrint;
use crate::serve::limits::{JWKS_KEYS_MAX, JWKS_MAX, TOKEN_MAX};
use crate::serve::strict_json;

/// An issuer whose tokens are trusted: its exact `iss`, the audience its tokens must hold, and its keys.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// Compared byte by byte (RFC 8725 §3.8); of an SVID the trust domain, which its `sub` names.
    pub issuer: Arc<str>,
    /// Must be in `aud` (RFC 8725 §3.9). Never empty.
    pub audience: Arc<str>,
    /// Never asked for over the network here, and never named by a token.
    pub keys: Arc<Keys>,
    /// Which rules its tokens follow.
    pub kind: Kind,
}

/// Which rules a token follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An OpenID Connect issuer's: `iss` says whose.
    Oidc,
    /// An id token of a person: the same, and it was made for one client alone (OpenID Connect Core §2, §3.1.3.7).
    People,
    /// A JWT-SVID: `sub` says whose, and fewer algorithms and headers are allowed (JWT-SVID §2, §3).
    Svid,
}

/// A token that was read and not believed yet.
#[derive(Debug)]
pub struct Token<'t> {
    signed: &'t str,
    signature: Vec<u8>,
    header: Header,
    claims: Map<String, Value>,
}

/// A set of public keys.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// What a valid token says.
#[derive(Debug)]
pub struct Verified {
    /// [`Trusted::issuer`].
    pub issuer: Arc<str>,
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
    /// In words, without anything of the token but its `iss` and `kid`, and once its signature is verified what differs.
    pub why: String,
    /// When to try again, where that may help.
    pub retry: Option<Duration>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl<'t> Token<'t> {
    /// Reads a compact JWT. Nothing that it says is believed.
    ///
    /// # Errors
    /// When it is too long, no compact JWT, or holds JSON or headers that are not allowed.
    pub fn read(text: &'t str) -> Result<Self, Rejected> {
        // The length comes first: what follows allocates no more than this (CVE-2025-30204).
        if text.len() > TOKEN_MAX {
            return Err(unreadable("is longer than 8 KiB"));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(unreadable("is no compact JWT"))?;
        let (header, payload) = signed.split_once('.').ok_or(unreadable("is no compact JWT"))?;
        let header = Header::parse(&decode(header)?)?;
        let claims = object(&decode(payload)?)?;
        let signature = decode(signature)?;
        Ok(Self { signed, signature, header, claims })
    }

    /// The `iss` that it claims, which says where to look for its key and nothing else.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The trust domain of the SPIFFE ID that it claims to be about, which says where to look for its key and nothing else.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&str> {
        let id = self.claims.get("sub").and_then(Value::as_str)?.strip_prefix("spiffe://")?;
        id.split('/').next()
    }

    /// Whether the key that it names is among these.
    #[must_use]
    pub fn names_one_of(&self, keys: &Keys) -> bool {
        let named = |kid: &String| keys.0.iter().any(|key| key.kid.as_ref() == Some(kid));
        self.header.kid.as_ref().is_none_or(named)
    }

    /// Believes it, if the issuer's key signed it for this audience and it has not ended.
    ///
    /// # Errors
    /// With the code that says what is wrong: nothing is trusted before the signature is.
    pub fn verify(self, trusted: &Trusted, now: Time) -> Result<Verified, Rejected> {
        match trusted.kind {
            Kind::Svid => self.header.fits_svid()?,
            // What an API may be called with says nothing of who signed in where (RFC 9068 §5).
            Kind::People if self.header.of_access => {
                return Err(unreadable("is an access token, and people sign in with an id token"));
            }
            Kind::Oidc | Kind::People => {}
        }
        let key = trusted.keys.find(&self.header)?;
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(reject(caller::BAD_SIGNATURE, "the caller token's signature is wrong"));
        }
        // INVARIANT(only_verified_claims_count): nothing of the token decides anything before this line but where to look for the key.
        check_audience(&self.claims, &trusted.audience)?;
        if trusted.kind == Kind::People {
            check_client(&self.claims, &trusted.audience)?;
        }
        let expires = check_times(&self.claims, now)?;
        let subject = text_of(&self.claims, "sub")?.to_owned();
        let (issuer, key) = (Arc::clone(&trusted.issuer), key.print());
        Ok(Verified { issuer, subject, expires, claims: self.claims, key })
    }
}

#[derive(Debug)]
struct Header {
    alg: Alg,
    kid: Option<String>,
    /// Whether it has only what a JWT-SVID may have.
    plain: bool,
    /// Whether it says that it is an access token.
    of_access: bool,
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
        let few = header.keys().all(|name| SVID_HEADER.contains(&name.as_str()));
        let kind = typ.is_none_or(|typ| ["JWT", "JOSE"].contains(&typ));
        let of_access = typ.is_some_and(|typ| typ.to_ascii_lowercase().ends_with("at+jwt"));
        Ok(Self { alg, kid, plain: few && kind, of_access })
    }

    /// RSA and elliptic curves only, with a `kid`, and nothing unusual (JWT-SVID §2).
    fn fits_svid(&self) -> Result<(), Rejected> {
        if self.alg == Alg::Ed25519 {
            return Err(unreadable("is a JWT-SVID with an `alg` that those do not have"));
        }
        if !self.plain || self.kid.is_none() {
            return Err(unreadable("is a JWT-SVID with other headers than `alg`, `kid` and `typ`"));
        }
        Ok(())
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
        let for_verifying = |member: &str, wanted: &str| match jwk.get(member) {
            None => true,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
            Some(Value::String(one)) => one == wanted,
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => false,
        };
        if !for_verifying("use", "sig") || !for_verifying("key_ops", "verify") {
            return None;
        }
        // A private key that was published is everybody's.
        if PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
            return None;
        }
        let named = text("alg").map(Alg::named);
        let (natural, parts) = match (text("kty")?, text("crv")) {
            ("RSA", None) => (Alg::Rs256, rsa(part("n")?, part("e")?)?),
            ("EC", Some("P-256")) => {
                (Alg::Es256, ([vec![4], of_32(part("x")?)?, of_32(part("y")?)?].concat(), vec![]))
            }
            ("OKP", Some("Ed25519")) => (Alg::Ed25519, (of_32(part("x")?)?, vec![])),
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

/// Modulus and exponent of an RSA key that is long enough (NIST SP 800-131A) and whose exponent is no small one.
fn rsa(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
    let first = modulus.first().copied().filter(|first| *first != 0)?;
    let bits =
        modulus.len().checked_mul(8)?.checked_sub(usize::try_from(first.leading_zeros()).ok()?)?;
    let large = exponent.len() <= 4
        && exponent.iter().fold(0_u64, |all, byte| (all << 8) | u64::from(*byte)) >= 65_537;
    (RSA_BITS.contains(&bits) && large).then_some((modulus, exponent))
}

fn of_32(bytes: Vec<u8>) -> Option<Vec<u8>> {
    Some(bytes).filter(|bytes| bytes.len() == 32)
}

impl Keys {
    /// Reads a JWKS document; keys of kinds that are not accepted are left out.
    ///
    /// # Errors
    /// When it is no JWKS, is larger than 64 KiB, holds more than 32 keys, two of one `kid`, or none that is accepted.
    pub fn parse(jwks: &[u8]) -> Result<Self, String> {
        let keys = Self::published(jwks)?;
        if keys.0.is_empty() {
            return Err("has no public key of RS256, PS256, ES256 or EdDSA for signatures".into());
        }
        Ok(keys)
    }

    /// The same, when it is the issuer's word of now: without a key nothing of it is trusted.
    ///
    /// # Errors
    /// When it is no JWKS, is larger than 64 KiB, holds more than 32 keys, or two of one `kid`.
    pub fn published(jwks: &[u8]) -> Result<Self, String> {
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
        Ok(Self(keys))
    }

    /// Whether one of them is not among `newer`: what it signed is no longer believed.
    #[must_use]
    pub fn lose_any_in(&self, newer: &Self) -> bool {
        self.0.iter().any(|key| !newer.hold(&key.print()))
    }

    /// Whether there is none: nobody is trusted.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the only key signed this, for vectors of others that are no tokens.
    #[cfg(test)]
    pub(in crate::serve) fn first_verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.first().is_some_and(|key| key.verifies(message, signature))
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

/// A token of an issuer that nobody trusts; `hint` may name the one that was meant.
#[must_use]
pub fn unknown_issuer(issuer: Option<&str>, hint: &str) -> Rejected {
    match issuer {
        None => unreadable("has no `iss`"),
        Some("") => unreadable("has no `iss`"),
        Some(issuer) => {
            let why = format!("`{}` is no issuer of the bundle{hint}", clean(issuer));
            reject(caller::UNKNOWN_ISSUER, &why)
        }
    }
}

/// A refusal because the caller token `why`.
#[must_use]
pub fn unreadable(why: &str) -> Rejected {
    reject(caller::TOKEN_UNREADABLE, &format!("the caller token {why}"))
}

/// A refusal.
#[must_use]
pub fn reject(code: Code, why: &str) -> Rejected {
    Rejected { code, why: why.to_owned(), retry: None }
}

/// What strangers wrote, short and without characters that could play tricks on a terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_default).collect()
}

/// Header members that are read or known to be harmless: `x5t` names a certificate that nobody looks at.
const HEADER_KNOWN: [&str; 5] = ["alg", "typ", "kid", "x5t", "x5t#S256"];
/// What caller tokens call themselves; every other kind of JWT is refused (RFC 8725 §3.11).
const TYPES: [&str; 4] = ["JWT", "JOSE", "at+jwt", "application/at+jwt"];
/// All that a JWT-SVID may have.
const SVID_HEADER: [&str; 3] = ["alg", "typ", "kid"];
/// Members that only a private or symmetric key has (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Lengths of an RSA modulus: less can be factored, more costs every login too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// The longest `kid`.
const KID_MAX: usize = 256;
