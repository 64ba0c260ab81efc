//! What the machine itself reaches: the disk's fsync, and SQLite's group commit.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protem_verify::codes::tool;
use rusqlite::Connection;

use crate::cli::bench::{Figures, now_us};
use crate::cli::exit::{Exit, Failure};

/// How long a probe runs: long enough for a median, short enough to be in the same minute.
const PROBE_US: u64 = 2_000_000;
/// Issues in one transaction of the group-commit probe: as many as callers wait.
const GROUP: u64 = 256;

/// One thread that appends and syncs, and SQLite with 256 issues of two rows in a transaction.
///
/// # Errors
/// When the folder cannot be written.
pub async fn durable(folder: &Path) -> Result<Vec<Figures>, Failure> {
    let folder = folder.to_owned();
    let probes = tokio::task::spawn_blocking(move || {
        Ok(vec![fsync(&folder.join("probe.fsync"))?, group_commit(&folder)?])
    });
    probes.await.map_err(|why| Failure::of(Exit::Failed, tool::STEP, why.to_string()))?
}

fn fsync(path: &Path) -> Result<Figures, Failure> {
    let bad = |why: std::io::Error| Failure::file(path, &why);
    let mut file = std::fs::File::create(path).map_err(bad)?;
    let (began, mut micros) = (now_us(), Vec::new());
    while now_us().saturating_sub(began) < PROBE_US {
        let from = now_us();
        file.write_all(&[7; 512]).map_err(bad)?;
        file.sync_data().map_err(bad)?;
        micros.push(now_us().saturating_sub(from));
    }
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let _ = std::fs::remove_file(path);
    Ok(Figures::of("fsync probe, one thread", micros, 0, over))
}

fn group_commit(folder: &Path) -> Result<Figures, Failure> {
    let path = folder.join("probe.db");
    let figures = commits(&path).map_err(|why| {
        Failure::of(Exit::Failed, tool::LOCAL_FILE, format!("`{}`: {why}", path.display()))
    });
    let files: [PathBuf; 3] =
        ["probe.db", "probe.db-wal", "probe.db-shm"].map(|name| folder.join(name));
    files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    figures
}

fn commits(path: &Path) -> rusqlite::Result<Figures> {
    let mut store = Connection::open(path)?;
    store.pragma_update(None, "journal_mode", "WAL")?;
    store.pragma_update(None, "synchronous", "FULL")?;
    store.execute_batch(
        "CREATE TABLE grants (id BLOB PRIMARY KEY, identity TEXT NOT NULL, state INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE events (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL);",
    )?;
    let (began, mut latencies, mut count) = (now_us(), Vec::new(), 0_u64);
    while now_us().saturating_sub(began) < PROBE_US {
        let from = now_us();
        let turn = store.transaction()?;
        {
            let mut grant = turn
                .prepare_cached("INSERT INTO grants (id, identity, state) VALUES (?1, ?2, ?3)")?;
            let mut event =
                turn.prepare_cached("INSERT INTO events (seq, at, body) VALUES (?1, ?2, ?3)")?;
            for _ in 0..GROUP {
                count += 1;
                let id = protem_clock::random::bytes::<16>();
                let at = i64::try_from(count).unwrap_or(i64::MAX);
                grant.execute((id.as_slice(), "bench/caller", 1))?;
                event.execute((at, at, [7_u8; 400].as_slice()))?;
            }
        }
        turn.commit()?;
        latencies.push(now_us().saturating_sub(from));
    }
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let mut figures = Figures::of("SQLite group commit, 256 a turn", latencies, 0, over);
    // One latency is a turn's; a rate counts the issues in it.
    let issues = u32::try_from(count).unwrap_or(u32::MAX);
    figures.operations = count;
    figures.per_second = f64::from(issues) / over.as_secs_f64().max(1e-9);
    Ok(figures)
}
