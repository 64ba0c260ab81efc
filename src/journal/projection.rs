//! The projections in memory: what the memory journal answers from, and what a store's tables are compared with.

use std::collections::{BTreeMap, BTreeSet};

use protem_core::event::Event;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{IdentityName, PersonName};
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::reader::{GrantFilter, Stage};
use crate::journal::records::GrantRecord;
use crate::journal::rows::{GrantRow, RowChange, rows};

/// Every projected row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Projection {
    pub(in crate::journal) grants: BTreeMap<GrantId, GrantRow>,
    pub(in crate::journal) concerns: BTreeSet<(GrantId, Seq)>,
    pub(in crate::journal) approvals: BTreeMap<(GrantId, PersonName), Seq>,
    pub(in crate::journal) cut_offs: BTreeSet<Seq>,
    pub(in crate::journal) identities: BTreeMap<IdentityName, Time>,
}

impl Projection {
    /// Folds the next entry.
    pub(in crate::journal) fn fold(&mut self, entry: &Committed<Event>) {
        for change in rows(entry.what(), entry.seq(), entry.at()) {
            self.change(change);
        }
    }

    fn change(&mut self, change: RowChange) {
        let row = |grants: &mut BTreeMap<GrantId, GrantRow>, id, then: &dyn Fn(&mut GrantRow)| {
            grants.entry(id).and_modify(|row| then(row));
        };
        match change {
            RowChange::Grant(new) => {
                self.grants.entry(new.id).or_insert(*new);
            }
            RowChange::Activated(id, seq) => {
                row(&mut self.grants, id, &|row| row.activated = seq);
            }
            RowChange::Narrowed(id, scopes) => {
                row(&mut self.grants, id, &|row| row.scopes = scopes.clone());
            }
            RowChange::Ended(id, seq) => row(&mut self.grants, id, &|row| row.ended = seq),
            RowChange::Concerns(id, seq) => {
                self.concerns.insert((id, seq));
            }
            RowChange::Approval(id, person, seq) => {
                self.approvals.insert((id, person), seq);
            }
            RowChange::NoApproval(id, person) => {
                self.approvals.remove(&(id, person));
            }
            RowChange::CutOff(seq) => {
                self.cut_offs.insert(seq);
            }
            RowChange::Granted(identity, at) => {
                self.identities.insert(identity, at);
            }
        }
    }

    /// Every entry that speaks of a grant, in order.
    pub(in crate::journal) fn seqs_of(&self, row: &GrantRow) -> Vec<Seq> {
        let concerns = self.concerns.range((row.id, Seq(0))..=(row.id, Seq(u64::MAX)));
        let named = [row.requested, row.activated, row.ended].into_iter().filter(|seq| seq.0 > 0);
        let all: BTreeSet<Seq> = concerns.map(|(_, seq)| *seq).chain(named).collect();
        all.into_iter().collect()
    }
}

/// Whether a row and its record are what a filter asks for.
pub(in crate::journal) fn matches(
    filter: &GrantFilter,
    row: &GrantRow,
    record: &GrantRecord,
) -> bool {
    let is = |stage: Stage| filter.states.is_empty() || filter.states.contains(&stage);
    is(record.stage())
        && filter.identity.as_ref().is_none_or(|identity| *identity == row.identity)
        && filter.task.as_ref().is_none_or(|task| *task == row.task)
        && filter.resource.as_ref().is_none_or(|resource| *resource == row.resource)
        && filter.scope.as_ref().is_none_or(|scope| row.scopes.contains(scope))
        && filter.since.is_none_or(|since| row.asked_at >= since)
        && filter.until.is_none_or(|until| row.asked_at < until)
        && filter.before.is_none_or(|before| row.id < before)
}
