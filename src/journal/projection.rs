//! The projections in memory: what the memory journal answers from, and what a store's tables are compared with.

use std::collections::{BTreeMap, BTreeSet};

use protem_core::event::Event;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{IdentityName, PersonName};
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::reach::Reach;
use crate::journal::rows::{GrantRow, RowChange, rows};

/// Every projected row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Projection {
    pub(in crate::journal) grants: BTreeMap<GrantId, GrantRow>,
    pub(in crate::journal) concerns: BTreeSet<(GrantId, Seq)>,
    pub(in crate::journal) approvals: BTreeMap<(GrantId, PersonName), Seq>,
    pub(in crate::journal) cut_offs: BTreeMap<Seq, Reach>,
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
            RowChange::CutOff(seq, reach) => {
                self.cut_offs.insert(seq, reach);
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

    /// The cut-off that ended a grant whose own row does not say so yet: the first since its activation that covers it.
    pub(in crate::journal) fn cut_off(&self, row: &GrantRow) -> Option<Seq> {
        let around = Reach::around(row);
        let mut since = self.cut_offs.range(row.since()..).filter(|_| row.ended == Seq(0));
        since.find(|(_, reach)| around.contains(reach)).map(|(seq, _)| *seq)
    }
}
