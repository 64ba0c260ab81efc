//! `catalog.toml`: tiers, classes, resources with their scopes, gateways, leftover secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use protem_core::limits::{LIFETIME_MAX, LIFETIME_MIN, STALENESS};
use protem_verify::codes::policy;
use protem_verify::names::{GatewayName, ResourceName, ScopeName};
use protem_verify::operation::Operation;
use protem_verify::time::{Lifetime, Staleness};

use crate::policy::catalog::{
    Catalog, Class, Gateway, Inject, LoginRule, Rate, Resource, Risk, Scope, Secret, Tier,
};
use crate::policy::login::DEV_ISSUER;
use crate::policy::parse::{Parsed, regions};
use crate::policy::raw::{self, Text};
use crate::policy::read::{DAY, Reading};
use crate::policy::template::Template;

/// The lifetimes that a bundle may name.
pub const LIFETIMES: RangeInclusive<Duration> = LIFETIME_MIN..=LIFETIME_MAX;
/// The freshness of a tier that names none (design.md §4).
pub const FRESH_DEFAULT: Duration = Duration::from_secs(5);
/// Live grants of a tier that names no `active_max`.
const ACTIVE_DEFAULT: u32 = 1_000;
/// Waiting requests of a tier that names no `pending_max`.
const PENDING_DEFAULT: u32 = 20;
/// The request rate of a tier that names none.
const RATE_DEFAULT: Rate = Rate { count: 50, per: Duration::from_secs(1) };
/// Claims that only protem writes (RFC 7519 §4.1, RFC 8693, RFC 9068, design.md §4).
const REGISTERED: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "scope",
    "cnf",
    "act",
    "status",
    "protem",
    "may_act",
];

/// Reads the catalog into `parsed`.
pub fn catalog_of(parsed: &mut Parsed, reading: &mut Reading<'_>, raw: &raw::Catalog) {
    for (key, tier) in &raw.tier {
        let (name, tier) = (reading.plain(key), tier_of(reading, key, tier));
        parsed.catalog.tiers.extend(name.zip(tier));
    }
    for (key, class) in &raw.class {
        let (name, class) = (reading.plain(key), class_of(reading, class));
        parsed.catalog.classes.extend(name.zip(class));
    }
    let mut audiences: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, resource) in &raw.resource {
        if let Some(other) = audiences.insert(resource.audience.get_ref(), key.get_ref()) {
            let message = format!(
                "resources `{other}` and `{}` have one audience, `{}`",
                key.get_ref(),
                resource.audience.get_ref()
            );
            reading.error(&resource.audience.span(), policy::SHARED_AUDIENCE, message);
        }
        let made = resource_of(parsed, reading, key, resource, raw);
        let name: Option<ResourceName> = reading.name(key);
        parsed.catalog.resources.extend(name.zip(made));
    }
    for (key, secret) in &raw.secret {
        let (name, made) = (reading.plain(key), secret_of(parsed, reading, key, secret));
        let at = reading.at(key);
        parsed.places.insert(format!("secret {}", key.get_ref()), at);
        parsed.catalog.secrets.extend(name.zip(made));
    }
    for (key, gateway) in &raw.gateway {
        let name: Option<GatewayName> = reading.name(key);
        let made = gateway_of(parsed, reading, key, gateway);
        let at = reading.at(key);
        parsed.places.insert(format!("gateway {}", key.get_ref()), at);
        parsed.catalog.gateways.extend(name.zip(made));
    }
}

