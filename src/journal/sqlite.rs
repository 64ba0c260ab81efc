//! The embedded journal: one SQLite file, one writer, a turn in one transaction and one fsync.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protem_core::event::{Draft, Event};
use protem_verify::ids::{Seq, TurnId};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::migrate::migrate;
use crate::journal::port::{FOREIGN_MAX, Head, Journal, Turn};
use crate::journal::reader::Reader;
use crate::journal::rows::rows;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::{self, SqliteReader};
use crate::journal::sqlite_rows::{change, int, keep_tip, tip};
use crate::journal::sqlite_wal::Checkpointer;
use crate::journal::tip::Row;

/// How long the writer waits for a lock that a checkpoint or a backup holds, before the turn fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// The writer's page cache in KiB: the right-hand edges of all trees and their inner pages stay in memory.
const CACHE_KIB: i64 = 65_536;
/// What the write-ahead log is cut back to, in bytes, when it starts again.
const WAL_KEPT: i64 = 64 * 1024 * 1024;

/// A journal in one file. Its process has it alone until it is dropped.
pub struct SqliteJournal {
    path: PathBuf,
    name: String,
    writer: Option<Connection>,
    reader: Arc<SqliteReader>,
    wal: Checkpointer,
    searched: Seq,
    _lock: File,
}

impl SqliteJournal {
    /// Opens the file, or makes it with mode 0600, and takes it for this process alone.
    ///
    /// # Errors
    /// `InUse`, `Foreign`, `NewerSchema`, or `Store` when the file cannot be opened or was migrated otherwise.
    pub fn open(path: &Path) -> Result<(Self, Arc<dyn Reader>), Fault> {
        let name = path.display().to_string();
        let lock = take(path, &name)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        drop(file.map_err(|why| Fault::Store(format!("`{name}`: {why}")))?);
        let mut writer = connect(path)?;
        migrate(&mut writer, &name)?;
        settings(&writer).map_err(|why| store(&why))?;
        tip(&writer)?;
        let reader = Arc::new(SqliteReader::new(path));
        let wal = Checkpointer::start(path)?;
        let shared: Arc<dyn Reader> = Arc::<SqliteReader>::clone(&reader);
        let path = path.to_owned();
        let searched = Seq(0);
        Ok((Self { path, name, writer: Some(writer), reader, wal, searched, _lock: lock }, shared))
    }

    /// The writing connection; opened again after a failed commit, whose connection may believe anything.
    fn writer(&mut self) -> Result<&mut Connection, Fault> {
        if self.writer.is_none() {
            let mut writer = connect(&self.path)?;
            migrate(&mut writer, &self.name)?;
            settings(&writer).map_err(|why| store(&why))?;
            self.writer = Some(writer);
        }
        self.writer.as_mut().ok_or(Fault::Stopping)
    }

    /// Ends a transaction. A failed end leaves nobody who knows, and a connection that nobody may use again.
    fn committed(&mut self, end: rusqlite::Result<()>) -> Result<(), Fault> {
        end.map_err(|why| {
            self.writer = None;
            Fault::Unknown(why.to_string())
        })
    }
}

