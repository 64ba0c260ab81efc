//! What gateways report that is unlike what an identity did before: looked for when a report comes, read at every request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use protem_verify::names::IdentityName;
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::journal::fault::Fault;
use crate::journal::reader::Reader;
use crate::journal::usage::{Counted, HOURS_KEPT, Hour, IdentityUse, Report, hour};

/// Findings from use, of the identities that have any: of an identity that does what it always did there is nothing here.
#[derive(Default)]
pub(in crate::engine) struct Unusual {
    of: RwLock<HashMap<IdentityName, Found>>,
}

struct Found {
    until: Time,
    findings: Arc<[String]>,
}

/// How long a finding stays after the report that showed it: an hour of quiet, and what is usual is usual again.
const STAYS: Duration = Duration::from_secs(60 * 60);
/// Identities that have findings at once; beyond it the oldest are let go, so that a flood of reports costs no memory.
const FOUND_MAX: usize = 10_000;
/// How many times the busiest hour of the week before is unusual.
const TIMES: u64 = 10;
/// Calls in an hour below which nothing is unusual: a job that ran twice is no spike.
const VOLUME_LEAST: u64 = 1_000;
/// The same for refused calls: some come from every deployment that goes wrong.
const REFUSED_LEAST: u64 = 50;
/// How long an identity must have used a resource before a new operation on it is unusual.
const SETTLED: Duration = Duration::from_secs(7 * 86_400);

impl Broker {
    /// Counts what a gateway reports, and looks whether that is unusual. Blocks.
    ///
    /// # Errors
    /// When the store counted nothing.
    pub fn count_usage(&self, report: &Report) -> Result<Counted, Fault> {
        let reader = self.reader();
        let counted = reader.count_usage(report)?;
        self.0.meters.usage(&counted);
        for identity in &counted.identities {
            match look(&**reader, identity, report.now) {
                Ok(findings) => self.0.unusual.keep(identity, findings, report.now),
                Err(fault) => tracing::warn!(%identity, %fault, "usage was not looked at"),
            }
        }
        Ok(counted)
    }

    /// What is unusual about how an identity's access is used, in policy's words: `unusual-volume`, `unusual-operation`,
    /// `refused-spike`, each with its numbers. Cheap: it is looked up, not worked out.
    #[must_use]
    pub fn usage_findings(&self, identity: &IdentityName, now: Time) -> Vec<String> {
        self.0.unusual.of(identity, now)
    }
}

impl Unusual {
    pub(in crate::engine) fn of(&self, identity: &IdentityName, now: Time) -> Vec<String> {
        let known = self.of.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(identity).filter(|found| found.until > now);
        found.map_or_else(Vec::new, |found| found.findings.to_vec())
    }

