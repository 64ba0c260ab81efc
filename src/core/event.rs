//! Events: what happened, past tense. What is in the journal is true.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{Epoch, GrantId, Hash, HoldId, JournalId, RequestId, Seq};
use protem_verify::names::{
    GroupName, IdentityName, KeyId, PersonName, ResourceName, ScopeName, TaskId, Words,
};
use protem_verify::time::{Lifetime, Time};

use crate::request::{AccessRequest, ProofKey, Scopes, Workload};
use crate::verdict::{Ruling, Standing, Terms};

/// A bundle's files: name and content, sorted by name.
pub type Files = Arc<[(Arc<str>, Arc<[u8]>)]>;

/// Who caused an event, as the journal shows it: `identity:payments/agent`, `person:alice`, `gateway:edge-eu-1`, `system`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor(pub Arc<str>);

/// One event before it is durable. Its place and time come from the turn that appends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Who caused it.
    pub actor: Actor,
    /// When, the same for all of a turn and never before the journal's last.
    pub at: Time,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first entry of every journal.
    JournalOpened {
        /// Its id.
        journal: JournalId,
        /// Its first epoch.
        epoch: Epoch,
        /// The `iss` of its credentials.
        issuer: Arc<str>,
        /// Whether `protem dev` made it; `protem serve` refuses such a journal.
        dev: bool,
    },
    /// A restore: every credential of an earlier epoch is void, every grant ended.
    EpochBegan {
        /// Greater than every earlier one.
        epoch: Epoch,
        /// Why.
        note: Words,
    },
    /// From here on verdicts of other bundles are refused.
    BundleActivated {
        /// SHA-256 over the files.
        digest: Hash,
        /// Name and content, sorted by name.
        files: Files,
    },
    /// Every grant from before the bundle has been confirmed or ended.
    BundleSettled {
        /// The bundle.
        digest: Hash,
    },
    /// These grants were evaluated again under the bundle in force and stay.
    GrantsConfirmed {
        /// The bundle.
        digest: Hash,
        /// At most a thousand.
        grants: Vec<GrantId>,
    },
    /// A request waits for approvers.
    GrantRequested(Box<Requested>),
    /// A new bundle, or a narrowing, changed what a waiting request needs.
    RequestReevaluated {
        /// The waiting grant.
        grant: GrantId,
        /// What policy says now.
        ruling: Box<Ruling>,
        /// What an approver signs off now.
        digest: Hash,
    },
    /// Access began.
    GrantActivated(Box<Activated>),
    /// A fresh credential under an active grant.
    CredentialIssued(Box<CredentialIssued>),
    /// Another idempotency key asked for what a live grant already is.
    RequestRepeated {
        /// Whose.
        identity: IdentityName,
        /// The further key.
        key: RequestId,
        /// `AccessRequest::content` under that key.
        content: Hash,
        /// The grant that answers it.
        grant: GrantId,
    },
    /// Policy said no.
    AccessRefused(Box<Asked>),
    /// Access, or the wait for it, is over. Final.
    GrantEnded(Box<Ended>),
    /// A person said yes.
    ApprovalGiven {
        /// The waiting grant.
        grant: GrantId,
        /// Who, joined over accounts.
        by: PersonName,
        /// In their words.
        reason: Words,
        /// What they saw.
        digest: Hash,
        /// Who they were then.
        standing: Standing,
    },
    /// Nobody decided by the time that the policy sets: people are reminded, once, and perhaps others are asked.
    RequestReminded {
        /// The waiting grant.
        grant: GrantId,
        /// Who is asked besides.
        then: Option<GroupName>,
    },
    /// A person took their yes back, or a new bundle no longer lets it count.
    ApprovalTakenBack {
        /// The waiting grant.
        grant: GrantId,
        /// Who.
        by: PersonName,
    },
    /// An approver narrowed a waiting request; earlier approvals of the wider one still count.
    RequestNarrowed {
        /// The waiting grant.
        grant: GrantId,
        /// Who.
        by: PersonName,
        /// What is left.
        scopes: Scopes,
        /// For how long at most.
        lifetime: Lifetime,
        /// What an approver signs off now.
        digest: Hash,
    },
    /// Someone looked at an emergency.
    ReviewClosed {
        /// The emergency's grant.
        grant: GrantId,
        /// Who.
        by: PersonName,
        /// What they found.
        note: Words,
    },
    /// A stream holds the task.
    TaskHeld {
        /// Whose.
        identity: IdentityName,
        /// Which.
        task: TaskId,
        /// This stream.
        hold: HoldId,
        /// How long its silence is forgiven.
        lease: Duration,
    },
    /// The task is over; its grants end in the same turn.
    TaskEnded {
        /// Whose.
        identity: IdentityName,
        /// Which.
        task: TaskId,
        /// Completed or abandoned.
        reason: EndReason,
        /// The workload's word.
        outcome: Words,
    },
    /// Every credential that matches, of a grant activated at or before this entry, is void.
    CutOff {
        /// What is cut off.
        target: Target,
        /// Why, as gateways are told.
        reason: EndReason,
        /// In the operator's words.
        note: Words,
        /// No credential it covers can still be alive then; absent: never forget.
        forget_after: Option<Time>,
    },
    /// The identity gets no grants until the quarantine is lifted. Stands after a cut-off of the identity.
    IdentityQuarantined {
        /// Which.
        identity: IdentityName,
        /// Why.
        note: Words,
    },
    /// The identity may ask again.
    QuarantineLifted {
        /// Which.
        identity: IdentityName,
        /// Why.
        note: Words,
    },
    /// A key that may sign later.
    KeyPublished(PublicKey),
    /// From here on it signs.
    KeyActivated {
        /// Which.
        key: KeyId,
    },
    /// It signs no more; tokens it signed live on to their end unless a cut-off names it.
    KeyRetired {
        /// Which.
        key: KeyId,
    },
    /// Somebody wants another key to sign instead; it signs on until that one may.
    KeyRotationAsked {
        /// The key that is to be replaced.
        key: KeyId,
        /// Why.
        note: Words,
    },
    /// Nothing it signed is alive any more; gateways forget it.
    KeyForgotten {
        /// Which.
        key: KeyId,
    },
}

