//! The catalog as gateways get it: what the feed's `Catalog.json` says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_verify::names::{ResourceName, ScopeName};
use serde::Serialize;

use crate::policy::bundle::Bundle;
use crate::policy::catalog::Resource;

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
    /// The part of the catalog that gateways of these resources need, as the feed's `Catalog.json` says it; without
    /// resources, all of it.
    #[must_use]
    pub fn catalog_json(&self, resources: &[ResourceName]) -> String {
        let known = self
            .catalog
            .resources
            .iter()
            .filter(|(name, _)| resources.is_empty() || resources.contains(name));
        let resources = known.map(|(name, resource)| (name.as_str(), shown(resource))).collect();
        serde_json::to_string(&Shown { resources }).unwrap_or_default()
    }
}

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
