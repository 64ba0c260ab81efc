//! How a gate stands before its first proof, seen from outside: a real process, and a line that lets through what the test says.

use crate::process::until;
use crate::proxies::bundle::{BRIEF, OPERATOR, ORDERS};
use crate::proxies::gate::Gate;
use crate::proxies::relay::{Relay, Way};
use crate::proxies::site::{broker, credential, told};

/// It says this of itself, is out of service, and lets nobody through.
#[track_caller]
fn stands(gate: &Gate, state: &str, token: &str) {
    let ready = gate.ready().unwrap();
    assert_eq!((ready.status, ready.body.starts_with(state)), (503, true), "{}", ready.body);
    let answer = gate.ask(ORDERS, "/v1/orders", token).unwrap();
    assert_eq!((answer.status, answer.body.contains("PT-0416")), (503, true), "{}", answer.body);
    let page = gate.metrics();
    let count = format!("protem_gate_views{{state=\"{}\"}} 1", state.to_lowercase());
    assert!(page.contains(&count), "no {count}: {page}");
}

#[test]
fn a_gate_without_a_proof_is_unready_then_syncing_and_lets_nobody_through() {
    let broker = broker(Vec::new());
    let token = credential(&broker, BRIEF, ORDERS, "orders:read").token;
    let line = Relay::to(&broker);
    line.hold(&[Way::Back]);
    let gate = Gate::start(told(&broker, line.url(), Some("nginx")));
    // It has asked for the feed, and no word of it has come.
    until("the broker knows it", || {
        let all = broker.run(OPERATOR, &["gateways", "-o", "json"]).expect(0).json();
        all["gateways"][0]["connected"] == true
    });
    stands(&gate, "UNREADY", &token);
    // The snapshot comes, and the ping that would bring a proof does not arrive.
    line.hold_only(Way::There);
    until("it has the snapshot", || {
        gate.ready().is_some_and(|ready| !ready.body.starts_with("UNREADY"))
    });
    stands(&gate, "SYNCING", &token);
    line.release();
    gate.fresh();
    assert_eq!(gate.ask(ORDERS, "/v1/orders", &token).unwrap().status, 200);
}
