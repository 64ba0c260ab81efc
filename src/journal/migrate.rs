//! The store's schema: numbered files, each applied once, none ever changed.

use data_encoding::HEXLOWER;
use rusqlite::{Connection, TransactionBehavior};
use sha2::{Digest, Sha256};

use crate::journal::fault::Fault;
use crate::journal::rows::rows;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::entry;
use crate::journal::sqlite_rows::{change, seq};

/// Written into the file's header, so that no other program's database is taken for a journal: "ptem".
pub const APPLICATION_ID: i32 = 0x7074_656d;

/// Every migration, in order; its number is its place, from 1. A file that was released is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
    include_str!("schema/0006.sql"),
];

/// Makes a new file a journal, or brings an older journal to this version's schema, in one transaction.
///
/// # Errors
/// When the file is another program's, a newer protem's, or was made by migrations that are not ours.
pub(in crate::journal) fn migrate(connection: &mut Connection, name: &str) -> Result<(), Fault> {
    // A file that is no database is told apart from a broken one before anything is written to it.
    let version = check(connection, name, MIGRATIONS)?;
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    apply(connection, version, MIGRATIONS, &fill)
}

/// The version of a journal's schema, which may be older than ours.
pub(in crate::journal) fn known(connection: &Connection, name: &str) -> Result<usize, Fault> {
    match check(connection, name, MIGRATIONS)? {
        0 => Err(Fault::Foreign(name.to_owned())),
        version => Ok(version),
    }
}

/// From this version on a cut-off's row says what it covers.
pub(in crate::journal) const COVERS_SINCE: usize = 5;

fn check(connection: &Connection, name: &str, all: &[&str]) -> Result<usize, Fault> {
    let foreign = || Fault::Foreign(name.to_owned());
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|why| match why.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => foreign(),
            _ => store(&why),
        })?;
    let pragma = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let id = pragma("PRAGMA application_id").map_err(|why| store(&why))?;
    let version = pragma("PRAGMA user_version").map_err(|why| store(&why))?;
    if tables == 0 && id == 0 && version == 0 {
        return Ok(0);
    }
    if id != i64::from(APPLICATION_ID) {
        return Err(foreign());
    }
    let version = usize::try_from(version).map_err(|_| foreign())?;
    if version > all.len() {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        return Err(Fault::NewerSchema { found: number(version), known: number(all.len()) });
    }
    let mut statement = connection
        .prepare("SELECT number, checksum FROM migrations ORDER BY number")
        .map_err(|why| store(&why))?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| store(&why))?;
    let ours = all.iter().take(version).enumerate();
    let ours: Vec<_> = ours
        .map(|(at, sql)| (i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1), checksum(sql)))
        .collect();
    if rows != ours {
        let why = format!("`{name}` was made by migrations that this protem does not have");
        return Err(Fault::Store(why));
    }
    Ok(version)
}

fn apply(
    connection: &mut Connection,
    from: usize,
    all: &[&str],
    fill: &dyn Fn(&Connection) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let work = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|why| store(&why))?;
    let made = |work: &Connection| -> rusqlite::Result<()> {
        if from == 0 {
            work.execute_batch(
                "CREATE TABLE migrations (number INTEGER PRIMARY KEY, checksum TEXT NOT NULL) STRICT",
            )?;
            work.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        for (at, sql) in all.iter().enumerate().skip(from) {
            work.execute_batch(sql)?;
            let number = i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1);
            work.execute(
                "INSERT INTO migrations (number, checksum) VALUES (?1, ?2)",
                (number, checksum(sql)),
            )?;
            work.pragma_update(None, "user_version", number)?;
        }
        Ok(())
    };
    made(&work).map_err(|why| store(&why))?;
    fill(&work)?;
    work.commit().map_err(|why| store(&why))
}

/// What a new column of a projection must hold in rows that were there before it: their entries say it.
fn fill(work: &Connection) -> Result<(), Fault> {
    let sql = "SELECT seq FROM cut_offs WHERE covers = ''";
    let mut statement = work.prepare(sql).map_err(|why| store(&why))?;
    let bare = statement
        .query_map([], |row| seq(row, 0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| store(&why))?;
    for at in bare {
        let missing = || Fault::Damaged { seq: at, why: "the entry is missing".into() };
        let entry = entry(work, at)?.ok_or_else(missing)?;
        let rows = rows(entry.what(), entry.seq(), entry.at());
        change(work, rows.into_iter()).map_err(|why| store(&why))?;
    }
    Ok(())
}

fn checksum(sql: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(sql.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_apply_once_and_stay_as_they_are() {
        let two = ["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER) STRICT"];
        let mut connection = Connection::open_in_memory().unwrap();
        let version = check(&connection, "j", &two[..1]).unwrap();
        apply(&mut connection, version, &two[..1], &|_| Ok(())).unwrap();
        assert_eq!(check(&connection, "j", &two).unwrap(), 1);
        apply(&mut connection, 1, &two, &|_| Ok(())).unwrap();
        assert_eq!(check(&connection, "j", &two).unwrap(), 2);
        let changed = [two[0], "CREATE TABLE b (x TEXT) STRICT"];
        assert!(matches!(check(&connection, "j", &changed), Err(Fault::Store(_))));
        let newer = check(&connection, "j", &two[..1]);
        assert_eq!(newer, Err(Fault::NewerSchema { found: 2, known: 1 }));
    }
}
