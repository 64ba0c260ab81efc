//! The grants of several identities as one list, newest first.

use std::collections::BTreeSet;

use protem_verify::ids::GrantId;
use protem_verify::names::IdentityName;

use crate::journal::fault::Fault;
use crate::journal::page::LOOKS_MAX;
use crate::journal::reader::{GrantFilter, GrantPage, Reader};
use crate::journal::records::GrantRecord;

/// A page of the grants of `identities`. Some of each one's newest are looked through, then further ones of whoever has newer
/// ones left than the others, until the page is full or enough was looked through.
///
/// # Errors
/// When the store cannot be asked.
pub fn of_several(
    reader: &dyn Reader,
    filter: &GrantFilter,
    identities: &[IdentityName],
) -> Result<GrantPage, Fault> {
    let share = u32::try_from(identities.len()).ok().and_then(|all| LOOKS_MAX.checked_div(all));
    let share = share.unwrap_or(1).clamp(1, STEP);
    let mut merged = Merged { reader, filter, found: Vec::new(), open: BTreeSet::new() };
    for identity in identities {
        merged.look(identity, filter.before, share)?;
    }
    let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    for _ in 0..STEPS {
        if merged.whole() >= limit {
            break;
        }
        let Some((next, identity)) = merged.open.pop_last() else { break };
        merged.look(identity, Some(next), STEP)?;
    }
    Ok(merged.page(limit))
}

struct Merged<'a> {
    reader: &'a dyn Reader,
    filter: &'a GrantFilter,
    found: Vec<GrantRecord>,
    /// Where each identity goes on that has more.
    open: BTreeSet<(GrantId, &'a IdentityName)>,
}

impl<'a> Merged<'a> {
    fn look(
        &mut self,
        identity: &'a IdentityName,
        before: Option<GrantId>,
        looks: u32,
    ) -> Result<(), Fault> {
        let (limit, looks) = (self.filter.limit.min(looks), Some(looks));
        let identity_of = Some(identity.clone());
        let one =
            GrantFilter { identity: identity_of, before, limit, looks, ..self.filter.clone() };
        let page = self.reader.grants(&one)?;
        self.open.extend(page.next.map(|next| (next, identity)));
        self.found.extend(page.grants);
        Ok(())
    }

    /// Nothing newer than this was left out; absent: nothing at all was.
    fn edge(&self) -> Option<GrantId> {
        self.open.last().map(|(next, _)| *next)
    }

    /// How many of those that were found have all newer ones with them.
    fn whole(&self) -> usize {
        let edge = self.edge();
        self.found.iter().filter(|grant| edge.is_none_or(|edge| grant.id >= edge)).count()
    }

    fn page(mut self, limit: usize) -> GrantPage {
        let mut next = self.edge();
        let mut grants = std::mem::take(&mut self.found);
        grants.retain(|grant| next.is_none_or(|edge| grant.id >= edge));
        grants.sort_by_key(|grant| std::cmp::Reverse(grant.id));
        if grants.len() > limit {
            grants.truncate(limit);
            next = grants.last().map(|last| last.id);
        }
        GrantPage { grants, next }
    }
}

/// Grants of one identity that are looked through at a time.
const STEP: u32 = 100;
/// How often: as many as one page looks through.
const STEPS: u32 = LOOKS_MAX / STEP;
