//! What is usual for an identity: the fold of what it was granted, and what of a request is unlike that.

use std::fmt;
use std::sync::Arc;

use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use protem_verify::time::Time;

use crate::request::{AccessRequest, Scopes};

/// How far back grants show what is usual, in hours: 90 days, so that what is done once a month or a quarter is known.
pub const REMEMBERED: u32 = 90 * DAY;
/// Scopes that are known of one identity; the one granted longest ago goes first. Most use less than ten.
pub const KNOWN_MAX: usize = 64;
/// Who was granted nothing for so many hours is not expected to ask: 30 days.
pub const DORMANT: u32 = 30 * DAY;
/// How long who was dormant still is, in hours. A harmless grant must not wake it for a harmful one.
pub const AWAKE: u32 = DAY;
/// Grants from which an identity's hours and rate can be told at all.
pub const HISTORY_GRANTS: u32 = 20;
/// The days that they must be of: one busy morning is no habit.
pub const HISTORY_DAYS: u32 = 3;
/// How long an identity must be known, in hours: a week, with its weekend. Until then nothing it does is a habit, or unlike one.
pub const HISTORY_SPAN: u32 = 7 * DAY;
/// How old a grant must be, in hours, to make its hour usual: what is done tonight does not make tonight usual.
pub const HOUR_AGE: u32 = DAY;
/// Grants of an hour up to which no rate is unusual: one a minute.
pub const RATE_LEAST: u32 = 60;
/// How many times the busiest hour of the days before is unusual.
pub const RATE_TIMES: u32 = 10;
/// The days before today whose busiest hour counts: a week, with its weekend.
const WEEK: u32 = 7;
/// Today and the days before it.
const BUSY_DAYS: usize = 8;
const DAY: u32 = 24;
const HOURS: usize = 24;

/// The words of all findings from an identity's past, as policies name them.
pub const WORDS: [&str; 5] =
    ["new-resource", "new-scope", "unusual-hour", "unusual-rate", "dormant"];

/// What is usual for one identity. It is kept by the hour, so that it seldom changes but for its counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usual {
    /// When it was last granted anything: all that is left of it after 90 days without a grant.
    pub last: Hour,
    /// When it last came back from a long silence, as long as that says something.
    pub woke: Option<Woke>,
    /// Since when it is known.
    pub since: Hour,
    /// Grants since then, up to [`HISTORY_GRANTS`].
    pub grants: u32,
    /// Days with grants since then, up to [`HISTORY_DAYS`].
    pub days: u32,
    /// For each hour of a day: when it was last used, and when on a day before that. Zero is never.
    pub hours: [[Hour; 2]; HOURS],
    /// The grants of the busiest hour of today and the seven days before, each day's at its number modulo 8.
    pub busiest: [u32; BUSY_DAYS],
    /// Grants in the hour of the last one.
    pub this_hour: u32,
    /// What it was granted, in order, at most [`KNOWN_MAX`].
    pub known: Arc<[Known]>,
}

/// When an identity came back, after how many hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woke {
    /// When.
    pub at: Hour,
    /// Hours without a grant before that.
    pub silent: u32,
}

/// A scope that an identity was granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// On what.
    pub resource: ResourceName,
    /// Which.
    pub scope: ScopeName,
    /// When, the last time.
    pub last: Hour,
}

/// Something unusual about a request, beside its identity's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing on it was granted.
    NewResource(ResourceName),
    /// These were not granted.
    NewScope(Vec<ScopeName>),
    /// Nothing was granted near this hour of a day; the hours in which something was.
    UnusualHour(Time, Vec<usize>),
    /// With this one so many grants in an hour; so many in the busiest of the week before.
    UnusualRate(u32, u32),
    /// Nothing was granted for so many days.
    Dormant(IdentityName, u32),
}

/// What of a request is unlike its identity's past. An identity without a past has no hours and no rate.
#[must_use]
pub fn findings(past: Option<&Usual>, request: &AccessRequest, now: Time) -> Vec<Finding> {
    let hour = past.map_or(Hour::of(now), |past| Hour::of(now).max(past.last));
    let recent = past.filter(|past| !past.forgotten(hour));
    let mut found = Vec::new();
    let new = |scope: &&ScopeName| recent.is_none_or(|it| !it.knows(request, Some(scope), hour));
    let scopes: Vec<ScopeName> = request.scopes.iter().filter(new).cloned().collect();
    if recent.is_none_or(|it| !it.knows(request, None, hour)) {
        found.push(Finding::NewResource(request.resource.clone()));
    }
    if !scopes.is_empty() {
        found.push(Finding::NewScope(scopes));
    }
    if let Some(past) = recent.filter(|past| past.is_settled(hour)) {
        if !past.is_usual(hour) {
            found.push(Finding::UnusualHour(now, past.usual_hours(hour)));
        }
        let (count, busiest) = (past.count(hour).saturating_add(1), past.busiest(hour));
        if count > RATE_LEAST && count > busiest.saturating_mul(RATE_TIMES) {
            found.push(Finding::UnusualRate(count, busiest));
        }
    }
    if let Some(silent) = past.and_then(|past| past.silent(hour)) {
        found.push(Finding::Dormant(request.by.identity.clone(), silent / DAY));
    }
    found
}

