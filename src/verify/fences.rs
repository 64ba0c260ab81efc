//! What no longer counts: ended grants and cut-offs by axis, each forgotten once nothing it covers can be alive.

use std::hash::{BuildHasher, RandomState};

use crate::claims::Claims;
use crate::ids::{GrantId, Seq};
use crate::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
use crate::spread::Spread;
use crate::time::Time;

/// What a revocation covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
///
/// They lie in buckets by when they may be forgotten: time passing drops whole buckets and touches nothing else. A check asks
/// every bucket, so that a wrong `forget_after` never lets anything in sooner than it says.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    hasher: RandomState,
    /// Soonest first.
    buckets: Vec<Bucket>,
    everything: Seq,
    len: usize,
}

/// What may be forgotten in one window of time.
#[derive(Clone, Debug)]
struct Bucket {
    window: u64,
    grants: Spread<GrantId, ()>,
    /// The newest cut-off of each target.
    cut_offs: Spread<Target, Seq>,
}

/// Seconds of a bucket. Credentials of a quarter of an hour make five buckets, so a check asks few; what is over waits for the
/// bucket's end.
pub const WINDOW: u64 = 240;
/// How long after its end a bucket is kept: more than a clock may step without notice.
const SLACK: u64 = 60;
/// Buckets at once: a day of windows, the longest life of a credential, and some more. What comes beyond is kept longer.
const BUCKETS_MAX: usize = 400;
/// Entries at once, 90 MB: twice the live grants that a journal may hold. One more counts as `everything`.
pub const ENTRIES_MAX: usize = 4_000_000;
/// Cut-offs of keys beyond that: a compromise a day for eleven years.
const KEYS_MAX: usize = 4_096;
/// The window of what is never forgotten.
const NEVER: u64 = u64::MAX;

impl Fences {
    /// Adds one; of two on the same target the wider holds. One that has no place counts as `everything`: to refuse more is
    /// never wrong.
    pub fn add(&mut self, item: &Revocation) {
        // A key voids all it ever signed, whatever `seq` that claims: `everything` would not say the same.
        let room = if matches!(item.target, Target::Key(_)) { KEYS_MAX } else { 0 };
        if item.target == Target::Everything || self.len >= ENTRIES_MAX.saturating_add(room) {
            self.everything = self.everything.max(item.seq);
            return;
        }
        let hasher = self.hasher.clone();
        let Some(bucket) = self.bucket(item.forget_after.map_or(NEVER, window)) else {
            self.everything = self.everything.max(item.seq);
            return;
        };
        let before = bucket.len();
        if let Target::Grant(id) = item.target {
            bucket.grants.insert(&hasher, id, ());
        } else {
            let old = bucket.cut_offs.get(hasher.hash_one(&item.target), &item.target);
            let seq = old.map_or(item.seq, |old| item.seq.max(*old));
            bucket.cut_offs.insert(&hasher, item.target.clone(), seq);
        }
        let grown = bucket.len().saturating_sub(before);
        self.len = self.len.saturating_add(grown);
    }

    /// The bucket of a window, or a later one when there are too many.
    fn bucket(&mut self, window: u64) -> Option<&mut Bucket> {
        let full = self.buckets.len() >= BUCKETS_MAX;
        let at = match self.buckets.binary_search_by_key(&window, |bucket| bucket.window) {
            Ok(at) => at,
            Err(at) if full && at < self.buckets.len() => at,
            Err(at) => {
                let window = if full { NEVER } else { window };
                self.buckets.insert(at, Bucket::new(window));
                at
            }
        };
        self.buckets.get_mut(at)
    }

    /// How many it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.everything == Seq(0)
    }

    /// Whether everything this key signed is void.
    #[must_use]
    pub fn voids_key(&self, key: &KeyId) -> bool {
        self.cut_off(&Target::Key(key.clone())).is_some()
    }

    /// Whether a credential for `resource` is void. A cut-off covers grants activated at or before it: it is compared with
    /// the grant's `seq`, never with a clock.
    #[must_use]
    pub fn voids(&self, claims: &Claims, resource: &ResourceName) -> bool {
        if claims.seq <= self.everything || self.ended(&claims.grant) {
            return true;
        }
        if self.buckets.iter().all(|bucket| bucket.cut_offs.is_empty()) {
            return false;
        }
        let of = |target| self.cut_off(&target).is_some_and(|seq| claims.seq <= seq);
        of(Target::Task(claims.identity.clone(), claims.task.clone()))
            || of(Target::Identity(claims.identity.clone()))
            || of(Target::Resource(resource.clone()))
            || claims.scopes.iter().any(|scope| of(Target::Scope(resource.clone(), scope.clone())))
    }

    fn ended(&self, grant: &GrantId) -> bool {
        let hash = self.hasher.hash_one(grant);
        self.buckets.iter().any(|bucket| bucket.grants.get(hash, grant).is_some())
    }

    /// The newest cut-off of a target.
    fn cut_off(&self, target: &Target) -> Option<Seq> {
        let hash = self.hasher.hash_one(target);
        let some = self.buckets.iter().filter(|bucket| !bucket.cut_offs.is_empty());
        some.filter_map(|bucket| bucket.cut_offs.get(hash, target)).max().copied()
    }

    /// Drops the buckets that were over a whole minute before `now`, a proven time.
    pub fn forget(&mut self, now: Time) {
        let over = |bucket: &Bucket| {
            let end = bucket.window.saturating_add(1).saturating_mul(WINDOW);
            end.saturating_add(SLACK) <= now.as_secs()
        };
        let over = self.buckets.partition_point(over);
        let dropped: usize = self.buckets.drain(..over).map(|bucket| bucket.len()).sum();
        self.len = self.len.saturating_sub(dropped);
    }
}

