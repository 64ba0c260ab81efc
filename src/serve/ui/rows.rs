//! A grant as one row of a list: whose, on what, where it stands, and the moment that matters.

use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_verify::time::Time;

use crate::serve::ui::words::{Moment, standing};

/// The row.
pub struct GrantRow {
    /// The grant.
    pub id: String,
    /// Whose.
    pub identity: String,
    /// Under which task.
    pub task: String,
    /// What it allows.
    pub scopes: String,
    /// On what.
    pub resource: String,
    /// Why, in the requester's words.
    pub purpose: String,
    /// One word: `active`, `denied`.
    pub state: &'static str,
    /// How it is drawn.
    pub tone: &'static str,
    /// Nobody was asked before.
    pub emergency: bool,
    /// What happens, or happened, at the moment that matters.
    pub what: &'static str,
    /// That moment.
    pub at: Moment,
    /// When it was last used.
    pub used: Option<Moment>,
}

/// A row of a grant.
#[must_use]
pub fn grant_row(grant: &v1::Grant, now: Time) -> GrantRow {
    let (state, tone) = standing(grant);
    let (what, at) = match grant.state() {
        GrantState::Unspecified => ("asked", grant.requested_at),
        GrantState::Pending => ("lapses", grant.decide_by),
        GrantState::Active => ("ends", grant.active_until),
        GrantState::Ended => ("ended", grant.ended_at),
    };
    GrantRow {
        id: grant.id.clone(),
        identity: grant.identity.clone(),
        task: grant.task.as_ref().map(|task| task.id.clone()).unwrap_or_default(),
        scopes: grant.scopes.join(", "),
        resource: grant.resource.clone(),
        purpose: grant.purpose.clone(),
        state,
        tone,
        emergency: grant.emergency,
        what,
        at: at.map(|at| Moment::of(&at, now)).unwrap_or_default(),
        used: grant.last_used.map(|at| Moment::of(&at, now)),
    }
}
