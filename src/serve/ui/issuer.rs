//! Signing in at an issuer for people: an authorization code with PKCE, state and nonce, bound to the browser that began.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use http::header::SET_COOKIE;
use http::{HeaderMap, StatusCode};
use protem_verify::codes::{tool, wire};
use tonic::Code as Grpc;
use zeroize::Zeroizing;

use crate::serve::caller::{Asked, SignedIn};
use crate::serve::grounds::Grounds;
use crate::serve::limits::BUSY_RETRY;
use crate::serve::oidc::{Answer, Attempt, Failed, PeopleIssuer, Provider, text};
use crate::serve::peers::Peer;
use crate::serve::rates::household;
use crate::serve::status::Problem;
use crate::serve::ui::attempts::{Begun, Room};
use crate::serve::ui::entered::form;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::{ATTEMPT_LIFE, SESSION_LIFE};
use crate::serve::ui::problem;
use crate::serve::ui::sign_in::{begin, refused, way_back};
use crate::serve::ui::site::Site;
use crate::serve::welcome::people;
use crate::serve::who;

/// Leads to an issuer. A page and no redirect: browsers hold a form's redirects to where forms may lead, which is here.
#[derive(Template)]
#[template(path = "going.html", config = ".askama.toml")]
struct GoingPage {
    frame: Frame,
    name: String,
    url: String,
}

/// Begins a sign-in.
///
/// # Errors
/// When the form is not our own, or the issuer cannot be asked.
pub async fn start(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Response> {
    let peer = request.extensions().get::<Arc<Peer>>().cloned();
    let host = site.origin.own_host(&request).unwrap_or_default().to_owned();
    let fields = form(request, &site).await?;
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, text)| text.as_str())
    };
    let all = people(&site.broker.bundle());
    let Some(issuer) = all.into_iter().find(|one| one.name == field("issuer")) else {
        return Err(problem::nothing(None));
    };
    let provider = provider(&site, &issuer).await.map_err(|why| again(&why))?;
    let attempt = Attempt::new(format!("{}/ui/sign-in/back", site.origin.url_at(&host)));
    let url = attempt.url(&provider, &issuer);
    let frame = Frame::for_anybody(Tab::Nowhere, format!("To {}", issuer.name));
    let shown = GoingPage { frame, name: issuer.name.clone(), url };
    let from = peer.map(|peer| household(peer.address.ip()));
    let (to, at) = (way_back(field("to")).unwrap_or_default(), site.time.boot());
    let value = site.attempts.begin(Begun { attempt, provider, issuer, to, from, at });
    let mut response = page(StatusCode::OK, &shown);
    let cookie = site.attempt_cookie.set(&value, Some(ATTEMPT_LIFE.as_secs()));
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

async fn provider(site: &Site, issuer: &PeopleIssuer) -> Result<Arc<Provider>, Problem> {
    let web = site.door.web(&issuer.name, &issuer.issuer).map_err(unusable)?;
    site.providers.of(web, issuer, site.time.boot()).await.map_err(failed)
}

/// Ends a sign-in: the code is exchanged, and the token counts as any caller's does.
///
/// # Errors
/// When the answer is not that of a sign-in which this browser began, or the token is nobody's.
pub async fn back(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    Query(query): Query<Vec<(String, String)>>,
    peer: Option<Extension<Arc<Peer>>>,
) -> Result<Response, Response> {
    let unknown =
        || again(&broken("this is not the answer to a sign-in that this browser began lately"));
    let value = site.attempt_cookie.read(&headers).ok_or_else(unknown)?;
    let from = site.attempts.from(value, site.time.boot()).ok_or_else(unknown)?;
    // Before it is used up: who finds no room loads the same address again.
    let room = site.attempts.room(from).await.ok_or_else(|| again(&busy()))?;
    let begun = site.attempts.take(value, site.time.boot()).ok_or_else(unknown)?;
    let _signing_in = peer.as_ref().map(|Extension(peer)| peer.signing_in());
    let signed_in = answered(&site, &begun, &query, room).await.map_err(|why| again(&why))?;
    let mut response = begin(&site, Arc::new(signed_in), site.cookie.read(&headers), &begun.to);
    response.headers_mut().append(SET_COOKIE, site.attempt_cookie.remove());
    Ok(response)
}

async fn answered(
    site: &Site,
    begun: &Begun,
    query: &[(String, String)],
    room: Room<'_>,
) -> Result<SignedIn, Problem> {
    let Begun { attempt, provider, issuer, .. } = begun;
    let code = match attempt.answer(provider, query) {
        Answer::Code(code) => code,
        Answer::Failed(why) => return Err(failed(why)),
        Answer::NotOurs => {
            return Err(broken("the answer is that of another sign-in: its `state` is not ours"));
        }
    };
    let token = exchanged(site, begun, &code).await?;
    drop(room);
    let generation = site.door.changes().generation();
    let bundle = site.broker.bundle();
    let asked = Asked { bundle: &bundle, generation, now: site.time.now() };
    let signed_in = site.door.believe(&token, &asked).await.map_err(refused)?;
    // INVARIANT(a_sign_in_answers_its_own_question): the issuer that was asked, and the nonce that only this sign-in knows.
    let named = match &signed_in.grounds {
        Grounds::Token { issuer, .. } => Some(&**issuer),
        Grounds::Certificate(_) => None,
    };
    if named != Some(&*issuer.name) {
        return Err(broken("the id token is of another issuer than was asked"));
    }
    if signed_in.login.text("nonce") != Some(attempt.nonce()) {
        return Err(broken("the id token answers another sign-in: its `nonce` is not ours"));
    }
    who::person(signed_in.caller()?)?;
    let expires = signed_in.expires.min(asked.now + SESSION_LIFE);
    Ok(SignedIn { expires, ..signed_in })
}

async fn exchanged(site: &Site, begun: &Begun, code: &str) -> Result<Zeroizing<String>, Problem> {
    let Begun { attempt, provider, issuer, .. } = begun;
    let web = site.door.web(&issuer.name, &issuer.issuer).map_err(unusable)?;
    let form = attempt.exchange(&issuer.client_id, code);
    let answer = provider.asked(&web, &form).await.map_err(failed)?;
    let token = text(&answer, "id_token").ok_or_else(|| broken("the issuer gave no id token"))?;
    Ok(Zeroizing::new(token.to_owned()))
}

fn failed(failed: Failed) -> Problem {
    match failed {
        Failed::Unreachable(..) => {
            Problem::new(Grpc::Unavailable, tool::SIGN_IN, failed.to_string())
        }
        Failed::Refused(what) => Problem::new(Grpc::Unauthenticated, tool::SIGN_IN_REFUSED, what),
        Failed::Broken(what) => broken(&what),
    }
}

fn broken(why: &str) -> Problem {
    Problem::new(Grpc::Unauthenticated, tool::SIGN_IN, why)
}

fn unusable(why: String) -> Problem {
    Problem::new(Grpc::Unavailable, tool::SIGN_IN, why)
}

fn busy() -> Problem {
    let why = "as many people sign in as the broker takes at once";
    Problem::new(Grpc::ResourceExhausted, wire::BUSY, why).retry(BUSY_RETRY)
}

fn again(problem: &Problem) -> Response {
    problem::with_way(None, &problem.status(), "/ui/sign-in")
}
