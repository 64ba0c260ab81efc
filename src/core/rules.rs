//! What the whole journal lives by: its opening and epochs, bundles and their settling, signing keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use protem_verify::ids::{Epoch, GrantId, Hash, JournalId};
use protem_verify::names::{IdentityName, KeyId, Words};
use protem_verify::time::Time;

use crate::access::{
    Authority, Becomes, activate, counting, digest, refused_note, still_allowed, still_true,
};
use crate::ending::{cut_off, due, ended};
use crate::event::{EndReason, Event, Files, PublicKey, Target};
use crate::grant::{Grant, KeyState};
use crate::limits::{SIGNING_KEYS_MAX, STEP_MAX};
use crate::refusal::Refusal;
use crate::state::State;
use crate::verdict::{Effect, Verdict};

pub(crate) fn open_journal(
    state: &State,
    journal: JournalId,
    epoch: Epoch,
    issuer: Arc<str>,
    dev: bool,
) -> Result<Vec<Event>, Refusal> {
    if state.journal().is_some() {
        return Err(Refusal::AlreadyOpen);
    }
    Ok(vec![Event::JournalOpened { journal, epoch, issuer, dev }])
}

pub(crate) fn begin_epoch(state: &State, epoch: Epoch, note: Words) -> Result<Vec<Event>, Refusal> {
    if epoch <= state.epoch() {
        return Err(Refusal::AlreadyOpen);
    }
    Ok(vec![Event::EpochBegan { epoch, note }])
}

pub(crate) fn activate_bundle(
    state: &State,
    digest: Hash,
    files: Files,
    expect: Option<Hash>,
) -> Result<Vec<Event>, Refusal> {
    let in_force = state.bundle();
    if let Some(expect) = expect
        && in_force != Some(expect)
    {
        return Err(Refusal::BundleMoved(in_force.unwrap_or_default()));
    }
    if in_force == Some(digest) {
        return Ok(Vec::new());
    }
    let settled = (state.live() == 0).then_some(Event::BundleSettled { digest });
    Ok(std::iter::once(Event::BundleActivated { digest, files }).chain(settled).collect())
}

/// One step through the grants from before a bundle: each is confirmed or ended.
pub(crate) fn settle(
    state: &State,
    bundle: Hash,
    grants: Vec<(GrantId, Verdict)>,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    if state.bundle() != Some(bundle) {
        return Err(Refusal::VerdictStale);
    }
    let mut events = Vec::new();
    let mut confirmed = Vec::new();
    let mut looked_at = 0_usize;
    // INVARIANT(a_step_makes_one_grant_of_an_identity_active): all verdicts of a step are about the state before it.
    let mut moved: BTreeSet<&IdentityName> = BTreeSet::new();
    for (id, verdict) in grants.into_iter().take(STEP_MAX) {
        let grant = state.grant(&id).filter(|_| state.unsettled.set().contains(&id));
        let Some(grant) = grant else { continue };
        let identity = &grant.by.identity;
        match settle_one(state, grant, verdict, moved.contains(identity), now) {
            Ok(Settled::Stays) => confirmed.push(id),
            Ok(Settled::Changes(changes)) => events.extend(changes),
            Ok(Settled::Begins(changes)) => {
                moved.insert(identity);
                events.extend(changes);
            }
            // What policy saw of this one has changed: it is looked at again, and the others do not wait for it.
            Err(Refusal::VerdictStale) => continue,
            Err(refusal) => return Err(refusal),
        }
        looked_at = looked_at.saturating_add(1);
    }
    if !confirmed.is_empty() {
        events.push(Event::GrantsConfirmed { digest: bundle, grants: confirmed });
    }
    if looked_at == state.unsettled.set().len() && !state.settled() {
        events.push(Event::BundleSettled { digest: bundle });
    }
    Ok(events)
}

/// What policy says by now of one request that waits.
pub(crate) fn look_again(
    state: &State,
    grant: &Grant,
    verdict: Verdict,
    now: Time,
) -> Result<Vec<Event>, Refusal> {
    Ok(match settle_one(state, grant, verdict, false, now)? {
        Settled::Stays => Vec::new(),
        Settled::Changes(changes) | Settled::Begins(changes) => changes,
    })
}

/// What becomes of one grant.
enum Settled {
    /// It goes on as it is.
    Stays,
    /// It ends, or waits by other rules.
    Changes(Vec<Event>),
    /// It waited, and is active.
    Begins(Vec<Event>),
}

