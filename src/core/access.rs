//! Asking for access: requests, activation, renewals.

use std::collections::BTreeSet;

use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{IdentityName, KeyId, PersonName, Words};
use protem_verify::time::{Lifetime, Time};
use sha2::{Digest, Sha256};

use crate::dice::{Dice, grant_id};
use crate::ending::ended;
use crate::event::{Activated, Asked, CredentialIssued, EndReason, Event, KeyPurpose, Requested};
use crate::grant::{KeyState, Status};
use crate::limits::{
    DECIDE_WITHIN_MAX, GRANT_KEYS_MAX, KEY_AGE_MAX, KEY_AHEAD_MAX, LIFETIME_MAX, LIFETIME_MIN,
    LIVE_MAX, PENDING_MAX, VERDICT_AGE_MAX,
};
use crate::refusal::Refusal;
use crate::request::{AccessRequest, Workload, field, proof_field};
use crate::state::State;
use crate::usual::{findings, unmoved};
use crate::verdict::{ApprovalRule, Effect, Ruling, Verdict};

/// Proof that policy, or enough approvers, said yes to exactly this request. Used up by [`activate`].
pub struct Authority {
    request: AccessRequest,
    ruling: Ruling,
}

impl Authority {
    /// Policy said yes at once.
    fn of_policy(request: AccessRequest, ruling: Ruling) -> Option<Self> {
        let yes = ruling.effect == Effect::Issue && ruling.content == request.content();
        yes.then_some(Self { request, ruling })
    }

    /// Policy asks for approvers, and enough distinct people said yes. `given` counts people, not clicks.
    pub(crate) fn of_quorum(request: AccessRequest, ruling: Ruling, given: usize) -> Option<Self> {
        let met = match (ruling.effect, &ruling.rule) {
            (Effect::Issue, _) => true,
            (Effect::NeedsApproval, Some(rule)) => {
                rule.required > 0 && given >= usize::from(rule.required)
            }
            (Effect::NeedsApproval, None) | (Effect::Deny, _) => false,
        };
        (met && ruling.content == request.content()).then_some(Self { request, ruling })
    }
}

pub(crate) fn request(
    state: &State,
    request: AccessRequest,
    verdict: Verdict,
    behind: Option<PersonName>,
    now: Time,
    dice: &mut dyn Dice,
) -> Result<Vec<Event>, Refusal> {
    if let Some(repeated) = repeated(state, &request, now)? {
        return Ok(repeated);
    }
    let identity = &request.by.identity;
    if state.quarantined(identity) {
        return Err(Refusal::Quarantined(identity.clone()));
    }
    if request.emergency && request.purpose.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    if request.emergency && state.open_review(identity).is_some() {
        return Err(Refusal::ReviewOpen(identity.clone()));
    }
    let past_moved = verdict.reads_findings() && past_moved(state, &request, verdict.ruling());
    let ruling = still_true(state, verdict, request.content(), identity, now)?;
    if past_moved {
        return Err(Refusal::VerdictStale);
    }
    match ruling.effect {
        Effect::Deny => Ok(vec![Event::AccessRefused(Box::new(Asked { request, ruling }))]),
        Effect::Issue => {
            let Some(authority) = Authority::of_policy(request, ruling) else {
                return Err(Refusal::RequestMismatch);
            };
            activate(state, authority, Becomes::New(grant_id(now, dice)), now)
        }
        Effect::NeedsApproval => wait(state, request, ruling, behind, now, dice),
    }
}

/// What answers a request that was made before: the same key, or the same ask under the same task.
fn repeated(
    state: &State,
    request: &AccessRequest,
    now: Time,
) -> Result<Option<Vec<Event>>, Refusal> {
    let identity = &request.by.identity;
    if let Some(key) = request.key {
        match state.uses.get(&(identity.clone(), key)) {
            Some(used) if used.content == request.content() => return Ok(Some(Vec::new())),
            Some(_) => return Err(Refusal::KeyReused(key)),
            None => {}
        }
        let made = Time::from_millis(key.millis());
        if now.since(made) > KEY_AGE_MAX {
            return Err(Refusal::KeyTooOld(key));
        }
        if made.since(now) > KEY_AHEAD_MAX {
            return Err(Refusal::KeyAhead(key));
        }
    }
    let task = state.task(identity, &request.task.id).filter(|task| !task.forgotten(now));
    if task.is_some_and(|task| task.ended.is_some()) {
        return Err(Refusal::TaskEnded(request.task.id.clone()));
    }
    let standing = state
        .standing(request)
        .filter(|id| state.grant(id).is_some_and(|grant| grant.live_at(now)));
    let full = standing
        .and_then(|id| state.grant(&id))
        .filter(|grant| request.key.is_some() && grant.keys.len() >= GRANT_KEYS_MAX);
    if let Some(grant) = full {
        return Err(Refusal::TooManyKeys(grant.id));
    }
    Ok(standing.map(|grant| {
        let repeat = |key| Event::RequestRepeated {
            identity: identity.clone(),
            key,
            content: request.content(),
            grant,
        };
        request.key.map(repeat).into_iter().collect()
    }))
}

