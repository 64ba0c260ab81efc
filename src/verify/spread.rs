//! A map that readers share while its one writer goes on: a change copies one leaf of 4,096, never the whole.

use std::hash::{BuildHasher, Hash, RandomState};
use std::iter::repeat_n;
use std::sync::Arc;

/// A persistent hash map; a clone costs 64 reference counts, whatever its size.
#[derive(Clone, Debug)]
pub struct Spread<K, V> {
    hasher: RandomState,
    branches: Vec<Arc<Branch<K, V>>>,
    len: usize,
}

type Branch<K, V> = Vec<Arc<Leaf<K, V>>>;
/// Sorted by hash.
type Leaf<K, V> = Vec<(u64, K, V)>;

/// Branches, and leaves of each: a million entries make leaves of about 250, so a copy is a few kilobytes.
const WIDTH: usize = 64;

impl<K: Hash + Eq + Clone, V: Clone> Default for Spread<K, V> {
    fn default() -> Self {
        // All empty leaves, and branches, are one until someone writes to them.
        let branch: Branch<K, V> = repeat_n(Arc::new(Leaf::new()), WIDTH).collect();
        let branches = repeat_n(Arc::new(branch), WIDTH).collect();
        Self { hasher: RandomState::new(), branches, len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Spread<K, V> {
    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        let (branch, leaf) = place(hash);
        let leaf = self.branches.get(branch)?.get(leaf)?;
        let start = leaf.partition_point(|(at, _, _)| *at < hash);
        let mut same = leaf.iter().skip(start).take_while(|(at, _, _)| *at == hash);
        same.find(|(_, known, _)| known == key).map(|(_, _, value)| value)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        let hash = self.hasher.hash_one(&key);
        let Some(leaf) = self.leaf(hash) else { return };
        if let Some((_, _, old)) =
            leaf.iter_mut().find(|(at, known, _)| *at == hash && *known == key)
        {
            *old = value;
            return;
        }
        let start = leaf.partition_point(|(at, _, _)| *at < hash);
        leaf.insert(start, (hash, key, value));
        self.len = self.len.saturating_add(1);
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &K) {
        let hash = self.hasher.hash_one(key);
        let Some(leaf) = self.leaf(hash) else { return };
        let found = leaf.iter().position(|(at, known, _)| *at == hash && known == key);
        let Some(found) = found else { return };
        leaf.remove(found);
        self.len = self.len.saturating_sub(1);
    }

    fn leaf(&mut self, hash: u64) -> Option<&mut Leaf<K, V>> {
        let (branch, leaf) = place(hash);
        let branch = Arc::make_mut(self.branches.get_mut(branch)?);
        Some(Arc::make_mut(branch.get_mut(leaf)?))
    }
}

/// The lowest twelve bits choose the leaf; leaves are sorted by all of them.
fn place(hash: u64) -> (usize, usize) {
    let six = |bits: u64| usize::try_from(bits & 63).unwrap_or(0);
    (six(hash), six(hash >> 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_and_clones_stay_as_they_were() {
        let mut map = Spread::default();
        (0..10_000_u32).for_each(|key| map.insert(key, key + 1));
        let before = map.clone();
        (0..10_000).step_by(2).for_each(|key| map.remove(&key));
        map.insert(3, 0);
        assert_eq!((map.len(), before.len()), (5_000, 10_000));
        assert_eq!((map.get(&3), before.get(&3)), (Some(&0), Some(&4)));
        assert_eq!((map.get(&2), before.get(&2)), (None, Some(&3)));
        assert!(Spread::<u8, u8>::default().is_empty());
    }
}
