//! Row 11: a credential or key of one resource, one broker or one purpose counts for no other.

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use protem_clock::clock::{Clock, SystemClock};
use protem_gate::connect::TlsFiles;
use protem_gate::gate::{Gate, GateConfig};
use protem_gate::login::{CallerToken, Login, LoginFailed};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::keys::{Keys, thumbprint};
use protem_verify::known::Moment;
use protem_verify::names::ResourceName;
use protem_verify::verifier::{Call, Reason, Verdict};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use crate::broker::{TestBroker, fresh_task};
use crate::process::PATIENCE;
use crate::served::refused;

/// A gateway of a broker, with a fresh view.
pub struct Guard {
    pub gate: Gate,
    _state: tempfile::TempDir,
}

struct Token(String);

impl Login for Token {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(CallerToken::new(self.0.clone()))))
    }
}

impl Guard {
    pub async fn of(broker: &TestBroker) -> Self {
        let state = tempfile::tempdir().unwrap();
        let config = GateConfig {
            broker: broker.url.clone(),
            gateway: "edge-eu-1".try_into().unwrap(),
            issuer: broker.url.clone(),
            resources: vec![orders(), crm()],
            state: state.path().to_owned(),
            login: Some(Arc::new(Token(broker.sign(&broker.claims("edge-eu-1", "gateway", &[]))))),
            tls: TlsFiles::default(),
            clock: Arc::new(SystemClock),
        };
        let gate = Gate::start(config).unwrap();
        tokio::time::timeout(PATIENCE, gate.fresh()).await.expect("the gateway stays blind");
        Self { gate, _state: state }
    }

    /// What the gateway says when orders are read with this credential.
    pub async fn reads_orders(&self, token: &str) -> Result<(), Reason> {
        self.calls(token, &orders(), "/v1/orders").await
    }

    async fn calls(&self, token: &str, resource: &ResourceName, path: &str) -> Result<(), Reason> {
        let call = Call { resource, method: "GET", path };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let now = Moment { boot: SystemClock.boot(), unix: SystemClock.unix() };
            match self.gate.verifier().check(token, &call, now) {
                Verdict::Allow(_) => return Ok(()),
                // A grant of this very moment: the feed is on its way.
                Verdict::Deny(Reason::Behind) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Verdict::Deny(reason) => return Err(reason),
            }
        }
        panic!("the gateway never catches up");
    }
}

pub fn orders() -> ResourceName {
    ResourceName::try_from("orders-api").unwrap()
}

fn crm() -> ResourceName {
    ResourceName::try_from("legacy-crm").unwrap()
}

async fn credential(broker: &TestBroker) -> String {
    let mut agent = broker.identity("payments/agent");
    agent.ask(&fresh_task()).await.unwrap().credential.unwrap().token
}

/// The private key of a purpose with an id that `is` accepts, as it lies in the broker's folder.
fn private(folder: &Path, purpose: &str, is: impl Fn(&str) -> bool) -> SigningKey {
    for file in std::fs::read_dir(folder.join("keys")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let seed = BASE64URL_NOPAD.decode(words[2].as_bytes()).unwrap();
        let key = SigningKey::from_bytes(&seed.try_into().unwrap());
        if words[1] == purpose && is(&id(&key)) {
            return key;
        }
    }
    panic!("no key for {purpose}");
}

/// The same header members and payload, signed by another key under its own or another's id.
pub fn signed_anew(token: &str, key: &SigningKey, kid: &str) -> String {
    let payload = token.split('.').nth(1).unwrap();
    with_payload(payload, key, kid)
}

fn with_payload(payload: &str, key: &SigningKey, kid: &str) -> String {
    let head = json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid}).to_string();
    let signed = format!("{}.{payload}", BASE64URL_NOPAD.encode(head.as_bytes()));
    let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

fn kid(token: &str) -> String {
    let head = BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    head["kid"].as_str().unwrap().to_owned()
}

