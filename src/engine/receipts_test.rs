//! Receipts under gateways that vanish, restart, move, share their names and say what is not so.
#![cfg(test)]

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
    process(instance, "p")
}

fn process(instance: &str, process: &str) -> InstanceId {
    InstanceId {
        gateway: GatewayName::try_from("edge").unwrap(),
        instance: instance.to_owned(),
        process: process.to_owned(),
    }
}

fn orders() -> Covers {
    Covers::Resources([ResourceName::try_from("orders-api").unwrap()].into())
}

fn crm() -> Covers {
    Covers::Resources([ResourceName::try_from("crm").unwrap()].into())
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
    for (name, seq, at_ms) in acks {
        receipts.acked(&id(name), Seq(*seq), Duration::from_millis(*at_ms));
    }
    let found = receipts.enforcement(&mark(), Duration::from_millis(now_ms));
    let waiting = found.receipts.iter().filter(|one| one.how == How::Waiting).count();
    assert_eq!((waiting, found.everywhere), expect, "{found:?}");
    // A glance says the same, whomever it waited for before.
    for before in [None, Some("a"), Some("b"), Some("c")] {
        let now = Duration::from_millis(now_ms);
        let glance = receipts.everywhere(&mark(), now, &mut before.map(id));
        assert_eq!(glance, expect.1, "{before:?}");
    }
}

#[test]
fn who_waits_looks_at_one_until_it_has_spoken() {
    let receipts = Receipts::new(secs(50), true, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(50));
    for name in ["a", "b", "c"] {
        receipts.connected(&id(name), orders(), secs(99));
        receipts.proven(&id(name), Seq(9), secs(99));
    }
    let mut waits_for = None;
    let mut glance = |spoke: Option<&str>| {
        if let Some(name) = spoke {
            receipts.acked(&id(name), Seq(10), secs(101));
        }
        let everywhere = receipts.everywhere(&mark(), secs(101), &mut waits_for);
        (everywhere, waits_for.as_ref().map(|one| one.instance.clone()).unwrap_or_default())
    };
    assert_eq!(glance(None), (false, "a".into()));
    assert_eq!(glance(Some("b")), (false, "a".into()));
    assert_eq!(glance(Some("a")), (false, "c".into()));
    // One that came meanwhile stands before it.
    receipts.connected(&id("aa"), orders(), secs(99));
    receipts.proven(&id("aa"), Seq(9), secs(99));
    assert_eq!(glance(None), (false, "c".into()));
    assert_eq!(glance(Some("c")), (false, "aa".into()));
    assert_eq!(glance(Some("aa")), (true, String::new()));
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
    receipts.connected(&id("other"), crm(), secs(90));
    receipts.proven(&id("other"), Seq(5), secs(99));
    let found = receipts.enforcement(&mark(), secs(101));
    assert_eq!(found, Enforcement { receipts: vec![], everywhere: true });
}

#[test]
fn lag_is_measured_from_the_end_of_access_to_each_acknowledgement() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    let ended = |seq, at_ms, covers| Mark {
        seq: Seq(seq),
        committed: Duration::from_millis(at_ms),
        covers,
    };
    receipts.committed(ended(3, 500, orders()));
    receipts.connected(&id("a"), orders(), secs(1));
    receipts.committed(ended(7, 2_000, orders()));
    receipts.committed(ended(8, 2_001, crm()));
    receipts.committed(ended(9, 2_003, Covers::Everything));
    receipts.acked(&id("a"), Seq(9), Duration::from_millis(2_004));
    // A proof of later entries that ended nothing says nothing of how fast an end is heard of.
    receipts.acked(&id("a"), Seq(40), secs(3));
    let shown = receipts.gateways(secs(3));
    assert_eq!(shown[0].lag_p50, Some(Duration::from_millis(1)), "of 1 and 4 ms");
    assert_eq!(shown[0].lag_p99, Some(Duration::from_millis(1)));
    assert_eq!(shown[0].acknowledged, Seq(40));
    for at in 0..600 {
        receipts.committed(ended(50 + at, 4_000 + at, orders()));
        receipts.acked(&id("a"), Seq(50 + at), Duration::from_millis(4_007 + at));
    }
    let shown = receipts.gateways(secs(5));
    assert_eq!(shown[0].lag_p50, Some(Duration::from_millis(7)), "the newest count");
}

