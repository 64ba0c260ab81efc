//! Which entries a subscriber gets, and how they look on the wire.

use std::collections::BTreeSet;

use prost::Message;
use protem_core::event::{EndReason, Event, Target};
use protem_core::request::field;
use protem_core::standing::Revocation;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::names::{IdentityName, ResourceName};
use protem_verify::time::Time;
use sha2::{Digest, Sha256};

use crate::engine::receipts::Covers;
use crate::journal::committed::Committed;
use crate::journal::port::Head;

/// What a subscriber follows. All with the same filter share one ring of encoded messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Only what concerns these; absent: all. Cut-offs that are not bound to a resource come in any case.
    pub resources: Option<BTreeSet<ResourceName>>,
    /// An observing identity: only its own grants, the cut-offs that name it or a key, and that of everything.
    pub identity: Option<IdentityName>,
    /// An observing person who may not see all: of the cut-offs that name an identity, only those of these; absent: all.
    pub observed: Option<BTreeSet<IdentityName>>,
    /// Also grants that merely expired.
    pub expiries: bool,
}

/// Where a subscriber left off; opaque to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which journal.
    pub journal: JournalId,
    /// Which life of it.
    pub epoch: Epoch,
    /// All up to here was sent.
    pub seq: Seq,
    /// The filter's digest, and the seq of the last item sent: 40 bytes.
    pub filter: Vec<u8>,
}

/// One thing that no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is in the journal.
    pub seq: Seq,
    /// What no longer counts.
    pub target: Target,
    /// Why.
    pub reason: EndReason,
    /// Since when.
    pub at: Time,
    /// No credential it covers can be alive then; absent: never forget.
    pub forget_after: Option<Time>,
}

impl Filter {
    /// Tells filters apart over restarts.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut hash = Sha256::new();
        field(&mut hash, &[u8::from(self.expiries), u8::from(self.resources.is_some())]);
        field(&mut hash, self.identity.as_ref().map_or("", IdentityName::as_str).as_bytes());
        for resource in self.resources.iter().flatten() {
            field(&mut hash, resource.as_str().as_bytes());
        }
        // Nothing is added for those who see all, so that their cursors of before go on.
        if let Some(observed) = &self.observed {
            field(&mut hash, b"observed");
            for identity in observed {
                field(&mut hash, identity.as_str().as_bytes());
            }
        }
        Hash(hash.finalize().into())
    }

    /// The part of the catalog that it follows.
    #[must_use]
    pub fn covers(&self) -> Covers {
        self.resources.clone().map_or(Covers::Everything, Covers::Resources)
    }

    /// What an entry means to it, if anything.
    #[must_use]
    pub fn item(&self, row: &Committed<Event>) -> Option<Item> {
        let told = told(row).filter(|told| told.early() || self.expiries)?;
        self.standing(&told)
    }

    /// What a snapshot's entry means to it, if anything.
    #[must_use]
    pub fn standing(&self, standing: &Revocation) -> Option<Item> {
        let resource = standing.resource.as_ref();
        self.takes(&standing.target, resource, standing.identity.as_ref()).then(|| Item {
            seq: standing.seq,
            target: standing.target.clone(),
            reason: standing.reason,
            at: standing.at,
            forget_after: standing.forget_after,
        })
    }

    /// The cursor of one who has been sent all up to `head`, and `last` last.
    #[must_use]
    pub fn cursor(&self, head: &Head, seq: Seq, last: Seq) -> Cursor {
        let filter = [self.digest().0.as_slice(), &last.0.to_be_bytes()].concat();
        Cursor { journal: head.journal, epoch: head.epoch, seq, filter }
    }

    fn names_seen(&self, target: &Target) -> bool {
        match (&self.observed, target) {
            (Some(seen), Target::Task(identity, _) | Target::Identity(identity)) => {
                seen.contains(identity)
            }
            (None, _)
            | (
                Some(_),
                Target::Grant(_)
                | Target::Resource(_)
                | Target::Scope(..)
                | Target::Key(_)
                | Target::Everything,
            ) => true,
        }
    }

    fn takes(
        &self,
        target: &Target,
        resource: Option<&ResourceName>,
        identity: Option<&IdentityName>,
    ) -> bool {
        let mine = match (&self.identity, target) {
            (None, _) | (Some(_), Target::Key(_) | Target::Everything) => true,
            (Some(own), _) => identity == Some(own),
        };
        let here = match (&self.resources, resource) {
            (None, _) | (Some(_), None) => true,
            (Some(some), Some(resource)) => some.contains(resource),
        };
        mine && here && self.names_seen(target)
    }
}

