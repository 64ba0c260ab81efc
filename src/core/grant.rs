//! What the law remembers of a grant, a task and a key.

use std::collections::BTreeSet;
use std::time::Duration;

use protem_verify::ids::{GrantId, Hash, HoldId, RequestId, Seq};
use protem_verify::names::{KeyId, PersonName, ResourceName, TaskId, TaskKind, Words};
use protem_verify::time::{Lifetime, Time};

use crate::event::{EndReason, KeyPurpose, PublicKey};
use crate::limits::{CHECKPOINT_GRACE, REMEMBER};
use crate::request::{AccessRequest, ProofKey, Scopes, Workload};
use crate::verdict::ApprovalRule;

/// A grant, live or remembered: what `decide` needs of it. The words are in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Its identity and subject.
    pub by: Workload,
    /// Its task.
    pub task: TaskId,
    /// On what.
    pub resource: ResourceName,
    /// What it allows, as narrowed.
    pub scopes: Scopes,
    /// Break-glass.
    pub emergency: bool,
    /// What it is bound to.
    pub proof: Option<ProofKey>,
    /// `AccessRequest::content` of the request, as narrowed.
    pub content: Hash,
    /// Where it stands.
    pub status: Status,
    /// The entry that first speaks of it, and when that was.
    pub requested: (Seq, Time),
    /// The bundle that last said yes to it.
    pub bundle: Hash,
    /// Its newest credential, once it was active.
    pub newest: Option<Newest>,
    /// What is known only while it waits.
    pub waiting: Option<Box<Waiting>>,
    /// The distinct people whose approvals activated it.
    pub approvers: BTreeSet<PersonName>,
    /// Idempotency keys that it answers.
    pub keys: Vec<RequestId>,
}

/// Where a grant stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for approvers.
    Pending {
        /// When it lapses.
        decide_by: Time,
    },
    /// Credentials exist.
    Active {
        /// Since.
        from: Time,
        /// When it ends at the latest.
        until: Time,
        /// The entry of its activation: cut-offs compare with it.
        activated: Seq,
    },
    /// Final.
    Ended {
        /// Why.
        reason: EndReason,
        /// When.
        at: Time,
        /// The entry that ended it: its own, or a cut-off's.
        seq: Seq,
        /// The cut-off or epoch that told gateways already.
        told_by: Option<Seq>,
        /// Whether its own `GrantEnded` row is written.
        recorded: bool,
    },
}

/// A grant's newest credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Counts from 0.
    pub number: u32,
    /// Whole seconds.
    pub iat: Time,
    /// Whole seconds.
    pub exp: Time,
    /// When the last of all its grant's credentials dies: an earlier one may be the last, if rules have shortened lives since.
    pub last_exp: Time,
    /// The entry that records it.
    pub seq: Seq,
    /// The key that signs it.
    pub key: KeyId,
}

impl Newest {
    /// When two thirds of its life are over: from here on a renewal gives a new one.
    #[must_use]
    pub fn renew_at(&self) -> Time {
        renew_at(self.iat, self.exp)
    }
}

/// When two thirds of a credential's life are over.
#[must_use]
pub fn renew_at(iat: Time, exp: Time) -> Time {
    let life = exp.since(iat);
    iat + life.saturating_mul(2) / 3
}

/// What is known of a grant only while it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The request, as narrowed.
    pub request: AccessRequest,
    /// How long the grant would last: an approver may only shorten it.
    pub lifetime: Lifetime,
    /// What approvers must do.
    pub rule: ApprovalRule,
    /// What an approver signs off now.
    pub digest: Hash,
    /// Who said yes so far.
    pub approved: BTreeSet<PersonName>,
    /// The person behind the requester.
    pub behind: Option<PersonName>,
    /// Whether people were reminded of it.
    pub reminded: bool,
}

impl Waiting {
    /// When people are to be reminded of a request made at `asked` that lapses at `decide_by`; none when they were, or when
    /// there is nothing left to decide by then.
    #[must_use]
    pub fn remind_at(&self, asked: Time, decide_by: Time) -> Option<Time> {
        let due = asked + self.rule.remind.filter(|_| !self.reminded)?;
        (due < decide_by).then_some(due)
    }
}

impl Grant {
    /// When people are to be reminded of it, while it waits.
    #[must_use]
    pub fn remind_at(&self) -> Option<Time> {
        let Status::Pending { decide_by } = self.status else { return None };
        self.waiting.as_ref()?.remind_at(self.requested.1, decide_by)
    }

