//! SPIFFE IDs, by a grammar that knows one spelling of each name.

use std::fmt;

/// A workload's name, `spiffe://trust-domain/path` (SPIFFE-ID §2); one that exists keeps the grammar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    /// Where the trust domain ends in `text`.
    domain_end: usize,
}

/// Why a text is none, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SPIFFE ID {0}")]
pub struct NoSpiffeId(&'static str);

/// What each begins with.
const SCHEME: &str = "spiffe://";
/// The longest SPIFFE ID (SPIFFE-ID §2.3).
const ID_MAX: usize = 2_048;
/// The longest trust domain (SPIFFE-ID §2.1).
const DOMAIN_MAX: usize = 255;

impl SpiffeId {
    /// Reads an ID by the grammar, which knows no second spelling of the same name: no percent-encoding, no case folding,
    /// no empty or dotted segments (SPIFFE-ID §2.1–2.3).
    ///
    /// # Errors
    /// When it does not keep the grammar, names a trust domain alone, or is longer than 2,048 bytes.
    pub fn parse(text: &str) -> Result<Self, NoSpiffeId> {
        let unfit = |why| Err(NoSpiffeId(why));
        if text.len() > ID_MAX {
            return unfit("is longer than 2048 bytes");
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return unfit("does not begin with `spiffe://`");
        };
        let Some((domain, path)) = rest.split_once('/') else {
            return unfit("names a trust domain, not a workload");
        };
        if !is_trust_domain(domain) {
            return unfit("has a trust domain that is not of `a-z 0-9 . - _`");
        }
        let is_segment = |segment: &str| {
            let plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
        };
        if !path.split('/').all(is_segment) {
            return unfit("has a path segment that is empty, dots, or not of `a-z A-Z 0-9 . - _`");
        }
        Ok(Self { text: text.to_owned(), domain_end: SCHEME.len().saturating_add(domain.len()) })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.domain_end).unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether this is the name of a trust domain (SPIFFE-ID §2.1).
#[must_use]
pub fn is_trust_domain(name: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    !name.is_empty() && name.len() <= DOMAIN_MAX && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<&str, &str>) {
        match (SpiffeId::parse(text), expect) {
            (Ok(id), Ok(domain)) => assert_eq!((id.domain(), id.as_str()), (domain, text)),
            (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{text}: {why}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    /// Rows 34, 35 and 37: one name has one spelling.
    #[test]
    fn attack_spellings_of_a_spiffe_id() {
        check("spiffe://shop.example/ns/pay/sa/agent", Ok("shop.example"));
        check("spiffe://a/B_9.x-y", Ok("a"));
        check("SPIFFE://shop.example/a", Err("does not begin"));
        check("https://shop.example/a", Err("does not begin"));
        check("spiffe:/shop.example/a", Err("does not begin"));
        for root in ["spiffe://shop.example", "spiffe://"] {
            check(root, Err("not a workload"));
        }
        for domain in
            ["Shop.example", "shop.example:443", "u@shop", "shop%2eexample", "ſhop", "", " a"]
        {
            check(&format!("spiffe://{domain}/a"), Err("trust domain"));
        }
        for path in
            ["", "a/", "/a", "a//b", ".", "a/../b", "a%2fb", "a?b", "a#b", "a b", "a\0", "ä", "*"]
        {
            check(&format!("spiffe://shop.example/{path}"), Err("path segment"));
        }
        let long = |bytes: usize| format!("spiffe://a/{}", "x".repeat(bytes - 11));
        check(&long(2_048), Ok("a"));
        check(&long(2_049), Err("longer"));
        check(&format!("spiffe://{}/x", "d".repeat(256)), Err("trust domain"));
    }
}
