//! What an approval is worth: only what policy says now, of this request and this person, also when the rules change meanwhile.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::Lifetime;

use crate::command::{Choice, Command, Narrowed};
use crate::event::{EndReason, Event};
use crate::grant::Status;
use crate::limits::PENDING_MAX;
use crate::refusal::Refusal;
use crate::request::{AccessRequest, Scopes};
use crate::testbed::{START, World, edit, person, request, scopes};
use crate::verdict::{Approver, ApproverVerdict, Effect, Ruling, Verdict};

const NEXT: Hash = Hash([8; 32]);

/// Two scopes that need two people, one of whom has said yes.
fn waits_for_two() -> (World, GrantId) {
    let mut world = World::new();
    let asked = AccessRequest { scopes: scopes(&["a", "b"]), ..request("team/a", "t") };
    let id = world.pending(asked, 2);
    world.ok(world.decide(id, "ann", Choice::Approve));
    (world, id)
}

/// The same when another bundle comes, and not yet to this request.
fn between_bundles() -> (World, GrantId) {
    let (mut world, id) = waits_for_two();
    world.ok(Command::ActivateBundle { digest: NEXT, files: Arc::new([]), expect: None });
    (world, id)
}

/// `who` approves under the bundle in force, whose rule has other words or not; `ann` counts or not.
fn yes(world: &World, id: GrantId, who: &str, (ann, other): (bool, bool), fewer: bool) -> Command {
    let Command::Decide { digest, choice, reason, approver, verdict, .. } =
        world.decide(id, who, Choice::Approve)
    else {
        panic!("no decision")
    };
    let waiting = world.grant(id).waiting.as_ref().unwrap();
    let bundle = world.state.bundle().unwrap();
    let ruled = |request: &AccessRequest, policies: Hash| {
        let ruled = edit(&verdict, |ruling| {
            (ruling.content, ruling.bundle) = (request.content(), bundle);
            ruling.rule.as_mut().unwrap().policies = policies;
        });
        ruled.with_approvers(vec![(person("ann"), ann)])
    };
    let words = if other { Hash([1; 32]) } else { waiting.rule.policies };
    let less = |scopes: Scopes| {
        let lifetime = Some(waiting.lifetime);
        let left = AccessRequest { scopes: scopes.clone(), lifetime, ..waiting.request.clone() };
        Narrowed { lifetime: None, scopes: Some(scopes), verdict: ruled(&left, Hash([2; 32])) }
    };
    let approver = Approver { bundle, ..approver.approver().clone() };
    Command::Decide {
        grant: id,
        digest,
        choice,
        reason,
        approver: ApproverVerdict::from_policy(approver),
        verdict: ruled(&waiting.request, words),
        narrowed: fewer.then(|| Box::new(less(scopes(&["a"])))),
    }
}

#[test]
fn an_approval_of_other_rules_does_not_carry_over_by_a_narrowing() {
    // By another bundle, and without one: what policy says depends on the time and on use, too.
    for (mut world, id) in [between_bundles(), waits_for_two()] {
        let before = world.grant(id).waiting.clone().unwrap();
        let events = world.ok(yes(&world, id, "bob", (true, true), true));
        assert!(matches!(events[..], [Event::RequestReevaluated { .. }]), "{events:?}");
        let waiting = world.grant(id).waiting.clone().unwrap();
        assert!(waiting.approved.is_empty() && waiting.digest != before.digest);
        // Only what is said from then on counts.
        world.ok(yes(&world, id, "bob", (true, false), true));
        assert!(world.grant(id).waiting.is_some(), "one of two");
    }
    // Of the same rules it does.
    let (mut world, id) = waits_for_two();
    world.ok(yes(&world, id, "bob", (true, false), true));
    assert!(world.grant(id).active_at(world.now));
}

#[test]
fn whoever_approves_what_policy_words_anew_looks_again() {
    let (mut world, id) = waits_for_two();
    let events = world.ok(yes(&world, id, "bob", (true, true), false));
    assert!(matches!(events[..], [Event::RequestReevaluated { .. }]), "{events:?}");
    let waiting = world.grant(id).waiting.clone().unwrap();
    assert!(waiting.approved.is_empty());
    world.ok(yes(&world, id, "bob", (true, false), false));
    assert!(world.grant(id).waiting.as_ref().unwrap().approved.contains(&person("bob")));
}

#[test]
fn a_scope_that_is_dropped_makes_nothing_longer() {
    let (mut world, id) = waits_for_two();
    let mut longer = yes(&world, id, "bob", (true, false), true);
    if let Command::Decide { narrowed: Some(less), .. } = &mut longer {
        less.verdict = edit(&less.verdict, |ruling| {
            ruling.terms.lifetime = Lifetime(ruling.terms.lifetime.0 * 2);
        })
        .with_approvers(vec![(person("ann"), true)]);
    }
    world.refused(longer, &Refusal::NotNarrower);
    world.ok(yes(&world, id, "bob", (true, false), true));
    let Status::Active { until, .. } = world.grant(id).status else { panic!("it is not active") };
    assert_eq!(until.since(world.now), Duration::from_secs(900), "as long as what waited");
}

