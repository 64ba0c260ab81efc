//! Signing in to the page and out again.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use http::header::SET_COOKIE;
use serde::Deserialize;
use tonic::Code as Grpc;

use crate::fetch::client::encode;
use crate::serve::caller::{Asked, SignedIn};
use crate::serve::jwt::Rejected;
use crate::serve::oidc::PeopleIssuer;
use crate::serve::status::Problem;
use crate::serve::ui::entered::{Posted, form};
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::ticket::Ticket;
use crate::serve::welcome::people;
use crate::serve::who;

/// Why somebody is here.
#[derive(Debug, Default, Deserialize)]
pub struct Asking {
    /// A one-time sign-in.
    #[serde(default)]
    ticket: String,
    /// Where they wanted to go.
    #[serde(default)]
    to: String,
    /// Whether a session ended.
    #[serde(default)]
    ended: String,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = ".askama.toml")]
struct SignInPage {
    frame: Frame,
    to: String,
    ended: bool,
    /// Where people sign in.
    issuers: Vec<PeopleIssuer>,
    /// Of a development broker: the command that prints a URL.
    command: String,
    ticket: String,
    /// Of a ticket: whose.
    name: String,
    groups: String,
}

/// Shows how to sign in; with a ticket, as whom. Nothing is used up: a prefetched page signs nobody in.
pub async fn ask(State(site): State<Arc<Site>>, Query(asking): Query<Asking>) -> Response {
    let mut shown = SignInPage {
        frame: Frame::for_anybody(Tab::Nowhere, "Sign in"),
        to: way_back(&asking.to).unwrap_or_default(),
        ended: !asking.ended.is_empty(),
        issuers: Vec::new(),
        command: String::new(),
        ticket: String::new(),
        name: String::new(),
        groups: String::new(),
    };
    if asking.ticket.is_empty() {
        if site.door.dev().is_some() {
            shown.command = command(&site);
        } else {
            shown.issuers = people(&site.broker.bundle());
        }
        return page(StatusCode::OK, &shown);
    }
    match person(&site, &asking.ticket) {
        Ok((_, person)) => {
            let groups: Vec<&str> = person.groups.iter().map(|group| group.as_str()).collect();
            shown.groups = groups.join(", ");
            shown.name = person.name.to_string();
            shown.ticket = asking.ticket;
            page(StatusCode::OK, &shown)
        }
        Err(problem) => problem::with_way(None, &problem.status(), "/ui/sign-in"),
    }
}

fn command(site: &Site) -> String {
    let port = site.origin.port();
    let broker = match port == crate::config::PORT {
        true => String::new(),
        false => format!(" --broker {}", site.origin.url()),
    };
    format!("protem auth web{broker} --as alice:shop-oncall")
}

/// Whose ticket it is: a person's.
fn person(site: &Site, ticket: &str) -> Result<(Ticket, crate::policy::login::Person), Problem> {
    let generation = site.door.changes().generation();
    let bundle = site.broker.bundle();
    let asked = Asked { bundle: &bundle, generation, now: site.time.now() };
    let ticket = site.tickets.read(&site.door, ticket, &asked).map_err(refused)?;
    let person = who::person(ticket.signed_in.caller()?)?.clone();
    Ok((ticket, person))
}

/// A token that does not count, as a problem.
#[must_use]
pub fn refused(rejected: Rejected) -> Problem {
    Problem::new(Grpc::Unauthenticated, rejected.code, rejected.why)
}

/// Signs in with a ticket, which is used up.
pub async fn take(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Response> {
    let old = site.cookie.read(request.headers()).map(str::to_owned);
    let fields = form(request, &site).await?;
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, text)| text.as_str())
    };
    let refuse = |problem: Problem| problem::with_way(None, &problem.status(), "/ui/sign-in");
    let (ticket, _) = person(&site, field("ticket")).map_err(refuse)?;
    let redeemed = site.tickets.redeem(&ticket, site.time.now());
    redeemed.map_err(|rejected| refuse(refused(rejected)))?;
    Ok(begin(&site, Arc::clone(&ticket.signed_in), old.as_deref(), field("to")))
}

