//! Why a call got no answer: the law said no, policy said no, the world broke, or there is no room.

use std::path::PathBuf;
use std::time::Duration;

use protem_core::refusal::Refusal;
use protem_core::verdict::Ruling;
use protem_verify::codes::{Code, fault};

use crate::journal::fault::Fault;

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The law says no. Nothing changed.
    Refused(Refusal),
    /// Policy says no; the refusal itself is recorded.
    Denied(Box<Ruling>),
    /// The world broke.
    Faulted(Fault),
    /// As many commands wait as may; nothing was begun.
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
}

/// Why a broker did not start. It serves nothing until that is mended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store, its content or the clock is not fit.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The law refused what a start needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Keys cannot be kept safe there.
    #[error("key folder `{}`: {why}", folder.display())]
    KeyFolder {
        /// Which.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The bundle of the configuration, or the one in force, has errors.
    #[error("the bundle has errors: {}", findings.join("; "))]
    Bundle {
        /// As `protem policy check` prints them.
        findings: Vec<String>,
    },
    /// The journal is another issuer's.
    #[error("the journal was made for issuer `{found}`, not for `{asked}`")]
    OtherIssuer {
        /// The configuration's.
        asked: String,
        /// The journal's.
        found: String,
    },
    /// `protem dev` made the journal: its callers proved nothing that `serve` would believe.
    #[error("the journal was made by `protem dev`")]
    DevJournal,
    /// The anchor file cannot be used.
    #[error("anchor `{}`: {why}", path.display())]
    Anchor {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Fault(fault) => fault.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::KeyFolder { .. } => fault::KEY_FOLDER,
            Self::Bundle { .. } => fault::BUNDLE,
            Self::OtherIssuer { .. } => fault::OTHER_ISSUER,
            Self::DevJournal => fault::DEV_JOURNAL,
            Self::Anchor { .. } => fault::ANCHOR,
            Self::Thread(_) => fault::STORE,
        }
    }
}

impl From<Stop> for StartError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            Stop::Faulted(fault) => Self::Fault(fault),
            Stop::Denied(_) | Stop::Busy { .. } => Self::Fault(Fault::Stopping),
        }
    }
}

/// How long a caller without room is told to wait: some turns, so that the queue has moved.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

impl Stop {
    /// No room.
    #[must_use]
    pub const fn busy() -> Self {
        Self::Busy { retry_after: RETRY_AFTER }
    }

    /// The stable code; a denial has its own in its ruling.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code()),
            Self::Denied(ruling) => protem_verify::codes::find(&ruling.code),
            Self::Faulted(fault) => Some(fault.code()),
            Self::Busy { .. } => Some(fault::BUSY),
        }
    }

    /// Whether a fresh look by policy may change the answer.
    #[must_use]
    pub fn is_stale_verdict(&self) -> bool {
        matches!(self, Self::Refused(Refusal::VerdictStale))
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Denied(ruling) => write!(f, "policy says no: {}", ruling.remedy),
            Self::Faulted(fault) => fault.fmt(f),
            Self::Busy { .. } => f.write_str("as many commands wait as may"),
        }
    }
}

impl std::error::Error for Stop {}