#[test]
fn what_policy_refuses_of_a_narrower_request_leaves_it_waiting() {
    let (mut world, id) = waits_for_two();
    let mut narrower = yes(&world, id, "bob", (true, false), true);
    if let Command::Decide { narrowed: Some(less), .. } = &mut narrower {
        less.verdict = edit(&less.verdict, |ruling| ruling.effect = Effect::Deny)
            .with_approvers(vec![(person("ann"), true)]);
    }
    world.refused(narrower, &Refusal::NarrowerRefused("ask for less".into()));
    assert_eq!(world.grant(id).waiting.as_ref().unwrap().approved.len(), 1);
}

#[test]
fn who_counts_no_more_says_it_anew() {
    let (mut world, id) = between_bundles();
    let again = yes(&world, id, "ann", (false, false), false);
    let events = world.ok(again);
    let [Event::ApprovalTakenBack { by, .. }, Event::ApprovalGiven { by: anew, .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((by, anew), (&person("ann"), &person("ann")));
    let once = yes(&world, id, "ann", (true, false), false);
    assert_eq!(world.ok(once), Vec::new(), "who counts has said it");
}

/// All that a decision stands on, to be spoilt.
struct Parts {
    choice: Choice,
    lifetime: Option<Lifetime>,
    scopes: Option<Scopes>,
    approver: Approver,
    ruling: Ruling,
    /// Whom of those who approved before policy was asked about.
    asked_about: Vec<(PersonName, bool)>,
}

type Spoil = fn(&mut Parts);

/// Bob's decision, spoilt.
fn spoilt(world: &World, id: GrantId, spoil: impl FnOnce(&mut Parts)) -> Command {
    let Command::Decide { digest, choice, reason, approver, verdict, .. } =
        world.decide(id, "bob", Choice::Approve)
    else {
        panic!("no decision")
    };
    let approved = &world.grant(id).waiting.as_ref().unwrap().approved;
    let mut parts = Parts {
        choice,
        lifetime: None,
        scopes: None,
        approver: approver.approver().clone(),
        ruling: verdict.ruling().clone(),
        asked_about: approved.iter().map(|name| (name.clone(), true)).collect(),
    };
    let asked = |ruling: &Ruling, people: &[(PersonName, bool)]| {
        Verdict::from_policy(ruling.clone()).with_approvers(people.to_vec())
    };
    let whole = asked(&parts.ruling, &parts.asked_about);
    spoil(&mut parts);
    let ruled = asked(&parts.ruling, &parts.asked_about);
    // What is spoilt of a narrowing is what policy says of the rest.
    let less = parts.lifetime.is_some() || parts.scopes.is_some();
    let narrowed = |verdict| Narrowed { lifetime: parts.lifetime, scopes: parts.scopes, verdict };
    let (verdict, narrowed) =
        if less { (whole, Some(Box::new(narrowed(ruled)))) } else { (ruled, None) };
    Command::Decide {
        grant: id,
        digest,
        choice: parts.choice,
        reason,
        approver: ApproverVerdict::from_policy(parts.approver),
        verdict,
        narrowed,
    }
}

/// Ann has approved what needs two, and a little time has gone by.
fn half_approved() -> (World, GrantId) {
    let mut world = World::new();
    let id = world.pending(request("team/a", "t"), 2);
    world.ok(world.decide(id, "ann", Choice::Approve));
    world.wait(60);
    (world, id)
}

#[test]
fn a_decision_stands_on_what_policy_says_of_this_request_and_this_person_now() {
    let no = Refusal::MayNotDecide { person: person("bob"), why: "no policy permits".into() };
    let short = Lifetime(Duration::from_secs(9));
    let rows: [(&str, Spoil, Refusal); 12] = [
        ("person, bundle", |it| it.approver.bundle = Hash([3; 32]), Refusal::VerdictStale),
        ("person, long ago", |it| it.approver.at = START, Refusal::VerdictStale),
        ("person, another request", |it| it.approver.digest = Hash([3; 32]), Refusal::VerdictStale),
        (
            "person, no",
            |it| (it.approver.may, it.approver.why_not) = (false, "no policy permits".into()),
            no,
        ),
        ("request, another", |it| it.ruling.content = Hash([3; 32]), Refusal::RequestMismatch),
        ("request, bundle", |it| it.ruling.bundle = Hash([3; 32]), Refusal::VerdictStale),
        ("request, long ago", |it| it.ruling.at = START, Refusal::VerdictStale),
        ("request, active", |it| it.ruling.active = Some(1), Refusal::VerdictStale),
        ("who approved before", |it| it.asked_about.clear(), Refusal::VerdictStale),
        (
            "wider",
            |it| it.scopes = Some(scopes(&["orders:read", "orders:write"])),
            Refusal::NotNarrower,
        ),
        (
            "too short",
            |it| {
                let life = Lifetime(Duration::from_secs(9));
                let asked = AccessRequest { lifetime: Some(life), ..request("team/a", "t") };
                (it.lifetime, it.ruling.content) = (Some(life), asked.content());
                it.ruling.terms.lifetime = life;
                // Also where it is not the last word: nobody could say yes to it later.
                it.ruling.rule.as_mut().unwrap().required = 3;
            },
            Refusal::LifetimeOutOfRange(short.0),
        ),
        ("not given", |it| it.choice = Choice::Undo, Refusal::NoApprovalToUndo(person("bob"))),
    ];
    for (what, spoil, expect) in rows {
        let (mut world, id) = half_approved();
        let command = spoilt(&world, id, spoil);
        assert_eq!(world.run(command).unwrap_err(), expect, "{what}");
        let whole = spoilt(&world, id, |_| ());
        world.ok(whole);
        assert!(world.grant(id).active_at(world.now), "{what}: what is not spoilt counts");
    }
    // What policy denies by now ends, whoever approves it.
    let (mut world, id) = half_approved();
    let denied = spoilt(&world, id, |it| it.ruling.effect = Effect::Deny);
    world.ok(denied);
    let status = &world.grant(id).status;
    assert!(matches!(status, Status::Ended { reason: EndReason::Policy, .. }), "{status:?}");
    // And a request waits only for what policy says of it, and for somebody.
    let ask = request("team/b", "t");
    let other: fn(&mut Ruling) = |it| it.content = Hash([3; 32]);
    for spoil in [other, |it| it.rule.as_mut().unwrap().required = 0] {
        let verdict = edit(&world.verdict(&ask, Effect::NeedsApproval), spoil);
        let command = Command::RequestAccess { request: ask.clone(), verdict, behind: None };
        world.refused(command, &Refusal::RequestMismatch);
    }
}

/// A rule that nobody need fulfil is none: what waits goes on waiting, and what was approved ends.
#[test]
fn nobody_is_never_enough() {
    let mut world = World::new();
    let id = world.pending(request("team/a", "t"), 1);
    world.ok(Command::ActivateBundle { digest: NEXT, files: Arc::new([]), expect: None });
    let nobody = |ruling: &mut Ruling| {
        let rule = ruling.rule.as_mut().unwrap();
        (rule.required, rule.policies) = (0, Hash([3; 32]));
    };
    let asked = world.grant(id).waiting.clone().unwrap().request;
    let ruled = edit(&world.verdict(&asked, Effect::NeedsApproval), nobody);
    world.ok(Command::Settle { digest: NEXT, grants: vec![(id, ruled)] });
    assert!(world.grant(id).pending_at(world.now));
    for (required, counts, goes_on) in
        [(2, [true, true], true), (2, [true, false], false), (3, [true, true], false)]
    {
        let (world, id) = renewed(required, counts);
        assert_eq!(world.grant(id).active_at(world.now), goes_on, "{required} {counts:?}");
    }
    let (world, id) = renewed(0, [false, false]);
    assert!(!world.grant(id).active_at(world.now));
}

/// What Ann and Bob approved is renewed under a rule that needs so many, and says of each whether they count.
fn renewed(required: u16, counts: [bool; 2]) -> (World, GrantId) {
    let (mut world, id) = half_approved();
    world.ok(world.decide(id, "bob", Choice::Approve));
    world.wait(250);
    let Command::RenewCredential { by, grant, verdict } = world.renew(id, Effect::NeedsApproval)
    else {
        panic!("no renewal")
    };
    let ruled = edit(&verdict, |ruling| ruling.rule.as_mut().unwrap().required = required);
    let people = ["ann", "bob"].map(person).into_iter().zip(counts).collect();
    world.ok(Command::RenewCredential { by, grant, verdict: ruled.with_approvers(people) });
    (world, id)
}

#[test]
fn so_many_requests_wait_and_no_more() {
    let mut world = World::new();
    for at in 0..PENDING_MAX {
        world.pending(request(&format!("team/{at}"), "t"), 1);
    }
    let max = u32::try_from(PENDING_MAX).unwrap();
    let more = world.ask(request("team/more", "t"), Effect::NeedsApproval);
    assert_eq!(world.run(more).unwrap_err(), Refusal::TooManyPending { max });
}

#[test]
fn a_review_is_closed_with_a_word_of_what_was_seen() {
    let mut world = World::new();
    let grant = world.granted(AccessRequest { emergency: true, ..request("team/a", "t") });
    let (by, bundle) = (person("ann"), world.state.bundle().unwrap());
    let silent = Command::CloseReview { grant, by, bundle, note: Words::default() };
    world.refused(silent, &Refusal::ReasonRequired);
}

#[test]
fn a_review_is_closed_by_the_bundle_in_force_alone() {
    let mut world = World::new();
    let grant = world.granted(AccessRequest { emergency: true, ..request("team/a", "t") });
    let close = world.close_review(grant);
    world.ok(Command::ActivateBundle { digest: NEXT, files: Arc::new([]), expect: None });
    world.refused(close, &Refusal::VerdictStale);
    world.ok(world.close_review(grant));
}
