//! What a gate reads: its settings, Envoy's questions, and those of other proxies.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use protem_clock::clock::SystemClock;
use protem_gate::decision::Judge;
use protem_gate::ext_authz;
use protem_gate::forward::{Proxy, forward_auth};
use protem_gate::secrets::Secrets;
use protem_gate::settings::Settings;
use protem_proto::ext_authz::envoy::service::auth::v3::check_response::HttpResponse;
use protem_verify::verifier::Verifier;
use protem_verify::view::View;

pub(super) fn settings(data: &[u8]) {
    if let Ok(settings) = Settings::parse(super::text(data)) {
        assert!(!settings.brokers.is_empty(), "a gate follows somebody");
        assert!(settings.socket_mode <= 0o777);
    }
}

/// It has never heard a proof, so nothing may pass.
fn judge() -> Judge {
    let view = View::new("https://broker.example", None);
    Judge::new(vec![Verifier::new(view.reader())], Arc::new(SystemClock), Secrets::default())
}

pub(super) fn question(data: &[u8]) {
    let told = ext_authz::answer(&judge(), Some(data));
    assert!(matches!(told.http_response, Some(HttpResponse::DeniedResponse(_))), "{told:?}");
    assert!(told.status.is_some_and(|status| status.code != 0));
}

/// The first line is the path, each further one a header.
pub(super) fn forward(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(mut request) = http::Request::get(lines.next().unwrap_or_default()).body(()) else {
        return;
    };
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            request.headers_mut().append(name, value);
        }
    }
    let (parts, ()) = request.into_parts();
    for proxy in [Proxy::Nginx, Proxy::Caddy] {
        let status = forward_auth(&judge(), proxy, &parts).status();
        assert!(matches!(status.as_u16(), 401 | 403 | 503), "{status}");
    }
}
