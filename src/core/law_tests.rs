//! The law, case by case.
#![cfg(test)]

use std::time::Duration;

use protem_verify::ids::{Epoch, GrantId, Hash};
use protem_verify::names::{KeyId, ResourceName, ScopeName, Words};
use protem_verify::time::{Lifetime, Time};

use crate::command::{Choice, Command, Narrowed};
use crate::event::{EndReason, Event, Target};
use crate::grant::Status;
use crate::refusal::Refusal;
use crate::request::AccessRequest;
use crate::testbed::{
    BUNDLE, START, World, edit, hold, keyed, name, person, request, revoke, scopes, task, words,
    workload,
};
use crate::verdict::{Effect, Ruling};

#[track_caller]
fn ended(world: &World, grant: GrantId, expect: EndReason) {
    let status = &world.grant(grant).status;
    assert!(matches!(status, Status::Ended { reason, .. } if *reason == expect), "{status:?}");
}

fn complete(id: &str) -> Command {
    Command::CompleteTask {
        by: workload("team/a"),
        task: task(id),
        hold: None,
        outcome: words("success"),
    }
}

#[test]
fn a_granted_request_has_a_credential_within_its_grant() {
    let mut world = World::new();
    let short = AccessRequest {
        lifetime: Some(Lifetime(Duration::from_secs(20))),
        ..request("team/a", "t")
    };
    let grant = world.granted(short);
    let Status::Active { from, until, .. } = world.grant(grant).status else { panic!() };
    let newest = world.grant(grant).newest.clone().unwrap();
    assert_eq!((from, until), (START, START + Duration::from_secs(20)));
    assert_eq!((newest.number, newest.iat), (0, Time::from_secs(START.as_secs())));
    // INVARIANT(no_credential_outlives_its_grant)
    assert!(newest.exp <= until && newest.exp.as_millis().is_multiple_of(1_000));
}

#[test]
fn no_credential_outlives_its_grant() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    for _ in 0..10 {
        world.wait(199);
        let renewed = world.renew(grant, Effect::Issue);
        if world.run(renewed).is_err() {
            break;
        }
        let exp = world.grant(grant).newest.as_ref().unwrap().exp;
        assert!(exp <= START + Duration::from_secs(900), "{exp}");
    }
    let renewed = world.renew(grant, Effect::Issue);
    world.refused(renewed, &Refusal::GrantEnded(grant));
}

#[test]
fn a_repeated_request_answers_the_same_grant() {
    let mut world = World::new();
    let first = keyed("team/a", "t", START, 1);
    let grant = world.granted(first.clone());
    assert_eq!(world.ok(world.ask(first.clone(), Effect::Issue)), vec![]);
    assert_eq!(world.state.by_key(&name("team/a"), &first.key.unwrap()), Some(grant));
    let other_key = keyed("team/a", "t", START, 2);
    let events = world.ok(world.ask(other_key.clone(), Effect::Issue));
    assert!(
        matches!(events.as_slice(), [Event::RequestRepeated { grant: same, .. }] if *same == grant)
    );
    assert_eq!(world.state.by_key(&name("team/a"), &other_key.key.unwrap()), Some(grant));
    let unkeyed = world.ask(request("team/a", "t"), Effect::Issue);
    assert_eq!(world.ok(unkeyed), vec![]);
}

#[test]
fn a_grant_answers_so_many_keys_and_no_more() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    for salt in 0..64 {
        world.ok(world.ask(keyed("team/a", "t", START, salt), Effect::Issue));
    }
    let more = world.ask(keyed("team/a", "t", START, 64), Effect::Issue);
    world.refused(more, &Refusal::TooManyKeys(grant));
    assert_eq!(world.ok(world.ask(keyed("team/a", "t", START, 5), Effect::Issue)), vec![]);
}

