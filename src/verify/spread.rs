//! A map that readers share while its one writer goes on: a change copies one leaf and the way to it, never the whole.

use std::array::from_fn;
use std::hash::{BuildHasher, Hash, RandomState};
use std::iter::once;
use std::sync::Arc;

/// A persistent hash trie; a clone costs one reference count, whatever its size. Who holds it also holds its hasher: several
/// maps of one hasher are then asked about one key by one hash.
#[derive(Clone, Debug)]
pub struct Spread<K, V> {
    root: Node<K, V>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    /// Sorted by key, and exactly as long as it must be.
    Leaf(Arc<[(K, V)]>),
    Branch(Arc<[Node<K, V>; WIDTH]>),
}

/// Children of a branch: the next four bits of a hash choose one.
const WIDTH: usize = 16;
const BITS: u32 = 4;
/// Entries of a leaf: a change copies at most as many (2 KiB of grants), and the least full leaves after a split still hold
/// eight, so that what belongs to a leaf costs less than what is in it.
const LEAF_MAX: usize = 128;
/// A hash has no more digits; what collides in all of them shares a leaf.
const DEPTH_MAX: u32 = u64::BITS / BITS;

impl<K, V> Default for Spread<K, V> {
    fn default() -> Self {
        Self { root: Node::Leaf(Arc::new([])), len: 0 }
    }
}

impl<K: Hash + Ord + Clone, V: Clone> Spread<K, V> {
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

    /// The value of a key whose hash is `hash`.
    #[must_use]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let (mut node, mut depth) = (&self.root, 0);
        loop {
            match node {
                Node::Branch(children) => node = children.get(digit(hash, depth))?,
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                    return entries.get(at).map(|(_, value)| value);
                }
            }
            depth = depth.saturating_add(1);
        }
    }

    /// Sets the value of a key. The hasher must be the one of all calls.
    pub fn insert(&mut self, hasher: &RandomState, key: K, value: V) {
        let hash = hasher.hash_one(&key);
        if insert(&mut self.root, hasher, (hash, 0), (key, value)) {
            self.len = self.len.saturating_add(1);
        }
    }
}

/// Whether the key is a new one.
fn insert<K: Hash + Ord + Clone, V: Clone>(
    node: &mut Node<K, V>,
    hasher: &RandomState,
    (hash, depth): (u64, u32),
    entry: (K, V),
) -> bool {
    let entries = match node {
        Node::Branch(children) => {
            let Some(child) = Arc::make_mut(children).get_mut(digit(hash, depth)) else {
                return false;
            };
            return insert(child, hasher, (hash, depth.saturating_add(1)), entry);
        }
        Node::Leaf(entries) => entries,
    };
    let found = entries.binary_search_by(|(known, _)| known.cmp(&entry.0));
    let (at, rest) = match found {
        Ok(at) => (at, at.saturating_add(1)),
        Err(at) => (at, at),
    };
    let (before, after) = (entries.iter().take(at), entries.iter().skip(rest));
    *entries = before.cloned().chain(once(entry)).chain(after.cloned()).collect();
    if entries.len() > LEAF_MAX && depth < DEPTH_MAX {
        *node = split(entries, hasher, depth);
    }
    found.is_err()
}

fn split<K: Hash + Clone, V: Clone>(
    entries: &[(K, V)],
    hasher: &RandomState,
    depth: u32,
) -> Node<K, V> {
    let mut parts: [Vec<(K, V)>; WIDTH] = from_fn(|_| Vec::new());
    for entry in entries {
        if let Some(part) = parts.get_mut(digit(hasher.hash_one(&entry.0), depth)) {
            part.push(entry.clone());
        }
    }
    Node::Branch(Arc::new(parts.map(|part| Node::Leaf(part.into()))))
}

fn digit(hash: u64, depth: u32) -> usize {
    let shifted = hash.checked_shr(depth.saturating_mul(BITS)).unwrap_or(0);
    usize::try_from(shifted & 15).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_and_clones_stay_as_they_were() {
        let hasher = RandomState::new();
        let get = |map: &Spread<u32, u32>, key: u32| map.get(hasher.hash_one(key), &key).copied();
        let mut map = Spread::default();
        assert!(map.is_empty());
        let mut clones = Vec::new();
        for key in 0..50_000_u32 {
            map.insert(&hasher, key, key + 1);
            if key % 10_000 == 0 {
                clones.push((key, map.clone()));
            }
        }
        map.insert(&hasher, 3, 0);
        assert_eq!((map.len(), get(&map, 3), get(&map, 50_000)), (50_000, Some(0), None));
        assert!((4..50_000).all(|key| get(&map, key) == Some(key + 1)));
        for (last, clone) in clones {
            let held = (0..50_000).filter(|key| get(&clone, *key) == Some(key + 1)).count();
            let len = usize::try_from(last).unwrap() + 1;
            assert_eq!((clone.len(), held), (len, len));
        }
    }

    #[test]
    fn keys_of_one_hash_share_a_leaf() {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        struct Same(u32);
        impl Hash for Same {
            fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
        }
        let hasher = RandomState::new();
        let mut map = Spread::default();
        (0..1_000).for_each(|key| map.insert(&hasher, Same(key), key));
        let hash = hasher.hash_one(Same(0));
        assert!((0..1_000).all(|key| map.get(hash, &Same(key)) == Some(&key)));
        assert_eq!((map.len(), map.get(hash, &Same(1_000))), (1_000, None));
    }
}