impl Cursor {
    /// The filter's digest and the last item sent, when it is one of ours.
    #[must_use]
    pub fn parts(&self) -> Option<(Hash, Seq)> {
        let (digest, last) = self.filter.split_at_checked(32)?;
        let digest = Hash(digest.try_into().ok()?);
        Some((digest, Seq(u64::from_be_bytes(last.try_into().ok()?))))
    }

    /// On the wire.
    #[must_use]
    pub fn wire(&self) -> v1::Cursor {
        v1::Cursor {
            journal: self.journal.0.to_vec(),
            epoch: self.epoch.0,
            seq: self.seq.0,
            filter: self.filter.clone(),
        }
    }
}

impl Item {
    /// On the wire, after the item at `prev`.
    #[must_use]
    pub fn wire(&self, prev: Seq) -> v1::Revocation {
        use v1::revocation::Target as To;
        let target = match &self.target {
            Target::Grant(grant) => To::Grant(grant.0.to_vec()),
            Target::Task(identity, task) => To::Task(format!("{identity}#{task}")),
            Target::Identity(identity) => To::Identity(identity.to_string()),
            Target::Resource(resource) => To::Resource(resource.to_string()),
            Target::Scope(resource, scope) => To::Scope(format!("{resource}#{scope}")),
            Target::Key(key) => To::KeyId(key.to_string()),
            Target::Everything => To::Everything(true),
        };
        v1::Revocation {
            seq: self.seq.0,
            prev_seq: prev.0,
            reason: i32::from(reason(self.reason)),
            at: Some(timestamp(self.at)),
            forget_after: self.forget_after.map(timestamp),
            target: Some(target),
        }
    }
}

/// The part of the catalog that an entry ends access on, if it is one that gateways are told of.
#[must_use]
pub fn ends(row: &Committed<Event>) -> Option<Covers> {
    let told = told(row).filter(Revocation::early)?;
    Some(told.resource.map_or(Covers::Everything, |one| Covers::Resources([one].into())))
}

fn told(row: &Committed<Event>) -> Option<Revocation> {
    Revocation::of(row.seq(), row.at(), row.what())
}

/// A message as the bytes that all its subscribers share.
#[must_use]
pub fn encode(message: Wire) -> Encoded {
    Encoded(v1::SubscribeResponse { message: Some(message) }.encode_to_vec().into())
}

/// A moment on the wire.
#[must_use]
pub fn timestamp(at: Time) -> prost_types::Timestamp {
    let nanos = at.as_millis() % 1_000 * 1_000_000;
    prost_types::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

/// A span on the wire.
#[must_use]
pub fn duration(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// Why access is over, as the wire says it.
#[must_use]
pub fn reason(reason: EndReason) -> v1::EndReason {
    match reason {
        EndReason::Completed => v1::EndReason::Completed,
        EndReason::Expired => v1::EndReason::Expired,
        EndReason::Abandoned => v1::EndReason::Abandoned,
        EndReason::Revoked => v1::EndReason::Revoked,
        EndReason::Denied => v1::EndReason::Denied,
        EndReason::Lapsed => v1::EndReason::Lapsed,
        EndReason::Withdrawn => v1::EndReason::Withdrawn,
        EndReason::Policy => v1::EndReason::Policy,
        EndReason::Quarantined => v1::EndReason::Quarantined,
        EndReason::Fenced => v1::EndReason::Fenced,
    }
}