/// Whether what policy saw is still what is.
pub(crate) fn still_true(
    state: &State,
    verdict: Verdict,
    content: Hash,
    identity: &IdentityName,
    now: Time,
) -> Result<Ruling, Refusal> {
    let ruling = verdict.into_ruling();
    holds(state, &ruling, content, identity, now)?;
    Ok(ruling)
}

/// The same of a ruling that is only looked at.
pub(crate) fn holds(
    state: &State,
    ruling: &Ruling,
    content: Hash,
    identity: &IdentityName,
    now: Time,
) -> Result<(), Refusal> {
    if ruling.content != content {
        return Err(Refusal::RequestMismatch);
    }
    let other_bundle = state.bundle() != Some(ruling.bundle);
    let old = now.since(ruling.at) > VERDICT_AGE_MAX;
    let moved = ruling.active.is_some_and(|seen| seen != state.active(identity));
    if other_bundle || old || moved {
        return Err(Refusal::VerdictStale);
    }
    Ok(())
}

/// Whether something else is unusual about a request than policy saw, at the moment that it looked at.
// INVARIANT(only_one_first_request_is_the_first): of two at once, the second is looked at again.
fn past_moved(state: &State, request: &AccessRequest, ruling: &Ruling) -> bool {
    let past = state.usual(&request.by.identity);
    !unmoved(&ruling.findings, &findings(past.map(|it| &**it), request, ruling.at))
}

fn wait(
    state: &State,
    request: AccessRequest,
    ruling: Ruling,
    behind: Option<PersonName>,
    now: Time,
    dice: &mut dyn Dice,
) -> Result<Vec<Event>, Refusal> {
    let Some(rule) = ruling.rule.as_ref().filter(|rule| rule.required > 0) else {
        return Err(Refusal::RequestMismatch);
    };
    let max = ruling.terms.pending_max;
    if state.pending(&request.by.identity) >= max {
        return Err(Refusal::TooManyPending { max });
    }
    if state.facts.pending >= PENDING_MAX {
        return Err(Refusal::TooManyPending {
            max: u32::try_from(PENDING_MAX).unwrap_or(u32::MAX),
        });
    }
    in_range(ruling.terms.lifetime)?;
    let decide_by = now + rule.decide_within.min(DECIDE_WITHIN_MAX);
    let digest = digest(&request, &ruling, rule);
    let grant = grant_id(now, dice);
    let asked = Asked { request, ruling };
    Ok(vec![Event::GrantRequested(Box::new(Requested { grant, asked, decide_by, digest, behind }))])
}

/// Which grant an activation makes.
pub(crate) enum Becomes {
    /// A new one, at once.
    New(GrantId),
    /// One that waited: a `GrantRequested` says what was asked.
    Waited(GrantId),
}

/// Makes access from a yes, within every hard cap.
pub(crate) fn activate(
    state: &State,
    authority: Authority,
    becomes: Becomes,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let Authority { request, ruling } = authority;
    let identity = &request.by.identity;
    let max = ruling.terms.active_max;
    if state.active(identity) >= max {
        return Err(Refusal::TooManyActive { identity: identity.clone(), max });
    }
    if state.live() >= LIVE_MAX {
        return Err(Refusal::TooManyLive);
    }
    in_range(ruling.terms.lifetime)?;
    let key = signing_key(state)?;
    let lifetime = ruling.terms.lifetime.0.min(LIFETIME_MAX);
    let until = now + lifetime;
    let (grant, asked) = match becomes {
        Becomes::New(id) => (id, true),
        Becomes::Waited(id) => (id, false),
    };
    let (iat, exp) = life(now, ruling.terms.credential, until);
    let credential = CredentialIssued {
        grant,
        number: 0,
        by: request.by.clone(),
        task: request.task.id.clone(),
        resource: request.resource.clone(),
        scopes: request.scopes.clone(),
        terms: ruling.terms.clone(),
        key,
        iat,
        exp,
        until,
        activated: None,
        epoch: state.epoch(),
        proof: request.proof.clone(),
    };
    let asked = asked.then_some(Asked { request, ruling });
    Ok(vec![Event::GrantActivated(Box::new(Activated { asked, until, credential }))])
}

// INVARIANT(no_credential_outlives_its_grant): `exp` is cut to the grant's end, in whole seconds, rounded down.
fn life(now: Time, credential: Lifetime, until: Time) -> (Time, Time) {
    let iat = Time::from_secs(now.as_secs());
    let exp = (iat + credential.0).min(until);
    (iat, Time::from_secs(exp.as_secs()))
}

pub(crate) fn in_range(lifetime: Lifetime) -> Result<(), Refusal> {
    if lifetime.0 < LIFETIME_MIN { Err(Refusal::LifetimeOutOfRange(lifetime.0)) } else { Ok(()) }
}

fn signing_key(state: &State) -> Result<KeyId, Refusal> {
    state.signing(KeyPurpose::Credential).cloned().ok_or(Refusal::NoSigningKey)
}