#[test]
fn a_key_names_one_request_for_good() {
    let mut world = World::new();
    let first = keyed("team/a", "t", START, 1);
    let grant = world.granted(first.clone());
    let other = AccessRequest { purpose: words("something else"), ..first.clone() };
    world.refused(world.ask(other, Effect::Issue), &Refusal::KeyReused(first.key.unwrap()));
    world.ok(complete("t"));
    assert_eq!(
        world.ok(world.ask(first.clone(), Effect::Issue)),
        vec![],
        "ended: the same grant answers"
    );
    ended(&world, grant, EndReason::Completed);
    let old = keyed("team/a", "u", Time::from_millis(START.as_millis() - 601_000), 3);
    world.refused(world.ask(old.clone(), Effect::Issue), &Refusal::KeyTooOld(old.key.unwrap()));
    let ahead = keyed("team/a", "u", START + Duration::from_secs(241), 3);
    world.refused(world.ask(ahead.clone(), Effect::Issue), &Refusal::KeyAhead(ahead.key.unwrap()));
}

#[test]
fn a_stale_verdict_is_refused() {
    let mut world = World::new();
    let ask = request("team/a", "t");
    let verdict = world.verdict(&ask, Effect::Issue);
    let with =
        |verdict| Command::RequestAccess { request: request("team/a", "t"), verdict, behind: None };
    let other = edit(&verdict, |ruling| ruling.bundle = Hash([8; 32]));
    world.refused(with(other), &Refusal::VerdictStale);
    let other = edit(&verdict, |ruling| ruling.content = Hash([8; 32]));
    world.refused(with(other), &Refusal::RequestMismatch);
    let counted = edit(&verdict, |ruling| ruling.active = Some(1));
    world.refused(with(counted), &Refusal::VerdictStale);
    world.now = world.now + Duration::from_millis(5_001);
    world.refused(with(verdict), &Refusal::VerdictStale);
}

#[test]
fn a_denied_request_leaves_a_record_and_no_grant() {
    let mut world = World::new();
    let events = world.ok(world.ask(request("team/a", "t"), Effect::Deny));
    assert!(matches!(events.as_slice(), [Event::AccessRefused(_)]));
    assert_eq!(world.state.live(), 0);
}

#[test]
fn hard_caps_hold_whatever_policy_says() {
    let mut world = World::new();
    for at in 0..5 {
        world.granted(request("team/a", &format!("t{at}")));
    }
    let full = Refusal::TooManyActive { identity: name("team/a"), max: 5 };
    world.refused(world.ask(request("team/a", "t9"), Effect::Issue), &full);
    world.granted(request("team/b", "t9"));
    for at in 0..3 {
        world.pending(request("team/c", &format!("t{at}")), 1);
    }
    let waits = world.ask(request("team/c", "t9"), Effect::NeedsApproval);
    world.refused(waits, &Refusal::TooManyPending { max: 3 });
    let brief = AccessRequest {
        lifetime: Some(Lifetime(Duration::from_secs(9))),
        ..request("team/d", "t")
    };
    let brief = world.ask(brief, Effect::Issue);
    world.refused(brief, &Refusal::LifetimeOutOfRange(Duration::from_secs(9)));
}

#[test]
fn ending_a_task_ends_all_under_it_once() {
    let mut world = World::new();
    let one = world.granted(request("team/a", "t"));
    let other = world
        .granted(AccessRequest { scopes: scopes(&["orders:write"]), ..request("team/a", "t") });
    let waits = world
        .pending(AccessRequest { scopes: scopes(&["orders:refund"]), ..request("team/a", "t") }, 1);
    let elsewhere = world.granted(request("team/a", "u"));
    assert_eq!(world.ok(complete("t")).len(), 4);
    ended(&world, one, EndReason::Completed);
    ended(&world, other, EndReason::Completed);
    ended(&world, waits, EndReason::Withdrawn);
    assert!(world.grant(elsewhere).active_at(world.now));
    assert_eq!(world.ok(complete("t")), vec![], "idempotent");
    world.refused(world.ask(request("team/a", "t"), Effect::Issue), &Refusal::TaskEnded(task("t")));
    world.refused(complete("never"), &Refusal::UnknownTask(task("never")));
    assert_eq!(world.revocations().len(), 2);
}

#[test]
fn others_cannot_end_or_renew() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let by = workload("team/b");
    let note = Words::default();
    let stolen = Command::ReturnGrant { by: by.clone(), grant, note: note.clone() };
    world.refused(stolen, &Refusal::UnknownGrant(grant));
    let done = Command::CompleteTask { by: by.clone(), task: task("t"), hold: None, outcome: note };
    world.refused(done, &Refusal::UnknownTask(task("t")));
    world.wait(250);
    let Command::RenewCredential { verdict, .. } = world.renew(grant, Effect::Issue) else {
        panic!()
    };
    let renew = Command::RenewCredential { by, grant, verdict };
    world.refused(renew, &Refusal::UnknownGrant(grant));
}

