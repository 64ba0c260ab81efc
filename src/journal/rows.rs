//! Projections: which rows an entry changes in the tables that people query. Pure, so they can be made again at any time.

use protem_core::event::{Activated, Asked, Event, Target};
use protem_core::request::{AccessRequest, Scopes};
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{IdentityName, PersonName, ResourceName, TaskId};
use protem_verify::time::Time;

use crate::journal::reach::Reach;
use crate::journal::reader::Stage;

/// A change of one projected row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// A grant appears.
    Grant(Box<GrantRow>),
    /// A grant's row learns of its activation.
    Activated(GrantId, Seq),
    /// A waiting grant was narrowed to these.
    Narrowed(GrantId, Scopes),
    /// A grant's row learns of its end.
    Ended(GrantId, Seq),
    /// An entry that the grant's own row does not name speaks of it.
    Concerns(GrantId, Seq),
    /// A person's yes.
    Approval(GrantId, PersonName, Seq),
    /// A person's yes is taken back.
    NoApproval(GrantId, PersonName),
    /// A cut-off, or a new epoch, which cuts off everything.
    CutOff(Seq, Reach),
    /// An identity was granted access.
    Granted(IdentityName, Time),
}

/// A grant's row: what people search by, and where its words are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// Its id.
    pub id: GrantId,
    /// Whose.
    pub identity: IdentityName,
    /// Under which task.
    pub task: TaskId,
    /// On what.
    pub resource: ResourceName,
    /// What it allows, as narrowed.
    pub scopes: Scopes,
    /// The entry that first speaks of it.
    pub requested: Seq,
    /// When that was.
    pub asked_at: Time,
    /// The entry that activated it; 0: none yet.
    pub activated: Seq,
    /// The entry that ended it; 0: none yet.
    pub ended: Seq,
}

impl GrantRow {
    /// Cut-offs before this one do not concern it.
    #[must_use]
    pub fn since(&self) -> Seq {
        self.requested.max(self.activated)
    }

    /// Where it stands, when the cut-off at `cut` covers it.
    #[must_use]
    pub fn stage(&self, cut: Option<Seq>) -> Stage {
        match (self.ended, cut, self.activated) {
            (Seq(1..), ..) | (_, Some(_), _) => Stage::Ended,
            (_, None, Seq(1..)) => Stage::Active,
            (_, None, Seq(0)) => Stage::Pending,
        }
    }
}

/// What an entry changes: of an issued grant at most two rows, its own and its identity's.
#[must_use]
pub fn rows(event: &Event, seq: Seq, at: Time) -> Vec<RowChange> {
    match event {
        Event::GrantRequested(requested) => {
            vec![grant(requested.grant, &requested.asked.request, seq, at, Seq(0))]
        }
        Event::GrantActivated(activated) => activation(activated, seq, at),
        Event::CredentialIssued(issued) => vec![RowChange::Concerns(issued.grant, seq)],
        Event::RequestReevaluated { grant, .. }
        | Event::RequestRepeated { grant, .. }
        | Event::RequestReminded { grant, .. }
        | Event::ReviewClosed { grant, .. } => vec![RowChange::Concerns(*grant, seq)],
        Event::RequestNarrowed { grant, scopes, .. } => {
            vec![RowChange::Narrowed(*grant, scopes.clone()), RowChange::Concerns(*grant, seq)]
        }
        Event::GrantsConfirmed { grants, .. } => {
            grants.iter().map(|grant| RowChange::Concerns(*grant, seq)).collect()
        }
        Event::GrantEnded(ended) => vec![RowChange::Ended(ended.grant, seq)],
        Event::ApprovalGiven { grant, by, .. } => {
            vec![RowChange::Approval(*grant, by.clone(), seq), RowChange::Concerns(*grant, seq)]
        }
        Event::ApprovalTakenBack { grant, by } => {
            vec![RowChange::NoApproval(*grant, by.clone()), RowChange::Concerns(*grant, seq)]
        }
        Event::CutOff { target, .. } => vec![RowChange::CutOff(seq, Reach::of(target))],
        Event::EpochBegan { .. } => vec![RowChange::CutOff(seq, Reach::of(&Target::Everything))],
        Event::JournalOpened { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSettled { .. }
        | Event::AccessRefused(_)
        | Event::TaskHeld { .. }
        | Event::TaskEnded { .. }
        | Event::IdentityQuarantined { .. }
        | Event::QuarantineLifted { .. }
        | Event::KeyPublished(_)
        | Event::KeyActivated { .. }
        | Event::KeyRetired { .. }
        | Event::KeyRotationAsked { .. }
        | Event::KeyForgotten { .. } => Vec::new(),
    }
}

fn activation(activated: &Activated, seq: Seq, at: Time) -> Vec<RowChange> {
    let id = activated.credential.grant;
    let own = match &activated.asked {
        Some(Asked { request, .. }) => grant(id, request, seq, at, seq),
        None => RowChange::Activated(id, seq),
    };
    vec![own, RowChange::Granted(activated.credential.by.identity.clone(), at)]
}

fn grant(id: GrantId, request: &AccessRequest, seq: Seq, at: Time, activated: Seq) -> RowChange {
    RowChange::Grant(Box::new(GrantRow {
        id,
        identity: request.by.identity.clone(),
        task: request.task.id.clone(),
        resource: request.resource.clone(),
        scopes: request.scopes.clone(),
        requested: seq,
        asked_at: at,
        activated,
        ended: Seq(0),
    }))
}
