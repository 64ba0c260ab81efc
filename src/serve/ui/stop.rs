//! Revoking: one grant or all of an identity, after a page that says what it ends and asks why.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use protem_core::event::Target;
use protem_verify::ids::GrantId;
use protem_verify::names::{IdentityName, Malformed};
use serde::Deserialize;

use crate::policy::ask::Object;
use crate::serve::parse;
use crate::serve::selector;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::ui::entered::{Entered, Posted};
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::rows::{GrantRow, grant_row};
use crate::serve::ui::site::Site;
use crate::serve::ui::words::count;
use crate::serve::who;

/// What is to be ended: one of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Which {
    /// A grant.
    pub grant: String,
    /// An identity.
    pub identity: String,
}

#[derive(Template)]
#[template(path = "stop.html", config = ".askama.toml")]
struct StopPage {
    frame: Frame,
    /// The grant; empty: the identity.
    grant: String,
    identity: String,
    row: Option<GrantRow>,
    /// How many grants it has, where the person may know.
    active: Option<String>,
    back: String,
}

/// The page that asks. It ends nothing.
///
/// # Errors
/// When the person may not end it, or it is not there.
pub async fn ask(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(which): Query<Which>,
) -> Result<Response, Response> {
    let refuse = |no: Problem| problem::page(&site, Some(&entered), &no.status());
    let target = target(&which.grant, &which.identity).map_err(refuse)?;
    let back = address(&target);
    let caller = entered.caller().map_err(refuse)?;
    let targets = std::slice::from_ref(&target);
    selector::may_revoke(&site.broker, &entered.person, targets)
        .await
        .map_err(|no| problem::with_way(Some(&entered), &no.status(), &back))?;
    let (mut row, mut active, mut name) = (None, None, String::new());
    match &target {
        Target::Grant(id) => row = known(&site, &entered, *id).await,
        Target::Identity(identity) => {
            name = identity.to_string();
            let object = Object::Identity(identity.clone());
            if who::may_view(&site.broker, caller, &[object]).is_ok() {
                let of = identity.clone();
                let asked = site.broker.ask(move |state| state.active(&of)).await;
                let asked = asked.map_err(|stop| refuse(stop.into()))?;
                active = Some(count(u64::from(asked), "active grant", "active grants"));
            }
        }
        Target::Task(..)
        | Target::Resource(_)
        | Target::Scope(..)
        | Target::Key(_)
        | Target::Everything => {}
    }
    let frame = Frame::of(&entered, Tab::Grants, "Revoke");
    let shown = StopPage { frame, grant: which.grant, identity: name, row, active, back };
    Ok(page(StatusCode::OK, &shown))
}

/// The grant, as far as the person may look at it: who approved it may end it, too.
async fn known(site: &Site, entered: &Entered, id: GrantId) -> Option<GrantRow> {
    let seen = who::visible(&site.broker, entered.caller().ok()?, id).await;
    let record = match seen {
        Ok(record) => record,
        Err(_) => site.broker.known(&entered.person, id).await.ok()?,
    };
    Some(grant_row(&show::grant(&record), site.broker.now()))
}

/// The form: it is over when this answers, and the page that follows shows where.
///
/// # Errors
/// As the service refuses; without a note.
pub async fn revoke(State(site): State<Arc<Site>>, posted: Posted) -> Result<Response, Response> {
    let refuse =
        |no: Problem, again: &str| problem::with_way(Some(&posted.entered), &no.status(), again);
    let target = target(posted.text("grant"), posted.text("identity"));
    let target = target.map_err(|no| refuse(no, ""))?;
    let again = match &target {
        Target::Grant(id) => format!("/ui/revoke?grant={}", id.text()),
        Target::Identity(identity) => format!("/ui/revoke?identity={identity}"),
        Target::Task(..)
        | Target::Resource(_)
        | Target::Scope(..)
        | Target::Key(_)
        | Target::Everything => String::new(),
    };
    let note = parse::required_words("note", posted.text("note").trim());
    let note = note.map_err(|no| refuse(no, &again))?;
    let caller = posted.entered.caller().map_err(|no| refuse(no, &again))?;
    let ended = site.governance.end(caller, vec![target], note).await;
    let ended = ended.map_err(|no| refuse(no, &again))?;
    Ok(Redirect::to(&format!("/ui/revocations/{}", ended.mark.seq.0)).into_response())
}

/// Whether a person may end a grant: the same question as the service asks.
///
/// # Errors
/// Why not.
pub async fn may_end(site: &Site, entered: &Entered, id: GrantId) -> Result<(), Problem> {
    selector::may_revoke(&site.broker, &entered.person, &[Target::Grant(id)]).await
}

fn target(grant: &str, identity: &str) -> Result<Target, Problem> {
    match (grant.trim(), identity.trim()) {
        (grant, "") if !grant.is_empty() => Ok(Target::Grant(parse::grant_id("grant", grant)?)),
        ("", identity) if !identity.is_empty() => {
            Ok(Target::Identity(selector::identity("identity", identity)?))
        }
        _ => {
            Err(Malformed { field: "grant", why: "or an identity is to be named, one of them" }
                .into())
        }
    }
}

/// Where what is to be ended is shown.
fn address(target: &Target) -> String {
    match target {
        Target::Grant(id) => format!("/ui/grants/{}", id.text()),
        Target::Identity(identity) | Target::Task(identity, _) => of_identity(identity),
        Target::Resource(_) | Target::Scope(..) | Target::Key(_) | Target::Everything => {
            "/ui/grants".to_owned()
        }
    }
}

/// The page of an identity; its name is plain in addresses.
#[must_use]
pub fn of_identity(name: &IdentityName) -> String {
    format!("/ui/inventory/identities/{name}")
}
