//! People decide: approve, deny, narrow, take back, and look at emergencies afterwards.

use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::{Lifetime, Time};

use crate::access::{
    Authority, Becomes, activate, counting, digest, in_range, refused_note, still_true,
};
use crate::command::Choice;
use crate::ending::ended;
use crate::event::{EndReason, Event};
use crate::grant::{Grant, Waiting};
use crate::limits::VERDICT_AGE_MAX;
use crate::refusal::Refusal;
use crate::request::{AccessRequest, Scopes};
use crate::state::State;
use crate::verdict::{Approver, ApproverVerdict, Effect, Verdict};

/// What an approver wants.
pub(crate) struct Wish {
    pub(crate) digest: Hash,
    pub(crate) choice: Choice,
    pub(crate) reason: Words,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) scopes: Option<Scopes>,
}

pub(crate) fn decide(
    state: &State,
    id: GrantId,
    wish: Wish,
    approver: &ApproverVerdict,
    verdict: Verdict,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grant(&id).ok_or(Refusal::UnknownGrant(id))?;
    let waiting = grant.waiting.as_deref().filter(|_| grant.pending_at(now));
    let waiting = waiting.ok_or(Refusal::NotPending(id))?;
    let approver = approver.approver();
    if wish.choice == Choice::Undo {
        let by = approver.person.clone();
        if !waiting.approved.contains(&by) {
            return Err(Refusal::NoApprovalToUndo(by));
        }
        return Ok(vec![Event::ApprovalTakenBack { grant: id, by }]);
    }
    if wish.digest != waiting.digest {
        return Err(Refusal::DigestChanged(waiting.digest));
    }
    may_decide(state, waiting, approver, now)?;
    match wish.choice {
        Choice::Approve => approve(state, grant, waiting, wish, approver, verdict, now),
        Choice::Deny if wish.reason.as_str().trim().is_empty() => Err(Refusal::ReasonRequired),
        Choice::Deny => Ok(vec![ended(grant, EndReason::Denied, wish.reason, now)]),
        Choice::Undo => Ok(Vec::new()), // answered above
    }
}

fn may_decide(
    state: &State,
    waiting: &Waiting,
    approver: &Approver,
    now: Time,
) -> Result<(), Refusal> {
    let other_bundle = state.bundle() != Some(approver.bundle);
    let old = now.since(approver.at) > VERDICT_AGE_MAX;
    if other_bundle || old || approver.digest != waiting.digest {
        return Err(Refusal::VerdictStale);
    }
    let itself = waiting.behind.as_ref() == Some(&approver.person);
    if itself || !approver.may {
        let why = if itself { "the request is your own".into() } else { approver.why_not.clone() };
        return Err(Refusal::MayNotDecide { person: approver.person.clone(), why });
    }
    Ok(())
}

fn approve(
    state: &State,
    grant: &Grant,
    waiting: &Waiting,
    wish: Wish,
    approver: &Approver,
    verdict: Verdict,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let narrowed = narrow(waiting, wish.lifetime, wish.scopes)?;
    let request = narrowed.clone().unwrap_or_else(|| waiting.request.clone());
    // Before a new bundle has come to this request, who may no longer approve counts no more all the same.
    let before = counting(&waiting.approved, &verdict)?;
    let again = before.contains(&approver.person);
    let given = before.len().saturating_add(usize::from(!again));
    let ruling = still_true(state, verdict, request.content(), &grant.by.identity, now)?;
    if ruling.effect == Effect::Deny {
        return Ok(vec![ended(grant, EndReason::Policy, refused_note(&ruling), now)]);
    }
    let rule = ruling.rule.as_ref().unwrap_or(&waiting.rule);
    let signed = digest(&request, &ruling, rule);
    // INVARIANT(approvals_of_other_rules_do_not_carry_over): before a new bundle has come to this request, nobody knows
    // whether what was approved is still what it says; of a narrowed one the digests cannot tell.
    let unknown = !before.is_empty() && state.unsettled.set().contains(&grant.id);
    if (narrowed.is_none() && signed != waiting.digest) || (narrowed.is_some() && unknown) {
        return Err(Refusal::VerdictStale);
    }
    in_range(ruling.terms.lifetime)?;
    let mut events = Vec::new();
    if narrowed.is_some() {
        events.push(Event::RequestNarrowed {
            grant: grant.id,
            by: approver.person.clone(),
            scopes: request.scopes.clone(),
            lifetime: ruling.terms.lifetime,
            digest: signed,
        });
    }
    if !again {
        // What they said before counts no more: by another account, or when they might, they say it anew.
        let old = waiting.approved.contains(&approver.person);
        let back = || Event::ApprovalTakenBack { grant: grant.id, by: approver.person.clone() };
        events.extend(old.then(back));
        events.push(Event::ApprovalGiven {
            grant: grant.id,
            by: approver.person.clone(),
            reason: wish.reason,
            digest: signed,
            standing: approver.standing.clone(),
        });
    }
    if let Some(authority) = Authority::of_quorum(request, ruling.clone(), given) {
        events.extend(activate(state, authority, Becomes::Waited(grant.id), now)?);
    } else if narrowed.is_some() {
        // The narrower request may need less, or fewer: people see what policy says of what is left.
        let (grant, ruling) = (grant.id, Box::new(ruling));
        events.push(Event::RequestReevaluated { grant, ruling, digest: signed });
    }
    Ok(events)
}

fn narrow(
    waiting: &Waiting,
    lifetime: Option<Lifetime>,
    scopes: Option<Scopes>,
) -> Result<Option<AccessRequest>, Refusal> {
    let asked = &waiting.request;
    let scopes = scopes.unwrap_or_else(|| asked.scopes.clone());
    let longer = lifetime.is_some_and(|wish| wish > waiting.lifetime);
    if longer || !scopes.within(&asked.scopes) {
        return Err(Refusal::NotNarrower);
    }
    let lifetime = lifetime.or(asked.lifetime);
    let same = lifetime == asked.lifetime && scopes == asked.scopes;
    Ok((!same).then(|| AccessRequest { lifetime, scopes, ..asked.clone() }))
}

pub(crate) fn close_review(
    state: &State,
    grant: GrantId,
    by: PersonName,
    note: Words,
) -> Result<Vec<Event>, Refusal> {
    let open = state.tallies.map().values().any(|tally| tally.review == Some(grant));
    if !open {
        return Err(Refusal::NoReview(grant));
    }
    if note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    Ok(vec![Event::ReviewClosed { grant, by, note }])
}
