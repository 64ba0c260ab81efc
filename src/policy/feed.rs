//! The catalog as gateways get it: what the feed's `Catalog.json` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::EntityUid;
use protem_verify::codes::policy;
use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use protem_verify::operation::CATALOG_MAX;
use serde::Serialize;

use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Catalog, Resource};
use crate::policy::entities::Kind;
use crate::policy::finding::{At, Findings};
use crate::policy::parse::Parsed;
use crate::policy::rulebook::Rulebook;

#[derive(Serialize)]
struct Shown<'a> {
    resources: BTreeMap<&'a str, ShownResource<'a>>,
}

#[derive(Serialize)]
struct ShownResource<'a> {
    audience: &'a str,
    scopes: BTreeMap<&'a str, ShownScope<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inject: Option<ShownInject<'a>>,
}

#[derive(Serialize)]
struct ShownScope<'a> {
    risk: &'a str,
    operations: Vec<&'a str>,
}

#[derive(Serialize)]
struct ShownInject<'a> {
    header: &'a str,
    secret: &'a str,
}

impl Bundle {
    /// The part of the catalog with these resources, as the feed's `Catalog.json` says it; absent: all of it.
    #[must_use]
    pub fn catalog_json(&self, to: To, resources: Option<&BTreeSet<ResourceName>>) -> String {
        let all = &self.catalog.resources;
        let named = resources.into_iter().flatten().filter_map(|name| all.get_key_value(name));
        let known = all.iter().filter(|_| resources.is_none()).chain(named);
        let resources =
            known.map(|(name, resource)| (name.as_str(), shown(to, resource))).collect();
        serde_json::to_string(&Shown { resources }).unwrap_or_default()
    }

    /// The resources that an identity may ask for, as far as the heads of policies tell; absent: all of them.
    #[must_use]
    pub fn askable(&self, identity: &IdentityName) -> Option<BTreeSet<ResourceName>> {
        askable(&self.book, &self.catalog, identity)
    }
}

/// The same by these policies. None is evaluated: what a condition says holds for one request, and this is asked for each
/// identity that follows the feed.
#[must_use]
pub fn askable(
    book: &Rulebook,
    catalog: &Catalog,
    identity: &IdentityName,
) -> Option<BTreeSet<ResourceName>> {
    let name = |uid: &EntityUid| ResourceName::try_from(uid.id().unescaped()).ok();
    let (mut found, mut classes) = (BTreeSet::new(), BTreeSet::new());
    for head in book.heads(identity) {
        let uid = head.as_ref()?;
        match Kind::of(uid) {
            Some(Kind::Broker) => return None,
            Some(Kind::Class) => {
                classes.insert(uid.id().unescaped());
            }
            Some(Kind::Resource | Kind::Scope) => {
                let above = book.store.lineage(uid);
                let of = above.iter().filter(|uid| Kind::of(uid) == Some(Kind::Resource));
                found.extend(of.filter_map(name));
            }
            Some(
                Kind::Action
                | Kind::Group
                | Kind::Identity
                | Kind::Login
                | Kind::Person
                | Kind::Team,
            )
            | None => {}
        }
    }
    if !classes.is_empty() {
        let of_class = catalog.resources.iter().filter(|(_, resource)| {
            resource.scopes.values().any(|scope| classes.contains(&*scope.class))
        });
        found.extend(of_class.map(|(name, _)| name.clone()));
    }
    Some(found)
}

/// Who reads a part of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// A gateway, which adds the secrets that it names.
    Gateway,
    /// Anybody else who follows: which secret opens an API is not theirs to know.
    Observer,
}

/// Every gateway must be able to read its part: one that cannot lets nothing through, whatever else it protects.
pub fn parts(catalog: &Catalog, parsed: &Parsed, findings: &mut Findings) {
    let mut sizes: BTreeMap<&ResourceName, usize> = BTreeMap::new();
    for (name, gateway) in &catalog.gateways {
        let mut size = EMPTY.len();
        for resource in &gateway.resources {
            let of_one = sizes.entry(resource).or_insert_with(|| {
                let known = catalog.resources.get(resource).map(|of| shown(To::Gateway, of));
                let json = known.and_then(|known| serde_json::to_string(&known).ok());
                // Its name stands before it, in quotes, and a comma behind.
                json.map_or(0, |json| json.len()).saturating_add(resource.as_str().len() + 4)
            });
            size = size.saturating_add(*of_one);
        }
        if size > CATALOG_MAX {
            let message = format!(
                "gateway `{name}` would get {size} bytes of the catalog and reads {CATALOG_MAX}: give it fewer resources, and \
                 the others to another gateway"
            );
            let at = parsed.places.get(&format!("gateway {name}")).cloned();
            findings.error(&at.unwrap_or_else(At::bundle), policy::TOO_LARGE, message);
        }
    }
}

/// A part without resources.
const EMPTY: &str = r#"{"resources":{}}"#;

fn shown(to: To, resource: &Resource) -> ShownResource<'_> {
    let scopes = resource.scopes.iter().map(|(name, scope): (&ScopeName, _)| {
        let operations = scope.operations.iter().map(|text: &Arc<str>| &**text).collect();
        (name.as_str(), ShownScope { risk: scope.risk.as_str(), operations })
    });
    let inject = resource.inject.as_ref().filter(|_| to == To::Gateway);
    ShownResource {
        audience: &resource.audience,
        scopes: scopes.collect(),
        inject: inject.map(|inject| ShownInject { header: &inject.header, secret: &inject.secret }),
    }
}