#[test]
fn only_the_newest_hold_counts() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let held = |by: u8| Command::HoldTask {
        by: workload("team/a"),
        task: task("t"),
        hold: hold(by),
        lease: Duration::from_secs(15),
    };
    world.ok(held(1));
    world.ok(held(2));
    let lost =
        |by: u8| Command::AbandonTask { identity: name("team/a"), task: task("t"), hold: hold(by) };
    assert_eq!(world.ok(lost(1)), vec![]);
    assert!(world.grant(grant).active_at(world.now));
    world.ok(lost(2));
    ended(&world, grant, EndReason::Abandoned);
    assert_eq!(world.ok(lost(2)), vec![]);
    let Command::HoldTask { by, task: id, hold: h, .. } = held(3) else { panic!() };
    let endless = Command::HoldTask { by, task: id, hold: h, lease: Duration::from_secs(301) };
    world.refused(endless, &Refusal::LeaseOutOfRange(Duration::from_secs(301)));
    world.refused(held(3), &Refusal::TaskEnded(task("t")));
}

#[test]
fn a_cut_off_is_one_entry_and_ends_all_that_match() {
    let orders = ResourceName::try_from("orders-api").unwrap();
    let read = ScopeName::try_from("orders:read").unwrap();
    let cases = [
        (Target::Identity(name("team/a")), [true, false]),
        (Target::Task(name("team/a"), task("t")), [true, false]),
        (Target::Resource(orders.clone()), [true, true]),
        (Target::Scope(orders, read), [true, false]),
        (Target::Everything, [true, true]),
        (Target::Key(KeyId::try_from("k1").unwrap()), [false, false]),
    ];
    for (target, expect) in cases {
        let mut world = World::new();
        let one = world.granted(request("team/a", "t"));
        let other = AccessRequest { scopes: scopes(&["orders:refund"]), ..request("team/b", "t") };
        let other = world.granted(other);
        assert_eq!(world.ok(revoke(target.clone())).len(), 1, "{target:?}");
        for (grant, gone) in [one, other].into_iter().zip(expect) {
            assert_eq!(!world.grant(grant).active_at(world.now), gone, "{target:?}");
        }
        let rows = world.ok(Command::Tick);
        assert_eq!(rows.len(), expect.iter().filter(|gone| **gone).count(), "{target:?}");
        assert_eq!(world.ok(Command::Tick), vec![], "each row once");
        assert_eq!(world.revocations().len(), 1, "told once, {target:?}");
    }
}

#[test]
fn a_cut_off_spares_what_came_after() {
    let mut world = World::new();
    world.granted(request("team/a", "t"));
    world.ok(revoke(Target::Identity(name("team/a"))));
    let after = world.granted(request("team/a", "u"));
    world.ok(Command::Tick);
    assert!(world.grant(after).active_at(world.now));
}

#[test]
fn quarantine_stops_the_next_request_until_lifted() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let set = |on| Command::SetQuarantine { identity: name("team/a"), on, note: words("odd") };
    world.ok(set(true));
    ended(&world, grant, EndReason::Quarantined);
    let again = world.ask(request("team/a", "u"), Effect::Issue);
    world.refused(again, &Refusal::Quarantined(name("team/a")));
    world.ok(set(false));
    world.granted(request("team/a", "u"));
}

