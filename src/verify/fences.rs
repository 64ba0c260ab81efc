//! What no longer counts: ended grants and cut-offs by axis, each forgotten once nothing it covers can be alive.

use std::collections::BTreeMap;

use crate::claims::Claims;
use crate::ids::{GrantId, Seq};
use crate::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
use crate::spread::Spread;
use crate::time::Time;

/// What a revocation covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One grant, whenever it was activated.
    Grant(GrantId),
    /// One task of one identity.
    Task(IdentityName, TaskId),
    /// All of one identity.
    Identity(IdentityName),
    /// All on one resource.
    Resource(ResourceName),
    /// All that hold one scope.
    Scope(ResourceName, ScopeName),
    /// All that one key ever signed, whatever it claims.
    Key(KeyId),
    /// All; also what a gateway does not understand.
    Everything,
}

/// One item of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its place in the journal.
    pub seq: Seq,
    /// The item before it in this filter; zero inside a snapshot.
    pub prev: Seq,
    /// What it covers.
    pub target: Target,
    /// When nothing it covers can be alive any more; absent: never.
    pub forget_after: Option<Time>,
}

/// All revocations that a view holds; a clone is cheap and stays as it was.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    axes: Spread<Target, Fence>,
    everything: Seq,
}

#[derive(Clone, Copy, Debug)]
struct Fence {
    seq: Seq,
    forget_after: Option<Time>,
}

impl Fences {
    /// Adds one; of two on the same target the wider holds.
    pub fn add(&mut self, item: &Revocation) {
        if item.target == Target::Everything {
            self.everything = self.everything.max(item.seq);
            return;
        }
        let old = self.axes.get(&item.target);
        let forget_after = match old {
            None => item.forget_after,
            Some(old) => old.forget_after.zip(item.forget_after).map(|(old, new)| old.max(new)),
        };
        let seq = old.map_or(item.seq, |old| old.seq.max(item.seq));
        self.axes.insert(item.target.clone(), Fence { seq, forget_after });
    }

    /// How many it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.axes.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.axes.is_empty() && self.everything == Seq(0)
    }

    /// Whether everything this key signed is void.
    #[must_use]
    pub fn voids_key(&self, key: &KeyId) -> bool {
        self.axes.get(&Target::Key(key.clone())).is_some()
    }

    /// Whether a credential for `resource` is void. A cut-off covers grants activated at or before it: it is compared with
    /// the grant's `seq`, never with a clock.
    #[must_use]
    pub fn voids(&self, claims: &Claims, resource: &ResourceName) -> bool {
        if claims.seq <= self.everything || self.axes.get(&Target::Grant(claims.grant)).is_some() {
            return true;
        }
        let of = |target| self.axes.get(&target).is_some_and(|fence| claims.seq <= fence.seq);
        of(Target::Task(claims.identity.clone(), claims.task.clone()))
            || of(Target::Identity(claims.identity.clone()))
            || of(Target::Resource(resource.clone()))
            || claims.scopes.iter().any(|scope| of(Target::Scope(resource.clone(), scope.clone())))
    }
}

/// Which fences may be forgotten when: buckets by minute, kept by the writer alone.
#[derive(Clone, Debug, Default)]
pub struct Minutes(BTreeMap<u64, Vec<Target>>);

impl Minutes {
    /// Remembers when an item may be forgotten.
    pub fn add(&mut self, item: &Revocation) {
        let Some(after) = item.forget_after else { return };
        self.0.entry(minute(after)).or_default().push(item.target.clone());
    }

    /// Takes out of `fences` what was over a whole minute before `now`, a proven time.
    pub fn forget(&mut self, fences: &mut Fences, now: Time) {
        while let Some(first) = self.0.first_entry() {
            if first.key().saturating_add(2) > minute(now) {
                return;
            }
            for target in first.remove() {
                // A later item on the same target may have moved its end, and has a bucket of its own.
                let over = fences.axes.get(&target).and_then(|fence| fence.forget_after);
                if over.is_some_and(|over| over < now) {
                    fences.axes.remove(&target);
                }
            }
        }
    }
}

fn minute(time: Time) -> u64 {
    time.as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(seq: u64, target: Target, forget: Option<u64>) -> Revocation {
        let forget_after = forget.map(Time::from_secs);
        Revocation { seq: Seq(seq), prev: Seq(0), target, forget_after }
    }

    #[test]
    fn fences_are_forgotten_only_when_their_last_item_may_be() {
        let (mut fences, mut minutes) = (Fences::default(), Minutes::default());
        let grant = Target::Grant(GrantId([1; 16]));
        let identity = Target::Identity(IdentityName::try_from("a").unwrap());
        let items = [
            item(1, grant.clone(), Some(60)),
            item(2, identity.clone(), Some(60)),
            item(3, identity.clone(), Some(600)),
            item(4, Target::Key(KeyId::try_from("k").unwrap()), None),
        ];
        for item in &items {
            fences.add(item);
            minutes.add(item);
        }
        minutes.forget(&mut fences, Time::from_secs(119));
        assert_eq!(fences.len(), 3, "too early");
        minutes.forget(&mut fences, Time::from_secs(180));
        assert!(fences.axes.get(&grant).is_none());
        assert_eq!(fences.axes.get(&identity).map(|fence| fence.seq), Some(Seq(3)));
        minutes.forget(&mut fences, Time::from_secs(900_000));
        assert_eq!(fences.len(), 1, "a key's cut-off is never forgotten");
    }
}
