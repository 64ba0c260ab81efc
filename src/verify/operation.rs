//! Which scopes an operation needs: the catalog's part of a gateway, path templates, and paths that have one reading only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::json::Json;
use crate::names::{Malformed, ResourceName, ScopeName};

/// `GET /v1/orders/{id}`: a method and a path template. A gRPC method is `POST` and its path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    method: Arc<str>,
    segments: Arc<[Segment]>,
}

/// A part of a template between slashes. Literals sort before parameters, so the most specific template sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(Arc<str>),
    /// Exactly one part that is not empty; its name means nothing.
    Any,
}

/// The longest path or template in bytes.
pub const PATH_MAX: usize = 4_096;

impl Operation {
    /// Parses `METHOD /path/{param}`.
    ///
    /// # Errors
    /// When the method is not upper-case letters, the path is not canonical, or a parameter is not a whole segment.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bad = |why| Malformed { field: "operations", why };
        let (method, path) = text.split_once(' ').ok_or(bad("is not `METHOD /path`"))?;
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(bad("has a method that is not upper-case letters"));
        }
        let plain = path.replace(['{', '}'], "x");
        if canonical(&plain).is_none() || path.contains('?') {
            return Err(bad("has a path that is not canonical"));
        }
        let segments = path.split('/').skip(1).map(segment).collect::<Option<_>>();
        let segments =
            segments.ok_or(bad("has a `{` or `}` that is not around a whole segment"))?;
        Ok(Self { method: method.into(), segments })
    }

    fn matches(&self, parts: &[&str]) -> bool {
        self.segments.len() == parts.len()
            && self.segments.iter().zip(parts).all(|(segment, part)| match segment {
                Segment::Literal(text) => **text == **part,
                Segment::Any => !part.is_empty(),
            })
    }

    /// Whether a router that does not tell `a` from `A` could take the path for this.
    fn resembles(&self, parts: &[&str]) -> bool {
        self.segments.len() == parts.len()
            && self.segments.iter().zip(parts).all(|(segment, part)| match segment {
                Segment::Literal(text) => text.eq_ignore_ascii_case(part),
                Segment::Any => !part.is_empty(),
            })
    }

    /// Whether a router prefers this to the other: it has a literal where they first differ in kind.
    fn is_more_specific_than(&self, other: &Self) -> bool {
        let shape = |one: &Self| {
            let open = |segment: &Segment| matches!(segment, Segment::Any);
            one.segments.iter().map(open).collect::<Vec<_>>()
        };
        shape(self) < shape(other)
    }
}

fn segment(text: &str) -> Option<Segment> {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Some(Segment::Any),
        None if !text.contains(['{', '}']) => Some(Segment::Literal(text.into())),
        Some(_) | None => None,
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method)?;
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Any => f.write_str("/{}"),
        })
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// The path without its query, if every server reads it alike: no dot segments, no empty ones but a last one, no encoded
/// slash, percent, `?`, `#`, `;` or unreserved character, no backslash, control or raw non-ASCII character, and nothing but UTF-8
/// once it is decoded: an overlong `.` is a dot to some.
#[must_use]
pub fn canonical(path_and_query: &str) -> Option<&str> {
    let path = path_and_query.split('?').next()?;
    let parts = path.strip_prefix('/')?;
    let plain = path.len() <= PATH_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !br#"\;#"<>^`|{}"#.contains(&byte));
    let dotted = parts.split('/').any(|part| part == "." || part == "..");
    if !plain || dotted || path.contains("//") || !escapes_are_needed(path) {
        return None;
    }
    Some(path)
}

/// Whether each `%XX` is well-formed and stands for a byte that no server could read as structure or as a plain letter, and all
/// of them together for text without control characters.
fn escapes_are_needed(path: &str) -> bool {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    let well_formed = parts.all(|rest| {
        let Some((digits, rest)) = rest.split_at_checked(2) else { return false };
        let Some(byte) = digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u8::from_str_radix(digits, 16).ok())
            .flatten()
        else {
            return false;
        };
        decoded.push(byte);
        decoded.extend_from_slice(rest.as_bytes());
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !unreserved && !b"/\\%;?#".contains(&byte)
    });
    well_formed && str::from_utf8(&decoded).is_ok_and(|text| !text.contains(char::is_control))
}