fn tier_of(reading: &mut Reading<'_>, key: &Text, raw: &raw::Tier) -> Option<Tier> {
    if let Some(bound) = raw.bound.as_ref().filter(|bound| *bound.get_ref()) {
        let message = "credentials cannot be bound to a key yet; leave `bound` out";
        reading.error(&bound.span(), policy::NOT_YET, message);
    }
    let max = reading.duration(&raw.max_lifetime, LIFETIMES);
    let default = reading.duration(&raw.default_lifetime, LIFETIMES);
    let credential = reading.duration(&raw.credential, LIFETIMES);
    let fresh = match &raw.max_staleness {
        Some(text) => reading.duration(text, STALENESS),
        None => Some(FRESH_DEFAULT),
    };
    let rate = raw.rate.as_ref().map_or(Some(RATE_DEFAULT), |text| reading.rate(text));
    let active_max = reading.count(raw.active_max.as_ref(), ACTIVE_DEFAULT);
    let pending_max = reading.count(raw.pending_max.as_ref(), PENDING_DEFAULT);
    let (max, default, credential) = (max?, default?, credential?);
    for (what, value, text) in [
        ("default_lifetime", default, &raw.default_lifetime),
        ("credential", credential, &raw.credential),
    ] {
        if value > max {
            let message = format!(
                "tier `{}`: `{what}` is longer than `max_lifetime`, write at most `{}`",
                key.get_ref(),
                raw.max_lifetime.get_ref()
            );
            reading.error(&text.span(), policy::TIER_LIFETIMES, message);
        }
    }
    Some(Tier {
        max_lifetime: Lifetime(max),
        default_lifetime: Lifetime(default),
        credential: Lifetime(credential),
        max_staleness: Staleness(fresh?),
        active_max: active_max?,
        rate: rate?,
        pending_max: pending_max?,
    })
}

fn class_of(reading: &mut Reading<'_>, raw: &raw::Class) -> Option<Class> {
    let risk = match raw.risk.get_ref().as_str() {
        "low" => Some(Risk::Low),
        "medium" => Some(Risk::Medium),
        "high" => Some(Risk::High),
        _ => None,
    };
    if risk.is_none() {
        reading.error(&raw.risk.span(), policy::BAD_VALUE, "write `low`, `medium` or `high`");
    }
    let max_lifetime = match &raw.max_lifetime {
        Some(text) => Some(Lifetime(reading.duration(text, LIFETIMES)?)),
        None => None,
    };
    Some(Class { risk: risk?, max_lifetime })
}

fn resource_of(
    parsed: &mut Parsed,
    reading: &mut Reading<'_>,
    key: &Text,
    raw: &raw::Resource,
    catalog: &raw::Catalog,
) -> Option<Resource> {
    not_yet(reading, raw);
    let purpose = reading.purpose(raw.purpose.as_ref(), "resource", key);
    let owner = reading.owners(raw.owner.as_ref(), "resource", key, &parsed.people);
    let mut scopes = BTreeMap::new();
    for (name, scope) in &raw.scope {
        let at = reading.at(name);
        parsed.places.insert(format!("scope {}#{}", key.get_ref(), name.get_ref()), at);
        let made = scope_of(&parsed.catalog, reading, name, scope);
        let name: Option<ScopeName> = reading.name(name);
        scopes.extend(name.zip(made));
    }
    let mut claims = Vec::new();
    for (name, value) in &raw.claims {
        if !name.get_ref().contains('/') || REGISTERED.contains(&name.get_ref().as_str()) {
            let message = format!(
                "the claim `{}` needs a `/` in its name, like `shop/{}`",
                name.get_ref(),
                name.get_ref()
            );
            reading.error(&name.span(), policy::BAD_CLAIM, message);
        }
        match Template::parse(value.get_ref()) {
            Ok(template) => claims.push((Arc::from(name.get_ref().as_str()), template)),
            Err(why) => {
                let message = format!("the claim `{}` {why}", name.get_ref());
                reading.error(&value.span(), policy::BAD_CLAIM, message);
            }
        }
    }
    if claims.len() > CLAIMS_MAX {
        let message = format!("a resource has at most {CLAIMS_MAX} template claims");
        reading.error(&key.span(), policy::TOO_LARGE, message);
    }
    let inject = raw.inject.as_ref().map(|inject| inject_of(reading, key, inject, catalog));
    if raw.audience.get_ref().is_empty() {
        reading.error(&raw.audience.span(), policy::BAD_VALUE, "write the `aud` of its tokens");
    }
    Some(Resource {
        audience: raw.audience.get_ref().as_str().into(),
        purpose: purpose?,
        owner: owner?,
        scopes,
        claims,
        inject,
        regions: regions(raw.regions.as_ref()),
    })
}

