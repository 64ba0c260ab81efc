//! What foreign tokens and key sets are refused for.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use protem_verify::codes::{Code, caller};
use protem_verify::time::Time;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::serve::jwt::{Keys, Kind, Rejected, Token, Trusted, Verified, unknown_issuer};

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
        keys: Arc::new(Keys::parse(jwks.as_bytes()).unwrap()),
        kind: Kind::Oidc,
    };
    Issuer { pair, trusted }
}

const HEADER: &str = r#"{"typ":"JWT","alg":"EdDSA","kid":"k1"}"#;
const CLAIMS: &str =
    r#"{"iss":"https://idp.example","sub":"a","aud":["x","protem"],"iat":1000000,"exp":1000001}"#;

fn sign(issuer: &Issuer, header: &str, claims: &str) -> String {
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = issuer.pair.sign(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}

/// As the door does it.
fn verify(token: &str, trusted: &Trusted) -> Result<Verified, Rejected> {
    let token = Token::read(token)?;
    if token.issuer() != Some(&trusted.issuer) {
        return Err(unknown_issuer(token.issuer(), ""));
    }
    token.verify(trusted, Time::from_secs(NOW))
}

#[track_caller]
fn check(issuer: &Issuer, token: &str, expect: Option<Code>) {
    let found = verify(token, &issuer.trusted);
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
    for aud in
        [r#"[]"#, r#""""#, r#""prote""#, r#""protem2""#, r#"["x"]"#, r#"["protem",1]"#, "1", "{}"]
    {
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
