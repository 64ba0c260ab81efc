//! Ending access, and the holds whose loss ends it.

use std::time::Duration;

use protem_verify::ids::{GrantId, HoldId, Seq};
use protem_verify::names::{IdentityName, TaskId, Words};
use protem_verify::time::Time;

use crate::event::{EndReason, Ended, Event, Target};
use crate::grant::{Grant, Status};
use crate::limits::{LEASE_MAX, LEASE_MIN, TASKS_MAX};
use crate::refusal::Refusal;
use crate::state::State;

pub(crate) fn hold(
    state: &State,
    identity: IdentityName,
    task: TaskId,
    hold: HoldId,
    lease: Duration,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Err(Refusal::LeaseOutOfRange(lease));
    }
    let known = state.task(&identity, &task).filter(|task| !task.forgotten(now));
    if known.is_some_and(|task| task.ended.is_some()) {
        return Err(Refusal::TaskEnded(task));
    }
    let holds_already = known.is_some_and(|task| task.hold.is_some());
    let held = state.tally(&identity).map_or(0, |tally| tally.held);
    if !holds_already && held >= TASKS_MAX {
        return Err(Refusal::TooManyTasks(identity));
    }
    Ok(vec![Event::TaskHeld { identity, task, hold, lease }])
}

pub(crate) fn abandon(
    state: &State,
    identity: IdentityName,
    id: TaskId,
    hold: HoldId,
    now: Time,
) -> Vec<Event> {
    let held = state.task(&identity, &id).and_then(|task| task.hold);
    if held.is_none_or(|newest| newest.hold != hold) {
        return Vec::new(); // a newer stream holds it, or it has ended: this loss means nothing
    }
    end_task(state, identity, id, EndReason::Abandoned, Words::default(), now)
}

pub(crate) fn complete(
    state: &State,
    identity: IdentityName,
    id: TaskId,
    hold: Option<HoldId>,
    outcome: Words,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let task = state.task(&identity, &id).filter(|task| !task.forgotten(now));
    let Some(task) = task else { return Err(Refusal::UnknownTask(id)) };
    if task.ended.is_some() {
        return Ok(Vec::new());
    }
    let replaced = hold.is_some_and(|hold| task.hold.is_none_or(|newest| newest.hold != hold));
    if replaced {
        return Ok(Vec::new());
    }
    Ok(end_task(state, identity, id, EndReason::Completed, outcome, now))
}

fn end_task(
    state: &State,
    identity: IdentityName,
    id: TaskId,
    reason: EndReason,
    outcome: Words,
    now: Time,
) -> Vec<Event> {
    let live = state.covered(&Target::Task(identity.clone(), id.clone()));
    let grants = live.iter().filter_map(|id| state.grant(id)).map(|grant| {
        let reason = due(grant, now).unwrap_or(match (reason, grant.newest.is_some()) {
            (EndReason::Completed, false) => EndReason::Withdrawn,
            (reason, _) => reason,
        });
        ended(grant, reason, Words::default(), now)
    });
    let over = Event::TaskEnded { identity, task: id, reason, outcome };
    std::iter::once(over).chain(grants).collect()
}

pub(crate) fn give_back(
    state: &State,
    identity: &IdentityName,
    id: GrantId,
    note: Words,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grant(&id).filter(|grant| grant.by.identity == *identity);
    let grant = grant.ok_or(Refusal::UnknownGrant(id))?;
    if grant.ended() {
        return Ok(Vec::new());
    }
    let given = if grant.newest.is_some() { EndReason::Completed } else { EndReason::Withdrawn };
    Ok(vec![ended(grant, due(grant, now).unwrap_or(given), note, now)])
}

pub(crate) fn revoke(
    state: &State,
    targets: Vec<Target>,
    note: &Words,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    if note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    let mut events = Vec::new();
    for target in targets {
        match target {
            Target::Grant(id) => {
                let grant = state.grant(&id).ok_or(Refusal::UnknownGrant(id))?;
                if !grant.ended() {
                    let reason = due(grant, now).unwrap_or(EndReason::Revoked);
                    events.push(ended(grant, reason, note.clone(), now));
                }
            }
            Target::Key(key) => {
                if state.key(&key).is_none() {
                    return Err(Refusal::UnknownKey(key));
                }
                events.push(cut_off(state, Target::Key(key), EndReason::Revoked, note, now));
            }
            Target::Task(..)
            | Target::Identity(_)
            | Target::Resource(_)
            | Target::Scope(..)
            | Target::Everything => {
                events.push(cut_off(state, target, EndReason::Revoked, note, now));
            }
        }
    }
    Ok(events)
}

pub(crate) fn quarantine(
    state: &State,
    identity: IdentityName,
    on: bool,
    note: Words,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    if note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    match (on, state.quarantined(&identity)) {
        (true, true) | (false, false) => Ok(Vec::new()),
        (false, true) => Ok(vec![Event::QuarantineLifted { identity, note }]),
        (true, false) => {
            let target = Target::Identity(identity.clone());
            let cut = cut_off(state, target, EndReason::Quarantined, &note, now);
            Ok(vec![cut, Event::IdentityQuarantined { identity, note }])
        }
    }
}

/// One entry of constant size, whatever it covers. No credential that it covers outlives the last one that any key signed.
pub(crate) fn cut_off(
    state: &State,
    target: Target,
    reason: EndReason,
    note: &Words,
    now: Time,
) -> Event {
    let forget_after = match target {
        Target::Key(_) => None, // whoever has a stolen key signs what he likes, whenever he likes
        Target::Grant(_)
        | Target::Task(..)
        | Target::Identity(_)
        | Target::Resource(_)
        | Target::Scope(..)
        | Target::Everything => Some(state.last_exp().max(now)),
    };
    Event::CutOff { target, reason, note: note.clone(), forget_after }
}

/// The end of one grant, by an entry of its own.
pub(crate) fn ended(grant: &Grant, reason: EndReason, note: Words, now: Time) -> Event {
    entry(grant, reason, note, now, None)
}

/// The entry that is still owed for a grant that a cut-off ended.
pub(crate) fn owed(grant: &Grant) -> Option<Event> {
    let Status::Ended { reason, at, told_by, recorded: false, .. } = grant.status else {
        return None;
    };
    Some(entry(grant, reason, Words::default(), at, told_by))
}

fn entry(
    grant: &Grant,
    reason: EndReason,
    note: Words,
    ended: Time,
    told_by: Option<Seq>,
) -> Event {
    Event::GrantEnded(Box::new(Ended {
        grant: grant.id,
        identity: grant.by.identity.clone(),
        task: grant.task.clone(),
        resource: grant.resource.clone(),
        reason,
        note,
        ended,
        last_exp: grant.last_exp(),
        told_by,
    }))
}

/// Why a grant is over although no entry says so yet: its deadline passed, and nothing later may claim its end.
pub(crate) fn due(grant: &Grant, now: Time) -> Option<EndReason> {
    if grant.ended() || grant.live_at(now) {
        return None;
    }
    Some(if grant.newest.is_some() { EndReason::Expired } else { EndReason::Lapsed })
}
