//! Reading single values of a bundle's TOML: each either is what it should be or a finding at its place.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use protem_verify::codes::{Code, policy};
use protem_verify::names::{GroupName, Malformed, PersonName, never_taken};
use protem_verify::time::Time;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::value::Datetime;

use crate::policy::catalog::{Owner, Owners, People, Rate};
use crate::policy::finding::{At, Findings, Source, did_you_mean, nearest};
use crate::policy::raw::{self, Text};

/// One file that is read, and what was found in it.
pub struct Reading<'a> {
    /// The file.
    pub source: &'a Source,
    /// What was found.
    pub findings: &'a mut Findings,
}

impl Reading<'_> {
    /// The whole file as `T`.
    pub fn toml<T: DeserializeOwned>(&mut self) -> Option<T> {
        match toml::from_str(&self.source.text) {
            Ok(value) => Some(value),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let message = error.message().replace('\n', " ");
                self.error(&span, policy::BAD_FILE, suggest(&message));
                None
            }
        }
    }

    /// Records an error at `span`.
    pub fn error(&mut self, span: &Range<usize>, code: Code, message: impl Into<String>) {
        self.findings.error(&self.source.at(span), code, message);
    }

    /// The place of a value.
    pub fn at<T>(&self, value: &Spanned<T>) -> At {
        self.source.at(&value.span())
    }

    /// A name, spelled as its type wants it.
    pub fn name<'t, N: TryFrom<&'t str, Error = Malformed>>(
        &mut self,
        text: &'t Text,
    ) -> Option<N> {
        match N::try_from(text.get_ref()) {
            Ok(name) => Some(name),
            Err(bad) => {
                let message = format!("the name `{}` {}", text.get_ref(), bad.why);
                self.error(&text.span(), policy::BAD_NAME, message);
                None
            }
        }
    }

    /// A name without a type of its own (a tier, class, team, secret or issuer), spelled as a resource's.
    pub fn plain(&mut self, text: &Text) -> Option<Arc<str>> {
        let name: protem_verify::names::ResourceName = self.name(text)?;
        Some(name.as_str().into())
    }

    /// A purpose: words, one at least.
    pub fn purpose(&mut self, text: Option<&Text>, what: &str, key: &Text) -> Option<String> {
        match text {
            Some(text) if !text.get_ref().trim().is_empty() => self.words(text),
            _ => {
                let message = format!("{what} `{}` has no `purpose`", key.get_ref());
                self.error(&key.span(), policy::NO_PURPOSE, message);
                None
            }
        }
    }

    /// Words that people will read: nothing that hides or reorders.
    pub fn words(&mut self, text: &Text) -> Option<String> {
        if text.get_ref().len() > WORDS_MAX || text.get_ref().chars().any(never_taken) {
            let message =
                format!("a text is longer than {WORDS_MAX} bytes or has control characters");
            self.error(&text.span(), policy::BAD_VALUE, message);
            return None;
        }
        Some(text.get_ref().clone())
    }

    /// A duration in humantime within `range`.
    pub fn duration(&mut self, text: &Text, range: RangeInclusive<Duration>) -> Option<Duration> {
        match duration(text.get_ref(), range) {
            Ok(duration) => Some(duration),
            Err(message) => {
                self.error(&text.span(), policy::BAD_VALUE, message);
                None
            }
        }
    }

    /// A count from 1.
    pub fn count(&mut self, value: Option<&Spanned<u32>>, default: u32) -> Option<u32> {
        match value {
            None => Some(default),
            Some(value) if *value.get_ref() == 0 => {
                self.error(&value.span(), policy::BAD_VALUE, "write a number from 1");
                None
            }
            Some(value) => Some(*value.get_ref()),
        }
    }

    /// A rate: `50/s`, `100/m`, `1000/h`.
    pub fn rate(&mut self, text: &Text) -> Option<Rate> {
        let parsed = text.get_ref().split_once('/').and_then(|(count, per)| {
            let count = count.trim().parse().ok().filter(|count| *count > 0)?;
            let secs = match per.trim() {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                _ => return None,
            };
            Some(Rate { count, per: Duration::from_secs(secs) })
        });
        if parsed.is_none() {
            let message = format!("`{}` is no rate, write it like `50/s`", text.get_ref());
            self.error(&text.span(), policy::BAD_VALUE, message);
        }
        parsed
    }

    /// The start of a day (UTC) and the end of it.
    pub fn day(&mut self, value: &Spanned<Datetime>) -> Option<(Time, Time)> {
        let date = value.get_ref();
        let whole = date.time.is_none() && date.offset.is_none();
        let start = whole.then(|| moment(&format!("{date}T00:00:00Z"))).flatten();
        if start.is_none() {
            let message = format!("`{date}` is no day, write it like 2027-03-01, without quotes");
            self.error(&value.span(), policy::BAD_VALUE, message);
        }
        start.map(|start| (start, start + DAY))
    }

    /// Both owners, each of which must exist.
    pub fn owners(
        &mut self,
        raw: Option<&raw::Owner>,
        what: &str,
        key: &Text,
        people: &People,
    ) -> Option<Owners> {
        let both = raw.and_then(|raw| raw.business.as_ref().zip(raw.technical.as_ref()));
        let Some((business, technical)) = both else {
            let message = format!(
                "{what} `{}` needs `owner = {{ business = \"group:…\", technical = \"group:…\" }}`",
                key.get_ref()
            );
            self.error(&key.span(), policy::NO_OWNER, message);
            return None;
        };
        let (business, technical) = (self.owner(business, people), self.owner(technical, people));
        Some(Owners { business: business?, technical: technical? })
    }

    fn owner(&mut self, text: &Text, people: &People) -> Option<Owner> {
        let found = match text.get_ref().split_once(':') {
            Some(("group", name)) => GroupName::try_from(name)
                .ok()
                .filter(|name| people.groups.contains_key(name))
                .map(Owner::Group),
            Some(("person", name)) => PersonName::try_from(name)
                .ok()
                .filter(|name| people.persons.contains_key(name))
                .map(Owner::Person),
            _ => None,
        };
        if found.is_none() {
            let groups = people.groups.keys().map(|name| format!("group:{name}"));
            let persons = people.persons.keys().map(|name| format!("person:{name}"));
            let known: Vec<String> = groups.chain(persons).collect();
            // The kind is often forgotten: `payments-leads` is near to nothing, and meant is clear.
            let full = known
                .iter()
                .find(|name| name.split_once(':').map(|(_, bare)| bare) == Some(text.get_ref()));
            let hint = full.map_or_else(
                || did_you_mean(text.get_ref(), known.iter().map(String::as_str)),
                |name| format!(", did you mean `{name}`?"),
            );
            let message =
                format!("`{}` is no group or person of people.toml{hint}", text.get_ref());
            let named = text.get_ref().split_once(':').unwrap_or(("", text.get_ref()));
            let at = self.source.at(&text.span());
            self.findings.missing(&at, policy::UNKNOWN_OWNER, named, message);
        }
        found
    }

    /// Records that `text` names no `what`, with the nearest that exists.
    pub fn unknown<'k>(&mut self, text: &Text, what: &str, known: impl Iterator<Item = &'k str>) {
        let hint = did_you_mean(text.get_ref(), known);
        let message = format!("there is no {what} `{}`{hint}", text.get_ref());
        let kind = what.split(' ').next().unwrap_or(what);
        let at = self.source.at(&text.span());
        self.findings.missing(&at, policy::UNKNOWN_REFERENCE, (kind, text.get_ref()), message);
    }
}

