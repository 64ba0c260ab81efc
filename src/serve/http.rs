//! What anybody may read over plain HTTP: the keys, and the two discovery documents.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use protem_verify::codes::caller;
use serde_json::json;

use crate::engine::broker::Broker;
use crate::serve::welcome;

/// The routes.
pub fn routes(broker: &Broker) -> Router {
    let mut router =
        Router::new().route("/jwks.json", get(jwks)).route(welcome::PATH, get(welcome::welcome));
    // RFC 8414 §3 puts the well-known part before an issuer's path, OpenID Connect Discovery §4 behind it.
    let path = issuer_path(broker.issuer());
    let oauth = format!("/.well-known/oauth-authorization-server{path}");
    let openid = format!("{path}/.well-known/openid-configuration");
    router = router.route(&oauth, get(discovery)).route(&openid, get(discovery));
    if !path.is_empty() {
        router = router.route(&format!("{path}/jwks.json"), get(jwks));
    }
    router.with_state(broker.clone())
}

async fn jwks(State(broker): State<Broker>) -> Response {
    document("application/jwk-set+json", broker.jwks().to_string())
}

async fn discovery(State(broker): State<Broker>) -> Response {
    document("application/json", configuration(broker.issuer()))
}

fn document(kind: &'static str, body: String) -> Response {
    // Short: a key set must not be older at a poller than the wait before a new key signs.
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=300")], body).into_response()
}

/// RFC 8414 §2. `issuer` is byte for byte the credentials' `iss`. The contract's token endpoint is named although it is not
/// served yet, because the RFC requires one for any grant type but `implicit`, and because consumers that only look for keys
/// (Envoy, go-oidc, Kong) refuse a document without it; no grant type is listed, so nobody is told to use it.
fn configuration(issuer: &str) -> String {
    let under = issuer.trim_end_matches('/');
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{under}/jwks.json"),
        "token_endpoint": format!("{under}/oauth/token"),
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    })
    .to_string()
}

/// An issuer's path, without a slash at its end: empty for most.
fn issuer_path(issuer: &str) -> &str {
    let rest = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default();
    path.trim_end_matches('/')
}

/// Anything that is no route of ours.
pub async fn nothing(request: Request) -> Response {
    let is_grpc = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if is_grpc.is_some_and(|kind| kind.starts_with("application/grpc")) {
        return crate::serve::entrance::unknown_method();
    }
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

/// In development only: `Host` must be this broker's own loopback address (DNS rebinding), and no foreign page may call.
pub fn only_own_host(router: Router, port: u16) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(Own { port }), guard))
}

struct Own {
    port: u16,
}

async fn guard(State(own): State<Arc<Own>>, request: Request, next: Next) -> Response {
    if own.accepts(&request) {
        return next.run(request).await;
    }
    let code = caller::FOREIGN_ORIGIN;
    tracing::warn!(code = code.id, "a call with a foreign host or origin was refused");
    let text = format!("{}: {}; {}\n", code.id, code.title, code.remedy);
    (StatusCode::FORBIDDEN, text).into_response()
}

impl Own {
    fn accepts(&self, request: &Request) -> bool {
        let headers: &HeaderMap = request.headers();
        // HTTP/2 has the host in `:authority`; a request may say it in one place or both, and must mean us in each.
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let mut hosts = headers.get_all(HOST).iter().map(|host| host.to_str().ok());
        let hosts_are_ours = hosts.all(|host| host.is_some_and(|host| self.is_own(host)));
        let any = authority.is_some() || headers.contains_key(HOST);
        let mut origins = headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().ok());
        let origins_are_ours = origins.all(|origin| {
            let host = origin.and_then(|origin| origin.strip_prefix("http://"));
            host.is_some_and(|host| self.is_own(host))
        });
        any && authority.is_none_or(|host| self.is_own(host)) && hosts_are_ours && origins_are_ours
    }

    fn is_own(&self, host: &str) -> bool {
        let Some((name, port)) = host.rsplit_once(':') else { return false };
        port.parse() == Ok(self.port) && ["127.0.0.1", "localhost", "[::1]"].contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], uri: &str, expect: bool) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(Own { port: 7420 }.accepts(&request), expect, "{headers:?} {uri}");
    }

    #[test]
    fn only_our_own_address_is_answered_in_development() {
        check(&[("host", "127.0.0.1:7420")], "/", true);
        check(&[("host", "localhost:7420")], "/", true);
        check(&[], "http://127.0.0.1:7420/", true);
        check(&[("origin", "http://127.0.0.1:7420"), ("host", "127.0.0.1:7420")], "/", true);
        check(&[], "/", false);
        check(&[("host", "evil.example:7420")], "/", false);
        check(&[("host", "127.0.0.1:80")], "/", false);
        check(&[("host", "127.0.0.1")], "/", false);
        check(&[("host", "127.0.0.1:7420"), ("host", "evil.example:7420")], "/", false);
        check(&[("host", "evil.example:7420")], "http://127.0.0.1:7420/", false);
        check(&[("origin", "https://evil.example"), ("host", "127.0.0.1:7420")], "/", false);
        check(&[("origin", "null"), ("host", "127.0.0.1:7420")], "/", false);
        check(&[("origin", "http://127.0.0.1:7430"), ("host", "127.0.0.1:7420")], "/", false);
    }

    #[test]
    fn the_issuer_is_byte_equal_and_its_path_is_placed_as_the_standards_say() {
        for (issuer, path) in [
            ("https://protem.example", ""),
            ("https://protem.example/", ""),
            ("https://protem.example/eu1", "/eu1"),
            ("http://127.0.0.1:7420", ""),
        ] {
            assert_eq!(issuer_path(issuer), path);
            let said: serde_json::Value = serde_json::from_str(&configuration(issuer)).unwrap();
            assert_eq!(said["issuer"], issuer);
        }
    }
}
