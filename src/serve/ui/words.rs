//! Moments, spans and reasons as a page shows them.

use std::time::Duration;

use prost_types::Timestamp;
use protem_proto::wire::v1;
use protem_proto::wire::v1::{EndReason, GrantState};
use protem_verify::time::Time;

/// A moment, three ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// For machines: `2026-11-28T10:47:11Z`.
    pub iso: String,
    /// `10:47 UTC`, or with its day when that is another one.
    pub clock: String,
    /// `in 9 min`, `3 min ago`.
    pub near: String,
}

impl Moment {
    /// Of a timestamp, seen from `now`.
    #[must_use]
    pub fn of(stamp: &Timestamp, now: Time) -> Self {
        let seconds = u64::try_from(stamp.seconds).unwrap_or(0);
        Self::at(Time::from_secs(seconds), now)
    }

    /// Of a time, seen from `now`.
    #[must_use]
    pub fn at(at: Time, now: Time) -> Self {
        let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        let iso = jiff::Timestamp::from_second(seconds).map(|at| at.to_string());
        let iso = iso.unwrap_or_default();
        let (day, time) = iso.split_once('T').unwrap_or(("", ""));
        let time: String = time.chars().take(5).collect();
        let far = at.as_secs().abs_diff(now.as_secs()) >= HALF_A_DAY;
        let clock = if far { format!("{day} {time} UTC") } else { format!("{time} UTC") };
        let near = match at >= now {
            false if now.since(at) < JUST => "just now".to_owned(),
            true => format!("in {}", length(at.since(now))),
            false => format!("{} ago", length(now.since(at))),
        };
        Self { clock, near, iso: iso.clone() }
    }
}

impl Moment {
    /// The last day before a moment that ends it, as the bundle writes that day.
    #[must_use]
    pub fn last_day(end: &Timestamp, now: Time) -> Self {
        let last = Timestamp { seconds: end.seconds.saturating_sub(1), nanos: 0 };
        let day: String = Self::of(&last, now).iso.chars().take(10).collect();
        Self { iso: day.clone(), clock: day, near: Self::of(end, now).near }
    }
}

/// Seconds that nobody counts.
const JUST: Duration = Duration::from_secs(10);
/// Beyond it a moment is told with its day.
const HALF_A_DAY: u64 = 12 * 60 * 60;

/// A span, in its two greatest units: `15 min`, `1 h 30 min`, `45 s`.
#[must_use]
pub fn length(of: Duration) -> String {
    let secs = of.as_secs();
    let (days, hours, minutes, seconds) =
        (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60);
    let units = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")];
    let from = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let two = units.iter().skip(from).take(2).filter(|(count, _)| *count > 0);
    // Seconds are of interest only while they are all that is left, or nearly.
    let two = two.filter(|(_, unit)| *unit != "s" || secs < 120);
    let parts: Vec<String> = two.map(|(count, unit)| format!("{count} {unit}")).collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// A span of the wire; none counts as zero.
#[must_use]
pub fn span(of: Option<&prost_types::Duration>) -> Duration {
    of.and_then(|of| Duration::try_from(*of).ok()).unwrap_or_default()
}

/// The first letter in upper case, and a full stop.
#[must_use]
pub fn sentence(text: &str) -> String {
    let text = &quoted(text);
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.is_empty() || text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}

/// A text for terminals, where names stand in backticks, as a page quotes them: “internal”.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut open = false;
    let quote = |letter| match letter {
        '`' => {
            open = !open;
            if open { '“' } else { '”' }
        }
        letter => letter,
    };
    text.chars().map(quote).collect()
}

/// What is said of a person, said to them: `they own …`, `no policy permits them to …`.
#[must_use]
pub fn to_you(text: &str) -> String {
    let text = quoted(text).replacen("permits them to ", "permits you to ", 1);
    text.strip_prefix("they ").map_or_else(|| text.clone(), |rest| format!("you {rest}"))
}

/// Why access is over.
#[must_use]
pub fn ended(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Unspecified => "over",
        EndReason::Completed => "completed",
        EndReason::Expired => "expired",
        EndReason::Abandoned => "abandoned",
        EndReason::Revoked => "revoked",
        EndReason::Denied => "denied",
        EndReason::Lapsed => "lapsed",
        EndReason::Withdrawn => "withdrawn",
        EndReason::Policy => "ended by policy",
        EndReason::Quarantined => "quarantined",
        EndReason::Fenced => "fenced",
    }
}

