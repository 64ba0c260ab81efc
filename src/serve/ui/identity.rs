//! One identity: who answers for it, how it proves who it is, what it holds, and stopping it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::StatusCode;
use protem_core::event::Target;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_proto::wire::v1::selector::By;
use protem_verify::names::IdentityName;
use tonic::Status;

use crate::policy::ask::Object;
use crate::policy::catalog::LoginRule;
use crate::serve::selector;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::inventory::{IdentityRow, identity_row};
use crate::serve::ui::limits::LISTED_OF_ONE;
use crate::serve::ui::problem;
use crate::serve::ui::request::Done;
use crate::serve::ui::rows::{GrantRow, grant_row};
use crate::serve::ui::site::Site;
use crate::serve::ui::words::sentence;
use crate::serve::who;

#[derive(Template)]
#[template(path = "identity.html", config = ".askama.toml")]
struct IdentityPage {
    frame: Frame,
    done: &'static str,
    one: IdentityRow,
    /// Whether the inventory still has it.
    known: bool,
    team: String,
    /// How it proves who it is; none: the person may not look at the bundle.
    logins: Option<Vec<Login>>,
    grants: Vec<GrantRow>,
    more: bool,
    /// Why it may not be revoked; empty: it may.
    no_revoke: String,
    /// Why it may not be quarantined; empty: it may.
    no_quarantine: String,
}

/// A way to prove who it is.
struct Login {
    issuer: String,
    claims: Vec<String>,
    person: String,
}

/// The page.
///
/// # Errors
/// When there is no such identity, or the person may not look at it.
pub async fn show(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Path(name): Path<String>,
    Query(done): Query<Done>,
) -> Result<Response, Response> {
    let Ok(name) = IdentityName::try_from(name.as_str()) else {
        return Err(problem::nothing(Some(&entered)));
    };
    let refuse = |no: Status| problem::page(&site, Some(&entered), &no);
    let caller = entered.caller().map_err(|no| refuse(no.status()))?;
    // Who may not look at it learns nothing, not even that it is there.
    let object = Object::Identity(name.clone());
    if who::may_view(&site.broker, caller, std::slice::from_ref(&object)).is_err() {
        return Err(problem::nothing(Some(&entered)));
    }
    let of_it = v1::Selector { by: Some(By::Identity(name.to_string())) };
    let grants = v1::ListGrantsRequest {
        selector: Some(of_it),
        page_size: LISTED_OF_ONE,
        ..v1::ListGrantsRequest::default()
    };
    let grants = site.governance.list_grants(entered.ask(grants)).await.map_err(refuse)?;
    let grants = grants.into_inner();
    let bundle = site.broker.bundle();
    let known = bundle.identities().get(&name);
    // One that was removed may still have grants to end.
    if known.is_none() && grants.grants.is_empty() {
        return Err(problem::nothing(Some(&entered)));
    }
    let one = match known {
        Some(_) => look(&site, &entered, &name).await.map_err(refuse)?,
        None => v1::Identity { name: name.to_string(), ..v1::Identity::default() },
    };
    let all = who::may_view(&site.broker, caller, &[]).is_ok();
    let logins = known.filter(|_| all);
    let logins = logins.map(|known| known.logins.iter().map(login).collect());
    let target = [Target::Identity(name.clone())];
    let revoke = selector::may_revoke(&site.broker, &entered.person, &target).await;
    let why = |answer: Result<(), Problem>| {
        answer.err().map(|no| sentence(no.status().message())).unwrap_or_default()
    };
    let now = site.broker.now();
    let shown = IdentityPage {
        frame: Frame::of(&entered, Tab::Inventory, name.to_string()),
        done: if done.done == "lift" { "It may ask for access again." } else { "" },
        one: identity_row(&one, now),
        known: known.is_some(),
        team: known.map(|known| known.team.to_string()).unwrap_or_default(),
        logins,
        more: !grants.next_page_token.is_empty(),
        grants: grants.grants.iter().map(|grant| grant_row(grant, now)).collect(),
        no_revoke: why(revoke),
        no_quarantine: why(site.governance.may_quarantine(caller)),
    };
    Ok(page(StatusCode::OK, &shown))
}

async fn look(site: &Site, entered: &Entered, name: &IdentityName) -> Result<v1::Identity, Status> {
    let asked = v1::ListIdentitiesRequest { name: name.to_string(), ..Default::default() };
    let answer = site.governance.list_identities(entered.ask(asked)).await?;
    Ok(answer.into_inner().identities.into_iter().next().unwrap_or_default())
}

fn login(rule: &LoginRule) -> Login {
    let claims = rule.claims.iter().map(|(name, value)| format!("{name} = {value}"));
    Login {
        issuer: rule.issuer.to_string(),
        claims: claims.collect(),
        person: rule.person.clone().unwrap_or_default(),
    }
}
