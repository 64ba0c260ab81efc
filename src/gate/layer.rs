//! A tower layer before any HTTP service: who may not call does not reach it, and it is told who called.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use protem_clock::clock::Clock;
use protem_verify::names::ResourceName;
use protem_verify::verifier::{Allowed, Reason, Verifier};
use tower::{Layer, Service};

use crate::body::{BoxError, EVERY, Guarded, Watch};
use crate::decision::{Asked, Decision, Judge, Pass, Refusal, Strips};
use crate::follow::moment;
use crate::refusal::answer;

/// Protects one resource.
#[derive(Clone)]
pub struct GateLayer {
    guard: Arc<Guard>,
}

struct Guard {
    judge: Judge,
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
    pub fn new(judge: Judge, resource: ResourceName) -> Self {
        Self { guard: Arc::new(Guard { judge, resource }) }
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
    S: Service<Request<Guarded<In>>, Response = Response<Out>>,
    S::Future: Send + 'static,
    In: Body<Data = Bytes> + 'static,
    In::Error: Into<BoxError>,
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
        let pass = match guard.decide(&request) {
            Decision::Pass(pass) => pass,
            Decision::Refuse(refusal) => {
                return Box::pin(async move {
                    Ok(answer(&refusal, Some(&guard.resource)).map(Guarded::refusal))
                });
            }
        };
        introduce(request.headers_mut(), &pass);
        let (allowed, verifier) = pass.into_watched();
        let (allowed, clock) = (Arc::<Allowed>::from(allowed), Arc::clone(guard.judge.clock()));
        let watch = || Watch::new(verifier.clone(), Arc::clone(&clock), Arc::clone(&allowed));
        // What the caller sends is cut by itself: nobody reads the response of one who does not take it.
        let watched = watch();
        let response = self.inner.call(request.map(|body| Guarded::watched(body, watched)));
        let watch = watch();
        Box::pin(async move {
            let response = tokio::select! {
                response = response => response?,
                // An upload that goes on for long is cut like a download is.
                reason = voided(&verifier, &*clock, &allowed) => {
                    let refusal = Refusal::Credential(reason);
                    return Ok(answer(&refusal, Some(&guard.resource)).map(Guarded::refusal));
                }
            };
            Ok(response.map(|body| Guarded::watched(body, watch)))
        })
    }
}

impl Guard {
    fn decide<In>(&self, request: &Request<In>) -> Decision {
        let headers: Vec<(&str, &[u8])> = plain(request.headers()).collect();
        self.judge.decide(&Asked {
            resource: &self.resource,
            method: request.method().as_str().as_bytes(),
            target: request.uri().path().as_bytes(),
            headers: &headers,
            strips: Strips::Any,
        })
    }
}

/// The headers as every face has them.
pub(crate) fn plain(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// Waits until a credential that counted counts no more; says why.
async fn voided(verifier: &Verifier, clock: &dyn Clock, allowed: &Allowed) -> Reason {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(reason) = verifier.still(allowed, moment(clock)) {
            return reason;
        }
    }
}

/// What the inner service may believe: ours alone. The token itself stays here.
fn introduce(headers: &mut HeaderMap, pass: &Pass) {
    for name in pass.remove() {
        headers.remove(name);
    }
    // An upgraded connection has no body to cut: the inner service is not asked for one.
    headers.remove(UPGRADE);
    let upgrades = |value: &HeaderValue| {
        value.as_bytes().to_ascii_lowercase().windows(7).any(|part| part == b"upgrade")
    };
    if headers.get_all(CONNECTION).iter().any(upgrades) {
        headers.remove(CONNECTION);
    }
    for (name, value) in pass.identity() {
        // Names are printable ASCII, so this cannot fail; a missing header is no identity.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some((name, value)) = pass.secret()
        && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
    {
        headers.insert(name, value.clone());
    }
}
