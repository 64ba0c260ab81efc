//! Refusals: the law says no, with a stable code and a remedy. A broken world is a `Fault`, elsewhere.

use protem_verify::codes::{Code, law};
use protem_verify::ids::{GrantId, Hash, RequestId};
use protem_verify::names::{IdentityName, KeyId, PersonName, TaskId};

/// The law says no. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An ended task takes no requests.
    #[error("task `{0}` has ended")]
    TaskEnded(TaskId),
    /// An ended grant gives no credential.
    #[error("grant `{0}` has ended")]
    GrantEnded(GrantId),
    /// Never opened by this identity, or forgotten.
    #[error("there is no task `{0}`")]
    UnknownTask(TaskId),
    /// Not the caller's, or not at all.
    #[error("there is no grant `{0}`")]
    UnknownGrant(GrantId),
    /// The same key with other content.
    #[error("request_id `{0}` was used for another request")]
    KeyReused(RequestId),
    /// One ask under ever new keys.
    #[error("grant `{0}` answers as many request ids as it may")]
    TooManyKeys(GrantId),
    /// Unknown and old.
    #[error("request_id `{0}` is more than 10 minutes old")]
    KeyTooOld(RequestId),
    /// Unknown and from the future.
    #[error("request_id `{0}` is more than 4 minutes ahead")]
    KeyAhead(RequestId),
    /// The tier's cap of live grants.
    #[error("`{identity}` holds {max} grants, as many as its tier allows")]
    TooManyActive {
        /// Whose.
        identity: IdentityName,
        /// The cap.
        max: u32,
    },
    /// The tier's, or the broker's, cap of waiting requests.
    #[error("{max} requests wait already, as many as are allowed")]
    TooManyPending {
        /// The cap.
        max: u32,
    },
    /// The broker's cap of live grants.
    #[error("the broker holds as many live grants as it may")]
    TooManyLive,
    /// The identity's cap of open tasks.
    #[error("`{0}` has as many open tasks as it may")]
    TooManyTasks(IdentityName),
    /// No grants for it now.
    #[error("`{0}` is in quarantine")]
    Quarantined(IdentityName),
    /// Evaluate again: the bundle changed, time passed, or what policy saw changed.
    #[error("what policy looked at has changed since")]
    VerdictStale,
    /// The verdict is about something else.
    #[error("the verdict is about another request")]
    RequestMismatch,
    /// Below the minimum.
    #[error("a lifetime of {0:?} is out of range")]
    LifetimeOutOfRange(std::time::Duration),
    /// Outside the limits.
    #[error("a lease of {0:?} is out of range")]
    LeaseOutOfRange(std::time::Duration),
    /// A newer stream holds the task.
    #[error("a newer stream holds task `{0}`")]
    HoldReplaced(TaskId),
    /// It has no credential yet.
    #[error("grant `{0}` still waits for approval")]
    StillPending(GrantId),
    /// Decided, withdrawn or lapsed.
    #[error("grant `{0}` no longer waits")]
    NotPending(GrantId),
    /// The request is not what the approver saw.
    #[error("the request changed: its digest is now `{0}`")]
    DigestChanged(Hash),
    /// Policy lets others decide.
    #[error("`{person}` may not decide this: {why}")]
    MayNotDecide {
        /// Who tried.
        person: PersonName,
        /// Why not.
        why: String,
    },
    /// Wider than what was asked.
    #[error("an approver may narrow a request, never widen it")]
    NotNarrower,
    /// What is left after a narrowing is nothing that policy would grant; the request waits on.
    #[error("policy grants nothing so narrow: {0}")]
    NarrowerRefused(String),
    /// Words are needed.
    #[error("a reason is required")]
    ReasonRequired,
    /// Nothing of the person's to take back.
    #[error("there is no approval of `{0}` to take back")]
    NoApprovalToUndo(PersonName),
    /// The last emergency was not looked at.
    #[error("an emergency of `{0}` has not been reviewed")]
    ReviewOpen(IdentityName),
    /// Policy, or who they are to the requester, lets others close it.
    #[error("`{person}` may not close this review: {why}")]
    MayNotReview {
        /// Who tried.
        person: PersonName,
        /// Why not.
        why: String,
    },
    /// No open review.
    #[error("there is no open review of grant `{0}`")]
    NoReview(GrantId),
    /// Another bundle is in force than expected.
    #[error("bundle `{0}` is in force")]
    BundleMoved(Hash),
    /// Never published.
    #[error("there is no signing key `{0}`")]
    UnknownKey(KeyId),
    /// Not in the state that the command needs.
    #[error("signing key `{0}` is not in that state")]
    KeyState(KeyId),
    /// Nothing can be issued.
    #[error("no key may sign")]
    NoSigningKey,
    /// Gateways hold so many keys and no more.
    #[error("as many signing keys are known as gateways hold")]
    TooManySigningKeys,
    /// A journal is opened once; epochs only rise.
    #[error("the journal is already open")]
    AlreadyOpen,
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TaskEnded(_) => law::TASK_ENDED,
            Self::GrantEnded(_) => law::GRANT_ENDED,
            Self::UnknownTask(_) => law::UNKNOWN_TASK,
            Self::UnknownGrant(_) => law::UNKNOWN_GRANT,
            Self::KeyReused(_) => law::KEY_REUSED,
            Self::TooManyKeys(_) => law::TOO_MANY_KEYS,
            Self::KeyTooOld(_) => law::KEY_TOO_OLD,
            Self::KeyAhead(_) => law::KEY_AHEAD,
            Self::TooManyActive { .. } => law::TOO_MANY_ACTIVE,
            Self::TooManyPending { .. } => law::TOO_MANY_PENDING,
            Self::TooManyLive => law::TOO_MANY_LIVE,
            Self::TooManyTasks(_) => law::TOO_MANY_TASKS,
            Self::Quarantined(_) => law::QUARANTINED,
            Self::VerdictStale => law::VERDICT_STALE,
            Self::RequestMismatch => law::REQUEST_MISMATCH,
            Self::LifetimeOutOfRange(_) => law::LIFETIME_OUT_OF_RANGE,
            Self::LeaseOutOfRange(_) => law::LEASE_OUT_OF_RANGE,
            Self::HoldReplaced(_) => law::HOLD_REPLACED,
            Self::StillPending(_) => law::STILL_PENDING,
            Self::NotPending(_) => law::NOT_PENDING,
            Self::DigestChanged(_) => law::DIGEST_CHANGED,
            Self::MayNotDecide { .. } => law::MAY_NOT_DECIDE,
            Self::NotNarrower => law::NOT_NARROWER,
            Self::NarrowerRefused(_) => law::NARROWER_REFUSED,
            Self::ReasonRequired => law::REASON_REQUIRED,
            Self::NoApprovalToUndo(_) => law::NO_APPROVAL_TO_UNDO,
            Self::ReviewOpen(_) => law::REVIEW_OPEN,
            Self::MayNotReview { .. } => law::MAY_NOT_REVIEW,
            Self::NoReview(_) => law::NO_REVIEW,
            Self::BundleMoved(_) => law::BUNDLE_MOVED,
            Self::UnknownKey(_) => law::UNKNOWN_KEY,
            Self::KeyState(_) => law::KEY_STATE,
            Self::NoSigningKey => law::NO_SIGNING_KEY,
            Self::TooManySigningKeys => law::TOO_MANY_SIGNING_KEYS,
            Self::AlreadyOpen => law::ALREADY_OPEN,
        }
    }
}
