//! What an approval is worth: only what policy says now, of this request and this person, also when the rules change meanwhile.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{PersonName, Words};
use protem_verify::time::Lifetime;

use crate::command::{Choice, Command};
use crate::event::{EndReason, Event};
use crate::grant::Status;
use crate::limits::PENDING_MAX;
use crate::refusal::Refusal;
use crate::request::{AccessRequest, Scopes};
use crate::testbed::{START, World, edit, person, request, scopes};
use crate::verdict::{Approver, ApproverVerdict, Effect, Ruling, Verdict};

const NEXT: Hash = Hash([8; 32]);

/// Two scopes that need two people, one of whom has said yes; then another bundle comes, and not yet to this request.
fn between_bundles() -> (World, GrantId) {
    let mut world = World::new();
    let asked = AccessRequest { scopes: scopes(&["a", "b"]), ..request("team/a", "t") };
    let id = world.pending(asked, 2);
    world.ok(world.decide(id, "ann", Choice::Approve));
    world.ok(Command::ActivateBundle { digest: NEXT, files: Arc::new([]), expect: None });
    (world, id)
}

/// `who` approves under the bundle in force, whose rule has other words; `ann` counts or not.
fn yes(world: &World, id: GrantId, who: &str, ann: bool, fewer: bool) -> Command {
    let Command::Decide { digest, choice, reason, approver, verdict, .. } =
        world.decide(id, who, Choice::Approve)
    else {
        panic!("no decision")
    };
    let narrower = fewer.then(|| scopes(&["a"]));
    let waiting = world.grant(id).waiting.as_ref().unwrap();
    let scopes = narrower.clone().unwrap_or_else(|| waiting.request.scopes.clone());
    let content = AccessRequest { scopes, ..waiting.request.clone() }.content();
    let ruled = edit(&verdict, |ruling| {
        ruling.content = content;
        ruling.bundle = world.state.bundle().unwrap();
        ruling.rule.as_mut().unwrap().policies =
            if fewer { Hash([1; 32]) } else { waiting.rule.policies };
    });
    let approver =
        Approver { bundle: world.state.bundle().unwrap(), ..approver.approver().clone() };
    Command::Decide {
        grant: id,
        digest,
        choice,
        reason,
        lifetime: None,
        scopes: narrower,
        approver: ApproverVerdict::from_policy(approver),
        verdict: ruled.with_approvers(vec![(person("ann"), ann)]),
    }
}

#[test]
fn an_approval_of_other_rules_does_not_carry_over_by_a_narrowing() {
    let (mut world, id) = between_bundles();
    let narrowing = yes(&world, id, "bob", true, true);
    world.refused(narrowing, &Refusal::VerdictStale);
    // Once the bundle has come to the request, and its rule is another, only what is said from then on counts.
    let waiting = world.grant(id).waiting.clone().unwrap();
    let ruled = edit(&world.verdict(&waiting.request, Effect::NeedsApproval), |ruling| {
        let rule = ruling.rule.as_mut().unwrap();
        (rule.policies, rule.required) = (Hash([1; 32]), 2);
    });
    let grants = vec![(id, ruled.with_approvers(vec![(person("ann"), true)]))];
    world.ok(Command::Settle { digest: NEXT, grants });
    let narrowing = yes(&world, id, "bob", true, true);
    world.ok(narrowing);
    assert!(world.grant(id).waiting.is_some(), "one of two");
}

#[test]
fn who_counts_no_more_says_it_anew() {
    let (mut world, id) = between_bundles();
    let again = yes(&world, id, "ann", false, false);
    let events = world.ok(again);
    let [Event::ApprovalTakenBack { by, .. }, Event::ApprovalGiven { by: anew, .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((by, anew), (&person("ann"), &person("ann")));
    let once = yes(&world, id, "ann", true, false);
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
    spoil(&mut parts);
    Command::Decide {
        grant: id,
        digest,
        choice: parts.choice,
        reason,
        lifetime: parts.lifetime,
        scopes: parts.scopes,
        approver: ApproverVerdict::from_policy(parts.approver),
        verdict: Verdict::from_policy(parts.ruling).with_approvers(parts.asked_about),
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
    let rows: [(&str, Spoil, Refusal); 13] = [
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
        (
            "request, other rules",
            |it| it.ruling.rule.as_mut().unwrap().policies = Hash([3; 32]),
            Refusal::VerdictStale,
        ),
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
    let silent = Command::CloseReview { grant, by: person("ann"), note: Words::default() };
    world.refused(silent, &Refusal::ReasonRequired);
}
