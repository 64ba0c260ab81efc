//! Reads the embedded journal from many threads, over read-only connections of their own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use protem_core::charter::Charter;
use protem_core::event::Event;
use protem_core::parts::Parts;
use protem_verify::ids::{GrantId, Hash, Seq, TurnId};
use protem_verify::names::IdentityName;
use protem_verify::time::Time;
use protem_verify::{merkle, proof};
use rusqlite::{Connection, OpenFlags, Row, Transaction};

use crate::journal::codec;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::past::{Like, Past};
use crate::journal::port::Head;
use crate::journal::proofs::Subtrees;
use crate::journal::reader::{GrantFilter, GrantPage, Reader};
use crate::journal::records::GrantRecord;
use crate::journal::snapshots;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_rows::{int, seq, tip, uint};
use crate::journal::{sqlite_grants, sqlite_past};

/// Connections kept open between reads; more are opened when more threads read at once.
const POOL: usize = 8;

/// Reads a journal file.
pub(in crate::journal) struct SqliteReader {
    pub(in crate::journal) path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    subtrees: Subtrees,
    /// Writes what stands beside the log; opened when it is needed.
    pub(in crate::journal) beside: Mutex<Option<Connection>>,
}

impl SqliteReader {
    pub(in crate::journal) fn new(path: &Path) -> Self {
        let (idle, subtrees, beside) = (Mutex::default(), Subtrees::default(), Mutex::default());
        Self { path: path.to_owned(), idle, subtrees, beside }
    }

    /// Reads in one transaction, so that all of it is from one moment.
    pub(in crate::journal) fn with<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => open(&self.path)?,
        };
        let moment = connection.transaction().map_err(|why| store(&why))?;
        let found = read(&moment)?;
        moment.finish().map_err(|why| store(&why))?;
        let mut idle = self.idle();
        if idle.len() < POOL {
            idle.push(connection);
        }
        Ok(found)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of a perfect subtree, of a tree that the journal has grown to.
    fn prove<T>(
        &self,
        size: u64,
        path: impl FnOnce(&mut proof::Perfect<'_, Fault>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.with(|moment| {
            let tip = tip(moment)?;
            self.subtrees.remember(&tip.tree);
            if size > tip.head.seq.0 {
                return Err(Fault::Store(format!("the journal has no {size} entries")));
            }
            let leaves = |start, count| leaves(moment, start, count);
            path(&mut |start, level| self.subtrees.perfect(&leaves, start, level))
        })
    }
}

impl Reader for SqliteReader {
    fn head(&self) -> Result<Head, Fault> {
        self.with(|moment| Ok(tip(moment)?.head))
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        self.with(|moment| entries(moment, after, limit))
    }

    fn entry(&self, seq: Seq) -> Result<Option<Committed<Event>>, Fault> {
        self.with(|moment| entry(moment, seq))
    }

    fn body(&self, seq: Seq) -> Result<Option<Vec<u8>>, Fault> {
        let sql = "SELECT seq, leaf, body FROM entries WHERE seq = ?1";
        self.with(|moment| Ok(bodies(moment, sql, [int(seq.0)])?.pop().map(|(_, body)| body)))
    }

    fn bundle_before(&self, before: Seq) -> Result<Option<Seq>, Fault> {
        let sql = "SELECT max(seq) FROM entries WHERE kind = 'bundle.activated' AND seq < ?1";
        self.with(|moment| {
            let found = moment.prepare_cached(sql).and_then(|mut statement| {
                statement.query_row([int(before.0)], |row| row.get::<_, Option<i64>>(0))
            });
            found.map(|seq| seq.map(|seq| Seq(uint(seq)))).map_err(|why| store(&why))
        })
    }

    fn grant(&self, id: &GrantId) -> Result<Option<GrantRecord>, Fault> {
        self.with(|moment| sqlite_grants::grant(moment, id))
    }

    fn grants(&self, filter: &GrantFilter) -> Result<GrantPage, Fault> {
        self.with(|moment| sqlite_grants::grants(moment, filter))
    }

    fn resolve(&self, part: &str) -> Result<Vec<GrantId>, Fault> {
        self.with(|moment| sqlite_grants::resolve(moment, part))
    }

    fn last_granted(&self, identity: &IdentityName) -> Result<Option<Time>, Fault> {
        self.with(|moment| sqlite_past::last_granted(moment, identity))
    }

    fn past(&self, like: &Like) -> Result<Past, Fault> {
        self.with(|moment| sqlite_past::past(moment, like))
    }

    fn closed_reviews(&self, limit: u32) -> Result<Vec<GrantId>, Fault> {
        self.with(|moment| sqlite_past::closed_reviews(moment, limit))
    }

    fn grant_entries(&self, id: &GrantId) -> Result<Vec<Seq>, Fault> {
        self.with(|moment| sqlite_grants::seqs(moment, id))
    }

