//! Calls that are let through as one operation and could be run as another: by the case of a path, or by a header.

use crate::bundle::FILES;
use crate::gate::{Gate, Question, credential};
use crate::process::Broker;

fn says(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A parameter beside a literal of another scope: what a router that does not tell `e` from `E` runs is the literal's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_literal_in_another_case() {
    let more = r#"
[resource.orders-api.scope."orders:export"]
purpose    = "Take all of them away"
class      = "read"
operations = ["GET /v1/orders/export"]
"#;
    let catalog = format!("{}{more}", FILES[0].1);
    let files: Vec<(&str, &str)> = [&[(FILES[0].0, catalog.as_str())], &FILES[1..]].concat();
    let broker = Broker::with_bundle(&files);
    let gate = Gate::start(&broker, &["--proxy", "nginx"]);
    let (token, _) = credential(&broker, "t-1", "orders:read");
    let mut envoy = gate.envoy().await;
    assert_eq!(gate.nginx("GET", "/v1/orders/exports", &token).status, 200);
    for (path, code) in [
        ("/v1/orders/export", "PT-0413"),
        ("/v1/orders/EXPORT", "PT-0414"),
        ("/v1/orders/Export", "PT-0414"),
        ("/v1/orders/exporT?all=1", "PT-0414"),
    ] {
        assert_eq!(gate.nginx("GET", path, &token).verdict(), says(403, code), "{path}");
        let told = envoy.ask(&Question::new("GET", path, &token)).await;
        assert_eq!(told.verdict(), says(403, code), "{path}");
    }
}

/// A call that was let through as one operation and says in a header that it is another.
#[tokio::test(flavor = "multi_thread")]
async fn attack_operation_overridden_by_a_header() {
    let broker = Broker::with_bundle(FILES);
    let gate = Gate::start(&broker, &["--proxy", "nginx"]);
    let (token, _) = credential(&broker, "t-1", "orders:read");
    let good = format!("Bearer {token}");
    let own = [
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/v1/orders"),
        ("Authorization", good.as_str()),
    ];
    let mut envoy = gate.envoy().await;
    assert_eq!(gate.ask(&own).status, 200);
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x_http_method_override", "DELETE"),
        ("x-method-override", "PUT"),
        ("x-http-method", "PUT"),
        ("x-original-url", "/admin"),
        ("x_original_url", "/admin"),
        ("x-rewrite-url", "/admin"),
    ] {
        for spelled in [name.to_owned(), name.to_uppercase()] {
            let call = [&own[..], &[(spelled.as_str(), value)]].concat();
            assert_eq!(gate.ask(&call).verdict(), says(403, "PT-0423"), "{spelled}");
        }
        let told = envoy
            .ask(&Question::new("GET", "/v1/orders", &token).with(name, value.as_bytes()))
            .await;
        assert_eq!(told.verdict(), says(200, ""));
        assert!(told.changes().1.iter().any(|removed| removed == name), "{name}");
    }
}