/// The catalog's part that concerns a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog(BTreeMap<ResourceName, Resource>);

/// A resource of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The `aud` of its credentials.
    pub audience: Arc<str>,
    /// The static secret that a gateway adds for an API that cannot check tokens.
    pub inject: Option<Inject>,
    scopes: BTreeMap<ScopeName, Rank>,
    /// Sorted by template, most specific first; each with its scopes, those to ask for first.
    operations: BTreeMap<Operation, Mapped>,
}

/// An operation of the catalog, and what allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// As the catalog spells it: where two scopes spell it differently, as the first of them does.
    pub text: Arc<str>,
    /// The scopes any of which allows it, the one to ask for first.
    pub scopes: Vec<ScopeName>,
}

/// A header that a gateway sets to a secret it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// The header's name.
    pub header: Arc<str>,
    /// The secret's name, never the secret.
    pub secret: Arc<str>,
}

/// What to ask for first: the lowest risk, then the fewest operations.
type Rank = (u8, usize);

/// The longest catalog part in bytes.
pub const CATALOG_MAX: usize = 16 * 1024 * 1024;

/// A catalog part that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the catalog is not one of ours: {0}")]
pub struct BadCatalog(String);

impl Catalog {
    /// Reads the feed's `Catalog.json`. Members that are not known are passed over: they narrow nothing.
    ///
    /// # Errors
    /// When it is not of that form, or an operation or name in it is malformed.
    pub fn parse(json: &str) -> Result<Self, BadCatalog> {
        let bad = |why: &str| BadCatalog(why.into());
        if json.len() > CATALOG_MAX {
            return Err(bad("it is too long"));
        }
        let root = Json::parse(json.as_bytes()).map_err(|error| bad(&error.to_string()))?;
        let resources = member(&root, "resources").and_then(Json::members);
        let resources = resources.ok_or(bad("it has no `resources`"))?;
        let resource = |(name, value): (&String, &Json)| {
            let name =
                ResourceName::try_from(name.as_str()).map_err(|error| bad(&error.to_string()))?;
            Ok((name, Resource::read(value)?))
        };
        resources.iter().map(resource).collect::<Result<_, _>>().map(Self)
    }

    /// A resource by name.
    #[must_use]
    pub fn resource(&self, name: &ResourceName) -> Option<&Resource> {
        self.0.get(name)
    }
}

impl Catalog {
    /// The secrets that gateways add to calls, with the resources that want them.
    pub fn injects(&self) -> impl Iterator<Item = (&ResourceName, &Inject)> {
        self.0.iter().filter_map(|(name, resource)| Some((name, resource.inject.as_ref()?)))
    }
}

impl Resource {
    fn read(value: &Json) -> Result<Self, BadCatalog> {
        let bad = |why: &str| BadCatalog(why.into());
        let audience = member(value, "audience").and_then(Json::text).filter(|aud| !aud.is_empty());
        let scopes = member(value, "scopes").and_then(Json::members);
        let mut resource = Self {
            audience: audience.ok_or(bad("a resource has no `audience`"))?.into(),
            inject: member(value, "inject").map(inject).transpose()?,
            scopes: BTreeMap::new(),
            operations: BTreeMap::new(),
        };
        for (name, scope) in scopes.ok_or(bad("a resource has no `scopes`"))? {
            let name =
                ScopeName::try_from(name.as_str()).map_err(|error| bad(&error.to_string()))?;
            let operations = member(scope, "operations").and_then(Json::list);
            let operations = operations.ok_or(bad("a scope has no `operations`"))?;
            let risk = risk(member(scope, "risk").and_then(Json::text).unwrap_or_default());
            resource.scopes.insert(name.clone(), (risk, operations.len()));
            for operation in operations {
                let text = operation.text().unwrap_or_default();
                let operation = Operation::parse(text);
                let operation = operation.map_err(|error| bad(&error.to_string()))?;
                let new = || Mapped { text: text.into(), scopes: Vec::new() };
                let mapped = resource.operations.entry(operation).or_insert_with(new);
                mapped.scopes.push(name.clone());
            }
        }
        let Self { scopes, operations, .. } = &mut resource;
        for mapped in operations.values_mut() {
            mapped.scopes.sort_by_key(|scope| scopes.get(scope).copied());
        }
        Ok(resource)
    }