/// Whether what policy saw of the past is what it is: the same words, whatever their numbers.
#[must_use]
pub fn unmoved(seen: &[String], is: &[Finding]) -> bool {
    WORDS.iter().all(|name| {
        let saw = seen.iter().any(|text| word(text) == *name);
        saw == is.iter().any(|finding| finding.word() == *name)
    })
}

/// The word of a finding that policies know: "unusual-hour: 03:12, usually 08 to 18" is `unusual-hour`.
#[must_use]
pub fn word(finding: &str) -> &str {
    finding.split_once(':').map_or(finding, |(word, _)| word)
}

impl Usual {
    /// What is usual once this, too, was granted at `at`.
    pub(crate) fn after(
        former: Option<&Self>,
        resource: &ResourceName,
        scopes: &Scopes,
        at: Time,
    ) -> Self {
        let Some(former) = former else {
            return Self::bare(Hour::of(at)).with(resource, scopes, Hour::of(at));
        };
        let hour = Hour::of(at).max(former.last);
        let silent = hour.since(former.last);
        let woke = former.woke.filter(|woke| hour.since(woke.at) < AWAKE);
        let woke = if silent >= DORMANT { Some(Woke { at: hour, silent }) } else { woke };
        // Whether a sweep has come by must make no difference.
        let bare = former.forgotten(hour).then(|| Self::bare(former.last));
        let it = bare.as_ref().unwrap_or(former).with(resource, scopes, hour);
        Self { woke, ..it }
    }

    /// What is left of an identity that was granted nothing for long.
    pub(crate) fn bare(last: Hour) -> Self {
        Self { last, ..Self::default() }
    }

    /// Whether nothing is left of it but when it was last granted something.
    pub(crate) fn is_bare(&self) -> bool {
        self.grants == 0
    }

    /// Whether all but its last grant's hour is to be forgotten.
    pub(crate) fn forgotten(&self, hour: Hour) -> bool {
        self.is_bare() || hour.since(self.last) >= REMEMBERED
    }

    /// When that is so if nothing more is granted.
    pub(crate) fn forget_at(&self) -> Time {
        Hour(self.last.0.saturating_add(REMEMBERED)).begins()
    }

    fn with(&self, resource: &ResourceName, scopes: &Scopes, hour: Hour) -> Self {
        let first = self.is_bare();
        let mut it = self.clone();
        it.last = hour;
        it.since = if first { hour } else { self.since };
        let other_day = first || hour.day() != self.last.day();
        it.grants = self.grants.saturating_add(1).min(HISTORY_GRANTS);
        it.days = self.days.saturating_add(u32::from(other_day)).min(HISTORY_DAYS);
        if let Some(slot) = it.hours.get_mut(hour.of_day()) {
            let [last, _] = *slot;
            if last != hour {
                *slot = [hour, last];
            }
        }
        let same = !first && hour == self.last;
        it.this_hour = if same { self.this_hour.saturating_add(1) } else { 1 };
        let since = self.last.day().saturating_add(1)..=hour.day();
        for day in since.rev().take(BUSY_DAYS) {
            it.set_busiest(day, 0);
        }
        let today = it.busiest_of(hour.day()).max(it.this_hour);
        it.set_busiest(hour.day(), today);
        it.known = learned(&self.known, resource, scopes, hour);
        it
    }

    fn knows(&self, request: &AccessRequest, scope: Option<&ScopeName>, hour: Hour) -> bool {
        self.known.iter().any(|known| {
            known.resource == request.resource
                && scope.is_none_or(|scope| known.scope == *scope)
                && hour.since(known.last) < REMEMBERED
        })
    }

    /// Whether there is enough of it to tell habits.
    fn is_settled(&self, hour: Hour) -> bool {
        self.grants >= HISTORY_GRANTS
            && self.days >= HISTORY_DAYS
            && hour.since(self.since) >= HISTORY_SPAN
    }

    /// Whether something was granted at this hour of a day, or in the one before or after: jobs run late.
    fn is_usual(&self, hour: Hour) -> bool {
        [DAY - 1, 0, 1]
            .iter()
            .any(|off| self.used(Hour(hour.0.saturating_add(*off)).of_day(), hour))
    }

    /// The hours of a day in which something was granted.
    fn usual_hours(&self, hour: Hour) -> Vec<usize> {
        (0..HOURS).filter(|of_day| self.used(*of_day, hour)).collect()
    }

    /// Whether something was granted in this hour of a day, neither just now nor too long ago.
    fn used(&self, of_day: usize, hour: Hour) -> bool {
        let counts = |at: &Hour| at.0 > 0 && (HOUR_AGE..REMEMBERED).contains(&hour.since(*at));
        self.hours.get(of_day).is_some_and(|slot| slot.iter().any(counts))
    }

