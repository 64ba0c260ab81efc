//! What a gate answers its proxies: each verdict with its exact status, over TCP and Unix sockets.

use rustix::process::Signal;

use crate::bundle::{FILES, OPERATOR, WORKERS};
use crate::gate::{Gate, Question, credential};
use crate::process::{Broker, PATIENCE};

#[test]
fn nginx_is_told_who_calls_or_why_not() {
    let broker = Broker::with_bundle(FILES);
    let gate = Gate::start(&broker, &[]);
    let (token, grant) = credential(&broker, "t-1", "orders:read");
    let reply = gate.nginx("GET", "/v1/orders/7?page=2", &token);
    assert_eq!(reply.status, 200, "{reply:?}");
    for (name, value) in [
        ("x-protem-identity", WORKERS[0]),
        ("x-protem-grant", &grant),
        ("x-protem-task", "t-1"),
        ("x-protem-scope", "orders:read"),
    ] {
        assert_eq!(reply.headers[name], value);
    }
    // 401: nobody; with the bare challenge.
    let nobody = gate.ask(&[("X-Original-Method", "GET"), ("X-Original-URI", "/v1/orders")]);
    assert_eq!(nobody.verdict(), (401, "PT-0401".to_owned()));
    assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    // 401: no credential of ours.
    let forged = gate.nginx("GET", "/v1/orders", &token[..token.len() - 4]);
    assert_eq!(forged.status, 401);
    assert!(forged.headers["www-authenticate"].contains(r#"error="invalid_token""#));
    // 403: another operation; the scope to ask for is named, and how.
    let other = gate.nginx("PUT", "/v1/orders/7", &token);
    assert_eq!(other.verdict(), (403, "PT-0413".to_owned()));
    let challenge = &other.headers["www-authenticate"];
    assert!(challenge.contains(r#"error="insufficient_scope""#), "{challenge}");
    assert!(challenge.contains(r#"scope="orders:write""#), "{challenge}");
    assert!(other.body.contains("protem request --on orders-api --scope orders:write"));
    assert!(!other.body.contains(&token) && other.body.len() < 600);
    // 403: what no scope maps.
    assert_eq!(gate.nginx("DELETE", "/v1/orders/7", &token).verdict(), (403, "PT-0414".to_owned()));
    // 503: a resource that the bundle does not give this gateway, or none.
    let headers = [("X-Original-Method", "GET"), ("X-Original-URI", "/v1/orders")];
    let token_header = format!("Bearer {token}");
    let with_token = [&headers[..], &[("Authorization", token_header.as_str())]].concat();
    assert_eq!(gate.ask_at("/authz/other-api", &with_token).verdict(), (503, "PT-0421".to_owned()));
    assert_eq!(gate.ask_at("/authz/", &with_token).verdict(), (503, "PT-0425".to_owned()));
    assert_eq!(gate.ask_at("/authz/orders-api?x=1", &with_token).status, 200);
    for elsewhere in ["/", "/authz", "/v1/orders", "/livez", "/authz/../orders-api"] {
        assert_ne!(gate.ask_at(elsewhere, &with_token).status, 200, "{elsewhere}");
    }
    // 401 again, when access has ended.
    broker.run(OPERATOR, &["revoke", "--grant", &grant, "--note", "over"]).expect(0);
    assert_eq!(gate.nginx("GET", "/v1/orders", &token).verdict(), (401, "PT-0410".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_is_told_what_to_change_or_the_exact_status() {
    let broker = Broker::with_bundle(FILES);
    let gate = Gate::start(&broker, &[]);
    let mut envoy = gate.envoy().await;
    let (token, grant) = credential(&broker, "t-1", "orders:read");
    for raw in [true, false] {
        let question = Question { raw, ..Question::new("GET", "/v1/orders/7?page=2", &token) };
        let told = envoy.ask(&question).await;
        assert_eq!(told.verdict(), (200, String::new()));
        let (set, remove) = told.changes();
        assert_eq!(set["x-protem-grant"], grant);
        assert_eq!(set["x-protem-identity"], WORKERS[0]);
        assert_eq!((set.len(), remove), (4, vec!["authorization".to_owned()]));
        let fields = &told.0.dynamic_metadata.as_ref().unwrap().fields;
        assert!(fields.contains_key("grant") && fields.contains_key("task"), "{fields:?}");
    }
    let nobody = Question { headers: Vec::new(), ..Question::new("GET", "/v1/orders", "") };
    let told = envoy.ask(&nobody).await;
    assert_eq!(told.verdict(), (401, "PT-0401".to_owned()));
    assert_eq!(told.changes().0["www-authenticate"], "Bearer");
    let other = envoy.ask(&Question::new("PUT", "/v1/orders/7", &token)).await;
    assert_eq!(other.verdict(), (403, "PT-0413".to_owned()));
    assert!(other.changes().0["www-authenticate"].contains("insufficient_scope"));
    let lost = Question { resource: None, ..Question::new("GET", "/v1/orders", &token) };
    assert_eq!(envoy.ask(&lost).await.verdict(), (503, "PT-0425".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_gate_says_503_to_everybody_and_is_not_ready() {
    let mut broker = Broker::with_bundle(FILES);
    let gate = Gate::start(&broker, &["--proxy", "caddy"]);
    let (token, _) = credential(&broker, "t-1", "orders:read");
    let bearer = format!("Bearer {token}");
    let caddy = [
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/v1/orders"),
        ("Authorization", &bearer),
    ];
    assert_eq!(gate.ask(&caddy).status, 200);
    assert_eq!(gate.probe("/livez").status, 200);
    assert!(gate.probe("/readyz").body.starts_with("FRESH "), "{}", gate.probe("/readyz").body);
    broker.kill();
    gate.until("it is stale", |gate| gate.ask(&caddy).status != 200);
    let reply = gate.ask(&caddy);
    assert_eq!(reply.verdict(), (503, "PT-0417".to_owned()));
    assert_eq!(reply.headers["retry-after"], "1");
    let mut envoy = gate.envoy().await;
    let told = envoy.ask(&Question::new("GET", "/v1/orders", &token)).await;
    assert_eq!(told.verdict(), (503, "PT-0417".to_owned()));
    assert_eq!(told.changes().0["retry-after"], "1");
    // Others may tolerate more: the word for the whole view changes when none is left.
    gate.until("its view is stale for all", |gate| gate.probe("/readyz").status == 503);
    let said = gate.probe("/readyz").body;
    assert!(said.starts_with("STALE "), "{said}");
    let counted = gate.probe("/metrics").body;
    assert!(counted.contains("protem_gate_views{state=\"stale\"} 1"), "{counted}");
    assert_eq!(gate.probe("/livez").status, 200);
    broker.start();
    gate.until("it is fresh again", |gate| gate.ask(&caddy).status == 200);
}

#[test]
fn a_socket_is_served_and_gone_when_the_gate_ends() {
    let broker = Broker::with_bundle(FILES);
    let path = broker.home().join("gate.sock");
    let place = format!("unix:{}", path.display());
    let mut gate = Gate::start(&broker, &["--listen", &place]);
    let (token, _) = credential(&broker, "t-1", "orders:read");
    assert_eq!(gate.nginx("GET", "/v1/orders", &token).status, 200);
    gate.process.signal(Signal::KILL);
    let _ = gate.process.0.wait();
    assert!(path.exists(), "it had no time to remove it");
    let mut gate = Gate::start(&broker, &["--listen", &place, "--proxy", "nginx"]);
    assert_eq!(gate.nginx("GET", "/v1/orders", &token).status, 200);
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(PATIENCE), Some(0));
    assert!(!path.exists());
}

/// Counts are told every few seconds: those of the last ones are told when the gate ends, and not lost.
#[test]
fn a_gate_that_ends_tells_of_its_last_calls() {
    let broker = Broker::with_bundle(FILES);
    let mut gate = Gate::start(&broker, &[]);
    let (token, grant) = credential(&broker, "t-1", "orders:read");
    for _ in 0..3 {
        assert_eq!(gate.nginx("GET", "/v1/orders", &token).status, 200);
    }
    assert_eq!(gate.nginx("PUT", "/v1/orders/7", &token).status, 403);
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(PATIENCE), Some(0));
    let usage = broker.run(OPERATOR, &["grant", &grant, "-o", "json"]).expect(0).json();
    let count = |of: &str| {
        let all = usage["usage"][of].as_array().into_iter().flatten();
        all.map(|one| one["count"].as_str().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!((count("used"), count("refused")), (3, 1), "{usage}");
}
