//! What became of a request: who decided, when, in which words, and where it stands.

use std::sync::Arc;

use askama::Template;
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1::GrantState;
use protem_verify::ids::GrantId;

use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::request::{Asked, Given, approvals, asked};
use crate::serve::ui::site::Site;
use crate::serve::ui::stop::may_end;
use crate::serve::ui::words::{Moment, actor, standing};
use crate::serve::who;

#[derive(Template)]
#[template(path = "outcome.html", config = ".askama.toml")]
struct OutcomePage {
    frame: Frame,
    done: &'static str,
    asked: Asked,
    /// One word: `active`, `denied`.
    state: &'static str,
    /// How it is drawn: `good`, `bad`, `quiet`.
    tone: &'static str,
    from: Option<Moment>,
    until: Option<Moment>,
    ended: Option<Moment>,
    ended_by: String,
    note: String,
    approvals: Vec<Given>,
    policies: Vec<String>,
    /// Whether all of the grant may be looked at.
    visible: bool,
    /// Whether the person may end it.
    revoke: bool,
}

/// The page.
///
/// # Errors
/// When there is no such grant, or the person may not know of it.
pub async fn show(
    site: &Arc<Site>,
    entered: &Entered,
    id: GrantId,
    done: &'static str,
) -> Result<Response, Response> {
    let found = site.broker.known(&entered.person, id).await;
    let found = found.map_err(|stop| {
        let problem = Problem::from(stop);
        match problem.code() == protem_verify::codes::law::UNKNOWN_GRANT {
            true => problem::nothing(Some(entered)),
            false => problem::page(site, Some(entered), &problem.status()),
        }
    })?;
    let (grant, now) = (show::grant(&found), site.broker.now());
    let (state, tone) = standing(&grant);
    let caller = entered.caller().map_err(|no| problem::page(site, Some(entered), &no.status()))?;
    let visible = who::may_view(&site.broker, caller, &who::objects(&found)).is_ok();
    let revoke = grant.state() == GrantState::Active && may_end(site, entered, id).await.is_ok();
    let moment = |at: Option<prost_types::Timestamp>| at.map(|at| Moment::of(&at, now));
    let title = format!("{}: {state}", grant.identity);
    let shown = OutcomePage {
        frame: Frame::of(entered, Tab::Waiting, title),
        done,
        state,
        tone,
        from: moment(grant.active_from),
        until: moment(grant.active_until),
        ended: moment(grant.ended_at),
        ended_by: person(&grant.ended_by),
        note: grant.end_note.clone(),
        approvals: approvals(&grant, now),
        policies: grant.verdict.iter().flat_map(|verdict| verdict.policies.clone()).collect(),
        asked: asked(&grant, None, now),
        visible,
        revoke,
    };
    Ok(page(StatusCode::OK, &shown))
}

/// Who ended it, where that was somebody.
pub(super) fn person(by: &str) -> String {
    if by.starts_with("person:") || by.starts_with("identity:") {
        return actor(by).to_owned();
    }
    String::new()
}
