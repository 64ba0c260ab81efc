//! *Waiting*: every request that a person may know of, those first that they may decide.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_verify::time::Time;
use serde::Deserialize;

use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::WAITING_SHOWN;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, count, given, length, span, to_you};

/// Which part of each list; empty: its begin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Part {
    /// Those for the person to decide, after this one.
    pub mine: String,
    /// The others, after this one.
    pub others: String,
}

#[derive(Template)]
#[template(path = "waiting.html", config = ".askama.toml")]
struct WaitingPage {
    frame: Frame,
    part: Part,
    mine: Vec<Row>,
    others: Vec<Row>,
    /// Where the next page of each list begins; empty: there is none.
    next: Part,
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
pub async fn list(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(part): Query<Part>,
) -> Result<Response, Response> {
    let blank = v1::ListPendingRequest { page_size: WAITING_SHOWN, ..Default::default() };
    let page_token = part.mine.clone();
    let mine = v1::ListPendingRequest { mine_only: true, page_token, ..blank.clone() };
    let page_token = part.others.clone();
    let others = v1::ListPendingRequest { others_only: true, page_token, ..blank };
    let mut next = Part::default();
    let mut rows = Vec::new();
    let now = site.broker.now();
    for (asked, next) in [(mine, &mut next.mine), (others, &mut next.others)] {
        let answer = site.approvals.list_pending(entered.ask(asked)).await;
        let answer = answer.map_err(|status| problem::page(&site, Some(&entered), &status))?;
        let answer = answer.into_inner();
        rows.extend(answer.pending.iter().map(|one| row(one, now)));
        *next = answer.next_page_token;
    }
    // What the person has approved is theirs to take back, and others' to decide.
    let (mine, others) = rows.into_iter().partition(|row| row.why_not.is_empty() && !row.approved);
    let frame = Frame::of(&entered, Tab::Waiting, "Waiting").live("waiting");
    Ok(page(StatusCode::OK, &WaitingPage { frame, part, mine, others, next }))
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
