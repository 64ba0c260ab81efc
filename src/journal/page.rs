//! A page of grants: which of the rows that are looked through belong on it, and where the next page begins.

use protem_verify::ids::{GrantId, Seq};

use crate::journal::fault::Fault;
use crate::journal::reader::{GrantFilter, GrantPage, Stage};
use crate::journal::records::GrantRecord;
use crate::journal::rows::GrantRow;

/// Grants on one page at most, whatever is asked for.
const GRANTS_MAX: u32 = 1_000;
/// Rows that one page looks through at most, whatever it is asked for: some hundred milliseconds' worth, so that a call
/// which nobody waits for any more ends, and a search for what is rare holds no thread for longer than that.
pub const LOOKS_MAX: u32 = 10_000;

/// Takes from `rows`, which come newest first, those that the filter takes. Only these are composed: where the others stand
/// is seen from their rows and the cut-off that `cut` finds.
pub(in crate::journal) fn gather(
    filter: &GrantFilter,
    rows: impl Iterator<Item = Result<GrantRow, Fault>>,
    cut: impl Fn(&GrantRow) -> Result<Option<Seq>, Fault>,
    compose: impl Fn(&GrantRow, Option<Seq>) -> Result<GrantRecord, Fault>,
) -> Result<GrantPage, Fault> {
    let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
    let limit = number(filter.limit.min(GRANTS_MAX));
    let looks = number(filter.looks.unwrap_or(LOOKS_MAX).min(LOOKS_MAX));
    let mut page = GrantPage::default();
    let mut last = None;
    for (looked, row) in rows.enumerate() {
        let row = row?;
        // An id begins with the moment it was asked for: what follows is older.
        if filter.since.is_some_and(|since| row.asked_at < since) {
            break;
        }
        if page.grants.len() >= limit || looked >= looks {
            page.next = last;
            break;
        }
        last = Some(row.id);
        if !filter.may_take(&row) {
            continue;
        }
        let cut = cut(&row)?;
        if filter.takes(row.stage(cut)) {
            page.grants.push(compose(&row, cut)?);
        }
    }
    Ok(page)
}

impl GrantFilter {
    /// What is looked through is older than this.
    pub(in crate::journal) fn below(&self) -> Option<GrantId> {
        let until = self.until.map(|until| {
            let [_, _, time @ ..] = until.as_millis().to_be_bytes();
            let mut first = [0; 16];
            first.iter_mut().zip(time).for_each(|(byte, of_time)| *byte = of_time);
            GrantId(first)
        });
        [self.before, until].into_iter().flatten().min()
    }

    /// Whether a row is what is asked for, wherever it stands by what is not in it.
    fn may_take(&self, row: &GrantRow) -> bool {
        self.identity.as_ref().is_none_or(|identity| *identity == row.identity)
            && self.task.as_ref().is_none_or(|task| *task == row.task)
            && self.resource.as_ref().is_none_or(|resource| *resource == row.resource)
            && self.scope.as_ref().is_none_or(|scope| row.scopes.contains(scope))
            && self.until.is_none_or(|until| row.asked_at < until)
            && (row.ended.0 == 0 || self.takes(Stage::Ended))
    }

    fn takes(&self, stage: Stage) -> bool {
        self.states.is_empty() || self.states.contains(&stage)
    }
}
