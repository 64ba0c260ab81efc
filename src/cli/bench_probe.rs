//! What the machine itself reaches: the disk's fsync, and SQLite's group commit.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use protem_verify::codes::tool;
use rusqlite::Connection;

use crate::cli::bench::{Figures, now_us};
use crate::cli::exit::{Exit, Failure};

/// How long a probe runs: long enough for a median, short enough to be in the same minute.
const PROBE_US: u64 = 2_000_000;
/// Bytes of an entry in the group-commit probe: about what a grant's takes.
const BODY: usize = 1_200;
/// Callers of the group-commit probe, each blocked until its own rows are durable: as many as ask the broker.
const GROUP: usize = 256;

/// One thread that appends and syncs, and 256 blocked callers whose two rows one writer commits in groups.
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
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL,
           turn BLOB NOT NULL, leaf BLOB NOT NULL, body BLOB NOT NULL) STRICT;
         CREATE TABLE grants (id BLOB PRIMARY KEY, identity TEXT NOT NULL, task TEXT NOT NULL, resource TEXT NOT NULL,
           scopes TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, ended INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE INDEX by_identity ON grants (identity, id);
         CREATE INDEX live ON grants (id) WHERE ended = 0;",
    )?;
    let began = now_us();
    let (orders, waiting) = sync_channel::<SyncSender<()>>(GROUP);
    let latencies = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..GROUP)
            .map(|_| {
                let orders = orders.clone();
                scope.spawn(move || call(&orders, began))
            })
            .collect();
        drop(orders);
        let written = write(&mut store, &waiting);
        drop(waiting); // whoever still asks hears that nobody writes
        let latencies = callers.into_iter().filter_map(|caller| caller.join().ok()).flatten();
        written.map(|()| latencies.collect::<Vec<_>>())
    })?;
    let over = Duration::from_micros(now_us().saturating_sub(began));
    Ok(Figures::of("SQLite group commit, 256 callers", latencies, 0, over))
}

/// A caller asks, waits until its rows are durable, and asks again.
fn call(orders: &SyncSender<SyncSender<()>>, began: u64) -> Vec<u64> {
    let mut latencies = Vec::new();
    while now_us().saturating_sub(began) < PROBE_US {
        let from = now_us();
        let (reply, done) = sync_channel(1);
        if orders.send(reply).is_err() || done.recv().is_err() {
            break;
        }
        latencies.push(now_us().saturating_sub(from));
    }
    latencies
}

/// One transaction for all that wait, until nobody asks any more.
fn write(store: &mut Connection, waiting: &Receiver<SyncSender<()>>) -> rusqlite::Result<()> {
    let mut count = 0_i64;
    while let Ok(first) = waiting.recv() {
        let group: Vec<_> = std::iter::once(first).chain(waiting.try_iter().take(GROUP)).collect();
        let turn = store.transaction()?;
        {
            let mut grant = turn.prepare_cached(
                "INSERT INTO grants (id, identity, task, resource, scopes, seq, at, ended) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
            )?;
            let mut event = turn.prepare_cached(
                "INSERT INTO events (seq, at, actor, kind, turn, leaf, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            let id_of_turn = protem_clock::random::bytes::<16>();
            for _ in &group {
                count = count.saturating_add(1);
                let id = protem_clock::random::bytes::<16>();
                let identity = format!("bench/caller-{}", count.rem_euclid(256));
                let task = format!("task-{count}");
                let grant_row = (&id, &identity, &task, "orders-api", "orders:read", count, count);
                grant.execute(grant_row)?;
                let body = [7_u8; BODY];
                let kind = "grant.activated";
                event.execute((count, count, &identity, kind, &id_of_turn, [7_u8; 32], body))?;
            }
        }
        turn.commit()?;
        for reply in group {
            let _ = reply.send(()); // its caller may have had enough
        }
    }
    Ok(())
}
