//! Quarantine: an identity gets no grants until somebody lifts it, after a page that says so and asks why.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::names::IdentityName;
use serde::Deserialize;

use crate::serve::inventory;
use crate::serve::selector;
use crate::serve::status::Problem;
use crate::serve::ui::entered::{Entered, Posted};
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::stop::of_identity;
use crate::serve::ui::words::count;

/// Which identity.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Which {
    /// Its name.
    pub identity: String,
}

#[derive(Template)]
#[template(path = "quarantine.html", config = ".askama.toml")]
struct QuarantinePage {
    frame: Frame,
    identity: String,
    /// Whether it is in quarantine, so that the page asks about lifting it.
    quarantined: bool,
    active: String,
}

/// The page that asks. It changes nothing.
///
/// # Errors
/// When the person may not, or there is no such identity.
pub async fn ask(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(which): Query<Which>,
) -> Result<Response, Response> {
    let refuse = |no: Problem| problem::page(&site, Some(&entered), &no.status());
    let identity = selector::identity("identity", which.identity.trim()).map_err(refuse)?;
    let caller = entered.caller().map_err(refuse)?;
    site.governance
        .may_quarantine(caller)
        .map_err(|no| problem::with_way(Some(&entered), &no.status(), &of_identity(&identity)))?;
    inventory::must_know(&site.broker, &identity).map_err(refuse)?;
    let known = inventory::identity(&site.broker, &identity).await.map_err(refuse)?;
    let quarantined = known.quarantined;
    let title = if quarantined { "Lift the quarantine" } else { "Quarantine" };
    let shown = QuarantinePage {
        frame: Frame::of(&entered, Tab::Inventory, title),
        identity: identity.to_string(),
        quarantined,
        active: count(u64::from(known.active_grants), "active grant", "active grants"),
    };
    Ok(page(StatusCode::OK, &shown))
}

/// The form: on, or lifted.
///
/// # Errors
/// As the service refuses; without a note.
pub async fn set(State(site): State<Arc<Site>>, posted: Posted) -> Result<Response, Response> {
    let name = IdentityName::try_from(posted.text("identity").trim());
    let on = posted.text("lift").is_empty();
    let wish = v1::SetQuarantineRequest {
        identity: posted.text("identity").trim().to_owned(),
        quarantined: on,
        note: posted.text("note").trim().to_owned(),
    };
    let answer = site.governance.set_quarantine(posted.entered.ask(wish)).await;
    let answer = answer.map_err(|no| {
        let again = name.as_ref().map(|name| format!("/ui/quarantine?identity={name}"));
        problem::with_way(Some(&posted.entered), &no, &again.unwrap_or_default())
    })?;
    let seq = answer.into_inner().seq;
    let lifted = name.map(|name| format!("{}?done=lift", of_identity(&name))).unwrap_or_default();
    let to = if on { format!("/ui/revocations/{seq}") } else { lifted };
    Ok(Redirect::to(&to).into_response())
}
