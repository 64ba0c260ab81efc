//! What a gateway without a view must be told: all that ended early and all cut-offs, part by part.

use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{IdentityName, ResourceName};
use protem_verify::time::Time;

use crate::event::{EndReason, Target};
use crate::grant::{CutOff, Status};
use crate::state::State;

/// One thing that no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its entry.
    pub seq: Seq,
    /// What is void.
    pub target: Target,
    /// The resource that it concerns; absent: any.
    pub resource: Option<ResourceName>,
    /// Whose grant it is, where one identity's access is void.
    pub identity: Option<IdentityName>,
    /// Why.
    pub reason: EndReason,
    /// When.
    pub at: Time,
    /// No credential it covers can be alive then; absent: never forget.
    pub forget_after: Option<Time>,
}

/// A part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In order.
    pub items: Vec<Revocation>,
    /// Where to go on; absent: there are no more.
    pub next: Option<Seq>,
}

impl State {
    /// What a gateway without a view must be told, in order, from `after` on: grants that ended early while a credential of
    /// theirs may live at `now`, and cut-offs that are not forgotten. It looks at no more than `limit` of either.
    ///
    /// Whoever asks part by part, while turns go by, has in the end all that stands at the last part: what comes in between
    /// comes at the end.
    #[must_use]
    pub fn revocations(&self, now: Time, after: Seq, limit: usize) -> Standing {
        let limit = limit.max(1);
        let grants = self.ended_early.map().range(after.next()..).take(limit);
        let grants: Vec<_> = grants.map(|(seq, id)| (*seq, self.ended(now, *seq, *id))).collect();
        let cuts = self.cut_offs.map().range(after.next()..).take(limit);
        let cuts: Vec<_> = cuts.map(|(seq, cut)| (*seq, cut_off(now, *seq, cut))).collect();
        let full = |seen: &[(Seq, Option<Revocation>)]| {
            seen.last().filter(|_| seen.len() == limit).map(|(seq, _)| *seq)
        };
        // As far as both were looked through.
        let next = [full(&grants), full(&cuts)].into_iter().flatten().min();
        let seen = grants.into_iter().chain(cuts);
        let seen = seen.filter(|(seq, _)| next.is_none_or(|next| *seq <= next));
        let mut items: Vec<_> = seen.filter_map(|(_, one)| one).collect();
        items.sort_by_key(|one| one.seq);
        Standing { items, next }
    }

    fn ended(&self, now: Time, seq: Seq, id: GrantId) -> Option<Revocation> {
        let grant = self.grants.get(&id)?;
        let Status::Ended { reason, at, .. } = grant.status else { return None };
        let exp = grant.newest.as_ref()?.exp;
        (now < exp).then(|| Revocation {
            seq,
            target: Target::Grant(id),
            resource: Some(grant.resource.clone()),
            identity: Some(grant.by.identity.clone()),
            reason,
            at,
            forget_after: Some(exp),
        })
    }
}

fn cut_off(now: Time, seq: Seq, cut: &CutOff) -> Option<Revocation> {
    let alive = cut.forget_after.is_none_or(|forget| now < forget);
    alive.then(|| Revocation {
        seq,
        target: cut.target.clone(),
        resource: cut.target.resource().cloned(),
        identity: cut.target.identity().cloned(),
        reason: cut.reason,
        at: cut.at,
        forget_after: cut.forget_after,
    })
}