/// The secret that a gateway adds to calls.
fn inject_of(
    reading: &mut Reading<'_>,
    resource: &Text,
    raw: &raw::Inject,
    catalog: &raw::Catalog,
) -> Inject {
    let secret = &raw.secret;
    match catalog.secret.get(secret.get_ref().as_str()).map(|secret| secret.resource.get_ref()) {
        None => {
            let known = catalog.secret.keys().map(|name| name.get_ref().as_str());
            reading.unknown(secret, "secret", known);
        }
        // Who may call one API would get the key of another.
        Some(own) if own != resource.get_ref() => {
            let message = format!(
                "secret `{}` is of resource `{own}`, so `{}` cannot have it added to its calls",
                secret.get_ref(),
                resource.get_ref()
            );
            reading.error(&secret.span(), policy::BAD_VALUE, message);
        }
        Some(_) => {}
    }
    let header = raw.header.get_ref();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if header.is_empty() || !header.bytes().all(word) {
        let message = format!("`{header}` is no header's name");
        reading.error(&raw.header.span(), policy::BAD_VALUE, message);
    }
    let lower = header.to_ascii_lowercase();
    let ours = NOT_FOR_SECRETS.iter().any(|name| match name.strip_suffix('*') {
        Some(begin) => lower.starts_with(begin),
        None => lower == *name,
    });
    if ours {
        let message =
            format!("`{header}` is not for secrets: proxies and gateways write it themselves");
        reading.error(&raw.header.span(), policy::BAD_VALUE, message);
    }
    Inject { header: header.clone(), secret: secret.get_ref().as_str().into() }
}

/// Headers that say how a request is carried, by whom it was let through, or where it goes.
const NOT_FOR_SECRETS: &[&str] = &[
    "x-protem-*",
    "x-forwarded-*",
    "x-original-*",
    "x-envoy-*",
    "proxy-*",
    "content-*",
    "host",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "cookie",
];

/// Template claims of one resource: credentials travel in headers.
const CLAIMS_MAX: usize = 16;

fn not_yet(reading: &mut Reading<'_>, raw: &raw::Resource) {
    if let Some(alg) = raw.alg.as_ref().filter(|alg| alg.get_ref() != "EdDSA") {
        let message = "credentials are signed with EdDSA only; leave `alg` out";
        reading.error(&alg.span(), policy::NOT_YET, message);
    }
    if let Some(list) = raw.status_list.as_ref().filter(|list| *list.get_ref()) {
        let message = "status lists do not exist yet; leave `status_list` out";
        reading.error(&list.span(), policy::NOT_YET, message);
    }
}

fn scope_of(
    catalog: &Catalog,
    reading: &mut Reading<'_>,
    key: &Text,
    raw: &raw::Scope,
) -> Option<Scope> {
    let purpose = reading.purpose(raw.purpose.as_ref(), "scope", key);
    let class = catalog.classes.get_key_value(raw.class.get_ref().as_str());
    if class.is_none() {
        let known = catalog.classes.keys().map(|name| &**name);
        reading.unknown(&raw.class, "class", known);
    }
    if raw.operations.is_empty() {
        let message = format!(
            "scope `{}` needs operations, like `operations = [\"GET /v1/orders\"]`",
            key.get_ref()
        );
        reading.error(&key.span(), policy::NO_OPERATIONS, message);
    }
    let mut seen = BTreeSet::new();
    for operation in &raw.operations {
        let text = operation.get_ref();
        // What its gateways could not read would close them, for this operation and every other.
        let readable = operation_is_readable(text)
            .and_then(|()| Operation::parse(text).map(drop).map_err(|bad| bad.why));
        if let Err(why) = readable {
            let message = format!("`{text}` {why}");
            reading.error(&operation.span(), policy::BAD_OPERATION, message);
        } else if !seen.insert(text) {
            let message = format!("`{text}` is written twice");
            reading.error(&operation.span(), policy::BAD_OPERATION, message);
        }
    }
    let operations = raw.operations.iter().map(|text| text.get_ref().as_str().into()).collect();
    let (class, values) = class?;
    Some(Scope { purpose: purpose?, class: class.clone(), risk: values.risk, operations })
}

