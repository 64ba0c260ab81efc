//! Issuers that are not ours: keys of every kind that the broker accepts, their JWKS file in a bundle, and their tokens.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use protem::policy::bundle::Files;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256,
};
use serde_json::{Value, json};

use crate::broker::policies;

/// An identity provider with one key of each kind.
pub struct Foreign {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

/// Every `alg` that is accepted; each is also the `kid` of its key.
pub const ALGS: [&str; 4] = ["RS256", "PS256", "ES256", "EdDSA"];
/// The `iss` of [`Foreign`], as the repository's bundle names it.
pub const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// The `aud` that the repository's bundle wants of it.
pub const AUDIENCE: &str = "https://protem.shop.example";

impl Foreign {
    pub fn new() -> Self {
        // `ring` makes no RSA keys, and a test needs no fresh one.
        Self::with_rsa(include_bytes!("foreign-rsa-2048.pk8"))
    }

    /// A provider that nobody knows, with other keys of the same kinds.
    pub fn stranger() -> Self {
        Self::with_rsa(include_bytes!("stranger-rsa-2048.pk8"))
    }

    fn with_rsa(rsa: &[u8]) -> Self {
        let random = SystemRandom::new();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(rsa).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(alg, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        }
    }

    pub fn jwks(&self) -> String {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let rsa = PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let (n, e) = (text(&rsa.n), text(&rsa.e));
        let point = self.ec.public_key().as_ref();
        let (x, y) = (text(&point[1..33]), text(&point[33..65]));
        json!({"keys": [
            {"kty": "RSA", "kid": "RS256", "alg": "RS256", "use": "sig", "n": n, "e": e},
            {"kty": "RSA", "kid": "PS256", "alg": "PS256", "n": n, "e": e},
            {"kty": "EC", "kid": "ES256", "crv": "P-256", "x": x, "y": y},
            {"kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": text(self.ed.public_key().as_ref())},
        ]})
        .to_string()
    }

    /// A token as this provider signs it.
    pub fn token(&self, alg: &str, claims: &Value) -> String {
        self.token_with(&json!({"alg": alg, "kid": alg, "typ": "JWT"}), alg, claims)
    }

    /// A token with any header, signed by the key of `alg`.
    pub fn token_with(&self, header: &Value, alg: &str, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match alg {
            "RS256" | "PS256" => {
                let mut out = vec![0; self.rsa.public().modulus_len()];
                let padding: &dyn ring::signature::RsaEncoding =
                    if alg == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                self.rsa.sign(padding, &random, signed.as_bytes(), &mut out).unwrap();
                out
            }
            "ES256" => self.ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// The repository's bundle, trusting these keys for `github`; `payments/agent` may also sign in by it.
    pub fn bundle(&self) -> Files {
        let mut files: Vec<(Arc<str>, Arc<[u8]>)> = policies().to_vec();
        for (name, text) in &mut files {
            let read = String::from_utf8(text.to_vec()).unwrap();
            let edited = match &**name {
                "issuers.toml" => {
                    let line = format!("audience = \"{AUDIENCE}\"\n");
                    assert!(read.contains(&line));
                    read.replace(&line, &format!("{line}jwks     = \"file:github.jwks.json\"\n"))
                }
                "identities.toml" => format!(
                    "{read}\n[[identity.\"payments/agent\".login]]\nissuer = \"github\"\n\
                     claims = {{ repository_id = \"7\", repository_owner_id = \"42\", ref = \"refs/heads/main\" }}\n"
                ),
                _ => continue,
            };
            *text = edited.into_bytes().into();
        }
        files.push(("github.jwks.json".into(), self.jwks().into_bytes().into()));
        files.sort();
        files.into()
    }
}

/// The claims of a good token for `payments/agent`.
pub fn agent(now: u64) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "repo:shop/agent", "iat": now, "nbf": now, "exp": now + 3_600,
        "repository_id": "7", "repository_owner_id": "42", "ref": "refs/heads/main",
    })
}
