//! What a gate reads: its settings, Envoy's questions, and those of other proxies.

use http::header::{HeaderName, HeaderValue};
use prost::Message;
use protem_gate::ext_authz;
use protem_gate::forward::{Proxy, forward_auth};
use protem_gate::settings::Settings;
use protem_proto::ext_authz::envoy::service::auth::v3::CheckRequest;
use protem_proto::ext_authz::envoy::service::auth::v3::check_response::HttpResponse;

use super::gateway::{judge, token};

pub(super) fn settings(data: &[u8]) {
    if let Ok(settings) = Settings::parse(super::text(data)) {
        assert!(!settings.brokers.is_empty(), "a gate follows somebody");
        assert!(settings.socket_mode <= 0o777);
    }
}

/// What stands for a good credential, which no input could hold: it is signed.
const TOKEN: &[u8] = b"$TOKEN";

/// A header's value, with a good credential where one is named.
fn with_token(value: &[u8]) -> Vec<u8> {
    let Some(at) = value.windows(TOKEN.len()).position(|some| some == TOKEN) else {
        return value.to_vec();
    };
    let (before, after) = value.split_at(at);
    let after = after.get(TOKEN.len()..).unwrap_or_default();
    [before, token().as_bytes(), after].concat()
}

/// Whether this is the one call that the credential allows.
fn allowed(method: &[u8], uri: &[u8]) -> bool {
    let path = uri.split(|byte| *byte == b'?').next().unwrap_or_default();
    method == b"GET" && path == b"/v1/orders"
}

/// Envoy's question: only one about the call that the credential allows is answered with yes.
pub(super) fn question(data: &[u8]) {
    asks(data);
}

/// The same; says whether it was let through.
pub fn asks(data: &[u8]) -> bool {
    let read = CheckRequest::decode(data).ok().map(|mut asked| {
        let http = asked.attributes.as_mut().and_then(|it| it.request.as_mut()?.http.as_mut());
        if let Some(http) = http {
            http.headers.values_mut().for_each(|value| *value = with_token(value));
            let raw = http.header_map.iter_mut().flat_map(|map| &mut map.headers);
            raw.for_each(|header| header.raw_value = with_token(&header.raw_value));
        }
        asked
    });
    let bytes = read.as_ref().map_or(data.to_vec(), Message::encode_to_vec);
    let told = ext_authz::answer(&judge(), Some(&bytes));
    let yes = matches!(told.http_response, Some(HttpResponse::OkResponse(_)));
    assert_eq!(yes, told.status.is_some_and(|status| status.code == 0), "two answers");
    if yes {
        let about = read.and_then(|asked| asked.attributes).expect("what was answered");
        assert_eq!(about.context_extensions.get("resource").map(String::as_str), Some(RESOURCE));
        let http = about.request.and_then(|request| request.http).expect("a call");
        assert!(allowed(&http.method, &http.path), "{http:?}");
    }
    yes
}

/// The first line is the path, each further one a header.
pub(super) fn forward(data: &[u8]) {
    forwards(data);
}

/// The same; says whether one of the proxies was told to let it through.
pub fn forwards(data: &[u8]) -> bool {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(mut request) = http::Request::get(lines.next().unwrap_or_default()).body(()) else {
        return false;
    };
    let mut yes = false;
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = with_token(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value))
        {
            request.headers_mut().append(name, value);
        }
    }
    let (parts, ()) = request.into_parts();
    for (proxy, method, uri) in [
        (Proxy::Nginx, "x-original-method", "x-original-uri"),
        (Proxy::Caddy, "x-forwarded-method", "x-forwarded-uri"),
    ] {
        let status = forward_auth(&judge(), proxy, &parts).status();
        assert!(matches!(status.as_u16(), 200 | 401 | 403 | 503), "{status}");
        if status == 200 {
            let one = |name| parts.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
            assert!(allowed(one(method), one(uri)), "{parts:?}");
            assert_eq!(parts.uri.path(), format!("/authz/{RESOURCE}"));
            yes = true;
        }
    }
    yes
}

/// The API that the credential is for.
const RESOURCE: &str = "orders-api";
