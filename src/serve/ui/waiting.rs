//! *Waiting*: every request that a person may know of, those first that they may decide.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_verify::time::Time;

use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::WAITING_SHOWN;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, count, given, length, span, to_you};

#[derive(Template)]
#[template(path = "waiting.html", config = ".askama.toml")]
struct WaitingPage {
    frame: Frame,
    mine: Vec<Row>,
    others: Vec<Row>,
    more: bool,
}

/// A request in the list.
struct Row {
    id: String,
    identity: String,
    scopes: String,
    resource: String,
    purpose: String,
    lifetime: String,
    risk: String,
    /// The words of what is unusual.
    unusual: String,
    approvals: String,
    by: Moment,
    /// Why the person may not decide; empty when they may.
    why_not: String,
    approved: bool,
}

/// The page.
///
/// # Errors
/// As the service refuses.
pub async fn list(State(site): State<Arc<Site>>, entered: Entered) -> Result<Response, Response> {
    let asked = v1::ListPendingRequest { page_size: WAITING_SHOWN, ..Default::default() };
    let answer = site.approvals.list_pending(entered.ask(asked)).await;
    let answer = answer.map_err(|status| problem::page(&site, Some(&entered), &status))?;
    let answer = answer.into_inner();
    let now = site.broker.now();
    let all = answer.pending.iter().map(|one| row(one, now));
    let (mine, others) = all.partition(|row| row.why_not.is_empty() && !row.approved);
    let frame = Frame::of(&entered, Tab::Waiting, "Waiting").live("waiting");
    let more = !answer.next_page_token.is_empty();
    Ok(page(StatusCode::OK, &WaitingPage { frame, mine, others, more }))
}

fn row(one: &v1::PendingGrant, now: Time) -> Row {
    let grant = one.grant.clone().unwrap_or_default();
    let why_not = match (one.may_decide, one.why_not.as_str()) {
        (true, _) => String::new(),
        (false, "") => "policy lets other people decide".to_owned(),
        (false, why) => to_you(why),
    };
    let needed = u64::from(grant.approvals_required);
    Row {
        scopes: grant.scopes.join(", "),
        lifetime: length(span(grant.lifetime.as_ref())),
        risk: one.risk.clone(),
        unusual: unusual(&one.findings),
        approvals: format!("{} of {}", given(&grant), count(needed, "approval", "approvals")),
        by: grant.decide_by.map(|by| Moment::of(&by, now)).unwrap_or_default(),
        why_not,
        approved: one.approved_by_me,
        id: grant.id,
        identity: grant.identity,
        resource: grant.resource,
        purpose: grant.purpose,
    }
}

fn unusual(findings: &[String]) -> String {
    let words = findings.iter().map(|finding| finding.split(':').next().unwrap_or_default());
    words.map(|word| word.replace('-', " ")).collect::<Vec<_>>().join(", ")
}