pub(crate) fn renew(
    state: &State,
    by: &Workload,
    id: GrantId,
    verdict: Verdict,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grant(&id).filter(|grant| grant.by == *by);
    let grant = grant.ok_or(Refusal::UnknownGrant(id))?;
    if grant.pending_at(now) {
        return Err(Refusal::StillPending(id));
    }
    let (Status::Active { until, activated, .. }, Some(newest)) = (&grant.status, &grant.newest)
    else {
        return Err(Refusal::GrantEnded(id));
    };
    if !grant.active_at(now) {
        return Err(Refusal::GrantEnded(id));
    }
    let key = signing_key(state)?;
    let signer_is_void =
        state.key(&newest.key).is_none_or(|record| record.state == KeyState::CutOff);
    if now < newest.renew_at() && !signer_is_void {
        return Ok(Vec::new());
    }
    let counting = counting(&grant.approvers, &verdict)?.len();
    let ruling = still_true(state, verdict, grant.content, &by.identity, now)?;
    if !still_allowed(&ruling, counting) {
        return Ok(vec![ended(grant, EndReason::Policy, refused_note(&ruling), now)]);
    }
    let (iat, exp) = life(now, ruling.terms.credential, *until);
    if exp <= iat {
        return Ok(Vec::new()); // less than a second is left: the newest one lasts as long as any could
    }
    let issued = CredentialIssued {
        grant: id,
        number: newest.number.saturating_add(1),
        by: grant.by.clone(),
        task: grant.task.clone(),
        resource: grant.resource.clone(),
        scopes: grant.scopes.clone(),
        terms: ruling.terms,
        key,
        iat,
        exp,
        until: *until,
        activated: Some(*activated),
        epoch: state.epoch(),
        proof: grant.proof.clone(),
    };
    Ok(vec![Event::CredentialIssued(Box::new(issued))])
}

/// Those whose approval counts by what policy says now: who left the team that may approve counts no more. An approval that
/// policy was not asked about came since: then it must be asked again, or two at once would not see each other.
pub(crate) fn counting(
    approved: &BTreeSet<PersonName>,
    verdict: &Verdict,
) -> Result<BTreeSet<PersonName>, Refusal> {
    let mut counting = BTreeSet::new();
    for person in approved {
        if verdict.counts(person).ok_or(Refusal::VerdictStale)? {
            counting.insert(person.clone());
        }
    }
    Ok(counting)
}

/// Whether a live grant may go on under what policy says now: an approved one still has enough approvals that count.
pub(crate) fn still_allowed(ruling: &Ruling, counting: usize) -> bool {
    match (ruling.effect, &ruling.rule) {
        (Effect::Issue, _) => true,
        (Effect::NeedsApproval, Some(rule)) => {
            counting > 0 && counting >= usize::from(rule.required)
        }
        (Effect::NeedsApproval, None) | (Effect::Deny, _) => false,
    }
}

pub(crate) fn refused_note(ruling: &Ruling) -> Words {
    Words::parse("note", &ruling.remedy).unwrap_or_default()
}

/// What an approver signs off: every field length-prefixed, nothing of the rest of the bundle.
pub(crate) fn digest(request: &AccessRequest, ruling: &Ruling, rule: &ApprovalRule) -> Hash {
    let mut hash = Sha256::new();
    field(&mut hash, b"protem-approval-v1");
    field(&mut hash, request.by.identity.as_str().as_bytes());
    field(&mut hash, request.by.subject.as_str().as_bytes());
    field(&mut hash, request.task.id.as_str().as_bytes());
    field(&mut hash, request.task.kind.as_str().as_bytes());
    field(&mut hash, request.task.url.as_str().as_bytes());
    field(&mut hash, request.resource.as_str().as_bytes());
    for scope in request.scopes.iter() {
        field(&mut hash, scope.as_str().as_bytes());
    }
    for operation in ruling.terms.operations.iter() {
        field(&mut hash, operation.as_bytes());
    }
    field(&mut hash, &ruling.terms.lifetime.0.as_millis().to_be_bytes());
    field(&mut hash, request.purpose.as_str().as_bytes());
    field(&mut hash, &[u8::from(request.emergency)]);
    proof_field(&mut hash, request.proof.as_ref());
    field(&mut hash, &rule.policies.0);
    Hash(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{World, edit, request};

    /// What the type is for: a yes to one request is none to another, however either was found.
    #[test]
    fn a_yes_is_to_exactly_one_request() {
        let (world, asked, other) =
            (World::new(), request("team/a", "t"), request("team/a", "other"));
        let ruled = |effect| edit(&world.verdict(&asked, effect), |_| ()).into_ruling();
        let (at_once, approved) = (ruled(Effect::Issue), ruled(Effect::NeedsApproval));
        assert!(Authority::of_policy(asked.clone(), at_once.clone()).is_some());
        assert!(Authority::of_quorum(asked.clone(), approved.clone(), 1).is_some());
        assert!(Authority::of_policy(other.clone(), at_once).is_none());
        assert!(Authority::of_quorum(other, approved.clone(), 1).is_none());
        assert!(Authority::of_policy(asked.clone(), approved.clone()).is_none());
        assert!(Authority::of_quorum(asked, approved, 0).is_none());
    }
}