/// The longest text of a purpose or instruction in bytes: a few sentences.
const WORDS_MAX: usize = 1_024;
/// One day.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A moment in RFC 3339.
#[must_use]
pub fn moment(text: &str) -> Option<Time> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(stamp.as_millisecond()).ok().map(Time::from_millis)
}

/// A duration in humantime within `range`.
///
/// # Errors
/// Says what to write instead.
pub fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no duration, write it like `1h 30m`"))?;
    if range.contains(&parsed) {
        return Ok(parsed);
    }
    let (least, most) = (spoken(*range.start()), spoken(*range.end()));
    Err(format!("`{text}` is out of range, write {least} to {most}"))
}

/// A duration as people write it: `1h 30m`, `90d`.
#[must_use]
pub fn spoken(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, size) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        let count = millis.div_euclid(size);
        millis = millis.rem_euclid(size);
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Adds the nearest of the names that a message lists: "unknown field `purpos`, expected one of `purpose`, …".
fn suggest(message: &str) -> String {
    let Some((head, tail)) = message.split_once(", expected") else { return message.to_owned() };
    let quoted = |text: &str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let (given, known) = (quoted(head), quoted(tail));
    let near = given.first().and_then(|given| nearest(given, known.iter().map(String::as_str)));
    match near {
        Some(name) => format!("{head}, did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_answered_with_the_nearest() {
        let said = suggest("unknown field `purpos`, expected one of `purpose`, `owner`");
        assert_eq!(said, "unknown field `purpos`, did you mean `purpose`?");
    }

    #[test]
    fn durations_are_bounded() {
        let range = Duration::from_secs(10)..=Duration::from_secs(3_600);
        for (text, good) in [
            ("15m", true),
            ("1h", true),
            ("10s", true),
            ("9s", false),
            ("61m", false),
            ("1", false),
        ] {
            assert_eq!(duration(text, range.clone()).is_ok(), good, "{text}");
        }
        for absurd in ["-1s", "999999999999999999999y", "18446744073709551615s", ""] {
            assert!(duration(absurd, range.clone()).is_err(), "{absurd}");
        }
    }
}