    fn keep(&self, identity: &IdentityName, findings: Vec<String>, now: Time) {
        let mut known = self.of.write().unwrap_or_else(PoisonError::into_inner);
        if findings.is_empty() {
            // What an earlier report showed stays for its time: one quiet report clears nobody.
            if known.get(identity).is_some_and(|found| found.until <= now) {
                known.remove(identity);
            }
            return;
        }
        if known.len() >= FOUND_MAX {
            known.retain(|_, found| found.until > now);
        }
        if known.len() >= FOUND_MAX && !known.contains_key(identity) {
            let oldest = known.iter().min_by_key(|(_, found)| found.until);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(identity.clone(), Found { until: now + STAYS, findings: findings.into() });
    }
}

fn look(reader: &dyn Reader, identity: &IdentityName, now: Time) -> Result<Vec<String>, Fault> {
    let hours = reader.usage_by_hour(identity, hour(now).saturating_sub(HOURS_KEPT))?;
    let mut findings = spikes(&hours, hour(now));
    findings.extend(operations(&reader.usage_of_identity(identity)?, now));
    Ok(findings)
}

/// This hour beside the busiest of the week before.
fn spikes(hours: &[Hour], now: u64) -> Vec<String> {
    let this = hours.iter().find(|one| one.hour == now);
    let Some(this) = this else { return Vec::new() };
    let before = || hours.iter().filter(|one| one.hour < now);
    let mut found = Vec::new();
    let (allowed, usual) = (this.allowed, before().map(|one| one.allowed).max());
    // Without an hour before there is nothing that is usual.
    if let Some(usual) = usual
        && allowed >= VOLUME_LEAST
        && allowed > usual.saturating_mul(TIMES)
    {
        found.push(format!(
            "unusual-volume: {allowed} calls this hour, at most {usual} in any of the week before"
        ));
    }
    let (refused, usual) = (this.refused, before().map(|one| one.refused).max().unwrap_or(0));
    if refused >= REFUSED_LEAST && refused > usual.saturating_mul(TIMES) {
        found.push(format!("refused-spike: {refused} calls refused this hour, at most {usual} in any of the week before"));
    }
    found
}

/// Operations that a settled identity used for the first time within the last hour.
fn operations(uses: &[IdentityUse], now: Time) -> Option<String> {
    let settled = |one: &&IdentityUse| {
        let of = uses.iter().filter(|other| other.resource == one.resource);
        of.map(|other| other.first).min().is_some_and(|first| first + SETTLED < now)
    };
    let new = uses.iter().filter(|one| one.scope.is_some() && one.first + STAYS > now);
    let mut new = new.filter(settled);
    let first = new.next()?;
    let more = match new.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "unusual-operation: `{}` on `{}`{more} for the first time",
        first.operation, first.resource
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 500_000;

    fn one(hour: u64, allowed: u64, refused: u64) -> Hour {
        Hour { hour, allowed, refused }
    }

    #[track_caller]
    fn check(hours: &[Hour], expect: &[&str]) {
        let found = spikes(hours, HOUR);
        let words: Vec<&str> = found.iter().map(|text| text.split_once(':').unwrap().0).collect();
        assert_eq!(words, expect, "{found:?}");
    }

    #[test]
    fn an_hour_is_compared_with_the_busiest_before_it() {
        check(&[], &[]);
        check(&[one(HOUR, 900_000, 0)], &[]);
        check(&[one(HOUR - 1, 100, 0), one(HOUR, 1_001, 0)], &["unusual-volume"]);
        check(&[one(HOUR - 1, 100, 0), one(HOUR, 1_000, 0)], &[]);
        check(&[one(HOUR - 1, 1, 0), one(HOUR, 999, 0)], &[]);
        check(&[one(HOUR - 9, 9_000, 0), one(HOUR - 1, 1, 0), one(HOUR, 80_000, 0)], &[]);
        check(&[one(HOUR, 0, 50)], &["refused-spike"]);
        check(&[one(HOUR, 0, 49)], &[]);
        check(&[one(HOUR - 3, 0, 5), one(HOUR, 0, 50)], &[]);
        check(&[one(HOUR - 1, 0, 900)], &[]);
    }

    #[test]
    fn an_operation_is_new_to_those_who_know_the_resource() {
        let now = Time::from_secs(1_800_000_000);
        let used = |operation: &str, scope: Option<&str>, before: Duration| IdentityUse {
            resource: "orders-api".try_into().unwrap(),
            scope: scope.map(str::to_owned),
            operation: operation.to_owned(),
            count: 1,
            first: now.minus(before),
            last: now,
        };
        let (week, minute) = (SETTLED + Duration::from_secs(9), Duration::from_secs(60));
        let old = used("GET /a", Some("s"), week);
        let new = used("DELETE /a", Some("s"), minute);
        let found = operations(&[old.clone(), new.clone()], now).unwrap();
        assert_eq!(found, "unusual-operation: `DELETE /a` on `orders-api` for the first time");
        assert_eq!(operations(std::slice::from_ref(&new), now), None, "all of it is new");
        assert_eq!(operations(&[old.clone(), used("DELETE /a", None, minute)], now), None);
        assert_eq!(operations(&[old, used("DELETE /a", Some("s"), STAYS)], now), None);
    }

    #[test]
    fn findings_stay_for_their_time_and_no_longer() {
        let unusual = Unusual::default();
        let (one, now): (IdentityName, _) = ("a/b".try_into().unwrap(), Time::from_secs(9_999));
        unusual.keep(&one, vec!["refused-spike: 50".into()], now);
        unusual.keep(&one, Vec::new(), now);
        assert_eq!(unusual.of(&one, now), ["refused-spike: 50"]);
        assert!(unusual.of(&one, now + STAYS).is_empty());
        unusual.keep(&one, Vec::new(), now + STAYS);
        assert!(unusual.of.read().unwrap().is_empty());
        for number in 0..FOUND_MAX + 3 {
            let name: IdentityName = format!("a/{number}").as_str().try_into().unwrap();
            unusual.keep(&name, vec!["unusual-volume: 1".into()], now);
        }
        assert_eq!(unusual.of.read().unwrap().len(), FOUND_MAX);
    }
}