/// Where a grant stands, in a word, and how that is drawn.
#[must_use]
pub fn standing(grant: &v1::Grant) -> (&'static str, &'static str) {
    match grant.state() {
        GrantState::Unspecified => ("unknown", "quiet"),
        GrantState::Pending => ("waiting", "warn"),
        GrantState::Active => ("active", "good"),
        GrantState::Ended => (ended(grant.end_reason()), tone(grant.end_reason())),
    }
}

fn tone(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Denied | EndReason::Revoked | EndReason::Quarantined => "bad",
        EndReason::Unspecified
        | EndReason::Completed
        | EndReason::Expired
        | EndReason::Abandoned
        | EndReason::Lapsed
        | EndReason::Withdrawn
        | EndReason::Policy
        | EndReason::Fenced => "quiet",
    }
}

/// A short span, as latencies are told: `3 ms`, `1.24 s`, `2 min`.
#[must_use]
pub fn brief(of: Duration) -> String {
    match of.as_millis() {
        0 => "under 1 ms".to_owned(),
        1..1_000 => format!("{} ms", of.as_millis()),
        1_000..120_000 => format!("{:.2} s", of.as_secs_f64()),
        _ => length(of),
    }
}

/// Two owners as one phrase.
#[must_use]
pub fn both(one: &str, other: &str) -> String {
    match (one, other) {
        ("", other) => other.to_owned(),
        (one, other) if other.is_empty() || one == other => one.to_owned(),
        (one, other) => format!("{one} and {other}"),
    }
}

/// A person or identity of the journal, without what kind it is.
#[must_use]
pub fn actor(text: &str) -> &str {
    text.split_once(':').map_or(text, |(_, name)| name)
}

/// `1 approval`, `2 approvals`.
#[must_use]
pub fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// How many people have said yes.
#[must_use]
pub fn given(grant: &v1::Grant) -> usize {
    grant.approvals.iter().filter(|given| given.approve).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_exact_enough() {
        for (secs, expect) in [
            (0, "0 s"),
            (45, "45 s"),
            (65, "1 min 5 s"),
            (900, "15 min"),
            (905, "15 min"),
            (5_400, "1 h 30 min"),
            (3_605, "1 h"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(length(Duration::from_secs(secs)), expect);
        }
    }

    #[test]
    fn a_moment_is_told_from_now() {
        let now = Time::from_secs(1_800_000_000);
        let soon = Moment::at(now + Duration::from_secs(540), now);
        assert_eq!((soon.clock.as_str(), soon.near.as_str()), ("08:09 UTC", "in 9 min"));
        assert_eq!(soon.iso, "2027-01-15T08:09:00Z");
        let past = Moment::at(Time::from_secs(1_799_900_000), now);
        assert_eq!(
            (past.clock.as_str(), past.near.as_str()),
            ("2027-01-14 04:13 UTC", "1 d 3 h ago")
        );
    }

    #[test]
    fn an_end_is_told_by_its_last_day() {
        let end = Timestamp { seconds: 1_800_000_000 / 86_400 * 86_400, nanos: 0 };
        let last = Moment::last_day(&end, Time::from_secs(1_799_900_000));
        assert_eq!((last.iso.as_str(), last.clock.as_str()), ("2027-01-14", "2027-01-14"));
        assert_eq!(last.near, "in 19 h 46 min");
    }

    #[test]
    fn latencies_are_short() {
        for (micros, expect) in
            [(400, "under 1 ms"), (3_900, "3 ms"), (1_244_000, "1.24 s"), (180_000_000, "3 min")]
        {
            assert_eq!(brief(Duration::from_micros(micros)), expect);
        }
    }

    #[test]
    fn a_person_is_spoken_to() {
        assert_eq!(to_you("they are behind the request"), "you are behind the request");
        assert_eq!(to_you("no policy permits them to do it"), "no policy permits you to do it");
        assert_eq!(to_you("policy says no"), "policy says no");
    }

    #[test]
    fn names_are_quoted_as_in_print() {
        assert_eq!(quoted("from tier `a`, not `b`"), "from tier “a”, not “b”");
        assert_eq!(sentence("`olga` may not"), "“olga” may not.");
    }

    #[test]
    fn sentences_begin_and_end_as_such() {
        assert_eq!(sentence("the form did not come"), "The form did not come.");
        assert_eq!((sentence("Why?"), sentence("")), ("Why?".into(), "".into()));
    }
}
