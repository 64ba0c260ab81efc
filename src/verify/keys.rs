//! Public keys: JWK sets read and written, ids that are thumbprints, one purpose each.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::json::Json;
use crate::names::KeyId;

/// A fixed set of Ed25519 keys of one purpose; a token's `kid` is an index into it and nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<KeyId, VerifyingKey>);

/// The longest JWK set in bytes.
pub const JWKS_MAX: usize = 64 * 1024;
/// Keys of one set: a few brokers, each rotating.
pub const KEYS_MAX: usize = 128;

/// A key set that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key set {0}")]
pub struct BadKeys(pub &'static str);

impl Keys {
    /// Reads a JWK set (RFC 7517, RFC 8037). Keys of another type than Ed25519 are passed over: nothing verifies by them.
    ///
    /// # Errors
    /// When the set is malformed or too large, or an Ed25519 key in it is weak, has a private half, an id that is not its
    /// thumbprint, or another use than to sign.
    pub fn parse(jwks: &str) -> Result<Self, BadKeys> {
        if jwks.len() > JWKS_MAX {
            return Err(BadKeys("is longer than 64 KiB"));
        }
        let set = Json::parse(jwks.as_bytes()).map_err(|_| BadKeys("is not strict JSON"))?;
        let keys = set.members().and_then(|members| members.get("keys")).and_then(Json::list);
        let keys = keys.ok_or(BadKeys("has no list `keys`"))?;
        if keys.len() > KEYS_MAX {
            return Err(BadKeys("has too many keys"));
        }
        let mut known = BTreeMap::new();
        for key in keys {
            let Some((id, key)) = read(key)? else { continue };
            if known.insert(id, key).is_some() {
                return Err(BadKeys("has a key twice"));
            }
        }
        Ok(Self(known))
    }

    /// Of public halves that are known already.
    ///
    /// # Errors
    /// When one is no point of the curve, or weak.
    pub fn of(publics: &[[u8; 32]]) -> Result<Self, BadKeys> {
        let key = |public: &[u8; 32]| Ok((thumbprint(public), point(public)?));
        publics.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Those of them with one of these ids.
    #[must_use]
    pub fn only(mut self, ids: &[KeyId]) -> Self {
        self.0.retain(|id, _| ids.contains(id));
        self
    }

    /// Whether this id is in the set.
    #[must_use]
    pub fn knows(&self, id: &KeyId) -> bool {
        self.0.contains_key(id)
    }

    /// The ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.keys()
    }

    /// Whether a key is in both sets, so has two purposes.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.0.keys().any(|id| other.knows(id))
    }

    /// Whether the key `id` signed `message`: no malleable signature, no point of small order (RUSTSEC-2022-0093's class).
    #[must_use]
    pub fn verify(&self, id: &KeyId, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.0.get(id).is_some_and(|key| key.verify_strict(message, &signature).is_ok())
    }

    /// Whether any key of the set signed `message`; for signatures that name no key.
    #[must_use]
    pub fn verify_any(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.keys().any(|id| self.verify(id, message, signature))
    }
}

/// A key's id: base64url of the SHA-256 of its canonical JWK (RFC 7638 §3, RFC 8037 appendix A.3).
#[must_use]
pub fn thumbprint(public: &[u8; 32]) -> KeyId {
    let jwk =
        format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, BASE64URL_NOPAD.encode(public));
    KeyId::of_thumbprint(&Sha256::digest(jwk.as_bytes()).into())
}

/// The JWK set of these public keys, in the order given.
#[must_use]
pub fn jwks(publics: &[[u8; 32]]) -> String {
    let key = |public: &[u8; 32]| {
        format!(
            r#"{{"kty":"OKP","crv":"Ed25519","x":"{}","use":"sig","alg":"EdDSA","kid":"{}"}}"#,
            BASE64URL_NOPAD.encode(public),
            thumbprint(public),
        )
    };
    let keys: Vec<String> = publics.iter().map(key).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn read(key: &Json) -> Result<Option<(KeyId, VerifyingKey)>, BadKeys> {
    let members = key.members().ok_or(BadKeys("has a key that is no object"))?;
    let text = |name: &str| members.get(name).and_then(Json::text);
    if text("kty") != Some("OKP") || text("crv") != Some("Ed25519") {
        return Ok(None);
    }
    if members.contains_key("d") {
        return Err(BadKeys("has a private key"));
    }
    let signs = !members.contains_key("use") || text("use") == Some("sig");
    let alg = !members.contains_key("alg") || matches!(text("alg"), Some("EdDSA" | "Ed25519"));
    if !signs || !alg {
        return Err(BadKeys("has a key for another use or algorithm"));
    }
    let x = text("x").and_then(|x| BASE64URL_NOPAD.decode(x.as_bytes()).ok());
    let public: [u8; 32] = x
        .and_then(|x| x.try_into().ok())
        .ok_or(BadKeys("has an Ed25519 key that is not 32 bytes of base64url"))?;
    let id = thumbprint(&public);
    if text("kid") != Some(id.as_str()) {
        return Err(BadKeys("has a key whose `kid` is not its thumbprint"));
    }
    Ok(Some((id, point(&public)?)))
}

fn point(public: &[u8; 32]) -> Result<VerifyingKey, BadKeys> {
    let key = VerifyingKey::from_bytes(public).map_err(|_| BadKeys("has a key off the curve"))?;
    if key.is_weak() { Err(BadKeys("has a weak key")) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_8037() {
        let x = BASE64URL_NOPAD.decode(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let id = thumbprint(&x.try_into().unwrap());
        assert_eq!(id.as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_set_reads_back_and_verifies() {
        let (a, b) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let publics = [a.verifying_key().to_bytes(), b.verifying_key().to_bytes()];
        let keys = Keys::parse(&jwks(&publics)).unwrap();
        assert_eq!(Ok(&keys), Keys::of(&publics).as_ref());
        let signature = a.sign(b"x").to_bytes();
        assert!(keys.verify(&thumbprint(&publics[0]), b"x", &signature));
        assert!(!keys.verify(&thumbprint(&publics[1]), b"x", &signature));
        assert!(!keys.verify(&thumbprint(&publics[0]), b"y", &signature));
        assert!(keys.verify_any(b"x", &signature));
        let other = [thumbprint(&publics[1])];
        assert!(!keys.clone().only(&other).verify_any(b"x", &signature));
        assert_eq!(keys.only(&other).ids().collect::<Vec<_>>(), [&other[0]]);
    }

    #[test]
    fn bad_sets_are_refused() {
        let public = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
        let good = jwks(&[public]);
        for bad in [
            "{}".into(),
            r#"{"keys":[1]}"#.into(),
            jwks(&[public, public]),
            jwks(&[[0; 32]]),
            good.replace(r#""use":"sig""#, r#""use":"enc""#),
            good.replace("EdDSA", "HS256"),
            good.replace(r#""kid":""#, r#""kid":"x"#),
            good.replace(r#""use":"sig""#, r#""d":"AA""#),
        ] {
            assert!(Keys::parse(&bad).is_err(), "{bad}");
        }
        let foreign = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"e"}]}"#;
        assert_eq!(Keys::parse(foreign), Ok(Keys::default()));
    }
}
