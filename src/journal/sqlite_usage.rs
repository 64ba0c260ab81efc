//! SQLite: what gateways say was done, in tables of their own, written between two turns.

use std::collections::{BTreeMap, BTreeSet};

use protem_verify::ids::GrantId;
use protem_verify::names::{IdentityName, Malformed, ResourceName, ScopeName};
use protem_verify::time::Time;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Params, Row, Transaction};

use crate::journal::fault::Fault;
use crate::journal::sqlite_error::store;
use crate::journal::sqlite_reader::SqliteReader;
use crate::journal::sqlite_rows::{int, uint};
use crate::journal::usage::{
    Counted, GRANT_KEPT, GRANTS_LOOKED_AT, HOURS_KEPT, Hour, How, IDENTITY_KEPT, IdentityUse, Line,
    OF_GRANT_MAX, REPORTERS_MAX, ROWS_MAX, Report, Reporter, Usage, Use, hour,
};

/// Whose grant it is, and on what.
type Owned = BTreeMap<GrantId, (IdentityName, ResourceName)>;

impl Usage for SqliteReader {
    fn count_usage(&self, report: &Report) -> Result<Counted, Fault> {
        // Looked up before the store's one lock for writing is taken: a turn waits for the writing alone.
        let owned = self.with(|moment| owned(moment, &report.lines).map_err(|why| store(&why)))?;
        self.beside(|work| count(work, report, &owned))
    }

    fn usage_of_grant(&self, grant: &GrantId) -> Result<Vec<Use>, Fault> {
        let sql = "SELECT operation, scope, refusal, count, first, last FROM usage \
                   WHERE grant_id = ?1";
        self.rows(sql, [grant.0], |row| {
            Ok(Use {
                operation: row.get(0)?,
                how: How::read(row.get(1)?, row.get(2)?),
                count: uint(row.get(3)?),
                first: time(row, 4)?,
                last: time(row, 5)?,
            })
        })
    }

    fn usage_of_identity(&self, identity: &IdentityName) -> Result<Vec<IdentityUse>, Fault> {
        let sql = "SELECT resource, scope, operation, count, first, last FROM usage_scopes \
                   WHERE identity = ?1";
        self.rows(sql, [identity.as_str()], |row| {
            let scope: String = row.get(1)?;
            Ok(IdentityUse {
                resource: row.get::<_, String>(0)?.as_str().try_into().map_err(bad)?,
                scope: Some(scope).filter(|scope| !scope.is_empty()),
                operation: row.get(2)?,
                count: uint(row.get(3)?),
                first: time(row, 4)?,
                last: time(row, 5)?,
            })
        })
    }

    fn usage_by_hour(&self, identity: &IdentityName, since: u64) -> Result<Vec<Hour>, Fault> {
        let sql = "SELECT hour, allowed, refused FROM usage_hours \
                   WHERE identity = ?1 AND hour >= ?2 ORDER BY hour";
        self.rows(sql, (identity.as_str(), int(since)), |row| {
            let number = |at| row.get(at).map(uint);
            Ok(Hour { hour: number(0)?, allowed: number(1)?, refused: number(2)? })
        })
    }

    fn granted_scopes(
        &self,
        identity: &IdentityName,
        since: Time,
    ) -> Result<BTreeSet<(ResourceName, ScopeName)>, Fault> {
        let sql = "SELECT DISTINCT resource, scopes FROM (SELECT resource, scopes, activated, \
                   asked_at FROM grants WHERE identity = ?1 ORDER BY id DESC LIMIT ?3) \
                   WHERE activated > 0 AND asked_at >= ?2";
        let values = (identity.as_str(), old(since), GRANTS_LOOKED_AT);
        let rows = self.rows(sql, values, |row| {
            let (resource, scopes) = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
            let resource: ResourceName = resource.as_str().try_into().map_err(bad)?;
            let scopes = scopes.split(' ').map(|scope| scope.try_into().map_err(bad));
            let scopes: Vec<ScopeName> = scopes.collect::<Result<_, _>>()?;
            Ok((resource, scopes))
        })?;
        let pairs = rows.into_iter().flat_map(|(resource, scopes)| {
            scopes.into_iter().map(move |scope| (resource.clone(), scope))
        });
        Ok(pairs.collect())
    }

