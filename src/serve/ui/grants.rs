//! *Grants*: what was granted, live and ended, newest first, and looked for by whose, what for, on what and where it stands.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::ids::GrantId;
use protem_verify::names::{Malformed, ResourceName};
use serde::Deserialize;

use crate::journal::reader::{GrantFilter, Stage};
use crate::policy::ask::Object;
use crate::policy::login::Caller;
use crate::serve::listing::{self, Selection};
use crate::serve::parse;
use crate::serve::selector;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::LISTED;
use crate::serve::ui::problem;
use crate::serve::ui::rows::{GrantRow, grant_row};
use crate::serve::ui::site::Site;
use crate::serve::ui::words::sentence;
use crate::serve::who;

/// What is looked for; an empty field takes all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    /// A grant, by its id or a part of it.
    pub id: String,
    /// Of this identity.
    pub identity: String,
    /// Under this task of that identity.
    pub task: String,
    /// On this resource.
    pub resource: String,
    /// `active`, `ended` or `waiting`.
    pub state: String,
    /// Older than this grant: a further page.
    pub before: String,
}

#[derive(Template)]
#[template(path = "grants.html", config = ".askama.toml")]
struct GrantsPage {
    frame: Frame,
    search: Search,
    rows: Vec<GrantRow>,
    /// Where the next page begins; empty: there is none.
    next: String,
    /// Why nothing is shown; empty: it is.
    wrong: String,
}

/// The page.
///
/// # Errors
/// When a grant is looked for that is not there.
pub async fn list(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Query(search): Query<Search>,
) -> Result<Response, Response> {
    if !search.id.trim().is_empty() {
        return one(&site, &entered, search.id.trim()).await;
    }
    let (status, answer, wrong) = match found(&site, &entered, &search).await {
        Ok(answer) => (StatusCode::OK, answer, String::new()),
        Err(no) => {
            let no = no.status();
            (problem::http(no.code()), v1::ListGrantsResponse::default(), sentence(no.message()))
        }
    };
    let now = site.broker.now();
    let shown = GrantsPage {
        frame: Frame::of(&entered, Tab::Grants, "Grants"),
        search,
        rows: answer.grants.iter().map(|grant| grant_row(grant, now)).collect(),
        next: answer.next_page_token,
        wrong,
    };
    Ok(page(status, &shown))
}

/// Leads to a grant by its id or a part of it.
async fn one(site: &Arc<Site>, entered: &Entered, id: &str) -> Result<Response, Response> {
    let get = v1::GetGrantRequest { grant_id: id.to_owned() };
    let found = site.governance.get_grant(entered.ask(get)).await;
    let found = found.map_err(|status| problem::with_way(Some(entered), &status, "/ui/grants"))?;
    let id = found.into_inner().grant.and_then(|grant| grant.id.parse::<GrantId>().ok());
    let id = id.ok_or_else(|| problem::nothing(Some(entered)))?;
    Ok(Redirect::to(&format!("/ui/grants/{}", id.text())).into_response())
}

async fn found(
    site: &Site,
    entered: &Entered,
    search: &Search,
) -> Result<v1::ListGrantsResponse, Problem> {
    let caller = entered.caller()?;
    let selection = selection(site, caller, search)?;
    listing::page(&site.broker, caller, selection).await
}

fn selection(site: &Site, caller: &Caller, search: &Search) -> Result<Selection, Problem> {
    let mut filter = GrantFilter { limit: LISTED, ..GrantFilter::default() };
    let mut objects = Vec::new();
    if let (Some(identity), task) = whose(search)? {
        let identity = selector::identity("identity", identity)?;
        if let Some(task) = task {
            filter.task = Some(parse::task_id("task", task)?);
        }
        objects.push(Object::Identity(identity.clone()));
        filter.identity = Some(identity);
    }
    if !search.resource.trim().is_empty() {
        let resource = ResourceName::try_from(search.resource.trim())?;
        objects.push(Object::Resource(resource.clone()));
        filter.resource = Some(resource);
    }
    filter.states = match search.state.as_str() {
        "active" => vec![Stage::Active],
        "ended" => vec![Stage::Ended],
        "waiting" => vec![Stage::Pending],
        _ => Vec::new(),
    };
    if !search.before.is_empty() {
        filter.before = Some(parse::grant_id("before", &search.before)?);
    }
    // Each grant of the page is looked at besides: to see all of an identity's is enough to look among them by resource.
    let seen = |object: &&Object| {
        who::may_view(&site.broker, caller, std::slice::from_ref(*object)).is_ok()
    };
    if let Some(one) = objects.iter().find(seen).cloned() {
        objects = vec![one];
    }
    Ok(Selection { filter, owned: Vec::new(), objects })
}

/// Identity and task. A task is one of an identity, and `identity#task` names both.
fn whose(search: &Search) -> Result<(Option<&str>, Option<&str>), Problem> {
    let (identity, task) = (search.identity.trim(), search.task.trim());
    match (identity, task) {
        ("", "") => Ok((None, None)),
        (identity, "") => Ok((Some(identity), None)),
        ("", task) => {
            let why = "belongs to an identity: name that, too";
            let (identity, task) = task.split_once('#').ok_or(Malformed { field: "task", why })?;
            Ok((Some(identity), Some(task)))
        }
        (identity, task) => Ok((Some(identity), Some(task))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_one_of_an_identity() {
        let of = |identity: &str, task: &str| {
            let (identity, task) = (identity.to_owned(), task.to_owned());
            let search = Search { identity, task, ..Search::default() };
            whose(&search).map(|(one, two)| (one.map(str::to_owned), two.map(str::to_owned))).ok()
        };
        let both = Some((Some("a/b".to_owned()), Some("t-1".to_owned())));
        assert_eq!(of("a/b", " t-1 "), both);
        assert_eq!(of("", "a/b#t-1"), both);
        assert_eq!(of(" ", "t-1"), None);
        assert_eq!(of("a/b", ""), Some((Some("a/b".to_owned()), None)));
        assert_eq!(of("", ""), Some((None, None)));
    }
}
