//! What callers tell the proxy itself: to repeat a call that was let through once, or to give it another time.

use crate::proxies::attacks::{LAST, authorization, request, tried};
use crate::proxies::proxy::Kind;
use crate::proxies::stage::Trio;
use crate::proxies::upstream::{DOWN, SLOW};

/// Headers by which Envoy is steered, with values that would be obeyed.
const ENVOYS: [&str; 15] = [
    "x-envoy-retry-on: 5xx,gateway-error,retriable-status-codes",
    "x-envoy-retry-grpc-on: unavailable,cancelled",
    "x-envoy-max-retries: 3",
    "x-envoy-retriable-status-codes: 503",
    "x-envoy-retriable-header-names: content-type",
    "x-envoy-hedge-on-per-try-timeout: true",
    "x-envoy-upstream-rq-timeout-ms: 1",
    "x-envoy-upstream-rq-per-try-timeout-ms: 1",
    "x-envoy-upstream-rq-timeout-alt-response: 1",
    "x-envoy-upstream-alt-stat-name: forged",
    "x-envoy-expected-rq-timeout-ms: 86400000",
    "x-envoy-force-trace: true",
    "x-envoy-ip-tags: forged",
    "x-envoy-internal: true",
    "x-envoy-decorator-operation: forged",
];

/// Row 49: a call is made once, in the proxy's own time, whatever its caller would have it do.
#[test]
fn attack_callers_steer_the_proxy() {
    let Some(trio) = Trio::shared("headers that are the proxy's own") else { return };
    let good = authorization(&trio.reads.token);
    let mut lines: Vec<&[u8]> = vec![&good];
    lines.extend(ENVOYS.iter().map(|line| line.as_bytes()));
    lines.push(LAST);
    trio.each(|stage| {
        let (status, seen) = tried(stage, &request(&format!("GET {DOWN}"), &lines));
        assert_eq!((status, seen.len()), (503, 1), "{:?} repeats it: {seen:?}", stage.kind);
        let (status, seen) = tried(stage, &request(&format!("GET {SLOW}"), &lines));
        assert_eq!((status, seen.len()), (200, 1), "{:?} cuts it: {seen:?}", stage.kind);
        if stage.kind != Kind::Envoy {
            return;
        }
        // An Envoy in front of the API would obey them there.
        for (name, value) in ENVOYS.iter().filter_map(|line| line.split_once(": ")) {
            assert!(!seen[0].like(name).contains(&value), "{name}: {seen:?}");
        }
    });
}
