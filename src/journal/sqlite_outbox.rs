//! SQLite: what stands beside the log, written over a connection of its own between two turns.

use std::sync::PoisonError;

use protem_verify::ids::Seq;
use protem_verify::time::Time;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};

use crate::journal::fault::Fault;
use crate::journal::outbox::{Aside, Key, Later, Note, Outbox, Parked, Place, Waits};
use crate::journal::sqlite::connect;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::SqliteReader;
use crate::journal::sqlite_rows::{int, seq, uint};

impl SqliteReader {
    /// One short transaction. It is not synced: the next turn's commit syncs it too, and what a power failure takes is told
    /// again. So a turn never waits for more than some rows in memory.
    pub(in crate::journal) fn beside<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Fault> {
        let mut held = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => opened(&self.path)?,
        };
        let done = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(
            |transaction| {
                let found = work(&transaction)?;
                transaction.commit().map(|()| found)
            },
        );
        let done = done.map_err(|why| store(&why))?;
        *held = Some(connection);
        Ok(done)
    }
}

fn opened(path: &std::path::Path) -> Result<Connection, Fault> {
    let connection = connect(path)?;
    let set = connection
        .pragma_update(None, "synchronous", "NORMAL")
        // Checkpoints happen beside the turns: `sqlite_wal.rs`.
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 0));
    set.map_err(|why| store(&why))?;
    Ok(connection)
}

impl Outbox for SqliteReader {
    fn told(&self, webhook: &str) -> Result<Option<Seq>, Fault> {
        self.with(|moment| {
            let sql = "SELECT told FROM webhooks WHERE name = ?1";
            let found = moment.prepare_cached(sql).and_then(|mut statement| {
                statement.query_row([webhook], |row| seq(row, 0)).optional()
            });
            found.map_err(|why| store(&why))
        })
    }

    fn note(&self, webhook: &str, note: &Note) -> Result<(), Fault> {
        self.beside(|work| {
            if let Some(told) = note.told {
                let sql = "INSERT INTO webhooks (name, told) VALUES (?1, ?2) \
                           ON CONFLICT (name) DO UPDATE SET told = max(told, excluded.told)";
                work.prepare_cached(sql)?.execute((webhook, int(told.0)))?;
            }
            if let Some(key) = &note.done {
                let sql = "DELETE FROM webhook_later WHERE webhook = ?1 AND seq = ?2 AND kind = ?3";
                work.prepare_cached(sql)?.execute((webhook, int(key.seq.0), &key.kind))?;
            }
            for later in &note.keep {
                keep(work, webhook, later)?;
            }
            Ok(())
        })
    }

    fn later(&self, webhook: &str, place: Place, limit: u32) -> Result<Vec<Later>, Fault> {
        let (which, now) = which(place);
        let sql = format!(
            "SELECT seq, kind, due, parked, tries, why FROM webhook_later \
             WHERE webhook = ?1 AND {which} ORDER BY due, seq, kind LIMIT ?3"
        );
        self.with(|moment| {
            let values = (webhook, int(now.as_millis()), i64::from(limit));
            let mut statement = moment.prepare_cached(&sql).map_err(|why| store(&why))?;
            statement
                .query_map(values, read)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|why| store(&why))
        })
    }

    fn count(&self, webhook: &str, place: Place) -> Result<u64, Fault> {
        let (which, now) = which(place);
        let sql = format!("SELECT count(*) FROM webhook_later WHERE webhook = ?1 AND {which}");
        self.with(|moment| {
            let values = (webhook, int(now.as_millis()));
            let found = moment
                .prepare_cached(&sql)
                .and_then(|mut statement| statement.query_row(values, |row| row.get(0)));
            found.map(uint).map_err(|why| store(&why))
        })
    }

    fn let_go(&self, webhook: &str) -> Result<u64, Fault> {
        self.beside(|work| {
            let sql = "UPDATE webhook_later SET parked = 0, due = 0, tries = 0, why = '' \
                       WHERE webhook = ?1 AND parked > 0";
            let count = work.prepare_cached(sql)?.execute([webhook])?;
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        })
    }
}

/// Only what was tried, or follows what was, has a `why`: one that is parked, or set aside.
fn which(place: Place) -> (&'static str, Time) {
    match place {
        Place::Due(now) => ("parked = 0 AND due <= ?2", now),
        Place::Aside => ("parked = 0 AND why <> '' AND due <= ?2", Time::MAX),
        Place::Parked => ("parked > 0 AND due <= ?2", Time::MAX),
    }
}

fn keep(work: &Transaction<'_>, webhook: &str, later: &Later) -> rusqlite::Result<()> {
    let sql = "INSERT INTO webhook_later (webhook, seq, kind, due, parked, tries, why) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (webhook, seq, kind) DO UPDATE SET \
               due = excluded.due, parked = excluded.parked, tries = excluded.tries, why = excluded.why";
    let (at, tries, why) = match &later.waits {
        Waits::Due => (0, 0, ""),
        Waits::Aside(Aside { tries, why }) => (0, *tries, why.as_str()),
        // 0 is for what is not parked.
        Waits::Parked(Parked { at, tries, why }) => {
            (int(at.as_millis()).max(1), *tries, why.as_str())
        }
    };
    let (seq, due) = (int(later.key.seq.0), int(later.due.as_millis()));
    work.prepare_cached(sql)?.execute((webhook, seq, &later.key.kind, due, at, tries, why))?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Later> {
    let time = |at: usize| row.get(at).map(|millis| Time::from_millis(uint(millis)));
    let (at, tries, why): (Time, u32, String) = (time(3)?, row.get(4)?, row.get(5)?);
    let waits = match at {
        Time::ZERO if why.is_empty() => Waits::Due,
        Time::ZERO => Waits::Aside(Aside { tries, why }),
        at => Waits::Parked(Parked { at, tries, why }),
    };
    Ok(Later { key: Key { seq: seq(row, 0)?, kind: row.get(1)? }, due: time(2)?, waits })
}
