//! Ending access: what the callers of the ending lane get back, and the mark they can follow.

use std::collections::BTreeSet;
use std::time::Duration;

use protem_core::command::Command;
use protem_core::event::{EndReason, Event, Target};
use protem_core::refusal::Refusal;
use protem_verify::ids::{GrantId, HoldId, Seq};
use protem_verify::names::{IdentityName, TaskId, Words};

use crate::engine::access::workload;
use crate::engine::broker::Broker;
use crate::engine::feed::ended;
use crate::engine::granted::{Finished, Revoked};
use crate::engine::lane::Lane;
use crate::engine::receipts::{Covers, Mark};
use crate::engine::sequencer::Answered;
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::reader::{GrantFilter, Stage};
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::login::{Caller, Principal};

/// What a turn ended.
struct Ends {
    grants: Vec<GrantId>,
    mark: Mark,
}

impl Broker {
    /// Ends the caller's task and every grant under it. Repeated, it answers what the first call ended.
    ///
    /// # Errors
    /// When the caller has no such task, or the world broke.
    pub async fn complete_task(
        &self,
        caller: &Caller,
        task: TaskId,
        outcome: Words,
    ) -> Result<Finished, Stop> {
        self.complete(caller, task, None, outcome).await
    }

    /// Gives one of the caller's grants back, waiting or active. Repeated, it answers the same.
    ///
    /// # Errors
    /// When the grant is not the caller's, or the world broke.
    pub async fn return_grant(
        &self,
        caller: &Caller,
        grant: GrantId,
        note: Words,
    ) -> Result<Finished, Stop> {
        let by = workload(caller, grant)?;
        let command = Command::ReturnGrant { by, grant, note };
        let ends = self.submit(Lane::Ending, caller.actor(), command, ends).await?;
        self.finished(vec![grant], ends.mark).await
    }

    /// Ends whatever matches, all in one turn. Whether the caller may was decided before.
    ///
    /// # Errors
    /// When a target does not exist, the note is empty, or the world broke.
    pub async fn revoke(
        &self,
        caller: &Caller,
        targets: Vec<Target>,
        note: Words,
    ) -> Result<Revoked, Stop> {
        let command = Command::Revoke { targets: targets.clone(), note };
        let read = move |answered: &Answered<'_>| {
            // What a cut-off ended is ended at once; its rows follow in steps and name it.
            let by_cut = answered.rows.iter().map(|row| answered.state.owed_by(row.seq()));
            let Ends { grants, mark } = ends(answered);
            let ended = by_cut.sum::<usize>().saturating_add(grants.len());
            (u64::try_from(ended).unwrap_or(u64::MAX), mark)
        };
        let (grants_ended, mark) = self.submit(Lane::Ending, caller.actor(), command, read).await?;
        self.0.marks.keep(&mark);
        Ok(Revoked { grants_ended, mark })
    }

    /// Gives an identity no more grants and ends those it has; or lifts that.
    ///
    /// # Errors
    /// When the note is empty, or the world broke.
    pub async fn set_quarantine(
        &self,
        caller: &Caller,
        identity: IdentityName,
        on: bool,
        note: Words,
    ) -> Result<Mark, Stop> {
        let command = Command::SetQuarantine { identity, on, note };
        let ends = self.submit(Lane::Ending, caller.actor(), command, ends).await?;
        self.0.marks.keep(&ends.mark);
        Ok(ends.mark)
    }

    pub(in crate::engine) async fn complete(
        &self,
        caller: &Caller,
        task: TaskId,
        hold: Option<HoldId>,
        outcome: Words,
    ) -> Result<Finished, Stop> {
        let Principal::Workload { by, .. } = &caller.principal else {
            return Err(Refusal::UnknownTask(task).into());
        };
        let of_task = GrantFilter {
            identity: Some(by.identity.clone()),
            task: Some(task.clone()),
            states: vec![Stage::Ended],
            limit: REPEATED_MAX,
            ..GrantFilter::default()
        };
        let command = Command::CompleteTask { by: by.clone(), task, hold, outcome };
        let ends = self.submit(Lane::Ending, caller.actor(), command, ends).await?;
        if !ends.grants.is_empty() {
            return self.finished(ends.grants, ends.mark).await;
        }
        // Nothing was left to end: perhaps a call whose answer was lost has ended it.
        // It has done so a moment ago: what is older than one page looks through is not asked about any more.
        let mut ended = self.read(move |reader| reader.grants(&of_task)).await?.grants;
        ended.retain(by_completion);
        Ok(Finished { ended, mark: ends.mark })
    }

    async fn finished(&self, grants: Vec<GrantId>, mark: Mark) -> Result<Finished, Stop> {
        let ended: Vec<GrantRecord> = self
            .read(move |reader| {
                let records = grants.iter().map(|id| reader.grant(id));
                records.filter_map(Result::transpose).collect()
            })
            .await?;
        Ok(Finished { ended, mark })
    }
}

fn by_completion(grant: &GrantRecord) -> bool {
    match &grant.status {
        Shown::Ended { reason, .. } => *reason == EndReason::Completed,
        Shown::Pending { .. } | Shown::Active { .. } => false,
    }
}

/// Grants of one task that a repeated completion still names: far more than tasks have, and an answer of bounded size.
const REPEATED_MAX: u32 = 1_000;

fn ends(answered: &Answered<'_>) -> Ends {
    let grants = answered.rows.iter().filter_map(|row| ended_grant(row.what())).collect();
    Ends { grants, mark: mark(answered.rows, answered.head.seq, answered.committed) }
}

/// What gateways must have applied. A call that repeats an earlier one cannot tell when that was: it names the head and
/// now, which is later, and concerns everybody, which is wider.
fn mark(rows: &[Committed<Event>], head: Seq, committed: Duration) -> Mark {
    let Some(last) = rows.last() else {
        return Mark { seq: head, committed, covers: Covers::Everything };
    };
    // What gateways hear of: what a turn records beyond it, they acknowledge only with their next proof.
    ended(rows, committed).unwrap_or(Mark {
        seq: last.seq(),
        committed,
        covers: Covers::Resources(BTreeSet::new()),
    })
}

fn ended_grant(event: &Event) -> Option<GrantId> {
    if let Event::GrantEnded(ended) = event { Some(ended.grant) } else { None }
}
