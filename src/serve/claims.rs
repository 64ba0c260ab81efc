//! The registered claims of a foreign token: for whom, by which client, from when and until when.

use std::time::Duration;

use protem_verify::codes::caller;
use protem_verify::time::Time;
use serde_json::{Map, Value};

use crate::serve::jwt::{Rejected, clean, reject, unreadable};
use crate::serve::limits::CLOCK_LEEWAY;

/// The audience must be among the token's (RFC 8725 §3.9).
///
/// # Errors
/// When it is not, or `aud` is neither a text nor a list of texts.
pub fn check_audience(claims: &Map<String, Value>, audience: &str) -> Result<(), Rejected> {
    let wrong = |found: &str| {
        let why = format!("the caller token is for {found}, and this broker wants `{audience}`");
        reject(caller::WRONG_AUDIENCE, &why)
    };
    let texts: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            many.iter().filter_map(Value::as_str).collect()
        }
        None
        | Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_),
        ) => return Err(wrong("nobody (its `aud` is no text or list of texts)")),
    };
    if !audience.is_empty() && texts.contains(&audience) {
        return Ok(());
    }
    let named: Vec<String> =
        texts.iter().take(AUDIENCES_SHOWN).map(|text| format!("`{}`", clean(text))).collect();
    Err(wrong(if named.is_empty() { "nobody".to_owned() } else { named.join(", ") }.as_str()))
}

/// Of an id token: whom it was made for is this client and no other, whoever else may read it.
///
/// # Errors
/// When `azp` is there and is another.
pub fn check_client(claims: &Map<String, Value>, client: &str) -> Result<(), Rejected> {
    let party = match claims.get("azp") {
        None => return Ok(()),
        Some(Value::String(party)) if party == client => return Ok(()),
        Some(Value::String(party)) => format!("the client `{}`", clean(party)),
        Some(_) => "no client (its `azp` is no text)".to_owned(),
    };
    let why = format!("the caller token was made for {party}, and this broker's is `{client}`");
    Err(reject(caller::WRONG_AUDIENCE, &why))
}

/// Its end; it has begun and is not over.
///
/// # Errors
/// When a time is missing, is no whole number of seconds, or says so.
pub fn check_times(claims: &Map<String, Value>, now: Time) -> Result<Time, Rejected> {
    let expires = number(claims, "exp")?.ok_or(unreadable("has no `exp`"))?;
    let soon = now + CLOCK_LEEWAY;
    for name in ["nbf", "iat"] {
        if let Some(from) = number(claims, name)?.filter(|from| *from > soon) {
            let why = format!(
                "the caller token is not valid yet: its `{name}` is {}, {} ahead of this broker's clock",
                shown(from),
                length(from.since(now)),
            );
            return Err(reject(caller::TOKEN_EARLY, &why));
        }
    }
    if expires <= now {
        let why = format!(
            "the caller token expired at {}, {} ago by this broker's clock",
            shown(expires),
            length(now.since(expires)),
        );
        return Err(reject(caller::TOKEN_EXPIRED, &why));
    }
    Ok(expires)
}

/// A moment as people write it, in UTC.
fn shown(at: Time) -> String {
    let since = Duration::from_secs(at.as_secs());
    let at = std::time::UNIX_EPOCH.checked_add(since).unwrap_or(std::time::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A length of time in whole seconds, as people write it.
#[must_use]
pub fn length(of: Duration) -> String {
    humantime::format_duration(Duration::from_secs(of.as_secs())).to_string()
}

/// A NumericDate: whole seconds. Anything else under that name is an error, never an absent claim (CVE-2026-25537).
fn number(claims: &Map<String, Value>, name: &str) -> Result<Option<Time>, Rejected> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_u64().filter(|seconds| *seconds < SECONDS_MAX);
    let seconds = seconds
        .ok_or_else(|| unreadable(&format!("has a `{name}` that is no whole number of seconds")))?;
    Ok(Some(Time::from_secs(seconds)))
}

/// A claim that is a text and not empty.
///
/// # Errors
/// When it is not.
pub fn text_of<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<&'c str, Rejected> {
    let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| unreadable(&format!("has no `{name}`")))
}

/// Audiences of a token that an error names.
const AUDIENCES_SHOWN: usize = 4;
/// NumericDates from here on are mistakes: the year 9999.
const SECONDS_MAX: u64 = 253_402_300_800;
