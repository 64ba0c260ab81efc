//! The context of a question, as Cedar wants it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cedar_policy::{Context, Entity, EntityUid, RestrictedExpression};
use protem_core::request::Task;
use protem_core::usual::{WORDS, word};
use protem_verify::time::Time;

use crate::policy::ask::Ask;
use crate::policy::entities::{Kind, Store};
use crate::policy::login::{Claim, Login};

/// The id of a request's one login entity.
const LOGIN: &str = "this";

/// The context of `issue`, `request` and `emergency`.
///
/// # Errors
/// When Cedar does not take it, such as a moment beyond its calendar.
pub fn access(store: &Store, ask: &Ask<'_>, lifetime: Duration) -> Result<Context, String> {
    let pairs = [
        ("task", task(&ask.request.task)?),
        ("lifetime", store.literals.span(lifetime)),
        ("now", store.literals.moment(ask.now)?),
        ("region", text(ask.region)),
        ("login", RestrictedExpression::new_entity_uid(store.uid(Kind::Login, LOGIN))),
        ("bound", RestrictedExpression::new_bool(false)),
        ("active", RestrictedExpression::new_long(ask.active.into())),
        ("findings", findings(ask.findings)),
    ];
    context(pairs)
}

/// The context of `approve`.
///
/// # Errors
/// As [`access`].
pub fn approve(
    identity: EntityUid,
    of: &Task,
    lifetime: Duration,
    now: Time,
    unusual: &[String],
) -> Result<Context, String> {
    context([
        ("identity", RestrictedExpression::new_entity_uid(identity)),
        ("task", task(of)?),
        ("lifetime", span(lifetime)),
        ("now", moment(now)?),
        ("findings", findings(unusual)),
    ])
}

/// The context of what operators and auditors do.
///
/// # Errors
/// As [`access`].
pub fn operate(now: Time) -> Result<Context, String> {
    context([("now", moment(now)?)])
}

/// The entity that is a request's login: texts are tags, `sub` is one of them; a list has no tag.
///
/// # Errors
/// When Cedar does not take it.
pub fn login(store: &Store, login: &Login) -> Result<Entity, String> {
    let texts = login.claims.iter().filter_map(|(name, claim)| match claim {
        Claim::Text(value) => Some((name.clone(), text(value))),
        Claim::List(_) => None,
    });
    let tags: std::collections::BTreeMap<_, _> =
        texts.chain([("sub".to_owned(), text(&login.subject))]).collect();
    let attributes = [("issuer".to_owned(), text(&login.issuer))];
    Entity::new_with_tags(store.uid(Kind::Login, LOGIN), attributes, [], tags)
        .map_err(|error| error.to_string())
}

/// What was unusual when a request was asked, with what is unusual about its use now.
#[must_use]
pub fn in_use(recorded: &[String], of_use: &[String]) -> Vec<String> {
    let lasting = recorded.iter().filter(|finding| !OF_USE.contains(&word(finding)));
    lasting.chain(of_use).cloned().collect()
}

/// The findings that gateways' reports make; the others are of what was granted before.
const OF_USE: [&str; 3] = ["unusual-volume", "unusual-operation", "refused-spike"];

/// Every word that `findings` may hold.
pub fn words() -> impl Iterator<Item = &'static str> {
    WORDS.into_iter().chain(OF_USE)
}

/// Moments and spans that were written for Cedar before. Each is a call of a function whose name Cedar parses anew, which
/// costs more than the decision.
#[derive(Debug, Default)]
pub struct Literals {
    now: Mutex<Option<(Time, RestrictedExpression)>>,
    spans: Mutex<HashMap<Duration, RestrictedExpression>>,
}

/// Spans kept: lifetimes are few, and one that is asked for once is written again.
const SPANS_MAX: usize = 64;

impl Literals {
    /// A moment in whole seconds, so that requests of one second share it.
    fn moment(&self, now: Time) -> Result<RestrictedExpression, String> {
        let second = Time::from_secs(now.as_secs());
        if let Some((_, known)) = held(&self.now).as_ref().filter(|(at, _)| *at == second) {
            return Ok(known.clone());
        }
        let made = moment(second)?;
        *held(&self.now) = Some((second, made.clone()));
        Ok(made)
    }

    fn span(&self, duration: Duration) -> RestrictedExpression {
        let mut spans = held(&self.spans);
        if let Some(known) = spans.get(&duration) {
            return known.clone();
        }
        if spans.len() >= SPANS_MAX {
            spans.clear();
        }
        spans.entry(duration).or_insert_with(|| span(duration)).clone()
    }
}

fn held<T>(memo: &Mutex<T>) -> MutexGuard<'_, T> {
    memo.lock().unwrap_or_else(PoisonError::into_inner)
}

fn context<const N: usize>(pairs: [(&str, RestrictedExpression); N]) -> Result<Context, String> {
    let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

fn task(task: &Task) -> Result<RestrictedExpression, String> {
    let fields = [("id", task.id.as_str()), ("kind", task.kind.as_str())];
    let fields = fields.map(|(name, value)| (name.to_owned(), text(value)));
    RestrictedExpression::new_record(fields).map_err(|error| error.to_string())
}

fn findings(all: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(all.iter().map(|finding| text(word(finding))))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn span(duration: Duration) -> RestrictedExpression {
    RestrictedExpression::new_duration(format!("{}ms", duration.as_millis()))
}

/// Cedar reads moments as RFC 3339 in milliseconds.
fn moment(now: Time) -> Result<RestrictedExpression, String> {
    let millis = i64::try_from(now.as_millis()).map_err(|error| error.to_string())?;
    let stamp = jiff::Timestamp::from_millisecond(millis).map_err(|error| error.to_string())?;
    Ok(RestrictedExpression::new_datetime(format!("{stamp:.3}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_findings_from_use_are_replaced() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let recorded = texts(&["unusual-hour: 03:12", "unusual-volume: 1", "refused-spike: 2"]);
        assert_eq!(in_use(&recorded, &[]), ["unusual-hour: 03:12"]);
        let now = texts(&["refused-spike: 9"]);
        assert_eq!(in_use(&recorded, &now), ["unusual-hour: 03:12", "refused-spike: 9"]);
    }
}
