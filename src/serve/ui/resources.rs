//! What there is to ask for: resources and their scopes, who answers for them, and who enforces.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use protem_verify::names::ResourceName;

use crate::policy::ask::Object;
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Resource, Scope};
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::OPERATIONS_SHOWN;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{both, sentence};
use crate::serve::who;

#[derive(Template)]
#[template(path = "resources.html", config = ".askama.toml")]
struct ResourcesPage {
    frame: Frame,
    part: &'static str,
    resources: Vec<Shown>,
    /// Why nothing is shown; empty: it is.
    wrong: String,
}

/// A resource.
struct Shown {
    name: String,
    purpose: String,
    audience: String,
    owners: String,
    gateways: String,
    /// The header that gateways add, for an API that cannot check credentials.
    header: String,
    scopes: Vec<ShownScope>,
}

/// A scope.
struct ShownScope {
    name: String,
    purpose: String,
    class: String,
    risk: &'static str,
    operations: Vec<String>,
    more: usize,
}

/// The page: those resources that the person may look at.
///
/// # Errors
/// When the bundle knows nobody with this login any more.
pub async fn list(State(site): State<Arc<Site>>, entered: Entered) -> Result<Response, Response> {
    let refuse =
        |no: crate::serve::status::Problem| problem::page(&site, Some(&entered), &no.status());
    let caller = entered.caller().map_err(refuse)?;
    let bundle = site.broker.bundle();
    let seen = |name: &ResourceName| {
        who::may_view(&site.broker, caller, &[Object::Resource(name.clone())]).is_ok()
    };
    let all = bundle.catalog().resources.iter().filter(|(name, _)| seen(name));
    let resources: Vec<Shown> = all.map(|(name, one)| shown(&bundle, name, one)).collect();
    let (mut status, mut wrong) = (StatusCode::OK, String::new());
    if resources.is_empty()
        && let Err(no) = who::may_view(&site.broker, caller, &[])
    {
        let no = no.status();
        (status, wrong) = (problem::http(no.code()), sentence(no.message()));
    }
    let frame = Frame::of(&entered, Tab::Inventory, "Resources");
    Ok(page(status, &ResourcesPage { frame, part: "resources", resources, wrong }))
}

fn shown(bundle: &Bundle, name: &ResourceName, one: &Resource) -> Shown {
    let gateways = bundle.gateways().iter().filter(|(_, of)| of.resources.contains(name));
    let gateways: Vec<String> = gateways.map(|(name, _)| name.to_string()).collect();
    Shown {
        name: name.to_string(),
        purpose: sentence(&one.purpose),
        audience: one.audience.to_string(),
        owners: both(&one.owner.business.to_string(), &one.owner.technical.to_string()),
        gateways: gateways.join(", "),
        header: one.inject.as_ref().map(|inject| inject.header.clone()).unwrap_or_default(),
        scopes: one.scopes.iter().map(|(name, of)| scope(name.as_str(), of)).collect(),
    }
}

fn scope(name: &str, of: &Scope) -> ShownScope {
    ShownScope {
        name: name.to_owned(),
        purpose: sentence(&of.purpose),
        class: of.class.to_string(),
        risk: of.risk.as_str(),
        operations: of.operations.iter().take(OPERATIONS_SHOWN).map(ToString::to_string).collect(),
        more: of.operations.len().saturating_sub(OPERATIONS_SHOWN),
    }
}
