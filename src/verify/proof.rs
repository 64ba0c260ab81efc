//! Merkle proofs (RFC 6962 §2.1, checked as RFC 9162 §2.1.3.2 and §2.1.4.2 say): an entry is in a tree; a tree grew out of another.

use crate::ids::Hash;
use crate::merkle::node;

/// Whether `path` proves that `leaf` is entry `index` (the first is 0) of the tree of `size` leaves with this root.
#[must_use]
pub fn included(leaf: Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size.saturating_sub(1), leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree of `new` leaves begins with the whole tree of `old` leaves. Every tree grew out of the empty one.
#[must_use]
pub fn consistent(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> bool {
    if old == 0 || old == new {
        return path.is_empty() && (old == 0 || old_root == new_root);
    }
    if old > new {
        return false;
    }
    let mut path = path.iter();
    // A perfect old tree is its own first node and is left out of the path.
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old.saturating_sub(1), new.saturating_sub(1));
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node(sibling, &old_hash);
            new_hash = node(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_hash = node(&new_hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The hash of the perfect subtree over the leaves `start .. start + 2^level`; `start` is a multiple of `2^level`.
pub type Perfect<'store, E> = dyn FnMut(u64, u32) -> Result<Hash, E> + 'store;

/// The hash of the leaves `start .. end`, not empty, as RFC 6962 splits them.
///
/// # Errors
/// What `perfect` fails with.
pub fn range<E>(start: u64, end: u64, perfect: &mut Perfect<'_, E>) -> Result<Hash, E> {
    let count = end.saturating_sub(start);
    if count.is_power_of_two() || count == 0 {
        return perfect(start, count.trailing_zeros());
    }
    let middle = start.saturating_add(split(count));
    let left = range(start, middle, perfect)?;
    Ok(node(&left, &range(middle, end, perfect)?))
}

/// The path that [`included`] checks: for entry `index` of the tree of `size` leaves; empty when it is not in it.
///
/// # Errors
/// What `perfect` fails with.
pub fn inclusion<E>(index: u64, size: u64, perfect: &mut Perfect<'_, E>) -> Result<Vec<Hash>, E> {
    let (mut start, mut end, mut path) = (0_u64, size, Vec::new());
    while index < size && end.saturating_sub(start) > 1 {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if index < middle {
            path.push(range(middle, end, perfect)?);
            end = middle;
        } else {
            path.push(range(start, middle, perfect)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The path that [`consistent`] checks: from the tree of `old` leaves to that of `new`; empty when there is nothing to prove.
///
/// # Errors
/// What `perfect` fails with.
pub fn consistency<E>(old: u64, new: u64, perfect: &mut Perfect<'_, E>) -> Result<Vec<Hash>, E> {
    let (mut start, mut end, mut path) = (0_u64, new, Vec::new());
    if old == 0 || old >= new {
        return Ok(path);
    }
    while old != end {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if old <= middle {
            path.push(range(middle, end, perfect)?);
            end = middle;
        } else {
            path.push(range(start, middle, perfect)?);
            start = middle;
        }
    }
    if start != 0 {
        path.push(range(start, end, perfect)?);
    }
    path.reverse();
    Ok(path)
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    let below = count.saturating_sub(1).max(1);
    1_u64 << below.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Frontier, leaf};

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|at| leaf(&at.to_be_bytes())).collect()
    }

    fn root(leaves: &[Hash]) -> Hash {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    fn perfect(leaves: &[Hash]) -> impl FnMut(u64, u32) -> Result<Hash, ()> + '_ {
        move |start, level| {
            let start = usize::try_from(start).unwrap();
            Ok(root(&leaves[start..start + (1 << level)]))
        }
    }

    #[test]
    fn every_entry_of_small_trees_is_proven_and_no_other() {
        let all = leaves(33);
        for size in 1..=33_u64 {
            let tree = &all[..usize::try_from(size).unwrap()];
            assert_eq!(range(0, size, &mut perfect(tree)), Ok(root(tree)));
            for (index, leaf) in (0_u64..).zip(tree) {
                let path = inclusion(index, size, &mut perfect(tree)).unwrap();
                assert!(included(*leaf, index, size, &path, &root(tree)), "{index}/{size}");
                assert!(!included(*leaf, index + 1, size, &path, &root(tree)));
                assert!(!included(Hash([0; 32]), index, size, &path, &root(tree)));
                let longer = [path.as_slice(), &[Hash([0; 32])]].concat();
                assert!(!included(*leaf, index, size, &longer, &root(tree)));
            }
        }
    }

    #[test]
    fn every_growth_of_small_trees_is_proven_and_no_rewrite() {
        let all = leaves(33);
        for new in 0..=33_u64 {
            for old in 0..=new {
                let (a, b) = (usize::try_from(old).unwrap(), usize::try_from(new).unwrap());
                let (before, after) = (root(&all[..a]), root(&all[..b]));
                let path = consistency(old, new, &mut perfect(&all[..b])).unwrap();
                assert!(consistent(old, new, &before, &after, &path), "{old}/{new}");
                if old > 0 {
                    assert!(!consistent(old, new, &Hash([0; 32]), &after, &path), "{old}/{new}");
                    assert!(!consistent(old, new, &before, &Hash([0; 32]), &path), "{old}/{new}");
                }
            }
        }
        assert!(!consistent(5, 4, &root(&all[..5]), &root(&all[..4]), &[]));
    }
}