    fn usage_reporters(&self) -> Result<Vec<Reporter>, Fault> {
        let sql = "SELECT gateway, instance, at, dropped FROM usage_reports";
        self.rows(sql, [], |row| {
            let (gateway, instance) = (row.get(0)?, row.get(1)?);
            Ok(Reporter { gateway, instance, at: time(row, 2)?, dropped: uint(row.get(3)?) })
        })
    }

    fn forget_usage(&self, now: Time, limit: u32) -> Result<u64, Fault> {
        let mut gone = 0_u64;
        for (table, key, by, oldest) in [
            ("usage", "grant_id, operation, scope, refusal", "last", old(now.minus(GRANT_KEPT))),
            (
                "usage_scopes",
                "identity, resource, scope, operation",
                "last",
                old(now.minus(IDENTITY_KEPT)),
            ),
            ("usage_hours", "identity, hour", "hour", int(hour(now).saturating_sub(HOURS_KEPT))),
            ("usage_reports", "gateway, instance", "at", old(now.minus(GRANT_KEPT))),
        ] {
            // Counted outside the lock: a reader holds nobody up.
            let counted = format!("SELECT count(*) FROM {table}");
            let all = self.rows(&counted, [], |row| row.get(0).map(uint))?;
            let over = all.first().copied().unwrap_or(0).saturating_sub(ROWS_MAX);
            let old = format!(
                "DELETE FROM {table} WHERE ({key}) IN \
                 (SELECT {key} FROM {table} WHERE {by} < ?1 ORDER BY {by} LIMIT ?2)"
            );
            gone = gone.saturating_add(self.delete(&old, (oldest, i64::from(limit)))?);
            if over > 0 {
                let most = format!(
                    "DELETE FROM {table} WHERE ({key}) IN \
                     (SELECT {key} FROM {table} ORDER BY {by} LIMIT ?1)"
                );
                let over = int(over.min(u64::from(limit)));
                gone = gone.saturating_add(self.delete(&most, [over])?);
            }
        }
        Ok(gone)
    }
}

impl SqliteReader {
    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Fault> {
        self.with(|moment| {
            let mut statement = moment.prepare_cached(sql).map_err(|why| store(&why))?;
            let rows = statement.query_map(values, read).and_then(Iterator::collect);
            rows.map_err(|why| store(&why))
        })
    }

    fn delete(&self, sql: &str, values: impl Params) -> Result<u64, Fault> {
        let gone = self.beside(|work| work.prepare_cached(sql)?.execute(values))?;
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }
}

fn owned(moment: &Transaction<'_>, lines: &[Line]) -> rusqlite::Result<Owned> {
    let mut found = Owned::new();
    let mut statement =
        moment.prepare_cached("SELECT identity, resource FROM grants WHERE id = ?1")?;
    for line in lines {
        if found.contains_key(&line.grant) {
            continue;
        }
        let row = statement.query_row([line.grant.0], |row| {
            let (identity, resource) = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
            let identity = identity.as_str().try_into().map_err(bad)?;
            Ok((identity, resource.as_str().try_into().map_err(bad)?))
        });
        if let Some(row) = row.optional()? {
            found.insert(line.grant, row);
        }
    }
    Ok(found)
}

