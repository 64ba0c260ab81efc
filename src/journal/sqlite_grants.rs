//! Grants from SQLite's tables: a row says what is searched by, its entries the rest, and cut-offs what no row says yet.

use protem_core::event::Event;
use protem_verify::ids::{GrantId, Seq};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::page::gather;
use crate::journal::reach::Reach;
use crate::journal::reader::{GrantFilter, GrantPage, RESOLVED_MAX, Stage, named_by};
use crate::journal::records::GrantRecord;
use crate::journal::rows::GrantRow;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::entry;
use crate::journal::sqlite_rows::{GRANT_COLUMNS, grant_row, int, seq};

/// One grant.
pub(in crate::journal) fn grant(
    connection: &Connection,
    id: &GrantId,
) -> Result<Option<GrantRecord>, Fault> {
    let Some(row) = row(connection, id)? else { return Ok(None) };
    let cut = cut_off(connection, &row)?;
    compose(connection, &row, cut).map(Some)
}

/// Grants, newest first.
pub(in crate::journal) fn grants(
    connection: &Connection,
    filter: &GrantFilter,
) -> Result<GrantPage, Fault> {
    let (sql, values) = walk(filter);
    let mut statement = connection.prepare_cached(&sql).map_err(|why| store(&why))?;
    let rows = statement.query_map(params_from_iter(values), grant_row);
    let rows = rows.map_err(|why| store(&why))?.map(|row| row.map_err(|why| store(&why)));
    let cut = |row: &GrantRow| cut_off(connection, row);
    gather(filter, rows, cut, |row, cut| compose(connection, row, cut))
}

/// Grants whose id begins or ends with `part`.
pub(in crate::journal) fn resolve(
    connection: &Connection,
    part: &str,
) -> Result<Vec<GrantId>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT id FROM grants ORDER BY id DESC")
        .map_err(|why| store(&why))?;
    let ids = statement.query_map([], |row| Ok(GrantId(row.get(0)?)));
    let mut found = Vec::new();
    for id in ids.map_err(|why| store(&why))? {
        let id = id.map_err(|why| store(&why))?;
        if named_by(&id, part) {
            found.push(id);
        }
        if found.len() >= RESOLVED_MAX {
            break;
        }
    }
    Ok(found)
}

/// Every entry that concerns a grant.
pub(in crate::journal) fn seqs(connection: &Connection, id: &GrantId) -> Result<Vec<Seq>, Fault> {
    row(connection, id)?.map_or(Ok(Vec::new()), |row| seqs_of(connection, &row))
}

/// The rows to look through, newest first, each a step in an index that holds no others.
pub(in crate::journal) fn walk(filter: &GrantFilter) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let live = !filter.states.is_empty() && !filter.states.contains(&Stage::Ended);
    let along = match &filter.identity {
        Some(identity) => {
            values.push(Value::Text(identity.as_str().to_owned()));
            "INDEXED BY grants_by_identity WHERE identity = ?"
        }
        None if live => "INDEXED BY grants_live WHERE ended = 0",
        None => "WHERE 1",
    };
    let mut sql = format!("SELECT {GRANT_COLUMNS} FROM grants {along}");
    if let Some(below) = filter.below() {
        sql.push_str(" AND id < ?");
        values.push(Value::Blob(below.0.to_vec()));
    }
    sql.push_str(" ORDER BY id DESC");
    (sql, values)
}

fn row(connection: &Connection, id: &GrantId) -> Result<Option<GrantRow>, Fault> {
    let sql = format!("SELECT {GRANT_COLUMNS} FROM grants WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql).map_err(|why| store(&why))?;
    statement.query_row([id.0], grant_row).optional().map_err(|why| store(&why))
}

/// Every entry that speaks of a grant, in order.
fn seqs_of(connection: &Connection, row: &GrantRow) -> Result<Vec<Seq>, Fault> {
    let sql = "SELECT seq FROM concerns WHERE grant_id = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let mut seqs = statement
        .query_map([row.id.0], |row| seq(row, 0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| store(&why))?;
    seqs.extend([row.requested, row.activated, row.ended].into_iter().filter(|seq| seq.0 > 0));
    seqs.sort_unstable();
    seqs.dedup();
    Ok(seqs)
}

/// The cut-off that ended a grant whose own row does not say so yet: the first since its activation that covers it.
fn cut_off(connection: &Connection, row: &GrantRow) -> Result<Option<Seq>, Fault> {
    if row.ended.0 > 0 {
        return Ok(None);
    }
    let sql = "SELECT seq FROM cut_offs WHERE covers = ?1 AND seq >= ?2 ORDER BY seq LIMIT 1";
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let since = int(row.since().0);
    let mut first: Option<Seq> = None;
    for Reach(covers) in Reach::around(row) {
        let found = statement.query_row((covers, since), |row| seq(row, 0)).optional();
        let found = found.map_err(|why| store(&why))?;
        first = [first, found].into_iter().flatten().min();
    }
    Ok(first)
}

/// A grant as people see it, from its row and the entries that it names.
fn compose(
    connection: &Connection,
    row: &GrantRow,
    cut: Option<Seq>,
) -> Result<GrantRecord, Fault> {
    let load = |seq: Seq| -> Result<Committed<Event>, Fault> {
        let missing = || Fault::Damaged { seq, why: "the entry is missing".into() };
        entry(connection, seq)?.ok_or_else(missing)
    };
    let entries = seqs_of(connection, row)?.into_iter().map(load);
    let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    let cut = cut.map(load).transpose()?;
    GrantRecord::from_entries(row.id, &entries, cut.as_ref()).ok_or_else(|| Fault::Damaged {
        seq: row.requested,
        why: "the entry does not begin the grant that its row names".into(),
    })
}
