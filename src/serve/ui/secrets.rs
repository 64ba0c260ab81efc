//! Static secrets that still exist: whose, how old, and which should have been rotated or ended by now.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::time::Time;

use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, both, sentence};

#[derive(Template)]
#[template(path = "secrets.html", config = ".askama.toml")]
struct SecretsPage {
    frame: Frame,
    part: &'static str,
    secrets: Vec<Shown>,
    /// Why nothing is shown; empty: it is.
    wrong: String,
}

/// A secret, never its value: the broker has none.
struct Shown {
    name: String,
    purpose: String,
    resource: String,
    owners: String,
    created: Option<Moment>,
    rotate_by: Option<Moment>,
    expires: Option<Moment>,
    overdue: bool,
    expired: bool,
    unmanaged: bool,
    found_in: String,
    revoke: String,
    header: String,
    gateways: String,
}

/// The page: those first that are late.
///
/// # Errors
/// Never: what is refused is said instead.
pub async fn list(State(site): State<Arc<Site>>, entered: Entered) -> Result<Response, Response> {
    let asked = entered.ask(v1::ListSecretsRequest {});
    let (status, mut secrets, wrong) = match site.governance.list_secrets(asked).await {
        Ok(answer) => (StatusCode::OK, answer.into_inner().secrets, String::new()),
        Err(no) => (problem::http(no.code()), Vec::new(), sentence(no.message())),
    };
    secrets.sort_by_key(|one| (!one.expired, !one.overdue, one.name.clone()));
    let now = site.broker.now();
    let secrets = secrets.into_iter().map(|one| shown(one, now)).collect();
    let frame = Frame::of(&entered, Tab::Inventory, "Leftover secrets");
    Ok(page(status, &SecretsPage { frame, part: "secrets", secrets, wrong }))
}

fn shown(one: v1::Secret, now: Time) -> Shown {
    let moment = |at: Option<prost_types::Timestamp>| at.map(|at| Moment::of(&at, now));
    Shown {
        purpose: sentence(&one.purpose),
        owners: both(&one.owner_business, &one.owner_technical),
        created: moment(one.created),
        rotate_by: moment(one.rotate_by),
        expires: one.expires.map(|end| Moment::last_day(&end, now)),
        unmanaged: one.status == "unmanaged",
        gateways: one.gateways.join(", "),
        name: one.name,
        resource: one.resource,
        overdue: one.overdue,
        expired: one.expired,
        found_in: one.found_in,
        revoke: one.revoke,
        header: one.injected_as,
    }
}
