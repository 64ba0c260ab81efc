//! A reason as an HTTP answer: status, challenge, and words that say what to do next.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use protem_verify::names::{ResourceName, ScopeName};
use protem_verify::verifier::{Class, Reason};
use serde_json::{Value, json};

use crate::decision::Refusal;

/// The answer to a refused call (RFC 6750 §3). It is short and says nothing that the caller did not send or the catalog does
/// not say.
#[must_use]
pub fn answer(refusal: &Refusal, resource: Option<&ResourceName>) -> Response<Bytes> {
    let body = body(refusal, resource).to_string();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status(refusal);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // For proxies that do not pass the body on: nginx shows its own, and can put these into it.
    headers.insert(ERROR, HeaderValue::from_static(error(refusal)));
    headers.insert(REASON, HeaderValue::from_static(refusal.code().id));
    let request = refusal.missing().zip(resource).map(|(scope, resource)| request(resource, scope));
    if let Some(Ok(request)) = request.map(HeaderValue::try_from) {
        headers.insert(REQUEST, request);
    }
    // A proxy that keeps answers would go on refusing, or letting in, when that is no longer so.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Refusal::TooMany(wait) = refusal {
        // In whole seconds, and never none: who comes back too early is refused again.
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
    } else if refusal.class() == Class::Unavailable {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    } else if let Ok(challenge) = HeaderValue::try_from(challenge(refusal)) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// What a person may type to get what is missing.
fn request(resource: &ResourceName, scope: &ScopeName) -> String {
    format!("protem request --on {resource} --scope {scope}")
}

/// The kind of reason, as in the body, in a refusal's headers.
const ERROR: HeaderName = HeaderName::from_static("x-protem-error");
/// The reason's code, in a refusal's headers.
const REASON: HeaderName = HeaderName::from_static("x-protem-reason");
/// What to type for what is missing, in a refusal's headers.
const REQUEST: HeaderName = HeaderName::from_static("x-protem-request");

/// The status that a refusal has.
#[must_use]
pub fn status(refusal: &Refusal) -> StatusCode {
    match refusal.class() {
        Class::Unauthorized => StatusCode::UNAUTHORIZED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Class::TooMany => StatusCode::TOO_MANY_REQUESTS,
    }
}

fn challenge(refusal: &Refusal) -> String {
    if *refusal == Refusal::Credential(Reason::NoCredential) {
        // Who sent nothing is told only how to (RFC 6750 §3.1).
        return "Bearer".into();
    }
    let (error, code) = (error(refusal), refusal.code().id);
    let scope = match refusal.missing() {
        Some(scope) => format!(r#", scope="{scope}""#),
        None => String::new(),
    };
    format!(r#"Bearer error="{error}", error_description="{code}"{scope}"#)
}

fn body(refusal: &Refusal, resource: Option<&ResourceName>) -> Value {
    let (error, code) = (error(refusal), refusal.code());
    let (id, title, remedy) = (code.id, code.title, code.remedy);
    let Some((scope, resource)) = refusal.missing().zip(resource) else {
        return json!({ "error": error, "code": id, "message": title, "remedy": remedy });
    };
    let request = request(resource, scope);
    json!({
        "error": error, "code": id, "message": title, "remedy": remedy, "scope": scope.as_str(), "request": request,
    })
}

fn error(refusal: &Refusal) -> &'static str {
    match (refusal, refusal.class()) {
        (Refusal::ProxyHeaders | Refusal::Forged, _) => "invalid_request",
        // RFC 6750 has no word for it, on purpose; a person who reads the body wants one, and it is not that a token is bad.
        (Refusal::Credential(Reason::NoCredential), _) => "no_credential",
        (_, Class::Unauthorized) => "invalid_token",
        (_, Class::Forbidden) => "insufficient_scope",
        (_, Class::Unavailable) => "temporarily_unavailable",
        (_, Class::TooMany) => "too_many_requests",
    }
}
