//! What people see of a grant, composed from its rows and the entries they name.

use std::sync::Arc;

use protem_core::event::{Actor, EndReason, Event};
use protem_core::request::AccessRequest;
use protem_core::verdict::{Ruling, Standing};
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::reader::Stage;

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
    /// People were reminded of it, and those of the rule's `then` asked besides.
    pub reminded: bool,
    /// The person behind the requester, who never counts as its approver.
    pub behind: Option<PersonName>,
    /// Of an emergency: who looked at it afterwards.
    pub reviewed: Option<ReviewRecord>,
}

/// The look at an emergency afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewRecord {
    /// Who looked.
    pub by: PersonName,
    /// What they found.
    pub note: Words,
    /// When.
    pub at: Time,
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
        /// Who ended it.
        by: Actor,
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
    /// Who they were then.
    pub standing: Standing,
}

impl GrantRecord {
    /// Folds the entries that speak of one grant, in order, and the cut-off that ended it without one of its own. `None` when
    /// none of them begins it.
    #[must_use]
    pub fn from_entries(
        id: GrantId,
        entries: &[Committed<Event>],
        cut: Option<&Committed<Event>>,
    ) -> Option<Self> {
        let mut record: Option<Self> = None;
        for entry in entries {
            match &mut record {
                None => record = begin(id, entry),
                Some(record) => record.fold(entry),
            }
        }
        let mut record = record?;
        if let Some(cut) = cut {
            record.cut(cut);
        }
        Some(record)
    }

    /// Whether it can have credentials or still wait.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.status {
            Shown::Pending { .. } => Stage::Pending,
            Shown::Active { .. } => Stage::Active,
            Shown::Ended { .. } => Stage::Ended,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "entries about something else change nothing"
    )]
    fn fold(&mut self, entry: &Committed<Event>) {
        match entry.what() {
            Event::GrantActivated(activated) => {
                self.activated = Some(entry.seq());
                self.ruling.terms = activated.credential.terms.clone();
                self.status = Shown::Active { from: entry.at(), until: activated.until };
            }
            Event::RequestReevaluated { grant, ruling, digest } if *grant == self.id => {
                if self.digest != Some(*digest) {
                    self.approvals.clear(); // what they approved is not what it says now
                }
                self.ruling = Ruling::clone(ruling);
                self.digest = Some(*digest);
            }
            Event::RequestNarrowed { scopes, lifetime, digest, .. } => {
                self.request.scopes = scopes.clone();
                self.request.lifetime = Some(*lifetime);
                self.digest = Some(*digest);
                self.ruling.terms.lifetime = *lifetime;
                let kept = |operation: &&Arc<str>| {
                    let scope = operation.split_once(' ').map_or("", |(scope, _)| scope);
                    scopes.iter().any(|name| name.as_str() == scope)
                };
                let terms = &mut self.ruling.terms;
                terms.operations = terms.operations.iter().filter(kept).cloned().collect();
            }
            Event::ApprovalGiven { by, reason, standing, .. } => {
                self.approvals.push(ApprovalRecord {
                    by: by.clone(),
                    approve: true,
                    reason: reason.clone(),
                    at: entry.at(),
                    standing: standing.clone(),
                })
            }
            Event::RequestReminded { .. } => self.reminded = true,
            Event::ApprovalTakenBack { by, .. } => self.approvals.retain(|one| one.by != *by),
            Event::ReviewClosed { by, note, .. } => {
                let (by, note) = (by.clone(), note.clone());
                self.reviewed = Some(ReviewRecord { by, note, at: entry.at() });
            }
            Event::GrantEnded(ended) => {
                self.end(ended.reason, &ended.note, ended.ended, entry.actor())
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "two kinds of entry cut access off")]
    fn cut(&mut self, entry: &Committed<Event>) {
        match entry.what() {
            Event::CutOff { reason, note, .. } => {
                self.end(*reason, note, entry.at(), entry.actor())
            }
            Event::EpochBegan { note, .. } => {
                self.end(EndReason::Fenced, note, entry.at(), entry.actor())
            }
            _ => {}
        }
    }

    fn end(&mut self, reason: EndReason, note: &Words, at: Time, by: &Actor) {
        let (from, until) = match &self.status {
            Shown::Pending { .. } => (None, None),
            Shown::Active { from, until } => (Some(*from), Some(*until)),
            Shown::Ended { .. } => return,
        };
        let (note, by) = (note.clone(), by.clone());
        self.status = Shown::Ended { from, until, reason, note, at, by };
    }
}

/// The record as its first entry makes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "two kinds of entry begin a grant")]
fn begin(id: GrantId, entry: &Committed<Event>) -> Option<GrantRecord> {
    let (asked, status, activated, digest, behind) = match entry.what() {
        Event::GrantRequested(requested) if requested.grant == id => {
            let status = Shown::Pending { decide_by: requested.decide_by };
            let behind = requested.behind.clone();
            (&requested.asked, status, None, Some(requested.digest), behind)
        }
        Event::GrantActivated(activated) if activated.credential.grant == id => {
            let status = Shown::Active { from: entry.at(), until: activated.until };
            (activated.asked.as_ref()?, status, Some(entry.seq()), None, None)
        }
        _ => return None,
    };
    Some(GrantRecord {
        id,
        request: asked.request.clone(),
        ruling: asked.ruling.clone(),
        requested_at: entry.at(),
        status,
        activated,
        digest,
        approvals: Vec::new(),
        reminded: false,
        behind,
        reviewed: None,
    })
}
