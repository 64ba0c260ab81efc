//! The forms of a request: approve, perhaps less than was asked; deny; take an approval back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use prost_types::Duration as WireDuration;
use protem_proto::wire::v1;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_verify::ids::GrantId;
use protem_verify::names::Malformed;

use crate::serve::status::Problem;
use crate::serve::ui::entered::Posted;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;

/// Yes, to what the page showed or to less.
///
/// # Errors
/// As the service refuses: the request changed since, or waits no more; the person may not.
pub async fn approve(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Response> {
    let narrow = narrowed(&posted).map_err(|why| refused(&posted, &id, &why.status()))?;
    let (lifetime, scopes) = narrow;
    let reason = posted.text("note").trim().to_owned();
    let wish = v1::DecideRequest { approve: true, reason, lifetime, scopes, ..wish(&posted, &id) };
    decided(&site, posted, &id, wish, "approve").await
}

/// No, with a reason.
///
/// # Errors
/// As [`approve`], and without a reason.
pub async fn deny(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Response> {
    let reason = posted.text("reason").trim().to_owned();
    let wish = v1::DecideRequest { reason, ..wish(&posted, &id) };
    decided(&site, posted, &id, wish, "deny").await
}

/// The own approval back.
///
/// # Errors
/// As [`approve`], and when there is none.
pub async fn take_back(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Response> {
    let wish = v1::DecideRequest { undo: true, ..wish(&posted, &id) };
    decided(&site, posted, &id, wish, "take-back").await
}

/// What every decision says: which request, and what its page showed.
fn wish(posted: &Posted, id: &str) -> v1::DecideRequest {
    let digest = posted.text("digest").to_owned();
    v1::DecideRequest { grant_id: id.to_owned(), digest, ..v1::DecideRequest::default() }
}

async fn decided(
    site: &Arc<Site>,
    posted: Posted,
    id: &str,
    wish: v1::DecideRequest,
    word: &str,
) -> Result<Response, Response> {
    match site.approvals.decide(posted.entered.ask(wish)).await {
        Ok(_) => Ok(Redirect::to(&format!("/ui/requests/{id}?done={word}")).into_response()),
        Err(status) => Err(refused(&posted, id, &status)),
    }
}

fn refused(posted: &Posted, id: &str, status: &tonic::Status) -> Response {
    // Only an id of ours becomes part of an address.
    let again = id.parse::<GrantId>().map(|id| format!("/ui/requests/{}", id.text()));
    problem::with_way(Some(&posted.entered), status, &again.unwrap_or_default())
}

/// A shorter time and fewer scopes, where the form says so.
fn narrowed(posted: &Posted) -> Result<(Option<WireDuration>, Vec<String>), Problem> {
    let lifetime = match posted.text("lifetime") {
        "" => None,
        text => {
            let bad = |_| Malformed { field: "lifetime", why: "is no number of seconds" };
            Some(WireDuration { seconds: text.parse().map_err(bad)?, nanos: 0 })
        }
    };
    let all: Vec<&str> = posted.all("of").collect();
    let kept: Vec<String> = posted.all("scope").map(str::to_owned).collect();
    if !all.is_empty() && kept.is_empty() {
        let why = "are all left out: that is a denial, which has a reason";
        return Err(Malformed { field: "scopes", why }.into());
    }
    let narrower = kept.len() < all.len();
    Ok((lifetime, if narrower { kept } else { Vec::new() }))
}