    /// Whether it is neither over nor due to be: a deadline that passed counts although no entry says so yet.
    #[must_use]
    pub fn live_at(&self, now: Time) -> bool {
        match self.status {
            Status::Pending { decide_by } => now < decide_by,
            Status::Active { until, .. } => now < until,
            Status::Ended { .. } => false,
        }
    }

    /// Whether credentials may be made for it.
    #[must_use]
    pub fn active_at(&self, now: Time) -> bool {
        matches!(self.status, Status::Active { until, .. } if now < until)
    }

    /// Whether it waits for approvers.
    #[must_use]
    pub fn pending_at(&self, now: Time) -> bool {
        matches!(self.status, Status::Pending { decide_by } if now < decide_by)
    }

    /// Whether its final entry is written or its end is in force.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.status, Status::Ended { .. })
    }
}

impl Grant {
    /// When the last of its credentials dies by itself; none when it never had one.
    #[must_use]
    pub fn last_exp(&self) -> Option<Time> {
        self.newest.as_ref().map(|newest| newest.last_exp)
    }

    /// When it may be forgotten, if its end was recorded at `at`: nobody asks for it any more, and nothing of it is alive.
    pub(crate) fn forgettable_at(&self, at: Time) -> Time {
        (at + REMEMBER).max(self.last_exp().unwrap_or_default())
    }

    /// Whether it had a credential and was ended before its time by an entry of its own.
    #[must_use]
    pub fn ended_early(&self) -> bool {
        let early = |reason| reason != EndReason::Expired;
        self.newest.is_some()
            && matches!(self.status, Status::Ended { reason, told_by: None, .. } if early(reason))
    }
}

/// A task that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Of the first request; empty when a hold came first.
    pub kind: TaskKind,
    /// Of the first request.
    pub url: Words,
    /// Its live grants.
    pub live: BTreeSet<GrantId>,
    /// The stream that holds it.
    pub hold: Option<Hold>,
    /// Set when it was completed or abandoned.
    pub ended: Option<(Time, EndReason)>,
    /// When something last happened to it.
    pub last: Time,
}

/// A stream that holds a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which.
    pub hold: HoldId,
    /// How long its silence is forgiven.
    pub lease: Duration,
}

/// A signing key's public half and life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public half.
    pub key: PublicKey,
    /// Where it stands.
    pub state: KeyState,
    /// When it was published.
    pub created: Time,
    /// The entry that published it.
    pub published: Seq,
    /// When it began to sign, as a place in the journal; 0 before.
    pub activated: Seq,
    /// When it began to sign; [`Time::ZERO`] before.
    pub since: Time,
    /// Somebody asked for another to sign instead.
    pub leaving: bool,
    /// When the last that it signed dies.
    pub last_exp: Time,
}

/// Where a signing key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Known, not yet used.
    Published,
    /// Signs.
    Signing,
    /// Signs no more.
    Retired,
    /// All that it ever signed is void.
    CutOff,
}

/// A cut-off in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// What it covers.
    pub target: crate::event::Target,
    /// Why.
    pub reason: EndReason,
    /// When.
    pub at: Time,
    /// When nothing that it covers can be alive.
    pub forget_after: Option<Time>,
}

impl TaskState {
    /// Whether nobody remembers it: no live grant, no hold, and long enough since.
    #[must_use]
    pub fn forgotten(&self, now: Time) -> bool {
        let over = self.ended.is_some() || self.hold.is_none();
        over && self.live.is_empty() && self.last + REMEMBER <= now
    }
}

impl KeyRecord {
    /// Whether it signs no more, so that it can be forgotten when the last token it signed is dead.
    #[must_use]
    pub fn forgettable(&self) -> bool {
        matches!(self.state, KeyState::Retired | KeyState::CutOff)
    }

    /// Whether nothing needs it any more.
    #[must_use]
    pub fn dead(&self, now: Time) -> bool {
        self.forgettable() && self.last_exp <= now
    }

    /// When all that it can have signed until `at` is dead: a credential says so itself, a checkpoint does not.
    pub(crate) fn dies(&self, at: Time) -> Time {
        let least = match self.key.purpose {
            KeyPurpose::Credential => at,
            KeyPurpose::Checkpoint => at + CHECKPOINT_GRACE,
        };
        self.last_exp.max(least)
    }
}