/// A new session, under a cookie that nobody could know before (session fixation); an older one of this browser ends.
#[must_use]
pub fn begin(site: &Site, signed_in: Arc<SignedIn>, old: Option<&str>, to: &str) -> Response {
    let now = site.time.boot();
    if let Some(old) = old.and_then(|old| site.sessions.find(old, now)) {
        site.sessions.end(&old);
    }
    let (_, value) = site.sessions.begin(signed_in, now);
    let mut response = Redirect::to(way_back(to).as_deref().unwrap_or("/ui/")).into_response();
    response.headers_mut().append(SET_COOKIE, site.cookie.set(&value, None));
    response
}

/// Signs out: the session ends, with all that is open under it.
pub async fn leave(State(site): State<Arc<Site>>, posted: Posted) -> Response {
    site.sessions.end(&posted.entered.session);
    let mut response = Redirect::to("/ui/sign-in").into_response();
    response.headers_mut().append(SET_COOKIE, site.cookie.remove());
    response
}

/// Where a sign-in may lead to: a page of ours, plainly spelled, and never another host; with its query, but for what it says
/// was done.
#[must_use]
pub fn way_back(way: &str) -> Option<String> {
    let (path, query) = way.split_once('?').unwrap_or((way, ""));
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"/_-.".contains(&letter);
    let good = path.starts_with("/ui/") && path.bytes().all(plain);
    if !good || path.contains("//") || path.contains("..") || path.len() > WAY_MAX {
        return None;
    }
    let encoded = |letter: u8| plain(letter) || b"%+=&:~*".contains(&letter);
    if query.len() > QUERY_MAX || !query.bytes().all(encoded) {
        return Some(path.to_owned());
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let kept: Vec<&str> = pairs.filter(|pair| pair.split('=').next() != Some("done")).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    Some(format!("{path}{mark}{}", kept.join("&")))
}

/// The same as the value of a parameter of an address.
#[must_use]
pub fn way_in(way: &str) -> String {
    match way.split_once('?') {
        Some((path, query)) => format!("{path}%3F{}", encode(query)),
        None => way.to_owned(),
    }
}

/// The longest way back: a grant's page is far shorter.
const WAY_MAX: usize = 256;
/// The longest query that is kept: a search for an identity, a task and a resource whose names are long.
const QUERY_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_open_redirect_after_sign_in() {
        for (way, kept) in [
            ("/ui/", "/ui/"),
            ("/ui/requests/gr_01abc", "/ui/requests/gr_01abc"),
            ("/ui/revoke?grant=gr_1", "/ui/revoke?grant=gr_1"),
            ("/ui/grants?identity=a%2Fb&state=&x+y", "/ui/grants?identity=a%2Fb&state=&x+y"),
            // What was done was done by who was signed in then.
            ("/ui/requests/gr_1?done=approve", "/ui/requests/gr_1"),
            ("/ui/grants?done=x&state=active", "/ui/grants?state=active"),
            // A query that no page of ours writes is left behind.
            ("/ui/grants?a=\"b", "/ui/grants"),
            ("/ui/grants?a=\r\nset-cookie: x", "/ui/grants"),
            ("/ui/grants?a=?//evil", "/ui/grants"),
        ] {
            assert_eq!(way_back(way).as_deref(), Some(kept), "{way}");
        }
        let long = format!("/ui/grants?task={}", "x".repeat(QUERY_MAX));
        assert_eq!(way_back(&long).as_deref(), Some("/ui/grants"));
        assert_eq!(way_in("/ui/revoke?grant=gr_1&x=%2F"), "/ui/revoke%3Fgrant%3Dgr_1%26x%3D%252F");
        for bad in [
            "",
            "/",
            "//evil.example",
            "/ui",
            "/ui//evil.example",
            "/ui/../x",
            "https://evil",
            "/ui/\\evil",
            "/ui/a b",
            "/ui/%2f",
            "//evil.example/ui/?x",
            "?/ui/",
        ] {
            assert_eq!(way_back(bad), None, "{bad}");
        }
    }
}
