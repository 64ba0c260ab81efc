//! Settling a new bundle: what each grant from before it becomes, and the caps that hold meanwhile.
#![cfg(test)]

use std::sync::Arc;

use protem_verify::ids::{GrantId, Hash};

use crate::command::Command;
use crate::event::{EndReason, Event};
use crate::grant::Status;
use crate::testbed::{World, edit, request};
use crate::verdict::{Effect, Ruling};

const NEXT: Hash = Hash([8; 32]);

/// So many requests of `team/a` that wait, and a new bundle.
fn waiting(mut world: World, count: usize) -> (World, Vec<GrantId>) {
    let mut grants = Vec::new();
    for at in 0..count {
        grants.push(world.pending(request("team/a", &format!("t{at}")), 1));
    }
    world.ok(Command::ActivateBundle { digest: NEXT, files: Arc::new([]), expect: None });
    (world, grants)
}

/// One step over all that is not settled, each with what policy says now: `change` edits it.
fn step(world: &mut World, change: impl Fn(&World, GrantId, &mut Ruling)) -> Vec<Event> {
    let verdicts = world.state.unsettled(1_000).into_iter().map(|id| {
        let verdict = world.verdict(&request("x", "x"), Effect::Issue);
        let content = world.grant(id).content;
        let verdict = edit(&verdict, |ruling| {
            ruling.content = content;
            change(world, id, ruling);
        });
        (id, verdict)
    });
    let grants = verdicts.collect();
    world.ok(Command::Settle { digest: NEXT, grants })
}

fn began(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::GrantActivated(_))).count()
}

fn active(world: &World) -> u32 {
    world.state.active(&crate::testbed::name("team/a"))
}

#[test]
fn a_step_makes_one_grant_of_an_identity_active() {
    let mut world = World::new();
    let other = world.pending(request("team/b", "t"), 1);
    let (mut world, grants) = waiting(world, 3);
    let cap = |_: &World, _: GrantId, ruling: &mut Ruling| ruling.terms.active_max = 2;
    assert_eq!(began(&step(&mut world, cap)), 2, "one of each identity");
    assert!(world.grant(other).active_at(world.now) && !world.state.settled());
    assert_eq!((began(&step(&mut world, cap)), active(&world)), (1, 2));
    let last = step(&mut world, cap);
    assert_eq!((began(&last), active(&world)), (0, 2), "the cap holds");
    assert!(world.state.settled(), "{last:?}");
    let over = |id: &&GrantId| {
        matches!(world.grant(**id).status, Status::Ended { reason: EndReason::Policy, .. })
    };
    assert_eq!(grants.iter().filter(over).count(), 1);
}

/// A policy that counts active grants says nothing of a state in which there is one more.
#[test]
fn what_policy_counted_holds_within_a_step() {
    let (mut world, _) = waiting(World::new(), 3);
    let few = |world: &World, _: GrantId, ruling: &mut Ruling| {
        ruling.active = Some(active(world));
        if active(world) >= 1 {
            ruling.effect = Effect::Deny;
        }
    };
    assert_eq!(began(&step(&mut world, few)), 1);
    let last = step(&mut world, |world, id, ruling| {
        if world.grant(id).waiting.is_some() {
            few(world, id, ruling);
        }
    });
    assert_eq!((began(&last), active(&world), world.state.settled()), (0, 1, true));
}

/// Access that policy no longer permits waits for no other step; what it permits, by a count that has changed, does.
#[test]
fn an_end_does_not_wait_for_a_count() {
    let mut world = World::new();
    let first = world.pending(request("team/a", "t"), 1);
    let goes = world.granted(request("team/a", "goes"));
    let stays = world.granted(request("team/a", "stays"));
    let (mut world, _) = waiting(world, 0);
    let counted = |world: &World, id: GrantId, ruling: &mut Ruling| {
        ruling.active = Some(active(world));
        if id == goes {
            ruling.effect = Effect::Deny;
        }
    };
    assert_eq!(began(&step(&mut world, counted)), 1);
    assert!(world.grant(first).active_at(world.now) && world.grant(goes).ended());
    assert_eq!(world.state.unsettled(9), [stays]);
    step(&mut world, counted);
    assert!(world.state.settled() && world.grant(stays).active_at(world.now));
}
