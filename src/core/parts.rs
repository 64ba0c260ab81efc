//! The state as plain lists, for snapshots: what is derived is left out and made again.

use std::sync::Arc;

use protem_verify::ids::{RequestId, Seq};
use protem_verify::names::{IdentityName, TaskId};

use crate::grant::{CutOff, Grant, KeyRecord, Status, TaskState};
use crate::limits::REMEMBER;
use crate::state::{Facts, Forgettable, State, Tally, Use};
use crate::usual::Usual;

/// All of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The journal's own facts; the counts in it are made again.
    pub facts: Facts,
    /// Every grant.
    pub grants: Vec<Grant>,
    /// Every task; its live grants are made again.
    pub tasks: Vec<(IdentityName, TaskId, TaskState)>,
    /// Every idempotency key.
    pub uses: Vec<(IdentityName, RequestId, Use)>,
    /// What is counted for each identity; the counts are made again, quarantine and review are kept.
    pub tallies: Vec<(IdentityName, Tally)>,
    /// What is usual for each identity.
    pub usual: Vec<(IdentityName, Arc<Usual>)>,
    /// Every cut-off by its entry.
    pub cut_offs: Vec<(Seq, CutOff)>,
    /// Every signing key.
    pub keys: Vec<KeyRecord>,
}

impl State {
    /// The state as plain lists, in order.
    #[must_use]
    pub fn parts(&self) -> Parts {
        let task = |((identity, id), task): (&(IdentityName, TaskId), &TaskState)| {
            (identity.clone(), id.clone(), task.clone())
        };
        let used = |((identity, key), used): (&(IdentityName, RequestId), &Use)| {
            (identity.clone(), *key, *used)
        };
        Parts {
            facts: self.facts.clone(),
            grants: self.grants.map().values().cloned().collect(),
            tasks: self.tasks.map().iter().map(task).collect(),
            uses: self.uses.map().iter().map(used).collect(),
            tallies: self
                .tallies
                .map()
                .iter()
                .map(|(name, tally)| (name.clone(), tally.clone()))
                .collect(),
            usual: self
                .all_usual()
                .map(|(name, usual)| (name.clone(), Arc::clone(usual)))
                .collect(),
            cut_offs: self.cut_offs.map().iter().map(|(seq, cut)| (*seq, cut.clone())).collect(),
            keys: self.keys.map().values().cloned().collect(),
        }
    }

    /// The state that these lists describe.
    #[must_use]
    pub fn from_parts(parts: Parts) -> Self {
        let mut state = Self::new();
        state.facts = Facts { pending: 0, live: 0, ..parts.facts };
        for (identity, tally) in parts.tallies {
            let kept = Tally { active: 0, pending: 0, held: 0, ..tally };
            state.count(&identity, |tally| *tally = kept);
        }
        for (identity, id, mut task) in parts.tasks {
            task.live.clear();
            if task.hold.is_some() {
                state.count(&identity, |tally| tally.held = tally.held.saturating_add(1));
            }
            let forget = Forgettable::Task(identity.clone(), id.clone());
            state.forgettable.insert((task.last + REMEMBER, forget));
            state.tasks.insert((identity, id), task);
        }
        for grant in parts.grants {
            state.restore(grant);
        }
        for (identity, key, used) in parts.uses {
            state.uses.insert((identity, key), used);
        }
        for (identity, usual) in parts.usual {
            if !usual.is_bare() {
                let forget = Forgettable::Usual(identity.clone());
                state.forgettable.insert((usual.forget_at(), forget));
            }
            state.usual.insert(identity, usual);
        }
        for (seq, cut) in parts.cut_offs {
            if let Some(forget) = cut.forget_after {
                state.forgettable.insert((forget, Forgettable::CutOff(seq)));
            }
            state.cut_offs.insert(seq, cut);
        }
        for key in parts.keys {
            state.keys.insert(key.key.id.clone(), key);
        }
        state
    }

    fn deadlines_of_reminder(&mut self, grant: &Grant) {
        if let Some(at) = grant.remind_at() {
            self.deadlines.insert((at, grant.id));
        }
    }

    fn restore(&mut self, mut grant: Grant) {
        self.names.intern(&mut grant);
        let (id, identity) = (grant.id, grant.by.identity.clone());
        match grant.status {
            Status::Pending { decide_by } => {
                self.deadlines.insert((decide_by, id));
                self.waits.insert(id);
                self.deadlines_of_reminder(&grant);
                self.facts.pending = self.facts.pending.saturating_add(1);
                self.count(&identity, |tally| tally.pending = tally.pending.saturating_add(1));
            }
            Status::Active { until, .. } => {
                self.deadlines.insert((until, id));
                self.count(&identity, |tally| tally.active = tally.active.saturating_add(1));
            }
            Status::Ended { at, seq, told_by, recorded, .. } => {
                self.forgettable.insert((grant.forgettable_at(at), Forgettable::Grant(id)));
                let early = grant.ended_early();
                if !recorded {
                    self.unrecorded.insert(id);
                    if let Some(told) = told_by {
                        self.owe(told, 1);
                    }
                } else if told_by.is_none() && early {
                    self.ended_early.insert(seq, id);
                }
                self.grants.insert(id, grant);
                return;
            }
        }
        self.facts.live = self.facts.live.saturating_add(1);
        let key = (identity.clone(), grant.task.clone());
        self.tasks.change(&key, |task| {
            task.live.insert(id);
        });
        self.by_task.insert((identity, grant.task.clone(), id));
        self.by_resource.insert((grant.resource.clone(), id));
        if !self.facts.settled && self.facts.bundle != Some(grant.bundle) {
            self.unsettled.insert(id);
        }
        self.grants.insert(id, grant);
    }
}