impl Journal for SqliteJournal {
    fn turn(
        &mut self,
        known: &Head,
        id: TurnId,
        decide: &mut dyn FnMut(&[Committed<Event>]) -> Vec<Draft>,
    ) -> Result<Turn, Fault> {
        self.searched = known.seq;
        let writer = self.writer()?;
        let work = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|why| store(&why))?;
        let mut tip = tip(&work)?;
        tip.grew_from(known)?;
        let foreign = tip.head.seq.0.saturating_sub(known.seq.0);
        if foreign > u64::try_from(FOREIGN_MAX).unwrap_or(u64::MAX) {
            return Ok(Turn::Behind);
        }
        let others = match foreign {
            0 => Vec::new(),
            _ => sqlite_reader::entries(&work, known.seq, u32::MAX)?,
        };
        let drafts = decide(&others);
        if drafts.is_empty() {
            return Ok(Turn::Done { head: tip.head, rows: Vec::new() });
        }
        let rows = tip.append(drafts);
        let written =
            write(&work, id, &rows).and_then(|bytes| keep_tip(&work, &tip).map(|()| bytes));
        let bytes = written.map_err(|why| store(&why))?;
        let end = work.commit();
        self.committed(end)?;
        if let Some(writer) = &self.writer {
            self.wal.wrote(bytes, writer);
        }
        let rows = rows.into_iter().map(|row| row.entry).collect();
        Ok(Turn::Done { head: tip.head, rows })
    }

    fn find(&mut self, id: TurnId) -> Result<Option<Turn>, Fault> {
        self.writer = None;
        let searched = self.searched;
        let writer = self.writer()?;
        let work = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|why| store(&why))?;
        let head = tip(&work)?.head;
        let rows = sqlite_reader::of_turn(&work, searched, id)?;
        // A commit of our own comes after whatever the failed one left in the log, so a crash cannot bring that back.
        work.execute("UPDATE head SET beat = beat + 1 WHERE one = 1", [])
            .map_err(|why| store(&why))?;
        let end = work.commit();
        self.committed(end)?;
        Ok((!rows.is_empty()).then_some(Turn::Done { head, rows }))
    }

    fn head(&mut self) -> Result<Head, Fault> {
        Ok(tip(self.writer()?)?.head)
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        self.reader.read(after, limit)
    }

    fn beat(&mut self) -> Result<(), Fault> {
        let beat = self.writer()?.execute("UPDATE head SET beat = beat + 1 WHERE one = 1", []);
        if let Err(why) = beat {
            self.writer = None;
            return Err(store(&why));
        }
        Ok(())
    }
}

/// Inserts the rows and what they project. Returns about how many bytes that were.
fn write(connection: &Connection, id: TurnId, rows: &[Row]) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO entries (seq, at, actor, kind, turn, leaf, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let mut insert = connection.prepare_cached(sql)?;
    let mut bytes = 0_usize;
    for Row { entry, leaf, body } in rows {
        let kind = crate::journal::codec::kind(entry.what());
        let at = int(entry.at().as_millis());
        let actor = &*entry.actor().0;
        insert.execute((int(entry.seq().0), at, actor, kind, id.0, leaf.0, body))?;
        bytes = bytes.saturating_add(body.len());
    }
    change(
        connection,
        rows.iter().flat_map(|Row { entry, .. }| self::rows(entry.what(), entry.seq(), entry.at())),
    )?;
    Ok(bytes)
}

/// The lock stands beside the file: closing any handle of the file itself would drop SQLite's own locks (POSIX).
pub(in crate::journal) fn take(path: &Path, name: &str) -> Result<File, Fault> {
    let failed = |why: &std::io::Error| Fault::Store(format!("`{name}`: {why}"));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let options = OpenOptions::new().create(true).append(true).mode(0o600).open(beside);
    let lock = options.map_err(|why| failed(&why))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Fault::InUse(name.to_owned())),
        Err(TryLockError::Error(why)) => Err(failed(&why)),
    }
}

pub(in crate::journal) fn connect(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|why| store(&why))?;
    connection.busy_timeout(PATIENCE).map_err(|why| store(&why))?;
    Ok(connection)
}

fn settings(writer: &Connection) -> rusqlite::Result<()> {
    writer.pragma_update(None, "journal_mode", "WAL")?;
    writer.pragma_update(None, "synchronous", "FULL")?;
    // Checkpoints happen beside the turns: `sqlite_wal.rs`.
    writer.pragma_update(None, "wal_autocheckpoint", 0)?;
    writer.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    writer.pragma_update(None, "cache_size", CACHE_KIB.saturating_neg())?;
    writer.set_prepared_statement_cache_capacity(64);
    Ok(())
}
