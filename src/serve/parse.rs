//! The wire as commands: whatever is not exactly right is refused here, so that nothing inside has to look again.

use std::time::Duration;

use prost_types::{Duration as WireDuration, Timestamp};
use protem_core::limits::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, LIFETIME_MAX, LIFETIME_MIN};
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_proto::wire::v1;
use protem_verify::codes::wire;
use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{
    Malformed, ResourceName, ScopeName, TaskId, TaskKind, Words, unprintable,
};
use protem_verify::time::{Lifetime, Time};

use crate::policy::ask::Unknown;
use crate::policy::bundle::Bundle;
use crate::serve::limits::{PAGE_DEFAULT, PAGE_MAX, WAIT_MAX};
use crate::serve::status::Problem;

/// A request for access by `by`; the names must be the bundle's.
///
/// # Errors
/// The first field that is wrong.
pub fn access(
    by: Workload,
    wire: v1::RequestAccessRequest,
    bundle: &Bundle,
) -> Result<AccessRequest, Problem> {
    let task = wire.task.ok_or(missing("task"))?;
    if wire.proof_key.is_some() {
        let why = "is not served yet";
        return Err(Problem::field(wire::NO_BINDING, "proof_key", why));
    }
    let resource = ResourceName::try_from(wire.resource.as_str())?;
    let scopes = scopes(&wire.scopes)?;
    let names: Vec<&str> = scopes.iter().map(ScopeName::as_str).collect();
    bundle.check_names(resource.as_str(), &names).map_err(unknown)?;
    let key = match wire.request_id.as_str() {
        "" => None,
        text => Some(text.parse()?),
    };
    let lifetime = wire.lifetime.map(|span| lifetime(&span)).transpose()?;
    Ok(AccessRequest {
        by,
        task: Task {
            id: task_id("task.id", &task.id)?,
            kind: TaskKind::try_from(task.kind.as_str())?,
            url: url(&task.url)?,
        },
        resource,
        scopes,
        lifetime,
        purpose: Words::parse("purpose", &wire.purpose)?,
        key,
        emergency: wire.emergency,
        proof: None,
    })
}

/// A name that the bundle does not have, with the nearest that it has.
#[must_use]
pub fn unknown(unknown: Unknown) -> Problem {
    let hint =
        unknown.did_you_mean.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
    let why = format!("names `{}`, which the bundle does not have{hint}", plain(&unknown.name));
    Problem::field(wire::UNKNOWN_NAME, unknown.field, &why)
}

/// A field that must be there.
#[must_use]
pub fn missing(field: &str) -> Problem {
    Problem::field(wire::MALFORMED, field, "is missing")
}

/// Scopes: at least one, each spelled as scopes are.
///
/// # Errors
/// When there are none, too many, or one is misspelled.
pub fn scopes(names: &[String]) -> Result<Scopes, Problem> {
    // The count is looked at before any of them is copied.
    if names.len() > protem_core::limits::SCOPES_MAX {
        return Err(Malformed { field: "scopes", why: "has more than 32 scopes" }.into());
    }
    let parsed: Result<Vec<_>, _> =
        names.iter().map(|name| ScopeName::try_from(name.as_str())).collect();
    let parsed = parsed.map_err(|bad| Malformed { field: "scopes", why: bad.why })?;
    Ok(Scopes::new(parsed)?)
}

/// A task's id under the field's own name.
///
/// # Errors
/// When it is no task id.
pub fn task_id(field: &'static str, text: &str) -> Result<TaskId, Problem> {
    TaskId::try_from(text).map_err(|bad| Malformed { field, why: bad.why }.into())
}

/// A grant's id under the field's own name.
///
/// # Errors
/// When it is no grant id.
pub fn grant_id(field: &'static str, text: &str) -> Result<GrantId, Problem> {
    text.parse().map_err(|bad: Malformed| Malformed { field, why: bad.why }.into())
}

/// A link for people: nothing, or http(s), so that no page shows a `javascript:` link.
fn url(text: &str) -> Result<Words, Problem> {
    let url = Words::parse("task.url", text)?;
    let plain = text.is_empty() || text.starts_with("https://") || text.starts_with("http://");
    if plain && !text.contains(char::is_whitespace) {
        return Ok(url);
    }
    Err(Malformed { field: "task.url", why: "is no http(s) address" }.into())
}