#[test]
fn two_live_processes_with_one_instance_id_are_two() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(0));
    let (one, two) = (process("a", "one"), process("a", "two"));
    for id in [&one, &two] {
        receipts.connected(id, orders(), secs(99));
        receipts.proven(id, Seq(9), secs(99));
    }
    receipts.acked(&one, Seq(10), secs(100));
    let found = receipts.enforcement(&mark(), secs(101));
    let of = |id: &InstanceId| {
        let mut all = found.receipts.iter();
        all.find(|receipt| receipt.process == id.process).map(|receipt| receipt.how)
    };
    assert_eq!((of(&one), of(&two)), (Some(How::Acknowledged), Some(How::Waiting)));
    assert!(!found.everywhere, "one of them says nothing for the other");
    let shown = receipts.gateways(secs(101));
    assert_eq!(shown.iter().filter(|gateway| gateway.twin).count(), 2);
}

#[test]
fn a_restarted_gateway_is_one_and_its_former_process_is_waited_for() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(0));
    let (former, next) = (process("a", "x"), process("a", "b"));
    receipts.connected(&former, orders(), secs(90));
    receipts.proven(&former, Seq(9), secs(99));
    receipts.disconnected(&former, secs(99));
    receipts.connected(&next, orders(), secs(100));
    receipts.proven(&next, Seq(9), secs(100));
    let shown = receipts.gateways(secs(100));
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].process.as_str(), shown[0].twin), ("b", false));
    receipts.acked(&next, Seq(10), secs(101));
    // Nobody knows that the former process is dead; its view may be fresh until the bound.
    assert!(!receipts.enforcement(&mark(), secs(101)).everywhere);
    assert!(receipts.enforcement(&mark(), secs(106)).everywhere);
    receipts.sweep(secs(99 + 121));
    let late = Mark { seq: Seq(20), committed: secs(100), covers: orders() };
    let known = receipts.enforcement(&late, secs(101)).receipts;
    assert!(known.iter().all(|receipt| receipt.process == "b"), "{known:?}");
}

#[test]
fn a_gateway_that_moved_to_another_connection_is_one_and_goes_on() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(0));
    receipts.connected(&id("a"), orders(), secs(90));
    receipts.proven(&id("a"), Seq(9), secs(99));
    // The new stream opens before the broker has noticed that the old one is dead.
    receipts.connected(&id("a"), orders(), secs(100));
    let waits = receipts.enforcement(&mark(), secs(100));
    assert_eq!(waits.receipts[0].how, How::Waiting);
    receipts.disconnected(&id("a"), secs(101));
    let shown = receipts.gateways(secs(101));
    assert_eq!((shown.len(), shown[0].connected, shown[0].twin), (1, true, false));
    receipts.acked(&id("a"), Seq(10), secs(102));
    let found = receipts.enforcement(&mark(), secs(102));
    assert_eq!((found.receipts.len(), found.receipts[0].how), (1, How::Acknowledged));
    assert!(found.everywhere);
}

#[test]
fn a_silent_gateway_is_shown_stale_once_it_must_be_whatever_it_said() {
    let receipts = Receipts::new(secs(0), true, Spread::new(TIMES));
    receipts.bundle(Staleness(FRESH), secs(0));
    receipts.connected(&id("a"), orders(), secs(90));
    receipts.proven(&id("a"), Seq(9), secs(99));
    receipts.pinged(&id("a"), "FRESH".to_owned(), Some(secs(1)), secs(99));
    for (at, state) in [(100, "FRESH"), (104, "FRESH"), (105, "STALE"), (900, "STALE")] {
        let shown = receipts.gateways(secs(at));
        assert_eq!(shown[0].state, state, "at {at}");
        assert_eq!(shown[0].view_age, Some(secs(at - 98)), "its age does not stand still");
    }
}
