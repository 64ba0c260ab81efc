//! What people decided before on requests like one that waits.

use protem_core::event::{EndReason, Event};
use protem_core::request::Scopes;
use protem_verify::ids::GrantId;
use protem_verify::names::{IdentityName, ResourceName};
use protem_verify::time::Time;

/// A request, and how far back to look.
#[derive(Clone, Debug)]
pub struct Like {
    /// Who asks.
    pub identity: IdentityName,
    /// On what.
    pub resource: ResourceName,
    /// For what.
    pub scopes: Scopes,
    /// Requests before this one.
    pub before: GrantId,
    /// And not before this moment.
    pub since: Time,
}

/// What came before a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Requests for the same that people approved.
    pub granted: u32,
    /// Requests for the same that a person denied.
    pub denied: u32,
    /// When the newest of these was asked.
    pub decided: Option<Time>,
}

impl Past {
    /// Counts one earlier request for the same; `end` is the entry that ended it without it ever being granted.
    pub(in crate::journal) fn count(&mut self, asked: Time, granted: bool, end: Option<&Event>) {
        let denied =
            matches!(end, Some(Event::GrantEnded(ended)) if ended.reason == EndReason::Denied);
        match (granted, denied) {
            (true, _) => self.granted = self.granted.saturating_add(1),
            (false, true) => self.denied = self.denied.saturating_add(1),
            (false, false) => return,
        }
        self.decided = self.decided.max(Some(asked));
    }
}

/// Earlier decisions that are counted at most: who was asked a thousand times has seen enough.
pub(in crate::journal) const DECIDED_MAX: usize = 1_000;