    /// Whether the catalog has this scope.
    #[must_use]
    pub fn knows(&self, scope: &ScopeName) -> bool {
        self.scopes.contains_key(scope)
    }

    /// What this operation is mapped to; `None` when no scope maps it. `path` is canonical. Where templates overlap the most
    /// specific one counts alone: who may read `/orders/{id}` may not therefore read `/orders/export`. Nor `/orders/EXPORT`,
    /// which nobody may: many routers do not tell the two apart.
    #[must_use]
    pub fn mapped(&self, method: &str, path: &str) -> Option<&Mapped> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let of_method = self.operations.iter().filter(|(known, _)| *known.method == *method);
        let resembling = of_method.filter(|(known, _)| known.resembles(&parts));
        let (found, mapped) = resembling.clone().find(|(known, _)| known.matches(&parts))?;
        let mut resembling = resembling.map(|(known, _)| known);
        (!resembling.any(|other| other.is_more_specific_than(found))).then_some(mapped)
    }
}

fn inject(value: &Json) -> Result<Inject, BadCatalog> {
    let text = |name| member(value, name).and_then(Json::text).map(Arc::from);
    let (Some(header), Some(secret)) = (text("header"), text("secret")) else {
        return Err(BadCatalog("an `inject` has no `header` or `secret`".into()));
    };
    Ok(Inject { header, secret })
}

fn member<'json>(value: &'json Json, name: &str) -> Option<&'json Json> {
    value.members().and_then(|members| members.get(name))
}