fn count(work: &Transaction<'_>, report: &Report, owned: &Owned) -> rusqlite::Result<Counted> {
    let mut counted = Counted::default();
    let (gateway, instance) = (report.gateway.as_str(), report.instance.as_str());
    let sql = "SELECT report FROM usage_reports WHERE gateway = ?1 AND instance = ?2";
    let mark = work.prepare_cached(sql)?.query_row((gateway, instance), |row| row.get(0));
    let mark = mark.optional()?.map(uint);
    if mark.is_none() {
        make_room(work, gateway)?;
    }
    let mut mark = mark.unwrap_or(0);
    for line in &report.lines {
        if line.number <= mark {
            counted.repeated = counted.repeated.saturating_add(1);
            continue;
        }
        mark = line.number;
        counted.dropped = counted.dropped.saturating_add(line.dropped);
        let of = owned.get(&line.grant);
        let Some((identity, resource)) = of.filter(|(_, on)| report.resources.contains(on)) else {
            counted.unknown = counted.unknown.saturating_add(1);
            continue;
        };
        counted.counted = counted.counted.saturating_add(1);
        counted.identities.insert(identity.clone());
        add(work, identity, resource, line)?;
    }
    let sql = "INSERT INTO usage_reports (gateway, instance, report, at, dropped) \
               VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (gateway, instance) DO UPDATE SET \
               report = excluded.report, at = excluded.at, dropped = dropped + excluded.dropped";
    let (at, dropped) = (int(report.now.as_millis()), int(counted.dropped));
    work.prepare_cached(sql)?.execute((gateway, instance, int(mark), at, dropped))?;
    Ok(counted)
}

/// A gateway whose processes are too many to remember forgets the one that was silent the longest.
fn make_room(work: &Transaction<'_>, gateway: &str) -> rusqlite::Result<()> {
    let sql = "DELETE FROM usage_reports WHERE gateway = ?1 AND instance IN (SELECT instance \
               FROM usage_reports WHERE gateway = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)";
    let kept = int(REPORTERS_MAX.saturating_sub(1));
    work.prepare_cached(sql)?.execute((gateway, kept)).map(drop)
}

fn add(
    work: &Transaction<'_>,
    identity: &IdentityName,
    resource: &ResourceName,
    line: &Line,
) -> rusqlite::Result<()> {
    let (scope, refusal) = (line.how.scope(), line.how.refusal());
    let (count, last) = (int(line.count), int(line.last.as_millis()));
    let sql = "UPDATE usage SET count = count + ?5, first = min(first, ?6), last = max(last, ?6) \
               WHERE grant_id = ?1 AND operation = ?2 AND scope = ?3 AND refusal = ?4";
    let values = (line.grant.0, &line.operation, scope, refusal, count, last);
    if work.prepare_cached(sql)?.execute(values)? == 0 {
        let sql = "SELECT count(*) FROM usage WHERE grant_id = ?1";
        let rows: i64 = work.prepare_cached(sql)?.query_row([line.grant.0], |row| row.get(0))?;
        let operation = if uint(rows) < OF_GRANT_MAX { line.operation.as_str() } else { "" };
        let sql = "INSERT INTO usage (grant_id, operation, scope, refusal, count, first, last) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT DO UPDATE SET \
                   count = count + ?5, first = min(first, ?6), last = max(last, ?6)";
        let values = (line.grant.0, operation, scope, refusal, count, last);
        work.prepare_cached(sql)?.execute(values)?;
    }
    let sql = "INSERT INTO usage_scopes (identity, resource, scope, operation, count, first, last) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT DO UPDATE SET \
               count = count + ?5, first = min(first, ?6), last = max(last, ?6)";
    let values = (identity.as_str(), resource.as_str(), scope, &line.operation, count, last);
    work.prepare_cached(sql)?.execute(values)?;
    let (allowed, refused) = match line.how {
        How::Allowed(_) => (count, 0),
        How::Refused(_) => (0, count),
    };
    let sql = "INSERT INTO usage_hours (identity, hour, allowed, refused) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT DO UPDATE SET allowed = allowed + ?3, refused = refused + ?4";
    let values = (identity.as_str(), int(hour(line.last)), allowed, refused);
    work.prepare_cached(sql)?.execute(values).map(drop)
}

fn old(at: Time) -> i64 {
    int(at.as_millis())
}

fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Time> {
    row.get(at).map(|millis| Time::from_millis(uint(millis)))
}

fn bad(why: Malformed) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(why))
}
