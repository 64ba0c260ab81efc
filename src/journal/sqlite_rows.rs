//! SQLite: values in and out of columns, and projected rows in and out of tables.

use std::collections::BTreeMap;

use protem_core::request::Scopes;
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::merkle::Frontier;
use protem_verify::names::{IdentityName, Malformed, ScopeName};
use protem_verify::time::Time;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::reach::Reach;
use crate::journal::rows::{GrantRow, RowChange};
use crate::journal::sqlite_error::store;
use crate::journal::tip::Tip;

/// A number as SQLite holds it; every number of ours is far below 2^63.
pub(in crate::journal) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number that SQLite held.
pub(in crate::journal) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The column at `at` as a position.
pub(in crate::journal) fn seq(row: &Row<'_>, at: usize) -> rusqlite::Result<Seq> {
    Ok(Seq(uint(row.get(at)?)))
}

/// Where the store says it stands; `None` before the first turn.
pub(in crate::journal) fn tip(connection: &Connection) -> Result<Tip, Fault> {
    let sql = "SELECT journal, epoch, seq, at, root, peaks FROM head WHERE one = 1";
    let found = connection.prepare_cached(sql).and_then(|mut statement| {
        let read = |row: &Row<'_>| {
            let head = Head {
                journal: JournalId(row.get(0)?),
                epoch: Epoch(uint(row.get(1)?)),
                seq: seq(row, 2)?,
                at: Time::from_millis(uint(row.get(3)?)),
                root: Hash(row.get(4)?),
            };
            Ok((head, row.get::<_, Vec<u8>>(5)?))
        };
        statement.query_row([], read).optional()
    });
    let Some((head, peaks)) = found.map_err(|why| store(&why))? else { return Ok(Tip::empty()) };
    let bad = |why: &str| Fault::Damaged { seq: head.seq, why: why.to_owned() };
    let (peaks, rest) = peaks.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(bad("the head's peaks are not hashes"));
    }
    let peaks = peaks.iter().map(|peak| Hash(*peak)).collect();
    let tree = Frontier::new(head.seq.0, peaks).ok_or_else(|| bad("the peaks do not fit"))?;
    if tree.root() != head.root {
        return Err(bad("the head's root is not that of its peaks"));
    }
    Ok(Tip { head, tree })
}

/// Writes where the store stands now.
pub(in crate::journal) fn keep_tip(connection: &Connection, tip: &Tip) -> rusqlite::Result<()> {
    let sql = "INSERT INTO head (one, journal, epoch, seq, at, root, peaks, beat) \
               VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, 0) ON CONFLICT (one) DO UPDATE SET \
               journal = ?1, epoch = ?2, seq = ?3, at = ?4, root = ?5, peaks = ?6";
    let head = &tip.head;
    let peaks: Vec<u8> = tip.tree.peaks().iter().flat_map(|peak| peak.0).collect();
    let at = int(head.at.as_millis());
    let values = (head.journal.0, int(head.epoch.0), int(head.seq.0), at, head.root.0, peaks);
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Applies changes to the projections. Of an identity that was granted access many times, the last counts.
pub(in crate::journal) fn change(
    connection: &Connection,
    changes: impl Iterator<Item = RowChange>,
) -> rusqlite::Result<()> {
    let mut granted: BTreeMap<IdentityName, Time> = BTreeMap::new();
    for one in changes {
        match one {
            RowChange::Granted(identity, at) => {
                granted.insert(identity, at);
            }
            RowChange::Grant(row) => insert_grant(connection, &row)?,
            RowChange::Activated(id, seq) => {
                let sql = "UPDATE grants SET activated = ?2 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute((id.0, int(seq.0)))?;
            }
            RowChange::Narrowed(id, scopes) => {
                let sql = "UPDATE grants SET scopes = ?2 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute((id.0, joined(&scopes)))?;
            }
            RowChange::Ended(id, seq) => {
                let sql = "UPDATE grants SET ended = ?2 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute((id.0, int(seq.0)))?;
            }
            RowChange::Concerns(id, seq) => {
                let sql = "INSERT OR IGNORE INTO concerns (grant_id, seq) VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute((id.0, int(seq.0)))?;
            }
            RowChange::Approval(id, person, seq) => {
                let sql = "INSERT OR REPLACE INTO approvals (grant_id, person, seq) \
                           VALUES (?1, ?2, ?3)";
                connection.prepare_cached(sql)?.execute((id.0, person.as_str(), int(seq.0)))?;
            }
            RowChange::NoApproval(id, person) => {
                let sql = "DELETE FROM approvals WHERE grant_id = ?1 AND person = ?2";
                connection.prepare_cached(sql)?.execute((id.0, person.as_str()))?;
            }
            RowChange::CutOff(seq, Reach(covers)) => {
                let sql = "INSERT OR REPLACE INTO cut_offs (seq, covers) VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute((int(seq.0), covers))?;
            }
        }
    }
    let sql = "INSERT INTO identities (name, last_granted) VALUES (?1, ?2) \
               ON CONFLICT (name) DO UPDATE SET last_granted = ?2";
    for (identity, at) in granted {
        connection.prepare_cached(sql)?.execute((identity.as_str(), int(at.as_millis())))?;
    }
    Ok(())
}

fn insert_grant(connection: &Connection, row: &GrantRow) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO grants \
               (id, identity, task, resource, scopes, requested, asked_at, activated, ended) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)";
    let values = (
        row.id.0,
        row.identity.as_str(),
        row.task.as_str(),
        row.resource.as_str(),
        joined(&row.scopes),
        int(row.requested.0),
        int(row.asked_at.as_millis()),
        int(row.activated.0),
    );
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

pub(in crate::journal) fn joined(scopes: &Scopes) -> String {
    let names: Vec<&str> = scopes.iter().map(ScopeName::as_str).collect();
    names.join(" ")
}

/// The columns that [`grant_row`] reads, in its order.
pub(in crate::journal) const GRANT_COLUMNS: &str =
    "id, identity, task, resource, scopes, requested, asked_at, activated, ended";

/// A grant's row as it is stored.
pub(in crate::journal) fn grant_row(row: &Row<'_>) -> rusqlite::Result<GrantRow> {
    let bad = |why: Malformed| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(why))
    };
    let text = |at: usize| row.get::<_, String>(at);
    let scopes: Result<Vec<ScopeName>, Malformed> =
        text(4)?.split(' ').map(ScopeName::try_from).collect();
    Ok(GrantRow {
        id: GrantId(row.get(0)?),
        identity: text(1)?.as_str().try_into().map_err(bad)?,
        task: text(2)?.as_str().try_into().map_err(bad)?,
        resource: text(3)?.as_str().try_into().map_err(bad)?,
        scopes: scopes.and_then(Scopes::new).map_err(bad)?,
        requested: seq(row, 5)?,
        asked_at: Time::from_millis(uint(row.get(6)?)),
        activated: seq(row, 7)?,
        ended: seq(row, 8)?,
    })
}
