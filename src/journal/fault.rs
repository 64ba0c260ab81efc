//! Faults: the world broke. Retry, or page someone; never a refusal.

use std::time::Duration;

use protem_verify::codes::{Code, fault};
use protem_verify::ids::Seq;
use protem_verify::names::KeyId;

/// The world broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The store failed before anything was appended.
    #[error("the store failed: {0}")]
    Store(String),
    /// The store failed and nobody can say whether the turn happened.
    #[error("the store failed while it committed: {0}")]
    Unknown(String),
    /// The store holds less, or something else, than was acknowledged.
    #[error("the journal went back: it was at {known}, the store is at {found}")]
    RolledBack {
        /// What was known.
        known: Seq,
        /// What is there.
        found: Seq,
    },
    /// A row is not what its leaf says, or cannot be decoded.
    #[error("the journal is damaged at {seq}: {why}")]
    Damaged {
        /// Where.
        seq: Seq,
        /// How.
        why: String,
    },
    /// Another process has the store.
    #[error("another process works on `{0}`")]
    InUse(String),
    /// The file is not a journal of protem's.
    #[error("`{0}` is not a protem journal")]
    Foreign(String),
    /// A newer protem made it.
    #[error("the journal has schema {found}, this protem knows {known}")]
    NewerSchema {
        /// The store's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The clock stands before the last event, or stepped.
    #[error("the clock is off by {off:?}: {why}")]
    Clock {
        /// By how much.
        off: Duration,
        /// Against what.
        why: &'static str,
    },
    /// The sequencer has ended.
    #[error("the broker is stopping")]
    Stopping,
    /// The journal names a signing key whose private half is not here.
    #[error("the private half of signing key `{0}` is not here")]
    NoPrivateKey(KeyId),
    /// What was signed is not what is on record. It was not handed out.
    #[error("a credential failed its own check")]
    SelfCheck,
}

impl Fault {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Store(_) => fault::STORE,
            Self::Unknown(_) => fault::UNKNOWN,
            Self::RolledBack { .. } => fault::ROLLED_BACK,
            Self::Damaged { .. } => fault::DAMAGED,
            Self::InUse(_) => fault::IN_USE,
            Self::Foreign(_) => fault::FOREIGN,
            Self::NewerSchema { .. } => fault::NEWER_SCHEMA,
            Self::Clock { .. } => fault::CLOCK,
            Self::Stopping => fault::STOPPING,
            Self::NoPrivateKey(_) => fault::NO_PRIVATE_KEY,
            Self::SelfCheck => fault::SELF_CHECK,
        }
    }
}
