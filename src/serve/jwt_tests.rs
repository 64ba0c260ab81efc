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

/// The claims with one thing changed.
#[track_caller]
fn spoilt(from: &str, to: &str, code: Code) {
    let issuer = issuer();
    let claims = CLAIMS.replace(from, to);
    assert_ne!(claims, CLAIMS);
    check(&issuer, &sign(&issuer, HEADER, &claims), Some(code));
}

/// Row 1.
#[test]
fn attack_foreign_exp_nbf_wrong_type_or_missing() {
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
        spoilt(from, to, caller::TOKEN_UNREADABLE);
    }
    spoilt(r#""exp":1000001"#, r#""exp":1000000"#, caller::TOKEN_EXPIRED);
    spoilt(r#""exp":1000001"#, r#""exp":2000000,"nbf":1000006"#, caller::TOKEN_EARLY);
    spoilt(r#""iat":1000000"#, r#""iat":1000006"#, caller::TOKEN_EARLY);
}

/// Rows 3 and 4: another deployment's audience is somebody else's.
#[test]
fn attack_foreign_aud_missing_array_or_of_sister_broker() {
    for aud in [
        r#"[]"#,
        r#""""#,
        r#""prote""#,
        r#""protem2""#,
        r#""PROTEM""#,
        r#"["x"]"#,
        r#"["protem",1]"#,
        "1",
        "{}",
        "null",
    ] {
        spoilt(r#"["x","protem"]"#, aud, caller::WRONG_AUDIENCE);
    }
    spoilt(r#""aud":["x","protem"],"#, "", caller::WRONG_AUDIENCE);
    // An audience that was never configured is nobody's, not everybody's.
    let mut open = issuer();
    open.trusted.audience = "".into();
    let empty = CLAIMS.replace(r#"["x","protem"]"#, r#""""#);
    check(&open, &sign(&open, HEADER, &empty), Some(caller::WRONG_AUDIENCE));
}

/// Row 5.
#[test]
fn attack_foreign_iss_prefix_suffix_substring() {
    for iss in [
        "https://idp.example/",
        "https://idp.exampl",
        "xhttps://idp.example",
        "HTTPS://idp.example",
        "https://idp.example ",
        "https://idp.example.evil",
    ] {
        spoilt("https://idp.example", iss, caller::UNKNOWN_ISSUER);
    }
}

/// Rows 2, 6, 7 and 8.
#[test]
fn attack_foreign_alg_none_hmac_crit_kid_and_keys_of_its_own() {
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
        r#"{"alg":"EdDSA","kid":"k1","typ":"logout+jwt"}"#,
        r#"{"alg":"EdDSA","kid":"k1","typ":"wit+jwt"}"#,
        r#"{"alg":"EdDSA","kid":"k1","typ":"dpop+jwt"}"#,
        r#"{"alg":"EdDSA","kid":"k1","typ":5}"#,
    ] {
        check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::TOKEN_UNREADABLE));
    }
    for header in [
        r#"{"alg":"RS256","kid":"k1"}"#,
        r#"{"alg":"EdDSA","kid":"k2"}"#,
        r#"{"alg":"EdDSA","kid":"../k1"}"#,
        r#"{"alg":"EdDSA","kid":"k1' OR '1'='1"}"#,
        r#"{"alg":"EdDSA","kid":""}"#,
    ] {
        check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::UNKNOWN_KEY));
    }
}