    fn count(&self, hour: Hour) -> u32 {
        if hour == self.last { self.this_hour } else { 0 }
    }

    /// The busiest hour of the seven days before today.
    fn busiest(&self, hour: Hour) -> u32 {
        let (today, last) = (hour.day(), self.last.day());
        let days = today.saturating_sub(WEEK)..today;
        days.filter(|day| *day <= last).map(|day| self.busiest_of(day)).max().unwrap_or(0)
    }

    fn busiest_of(&self, day: u32) -> u32 {
        self.busiest.get(slot(day)).copied().unwrap_or(0)
    }

    fn set_busiest(&mut self, day: u32, count: u32) {
        if let Some(busiest) = self.busiest.get_mut(slot(day)) {
            *busiest = count;
        }
    }

    /// For how many hours nothing was granted, if that is long enough, and until a day after it has ended.
    fn silent(&self, hour: Hour) -> Option<u32> {
        let silent = hour.since(self.last);
        if silent >= DORMANT {
            return Some(silent);
        }
        self.woke.filter(|woke| hour.since(woke.at) < AWAKE).map(|woke| woke.silent)
    }
}

fn slot(day: u32) -> usize {
    usize::try_from(day).unwrap_or_default() % BUSY_DAYS
}

/// What is known once this was granted, too: the same list, while all of it was granted this hour already.
fn learned(
    known: &Arc<[Known]>,
    resource: &ResourceName,
    scopes: &Scopes,
    hour: Hour,
) -> Arc<[Known]> {
    let this = |scope: &ScopeName| {
        let at = known.binary_search_by(|one| (&one.resource, &one.scope).cmp(&(resource, scope)));
        at.ok().and_then(|at| known.get(at)).is_some_and(|one| one.last == hour)
    };
    if scopes.iter().all(this) {
        return Arc::clone(known);
    }
    let now = |one: &Known| one.resource == *resource && scopes.contains(&one.scope);
    let stays = known.iter().filter(|one| hour.since(one.last) < REMEMBERED && !now(one));
    let mut all: Vec<Known> = stays.cloned().collect();
    all.sort_by(|one, other| other.last.cmp(&one.last).then_with(|| one.cmp(other)));
    all.truncate(KNOWN_MAX.saturating_sub(scopes.iter().count()));
    all.extend(scopes.iter().map(|scope| Known {
        resource: resource.clone(),
        scope: scope.clone(),
        last: hour,
    }));
    all.sort();
    all.into()
}

/// An hour, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(pub u32);

impl Hour {
    /// The hour of a moment.
    #[must_use]
    pub fn of(at: Time) -> Self {
        Self(u32::try_from(at.as_secs() / HOUR_SECS).unwrap_or(u32::MAX))
    }

    fn begins(self) -> Time {
        Time::from_secs(u64::from(self.0).saturating_mul(HOUR_SECS))
    }

    fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    fn day(self) -> u32 {
        self.0 / DAY
    }

    fn of_day(self) -> usize {
        usize::try_from(self.0 % DAY).unwrap_or_default()
    }
}

const HOUR_SECS: u64 = 3_600;

impl Finding {
    /// Its word in policies.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NewResource(_) => "new-resource",
            Self::NewScope(_) => "new-scope",
            Self::UnusualHour(..) => "unusual-hour",
            Self::UnusualRate(..) => "unusual-rate",
            Self::Dormant(..) => "dormant",
        }
    }
}

impl fmt::Display for Finding {
    /// Its word, then `: ` and numbers for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.word())?;
        match self {
            Self::NewResource(resource) => {
                write!(f, "nothing on `{resource}` was granted in 90 days")
            }
            Self::NewScope(scopes) => {
                let names: Vec<String> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
                write!(f, "{} not granted in 90 days", names.join(", "))
            }
            Self::UnusualHour(at, usual) => {
                let minute = at.as_secs() / 60;
                let (hour, minute) = (minute / 60 % u64::from(DAY), minute % 60);
                write!(f, "{hour:02}:{minute:02} UTC, usually {}", spans(usual))
            }
            Self::UnusualRate(count, usual) => {
                write!(f, "{count} grants this hour, at most {usual} in any of the week before")
            }
            Self::Dormant(identity, days) => {
                write!(f, "`{identity}` was granted nothing for {days} days")
            }
        }
    }
}

/// Hours of a day as people say them: "08 to 11, 14".
fn spans(hours: &[usize]) -> String {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for hour in hours {
        match spans.last_mut() {
            Some((_, to)) if to.saturating_add(1) == *hour => *to = *hour,
            Some(_) | None => spans.push((*hour, *hour)),
        }
    }
    let text = |(from, to): &(usize, usize)| {
        if from == to { format!("{from:02}") } else { format!("{from:02} to {to:02}") }
    };
    match spans.is_empty() {
        true => "at no hour".to_owned(),
        false => spans.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}
