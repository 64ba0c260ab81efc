//! Sign a credential from a committed grant, and check it before it leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey as Ed25519};
use protem_core::event::{CredentialIssued, KeyPurpose};
use protem_core::request::ProofKey;
use protem_verify::claims::{Claims, Proof};
use protem_verify::jws::{self, Jws};
use protem_verify::keys::thumbprint;
use protem_verify::names::KeyId;
use protem_verify::time::{Staleness, Time};
use zeroize::Zeroizing;

use crate::journal::committed::Committed;

/// The `typ` of a credential (RFC 9068 §2.1).
pub const TYP: &str = "at+jwt";

/// A credential's text. It never prints; who hands it to its holder says `reveal`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<Zeroizing<String>>);

impl Token {
    /// The compact JWT, for its holder alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A private key with its own public half and one purpose. Its bytes are wiped when it is dropped.
#[derive(Clone)]
pub struct SigningKey {
    id: KeyId,
    purpose: KeyPurpose,
    key: Arc<Ed25519>,
}

impl SigningKey {
    /// From a seed of 32 random bytes (RFC 8032 §5.1.5).
    #[must_use]
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>, purpose: KeyPurpose) -> Self {
        let key = Ed25519::from_bytes(seed);
        let id = thumbprint(key.verifying_key().as_bytes());
        Self { id, purpose, key: Arc::new(key) }
    }

    /// Its RFC 7638 thumbprint.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What it signs, and nothing else.
    #[must_use]
    pub fn purpose(&self) -> KeyPurpose {
        self.purpose
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The key itself, for checkpoints; `None` when that is not its purpose.
    #[must_use]
    pub fn for_checkpoints(&self) -> Option<&Ed25519> {
        (self.purpose == KeyPurpose::Checkpoint).then_some(&*self.key)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {:?})", self.id, self.purpose)
    }
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unminted {
    /// Another key is on record, or this one is for something else.
    #[error("the record names key `{0}`")]
    OtherKey(KeyId),
    /// What came out is not what is on record. It did not leave.
    #[error("the credential failed its own check")]
    SelfCheck,
}

/// A signed token that has not been checked and cannot leave.
pub struct Unchecked {
    token: Zeroizing<String>,
    claims: Claims,
    key: SigningKey,
}

/// Signs what the journal records. The same record gives the same token: Ed25519 is deterministic (RFC 8032 §5.1.6).
///
/// # Errors
/// When `key` is not the one on record.
pub fn sign(
    issued: &Committed<CredentialIssued>,
    issuer: &Arc<str>,
    key: &SigningKey,
) -> Result<Unchecked, Unminted> {
    let record = issued.what();
    if record.key != *key.id() || key.purpose() != KeyPurpose::Credential {
        return Err(Unminted::OtherKey(record.key.clone()));
    }
    let claims = claims(issued, issuer);
    let payload = Zeroizing::new(claims.encode());
    let token = jws::encode(TYP, key.id(), &payload, |message| key.key.sign(message).to_bytes());
    Ok(Unchecked { token: Zeroizing::new(token), claims, key: key.clone() })
}

/// Checks signed tokens, their signatures as one batch where there are several, and lets each go that says exactly what is
/// on record. A wrong one, as by a fault of memory, spoils only itself.
#[must_use]
pub fn check(signed: Vec<Unchecked>) -> Vec<Result<Token, Unminted>> {
    let parsed: Vec<Option<Jws<'_>>> = signed.iter().map(Unchecked::parse).collect();
    let all = batch(&signed, &parsed);
    let good: Vec<bool> = signed
        .iter()
        .zip(&parsed)
        .map(|(one, parsed)| parsed.as_ref().is_some_and(|jws| all || one.strictly(jws)))
        .collect();
    drop(parsed);
    signed
        .into_iter()
        .zip(good)
        .map(
            |(one, good)| {
                if good { Ok(Token(Arc::new(one.token))) } else { Err(Unminted::SelfCheck) }
            },
        )
        .collect()
}

/// Signs one credential and checks it.
///
/// # Errors
/// When `key` is not the one on record, or what came out fails its check.
pub fn mint(
    issued: &Committed<CredentialIssued>,
    issuer: &Arc<str>,
    key: &SigningKey,
) -> Result<Token, Unminted> {
    let signed = sign(issued, issuer, key)?;
    check(vec![signed]).pop().unwrap_or(Err(Unminted::SelfCheck))
}

impl Unchecked {
    /// The parts, when the strict parser reads back exactly the claims on record.
    fn parse(&self) -> Option<Jws<'_>> {
        let jws = Jws::parse(&self.token, TYP).ok()?;
        let same = Claims::decode(&jws.payload).is_ok_and(|claims| claims == self.claims);
        (same && jws.kid == *self.key.id()).then_some(jws)
    }

    fn strictly(&self, jws: &Jws<'_>) -> bool {
        let signature = Signature::from_bytes(&jws.signature);
        self.key.key.verifying_key().verify_strict(jws.signed, &signature).is_ok()
    }
}

/// Whether all of several signatures hold; `false` says only that each must be looked at.
fn batch(signed: &[Unchecked], parsed: &[Option<Jws<'_>>]) -> bool {
    if signed.len() < 2 {
        return false;
    }
    let mut messages = Vec::with_capacity(signed.len());
    let mut signatures = Vec::with_capacity(signed.len());
    let mut keys = Vec::with_capacity(signed.len());
    for (one, jws) in signed.iter().zip(parsed) {
        let Some(jws) = jws else { return false };
        messages.push(jws.signed);
        signatures.push(Signature::from_bytes(&jws.signature));
        keys.push(one.key.key.verifying_key());
    }
    ed25519_dalek::verify_batch(&messages, &signatures, &keys).is_ok()
}

fn claims(issued: &Committed<CredentialIssued>, issuer: &Arc<str>) -> Claims {
    let record = issued.what();
    let terms = &record.terms;
    let whole = |time: Time| Time::from_secs(time.as_secs());
    let mut template = terms.claims.to_vec();
    template.sort();
    Claims {
        issuer: Arc::clone(issuer),
        subject: record.by.subject.clone(),
        identity: record.by.identity.clone(),
        grant: record.grant,
        number: record.number,
        issued: whole(record.iat),
        not_before: whole(record.iat),
        // INVARIANT(no_credential_outlives_its_grant): also when a record should say otherwise.
        expires: whole(record.exp.min(record.until)),
        scopes: record.scopes.iter().cloned().collect(),
        audience: Arc::clone(&terms.audience),
        proof: record.proof.as_ref().map(proof),
        seq: record.activated.unwrap_or(issued.seq()),
        until: whole(record.until),
        task: record.task.clone(),
        epoch: record.epoch,
        // Rounded down: a view may only be younger for it.
        fresh: Staleness(Duration::from_secs(terms.fresh.0.as_secs())),
        status: None,
        template,
    }
}

fn proof(key: &ProofKey) -> Proof {
    match key {
        ProofKey::Thumbprint(bytes) => Proof::Thumbprint(*bytes),
        ProofKey::Certificate(bytes) => Proof::Certificate(*bytes),
    }
}
