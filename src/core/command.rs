//! Commands: what somebody wants, imperative. `decide` turns each into events or a refusal.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{Epoch, GrantId, Hash, HoldId, JournalId};
use protem_verify::names::{IdentityName, KeyId, PersonName, TaskId, Words};
use protem_verify::time::Lifetime;

use crate::event::{Files, PublicKey, Target};
use crate::request::{AccessRequest, Scopes, Workload};
use crate::verdict::{ApproverVerdict, Verdict};

/// What somebody wants. Who may want it was proven before: the caller is part of the command where the law needs it.
#[derive(Debug)]
pub enum Command {
    /// Make a new journal's first entry.
    OpenJournal {
        /// Random.
        journal: JournalId,
        /// Its starting Unix milliseconds.
        epoch: Epoch,
        /// The `iss` of its credentials.
        issuer: Arc<str>,
        /// Made by `protem dev`.
        dev: bool,
    },
    /// Fence everything before a restore.
    BeginEpoch {
        /// Greater than every epoch seen anywhere.
        epoch: Epoch,
        /// Why.
        note: Words,
    },
    /// Ask for access.
    RequestAccess {
        /// What.
        request: AccessRequest,
        /// What policy says.
        verdict: Verdict,
        /// The person behind the requester, if its login names one.
        behind: Option<PersonName>,
    },
    /// Ask for a fresh credential.
    RenewCredential {
        /// Who.
        by: Workload,
        /// Of which grant.
        grant: GrantId,
        /// What policy says now.
        verdict: Verdict,
    },
    /// Tie a task to a stream.
    HoldTask {
        /// Who.
        by: Workload,
        /// Which; it may hold no grant yet.
        task: TaskId,
        /// This stream.
        hold: HoldId,
        /// How long silence is forgiven.
        lease: Duration,
    },
    /// The stream was lost and its lease has passed. Only the broker that had the stream says so.
    AbandonTask {
        /// Whose.
        identity: IdentityName,
        /// Which.
        task: TaskId,
        /// The lost stream; a newer hold makes this mean nothing.
        hold: HoldId,
    },
    /// End a task and every grant under it.
    CompleteTask {
        /// Who.
        by: Workload,
        /// Which.
        task: TaskId,
        /// Set when a stream ended it: a newer hold makes its end mean nothing.
        hold: Option<HoldId>,
        /// "success", "failure" or any word.
        outcome: Words,
    },
    /// Give one grant back, waiting or active.
    ReturnGrant {
        /// Who.
        by: Workload,
        /// Which.
        grant: GrantId,
        /// Why.
        note: Words,
    },
    /// Decide a waiting request.
    Decide {
        /// Which.
        grant: GrantId,
        /// What the approver saw.
        digest: Hash,
        /// Yes, no, or taken back.
        choice: Choice,
        /// In their words; required to deny.
        reason: Words,
        /// Whether policy lets this person decide.
        approver: ApproverVerdict,
        /// What policy says now of the request as it waits.
        verdict: Verdict,
        /// Yes to less than that.
        narrowed: Option<Box<Narrowed>>,
    },
    /// Close the review of an emergency.
    CloseReview {
        /// Whose review.
        grant: GrantId,
        /// By whom.
        by: PersonName,
        /// The bundle whose policy lets this person.
        bundle: Hash,
        /// What was found.
        note: Words,
    },
    /// End access. Durable when answered.
    Revoke {
        /// What; more than one when an owner was expanded, all in one turn.
        targets: Vec<Target>,
        /// Why, in the operator's words.
        note: Words,
    },
    /// Give an identity no more grants, and end those it has; or lift that.
    SetQuarantine {
        /// Which.
        identity: IdentityName,
        /// On, or lifted.
        on: bool,
        /// Why.
        note: Words,
    },
    /// Put a checked bundle in force.
    ActivateBundle {
        /// SHA-256 over the files.
        digest: Hash,
        /// Name and content, sorted by name.
        files: Files,
        /// The digest that must be in force before; absent: any.
        expect: Option<Hash>,
    },
    /// What the bundle in force says of grants from before it: at most a thousand a step.
    Settle {
        /// The bundle that was evaluated.
        digest: Hash,
        /// Each grant, and what policy says of it now.
        grants: Vec<(GrantId, Verdict)>,
    },
    /// Make a key known before it signs.
    PublishKey(PublicKey),
    /// Let a published key sign.
    ActivateKey {
        /// Which.
        key: KeyId,
    },
    /// Let a key sign no more.
    RetireKey {
        /// Which.
        key: KeyId,
        /// Also void all that it ever signed; so may a key be that is forgotten.
        compromised: bool,
        /// Why.
        note: Words,
    },
    /// Let another key sign instead of this one, as soon as one may.
    ReplaceKey {
        /// The key that signs now.
        key: KeyId,
        /// Why.
        note: Words,
    },
    /// Forget a key that signs no more and whose last token is dead. Its private half must be gone before: what nobody
    /// remembers, nobody would remove.
    ForgetKey {
        /// Which.
        key: KeyId,
    },
    /// Record what is due: lapses, expiries, rows of a cut-off's grants.
    Tick,
}

/// Less than what waits. What is absent stays as it waits.
#[derive(Debug)]
pub struct Narrowed {
    /// May only be shorter.
    pub lifetime: Option<Lifetime>,
    /// May only be fewer.
    pub scopes: Option<Scopes>,
    /// What policy says now of what is left.
    pub verdict: Verdict,
}

/// What an approver chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Yes.
    Approve,
    /// No.
    Deny,
    /// Takes the own yes back.
    Undo,
}
