//! *Inventory*: every identity with its owners, and what it did last; those that do nothing any more, looked for.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::time::Time;
use serde::Deserialize;

use crate::serve::show;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::{DORMANT, LISTED};
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, both, count, sentence};

/// What is looked for; an empty field takes all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    /// Part of a name.
    pub name: String,
    /// Not empty: only those that did nothing for a month.
    pub dormant: String,
    /// Not empty: only those that nobody owns.
    pub unowned: String,
    /// After this name: a further page.
    pub after: String,
}

#[derive(Template)]
#[template(path = "inventory.html", config = ".askama.toml")]
struct InventoryPage {
    frame: Frame,
    part: &'static str,
    search: Search,
    rows: Vec<IdentityRow>,
    next: String,
    /// Why nothing is shown; empty: it is.
    wrong: String,
}

/// An identity in a list.
pub struct IdentityRow {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Who answers for it.
    pub owners: String,
    /// How far it is trusted.
    pub tier: String,
    /// After that day it gets no new grants.
    pub review_by: Option<Moment>,
    /// That day has passed.
    pub review_over: bool,
    /// Whether it gets none now.
    pub quarantined: bool,
    /// How many it has.
    pub active: String,
    /// When it last got one.
    pub granted: Option<Moment>,
    /// When it last used one.
    pub used: Option<Moment>,
    /// What it was granted and never used.
    pub unused: Vec<String>,
}

/// The page.
///
/// # Errors
/// Never: what is refused is said beside the search.
pub async fn list(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(search): Query<Search>,
) -> Result<Response, Response> {
    let asked = v1::ListIdentitiesRequest {
        unowned: !search.unowned.is_empty(),
        dormant_for: (!search.dormant.is_empty()).then(|| show::duration(DORMANT)),
        page_size: LISTED,
        page_token: search.after.clone(),
        part: search.name.trim().to_owned(),
        ..v1::ListIdentitiesRequest::default()
    };
    let (status, answer, wrong) = match site.governance.list_identities(entered.ask(asked)).await {
        Ok(answer) => (StatusCode::OK, answer.into_inner(), String::new()),
        Err(no) => {
            let answer = v1::ListIdentitiesResponse::default();
            (problem::http(no.code()), answer, sentence(no.message()))
        }
    };
    let now = site.broker.now();
    let shown = InventoryPage {
        frame: Frame::of(&entered, Tab::Inventory, "Inventory"),
        part: "identities",
        search,
        rows: answer.identities.iter().map(|one| identity_row(one, now)).collect(),
        next: answer.next_page_token,
        wrong,
    };
    Ok(page(status, &shown))
}

/// A row of an identity.
#[must_use]
pub fn identity_row(one: &v1::Identity, now: Time) -> IdentityRow {
    let moment = |at: Option<prost_types::Timestamp>| at.map(|at| Moment::of(&at, now));
    let over = |by: prost_types::Timestamp| u64::try_from(by.seconds).unwrap_or(0) <= now.as_secs();
    IdentityRow {
        name: one.name.clone(),
        purpose: sentence(&one.purpose),
        owners: both(&one.owner_business, &one.owner_technical),
        tier: one.trust_tier.clone(),
        review_by: one.review_by.map(|end| Moment::last_day(&end, now)),
        review_over: one.review_by.is_some_and(over),
        quarantined: one.quarantined,
        active: count(u64::from(one.active_grants), "active grant", "active grants"),
        granted: moment(one.last_granted),
        used: moment(one.last_used),
        unused: one.unused_scopes.clone(),
    }
}