/// A method and a canonical path whose placeholders are whole segments.
fn operation_is_readable(text: &str) -> Result<(), &'static str> {
    let (method, path) =
        text.split_once(' ').ok_or("is no method and path, like `GET /v1/orders`")?;
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err("has no method in capitals, like `GET`");
    }
    let rest = path.strip_prefix('/').ok_or("has a path that does not begin with `/`")?;
    if rest.is_empty() {
        return Ok(());
    }
    for segment in rest.split('/') {
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let word = inner.unwrap_or(segment);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&byte);
        if matches!(segment, "" | "." | "..") {
            return Err("has an empty segment, `.` or `..`, which no canonical path has");
        }
        if word.is_empty() || !word.bytes().all(plain) {
            return Err("has a segment that is neither a word nor one `{placeholder}`");
        }
    }
    Ok(())
}

fn secret_of(
    parsed: &Parsed,
    reading: &mut Reading<'_>,
    key: &Text,
    raw: &raw::Secret,
) -> Option<Secret> {
    let purpose = reading.purpose(raw.purpose.as_ref(), "secret", key);
    let owner = reading.owners(raw.owner.as_ref(), "secret", key, &parsed.people);
    let resource: Option<ResourceName> = reading.name(&raw.resource);
    if resource.as_ref().is_some_and(|name| !parsed.catalog.resources.contains_key(name)) {
        let known = parsed.catalog.resources.keys().map(ResourceName::as_str);
        reading.unknown(&raw.resource, "resource", known);
    }
    if raw.created.is_none() || raw.rotate_every.is_none() || raw.expires.is_none() {
        let message =
            format!("secret `{}` needs `created`, `rotate_every` and `expires`", key.get_ref());
        reading.error(&key.span(), policy::NO_END, message);
    }
    let created = raw.created.as_ref().and_then(|day| reading.day(day));
    let expires = raw.expires.as_ref().and_then(|day| reading.day(day));
    let rotate_every = raw
        .rotate_every
        .as_ref()
        .and_then(|text| reading.duration(text, DAY..=DAY * ROTATE_DAYS_MAX));
    let found_in = match (raw.status.get_ref().as_str(), &raw.found_in) {
        ("managed", None) => None,
        ("unmanaged", Some(text)) => Some(reading.words(text)?),
        ("managed", Some(text)) => {
            reading.error(
                &text.span(),
                policy::BAD_VALUE,
                "`found_in` belongs to `unmanaged` ones",
            );
            None
        }
        _ => {
            let message = "write `managed`, or `unmanaged` with `found_in = \"…\"`";
            reading.error(&raw.status.span(), policy::BAD_VALUE, message);
            None
        }
    };
    let revoke = reading.words(&raw.revoke);
    Some(Secret {
        purpose: purpose?,
        resource: resource?,
        owner: owner?,
        created: created?.0,
        rotate_every: rotate_every?,
        expires: expires?.1,
        revoke: revoke?,
        found_in,
    })
}

/// The rarest rotation that still is one: ten years.
const ROTATE_DAYS_MAX: u32 = 3_660;

fn gateway_of(
    parsed: &Parsed,
    reading: &mut Reading<'_>,
    key: &Text,
    raw: &raw::Gateway,
) -> Option<Gateway> {
    let mut resources = Vec::new();
    for text in &raw.resources {
        let Some(name) = reading.name::<ResourceName>(text) else { continue };
        if !parsed.catalog.resources.contains_key(&name) {
            let known = parsed.catalog.resources.keys().map(ResourceName::as_str);
            reading.unknown(text, "resource", known);
        }
        resources.push(name);
    }
    resources.sort();
    resources.dedup();
    let login = match &raw.login {
        Some(login) => parsed.login_of(reading, login.get_ref(), login.span())?,
        None => LoginRule {
            issuer: DEV_ISSUER.into(),
            claims: BTreeMap::from([("sub".to_owned(), key.get_ref().clone())]),
            person: None,
        },
    };
    Some(Gateway { login, resources })
}
