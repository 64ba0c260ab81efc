//! Which headers are a gateway's own, what passes for them, and the one credential of a call.

/// The headers that tell the API who calls, in the order of [`crate::decision::Pass::identity`].
pub const IDENTITY: [&str; 4] =
    ["x-protem-identity", "x-protem-grant", "x-protem-task", "x-protem-scope"];
/// What all our headers begin with.
const OURS: &str = "x-protem-";

/// Whether some server could take this name for a header of ours: many read `_` as `-`, and CGI's heirs any mark at all.
#[must_use]
pub fn passes_for_ours(name: &str) -> bool {
    name.len() >= OURS.len() && name.bytes().zip(OURS.bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// Whether some server could take `name` for `other`.
#[must_use]
pub fn alike(name: &str, other: &str) -> bool {
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(|(a, b)| plain(a) == plain(b))
}

const fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Headers by which a caller gives its call another method or path once it has been let through: many frameworks obey them.
const OVERRIDES: [&str; 5] = [
    "x-http-method-override",
    "x-method-override",
    "x-http-method",
    "x-original-url",
    "x-rewrite-url",
];

/// Whether some server could take this name for one that says that another operation is meant.
#[must_use]
pub fn overrides_operation(name: &str) -> bool {
    OVERRIDES.iter().any(|known| alike(name, known))
}

/// Whether a `Connection` header names what must reach the API: a hop that honours it would take that away again.
#[must_use]
pub fn takes_ours_away(connection: &[u8], also: Option<&str>) -> bool {
    let text = String::from_utf8_lossy(connection);
    text.split(',')
        .map(str::trim)
        .any(|named| passes_for_ours(named) || also.is_some_and(|also| alike(named, also)))
}

/// The token of exactly one `Authorization: Bearer` header among these values. A proxy that joined two with a comma is
/// refused by the token's alphabet.
#[must_use]
pub fn bearer<'call>(mut values: impl Iterator<Item = &'call [u8]>) -> Option<&'call str> {
    let (only, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = std::str::from_utf8(only).ok()?.split_once(' ')?;
    let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (scheme.eq_ignore_ascii_case("bearer") && plain).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_for_ours_is_known_in_every_spelling() {
        for name in [
            "x-protem-grant",
            "X_Protem_Grant",
            "X-PROTEM_task",
            "x.protem.scope",
            "x-protem-",
            "x!protem~grant",
        ] {
            assert!(passes_for_ours(name), "{name}");
        }
        for name in ["x-protem", "protem-grant", "xx-protem-grant", "x-protemgrant", ""] {
            assert!(!passes_for_ours(name), "{name}");
        }
        assert!(alike("X_Api_Key", "x-api-key") && !alike("x-api-keys", "x-api-key"));
    }

    #[test]
    fn a_header_that_means_another_operation_is_known_in_every_spelling() {
        for name in OVERRIDES {
            assert!(overrides_operation(name) && overrides_operation(&name.to_uppercase()));
            assert!(overrides_operation(&name.replace('-', "_")), "{name}");
        }
        // What a proxy itself says.
        for name in ["x-original-uri", "x-original-method", "x-forwarded-method"] {
            assert!(!overrides_operation(name), "{name}");
        }
    }

    #[test]
    fn a_connection_header_that_names_ours_is_found() {
        for value in ["X-Protem-Grant", "close, x_protem_scope", "keep-alive,\tx-api-key"] {
            assert!(takes_ours_away(value.as_bytes(), Some("X-Api-Key")), "{value}");
        }
        assert!(!takes_ours_away(b"keep-alive, upgrade, x-api-key\xff", Some("x-api-key")));
        assert!(!takes_ours_away(b"x-api-key", None));
    }

    #[track_caller]
    fn check(values: &[&str], expect: Option<&str>) {
        assert_eq!(bearer(values.iter().map(|value| value.as_bytes())), expect, "{values:?}");
    }

    #[test]
    fn there_is_exactly_one_credential() {
        check(&["Bearer a.b.c"], Some("a.b.c"));
        check(&["bearer a.b.c"], Some("a.b.c"));
        check(&[], None);
        check(&["Bearer a.b.c", "Bearer a.b.c"], None);
        check(&["Bearer a.b.c", ""], None);
        for bad in [
            "Bearer a.b.c,Bearer d.e.f",
            "Bearer a.b.c, d",
            "Bearer  a.b.c",
            "Bearer a.b.c ",
            "Bearer\ta.b.c",
            "Basic a.b.c",
            "a.b.c",
            "Bearer ä",
        ] {
            check(&[bad], None);
        }
        assert_eq!(bearer([&b"Bearer \xff"[..]].into_iter()), None);
    }
}
