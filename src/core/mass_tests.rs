//! What ends at once is also recorded, however much it is.
#![cfg(test)]

use std::collections::BTreeSet;

use crate::command::Command;
use crate::event::{Event, Target};
use crate::limits::STEP_MAX;
use crate::testbed::{World, request, revoke};

/// Row 71 of the attacks, over more grants than one step records.
#[test]
fn attack_mass_revoke_is_complete_over_many_steps() {
    let mut world = World::new();
    let count = 2 * STEP_MAX + 500;
    let mut all = BTreeSet::new();
    for at in 0..count {
        // The tier's cap is of an identity, the cut-off is of the resource.
        all.insert(world.granted(request(&format!("team/{at}"), "t")));
    }
    let resource = world.grant(*all.first().unwrap()).resource.clone();
    world.ok(revoke(Target::Resource(resource)));
    assert!(all.iter().all(|id| !world.grant(*id).live_at(world.now)), "at once, before any row");
    let mut recorded = BTreeSet::new();
    let mut steps = 0;
    loop {
        let rows = world.ok(Command::Tick);
        if rows.is_empty() {
            break;
        }
        steps += 1;
        for row in rows {
            let Event::GrantEnded(ended) = row else { panic!("{row:?}") };
            assert!(recorded.insert(ended.grant), "{} has two rows", ended.grant);
        }
    }
    assert_eq!((recorded, steps), (all, 3));
}