/// A span that is not negative; its two parts may not disagree (google.protobuf.Duration).
///
/// # Errors
/// When it is negative, or its nanoseconds are out of range.
pub fn span(field: &'static str, wire: &WireDuration) -> Result<Duration, Problem> {
    let bad = |why| Problem::from(Malformed { field, why });
    let seconds = u64::try_from(wire.seconds).map_err(|_| bad("is negative"))?;
    let nanos = u32::try_from(wire.nanos).map_err(|_| bad("is negative"))?;
    if nanos > 999_999_999 || seconds > SPAN_MAX {
        return Err(bad("is no duration that protobuf allows"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// How long a grant shall last: 10 seconds to 12 hours; the bundle may allow less.
///
/// # Errors
/// When it is out of range: nothing is rounded, so that nobody gets another lifetime than they think.
pub fn lifetime(wire: &WireDuration) -> Result<Lifetime, Problem> {
    let span = span("lifetime", wire)?;
    if span < LIFETIME_MIN || span > LIFETIME_MAX {
        return Err(Malformed { field: "lifetime", why: "is not between 10 s and 12 h" }.into());
    }
    if span.subsec_nanos() % 1_000_000 != 0 {
        return Err(Malformed { field: "lifetime", why: "is finer than a millisecond" }.into());
    }
    Ok(Lifetime(span))
}

/// How long a held task's silence is forgiven; absent: 15 s.
///
/// # Errors
/// When it is out of range.
pub fn lease(wire: Option<&WireDuration>) -> Result<Duration, Problem> {
    let Some(wire) = wire else { return Ok(LEASE_DEFAULT) };
    let span = span("lease", wire)?;
    if span < LEASE_MIN || span > LEASE_MAX {
        return Err(Malformed { field: "lease", why: "is not between 1 s and 5 min" }.into());
    }
    Ok(span)
}

/// How long to wait for enforcement; more than [`WAIT_MAX`] means that, as the bound has passed by then.
///
/// # Errors
/// When it is negative or no duration.
pub fn wait(wire: Option<&WireDuration>) -> Result<Option<Duration>, Problem> {
    let waited = wire.map(|wire| span("wait", wire)).transpose()?;
    Ok(waited.map(|span| span.min(WAIT_MAX)))
}

/// A moment from 1970 on.
///
/// # Errors
/// When it is before, or its nanoseconds are out of range.
pub fn moment(field: &'static str, wire: &Timestamp) -> Result<Time, Problem> {
    let bad = |why| Problem::from(Malformed { field, why });
    let seconds = u64::try_from(wire.seconds).map_err(|_| bad("lies before 1970"))?;
    let nanos = u32::try_from(wire.nanos).map_err(|_| bad("is no moment"))?;
    if nanos > 999_999_999 || seconds > MOMENT_MAX {
        return Err(bad("is no moment that protobuf allows"));
    }
    Ok(Time::from(Duration::new(seconds, nanos)))
}

/// A page's size: 100 when not said, at most 1,000.
///
/// # Errors
/// When it is larger.
pub fn page_size(size: u32) -> Result<u32, Problem> {
    match size {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(size),
        _ => Err(Malformed { field: "page_size", why: "is more than 1,000" }.into()),
    }
}

/// A SHA-256 in hex; empty: none.
///
/// # Errors
/// When it is something else.
pub fn digest(field: &'static str, text: &str) -> Result<Option<Hash>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap_or_default();
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|_| Malformed { field, why: "is no SHA-256 in lower-case hex" })?;
    Ok(Some(Hash(bytes)))
}

/// Words that must be there.
///
/// # Errors
/// When they are empty, too long, or hold hidden characters.
pub fn required_words(field: &'static str, text: &str) -> Result<Words, Problem> {
    if text.trim().is_empty() {
        return Err(
            Malformed { field, why: "is empty; say why, in words others can read later" }.into()
        );
    }
    Ok(Words::parse(field, text)?)
}

/// What somebody sent, short and harmless on a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars()
        .take(128)
        .map(|letter| if unprintable(letter) { '\u{fffd}' } else { letter })
        .collect()
}

/// The largest `google.protobuf.Duration`, in seconds: 10,000 years.
const SPAN_MAX: u64 = 315_576_000_000;
/// The largest `google.protobuf.Timestamp`, in seconds: the year 9999.
const MOMENT_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: i64, nanos: i32, expect: Option<u128>) {
        let found = lifetime(&WireDuration { seconds, nanos });
        assert_eq!(found.ok().map(|life| life.0.as_millis()), expect, "{seconds} {nanos}");
    }

    #[test]
    fn lifetimes_are_in_range_or_refused() {
        check(10, 0, Some(10_000));
        check(12 * 3_600, 0, Some(43_200_000));
        check(10, 500_000_000, Some(10_500));
        for (seconds, nanos) in [
            (0, 0),
            (-1, 0),
            (0, -1),
            (9, 999_999_999),
            (12 * 3_600, 1),
            (10, -1),
            (-10, 0),
            (10, 1_000_000_000),
            (10, i32::MAX),
            (10, 1),
            (i64::MAX, 0),
            (i64::MIN, i32::MIN),
            (i64::MAX, i32::MAX),
        ] {
            check(seconds, nanos, None);
        }
    }

    #[test]
    fn waits_and_leases_are_bounded() {
        let span = |seconds| WireDuration { seconds, nanos: 0 };
        assert_eq!(wait(None), Ok(None));
        assert_eq!(wait(Some(&span(9_999_999))), Ok(Some(WAIT_MAX)));
        assert!(wait(Some(&span(-1))).is_err());
        assert_eq!(lease(None), Ok(LEASE_DEFAULT));
        for bad in [0, -1, 301, i64::MAX] {
            assert!(lease(Some(&span(bad))).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_never_empty_and_never_endless() {
        let many = |count| vec!["orders:read".to_owned(); count];
        assert!(scopes(&many(1)).is_ok());
        for bad in [vec![], many(33), vec![String::new()], vec!["*".to_owned()], vec!["a b".into()]]
        {
            assert!(scopes(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_are_links() {
        for good in ["", "https://ci.example/1", "http://x"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in ["javascript:alert(1)", "ci.example", "https://a b", "https://a\n"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_moments() {
        assert!(moment("since", &Timestamp { seconds: 1, nanos: 0 }).is_ok());
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(moment("since", &Timestamp { seconds, nanos }).is_err());
        }
    }
}
