//! People decide: approve, deny, narrow, take back, and look at emergencies afterwards.

use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::Time;

use crate::access::{Authority, Becomes, activate, counting, digest, holds, in_range, still_true};
use crate::command::{Choice, Narrowed};
use crate::ending::ended;
use crate::event::{EndReason, Event};
use crate::grant::{Grant, Waiting};
use crate::limits::VERDICT_AGE_MAX;
use crate::refusal::Refusal;
use crate::request::AccessRequest;
use crate::rules::look_again;
use crate::state::State;
use crate::verdict::{Approver, ApproverVerdict, Effect, Verdict};

/// What an approver wants.
pub(crate) struct Wish {
    pub(crate) digest: Hash,
    pub(crate) choice: Choice,
    pub(crate) reason: Words,
    pub(crate) narrowed: Option<Box<Narrowed>>,
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
    let identity = &grant.by.identity;
    let seen = verdict.ruling();
    holds(state, seen, waiting.request.content(), identity, now)?;
    let rule = seen.rule.as_ref().unwrap_or(&waiting.rule);
    // INVARIANT(approvals_of_other_rules_do_not_carry_over): what policy says by now of the request as it waits comes first,
    // by another bundle, at another time or after another use; whoever decides looks at that.
    if seen.effect == Effect::Deny || digest(&waiting.request, seen, rule) != waiting.digest {
        return look_again(state, grant, verdict, now);
    }
    let narrowed = wish.narrowed.as_ref().map(|less| narrow(waiting, less)).transpose()?.flatten();
    let request = narrowed.clone().unwrap_or_else(|| waiting.request.clone());
    let verdict = match wish.narrowed {
        Some(less) if narrowed.is_some() => less.verdict,
        Some(_) | None => verdict,
    };
    // Before a new bundle has come to this request, who may no longer approve counts no more all the same.
    let before = counting(&waiting.approved, &verdict)?;
    let again = before.contains(&approver.person);
    let given = before.len().saturating_add(usize::from(!again));
    let ruling = still_true(state, verdict, request.content(), identity, now)?;
    if ruling.effect == Effect::Deny {
        return Err(Refusal::NarrowerRefused(ruling.remedy));
    }
    // INVARIANT(who_narrows_never_widens): a scope that is dropped may have been what kept the others short.
    if ruling.terms.lifetime > waiting.lifetime {
        return Err(Refusal::NotNarrower);
    }
    let rule = ruling.rule.as_ref().unwrap_or(&waiting.rule);
    let signed = digest(&request, &ruling, rule);
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

/// The request with less in it; none when there is not less.
fn narrow(waiting: &Waiting, less: &Narrowed) -> Result<Option<AccessRequest>, Refusal> {
    let asked = &waiting.request;
    let scopes = less.scopes.clone().unwrap_or_else(|| asked.scopes.clone());
    let lifetime = less.lifetime.unwrap_or(waiting.lifetime);
    if lifetime > waiting.lifetime || !scopes.within(&asked.scopes) {
        return Err(Refusal::NotNarrower);
    }
    let same = lifetime == waiting.lifetime && scopes == asked.scopes;
    Ok((!same).then(|| AccessRequest { lifetime: Some(lifetime), scopes, ..asked.clone() }))
}

pub(crate) fn close_review(
    state: &State,
    grant: GrantId,
    by: PersonName,
    bundle: Hash,
    note: Words,
) -> Result<Vec<Event>, Refusal> {
    if state.bundle() != Some(bundle) {
        return Err(Refusal::VerdictStale);
    }
    let open = state.tallies.map().values().any(|tally| tally.review == Some(grant));
    if !open {
        return Err(Refusal::NoReview(grant));
    }
    if note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    Ok(vec![Event::ReviewClosed { grant, by, note }])
}