/// `moved`: its identity has one more active grant since the verdict was made.
fn settle_one(
    state: &State,
    grant: &Grant,
    verdict: Verdict,
    moved: bool,
    now: Time,
) -> Result<Settled, Refusal> {
    let end = |reason, note| Settled::Changes(vec![ended(grant, reason, note, now)]);
    if let Some(reason) = due(grant, now) {
        return Ok(end(reason, Words::default()));
    }
    let approved = grant.waiting.as_ref().map_or(&grant.approvers, |waiting| &waiting.approved);
    let counting = counting(approved, &verdict)?;
    let ruling = still_true(state, verdict, grant.content, &grant.by.identity, now)?;
    let goes_on = match &grant.waiting {
        None => still_allowed(&ruling, counting.len()),
        Some(_) => ruling.effect != Effect::Deny,
    };
    if !goes_on {
        return Ok(end(EndReason::Policy, refused_note(&ruling)));
    }
    if moved && ruling.active.is_some() {
        return Err(Refusal::VerdictStale);
    }
    let Some(waiting) = &grant.waiting else { return Ok(Settled::Stays) };
    let rule = ruling.rule.as_ref().unwrap_or(&waiting.rule);
    let digest = digest(&waiting.request, &ruling, rule);
    let same = digest == waiting.digest;
    let given = if same { counting.len() } else { 0 };
    let request = waiting.request.clone();
    // An approval of what has changed is void as it is; of what has not, it counts while its giver may still give it.
    let lost = waiting.approved.difference(&counting).filter(|_| same);
    let lost = lost.map(|by| Event::ApprovalTakenBack { grant: grant.id, by: by.clone() });
    let mut changes: Vec<Event> = lost.collect();
    let Some(yes) = Authority::of_quorum(request, ruling.clone(), given) else {
        let ruling = Box::new(ruling);
        changes.push(Event::RequestReevaluated { grant: grant.id, ruling, digest });
        return Ok(Settled::Changes(changes));
    };
    if moved {
        return Err(Refusal::VerdictStale); // the caps must count what this very step has made active
    }
    match activate(state, yes, Becomes::Waited(grant.id), now) {
        Ok(events) => {
            changes.extend(events);
            Ok(Settled::Begins(changes))
        }
        Err(refusal) => {
            let note = Words::parse("note", &refusal.to_string()).unwrap_or_default();
            Ok(end(EndReason::Policy, note))
        }
    }
}

pub(crate) fn publish_key(state: &State, key: PublicKey) -> Result<Vec<Event>, Refusal> {
    if state.key(&key.id).is_some() {
        return Ok(Vec::new());
    }
    // INVARIANT(a_cut_off_key_never_comes_back): also when its record was forgotten.
    if state.is_cut_off(&Target::Key(key.id.clone())) {
        return Err(Refusal::KeyState(key.id));
    }
    let known = state.keys().filter(|record| record.key.purpose == key.purpose).count();
    if known >= SIGNING_KEYS_MAX {
        return Err(Refusal::TooManySigningKeys);
    }
    Ok(vec![Event::KeyPublished(key)])
}

pub(crate) fn activate_key(state: &State, key: KeyId) -> Result<Vec<Event>, Refusal> {
    let record = state.key(&key).ok_or_else(|| Refusal::UnknownKey(key.clone()))?;
    match record.state {
        KeyState::Published => Ok(vec![Event::KeyActivated { key }]),
        KeyState::Signing => Ok(Vec::new()),
        KeyState::Retired | KeyState::CutOff => Err(Refusal::KeyState(key)),
    }
}

pub(crate) fn retire_key(
    state: &State,
    key: KeyId,
    compromised: bool,
    note: Words,
) -> Result<Vec<Event>, Refusal> {
    if compromised && note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    let Some(record) = state.key(&key) else {
        if !compromised {
            return Err(Refusal::UnknownKey(key));
        }
        // One that was forgotten may still be believed where its checkpoints are kept: it can be cut off all the same.
        let target = Target::Key(key);
        let already = state.is_cut_off(&target);
        let cut = || cut_off(state, target, EndReason::Revoked, &note, Time::ZERO);
        return Ok((!already).then(cut).into_iter().collect());
    };
    let void = (compromised && record.state != KeyState::CutOff)
        .then(|| cut_off(state, Target::Key(key.clone()), EndReason::Revoked, &note, Time::ZERO));
    let retired = match record.state {
        KeyState::Published | KeyState::Signing => Some(Event::KeyRetired { key }),
        KeyState::Retired | KeyState::CutOff => None,
    };
    Ok(retired.into_iter().chain(void).collect())
}

pub(crate) fn replace_key(state: &State, key: KeyId, note: Words) -> Result<Vec<Event>, Refusal> {
    let record = state.key(&key).ok_or_else(|| Refusal::UnknownKey(key.clone()))?;
    if note.as_str().trim().is_empty() {
        return Err(Refusal::ReasonRequired);
    }
    match record.state {
        KeyState::Signing if record.leaving => Ok(Vec::new()),
        KeyState::Signing => Ok(vec![Event::KeyRotationAsked { key, note }]),
        KeyState::Published | KeyState::Retired | KeyState::CutOff => Err(Refusal::KeyState(key)),
    }
}

pub(crate) fn forget_key(state: &State, key: KeyId, now: Time) -> Result<Vec<Event>, Refusal> {
    match state.key(&key) {
        None => Ok(Vec::new()),
        Some(record) if record.dead(now) => Ok(vec![Event::KeyForgotten { key }]),
        Some(_) => Err(Refusal::KeyState(key)),
    }
}
