//! Apply: what happened changes the state. Total: it cannot fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{IdentityName, PersonName, TaskId, TaskKind, Words};
use protem_verify::time::Time;

use crate::event::{
    Activated, Asked, CredentialIssued, EndReason, Ended, Event, PublicKey, Requested, Target,
};
use crate::grant::{CutOff, Grant, Hold, KeyRecord, KeyState, Newest, Status, TaskState, Waiting};
use crate::limits::REMEMBER;
use crate::request::AccessRequest;
use crate::state::{Facts, Forgettable, State, Tally, Use};
use crate::usual::Usual;

impl State {
    /// Folds the next entry of the journal, which happened at `at`.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm an event: a reader finds them all in one list"
    )]
    pub fn apply(&mut self, at: Time, event: &Event) {
        self.facts.seq = self.facts.seq.next();
        self.facts.last_at = self.facts.last_at.max(at);
        match event {
            Event::JournalOpened { journal, epoch, issuer, dev } => {
                let facts =
                    Facts { seq: self.facts.seq, last_at: self.facts.last_at, ..Facts::default() };
                self.facts = Facts {
                    journal: Some(*journal),
                    epoch: *epoch,
                    issuer: issuer.clone(),
                    dev: *dev,
                    settled: true,
                    ..facts
                };
            }
            Event::EpochBegan { epoch, .. } => {
                self.facts.epoch = *epoch;
                self.void(at, &Target::Everything, EndReason::Fenced);
            }
            Event::BundleActivated { digest, .. } => self.bundle_activated(*digest),
            Event::BundleSettled { digest } => {
                self.facts.settled = self.facts.bundle == Some(*digest);
            }
            Event::GrantsConfirmed { digest, grants } => self.grants_confirmed(*digest, grants),
            Event::GrantRequested(requested) => self.grant_requested(at, requested),
            Event::RequestReevaluated { grant, ruling, digest } => {
                self.unsettled.remove(grant);
                self.remind(grant, false);
                self.grants.change(grant, |grant| {
                    grant.bundle = ruling.bundle;
                    if let (Some(waiting), Some(rule)) = (&mut grant.waiting, &ruling.rule) {
                        waiting.rule = rule.clone();
                        waiting.lifetime = ruling.terms.lifetime;
                        if waiting.digest != *digest {
                            waiting.approved.clear(); // what they approved is not what it says now
                        }
                        waiting.digest = *digest;
                    }
                });
                self.remind(grant, true);
            }
            Event::RequestReminded { grant, .. } => {
                self.remind(grant, false);
                self.grants.change(grant, |grant| {
                    if let Some(waiting) = &mut grant.waiting {
                        waiting.reminded = true;
                    }
                });
            }
            Event::GrantActivated(activated) => self.grant_activated(at, activated),
            Event::CredentialIssued(issued) => self.credential_issued(issued, None),
            Event::RequestRepeated { identity, key, content, grant } => {
                self.uses
                    .insert((identity.clone(), *key), Use { grant: *grant, content: *content });
                self.grants.change(grant, |grant| grant.keys.push(*key));
            }
            Event::AccessRefused(_) => {}
            Event::GrantEnded(ended) => self.grant_ended(at, ended),
            Event::ApprovalGiven { grant, by, .. } => self.approved(grant, |all| {
                all.insert(by.clone());
            }),
            Event::ApprovalTakenBack { grant, by } => self.approved(grant, |all| {
                all.remove(by);
            }),
            Event::RequestNarrowed { grant, scopes, lifetime, digest, .. } => {
                self.grants.change(grant, |grant| {
                    grant.scopes = scopes.clone();
                    if let Some(waiting) = &mut grant.waiting {
                        waiting.request.scopes = scopes.clone();
                        waiting.request.lifetime = Some(*lifetime);
                        waiting.lifetime = *lifetime;
                        waiting.digest = *digest;
                        grant.content = waiting.request.content();
                    }
                });
            }
            Event::ReviewClosed { grant, .. } => {
                let identity = self.grants.get(grant).map(|grant| grant.by.identity.clone());
                // The grant may be forgotten by now; its review is not.
                let open = |(name, tally): (&IdentityName, &Tally)| {
                    (tally.review == Some(*grant)).then(|| name.clone())
                };
                let identity = identity.or_else(|| self.tallies.map().iter().find_map(open));
                if let Some(identity) = identity {
                    self.count(&identity, |tally| tally.review = None);
                }
            }
            Event::TaskHeld { identity, task, hold, lease } => {
                self.task_held(at, identity, task, Hold { hold: *hold, lease: *lease });
            }
            Event::TaskEnded { identity, task, reason, .. } => {
                self.task_ended(at, identity, task, *reason);
            }
            Event::CutOff { target, reason, forget_after, .. } => {
                self.cut_off(at, target, *reason, *forget_after);
            }
            Event::IdentityQuarantined { identity, .. } => {
                self.count(identity, |tally| tally.quarantined = true);
            }
            Event::QuarantineLifted { identity, .. } => {
                self.count(identity, |tally| tally.quarantined = false);
            }
            Event::KeyPublished(key) => self.key_published(at, key),
            Event::KeyActivated { key } => {
                let seq = self.facts.seq;
                self.keys.change(key, |record| {
                    record.state = KeyState::Signing;
                    record.activated = seq;
                    record.since = at;
                });
            }
            Event::KeyRetired { key } => self.keys.change(key, |record| {
                if record.state != KeyState::CutOff {
                    record.state = KeyState::Retired;
                }
                record.last_exp = record.dies(at);
            }),
            Event::KeyRotationAsked { key, .. } => {
                self.keys.change(key, |record| record.leaving = true);
            }
            Event::KeyForgotten { key } => {
                self.keys.remove(key);
            }
        }
    }

    fn bundle_activated(&mut self, digest: Hash) {
        self.facts.bundle = Some(digest);
        self.facts.bundle_seq = self.facts.seq;
        self.facts.settled = self.facts.live == 0;
        let live: Vec<GrantId> = self.by_resource.set().iter().map(|(_, id)| *id).collect();
        for id in live {
            self.unsettled.insert(id);
        }
    }

    fn grants_confirmed(&mut self, digest: Hash, grants: &[GrantId]) {
        for id in grants {
            self.unsettled.remove(id);
            self.grants.change(id, |grant| grant.bundle = digest);
        }
    }

    fn grant_requested(&mut self, at: Time, requested: &Requested) {
        let Requested { grant: id, asked, decide_by, digest, behind } = requested;
        let mut grant = self.fresh(*id, at, asked, Status::Pending { decide_by: *decide_by });
        grant.waiting = asked.ruling.rule.clone().map(|rule| {
            Box::new(Waiting {
                request: asked.request.clone(),
                lifetime: asked.ruling.terms.lifetime,
                rule,
                digest: *digest,
                approved: BTreeSet::new(),
                behind: behind.clone(),
                reminded: false,
            })
        });
        self.count(&grant.by.identity, |tally| tally.pending = tally.pending.saturating_add(1));
        self.facts.pending = self.facts.pending.saturating_add(1);
        self.deadlines.insert((*decide_by, *id));
        self.waits.insert(*id);
        self.enter(at, grant, Some(&asked.request));
        self.remind(id, true);
    }

    /// Sets, or takes away, the moment at which people are reminded of a waiting request.
    fn remind(&mut self, id: &GrantId, set: bool) {
        let Some(at) = self.grants.get(id).and_then(Grant::remind_at) else { return };
        if set {
            self.deadlines.insert((at, *id));
        } else {
            self.deadlines.remove(&(at, *id));
        }
    }

    fn grant_activated(&mut self, at: Time, activated: &Activated) {
        let issued = &activated.credential;
        let id = issued.grant;
        let status = Status::Active { from: at, until: activated.until, activated: self.facts.seq };
        match &activated.asked {
            Some(asked) => {
                let grant = self.fresh(id, at, asked, status);
                self.enter(at, grant, Some(&asked.request));
            }
            None => {
                let Some(mut grant) = self.grants.get(&id).cloned() else { return };
                self.leave_pending(&grant);
                let waiting = grant.waiting.take();
                grant.approvers = waiting.map(|waiting| waiting.approved).unwrap_or_default();
                grant.status = status;
                self.unsettled.remove(&id);
                self.facts.live = self.facts.live.saturating_sub(1); // `enter` counts it again
                self.enter(at, grant, None);
            }
        }
        let emergency = self.grants.get(&id).is_some_and(|grant| grant.emergency);
        self.count(&issued.by.identity, |tally| {
            tally.active = tally.active.saturating_add(1);
            if emergency {
                tally.review = Some(id);
            }
        });
        self.deadlines.insert((activated.until, id));
        self.learn(at, &id);
        self.credential_issued(issued, activated.asked.as_ref().map(|asked| asked.ruling.bundle));
    }

    /// What was granted becomes usual.
    fn learn(&mut self, at: Time, id: &GrantId) {
        let Some(grant) = self.grants.get(id) else { return };
        let former = self.usual.get(&grant.by.identity);
        let now =
            Arc::new(Usual::after(former.map(|it| &**it), &grant.resource, &grant.scopes, at));
        let identity = grant.by.identity.clone();
        if former.is_none_or(|it| it.is_bare()) {
            self.forgettable.insert((now.forget_at(), Forgettable::Usual(identity.clone())));
        }
        self.usual.insert(identity, now);
    }

    fn fresh(&mut self, id: GrantId, at: Time, asked: &Asked, status: Status) -> Grant {
        let AccessRequest { by, task, resource, scopes, key, emergency, proof, .. } =
            &asked.request;
        Grant {
            id,
            by: by.clone(),
            task: task.id.clone(),
            resource: resource.clone(),
            scopes: scopes.clone(),
            emergency: *emergency,
            proof: proof.clone(),
            content: asked.request.content(),
            status,
            requested: (self.facts.seq, at),
            bundle: asked.ruling.bundle,
            newest: None,
            waiting: None,
            approvers: BTreeSet::new(),
            keys: key.iter().copied().collect(),
        }
    }

    /// Enters a live grant into every index.
    fn enter(&mut self, at: Time, mut grant: Grant, request: Option<&AccessRequest>) {
        self.names.intern(&mut grant);
        let (identity, id) = (grant.by.identity.clone(), grant.id);
        // Of one that waited they are known, by what was asked: a narrowing must not make a retry another request.
        for key in grant.keys.iter().filter(|_| request.is_some()) {
            self.uses.insert((identity.clone(), *key), Use { grant: id, content: grant.content });
        }
        let task = self.tasks.get(&(identity.clone(), grant.task.clone())).cloned();
        let mut task =
            task.filter(|task| !task.forgotten(at) || request.is_none()).unwrap_or_else(|| {
                let asked = request.map(|request| &request.task);
                new_task(
                    at,
                    asked.map(|task| task.kind.clone()),
                    asked.map(|task| task.url.clone()),
                )
            });
        task.live.insert(id);
        task.last = at;
        self.tasks.insert((identity.clone(), grant.task.clone()), task);
        self.by_task.insert((identity, grant.task.clone(), id));
        self.by_resource.insert((grant.resource.clone(), id));
        self.facts.live = self.facts.live.saturating_add(1);
        self.grants.insert(id, grant);
    }

    fn credential_issued(&mut self, issued: &CredentialIssued, bundle: Option<Hash>) {
        let seq = self.facts.seq;
        let in_force = self.facts.bundle;
        self.grants.change(&issued.grant, |grant| {
            // INVARIANT(an_older_credential_may_outlive_the_newest): a bundle may shorten lives, and takes no token back.
            let last_exp = grant.last_exp().map_or(issued.exp, |last| last.max(issued.exp));
            grant.newest = Some(Newest {
                number: issued.number,
                iat: issued.iat,
                exp: issued.exp,
                last_exp,
                seq,
                key: issued.key.clone(),
            });
            // A renewal was evaluated under the bundle in force, so it confirms the grant.
            grant.bundle = bundle.or(in_force).unwrap_or(grant.bundle);
        });
        self.unsettled.remove(&issued.grant);
        self.keys.change(&issued.key, |key| key.last_exp = key.last_exp.max(issued.exp));
    }

    fn grant_ended(&mut self, at: Time, ended: &Ended) {
        let Some(grant) = self.grants.get(&ended.grant).cloned() else { return };
        if grant.ended() {
            self.grants.change(&ended.grant, |grant| {
                if let Status::Ended { recorded, .. } = &mut grant.status {
                    *recorded = true;
                }
            });
            if self.unrecorded.set().contains(&ended.grant) {
                self.unrecorded.remove(&ended.grant);
                if let Status::Ended { told_by: Some(told), .. } = grant.status {
                    self.owe(told, -1);
                }
            }
            self.forgettable.insert((grant.forgettable_at(at), Forgettable::Grant(ended.grant)));
            return;
        }
        let seq = self.facts.seq;
        if grant.newest.is_some() && ended.reason != EndReason::Expired {
            self.ended_early.insert(seq, grant.id);
        }
        let status = Status::Ended {
            reason: ended.reason,
            at: ended.ended,
            seq,
            told_by: None,
            recorded: true,
        };
        self.leave(at, grant, status);
    }

    /// Ends in the state every live grant that a cut-off covers; their rows follow in steps.
    fn void(&mut self, at: Time, target: &Target, reason: EndReason) {
        let seq = self.facts.seq;
        for id in self.covered(target) {
            let Some(grant) = self.grants.get(&id).cloned() else { continue };
            self.unrecorded.insert(id);
            self.owe(seq, 1);
            let status = Status::Ended { reason, at, seq, told_by: Some(seq), recorded: false };
            self.leave(at, grant, status);
        }
    }

    /// Counts rows that the cut-off at `seq` owes, so that asking how many is no walk over all of them.
    pub(crate) fn owe(&mut self, seq: Seq, more: isize) {
        let now = self.owed.get(&seq).copied().unwrap_or(0).saturating_add_signed(more);
        if now == 0 {
            self.owed.remove(&seq);
        } else {
            self.owed.insert(seq, now);
        }
    }

    /// Takes a live grant out of every index of live ones.
    fn leave(&mut self, at: Time, mut grant: Grant, status: Status) {
        let identity = grant.by.identity.clone();
        match grant.status {
            Status::Pending { .. } => self.leave_pending(&grant),
            Status::Active { until, .. } => {
                self.deadlines.remove(&(until, grant.id));
                self.count(&identity, |tally| tally.active = tally.active.saturating_sub(1));
            }
            Status::Ended { .. } => return,
        }
        self.facts.live = self.facts.live.saturating_sub(1);
        self.by_task.remove(&(identity.clone(), grant.task.clone(), grant.id));
        self.by_resource.remove(&(grant.resource.clone(), grant.id));
        self.unsettled.remove(&grant.id);
        let key = (identity.clone(), grant.task.clone());
        self.tasks.change(&key, |task| {
            task.live.remove(&grant.id);
            task.last = at;
        });
        self.forgettable.insert((at + REMEMBER, Forgettable::Task(identity, grant.task.clone())));
        self.forgettable.insert((grant.forgettable_at(at), Forgettable::Grant(grant.id)));
        grant.status = status;
        grant.waiting = None;
        self.grants.insert(grant.id, grant);
    }

    fn leave_pending(&mut self, grant: &Grant) {
        let Status::Pending { decide_by } = grant.status else { return };
        self.deadlines.remove(&(decide_by, grant.id));
        self.remind(&grant.id, false);
        self.waits.remove(&grant.id);
        self.count(&grant.by.identity, |tally| tally.pending = tally.pending.saturating_sub(1));
        self.facts.pending = self.facts.pending.saturating_sub(1);
    }

    fn approved(&mut self, grant: &GrantId, change: impl FnOnce(&mut BTreeSet<PersonName>)) {
        self.grants.change(grant, |grant| {
            if let Some(waiting) = &mut grant.waiting {
                change(&mut waiting.approved);
            }
        });
    }

    fn task_held(&mut self, at: Time, identity: &IdentityName, id: &TaskId, hold: Hold) {
        let key = (identity.clone(), id.clone());
        let known = self.tasks.get(&key).filter(|task| !task.forgotten(at)).cloned();
        let mut task = known.unwrap_or_else(|| new_task(at, None, None));
        if task.hold.is_none() {
            self.count(identity, |tally| tally.held = tally.held.saturating_add(1));
        }
        task.hold = Some(hold);
        task.last = at;
        self.tasks.insert(key, task);
    }

    fn task_ended(&mut self, at: Time, identity: &IdentityName, id: &TaskId, reason: EndReason) {
        let key = (identity.clone(), id.clone());
        let held = self.tasks.get(&key).is_some_and(|task| task.hold.is_some());
        if held {
            self.count(identity, |tally| tally.held = tally.held.saturating_sub(1));
        }
        self.tasks.change(&key, |task| {
            task.ended = Some((at, reason));
            task.hold = None;
            task.last = at;
        });
        self.forgettable.insert((at + REMEMBER, Forgettable::Task(identity.clone(), id.clone())));
    }

    fn cut_off(
        &mut self,
        at: Time,
        target: &Target,
        reason: EndReason,
        forget_after: Option<Time>,
    ) {
        let seq = self.facts.seq;
        self.void(at, target, reason);
        if let Target::Key(key) = target {
            self.keys.change(key, |record| {
                record.state = KeyState::CutOff;
                record.last_exp = record.dies(at);
            });
        }
        self.cut_offs.insert(seq, CutOff { target: target.clone(), reason, at, forget_after });
        if let Some(forget) = forget_after {
            self.forgettable.insert((forget, Forgettable::CutOff(seq)));
        }
    }

    fn key_published(&mut self, at: Time, key: &PublicKey) {
        let record = KeyRecord {
            key: key.clone(),
            state: KeyState::Published,
            created: at,
            published: self.facts.seq,
            activated: Seq(0),
            since: Time::ZERO,
            leaving: false,
            last_exp: Time::ZERO,
        };
        self.keys.insert(key.id.clone(), record);
    }

    pub(crate) fn count(&mut self, identity: &IdentityName, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tallies.get(identity).cloned().unwrap_or_default();
        change(&mut tally);
        if tally == Tally::default() {
            self.tallies.remove(identity);
        } else {
            self.tallies.insert(identity.clone(), tally);
        }
    }
}

fn new_task(at: Time, kind: Option<TaskKind>, url: Option<Words>) -> TaskState {
    TaskState {
        kind: kind.unwrap_or_default(),
        url: url.unwrap_or_default(),
        live: BTreeSet::new(),
        hold: None,
        ended: None,
        last: at,
    }
}
