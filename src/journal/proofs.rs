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

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, u32), Hash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn small(leaves: &Leaves<'_>, start: u64, level: u32) -> Result<Hash, Fault> {
    let mut tree = Frontier::default();
    leaves(start, 1_u64 << level)?.into_iter().for_each(|leaf| tree.push(leaf));
    Ok(tree.root())
}
