//! What gateways say was done with credentials, in counts: beside the log, bounded, and no evidence of anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protem_verify::ids::GrantId;
use protem_verify::names::{GatewayName, IdentityName, ResourceName, ScopeName};
use protem_verify::time::Time;

use crate::journal::fault::Fault;
use crate::journal::projection::Projection;

/// The counts that a store keeps. Calls block. A power failure may take the last seconds of them.
pub trait Usage: Send + Sync {
    /// Counts what a gateway instance reports, in one short step: lines that were counted before, and lines about grants
    /// that are not on its resources, change nothing.
    ///
    /// # Errors
    /// When nothing was counted.
    fn count_usage(&self, report: &Report) -> Result<Counted, Fault>;
    /// What was done with a grant.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn usage_of_grant(&self, grant: &GrantId) -> Result<Vec<Use>, Fault>;
    /// What an identity did, over all its grants.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn usage_of_identity(&self, identity: &IdentityName) -> Result<Vec<IdentityUse>, Fault>;
    /// What an identity did in each hour since this one, the first first.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn usage_by_hour(&self, identity: &IdentityName, since: u64) -> Result<Vec<Hour>, Fault>;
    /// On what resources an identity was granted which scopes since then, as far as its newest [`GRANTS_LOOKED_AT`] grants say.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn granted_scopes(
        &self,
        identity: &IdentityName,
        since: Time,
    ) -> Result<BTreeSet<(ResourceName, ScopeName)>, Fault>;
    /// When each instance of a gateway last reported.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn usage_reporters(&self) -> Result<Vec<Reporter>, Fault>;
    /// Forgets at most `limit` rows of each kind that are too old or too many. Returns how many went.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn forget_usage(&self, now: Time, limit: u32) -> Result<u64, Fault>;
}

/// Some lines of one gateway instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose, as it signed in.
    pub gateway: GatewayName,
    /// Which of its processes.
    pub instance: String,
    /// What it may report of.
    pub resources: Vec<ResourceName>,
    /// The broker's time.
    pub now: Time,
    /// In the order of their numbers.
    pub lines: Vec<Line>,
}

/// Counts of one grant and one operation since the line before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Rises within an instance.
    pub number: u64,
    /// Which grant.
    pub grant: GrantId,
    /// What was done: as the catalog spells it; empty where nothing of the catalog was called.
    pub operation: String,
    /// What became of it.
    pub how: How,
    /// How often; never zero.
    pub count: u64,
    /// When last; not after the broker's time.
    pub last: Time,
    /// Counts that the gateway had no room for, told with this line.
    pub dropped: u64,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// This scope allowed it.
    Allowed(String),
    /// It was refused, for the reason with this code.
    Refused(String),
}

impl How {
    /// The scope, or nothing.
    #[must_use]
    pub fn scope(&self) -> &str {
        match self {
            Self::Allowed(scope) => scope,
            Self::Refused(_) => "",
        }
    }

    /// The code of the reason, or nothing.
    #[must_use]
    pub fn refusal(&self) -> &str {
        match self {
            Self::Allowed(_) => "",
            Self::Refused(code) => code,
        }
    }

    pub(in crate::journal) fn read(scope: String, refusal: String) -> Self {
        if refusal.is_empty() { Self::Allowed(scope) } else { Self::Refused(refusal) }
    }
}

/// What became of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Lines that were counted now.
    pub counted: u64,
    /// Lines that were counted before.
    pub repeated: u64,
    /// Lines about grants that are not there, or not on this gateway's resources: the same answer for both.
    pub unknown: u64,
    /// Counts that the gateway had no room for, told with lines that were not seen before.
    pub dropped: u64,
    /// Whose counts changed.
    pub identities: BTreeSet<IdentityName>,
}

/// What was done with a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// As the catalog spelled it.
    pub operation: String,
    /// What became of it.
    pub how: How,
    /// How often.
    pub count: u64,
    /// When this was first said.
    pub first: Time,
    /// When last.
    pub last: Time,
}

/// What an identity did on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityUse {
    /// Where.
    pub resource: ResourceName,
    /// By which scope; `None`: it was refused.
    pub scope: Option<String>,
    /// As the catalog spelled it.
    pub operation: String,
    /// How often.
    pub count: u64,
    /// When this was first said.
    pub first: Time,
    /// When last.
    pub last: Time,
}

/// What an identity did in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Hours since 1970.
    pub hour: u64,
    /// Calls that were let through.
    pub allowed: u64,
    /// Calls that were refused.
    pub refused: u64,
}

/// An instance that reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// Which gateway.
    pub gateway: String,
    /// Which of its processes.
    pub instance: String,
    /// When it last did.
    pub at: Time,
    /// Counts that it had no room for, since it first reported.
    pub dropped: u64,
}

/// How long what was done with a grant is kept after the last time: "never used in 90 days" must be answerable.
pub const GRANT_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// How long what an identity did is kept after the last time: a yearly job has done it before.
pub const IDENTITY_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// Hours that say what is usual: a week, with its weekend.
pub const HOURS_KEPT: u64 = 7 * 24;
/// Rows of each table; the oldest go first. About 200 bytes each: some hundred megabytes at most, whatever gateways say.
pub const ROWS_MAX: u64 = 2_000_000;
/// Different rows of one grant: a scope maps some tens of operations; what comes beyond is counted without its operation.
pub const OF_GRANT_MAX: u64 = 256;
/// Grants that are looked at to say what an identity was granted: a page of identities is answered in well under a second.
pub const GRANTS_LOOKED_AT: u32 = 2_000;
/// Processes of one gateway whose place is remembered: 64 replicas that restart several times a day.
pub const REPORTERS_MAX: u64 = 1_024;

