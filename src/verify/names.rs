//! Names: parsed once at the door, cheap to clone, unambiguous when joined by `#`.

use std::fmt;
use std::sync::Arc;

/// A text that is not what it should be: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {why}")]
pub struct Malformed {
    /// The field, in the wire's spelling.
    pub field: &'static str,
    /// What is wrong, to be read after the field's name.
    pub why: &'static str,
}

/// The longest name in bytes: room for `team/service/part`, none for a payload.
pub const NAME_MAX: usize = 128;
/// The longest task id in bytes.
pub const TASK_MAX: usize = 200;
/// The longest subject in bytes: a SPIFFE ID has at most 2,048, and an issuer may stand before a subject.
pub const SUBJECT_MAX: usize = 2_560;
/// The longest purpose or note in bytes: a few sentences that an approver will read.
pub const PURPOSE_MAX: usize = 1_024;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $field:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl TryFrom<&str> for $name {
            type Error = Malformed;
            fn try_from(text: &str) -> Result<Self, Malformed> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| Malformed { field: $field, why })?;
                Ok(Self(text.into()))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", &*self.0) }
        }
    )*};
}

names! {
    /// A registered non-human identity: `payments/reconciler`.
    IdentityName, "identity", plain;
    /// A resource of the catalog: `orders-api`.
    ResourceName, "resource", plain;
    /// A scope of a resource: `orders:read`.
    ScopeName, "scope", scope;
    /// A gateway of the catalog: `edge-eu-1`.
    GatewayName, "gateway", plain;
    /// A person's stable name: `alice` of `people.toml`, or `<issuer>|<name claim>`.
    PersonName, "person", |text| short(text, SUBJECT_MAX);
    /// A group of `people.toml`.
    GroupName, "group", plain;
    /// A policy's `@id`.
    PolicyId, "policy", plain;
    /// A task's id as its workload chose it: 1 to 200 bytes of `[A-Za-z0-9._:/@-]`.
    TaskId, "task.id", task;
    /// A task's kind, a word that policies match on; may be empty.
    TaskKind, "task.kind", kind;
    /// Who authenticated: a SPIFFE ID, or `<issuer>|<sub>`.
    Subject, "subject", |text| short(text, SUBJECT_MAX);
    /// A signing key's id: its RFC 7638 thumbprint.
    KeyId, "key_id", |text| short(text, NAME_MAX);
}

impl Default for TaskKind {
    /// No kind: of a task that was held before anything was asked under it.
    fn default() -> Self {
        Self("".into())
    }
}

impl KeyId {
    /// The id of the key with this RFC 7638 thumbprint: its base64url.
    #[must_use]
    pub fn of_thumbprint(sha256: &[u8; 32]) -> Self {
        Self(data_encoding::BASE64URL_NOPAD.encode(sha256).into())
    }
}

fn plain(text: &str) -> Result<(), &'static str> {
    spelled(text, |byte| matches!(byte, b'.' | b'_' | b'/' | b'-'))
}

fn scope(text: &str) -> Result<(), &'static str> {
    spelled(text, |byte| matches!(byte, b'.' | b'_' | b'/' | b'-' | b':'))
}

fn spelled(text: &str, mark: fn(u8) -> bool) -> Result<(), &'static str> {
    let Some(first) = text.bytes().next() else { return Err("is empty") };
    if text.len() > NAME_MAX {
        return Err("is longer than 128 bytes");
    }
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err("does not begin with a lower-case letter or a digit");
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || mark(byte)) {
        return Err("has a character that names do not have (lower case, digits and . _ / - only)");
    }
    Ok(())
}

fn task(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > TASK_MAX {
        return Err("is longer than 200 bytes");
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    if !text.bytes().all(known) {
        return Err("has a character outside [A-Za-z0-9._:/@-]");
    }
    Ok(())
}

fn kind(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Ok(()) } else { plain(text) }
}

fn short(text: &str, max: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > max {
        return Err("is too long");
    }
    if text.chars().any(never_taken) {
        return Err("has control or direction characters");
    }
    Ok(())
}

/// Free words of a person or workload: a purpose, a note, an outcome. At most 1,024 bytes, without control or bidi characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Words(Arc<str>);

impl Words {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses `text` as the value of `field`; an empty text is allowed.
    ///
    /// # Errors
    /// When it is longer than [`PURPOSE_MAX`] or holds characters that hide or reorder what is read (Trojan Source).
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Malformed> {
        if text.len() > PURPOSE_MAX {
            return Err(Malformed { field, why: "is longer than 1,024 bytes" });
        }
        if text.chars().any(unprintable) {
            return Err(Malformed { field, why: "has control, direction or invisible characters" });
        }
        Ok(Self(text.into()))
    }

    /// Words that were taken when they were written. What is refused since is still read, and shown escaped.
    ///
    /// # Errors
    /// When no version took them.
    pub fn recorded(text: &str) -> Result<Self, Malformed> {
        if text.len() > PURPOSE_MAX || text.chars().any(never_taken) {
            return Err(Malformed { field: "words", why: "are none that were ever taken" });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character could hide or reorder what a reader sees on a terminal or page, or is itself not seen there (Unicode's
/// `Default_Ignorable_Code_Point`). Only the two that choose how an emoji looks are let through.
#[must_use]
pub fn unprintable(letter: char) -> bool {
    never_taken(letter)
        || matches!(
            letter,
            '\u{ad}'
                | '\u{34f}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0d}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Those that no version let in. Names and bundles are judged by these, as older ones are read again; all others that are
/// [`unprintable`] are shown escaped.
#[must_use]
pub fn never_taken(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words() {
        for good in ["a", "payments/reconciler", "0-9._/x"] {
            assert!(IdentityName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a b", "a#b", "a:b", "ä", "Payments", " a", "a\u{200b}", "a\0"]
        {
            assert!(IdentityName::try_from(bad).is_err(), "{bad}");
        }
        assert!(ScopeName::try_from("orders:read").is_ok());
        assert!(IdentityName::try_from("x".repeat(NAME_MAX + 1).as_str()).is_err());
    }

    #[test]
    fn words_hide_nothing() {
        assert!(Words::parse("purpose", "INC-42: refund, as agreed").is_ok());
        for good in [
            "\u{26a0}\u{fe0f} soon",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
            "na\u{ef}ve",
            "\u{d55c}\u{ae00}",
        ] {
            assert!(Words::parse("purpose", good).is_ok(), "{good:?}");
        }
        for bad in ["\u{1b}[31m", "a\u{202e}b", "a\nb"] {
            assert!(Words::parse("purpose", bad).is_err());
            assert!(Words::recorded(bad).is_err());
        }
    }

    /// A name, a hyphen or a whole text that nobody sees: soft hyphen, fillers, and the tags that spell ASCII unseen.
    #[test]
    fn attack_words_that_nobody_sees() {
        for letter in [
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{17b5}',
            '\u{180e}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0000}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
            '\u{e0fff}',
        ] {
            let text = format!("a{letter}b");
            assert!(Words::parse("purpose", &text).is_err(), "{text:?}");
            // A journal of before may hold it.
            assert_eq!(Words::recorded(&text).unwrap().as_str(), text);
        }
    }
}
