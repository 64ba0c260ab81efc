//! The catalog as gateways get it: what the feed's `Catalog.json` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protem_verify::codes::policy;
use protem_verify::names::{ResourceName, ScopeName};
use protem_verify::operation::CATALOG_MAX;
use serde::Serialize;

use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Catalog, Resource};
use crate::policy::finding::{At, Findings};
use crate::policy::parse::Parsed;

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
    /// The part of the catalog that gateways of these resources need, as the feed's `Catalog.json` says it; absent: all of it.
    #[must_use]
    pub fn catalog_json(&self, resources: Option<&BTreeSet<ResourceName>>) -> String {
        let all = &self.catalog.resources;
        let named = resources.into_iter().flatten().filter_map(|name| all.get_key_value(name));
        let known = all.iter().filter(|_| resources.is_none()).chain(named);
        let resources = known.map(|(name, resource)| (name.as_str(), shown(resource))).collect();
        serde_json::to_string(&Shown { resources }).unwrap_or_default()
    }
}

/// Every gateway must be able to read its part: one that cannot lets nothing through, whatever else it protects.
pub fn parts(catalog: &Catalog, parsed: &Parsed, findings: &mut Findings) {
    let mut sizes: BTreeMap<&ResourceName, usize> = BTreeMap::new();
    for (name, gateway) in &catalog.gateways {
        let mut size = EMPTY.len();
        for resource in &gateway.resources {
            let of_one = sizes.entry(resource).or_insert_with(|| {
                let known = catalog.resources.get(resource).map(shown);
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

fn shown(resource: &Resource) -> ShownResource<'_> {
    let scopes = resource.scopes.iter().map(|(name, scope): (&ScopeName, _)| {
        let operations = scope.operations.iter().map(|text: &Arc<str>| &**text).collect();
        (name.as_str(), ShownScope { risk: scope.risk.as_str(), operations })
    });
    let inject = resource.inject.as_ref();
    ShownResource {
        audience: &resource.audience,
        scopes: scopes.collect(),
        inject: inject.map(|inject| ShownInject { header: &inject.header, secret: &inject.secret }),
    }
}
