//! What an approval is worth when the rules change while its request waits.
#![cfg(test)]

use std::sync::Arc;

use protem_verify::ids::{GrantId, Hash};

use crate::command::{Choice, Command};
use crate::event::Event;
use crate::refusal::Refusal;
use crate::request::AccessRequest;
use crate::testbed::{World, edit, person, request, scopes};
use crate::verdict::{Approver, ApproverVerdict, Effect};

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
