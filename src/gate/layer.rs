//! A tower layer before any HTTP service: who may not call does not reach it, and it is told who called.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use protem_clock::clock::Clock;
use protem_verify::names::ResourceName;
use protem_verify::verifier::{Allowed, Call, Reason, Verdict, Verifier};
use tower::{Layer, Service};

use crate::body::{BoxError, EVERY, Guarded, Watch};
use crate::follow::moment;
use crate::refusal::answer;

/// Protects one resource.
#[derive(Clone)]
pub struct GateLayer {
    guard: Arc<Guard>,
}

struct Guard {
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    resource: ResourceName,
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl GateLayer {
    /// Protects `resource`: its name comes from configuration, never from a call.
    #[must_use]
    pub fn new(verifier: Verifier, clock: Arc<dyn Clock>, resource: ResourceName) -> Self {
        Self { guard: Arc::new(Guard { verifier, clock, resource }) }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, guard: Arc::clone(&self.guard) }
    }
}

impl<S, In, Out> Service<Request<In>> for Gated<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    Out: Body<Data = Bytes> + 'static,
    Out::Error: Into<BoxError>,
{
    type Response = Response<Guarded<Out>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        let guard = Arc::clone(&self.guard);
        let allowed = match guard.decide(&request) {
            Ok(allowed) => allowed,
            Err(reason) => {
                return Box::pin(async move {
                    Ok(answer(&reason, &guard.resource).map(Guarded::refusal))
                });
            }
        };
        introduce(request.headers_mut(), &allowed);
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = tokio::select! {
                response = response => response?,
                // An upload that goes on for long is cut like a download is.
                reason = guard.voided(&allowed) => {
                    return Ok(answer(&reason, &guard.resource).map(Guarded::refusal));
                }
            };
            let watch = Watch::new(guard.verifier.clone(), Arc::clone(&guard.clock), allowed);
            Ok(response.map(|body| Guarded::watched(body, watch)))
        })
    }
}

impl Guard {
    fn decide<In>(&self, request: &Request<In>) -> Result<Box<Allowed>, Reason> {
        let token = bearer(request.headers()).ok_or(Reason::NoCredential)?;
        let path = request.uri().path();
        let call = Call { resource: &self.resource, method: request.method().as_str(), path };
        match self.verifier.check(token, &call, moment(&*self.clock)) {
            Verdict::Allow(allowed) => Ok(allowed),
            Verdict::Deny(reason) => Err(reason),
        }
    }
}

impl Guard {
    /// Waits until a credential that counted counts no more; says why.
    async fn voided(&self, allowed: &Allowed) -> Reason {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(reason) = self.verifier.still(allowed, moment(&*self.clock)) {
                return reason;
            }
        }
    }
}

/// The token of exactly one `Authorization: Bearer` header; a proxy that joined two with a comma is refused by the token's alphabet.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// What the inner service may believe: ours alone. The token itself stays here.
fn introduce(headers: &mut HeaderMap, allowed: &Allowed) {
    // Some servers read `_` as `-`, so `X_Protem_Grant` must not pass either.
    let ours = |name: &&HeaderName| name.as_str().replace('_', "-").starts_with("x-protem-");
    let forged: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    // An upgraded connection has no body to cut: the inner service is not asked for one.
    headers.remove(UPGRADE);
    // A hop that honours `Connection` would take what it names away again.
    let named = |value: &HeaderValue| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .windows(6)
            .any(|part| part == b"protem" || part == b"upgrad")
    };
    if headers.get_all(CONNECTION).iter().any(named) {
        headers.remove(CONNECTION);
    }
    headers.remove(AUTHORIZATION);
    let claims = &allowed.claims;
    for (name, value) in [
        ("x-protem-identity", claims.identity.as_str()),
        ("x-protem-grant", claims.grant.text().as_str()),
        ("x-protem-task", claims.task.as_str()),
        ("x-protem-scope", allowed.scope.as_str()),
    ] {
        // Names are printable ASCII, so this cannot fail; a missing header is no identity.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
