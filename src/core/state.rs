//! State: the fold of the journal, all that `decide` needs and no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, RequestId, Seq};
use protem_verify::names::{IdentityName, KeyId, ResourceName, Subject, TaskId};
use protem_verify::time::Time;

use crate::event::{KeyPurpose, Target};
use crate::grant::{CutOff, Grant, Hold, KeyRecord, KeyState, Status, TaskState};
use crate::request::{AccessRequest, Scopes};
use crate::tracked::{Tracked, TrackedSet};
use crate::usual::{Hour, Usual};

/// The fold of a journal.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) facts: Facts,
    facts_before: Option<Facts>,
    pub(crate) grants: Tracked<GrantId, Grant>,
    pub(crate) tasks: Tracked<(IdentityName, TaskId), TaskState>,
    pub(crate) uses: Tracked<(IdentityName, RequestId), Use>,
    pub(crate) tallies: Tracked<IdentityName, Tally>,
    /// What each identity was granted, by the hour: for ever when it was granted something last, the rest for 90 days.
    pub(crate) usual: Tracked<IdentityName, Arc<Usual>>,
    /// Live grants by identity and task.
    pub(crate) by_task: TrackedSet<(IdentityName, TaskId, GrantId)>,
    /// Live grants by resource.
    pub(crate) by_resource: TrackedSet<(ResourceName, GrantId)>,
    pub(crate) deadlines: TrackedSet<(Time, GrantId)>,
    /// Grants that wait for approvers.
    pub(crate) waits: TrackedSet<GrantId>,
    pub(crate) cut_offs: Tracked<Seq, CutOff>,
    /// Grants that ended before their time by an entry of their own, by that entry: what a feed's snapshot tells.
    pub(crate) ended_early: Tracked<Seq, GrantId>,
    /// Grants that a cut-off ended and whose own row is still owed.
    pub(crate) unrecorded: TrackedSet<GrantId>,
    /// How many of them each cut-off owes.
    pub(crate) owed: Tracked<Seq, usize>,
    /// Live grants that the bundle in force has not confirmed.
    pub(crate) unsettled: TrackedSet<GrantId>,
    pub(crate) keys: Tracked<KeyId, KeyRecord>,
    /// What may be forgotten, and when.
    pub(crate) forgettable: TrackedSet<(Time, Forgettable)>,
    pub(crate) names: Names,
}

/// The journal's own facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Entries folded so far.
    pub seq: Seq,
    /// When the last of them happened.
    pub last_at: Time,
    /// The journal's id, once it is open.
    pub journal: Option<JournalId>,
    /// Its life.
    pub epoch: Epoch,
    /// The `iss` of its credentials.
    pub issuer: Arc<str>,
    /// Whether `protem dev` made it.
    pub dev: bool,
    /// The bundle in force.
    pub bundle: Option<Hash>,
    /// The entry that put it in force.
    pub bundle_seq: Seq,
    /// Whether every grant from before it was looked at.
    pub settled: bool,
    /// Requests that wait, over all identities.
    pub pending: usize,
    /// Grants that are live, over all identities.
    pub live: usize,
}

/// What an idempotency key was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The grant that answers it.
    pub grant: GrantId,
    /// `AccessRequest::content` under it.
    pub content: Hash,
}

/// What is counted for one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Active grants.
    pub active: u32,
    /// Waiting requests.
    pub pending: u32,
    /// Held tasks that have not ended.
    pub held: u32,
    /// No grants for it now.
    pub quarantined: bool,
    /// The emergency that nobody has looked at.
    pub review: Option<GrantId>,
}

/// What a sweep may free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Forgettable {
    Grant(GrantId),
    Task(IdentityName, TaskId),
    CutOff(Seq),
    Usual(IdentityName),
}

/// One copy of each name and how many grants share it, so that a million of them do, and none stays behind: a CI system has
/// another subject for each branch. A turn that is undone may leave a count too high or too low, and then a name stays, or
/// has a second copy; nothing else depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    identities: BTreeMap<IdentityName, u32>,
    subjects: BTreeMap<Subject, u32>,
    resources: BTreeMap<ResourceName, u32>,
    scopes: BTreeMap<Scopes, u32>,
}

impl Names {
    pub(crate) fn intern(&mut self, grant: &mut Grant) {
        grant.by.identity = shared(&mut self.identities, &grant.by.identity);
        grant.by.subject = shared(&mut self.subjects, &grant.by.subject);
        grant.resource = shared(&mut self.resources, &grant.resource);
        grant.scopes = shared(&mut self.scopes, &grant.scopes);
    }

    /// A grant is forgotten.
    fn release(&mut self, grant: &Grant) {
        left(&mut self.identities, &grant.by.identity);
        left(&mut self.subjects, &grant.by.subject);
        left(&mut self.resources, &grant.resource);
        left(&mut self.scopes, &grant.scopes);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.identities.len() + self.subjects.len() + self.resources.len() + self.scopes.len()
    }
}

