//! Strict JSON: a member that is named twice, and a number that is not whole, are refused instead of guessed about.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value as our own tokens, key sets and catalogs have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number from 0 to [`NUMBER_MAX`].
    Number(u64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object, each name once.
    Members(BTreeMap<String, Json>),
}

/// The greatest number: beyond it other languages' readers round (RFC 8259 §6).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;
/// How deep values may nest: ours need five; more only costs stack.
pub const DEPTH_MAX: usize = 16;

impl Json {
    /// Reads one whole value.
    ///
    /// # Errors
    /// When it is no JSON, names a member twice, nests deeper than [`DEPTH_MAX`] or holds a number that is negative, a
    /// fraction, written with an exponent, or above [`NUMBER_MAX`].
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        if too_deep(text) {
            return Err(Unreadable);
        }
        serde_json::from_slice(text).map_err(|_| Unreadable)
    }

    /// The string, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let Self::Text(text) = self else { return None };
        Some(text)
    }

    /// The number, if it is one.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let Self::Number(number) = self else { return None };
        Some(*number)
    }

    /// The elements, if it is an array.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        let Self::List(list) = self else { return None };
        Some(list)
    }

    /// The members, if it is an object.
    #[must_use]
    pub fn members(&self) -> Option<&BTreeMap<String, Self>> {
        let Self::Members(members) = self else { return None };
        Some(members)
    }

    /// The members, taken out, if it is an object.
    #[must_use]
    pub fn into_members(self) -> Option<BTreeMap<String, Self>> {
        let Self::Members(members) = self else { return None };
        Some(members)
    }
}

/// The text is not strict JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not strict JSON")]
pub struct Unreadable;

/// Counts brackets outside strings, before anything is built.
fn too_deep(text: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth = depth.saturating_add(1),
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        if number > NUMBER_MAX {
            return Err(E::custom("number out of range"));
        }
        Ok(Json::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            list.push(element);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.insert(name, map.next_value()?).is_some() {
                return Err(A::Error::custom("a member is named twice"));
            }
        }
        Ok(Json::Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_json_is_read_and_the_rest_refused() {
        for good in ["null", "{}", r#"{"a":1,"b":[true,"x"]}"#, "9007199254740991"] {
            assert!(Json::parse(good.as_bytes()).is_ok(), "{good}");
        }
        let deep = "[".repeat(17) + &"]".repeat(17);
        for bad in [
            "",
            "{",
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            "-1",
            "1.0",
            "1e3",
            "9007199254740992",
            "18446744073709551616",
            "{} {}",
            "[1,]",
            deep.as_str(),
        ] {
            assert!(Json::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