impl Bucket {
    fn new(window: u64) -> Self {
        Self { window, grants: Spread::default(), cut_offs: Spread::default() }
    }

    fn len(&self) -> usize {
        self.grants.len().saturating_add(self.cut_offs.len())
    }
}

fn window(time: Time) -> u64 {
    time.as_secs() / WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(seq: u64, target: Target, forget: Option<u64>) -> Revocation {
        let forget_after = forget.map(Time::from_secs);
        Revocation { seq: Seq(seq), prev: Seq(0), target, forget_after }
    }

    fn grant(id: u64) -> Target {
        Target::Grant(GrantId(u128::from(id).to_be_bytes()))
    }

    #[test]
    fn fences_are_forgotten_only_when_their_last_item_may_be() {
        let mut fences = Fences::default();
        let identity = Target::Identity(IdentityName::try_from("a").unwrap());
        let key = KeyId::try_from("k").unwrap();
        let items = [
            item(1, grant(1), Some(60)),
            item(2, identity.clone(), Some(60)),
            item(3, identity.clone(), Some(600)),
            item(4, Target::Key(key.clone()), None),
        ];
        items.iter().for_each(|item| fences.add(item));
        fences.forget(Time::from_secs(WINDOW + SLACK - 1));
        assert_eq!(fences.len(), 4, "too early");
        fences.forget(Time::from_secs(WINDOW + SLACK));
        assert!(!fences.ended(&GrantId(1_u128.to_be_bytes())));
        assert_eq!(fences.cut_off(&identity), Some(Seq(3)));
        fences.forget(Time::from_secs(900_000));
        assert_eq!((fences.len(), fences.voids_key(&key)), (1, true), "a key's is never forgotten");
    }

    #[test]
    fn of_two_cut_offs_the_wider_holds_whichever_comes_first() {
        let resource = Target::Resource(ResourceName::try_from("r").unwrap());
        for (one, two) in [((5, 60), (7, 60)), ((7, 60), (5, 60)), ((7, 60), (5, 6_000))] {
            let mut fences = Fences::default();
            fences.add(&item(one.0, resource.clone(), Some(one.1)));
            fences.add(&item(two.0, resource.clone(), Some(two.1)));
            assert_eq!(fences.cut_off(&resource), Some(Seq(7)));
        }
    }

    #[test]
    fn many_windows_are_few_buckets_and_forget_nothing_early() {
        let mut fences = Fences::default();
        let many = u64::try_from(BUCKETS_MAX).unwrap() + 50;
        // From the end, so that the first that find no bucket of their own have a later one.
        for at in (100..many).rev().chain(0..100).chain([many, many + 1]) {
            fences.add(&item(at + 1, grant(at), Some(at * WINDOW)));
        }
        assert!(fences.buckets.len() <= BUCKETS_MAX + 1, "{}", fences.buckets.len());
        for now in [50, 300, many] {
            fences.forget(Time::from_secs(now * WINDOW));
            for at in now..many + 2 {
                assert!(fences.ended(&GrantId(u128::from(at).to_be_bytes())), "{at} at {now}");
            }
        }
    }

    #[test]
    fn what_finds_no_place_counts_as_everything() {
        let resource = ResourceName::try_from("orders-api").unwrap();
        let older = crate::bench::tests::claims();
        let mut fences = Fences { len: ENTRIES_MAX - 1, ..Fences::default() };
        fences.add(&item(older.seq.0 - 1, grant(1), Some(60)));
        assert!(!fences.voids(&older, &resource));
        fences.add(&item(older.seq.0, grant(2), Some(60)));
        assert_eq!((fences.len(), fences.voids(&older, &resource)), (ENTRIES_MAX, true));
        let key = KeyId::try_from("k").unwrap();
        fences.add(&item(older.seq.0, Target::Key(key.clone()), None));
        assert!(fences.voids_key(&key), "a key's cut-off is not for what was signed before alone");
        assert!(!fences.voids(&Claims { seq: older.seq.next(), ..older }, &resource));
    }
}
