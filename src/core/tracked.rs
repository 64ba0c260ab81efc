//! Maps and sets that can take an open turn back: each change keeps what was there before.

use std::collections::{BTreeMap, BTreeSet};

/// A map whose changes since [`Tracked::begin`] can be undone.
#[derive(Clone, Debug)]
pub struct Tracked<K, V> {
    now: BTreeMap<K, V>,
    before: Option<Vec<(K, Option<V>)>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: None }
    }
}

impl<K: Ord + Clone, V: Clone> Tracked<K, V> {
    /// Reads.
    #[must_use]
    pub fn map(&self) -> &BTreeMap<K, V> {
        &self.now
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key)
    }

    /// Puts `value` in place of whatever was there.
    pub fn insert(&mut self, key: K, value: V) {
        let old = self.now.insert(key.clone(), value);
        if let Some(before) = &mut self.before {
            before.push((key, old));
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.now.remove(key)?;
        if let Some(before) = &mut self.before {
            before.push((key.clone(), Some(old.clone())));
        }
        Some(old)
    }

    /// Changes the value of `key` in place, if there is one.
    pub fn change(&mut self, key: &K, change: impl FnOnce(&mut V)) {
        let Some(value) = self.now.get_mut(key) else { return };
        if let Some(before) = &mut self.before {
            before.push((key.clone(), Some(value.clone())));
        }
        change(value);
    }

    /// Opens a turn.
    pub fn begin(&mut self) {
        self.before = Some(Vec::new());
    }

    /// Keeps what the turn did.
    pub fn commit(&mut self) {
        self.before = None;
    }

    /// Undoes what the turn did.
    pub fn rollback(&mut self) {
        for (key, old) in self.before.take().unwrap_or_default().into_iter().rev() {
            match old {
                Some(value) => self.now.insert(key, value),
                None => self.now.remove(&key),
            };
        }
    }
}

/// A set whose changes since [`TrackedSet::begin`] can be undone.
#[derive(Clone, Debug)]
pub struct TrackedSet<K> {
    now: BTreeSet<K>,
    before: Option<Vec<(K, bool)>>,
}

impl<K> Default for TrackedSet<K> {
    fn default() -> Self {
        Self { now: BTreeSet::new(), before: None }
    }
}

impl<K: Ord + Clone> TrackedSet<K> {
    /// Reads.
    #[must_use]
    pub fn set(&self) -> &BTreeSet<K> {
        &self.now
    }

    /// Puts `key` in.
    pub fn insert(&mut self, key: K) {
        if let Some(before) = &mut self.before {
            if self.now.insert(key.clone()) {
                before.push((key, false));
            }
        } else {
            self.now.insert(key);
        }
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &K) {
        if let Some(old) = self.now.take(key)
            && let Some(before) = &mut self.before
        {
            before.push((old, true));
        }
    }

    /// Opens a turn.
    pub fn begin(&mut self) {
        self.before = Some(Vec::new());
    }

    /// Keeps what the turn did.
    pub fn commit(&mut self) {
        self.before = None;
    }

    /// Undoes what the turn did.
    pub fn rollback(&mut self) {
        for (key, was_in) in self.before.take().unwrap_or_default().into_iter().rev() {
            if was_in {
                self.now.insert(key);
            } else {
                self.now.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_taken_back_leaves_no_trace() {
        let mut map = Tracked::default();
        let mut set = TrackedSet::default();
        map.insert(1, "a");
        set.insert(1);
        let (map_before, set_before) = (map.map().clone(), set.set().clone());
        map.begin();
        set.begin();
        map.insert(1, "b");
        map.insert(2, "c");
        map.change(&1, |value| *value = "d");
        map.remove(&1);
        map.insert(1, "e");
        set.remove(&1);
        set.insert(2);
        set.insert(1);
        map.rollback();
        set.rollback();
        assert_eq!((map.map(), set.set()), (&map_before, &set_before));
    }

    #[test]
    fn a_kept_turn_stays() {
        let mut map = Tracked::default();
        map.begin();
        map.insert(1, "a");
        map.commit();
        map.rollback();
        assert_eq!(map.get(&1), Some(&"a"));
    }
}
