//! Identifiers: 16 random bytes inside, readable text at the edge.

use std::fmt;
use std::str::FromStr;

use crate::names::Malformed;

/// A grant's id: a UUIDv7's bytes, so ids sort by creation. Text: `gr_` and 26 characters of Crockford's base 32, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub [u8; 16]);

/// A journal's id: random, made once when the journal is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(pub [u8; 16]);

/// The id of one turn, stored with its rows, so that an unknown commit can be looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId(pub [u8; 16]);

/// The id of one stream that holds a task; a newer hold replaces an older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub [u8; 16]);

/// An idempotency key: a UUIDv7 that the workload chose. Text: the usual hyphenated hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

/// A position in a journal; the first entry is 1, 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A life of a journal: its starting Unix milliseconds; a restore begins a greater one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A SHA-256.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl GrantId {
    /// The text form, `gr_` and 26 characters.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u128::from_be_bytes(self.0);
        let mut digits = [0_u8; 26];
        for digit in digits.iter_mut().rev() {
            let low = usize::try_from(rest & 31).unwrap_or(0);
            *digit = ALPHABET.get(low).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        write!(f, "gr_{}", str::from_utf8(&digits).unwrap_or_default())
    }
}

impl FromStr for GrantId {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = |why| Malformed { field: "grant", why };
        let digits = text.strip_prefix("gr_").ok_or(bad("does not begin with `gr_`"))?;
        if digits.len() != 26 {
            return Err(bad("is not `gr_` and 26 characters"));
        }
        let mut value: u128 = 0;
        for (at, digit) in digits.bytes().enumerate() {
            let low = ALPHABET.iter().position(|known| *known == digit);
            let low = low.ok_or(bad("has a character that no grant id has"))?;
            if at == 0 && low > 7 {
                return Err(bad("is larger than any grant id"));
            }
            value = (value << 5) | u128::try_from(low).unwrap_or(0);
        }
        Ok(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for RequestId {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = |why| Malformed { field: "request_id", why };
        let mut bytes = [0_u8; 16];
        let mut nibbles = text.bytes().filter(|byte| *byte != b'-');
        let hyphens: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
        if text.len() != 36 || hyphens != [8, 13, 18, 23] {
            return Err(bad("is not a UUID (8-4-4-4-12 hex digits)"));
        }
        for byte in &mut bytes {
            let (high, low) = (nibbles.next().and_then(hex), nibbles.next().and_then(hex));
            let (Some(high), Some(low)) = (high, low) else {
                return Err(bad("is not a UUID (8-4-4-4-12 hex digits)"));
            };
            *byte = (high << 4) | low;
        }
        let [_, _, _, _, _, _, version, _, variant, ..] = bytes;
        if version >> 4 != 7 || variant >> 6 != 2 {
            return Err(bad("is not a UUIDv7"));
        }
        Ok(Self(bytes))
    }
}

impl RequestId {
    /// The Unix milliseconds that a UUIDv7 opens with (RFC 9562 §5.7).
    #[must_use]
    pub fn millis(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

macro_rules! hex_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                for byte in self.0 { write!(f, "{byte:02x}")?; }
                f.write_str(")")
            }
        }
    )*};
}
hex_debug!(GrantId, JournalId, TurnId, HoldId, RequestId, Hash);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Crockford's base 32 without i, l, o and u, in lower case: no two characters look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_ids_read_back_and_sort() {
        for value in [0, 1, 31, 32, u128::MAX / 3, u128::MAX] {
            let id = GrantId(value.to_be_bytes());
            assert_eq!(id.text().len(), 29);
            assert_eq!(id.text().parse(), Ok(id));
        }
        assert!(GrantId(5_u128.to_be_bytes()).text() < GrantId(77_u128.to_be_bytes()).text());
    }

    #[test]
    fn bad_grant_ids_are_refused() {
        for text in ["", "gr_", "gr_0000000000000000000000000u", "gr_80000000000000000000000000"] {
            assert!(text.parse::<GrantId>().is_err(), "{text}");
        }
    }

    #[test]
    fn request_ids_are_version_7() {
        let good = "01939b2e-7c00-7abc-8def-0123456789ab";
        assert_eq!(good.parse::<RequestId>().map(|id| id.to_string()), Ok(good.into()));
        for text in ["", "01939b2e7c007abc8def0123456789ab", "01939b2e-7c00-4abc-8def-0123456789ab"]
        {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }
}
