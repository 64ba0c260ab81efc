//! What policy said about one request, as a value that only policy can make.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::Hash;
use protem_verify::names::{GroupName, PersonName, PolicyId};
use protem_verify::time::{Lifetime, Staleness, Time};

/// Proof that policy looked at exactly one request. Only `policy/` makes one (a test sees to it), `decide` takes it once.
#[derive(Debug)]
pub struct Verdict {
    ruling: Ruling,
    approvers: Vec<(PersonName, bool)>,
    reads_findings: bool,
}

impl Verdict {
    /// For `policy/` alone.
    #[must_use]
    pub fn from_policy(ruling: Ruling) -> Self {
        Self { ruling, approvers: Vec::new(), reads_findings: false }
    }

    /// For `policy/` alone: those who have approved the request, and whether each may still do so.
    #[must_use]
    pub fn with_approvers(self, approvers: Vec<(PersonName, bool)>) -> Self {
        Self { approvers, ..self }
    }

    /// For `policy/` alone: some policy may look at what is unusual, so its findings of the past must be those of the turn.
    #[must_use]
    pub fn reading_findings(self, reads_findings: bool) -> Self {
        Self { reads_findings, ..self }
    }

    /// Whether a policy may have looked at its findings.
    pub(crate) fn reads_findings(&self) -> bool {
        self.reads_findings
    }

    /// What it says.
    #[must_use]
    pub fn ruling(&self) -> &Ruling {
        &self.ruling
    }

    /// Whether an approval that this person gave before counts; `None` when policy was not asked about it.
    #[must_use]
    pub fn counts(&self, person: &PersonName) -> Option<bool> {
        self.approvers.iter().find(|(name, _)| name == person).map(|(_, still)| *still)
    }

    pub(crate) fn into_ruling(self) -> Ruling {
        self.ruling
    }
}

/// What policy said: plain data, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// `AccessRequest::content` of the request it is about.
    pub content: Hash,
    /// Yes, not yet, or no.
    pub effect: Effect,
    /// The determining policies.
    pub policies: Vec<PolicyId>,
    /// The bundle that was evaluated.
    pub bundle: Hash,
    /// When.
    pub at: Time,
    /// What a yes is worth; of a deny, nothing is used but the caps.
    pub terms: Terms,
    /// Which limits applied, for people: "lifetime 15m, from scope `orders:read`".
    pub limits: Vec<String>,
    /// What is unusual, with numbers.
    pub findings: Vec<String>,
    /// Of a deny: the reason's code, `PT-03…`; else empty.
    pub code: String,
    /// Of a deny: the nearest request that would pass, or who can change that.
    pub remedy: String,
    /// Of a request that waits: what must be met.
    pub rule: Option<ApprovalRule>,
    /// How many live grants of the identity policy saw, when a policy looks at that.
    pub active: Option<u32>,
    /// The whole Cedar input, as JSON, so that it can be evaluated again under another bundle.
    pub input: Arc<[u8]>,
}

/// Yes, not yet, or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Granted at once.
    Issue,
    /// Granted after approvals.
    NeedsApproval,
    /// Refused.
    Deny,
}

/// What a yes is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The grant's lifetime from its activation: the least of what was asked, scopes, tier and policies.
    pub lifetime: Lifetime,
    /// The life of one credential under it.
    pub credential: Lifetime,
    /// The greatest age of a view that may accept it.
    pub fresh: Staleness,
    /// The resource's audience.
    pub audience: Arc<str>,
    /// Template claims; their names hold a `/`.
    pub claims: Arc<[(Arc<str>, Arc<str>)]>,
    /// What the scopes allow, as the catalog spells it: `orders:read GET /v1/orders`.
    pub operations: Arc<[Arc<str>]>,
    /// Live grants that the identity's tier allows.
    pub active_max: u32,
    /// Waiting requests that the identity's tier allows.
    pub pending_max: u32,
}

/// What approvers must do for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRule {
    /// Distinct people; never zero.
    pub required: u16,
    /// How long it waits.
    pub decide_within: Duration,
    /// When to remind, after the request.
    pub remind: Option<Duration>,
    /// Whom to ask after the reminder.
    pub then: Option<GroupName>,
    /// Digest of the determining policies' ids and texts.
    pub policies: Hash,
    /// Groups that can approve, for people to read.
    pub groups: Vec<GroupName>,
}

/// Proof that policy looked at whether one person may decide one request. Made by `policy/` alone.
#[derive(Debug)]
pub struct ApproverVerdict(Approver);

/// Whether a person may decide a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The person, joined over accounts.
    pub person: PersonName,
    /// The digest of the request that policy looked at.
    pub digest: Hash,
    /// The bundle that was evaluated.
    pub bundle: Hash,
    /// When.
    pub at: Time,
    /// Whether it may; `why_not` says why it may not.
    pub may: bool,
    /// For people.
    pub why_not: String,
    /// Who they are as they decide, so that a later bundle can be asked about them again.
    pub standing: Standing,
}

/// Who somebody was when they approved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The account they signed in with, issuer and name: accounts may be joined otherwise by a later bundle.
    pub account: Arc<str>,
    /// The groups they were in.
    pub groups: Vec<GroupName>,
    /// The policies that let them.
    pub policies: Vec<PolicyId>,
}

impl ApproverVerdict {
    /// For `policy/` alone.
    #[must_use]
    pub fn from_policy(approver: Approver) -> Self {
        Self(approver)
    }

    /// What it says.
    #[must_use]
    pub fn approver(&self) -> &Approver {
        &self.0
    }
}