/// Row 7 and OpenID Connect Core §2: a person's token is an id token, and of our own client.
#[test]
fn attack_people_by_access_tokens_and_other_clients() {
    let mut issuer = issuer();
    let with = |claims: &str, azp: &str| claims.replace(r#""sub""#, &format!("{azp}\"sub\""));
    let cases = [
        ("", None),
        (r#""azp":"protem","#, None),
        (r#""azp":"x","#, Some(caller::WRONG_AUDIENCE)),
        (r#""azp":"","#, Some(caller::WRONG_AUDIENCE)),
        (r#""azp":["protem"],"#, Some(caller::WRONG_AUDIENCE)),
        (r#""azp":null,"#, Some(caller::WRONG_AUDIENCE)),
    ];
    for kind in [Kind::People, Kind::Oidc] {
        issuer.trusted.kind = kind;
        let people = |code: Option<Code>| code.filter(|_| kind == Kind::People);
        for (azp, code) in cases {
            for aud in [r#"["x","protem"]"#, r#""protem""#] {
                let claims = with(&CLAIMS.replace(r#"["x","protem"]"#, aud), azp);
                check(&issuer, &sign(&issuer, HEADER, &claims), people(code));
            }
        }
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            let header = HEADER.replace("JWT", typ);
            let code = people(Some(caller::TOKEN_UNREADABLE));
            check(&issuer, &sign(&issuer, &header, CLAIMS), code);
        }
    }
}

/// JWT-SVID §2: no EdDSA, and no header beyond three.
#[test]
fn an_svid_has_fewer_headers_and_algorithms() {
    let mut issuer = issuer();
    issuer.trusted.kind = Kind::Svid;
    check(&issuer, &sign(&issuer, HEADER, CLAIMS), Some(caller::TOKEN_UNREADABLE));
    for header in [
        r#"{"alg":"ES256","kid":"k1","x5t":"a"}"#,
        r#"{"alg":"ES256","kid":"k1","typ":"at+jwt"}"#,
        r#"{"alg":"ES256"}"#,
    ] {
        check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::TOKEN_UNREADABLE));
    }
    // What is left is judged by its key.
    for header in [r#"{"alg":"ES256","kid":"k1"}"#, r#"{"alg":"RS256","kid":"k1","typ":"JOSE"}"#] {
        check(&issuer, &sign(&issuer, header, CLAIMS), Some(caller::UNKNOWN_KEY));
    }
}

/// Rows 9 and 10.
#[test]
fn attack_foreign_million_dots_and_truncated_signature() {
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
    let (x, n) = (BASE64URL_NOPAD.encode(&[7; 32]), BASE64URL_NOPAD.encode(&[0xff; 256]));
    let ed = format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#);
    let rsa = |n: &str, e: &str| format!(r#""kty":"RSA","n":"{n}","e":"{e}""#);
    let few = |bytes: usize| BASE64URL_NOPAD.encode(&vec![0xff; bytes]);
    for good in [
        ed.clone(),
        format!(r#"{ed},"use":"sig","key_ops":["verify"],"alg":"EdDSA","x5c":["a"]"#),
        rsa(&n, "AQAB"),
        rsa(&few(1_024), "AQAB"),
    ] {
        assert!(Keys::parse(format!("{{\"keys\":[{{{good}}}]}}").as_bytes()).is_ok(), "{good}");
    }
    for bad in [
        r#""kty":"oct","k":"AA""#.to_owned(),
        format!(r#"{ed},"alg":"RS256""#),
        format!(r#"{ed},"alg":"HS256""#),
        format!(r#"{ed},"use":"enc""#),
        format!(r#"{ed},"use":7"#),
        format!(r#"{ed},"key_ops":["sign"]"#),
        format!(r#"{ed},"d":"{x}""#),
        format!(r#"{ed},"k":"{x}""#),
        r#""kty":"OKP","crv":"Ed25519","x":"AA""#.to_owned(),
        r#""kty":"OKP","crv":"X25519","x":"AA""#.to_owned(),
        format!(r#""kty":"EC","crv":"P-384","x":"{x}","y":"{x}""#),
        format!(r#""kty":"EC","crv":"P-256","x":"{x}""#),
        rsa(&few(255), "AQAB"),
        rsa(&few(1_025), "AQAB"),
        rsa(&n, "Aw"),
        rsa(&n, "AQ"),
        rsa(&n, ""),
        format!(r#"{},"p":"AA""#, rsa(&n, "AQAB")),
    ] {
        let set = format!("{{\"keys\":[{{{bad}}}]}}");
        assert!(Keys::parse(set.as_bytes()).is_err(), "{bad}");
        assert!(Keys::published(set.as_bytes()).unwrap().are_none(), "{bad}");
    }
    let many = vec![format!("{{{ed}}}"); 33].join(",");
    let two = format!(r#"{{{ed},"kid":"a"}},{{{ed},"kid":"a"}}"#);
    let large = format!(r#"{{{ed},"x":"{}"}}"#, "A".repeat(70_000));
    for bad in [many, two, large] {
        assert!(Keys::published(format!("{{\"keys\":[{bad}]}}").as_bytes()).is_err(), "{bad:.80}");
    }
    for bad in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html></html>"] {
        assert!(Keys::published(bad.as_bytes()).is_err(), "{bad}");
    }
}