#[test]
fn deadlines_hold_without_a_tick() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let waits = world.pending(request("team/a", "u"), 1);
    assert_eq!(world.state.next_deadline(), Some(START + Duration::from_secs(600)));
    world.wait(900);
    let renew = world.renew(grant, Effect::Issue);
    world.refused(renew, &Refusal::GrantEnded(grant));
    let late = world.decide(waits, "alice", Choice::Approve);
    world.refused(late, &Refusal::NotPending(waits));
    world.ok(complete("u"));
    ended(&world, waits, EndReason::Lapsed);
    world.ok(Command::Tick);
    ended(&world, grant, EndReason::Expired);
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn what_is_over_is_forgotten_after_a_while() {
    let mut world = World::new();
    world.granted(keyed("team/a", "t", START, 1));
    world.ok(complete("t"));
    world.state.sweep(world.now, usize::MAX);
    assert_eq!(world.state.parts().grants.len(), 1);
    world.wait(901);
    let another = world.granted(request("team/b", "t"));
    world.state.sweep(world.now, usize::MAX);
    assert!(world.state.grant(&another).is_some());
    assert_eq!(world.state.names.count(), 4, "what a live grant shares stays");
    world.ok(revoke(Target::Grant(another)));
    world.wait(901);
    world.state.sweep(world.now, usize::MAX);
    assert_eq!(world.state.names.count(), 0, "and no name stays behind");
    let parts = world.state.parts();
    assert_eq!(
        (parts.grants.len(), parts.tasks.len(), parts.uses.len(), parts.tallies.len()),
        (0, 0, 0, 0)
    );
}

#[test]
fn renewals_settle_races_and_ask_policy_again() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    world.wait(100);
    assert_eq!(
        world.ok(world.renew(grant, Effect::Issue)),
        vec![],
        "before renew_at: the newest again"
    );
    world.wait(100);
    assert_eq!(world.ok(world.renew(grant, Effect::Issue)).len(), 1);
    assert_eq!(world.ok(world.renew(grant, Effect::Issue)), vec![]);
    assert_eq!(world.grant(grant).newest.as_ref().unwrap().number, 1);
    world.wait(250);
    world.ok(world.renew(grant, Effect::Deny));
    ended(&world, grant, EndReason::Policy);
}

#[test]
fn n_distinct_people_approve_exactly_what_they_saw() {
    let mut world = World::new();
    let grant = world.pending(request("team/a", "t"), 2);
    let own = world.decide(grant, "mallory", Choice::Approve);
    let why = "the request is your own".to_owned();
    world.refused(own, &Refusal::MayNotDecide { person: person("mallory"), why });
    world.ok(world.decide(grant, "alice", Choice::Approve));
    assert_eq!(world.ok(world.decide(grant, "alice", Choice::Approve)), vec![], "counts once");
    assert!(world.grant(grant).pending_at(world.now));
    world.ok(world.decide(grant, "alice", Choice::Undo));
    world.ok(world.decide(grant, "bob", Choice::Approve));
    assert!(world.grant(grant).pending_at(world.now), "one was taken back");
    world.wait(60);
    world.ok(world.decide(grant, "carol", Choice::Approve));
    let Status::Active { from, until, .. } = world.grant(grant).status else { panic!() };
    assert_eq!(until.since(from), Duration::from_secs(900), "waiting costs none of it");
    assert_eq!(world.grant(grant).approvers.len(), 2);
}

#[test]
fn a_decision_counts_only_for_what_was_seen() {
    let mut world = World::new();
    let grant = world.pending(request("team/a", "t"), 1);
    let Command::Decide { choice, reason, approver, verdict, .. } =
        world.decide(grant, "alice", Choice::Approve)
    else {
        panic!()
    };
    let seen = world.grant(grant).waiting.as_ref().unwrap().digest;
    let blind = Command::Decide {
        grant,
        digest: Hash([1; 32]),
        choice,
        reason,
        approver,
        verdict,
        narrowed: None,
    };
    world.refused(blind, &Refusal::DigestChanged(seen));
    let mut wide = world.decide(grant, "alice", Choice::Approve);
    if let Command::Decide { verdict, narrowed, .. } = &mut wide {
        let lifetime = Some(Lifetime(Duration::from_secs(901)));
        *narrowed =
            Some(Box::new(Narrowed { lifetime, scopes: None, verdict: edit(verdict, |_| {}) }));
    }
    world.refused(wide, &Refusal::NotNarrower);
    let mut silent = world.decide(grant, "alice", Choice::Deny);
    if let Command::Decide { reason, .. } = &mut silent {
        *reason = Words::default();
    }
    world.refused(silent, &Refusal::ReasonRequired);
    world.ok(world.decide(grant, "alice", Choice::Deny));
    ended(&world, grant, EndReason::Denied);
}