fn id(key: &SigningKey) -> String {
    thumbprint(key.verifying_key().as_bytes()).as_str().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_tenant_swap() {
    let (ours, theirs) = (TestBroker::start().await, TestBroker::start().await);
    let (guard, token) = (Guard::of(&ours).await, credential(&ours).await);
    let foreign = credential(&theirs).await;
    assert_eq!(guard.reads_orders(&token).await, Ok(()));
    // At another resource of the same gateway.
    let elsewhere = guard.calls(&token, &crm(), "/api/customers").await;
    assert_eq!(elsewhere, Err(Reason::WrongAudience));
    // Of another broker, whose bundle, identities and tasks have the same names.
    assert_eq!(guard.reads_orders(&foreign).await, Err(Reason::UnknownKey));
    let relabelled =
        foreign.replacen(foreign.split('.').next().unwrap(), token.split('.').next().unwrap(), 1);
    assert_eq!(guard.reads_orders(&relabelled).await, Err(Reason::BadSignature));
    let heads = (ours.head(), theirs.head());
    let ended = ours.identity("payments/agent").revoke(By::Token(foreign)).await.unwrap();
    assert_eq!(ended.grants_ended, 0);
    // Callers of one broker at the other; the audience alone is not enough, nor is the key.
    assert_eq!(refused(&ours, theirs.identity_token("payments/agent")).await, "PT-0606");
    let mut claims = theirs.claims("payments/agent", "identity", &[]);
    claims["aud"] = ours.url.clone().into();
    assert_eq!(refused(&ours, theirs.sign(&claims)).await, "PT-0606");
    let mut claims = ours.claims("payments/agent", "identity", &[]);
    claims["aud"] = theirs.url.clone().into();
    assert_eq!(refused(&ours, ours.sign(&claims)).await, "PT-0607");
    assert_eq!((ours.head(), theirs.head()), heads, "nothing changed");
    assert_eq!(guard.reads_orders(&token).await, Ok(()));
    ours.stop().await;
    theirs.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_key_used_out_of_scope() {
    let broker = TestBroker::start().await;
    let (guard, token) = (Guard::of(&broker).await, credential(&broker).await);
    let (folder, signed_by) = (broker.folder.path(), kid(&token));
    let signs = private(folder, "credential", |id| id == signed_by);
    let proves = private(folder, "checkpoint", |_| true);
    // The attack's tool works: what the right key signs counts.
    assert_eq!(guard.reads_orders(&signed_anew(&token, &signs, &id(&signs))).await, Ok(()));
    // A checkpoint key signs no credential, under its own name or the other's.
    let forged = signed_anew(&token, &proves, &id(&proves));
    assert_eq!(guard.reads_orders(&forged).await, Err(Reason::UnknownKey));
    let forged = signed_anew(&token, &proves, &id(&signs));
    assert_eq!(guard.reads_orders(&forged).await, Err(Reason::BadSignature));
    let mut agent = broker.identity("payments/agent");
    let head = broker.head();
    assert_eq!(agent.revoke(By::Token(forged)).await.unwrap().grants_ended, 0);
    // A credential key signs no checkpoint: the two sets that gateways get share no key.
    let feed = broker.gateway("edge-eu-1").revocations.head(v1::HeadRequest::default()).await;
    let sets = feed.unwrap().into_inner().keys.unwrap();
    let credentials = Keys::parse(&sets.jwks).unwrap();
    let checkpoints = Keys::parse(&sets.checkpoint_jwks).unwrap();
    assert!(!credentials.overlap(&checkpoints));
    let (by_proves, by_signs) = (proves.sign(b"x").to_bytes(), signs.sign(b"x").to_bytes());
    assert!(checkpoints.verify_any(b"x", &by_proves) && !checkpoints.verify_any(b"x", &by_signs));
    assert!(!broker.broker.jwks().contains(&id(&proves)), "the public key set is of credentials");
    // Neither signs callers in, and a credential is no caller token.
    for key in [&signs, &proves] {
        let claims = broker.claims("payments/agent", "identity", &[]).to_string();
        let payload = BASE64URL_NOPAD.encode(claims.as_bytes());
        assert_eq!(refused(&broker, with_payload(&payload, key, "dev")).await, "PT-0606");
        assert_eq!(refused(&broker, with_payload(&payload, key, &id(key))).await, "PT-0605");
    }
    assert_eq!(refused(&broker, token.clone()).await, "PT-0604");
    // A caller token is no credential.
    let caller = broker.identity_token("payments/agent");
    assert!(matches!(guard.reads_orders(&caller).await, Err(Reason::Malformed(_))));
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}
