//! Subtrees of the journal's Merkle tree, remembered, so that a proof does not read every leaf again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protem_verify::ids::Hash;
use protem_verify::merkle::{Frontier, node};

use crate::journal::fault::Fault;

/// Subtrees of 2^8 leaves and more are remembered: a proof reads at most a few hundred leaves beyond them.
const KEPT: u32 = 8;

/// The hashes of perfect subtrees, which never change.
#[derive(Debug, Default)]
pub(in crate::journal) struct Subtrees(Mutex<HashMap<(u64, u32), Hash>>);

/// Gives the leaves `start .. start + count`.
pub(in crate::journal) type Leaves<'a> = dyn Fn(u64, u64) -> Result<Vec<Hash>, Fault> + 'a;

impl Subtrees {
    /// The hash of the leaves `start .. start + 2^level`.
    pub(in crate::journal) fn perfect(
        &self,
        leaves: &Leaves<'_>,
        start: u64,
        level: u32,
    ) -> Result<Hash, Fault> {
        if level < KEPT {
            return small(leaves, start, level);
        }
        let known = self.known().get(&(start, level)).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let hash = if level == KEPT {
            small(leaves, start, level)?
        } else {
            let half = 1_u64 << level.saturating_sub(1).min(63);
            let left = self.perfect(leaves, start, level.saturating_sub(1))?;
            let middle = start.saturating_add(half);
            node(&left, &self.perfect(leaves, middle, level.saturating_sub(1))?)
        };
        self.known().insert((start, level), hash);
        Ok(hash)
    }

    /// Remembers what a tree is made of, so that no proof about a tree that grew from it reads the leaves below.
    pub(in crate::journal) fn remember(&self, tree: &Frontier) {
        let mut known = self.known();
        let mut start = 0_u64;
        let levels = (0..u64::BITS).rev().filter(|level| tree.size() >> level & 1 == 1);
        for (level, peak) in levels.zip(tree.peaks()) {
            if level >= KEPT {
                known.insert((start, level), *peak);
            }
            start = start.saturating_add(1 << level);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, u32), Hash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn small(leaves: &Leaves<'_>, start: u64, level: u32) -> Result<Hash, Fault> {
    let mut tree = Frontier::default();
    leaves(start, 1_u64 << level)?.into_iter().for_each(|leaf| tree.push(leaf));
    Ok(tree.root())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use protem_verify::merkle::leaf;
    use protem_verify::proof;

    use super::*;

    #[test]
    fn what_a_tree_is_made_of_spares_its_leaves() {
        let all: Vec<Hash> = (0..5_000_u32).map(|number| leaf(&number.to_be_bytes())).collect();
        let grown = |size: usize| {
            let mut tree = Frontier::default();
            all.iter().take(size).for_each(|leaf| tree.push(*leaf));
            tree
        };
        let read = Cell::new(0_u64);
        let leaves = |start: u64, count: u64| {
            read.set(read.get() + count);
            let range = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
            Ok::<_, Fault>(all[range].to_vec())
        };
        let root = |subtrees: &Subtrees, size: usize| {
            let perfect = &mut |start, level| subtrees.perfect(&leaves, start, level);
            let root = proof::range(0, u64::try_from(size).unwrap(), perfect).unwrap();
            assert_eq!(root, grown(size).root());
            read.take()
        };
        assert_eq!(root(&Subtrees::default(), 4_700), 4_700);
        let subtrees = Subtrees::default();
        subtrees.remember(&grown(4_600));
        assert!(root(&subtrees, 4_700) <= 512);
        // One that is older than what is remembered costs what lies between its own parts.
        assert!(root(&subtrees, 4_500) <= 512);
    }
}