/// A request with what policy said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub request: AccessRequest,
    /// What policy said.
    pub ruling: Ruling,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The grant it may become.
    pub grant: GrantId,
    /// What was asked and said.
    pub asked: Asked,
    /// When it lapses.
    pub decide_by: Time,
    /// What an approver signs off.
    pub digest: Hash,
    /// The person behind the requester, who never counts as its approver.
    pub behind: Option<PersonName>,
}

/// Access that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activated {
    /// What was asked and said; absent when a `GrantRequested` came before and says it.
    pub asked: Option<Asked>,
    /// When it ends at the latest. It never moves.
    pub until: Time,
    /// Its first credential: names the grant.
    pub credential: CredentialIssued,
}

/// All that a credential says: the same record gives the same token while its key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialIssued {
    /// The grant it is under.
    pub grant: GrantId,
    /// 0 for the first, then one more at each renewal.
    pub number: u32,
    /// Its identity and subject.
    pub by: Workload,
    /// Its task.
    pub task: TaskId,
    /// Its resource, by name.
    pub resource: ResourceName,
    /// What it allows.
    pub scopes: Scopes,
    /// Audience, life, freshness and template claims.
    pub terms: Terms,
    /// The key that signs it.
    pub key: KeyId,
    /// Whole seconds.
    pub iat: Time,
    /// Whole seconds, never after `until`.
    pub exp: Time,
    /// The grant's end.
    pub until: Time,
    /// Where the grant was activated; absent: at this very entry.
    pub activated: Option<Seq>,
    /// The journal's epoch.
    pub epoch: Epoch,
    /// What it is bound to.
    pub proof: Option<ProofKey>,
}

/// Access that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub grant: GrantId,
    /// Whose.
    pub identity: IdentityName,
    /// Under which task.
    pub task: TaskId,
    /// On what.
    pub resource: ResourceName,
    /// Why.
    pub reason: EndReason,
    /// In somebody's words.
    pub note: Words,
    /// When; a cut-off's grants ended at the cut-off, whenever the row was written.
    pub ended: Time,
    /// When the last of its credentials dies by itself; absent when it never had one.
    pub last_exp: Option<Time>,
    /// The entry that already told gateways: a cut-off.
    pub told_by: Option<Seq>,
}

/// What a cut-off covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One grant.
    Grant(GrantId),
    /// One task of one identity.
    Task(IdentityName, TaskId),
    /// All of one identity.
    Identity(IdentityName),
    /// All on one resource.
    Resource(ResourceName),
    /// All that hold one scope.
    Scope(ResourceName, ScopeName),
    /// All that one key ever signed, whatever it claims.
    Key(KeyId),
    /// All.
    Everything,
}

impl Target {
    /// The resource it concerns; absent: any.
    #[must_use]
    pub fn resource(&self) -> Option<&ResourceName> {
        match self {
            Self::Resource(resource) | Self::Scope(resource, _) => Some(resource),
            Self::Grant(_)
            | Self::Task(..)
            | Self::Identity(_)
            | Self::Key(_)
            | Self::Everything => None,
        }
    }

    /// The identity it names.
    #[must_use]
    pub fn identity(&self) -> Option<&IdentityName> {
        match self {
            Self::Identity(identity) | Self::Task(identity, _) => Some(identity),
            Self::Grant(_)
            | Self::Resource(_)
            | Self::Scope(..)
            | Self::Key(_)
            | Self::Everything => None,
        }
    }
}

/// Why access is over; the wire's `EndReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndReason {
    /// The task said it is done, or gave the grant back.
    Completed,
    /// Its time ran out.
    Expired,
    /// The task was held and its holder went silent.
    Abandoned,
    /// An operator, a leak report or an outside signal ended it.
    Revoked,
    /// An approver said no.
    Denied,
    /// Nobody decided in time.
    Lapsed,
    /// The requester took a waiting request back.
    Withdrawn,
    /// The bundle in force would no longer permit it.
    Policy,
    /// Its identity was quarantined.
    Quarantined,
    /// The journal was restored; all older access is void.
    Fenced,
}

/// The public half of a signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its RFC 7638 thumbprint.
    pub id: KeyId,
    /// What it signs; a key has one purpose.
    pub purpose: KeyPurpose,
    /// Ed25519, 32 bytes.
    pub public: [u8; 32],
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyPurpose {
    /// Credentials.
    Credential,
    /// Checkpoints.
    Checkpoint,
}
