//! What a workload asks for.

use std::sync::Arc;

use protem_verify::ids::{Hash, RequestId};
use protem_verify::names::{
    IdentityName, Malformed, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::Lifetime;
use sha2::{Digest, Sha256};

use crate::limits::SCOPES_MAX;

/// A registered identity and who authenticated as it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Its name in the inventory.
    pub identity: IdentityName,
    /// Who authenticated: credentials go to this subject only.
    pub subject: Subject,
}

/// The unit of work that access is for, in its workload's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Unique for its identity.
    pub id: TaskId,
    /// A word that policies match on.
    pub kind: TaskKind,
    /// Where a person can look at it; may be empty.
    pub url: Words,
}

/// One to 32 scopes, sorted and distinct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scopes(Arc<[ScopeName]>);

impl Scopes {
    /// Sorts and deduplicates.
    ///
    /// # Errors
    /// When there are none, or more than 32: an empty list never means all.
    pub fn new(mut scopes: Vec<ScopeName>) -> Result<Self, Malformed> {
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(Malformed { field: "scopes", why: "is empty" });
        }
        if scopes.len() > SCOPES_MAX {
            return Err(Malformed { field: "scopes", why: "has more than 32 scopes" });
        }
        Ok(Self(scopes.into()))
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &ScopeName> {
        self.0.iter()
    }

    /// Whether `name` is among them.
    #[must_use]
    pub fn contains(&self, name: &ScopeName) -> bool {
        self.0.binary_search(name).is_ok()
    }

    /// Whether each of these is among `wider`.
    #[must_use]
    pub fn within(&self, wider: &Self) -> bool {
        self.iter().all(|scope| wider.contains(scope))
    }
}

/// What a credential is bound to, so that a stolen one is of no use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofKey {
    /// DPoP (RFC 9449): the SHA-256 thumbprint of the holder's public JWK.
    Thumbprint([u8; 32]),
    /// mTLS (RFC 8705): the SHA-256 of the holder's certificate.
    Certificate([u8; 32]),
}

/// A request for access, parsed and attributed: nothing in it is left to validate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRequest {
    /// Who asks.
    pub by: Workload,
    /// For which unit of work.
    pub task: Task,
    /// On what.
    pub resource: ResourceName,
    /// Exactly these.
    pub scopes: Scopes,
    /// For how long; absent: the catalog's default.
    pub lifetime: Option<Lifetime>,
    /// Why, in the requester's words.
    pub purpose: Words,
    /// The idempotency key, if the workload gave one.
    pub key: Option<RequestId>,
    /// Break-glass.
    pub emergency: bool,
    /// What the credential shall be bound to.
    pub proof: Option<ProofKey>,
}

impl AccessRequest {
    /// A digest of all that is asked, without the idempotency key: two requests under one key must agree in it.
    #[must_use]
    pub fn content(&self) -> Hash {
        let mut hash = Sha256::new();
        field(&mut hash, self.by.identity.as_str().as_bytes());
        field(&mut hash, self.by.subject.as_str().as_bytes());
        field(&mut hash, self.task.id.as_str().as_bytes());
        field(&mut hash, self.task.kind.as_str().as_bytes());
        field(&mut hash, self.task.url.as_str().as_bytes());
        field(&mut hash, self.resource.as_str().as_bytes());
        for scope in self.scopes.iter() {
            field(&mut hash, scope.as_str().as_bytes());
        }
        let lifetime = self.lifetime.map_or(u128::MAX, |life| life.0.as_millis());
        field(&mut hash, &lifetime.to_be_bytes());
        field(&mut hash, self.purpose.as_str().as_bytes());
        field(&mut hash, &[u8::from(self.emergency)]);
        proof_field(&mut hash, self.proof.as_ref());
        Hash(hash.finalize().into())
    }
}

/// Feeds one length-prefixed field, so that no two different lists of fields hash alike.
pub fn field(hash: &mut Sha256, bytes: &[u8]) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    hash.update(length.to_be_bytes());
    hash.update(bytes);
}

/// Feeds a proof key as one field.
pub fn proof_field(hash: &mut Sha256, proof: Option<&ProofKey>) {
    match proof {
        None => field(hash, b""),
        Some(ProofKey::Thumbprint(bytes)) => field(hash, &[b"jkt".as_slice(), bytes].concat()),
        Some(ProofKey::Certificate(bytes)) => field(hash, &[b"x5t".as_slice(), bytes].concat()),
    }
}
