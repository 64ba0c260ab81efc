//! HTTP forward-auth: a proxy asks by a request of its own whether the caller's may pass, and copies the answer's headers.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use protem_verify::names::ResourceName;
use serde::Deserialize;

use crate::decision::{Asked, Decision, Judge, Pass, Refusal, Strips};
use crate::headers::alike;
use crate::layer::plain;
use crate::refusal;

/// The proxy in front. It decides which pair of headers says what was called; the other pair is whatever the caller likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// `auth_request`, with `X-Original-URI` and `X-Original-Method` as docs/gates.md sets them.
    Nginx,
    /// `forward_auth`.
    Caddy,
    /// `ForwardAuth`.
    Traefik,
    /// A Lua script or SPOE agent that speaks as Traefik does.
    Haproxy,
}

/// Where forward-auth is asked: this, and the resource's name.
pub const PATH: &str = "/authz/";
/// Method and URI, by those that set them for an authorization request.
const ORIGINAL: [&str; 2] = ["x-original-method", "x-original-uri"];
const FORWARDED: [&str; 2] = ["x-forwarded-method", "x-forwarded-uri"];

impl Proxy {
    /// Its own pair, and the one that it never sets.
    const fn pairs(self) -> ([&'static str; 2], [&'static str; 2]) {
        match self {
            Self::Nginx => (ORIGINAL, FORWARDED),
            Self::Caddy | Self::Traefik | Self::Haproxy => (FORWARDED, ORIGINAL),
        }
    }
}

/// The answer to one authorization request, and the reason when it is a refusal. The request's own query, method and body mean
/// nothing: proxies put the caller's there.
#[must_use]
pub fn forward_auth(judge: &Judge, proxy: Proxy, parts: &Parts) -> Response<Bytes> {
    let named = parts.uri.path().strip_prefix(PATH);
    let resource = named.and_then(|name| ResourceName::try_from(name).ok());
    let decision = match &resource {
        Some(resource) => decide(judge, proxy, resource, &parts.headers),
        None => Decision::Refuse(Refusal::NoRoute),
    };
    match decision {
        Decision::Pass(pass) => passed(&pass),
        Decision::Refuse(refusal) => refusal::answer(&refusal, resource.as_ref()),
    }
}

fn decide(judge: &Judge, proxy: Proxy, resource: &ResourceName, headers: &HeaderMap) -> Decision {
    let headers: Vec<(&str, &[u8])> = plain(headers).collect();
    let (own, other) = proxy.pairs();
    let called = own.map(|name| once(&headers, name));
    let foreign = other.iter().any(|name| headers.iter().any(|(found, _)| alike(found, name)));
    let ([Some(method), Some(target)], false) = (called, foreign) else {
        return Decision::Refuse(Refusal::ProxyHeaders);
    };
    let strips = Strips::OnlyThoseSet;
    judge.decide(&Asked { resource, method, target, headers: &headers, strips })
}

/// The value of a header that came exactly once, in exactly this spelling.
fn once<'call>(headers: &[(&'call str, &'call [u8])], name: &str) -> Option<&'call [u8]> {
    let mut found = headers.iter().filter(|(found, _)| alike(found, name));
    let (Some((spelled, value)), None) = (found.next(), found.next()) else { return None };
    (*spelled == name && !value.is_empty()).then_some(*value)
}

fn passed(pass: &Pass) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in pass.identity() {
        // Names are printable ASCII, so this cannot fail.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some((name, value)) = pass.secret()
        && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
    {
        headers.insert(name, value.clone());
    }
    response
}
