//! What only a file can do wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protem_core::parts::Parts;
use protem_core::state::State;
use protem_verify::ids::{Hash, Seq, TurnId};
use rusqlite::Connection;

use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal, Turn};
use crate::journal::reader::{GrantFilter, Reader, Stage};
use crate::journal::sqlite::SqliteJournal;
use crate::journal::sqlite_grants::walk;
use crate::journal::testbed::{ended, granted, id, opened, renewed, requested};
use crate::journal::verify::{rebuild, verify_store};

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("journal.db")
}

fn fault(path: &Path) -> Fault {
    SqliteJournal::open(path).err().unwrap()
}

/// A closed journal of four entries.
fn four(path: &Path) -> Head {
    let (mut journal, _) = SqliteJournal::open(path).unwrap();
    let known = journal.head().unwrap();
    let drafts = || vec![opened(), granted(1), requested(2), ended(1)];
    match journal.turn(&known, TurnId([1; 16]), &mut |_| drafts()).unwrap() {
        Turn::Done { head, .. } => head,
        Turn::Behind => panic!("behind"),
    }
}

fn sql(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_journal_is_there_again_after_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let head = four(&path(&folder));
    let (mut journal, reader) = SqliteJournal::open(&path(&folder)).unwrap();
    assert_eq!(journal.head().unwrap(), head);
    assert_eq!(reader.grant(&id(1)).unwrap().unwrap().id, id(1));
    assert_eq!(verify_store(&path(&folder)).unwrap(), head);
}

#[test]
fn only_its_owner_may_read_it_and_only_one_process_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _reader) = SqliteJournal::open(&path(&folder)).unwrap();
    let known = journal.head().unwrap();
    journal.turn(&known, TurnId([1; 16]), &mut |_| vec![opened()]).unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(matches!(fault(&path(&folder)), Fault::InUse(_)));
    drop(journal);
    assert!(SqliteJournal::open(&path(&folder)).is_ok());
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(path(&folder), "dear diary, this is no database, however long it may get")
        .unwrap();
    assert!(matches!(fault(&path(&folder)), Fault::Foreign(_)));
    let other = folder.path().join("other.db");
    sql(&other, "CREATE TABLE songs (name TEXT)");
    let before = std::fs::read(&other).unwrap();
    assert!(matches!(fault(&other), Fault::Foreign(_)));
    assert_eq!(std::fs::read(&other).unwrap(), before);
}

#[test]
fn a_newer_schema_and_a_changed_migration_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    sql(&path(&folder), "PRAGMA user_version = 99");
    assert_eq!(fault(&path(&folder)), Fault::NewerSchema { found: 99, known: 6 });
    sql(&path(&folder), "PRAGMA user_version = 1; UPDATE migrations SET checksum = 'x'");
    assert!(matches!(fault(&path(&folder)), Fault::Store(_)));
}

#[track_caller]
fn damage(change: &str, expect: u64) {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    sql(&path(&folder), change);
    match verify_store(&path(&folder)) {
        Err(Fault::Damaged { seq, .. }) => assert_eq!(seq, Seq(expect), "{change}"),
        other => panic!("{change}: {other:?}"),
    }
}

#[test]
fn damage_of_any_kind_is_found() {
    damage(
        "UPDATE entries SET body = CAST(substr(body, 1, length(body) - 1) || x'00' AS BLOB) WHERE seq = 2",
        2,
    );
    damage("UPDATE entries SET leaf = zeroblob(32) WHERE seq = 3", 3);
    damage("DELETE FROM entries WHERE seq = 3", 3);
    damage("DELETE FROM entries WHERE seq = 4", 4);
    damage("UPDATE entries SET seq = 5 WHERE seq = 4", 4);
    damage("UPDATE head SET root = zeroblob(32)", 4);
    damage("UPDATE head SET seq = 3", 3);
    damage("UPDATE grants SET ended = 0", 4);
    damage("DELETE FROM identities", 4);
    damage("DELETE FROM grants WHERE activated = 0", 4);
}

#[test]
fn damage_is_found_on_reading_too() {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    let flip = "UPDATE entries SET body = CAST(substr(body, 1, length(body) - 1) || x'00' AS BLOB) WHERE seq = 2";
    sql(&path(&folder), flip);
    let (journal, reader) = SqliteJournal::open(&path(&folder)).unwrap();
    assert!(matches!(reader.read(Seq(0), 9), Err(Fault::Damaged { seq: Seq(2), .. })));
    assert!(matches!(reader.grant(&id(1)), Err(Fault::Damaged { seq: Seq(2), .. })));
    assert!(matches!(journal.read(Seq(1), 9), Err(Fault::Damaged { .. })));
}

