//! What people see of a grant, composed from its rows and the entries they name.

use protem_core::event::EndReason;
use protem_core::request::AccessRequest;
use protem_core::verdict::Ruling;
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::Time;

/// A grant as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Its id.
    pub id: GrantId,
    /// What was asked, as narrowed.
    pub request: AccessRequest,
    /// What policy said last.
    pub ruling: Ruling,
    /// When it was asked.
    pub requested_at: Time,
    /// Where it stands.
    pub status: Shown,
    /// The entry that activated it.
    pub activated: Option<Seq>,
    /// What an approver signs off.
    pub digest: Option<Hash>,
    /// Who said what.
    pub approvals: Vec<ApprovalRecord>,
}

/// Where a grant stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It waits.
    Pending {
        /// When it lapses.
        decide_by: Time,
    },
    /// Credentials may exist.
    Active {
        /// Since.
        from: Time,
        /// At the latest until.
        until: Time,
    },
    /// Final.
    Ended {
        /// When it was activated, if it was.
        from: Option<Time>,
        /// When it would have ended, if it was activated.
        until: Option<Time>,
        /// Why.
        reason: EndReason,
        /// In somebody's words.
        note: Words,
        /// When.
        at: Time,
    },
}

/// One approver's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRecord {
    /// Who, joined over accounts.
    pub by: PersonName,
    /// Yes or no.
    pub approve: bool,
    /// In their words.
    pub reason: Words,
    /// When.
    pub at: Time,
}
