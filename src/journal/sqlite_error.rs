//! SQLite's errors as faults.

use crate::journal::fault::Fault;

/// The store failed and nothing was changed.
pub(in crate::journal) fn store(why: &rusqlite::Error) -> Fault {
    Fault::Store(why.to_string())
}
