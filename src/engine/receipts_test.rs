//! Receipts: nobody is said to enforce what it may not.

use std::time::Duration;

use protem_core::limits::LIFETIME_MAX;
use protem_metrics::spread::Spread;
use protem_verify::ids::Seq;
use protem_verify::names::{GatewayName, ResourceName};
use protem_verify::time::Staleness;

use crate::engine::meters::TIMES;
use crate::engine::receipts::{Covers, Enforcement, How, InstanceId, Mark, Receipts};

const FRESH: Duration = Duration::from_secs(5);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn id(instance: &str) -> InstanceId {
    InstanceId { gateway: GatewayName::try_from("edge").unwrap(), instance: instance.to_owned() }
}

fn orders() -> Covers {
    Covers::Resources([ResourceName::try_from("orders-api").unwrap()].into())
}

fn mark() -> Mark {
    Mark { seq: Seq(10), committed: secs(100), covers: orders() }
}

/// Two instances with proofs from before the mark; `acks` say who acknowledged what when.
#[track_caller]
fn check(started: u64, alone: bool, acks: &[(&str, u64, u64)], now_ms: u64, expect: (usize, bool)) {
    let receipts = Receipts::new(secs(started), alone, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(started));
    for name in ["a", "b"] {
        receipts.connected(&id(name), orders(), secs(99));
        receipts.proven(&id(name), Seq(9), secs(99));
    }
    receipts.disconnected(&id("b"), secs(100));
    receipts.committed(Seq(10), secs(100));
    for (name, seq, at_ms) in acks {
        receipts.acked(&id(name), Seq(*seq), Duration::from_millis(*at_ms));
    }
    let found = receipts.enforcement(&mark(), Duration::from_millis(now_ms));
    let waiting = found.receipts.iter().filter(|one| one.how == How::Waiting).count();
    assert_eq!((waiting, found.everywhere), expect, "{found:?}");
}

#[test]
fn receipts_never_lie() {
    let both = [("a", 10, 100_003), ("b", 12, 100_004)];
    check(50, false, &both, 100_005, (0, true));
    // An instance that vanished is waited for until the bound.
    check(50, false, &both[..1], 100_005, (1, false));
    check(50, false, &both[..1], 105_050, (1, false));
    check(50, false, &both[..1], 105_051, (0, true));
    // An older acknowledgement says nothing.
    check(50, false, &[("a", 9, 100_001), ("b", 9, 100_001)], 100_005, (2, false));
    // A broker that just started cannot know whom its predecessor gave proofs to, unless there was none.
    check(98, false, &both, 100_005, (0, false));
    check(98, true, &both, 100_005, (0, true));
    check(98, false, &both, 105_051, (0, true));
}

#[test]
fn a_former_bundle_keeps_the_bound_long_while_its_credentials_live() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.bundle(Staleness(secs(60)), secs(0));
    receipts.bundle(Staleness(secs(2)), secs(10));
    assert_eq!(receipts.bound(&mark()), Duration::from_millis(60_600));
    let late = Mark { committed: secs(11) + LIFETIME_MAX, ..mark() };
    assert_eq!(receipts.bound(&late), Duration::from_millis(2_020));
}

#[test]
fn a_new_instance_is_not_waited_for_and_others_resources_do_not_count() {
    let receipts = Receipts::new(secs(0), false, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(0));
    receipts.connected(&id("new"), orders(), secs(101));
    receipts.proven(&id("new"), Seq(10), secs(101));
    let crm = Covers::Resources([ResourceName::try_from("crm").unwrap()].into());
    receipts.connected(&id("other"), crm, secs(90));
    receipts.proven(&id("other"), Seq(5), secs(99));
    let found = receipts.enforcement(&mark(), secs(101));
    assert_eq!(found, Enforcement { receipts: vec![], everywhere: true });
}

#[test]
fn lag_is_measured_from_the_commit() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.connected(&id("a"), Covers::Everything, secs(1));
    receipts.committed(Seq(7), secs(2));
    receipts.acked(&id("a"), Seq(7), Duration::from_millis(2_004));
    let shown = receipts.gateways();
    assert_eq!(shown[0].lag_p99, Some(Duration::from_millis(4)));
    assert_eq!(shown[0].acknowledged, Seq(7));
    assert!(shown[0].connected);
}
