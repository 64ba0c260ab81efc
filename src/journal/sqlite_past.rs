//! What people decided before, and closed reviews, from SQLite's tables.

use protem_core::event::Event;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::IdentityName;
use protem_verify::time::Time;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::journal::fault::Fault;
use crate::journal::past::{DECIDED_MAX, Like, Past};
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::entry;
use crate::journal::sqlite_rows::{int, joined, seq};

/// What came before a request.
pub(in crate::journal) fn past(connection: &Connection, like: &Like) -> Result<Past, Fault> {
    let mut past = Past::default();
    for (asked, activated, ended) in decided(connection, like)? {
        let over = match (activated, ended) {
            (Seq(0), Seq(1..)) => entry(connection, ended)?,
            _ => None,
        };
        past.count(asked, activated.0 > 0, over.as_ref().map(|row| row.what()));
    }
    Ok(past)
}

/// Grants whose review was closed, newest first.
pub(in crate::journal) fn closed_reviews(
    connection: &Connection,
    limit: u32,
) -> Result<Vec<GrantId>, Fault> {
    let sql = "SELECT seq FROM entries WHERE kind = 'review.closed' ORDER BY seq DESC LIMIT ?1";
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let seqs = statement
        .query_map([limit], |row| seq(row, 0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| store(&why))?;
    let mut found = Vec::with_capacity(seqs.len());
    for at in seqs {
        if let Some(Event::ReviewClosed { grant, .. }) =
            entry(connection, at)?.as_ref().map(|row| row.what())
        {
            found.push(*grant);
        }
    }
    Ok(found)
}

/// Earlier requests for the same that waited for people: when asked, activated where, ended where.
fn decided(connection: &Connection, like: &Like) -> Result<Vec<(Time, Seq, Seq)>, Fault> {
    let sql = "SELECT asked_at, activated, ended FROM grants \
               WHERE identity = ?1 AND id < ?2 AND activated <> requested \
               AND resource = ?3 AND scopes = ?4 AND asked_at >= ?5 ORDER BY id DESC LIMIT ?6";
    let limit = i64::try_from(DECIDED_MAX).unwrap_or(i64::MAX);
    let (identity, resource) = (like.identity.as_str(), like.resource.as_str());
    let since = int(like.since.as_millis());
    let values = params![identity, like.before.0, resource, joined(&like.scopes), since, limit];
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    statement
        .query_map(values, |row| Ok((time(row, 0)?, seq(row, 1)?, seq(row, 2)?)))
        .and_then(Iterator::collect)
        .map_err(|why| store(&why))
}

/// When an identity was last granted anything.
pub(in crate::journal) fn last_granted(
    connection: &Connection,
    identity: &IdentityName,
) -> Result<Option<Time>, Fault> {
    let sql = "SELECT last_granted FROM identities WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let found = statement.query_row([identity.as_str()], |row| time(row, 0)).optional();
    found.map_err(|why| store(&why))
}

fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Time> {
    let millis: i64 = row.get(at)?;
    Ok(Time::from_millis(u64::try_from(millis).unwrap_or_default()))
}
