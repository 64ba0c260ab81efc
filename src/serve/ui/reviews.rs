//! *Reviews*: emergencies that nobody was asked for before, and the look at them afterwards.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_verify::time::Time;

use crate::serve::ui::entered::{Entered, Posted};
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::REVIEWS_SHOWN;
use crate::serve::ui::problem;
use crate::serve::ui::request::{Done, done_words};
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, ended, to_you};

#[derive(Template)]
#[template(path = "reviews.html", config = ".askama.toml")]
struct ReviewsPage {
    frame: Frame,
    done: &'static str,
    open: Vec<Row>,
    closed: Vec<Row>,
    /// Tells one state of the list from another, so that what is being typed stays.
    version: String,
}

/// An emergency in the list.
struct Row {
    id: String,
    identity: String,
    scopes: String,
    resource: String,
    purpose: String,
    subject: String,
    task: String,
    state: &'static str,
    tone: &'static str,
    at: Moment,
    may: bool,
    why_not: String,
    closed_by: String,
    closed_at: Moment,
    note: String,
}

/// The page.
///
/// # Errors
/// As the service refuses.
pub async fn list(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(done): Query<Done>,
) -> Result<Response, Response> {
    let asked = v1::ListReviewsRequest { page_size: REVIEWS_SHOWN, ..Default::default() };
    let answer = site.approvals.list_reviews(entered.ask(asked)).await;
    let answer = answer.map_err(|status| problem::page(&site, Some(&entered), &status))?;
    let now = site.broker.now();
    let rows = answer.into_inner().reviews;
    let rows = rows.iter().map(|one| row(one, now));
    let (open, closed): (Vec<Row>, Vec<Row>) = rows.partition(|row| row.closed_by.is_empty());
    let shown =
        open.iter().chain(&closed).map(|row| format!("{} {} {}", row.id, row.state, row.closed_by));
    let version = shown.collect::<Vec<_>>().join(" ");
    let frame = Frame::of(&entered, Tab::Reviews, "Reviews").live("reviews");
    let done = done_words(&done.done);
    Ok(page(StatusCode::OK, &ReviewsPage { frame, done, open, closed, version }))
}

/// Closes a review, with a note.
///
/// # Errors
/// As the service refuses: the person may not, or somebody else has closed it.
pub async fn close(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Response> {
    let note = posted.text("note").trim().to_owned();
    let asked = v1::CloseReviewRequest { grant_id: id, note };
    match site.approvals.close_review(posted.entered.ask(asked)).await {
        Ok(_) => Ok(Redirect::to("/ui/reviews?done=close").into_response()),
        Err(status) => Err(problem::with_way(Some(&posted.entered), &status, "/ui/reviews")),
    }
}

fn row(one: &v1::Review, now: Time) -> Row {
    let grant = one.grant.clone().unwrap_or_default();
    let (state, tone) = match grant.state() {
        GrantState::Active => ("active", "bad"),
        GrantState::Ended => (ended(grant.end_reason()), "quiet"),
        GrantState::Pending | GrantState::Unspecified => ("waiting", "quiet"),
    };
    let moment =
        |at: Option<prost_types::Timestamp>| at.map(|at| Moment::of(&at, now)).unwrap_or_default();
    let why_not = match one.why_not.as_str() {
        "" => "policy lets other people look at it".to_owned(),
        why => to_you(why),
    };
    Row {
        scopes: grant.scopes.join(", "),
        task: grant.task.as_ref().map(|task| task.id.clone()).unwrap_or_default(),
        at: moment(grant.requested_at),
        id: grant.id,
        identity: grant.identity,
        resource: grant.resource,
        purpose: grant.purpose,
        subject: grant.subject,
        state,
        tone,
        may: one.may_close,
        why_not,
        closed_by: one.closed_by.clone(),
        closed_at: moment(one.closed_at),
        note: one.note.clone(),
    }
}