/// The hour that a moment is in.
#[must_use]
pub fn hour(at: Time) -> u64 {
    at.as_secs() / 3_600
}

/// All of it in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Used {
    grants: BTreeMap<(GrantId, String, How), Totals>,
    scopes: BTreeMap<(IdentityName, ResourceName, String, String), Totals>,
    hours: BTreeMap<(IdentityName, u64), Hour>,
    reporters: BTreeMap<(GatewayName, String), (u64, Time, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Totals {
    count: u64,
    first: Time,
    last: Time,
}

impl Totals {
    fn add(&mut self, line: &Line) {
        self.count = self.count.saturating_add(line.count);
        self.first = self.first.min(line.last);
        self.last = self.last.max(line.last);
    }
}

impl Used {
    pub(in crate::journal) fn count(&mut self, rows: &Projection, report: &Report) -> Counted {
        let mut counted = Counted::default();
        let of = (report.gateway.clone(), report.instance.clone());
        let (mut mark, _, dropped) = self.reporters.get(&of).copied().unwrap_or_default();
        for line in &report.lines {
            if line.number <= mark {
                counted.repeated = counted.repeated.saturating_add(1);
                continue;
            }
            mark = line.number;
            counted.dropped = counted.dropped.saturating_add(line.dropped);
            let row = rows.grants.get(&line.grant);
            let Some(row) = row.filter(|row| report.resources.contains(&row.resource)) else {
                counted.unknown = counted.unknown.saturating_add(1);
                continue;
            };
            counted.counted = counted.counted.saturating_add(1);
            counted.identities.insert(row.identity.clone());
            self.line(row.identity.clone(), row.resource.clone(), line);
        }
        self.reporters.insert(of, (mark, report.now, dropped.saturating_add(counted.dropped)));
        counted
    }

    fn line(&mut self, identity: IdentityName, resource: ResourceName, line: &Line) {
        let new = Totals { count: 0, first: line.last, last: line.last };
        let mut key = (line.grant, line.operation.clone(), line.how.clone());
        let of_grant = self.grants.keys().filter(|(grant, ..)| *grant == line.grant).count();
        let full = u64::try_from(of_grant).unwrap_or(u64::MAX) >= OF_GRANT_MAX;
        if full && !self.grants.contains_key(&key) {
            key.1.clear();
        }
        self.grants.entry(key).or_insert(new).add(line);
        let (scope, operation) = (line.how.scope().to_owned(), line.operation.clone());
        let key = (identity.clone(), resource, scope, operation);
        self.scopes.entry(key).or_insert(new).add(line);
        let hour = hour(line.last);
        let of = self.hours.entry((identity, hour));
        let of = of.or_insert(Hour { hour, allowed: 0, refused: 0 });
        let sum = match line.how {
            How::Allowed(_) => &mut of.allowed,
            How::Refused(_) => &mut of.refused,
        };
        *sum = sum.saturating_add(line.count);
    }

    pub(in crate::journal) fn of_grant(&self, grant: &GrantId) -> Vec<Use> {
        let all = self.grants.iter().filter(|((of, ..), _)| of == grant);
        let one = |((_, operation, how), of): (&(GrantId, String, How), &Totals)| {
            let (operation, how) = (operation.clone(), how.clone());
            Use { operation, how, count: of.count, first: of.first, last: of.last }
        };
        all.map(one).collect()
    }

    pub(in crate::journal) fn of_identity(&self, identity: &IdentityName) -> Vec<IdentityUse> {
        let all = self.scopes.iter().filter(|((of, ..), _)| of == identity);
        all.map(|((_, resource, scope, operation), of)| IdentityUse {
            resource: resource.clone(),
            scope: Some(scope.clone()).filter(|scope| !scope.is_empty()),
            operation: operation.clone(),
            count: of.count,
            first: of.first,
            last: of.last,
        })
        .collect()
    }

    pub(in crate::journal) fn by_hour(&self, identity: &IdentityName, since: u64) -> Vec<Hour> {
        let all = self.hours.iter().filter(|((of, hour), _)| of == identity && *hour >= since);
        all.map(|(_, hour)| *hour).collect()
    }

    pub(in crate::journal) fn reporters(&self) -> Vec<Reporter> {
        let one =
            |((gateway, instance), (_, at, dropped)): (&(GatewayName, String), &(_, _, _))| {
                let (gateway, instance) = (gateway.to_string(), instance.clone());
                Reporter { gateway, instance, at: *at, dropped: *dropped }
            };
        self.reporters.iter().map(one).collect()
    }

    /// What is too old goes; a store in memory is too short-lived for more.
    pub(in crate::journal) fn forget(&mut self, now: Time) -> u64 {
        let size = |used: &Self| {
            let all = used.grants.len() + used.scopes.len() + used.hours.len();
            u64::try_from(all + used.reporters.len()).unwrap_or(u64::MAX)
        };
        let before = size(self);
        let oldest = now.minus(GRANT_KEPT);
        self.grants.retain(|_, of| of.last >= oldest);
        self.reporters.retain(|_, (_, at, _)| *at >= oldest);
        let oldest = now.minus(IDENTITY_KEPT);
        self.scopes.retain(|_, of| of.last >= oldest);
        let first = hour(now).saturating_sub(HOURS_KEPT);
        self.hours.retain(|(_, hour), _| *hour >= first);
        before.saturating_sub(size(self))
    }
}