#[test]
fn a_narrowed_request_is_still_the_one_that_was_asked() {
    let mut world = World::new();
    let asked = keyed("team/a", "t", START, 1);
    let grant = world.pending(asked.clone(), 1);
    let shorter = Some(Lifetime(Duration::from_secs(60)));
    let narrowed = AccessRequest { lifetime: shorter, ..asked.clone() };
    let mut brief = world.decide(grant, "alice", Choice::Approve);
    let ruled = edit(&world.verdict(&narrowed, Effect::NeedsApproval), |ruling| {
        ruling.terms.lifetime = Lifetime(Duration::from_secs(60));
    });
    if let Command::Decide { narrowed, .. } = &mut brief {
        *narrowed = Some(Box::new(Narrowed { lifetime: shorter, scopes: None, verdict: ruled }));
    }
    world.ok(brief);
    assert!(world.grant(grant).active_at(world.now));
    assert_eq!(world.ok(world.ask(asked, Effect::Issue)), vec![], "its key answers the grant");
}

#[test]
fn an_emergency_blocks_the_next_until_it_was_looked_at() {
    let mut world = World::new();
    let urgent = |task| AccessRequest { emergency: true, ..request("team/a", task) };
    let silent = AccessRequest { purpose: Words::default(), ..urgent("t") };
    world.refused(world.ask(silent, Effect::Issue), &Refusal::ReasonRequired);
    let grant = world.granted(urgent("t"));
    world.refused(world.ask(urgent("u"), Effect::Issue), &Refusal::ReviewOpen(name("team/a")));
    let close = world.close_review(grant);
    world.ok(close);
    world.granted(urgent("u"));
    let close = world.close_review(grant);
    world.refused(close, &Refusal::NoReview(grant));
}

#[test]
fn a_new_bundle_confirms_or_ends_every_grant() {
    let mut world = World::new();
    let (stays, goes) =
        (world.granted(request("team/a", "t")), world.granted(request("team/b", "t")));
    let waits = world.pending(request("team/c", "t"), 1);
    let digest = Hash([8; 32]);
    let files = std::sync::Arc::new([]);
    let moved = Command::ActivateBundle { digest, files: files.clone(), expect: Some(digest) };
    world.refused(moved, &Refusal::BundleMoved(BUNDLE));
    world.ok(Command::ActivateBundle { digest, files, expect: Some(BUNDLE) });
    assert!(!world.state.settled());
    let grants = world.state.unsettled(1_000);
    assert_eq!(grants.len(), 3);
    let grants = grants.into_iter().map(|id| {
        let effect = if id == stays {
            Effect::Issue
        } else if id == waits {
            Effect::NeedsApproval
        } else {
            Effect::Deny
        };
        let content = world.grant(id).content;
        (id, edit(&world.verdict(&request("x", "x"), effect), |ruling| ruling.content = content))
    });
    let grants: Vec<_> = grants.collect();
    // What policy saw of one has changed: the others do not wait for it.
    let again = |id, change: fn(&mut Ruling)| {
        let verdict = world.verdict(&request("x", "x"), Effect::Issue);
        let content = world.grant(id).content;
        (id, edit(&edit(&verdict, |ruling| ruling.content = content), change))
    };
    let stale = again(goes, |ruling| ruling.active = Some(99));
    let part = Command::Settle { digest, grants: vec![stale, again(stays, |_| {})] };
    let confirmed = Event::GrantsConfirmed { digest, grants: vec![stays] };
    assert_eq!(world.ok(part), [confirmed]);
    let events = world.ok(Command::Settle { digest, grants });
    assert!(matches!(events.last(), Some(Event::BundleSettled { .. })), "{events:?}");
    assert!(world.state.settled() && world.state.unsettled(1).is_empty());
    assert!(world.grant(stays).active_at(world.now) && world.grant(waits).pending_at(world.now));
    ended(&world, goes, EndReason::Policy);
}

#[test]
fn an_epoch_fences_all_before_it() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let epoch = Epoch(START.as_millis() + 1);
    world.ok(Command::BeginEpoch { epoch, note: words("restored") });
    ended(&world, grant, EndReason::Fenced);
    let same = Command::BeginEpoch { epoch, note: words("restored") };
    world.refused(same, &Refusal::AlreadyOpen);
    assert_eq!(world.state.epoch(), epoch);
}
