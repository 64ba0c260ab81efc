//! Proving a whole store without a broker: every body, leaf and place, the root, and the projections.

use std::path::Path;

use protem_verify::ids::{GrantId, Seq};
use protem_verify::merkle::{self, Frontier};
use protem_verify::names::{IdentityName, PersonName};
use protem_verify::time::Time;
use rusqlite::{Connection, Row, TransactionBehavior};

use crate::journal::fault::Fault;
use crate::journal::migrate;
use crate::journal::port::Head;
use crate::journal::projection::Projection;
use crate::journal::reach::Reach;
use crate::journal::rows::{GrantRow, rows};
use crate::journal::sqlite::{connect, take};
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::{entries, open};
use crate::journal::sqlite_rows::{GRANT_COLUMNS, change, grant_row, seq, tip, uint};

/// Entries held in memory at once.
const STEP: u32 = 1_000;

/// Reads a whole store and proves it: returns its head.
///
/// # Errors
/// `Damaged` with the first entry that is not what it must be; `Foreign` or `Store` when it cannot be read.
pub fn verify_store(path: &Path) -> Result<Head, Fault> {
    let name = path.display().to_string();
    let mut connection = open(path)?;
    let moment = connection.transaction().map_err(|why| store(&why))?;
    let version = migrate::known(&moment, &name)?;
    let head = tip(&moment)?.head;
    let (mut tree, mut rebuilt) = (Frontier::default(), Projection::default());
    while tree.size() < head.seq.0 {
        let after = Seq(tree.size());
        let read = entries(&moment, after, STEP)?;
        if read.is_empty() {
            return Err(Fault::Damaged { seq: after.next(), why: "the entry is missing".into() });
        }
        for entry in &read {
            rebuilt.fold(entry);
        }
        for body in leaves(&moment, after)? {
            tree.push(merkle::leaf(&body));
        }
    }
    let damaged = |why: &str| Fault::Damaged { seq: head.seq, why: why.to_owned() };
    if tree.size() != head.seq.0 {
        return Err(damaged("there are entries after the head"));
    }
    if tree.root() != head.root {
        return Err(damaged("the entries are not those that the root is of"));
    }
    let bare = version < migrate::COVERS_SINCE;
    if bare {
        rebuilt.cut_offs.values_mut().for_each(|reach| reach.0.clear());
    }
    if projected(&moment, bare)? != rebuilt {
        return Err(damaged("the projections are not what the entries say; rebuild them"));
    }
    Ok(head)
}

/// Makes the projections again from the entries, in one transaction. The journal must not be in use.
///
/// # Errors
/// When the store cannot be read or written, or an entry is damaged.
pub fn rebuild(path: &Path) -> Result<(), Fault> {
    let name = path.display().to_string();
    let _lock = take(path, &name)?;
    let mut connection = connect(path)?;
    migrate::known(&connection, &name)?;
    migrate::migrate(&mut connection, &name)?;
    let work = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|why| store(&why))?;
    let clear = "DELETE FROM grants; DELETE FROM concerns; DELETE FROM approvals; \
                 DELETE FROM cut_offs; DELETE FROM identities";
    work.execute_batch(clear).map_err(|why| store(&why))?;
    let mut after = Seq(0);
    loop {
        let read = entries(&work, after, STEP)?;
        let Some(last) = read.last() else { break };
        after = last.seq();
        let changes = read.iter().flat_map(|entry| rows(entry.what(), entry.seq(), entry.at()));
        change(&work, changes).map_err(|why| store(&why))?;
    }
    work.commit().map_err(|why| store(&why))
}

fn leaves(connection: &Connection, after: Seq) -> Result<Vec<Vec<u8>>, Fault> {
    let sql = "SELECT body FROM entries WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let after = crate::journal::sqlite_rows::int(after.0);
    all(connection, sql, (after, STEP), |row| row.get(0))
}

/// What a store's tables hold; in `bare` ones no row says what its cut-off covers.
fn projected(connection: &Connection, bare: bool) -> Result<Projection, Fault> {
    let grants: Vec<GrantRow> =
        all(connection, &format!("SELECT {GRANT_COLUMNS} FROM grants"), (), grant_row)?;
    let concerns = all(connection, "SELECT grant_id, seq FROM concerns", (), |row| {
        Ok((GrantId(row.get(0)?), seq(row, 1)?))
    })?;
    let approvals: Vec<(GrantId, String, Seq)> =
        all(connection, "SELECT grant_id, person, seq FROM approvals", (), |row| {
            Ok((GrantId(row.get(0)?), row.get(1)?, seq(row, 2)?))
        })?;
    let covers = if bare { "''" } else { "covers" };
    let cut_offs = format!("SELECT seq, {covers} FROM cut_offs");
    let cut_offs = all(connection, &cut_offs, (), |row| Ok((seq(row, 0)?, Reach(row.get(1)?))))?;
    let identities: Vec<(String, Time)> =
        all(connection, "SELECT name, last_granted FROM identities", (), |row| {
            Ok((row.get(0)?, Time::from_millis(uint(row.get(1)?))))
        })?;
    let mut found = Projection {
        grants: grants.into_iter().map(|row| (row.id, row)).collect(),
        concerns: concerns.into_iter().collect(),
        cut_offs: cut_offs.into_iter().collect(),
        ..Projection::default()
    };
    let bad = |_| Fault::Store("a projection holds what is no name".into());
    for (grant, person, seq) in approvals {
        let person = PersonName::try_from(person.as_str()).map_err(bad)?;
        found.approvals.insert((grant, person), seq);
    }
    for (name, at) in identities {
        found.identities.insert(IdentityName::try_from(name.as_str()).map_err(bad)?, at);
    }
    Ok(found)
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare(sql).map_err(|why| store(&why))?;
    let rows = statement.query_map(values, read).map_err(|why| store(&why))?;
    rows.collect::<Result<_, _>>().map_err(|why| store(&why))
}