    fn inclusion(&self, seq: Seq, size: u64) -> Result<Vec<Hash>, Fault> {
        self.prove(size, |perfect| proof::inclusion(seq.0.saturating_sub(1), size, perfect))
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, Fault> {
        self.prove(new, |perfect| proof::consistency(old, new, perfect))
    }

    fn root_at(&self, size: u64) -> Result<Hash, Fault> {
        if size == 0 {
            return Ok(merkle::Frontier::default().root());
        }
        self.prove(size, |perfect| proof::range(0, size, perfect))
    }

    fn charter(&self) -> Result<Charter, Fault> {
        self.with(|moment| {
            let head = tip(moment)?.head;
            let after = |seq: Seq, count| leaves(moment, seq.0, count);
            let front = snapshots::front(&self.path, &head, &after)?;
            let (tree, mut charter) = front.unwrap_or_default();
            self.subtrees.remember(&tree);
            charter_after(moment, Seq(tree.size()), &mut charter)?;
            Ok(charter)
        })
    }

    fn snapshot(&self) -> Result<Option<(Head, Parts)>, Fault> {
        self.with(|moment| {
            let head = tip(moment)?.head;
            let after = |seq: Seq, count| leaves(moment, seq.0, count);
            snapshots::newest(&self.path, &head, &after)
        })
    }

    fn size(&self) -> Result<u64, Fault> {
        let file = std::fs::metadata(&self.path).map_err(|why| Fault::Store(why.to_string()))?;
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        // Without a log all is in the file.
        let log = std::fs::metadata(log).map_or(0, |log| log.len());
        Ok(file.len().saturating_add(log))
    }

    fn keep_snapshot(&self, head: &Head, parts: &Parts) -> Result<(), Fault> {
        self.with(|moment| {
            let after = |seq: Seq, count| leaves(moment, seq.0, count);
            snapshots::keep(&self.path, head, parts, &after)
        })
    }
}

/// Opens a journal for reading alone.
pub(in crate::journal) fn open(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|why| store(&why))?;
    let patience = std::time::Duration::from_secs(5);
    connection.busy_timeout(patience).map_err(|why| store(&why))?;
    Ok(connection)
}

/// At most `limit` entries after `after`, each held against its leaf.
pub(in crate::journal) fn entries(
    connection: &Connection,
    after: Seq,
    limit: u32,
) -> Result<Vec<Committed<Event>>, Fault> {
    let sql = "SELECT seq, leaf, body FROM entries WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let found = bodies(connection, sql, [int(after.0), i64::from(limit)])?;
    let mut next = after.next();
    let mut rows = Vec::with_capacity(found.len());
    for (seq, body) in found {
        if seq != next {
            return Err(Fault::Damaged { seq: next, why: "the entry is missing".into() });
        }
        rows.push(codec::decode(seq, &body)?);
        next = next.next();
    }
    Ok(rows)
}

/// The entries of one turn, looked for after `after`.
pub(in crate::journal) fn of_turn(
    connection: &Connection,
    after: Seq,
    id: TurnId,
) -> Result<Vec<Committed<Event>>, Fault> {
    let sql = "SELECT seq, leaf, body FROM entries WHERE seq > ?1 AND turn = ?2 ORDER BY seq";
    let found = bodies(connection, sql, (int(after.0), id.0))?;
    found.iter().map(|(seq, body)| codec::decode(*seq, body)).collect()
}

pub(in crate::journal) fn entry(
    connection: &Connection,
    at: Seq,
) -> Result<Option<Committed<Event>>, Fault> {
    let sql = "SELECT seq, leaf, body FROM entries WHERE seq = ?1";
    let found = bodies(connection, sql, [int(at.0)])?.pop();
    found.map(|(seq, body)| codec::decode(seq, &body)).transpose()
}

/// Folds what the entries after `after` say of the journal itself, one at a time: a bundle is large.
fn charter_after(connection: &Connection, after: Seq, charter: &mut Charter) -> Result<(), Fault> {
    let sql = format!(
        "SELECT seq, leaf, body FROM entries WHERE seq > ?1 AND kind IN ({}) ORDER BY seq",
        codec::CHARTER_KINDS.map(|kind| format!("'{kind}'")).join(", ")
    );
    let mut statement = connection.prepare_cached(&sql).map_err(|why| store(&why))?;
    let mut rows = statement.query([int(after.0)]).map_err(|why| store(&why))?;
    while let Some(row) = rows.next().map_err(|why| store(&why))? {
        let (seq, body) = sound(row)?;
        let row = codec::decode(seq, &body)?;
        charter.apply(seq, row.at(), row.what());
    }
    Ok(())
}

/// The body of an entry whose leaf it is.
fn sound(row: &Row<'_>) -> Result<(Seq, Vec<u8>), Fault> {
    let read = |row: &Row<'_>| Ok((seq(row, 0)?, Hash(row.get(1)?), row.get::<_, Vec<u8>>(2)?));
    let (seq, leaf, body) = read(row).map_err(|why| store(&why))?;
    if merkle::leaf(&body) != leaf {
        return Err(Fault::Damaged { seq, why: "the body is not what its leaf says".into() });
    }
    Ok((seq, body))
}

fn bodies(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<(Seq, Vec<u8>)>, Fault> {
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let mut rows = statement.query(values).map_err(|why| store(&why))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|why| store(&why))? {
        found.push(sound(row)?);
    }
    Ok(found)
}

fn leaves(connection: &Connection, start: u64, count: u64) -> Result<Vec<Hash>, Fault> {
    let sql = "SELECT leaf FROM entries WHERE seq > ?1 AND seq <= ?2 ORDER BY seq";
    let range = [int(start), int(start.saturating_add(count))];
    let mut statement = connection.prepare_cached(sql).map_err(|why| store(&why))?;
    let found = statement
        .query_map(range, |row| Ok(Hash(row.get(0)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| store(&why))?;
    if u64::try_from(found.len()) != Ok(count) {
        let why = "leaves are missing".to_owned();
        return Err(Fault::Damaged { seq: Seq(start.saturating_add(1)), why });
    }
    Ok(found)
}
