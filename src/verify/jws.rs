//! Compact JWS, strictly: three parts, unpadded base64url, a closed header, and no word of the token decides how it is checked.

use data_encoding::BASE64URL_NOPAD;

use crate::json::Json;
use crate::names::KeyId;

/// The longest token in bytes, checked before anything is split: a header line of most servers holds no more.
pub const TOKEN_MAX: usize = 8 * 1024;
/// `typ` of a credential (RFC 9068 §2.1).
pub const ACCESS_TOKEN: &str = "at+jwt";

/// A token that was taken apart and not yet believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Jws<'token> {
    /// Which key is said to have signed it.
    pub kid: KeyId,
    /// Header and payload as they were signed.
    pub signed: &'token [u8],
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// Ed25519, 64 bytes.
    pub signature: [u8; 64],
}

/// Why a token cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Longer than [`TOKEN_MAX`].
    #[error("the token is longer than 8 KiB")]
    TooLong,
    /// Not three parts.
    #[error("the token is not three parts joined by dots")]
    Parts,
    /// A part is not unpadded base64url, or not in its one canonical spelling.
    #[error("a part of the token is not unpadded base64url")]
    Base64,
    /// The header has other members than `typ`, `alg` and `kid`, or one of them is wrong.
    #[error("the token's header is not one of ours")]
    Header,
    /// The payload has other members than ours, or one of them is wrong.
    #[error("the token's claim `{0}` is missing, wrong or unknown")]
    Claim(&'static str),
}

impl<'token> Jws<'token> {
    /// Takes a token of kind `typ` apart.
    ///
    /// # Errors
    /// At the first thing that is not exactly as [`encode`] writes it, but for `alg`, which may also be spelled `Ed25519` (RFC 9864).
    pub fn parse(token: &'token str, typ: &str) -> Result<Self, Flaw> {
        if token.len() > TOKEN_MAX {
            return Err(Flaw::TooLong);
        }
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Parts);
        };
        let kid = header_kid(&decode(header)?, typ)?;
        let signed_len = header.len().saturating_add(1).saturating_add(payload.len());
        let signed = token.as_bytes().get(..signed_len).ok_or(Flaw::Parts)?;
        let signature = decode(signature)?.try_into().map_err(|_| Flaw::Base64)?;
        Ok(Self { kid, signed, payload: decode(payload)?, signature })
    }
}

/// Writes a token of kind `typ`: `sign` signs exactly the bytes it is given.
#[must_use]
pub fn encode(
    typ: &str,
    kid: &KeyId,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> [u8; 64],
) -> String {
    // Written by hand: the same record must give the same bytes, whatever order a map of some build has.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let header =
        format!(r#"{{"typ":{},"alg":"EdDSA","kid":{}}}"#, quoted(typ), quoted(kid.as_str()));
    let mut token = BASE64URL_NOPAD.encode(header.as_bytes());
    token.push('.');
    token.push_str(&BASE64URL_NOPAD.encode(payload.as_bytes()));
    let signature = sign(token.as_bytes());
    token.push('.');
    token.push_str(&BASE64URL_NOPAD.encode(&signature));
    token
}

fn decode(part: &str) -> Result<Vec<u8>, Flaw> {
    // data-encoding refuses padding, foreign characters and trailing bits that are not zero.
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Flaw::Base64)
}

/// The closed header: with `crit`, `jku`, `jwk`, `x5u`, `x5c`, `zip`, `b64` or anything else it is none (RFC 8725 §3.10).
fn header_kid(header: &[u8], typ: &str) -> Result<KeyId, Flaw> {
    let header = Json::parse(header).map_err(|_| Flaw::Header)?;
    let members = header.members().ok_or(Flaw::Header)?;
    let text = |name: &str| members.get(name).and_then(Json::text).ok_or(Flaw::Header);
    let ours = text("typ")? == typ && matches!(text("alg")?, "EdDSA" | "Ed25519");
    if !ours || members.len() != 3 {
        return Err(Flaw::Header);
    }
    KeyId::try_from(text("kid")?).map_err(|_| Flaw::Header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.{}", part(header), part("{}"), BASE64URL_NOPAD.encode(&[7; 64]))
    }

    #[test]
    fn what_encode_writes_is_read_back() {
        let kid = KeyId::try_from("k").unwrap();
        let token = encode(ACCESS_TOKEN, &kid, r#"{"a":1}"#, |_| [9; 64]);
        let jws = Jws::parse(&token, ACCESS_TOKEN).ok().unwrap();
        assert_eq!((jws.kid, jws.signature), (kid, [9; 64]));
        assert_eq!(jws.payload, br#"{"a":1}"#);
        let header = token.split('.').next().unwrap();
        let header = BASE64URL_NOPAD.decode(header.as_bytes()).unwrap();
        assert_eq!(
            header, br#"{"typ":"at+jwt","alg":"EdDSA","kid":"k"}"#,
            "the same in each build"
        );
        assert!(token.as_bytes().starts_with(jws.signed));
    }

    #[test]
    fn parts_and_encoding_are_exact() {
        let good = token(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"k"}"#);
        assert!(Jws::parse(&good, ACCESS_TOKEN).is_ok());
        let check = |token: &str, flaw: Flaw| {
            assert_eq!(Jws::parse(token, ACCESS_TOKEN).err(), Some(flaw), "{token}");
        };
        check("", Flaw::Parts);
        check("a.b", Flaw::Parts);
        check(&format!("{good}."), Flaw::Parts);
        check(&format!("{good}="), Flaw::Base64);
        check(&format!("{good}\n"), Flaw::Base64);
        check(&good.replace('.', "=."), Flaw::Base64);
        check(&"a".repeat(TOKEN_MAX + 1), Flaw::TooLong);
    }
}