/// A word that is not known ranks last: nobody is sent to ask for it first.
fn risk(word: &str) -> u8 {
    match word {
        "low" => 0,
        "medium" => 1,
        "high" => 2,
        "critical" => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = r#"{"resources":{"orders-api":{"audience":"https://orders.example","scopes":{
        "orders:admin":{"risk":"high","operations":["GET /v1/orders","GET /v1/orders/{id}","DELETE /v1/orders/{id}"]},
        "orders:list":{"risk":"low","operations":["GET /v1/orders"]},
        "orders:read":{"risk":"low","operations":["GET /v1/orders","GET /v1/orders/{id}"]},
        "orders:export":{"risk":"high","operations":["GET /v1/orders/export"]},
        "orders:refund":{"risk":"high","operations":["POST /v1/orders/{order}/refund","POST /shop.v1.Orders/Refund"]}}}}}"#;

    #[track_caller]
    fn check(method: &str, path: &str, expect: Option<&[&str]>) {
        let catalog = Catalog::parse(CATALOG).unwrap();
        let resource = catalog.resource(&ResourceName::try_from("orders-api").unwrap()).unwrap();
        let mapped = resource.mapped(method, path);
        let names = mapped.map(|one| one.scopes.iter().map(ScopeName::as_str).collect::<Vec<_>>());
        assert_eq!(names.as_deref(), expect, "{method} {path}");
    }

    #[test]
    fn the_scope_of_lowest_risk_then_fewest_operations_is_named_first() {
        check("GET", "/v1/orders", Some(&["orders:list", "orders:read", "orders:admin"]));
        check("GET", "/v1/orders/7", Some(&["orders:read", "orders:admin"]));
        check("POST", "/v1/orders/7/refund", Some(&["orders:refund"]));
        check("POST", "/shop.v1.Orders/Refund", Some(&["orders:refund"]));
    }

    #[test]
    fn the_most_specific_template_counts_alone() {
        check("GET", "/v1/orders/export", Some(&["orders:export"]));
    }

    #[test]
    fn a_parameter_takes_no_spelling_of_a_literal_beside_it() {
        for path in ["/v1/orders/EXPORT", "/v1/orders/Export", "/v1/orders/exporT"] {
            check("GET", path, None);
        }
        check("DELETE", "/v1/orders/EXPORT", Some(&["orders:admin"]));
        check("GET", "/v1/orders/EXPORTS", Some(&["orders:read", "orders:admin"]));
    }

    #[test]
    fn literals_that_differ_in_case_alone_are_each_their_own() {
        let operations =
            ["GET /A/{id}", "GET /a/export", "GET /b", "GET /B", "GET /{x}/export/{y}"];
        let scopes = operations.iter().enumerate();
        let scopes: Vec<String> =
            scopes.map(|(at, text)| format!(r#""s:{at}":{{"operations":["{text}"]}}"#)).collect();
        let text = format!(
            r#"{{"resources":{{"r":{{"audience":"a","scopes":{{{}}}}}}}}}"#,
            scopes.join(",")
        );
        let catalog = Catalog::parse(&text).unwrap();
        let resource = catalog.resource(&ResourceName::try_from("r").unwrap()).unwrap();
        let mapped = |path| resource.mapped("GET", path).map(|one| &*one.text);
        assert_eq!((mapped("/b"), mapped("/B")), (Some("GET /b"), Some("GET /B")));
        assert_eq!(
            (mapped("/A/7"), mapped("/a/export")),
            (Some("GET /A/{id}"), Some("GET /a/export"))
        );
        // The literal sorts after what it is more specific than.
        assert_eq!((mapped("/A/export"), mapped("/A/EXPORT")), (None, None));
        assert_eq!(mapped("/A/export/7"), Some("GET /{x}/export/{y}"));
    }

    #[test]
    fn what_is_not_mapped_has_no_scope() {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/v1/orders/"),
            ("get", "/v1/orders"),
            ("PUT", "/v1/orders"),
            ("GET", "/v1/orders/7/x"),
            ("GET", "/V1/orders"),
            ("POST", "/v1/orders//refund"),
        ] {
            check(method, path, None);
        }
    }

    #[test]
    fn paths_with_two_readings_are_not_canonical() {
        for good in
            ["/", "/v1/orders", "/a/b/", "/a%20b", "/%C3%A4", "/x%E2%82%acy", "/a:b@c,d!$&'()*+=~"]
        {
            assert_eq!(canonical(good), Some(good));
        }
        assert_eq!(canonical("/a?b=../c"), Some("/a"));
        for bad in [
            "",
            "a",
            "*",
            "//",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/../b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/a%00",
            "/a\0",
            "/%61",
            "/%2e%2e/a",
            "/ä",
            "/a b",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%252fb",
            "/a%3bb",
            "/a%3f",
            "/a%3Fb=c",
            "/a%23b",
            "/a%C0%AE",
            "/%c0%af",
            "/%e0%80%ae",
            "/%C3",
            "/%C3a",
            "/%A4",
            "/%ff",
            "/%ED%A0%80",
            "/%C2%85",
            "/a#b",
            "http://x/a",
        ] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }

    #[test]
    fn operations_are_parsed_strictly() {
        assert_eq!(Operation::parse("GET /a/{id}"), Operation::parse("GET /a/{other}"));
        for bad in [
            "",
            "GET",
            "GET a",
            "get /a",
            "GET /a/{}",
            "GET /a/x{id}",
            "GET /a/{id",
            "GET /a?x",
            "GET  /a",
            "GET /a/../b",
        ] {
            assert!(Operation::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_catalogs_are_refused() {
        for bad in [
            "{}",
            r#"{"resources":{"r":{"scopes":{}}}}"#,
            r#"{"resources":{"r":{"audience":"","scopes":{}}}}"#,
            r#"{"resources":{"R":{"audience":"a","scopes":{}}}}"#,
            r#"{"resources":{"r":{"audience":"a","scopes":{"s":{}}}}}"#,
            r#"{"resources":{"r":{"audience":"a","scopes":{"s":{"operations":[1]}}}}}"#,
        ] {
            assert!(Catalog::parse(bad).is_err(), "{bad}");
        }
    }
}
