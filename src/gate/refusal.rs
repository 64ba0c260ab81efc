//! A reason as an HTTP answer: status, challenge, and words that say what to do next.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use protem_verify::names::{ResourceName, ScopeName};
use protem_verify::verifier::{Class, Reason};
use serde_json::{Value, json};

/// The answer to a refused call (RFC 6750 §3). It is short and says nothing that the caller did not send or the catalog does not say.
#[must_use]
pub fn answer(reason: &Reason, resource: &ResourceName) -> Response<Bytes> {
    let status = match reason.class() {
        Class::Unauthorized => StatusCode::UNAUTHORIZED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = body(reason, resource).to_string();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if reason.class() == Class::Unavailable {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    } else if let Ok(challenge) = HeaderValue::try_from(challenge(reason)) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn challenge(reason: &Reason) -> String {
    if *reason == Reason::NoCredential {
        // Who sent nothing is told only how to (RFC 6750 §3.1).
        return "Bearer".into();
    }
    let (error, code) = (error(reason), reason.code().id);
    let scope = match missing(reason) {
        Some(scope) => format!(r#", scope="{scope}""#),
        None => String::new(),
    };
    format!(r#"Bearer error="{error}", error_description="{code}"{scope}"#)
}

fn body(reason: &Reason, resource: &ResourceName) -> Value {
    let (error, code) = (error(reason), reason.code());
    let (id, title, remedy) = (code.id, code.title, code.remedy);
    let Some(scope) = missing(reason).map(ScopeName::as_str) else {
        return json!({ "error": error, "code": id, "message": title, "remedy": remedy });
    };
    let request = format!("protem request --on {resource} --scope {scope}");
    json!({
        "error": error, "code": id, "message": title, "remedy": remedy, "scope": scope, "request": request,
    })
}

fn missing(reason: &Reason) -> Option<&ScopeName> {
    if let Reason::MissingScope(scope) = reason { Some(scope) } else { None }
}

fn error(reason: &Reason) -> &'static str {
    match reason.class() {
        Class::Unauthorized => "invalid_token",
        Class::Forbidden => "insufficient_scope",
        Class::Unavailable => "temporarily_unavailable",
    }
}
