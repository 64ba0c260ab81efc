//! Who sent a request to the page: a session that still counts, and with a form the proof that its own page sent it.

use std::sync::Arc;

use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use protem_verify::codes::{caller, wire};
use tonic::Code as Grpc;

use crate::policy::login::{Caller, Person};
use crate::serve::caller::SignedIn;
use crate::serve::methods::Lane;
use crate::serve::peers::Peer;
use crate::serve::places::Place;
use crate::serve::status::Problem;
use crate::serve::ui::problem;
use crate::serve::ui::sessions::Session;
use crate::serve::ui::sign_in::{way_back, way_in};
use crate::serve::ui::site::Site;
use crate::serve::who;

/// A person who is signed in, and their room among the calls in flight.
pub struct Entered {
    /// Their session.
    pub session: Arc<Session>,
    /// Who they are.
    pub person: Person,
    _place: Place,
}

impl Entered {
    /// Who signed in, as services know it.
    #[must_use]
    pub fn signed_in(&self) -> &Arc<SignedIn> {
        &self.session.signed_in
    }

    /// A call of a service: from here on a page is a caller as any other, and may what gRPC lets it.
    #[must_use]
    pub fn ask<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(Arc::clone(self.signed_in()));
        request
    }

    /// The caller.
    ///
    /// # Errors
    /// When the bundle knows nobody with this login.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.signed_in().caller()
    }
}

impl FromRequestParts<Arc<Site>> for Entered {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Response> {
        let found = match session(parts, site) {
            Ok(session) => match site.entrance.loaded().await {
                Ok(()) => admitted(parts, site, session),
                Err(loading) => Err(loading),
            },
            Err(ended) => {
                let way = parts.uri.path_and_query().map_or("", |path| path.as_str());
                return Err(signed_out(site, &parts.method, way, ended));
            }
        };
        found.map_err(|problem| problem::page(site, None, &problem.status()))
    }
}

/// The session of a request; else whether there was one.
fn session(parts: &Parts, site: &Site) -> Result<Arc<Session>, Ended> {
    let value = site.cookie.read(&parts.headers).ok_or(Ended(false))?;
    let now = site.time.boot();
    let session = site.sessions.find(value, now).ok_or(Ended(true))?;
    // INVARIANT(a_session_is_judged_anew): its sign-in must count now, as an open stream's must.
    if site.watch.counts(&session.signed_in).is_err() {
        site.sessions.end(&session);
        return Err(Ended(true));
    }
    if !parts.headers.contains_key(BY_ITSELF) {
        session.touch(now);
    }
    Ok(session)
}

fn admitted(parts: &Parts, site: &Site, session: Arc<Session>) -> Result<Entered, Problem> {
    let caller = session.signed_in.caller()?;
    let person = who::person(caller)?.clone();
    if let Some(peer) = parts.extensions.get::<Arc<Peer>>() {
        peer.sign_in(caller, &site.broker.bundle())?;
    }
    let lane = lane(&parts.method, parts.uri.path());
    let place = site.entrance.page(caller, lane)?;
    Ok(Entered { session, person, _place: place })
}

/// Forms that end access never wait behind the others.
fn lane(method: &Method, path: &str) -> Lane {
    let ends = ["/revoke", "/quarantine"].iter().any(|end| path.ends_with(end));
    if *method == Method::POST && ends { Lane::Ending } else { Lane::Ordinary }
}

/// Whether a session was there before.
#[derive(Clone, Copy)]
struct Ended(bool);

/// Leads to the sign-in, and from there back; a form is not sent again, and says that it did nothing.
fn signed_out(site: &Arc<Site>, method: &Method, path: &str, ended: Ended) -> Response {
    if *method == Method::GET {
        let was = if ended.0 { "&ended=1" } else { "" };
        let to = way_back(path).map(|way| format!("to={}", way_in(&way))).unwrap_or_default();
        let mut response = Redirect::to(&format!("/ui/sign-in?{to}{was}")).into_response();
        if ended.0 {
            response.headers_mut().append(http::header::SET_COOKIE, site.cookie.remove());
        }
        return response;
    }
    let why = "your sign-in has ended; nothing was done";
    let problem = Problem::new(Grpc::Unauthenticated, caller::CALLER_CHANGED, why);
    problem::page(site, None, &problem.status())
}

/// A form of one of our own pages, sent by who is signed in.
pub struct Posted {
    /// Who.
    pub entered: Entered,
    fields: Vec<(String, String)>,
}

impl Posted {
    /// A field's text; empty when it is not there.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, text)| text.as_str())
    }

    /// All texts of a field.
    pub fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, text)| text.as_str())
    }
}

impl FromRequest<Arc<Site>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let entered = Entered::from_request_parts(&mut parts, site).await?;
        let request = Request::from_parts(parts, body);
        let fields = form(request, site).await?;
        let posted = Self { entered, fields };
        // INVARIANT(a_form_is_of_our_own_page): the session's token says so, besides what the browser says of the origin.
        if posted.entered.session.sent(posted.text("csrf")) {
            return Ok(posted);
        }
        Err(foreign(site))
    }
}

/// The fields of a form that our own page sent.
///
/// # Errors
/// When its browser does not say that, or it is no form.
pub async fn form(request: Request, site: &Arc<Site>) -> Result<Vec<(String, String)>, Response> {
    let host = site.origin.own_host(&request);
    if !host.is_some_and(|host| site.origin.sent(request.headers(), host)) {
        return Err(foreign(site));
    }
    let read = Form::<Vec<(String, String)>>::from_request(request, &()).await;
    read.map(|Form(fields)| fields).map_err(|why| {
        let problem = Problem::new(Grpc::InvalidArgument, wire::UNDECODABLE, why.body_text());
        problem::page(site, None, &problem.status())
    })
}

fn foreign(site: &Arc<Site>) -> Response {
    let why = "the form did not come from this page, so nothing was done";
    let problem = Problem::new(Grpc::PermissionDenied, caller::FOREIGN_ORIGIN, why);
    let mut response = problem::page(site, None, &problem.status());
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// The header of requests that an open page makes by itself: nobody sits there.
const BY_ITSELF: &str = "x-protem-live";