fn shared<T: Ord + Clone>(known: &mut BTreeMap<T, u32>, name: &T) -> T {
    let one = known.get_key_value(name).map_or_else(|| name.clone(), |(one, _)| one.clone());
    let grants = known.entry(one.clone()).or_default();
    *grants = grants.saturating_add(1);
    one
}

fn left<T: Ord>(known: &mut BTreeMap<T, u32>, name: &T) {
    let Some(grants) = known.get_mut(name) else { return };
    *grants = grants.saturating_sub(1);
    if *grants == 0 {
        known.remove(name);
    }
}

impl State {
    /// The fold of an empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries folded so far.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.facts.seq
    }

    /// When the last of them happened; no later turn is before it.
    #[must_use]
    pub fn last_at(&self) -> Time {
        self.facts.last_at
    }

    /// The journal's id, once it is open.
    #[must_use]
    pub fn journal(&self) -> Option<JournalId> {
        self.facts.journal
    }

    /// The journal's life.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.facts.epoch
    }

    /// The `iss` of its credentials.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.facts.issuer
    }

    /// Whether `protem dev` made the journal.
    #[must_use]
    pub fn dev(&self) -> bool {
        self.facts.dev
    }

    /// The digest of the bundle in force.
    #[must_use]
    pub fn bundle(&self) -> Option<Hash> {
        self.facts.bundle
    }

    /// The entry that put it in force.
    #[must_use]
    pub fn bundle_seq(&self) -> Seq {
        self.facts.bundle_seq
    }

    /// Whether every grant from before the bundle was confirmed or ended.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.facts.settled
    }

    /// Live grants that the bundle in force has not confirmed, at most `limit`.
    #[must_use]
    pub fn unsettled(&self, limit: usize) -> Vec<GrantId> {
        self.unsettled.set().iter().take(limit).copied().collect()
    }

    /// Every grant that waits for approvers, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = GrantId> {
        self.waits.set().iter().copied()
    }

    /// Whether a grant waits for approvers.
    #[must_use]
    pub fn waits(&self, id: &GrantId) -> bool {
        self.waits.set().contains(id)
    }

    /// Every emergency that nobody has looked at.
    pub fn open_reviews(&self) -> impl Iterator<Item = GrantId> {
        self.tallies.map().values().filter_map(|tally| tally.review)
    }

    /// A grant, live or remembered.
    #[must_use]
    pub fn grant(&self, id: &GrantId) -> Option<&Grant> {
        self.grants.get(id)
    }

    /// The grant that answers an idempotency key.
    #[must_use]
    pub fn by_key(&self, identity: &IdentityName, key: &RequestId) -> Option<GrantId> {
        self.uses.get(&(identity.clone(), *key)).map(|used| used.grant)
    }

    /// The live grant that answers a repeated ask under one task: same subject, resource, scopes, proof key and emergency flag.
    #[must_use]
    pub fn standing(&self, request: &AccessRequest) -> Option<GrantId> {
        let task = self.task(&request.by.identity, &request.task.id)?;
        let same = |id: &&GrantId| {
            self.grants.get(id).is_some_and(|grant| {
                grant.by == request.by
                    && grant.resource == request.resource
                    && grant.scopes == request.scopes
                    && grant.proof == request.proof
                    && grant.emergency == request.emergency
            })
        };
        task.live.iter().find(same).copied()
    }

    /// A task that was opened and is remembered.
    #[must_use]
    pub fn task(&self, identity: &IdentityName, task: &TaskId) -> Option<&TaskState> {
        self.tasks.get(&(identity.clone(), task.clone()))
    }

    /// Tasks that a stream holds.
    pub fn held(&self) -> impl Iterator<Item = (&IdentityName, &TaskId, &Hold)> {
        self.tasks.map().iter().filter_map(|((identity, id), task)| {
            let hold = task.hold.as_ref().filter(|_| task.ended.is_none())?;
            Some((identity, id, hold))
        })
    }

    /// How many active grants an identity holds.
    #[must_use]
    pub fn active(&self, identity: &IdentityName) -> u32 {
        self.tally(identity).map_or(0, |tally| tally.active)
    }

    /// How many requests of an identity wait.
    #[must_use]
    pub fn pending(&self, identity: &IdentityName) -> u32 {
        self.tally(identity).map_or(0, |tally| tally.pending)
    }

    /// How many grants are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.facts.live
    }

    /// Whether an identity gets no grants now.
    #[must_use]
    pub fn quarantined(&self, identity: &IdentityName) -> bool {
        self.tally(identity).is_some_and(|tally| tally.quarantined)
    }

    /// The emergency of an identity that nobody has looked at.
    #[must_use]
    pub fn open_review(&self, identity: &IdentityName) -> Option<GrantId> {
        self.tally(identity).and_then(|tally| tally.review)
    }

    /// What is usual for an identity that was granted anything.
    #[must_use]
    pub fn usual(&self, identity: &IdentityName) -> Option<&Arc<Usual>> {
        self.usual.get(identity)
    }

    /// The same for every identity.
    pub fn all_usual(&self) -> impl Iterator<Item = (&IdentityName, &Arc<Usual>)> {
        self.usual.map().iter()
    }

    pub(crate) fn tally(&self, identity: &IdentityName) -> Option<&Tally> {
        self.tallies.get(identity)
    }

    /// Every key that was published and not forgotten.
    pub fn keys(&self) -> impl Iterator<Item = &KeyRecord> + Clone {
        self.keys.map().values()
    }

    /// A key by its id.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.keys.get(id)
    }

    /// Whether a cut-off of exactly this is in force.
    #[must_use]
    pub fn is_cut_off(&self, target: &Target) -> bool {
        self.cut_offs.map().values().any(|cut| cut.target == *target)
    }

    /// The key that signs for a purpose: the one activated last.
    #[must_use]
    pub fn signing(&self, purpose: KeyPurpose) -> Option<&KeyId> {
        let signs = |record: &&KeyRecord| {
            record.key.purpose == purpose && record.state == KeyState::Signing
        };
        self.keys().filter(signs).max_by_key(|record| record.activated).map(|record| &record.key.id)
    }

    /// When the last credential that any key signed dies.
    #[must_use]
    pub fn last_exp(&self) -> Time {
        self.keys().map(|record| record.last_exp).max().unwrap_or_default()
    }

    /// How many grants the cut-off at `seq` ended whose rows are still owed: right after it, all that it ended.
    #[must_use]
    pub fn owed_by(&self, seq: Seq) -> usize {
        self.owed.get(&seq).copied().unwrap_or(0)
    }

    /// When a `Tick` is due; a moment in the past is due at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.unrecorded.set().is_empty() {
            return Some(Time::ZERO);
        }
        self.deadlines.set().first().map(|(time, _)| *time)
    }

    /// Frees what nobody remembers, at most `limit` things. It changes no answer, so it needs no entry; call it between
    /// turns. Whether all that is due was freed.
    pub fn sweep(&mut self, now: Time, limit: usize) -> bool {
        for _ in 0..limit {
            let Some((due, what)) = self.forgettable.set().first().cloned() else { return true };
            if now < due {
                return true;
            }
            self.forgettable.remove(&(due, what.clone()));
            match what {
                Forgettable::Grant(id) => self.forget_grant(&id),
                Forgettable::Task(identity, id) => self.forget_task(now, identity, id),
                Forgettable::CutOff(seq) => {
                    self.cut_offs.remove(&seq);
                }
                Forgettable::Usual(identity) => self.forget_usual(now, identity),
            }
        }
        false
    }

    fn forget_grant(&mut self, id: &GrantId) {
        if self.unrecorded.set().contains(id) {
            return; // its row is still owed; recording it makes it forgettable again
        }
        let Some(grant) = self.grants.remove(id) else { return };
        self.names.release(&grant);
        for key in grant.keys {
            self.uses.remove(&(grant.by.identity.clone(), key));
        }
        if let Status::Ended { seq, .. } = grant.status {
            self.ended_early.remove(&seq);
        }
    }

    fn forget_task(&mut self, now: Time, identity: IdentityName, id: TaskId) {
        let key = (identity, id);
        let stale = self.tasks.get(&key).is_some_and(|task| task.forgotten(now));
        if stale {
            self.tasks.remove(&key);
        }
    }

    fn forget_usual(&mut self, now: Time, identity: IdentityName) {
        let Some(usual) = self.usual.get(&identity) else { return };
        if usual.forgotten(Hour::of(now)) {
            let bare = Usual::bare(usual.last);
            self.usual.insert(identity, Arc::new(bare));
        } else {
            self.forgettable.insert((usual.forget_at(), Forgettable::Usual(identity)));
        }
    }

    /// Opens a turn: what follows can be taken back.
    pub fn begin(&mut self) {
        self.facts_before = Some(self.facts.clone());
        self.each(Undo::Begin);
    }

    /// Keeps what the turn did.
    pub fn commit(&mut self) {
        self.facts_before = None;
        self.each(Undo::Commit);
    }

    /// Takes the turn back without a trace.
    pub fn rollback(&mut self) {
        if let Some(before) = self.facts_before.take() {
            self.facts = before;
        }
        self.each(Undo::Rollback);
    }

    fn each(&mut self, what: Undo) {
        macro_rules! each {
            ($($field:ident),*) => {$(
                match what {
                    Undo::Begin => self.$field.begin(),
                    Undo::Commit => self.$field.commit(),
                    Undo::Rollback => self.$field.rollback(),
                }
            )*};
        }
        each!(
            grants,
            tasks,
            uses,
            tallies,
            usual,
            by_task,
            by_resource,
            deadlines,
            waits,
            cut_offs,
            ended_early,
            unrecorded,
            owed,
            unsettled,
            keys,
            forgettable
        );
    }
}

#[derive(Clone, Copy)]
enum Undo {
    Begin,
    Commit,
    Rollback,
}