#[test]
fn rebuilt_projections_are_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let head = four(&path(&folder));
    sql(&path(&folder), "DELETE FROM grants; DELETE FROM identities");
    assert!(verify_store(&path(&folder)).is_err());
    rebuild(&path(&folder)).unwrap();
    assert_eq!(verify_store(&path(&folder)).unwrap(), head);
}

/// What is derived is left out of a snapshot, so it is made again before a comparison.
fn snapshot(reader: &dyn Reader) -> Option<(Head, Parts)> {
    let (head, parts) = reader.snapshot().unwrap()?;
    Some((head, State::from_parts(parts).parts()))
}

#[test]
fn snapshots_come_back_and_bad_ones_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    let (mut journal, reader) = SqliteJournal::open(&path(&folder)).unwrap();
    assert!(reader.snapshot().unwrap().is_none());
    let mut state = State::new();
    let mut kept = Vec::new();
    for number in 0..3 {
        let known = journal.head().unwrap();
        journal
            .turn(&known, TurnId([2; 16]), &mut |_| {
                vec![granted(10 + number), renewed(10 + number)]
            })
            .unwrap();
        for row in reader.read(state.seq(), 100).unwrap() {
            state.apply(row.at(), row.what());
        }
        let head = reader.head().unwrap();
        reader.keep_snapshot(&head, &state.parts()).unwrap();
        kept.push((head, state.parts()));
        assert_eq!(snapshot(&*reader), kept.last().cloned());
    }
    let file = |seq: u64| folder.path().join(format!("journal.db.snapshot-{seq:020}"));
    assert!(!file(6).exists() && file(8).exists() && file(10).exists());
    let mut bytes = std::fs::read(file(10)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file(10), bytes).unwrap();
    assert_eq!(snapshot(&*reader), Some(kept[1].clone()));
    std::fs::write(file(8), "short").unwrap();
    assert!(reader.snapshot().unwrap().is_none());
}

/// A backup of the file is put back without the snapshots of what came after it.
#[test]
fn a_snapshot_of_a_life_that_was_given_up_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    let backup = std::fs::read(path(&folder)).unwrap();
    let mut state = State::new();
    let on = |number: u64| {
        let (mut journal, reader) = SqliteJournal::open(&path(&folder)).unwrap();
        for number in number..number + 2 {
            let known = journal.head().unwrap();
            journal.turn(&known, TurnId([2; 16]), &mut |_| vec![granted(number)]).unwrap();
        }
        reader
    };
    let reader = on(10);
    for row in reader.read(Seq(0), 100).unwrap() {
        state.apply(row.at(), row.what());
    }
    reader.keep_snapshot(&reader.head().unwrap(), &state.parts()).unwrap();
    assert!(snapshot(&*reader).is_some());
    assert!(
        reader
            .keep_snapshot(&Head { root: Hash([1; 32]), ..reader.head().unwrap() }, &state.parts())
            .is_err()
    );
    drop(reader);
    std::fs::write(path(&folder), backup).unwrap();
    let reader = on(20);
    assert_eq!(reader.head().unwrap().seq, Seq(6));
    assert!(snapshot(&*reader).is_none());
    let mut state = State::new();
    for row in reader.read(Seq(0), 100).unwrap() {
        state.apply(row.at(), row.what());
    }
    reader.keep_snapshot(&reader.head().unwrap(), &state.parts()).unwrap();
    assert_eq!(snapshot(&*reader), Some((reader.head().unwrap(), state.parts())));
}

#[test]
fn live_grants_are_found_without_reading_ended_ones() {
    let folder = tempfile::tempdir().unwrap();
    four(&path(&folder));
    let filter = GrantFilter { states: vec![Stage::Active], ..GrantFilter::default() };
    let plan = format!("EXPLAIN QUERY PLAN {}", walk(&filter).0);
    let connection = Connection::open(path(&folder)).unwrap();
    let plan: String = connection.query_row(&plan, [], |row| row.get(3)).unwrap();
    assert!(plan.contains("grants_live"), "{plan}");
}
