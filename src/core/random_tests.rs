//! The law under random commands: what must hold after every one of them.
#![cfg(test)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{Strategy, any, proptest};
use proptest::test_runner::Config;
use protem_verify::ids::GrantId;
use protem_verify::names::{ResourceName, Words};

use crate::command::{Choice, Command};
use crate::event::{EndReason, Event, Target};
use crate::grant::Status;
use crate::state::State;
use crate::testbed::{World, hold, keyed, name, request, revoke, task, words, workload};
use crate::verdict::Effect;

const WHO: [&str; 3] = ["team/a", "team/b", "team/c"];
const TASKS: [&str; 3] = ["t", "u", "v"];

/// One random step: what, by whom, on which task and grant, after how long.
type Step = (u8, usize, usize, usize, u16);

fn command(world: &World, known: &[GrantId], step: Step) -> Command {
    let (what, who, which, pick, _) = step;
    let (identity, id) = (WHO[who], TASKS[which]);
    let grant = known.get(pick % known.len().max(1)).copied().unwrap_or(GrantId([9; 16]));
    let by = workload(identity);
    match what % 16 {
        0..=2 => world.ask(request(identity, id), Effect::Issue),
        3 => world
            .ask(keyed(identity, id, world.now, u8::try_from(pick % 4).unwrap()), Effect::Issue),
        4 => world.ask(request(identity, id), Effect::NeedsApproval),
        5 => world.ask(request(identity, id), Effect::Deny),
        6 => world.renew(grant, Effect::Issue),
        7 => world.renew(grant, Effect::Deny),
        8 => Command::CompleteTask { by, task: task(id), hold: None, outcome: Words::default() },
        9 => Command::ReturnGrant { by, grant, note: Words::default() },
        10 => {
            Command::HoldTask { by, task: task(id), hold: hold(1), lease: Duration::from_secs(15) }
        }
        11 => Command::AbandonTask { identity: name(identity), task: task(id), hold: hold(1) },
        12 => revoke(match pick % 4 {
            0 => Target::Identity(name(identity)),
            1 => Target::Resource(ResourceName::try_from("orders-api").unwrap()),
            2 => Target::Grant(grant),
            _ => Target::Task(name(identity), task(id)),
        }),
        13 => {
            world.decide(grant, WHO[pick % 3], [Choice::Approve, Choice::Deny, Choice::Undo][which])
        }
        14 => Command::SetQuarantine {
            identity: name(identity),
            on: pick % 2 == 0,
            note: words("odd"),
        },
        _ => Command::Tick,
    }
}

/// Sums that the state keeps by hand must be what a count gives.
fn consistent(state: &State) {
    let parts = state.parts();
    let live = parts.grants.iter().filter(|grant| !grant.ended());
    assert_eq!(live.count(), state.live());
    for who in WHO {
        let of = |wanted: fn(&Status) -> bool| {
            let mine = parts.grants.iter().filter(|grant| grant.by.identity == name(who));
            u32::try_from(mine.filter(|grant| wanted(&grant.status)).count()).unwrap()
        };
        assert_eq!(of(|status| matches!(status, Status::Active { .. })), state.active(&name(who)));
        assert_eq!(
            of(|status| matches!(status, Status::Pending { .. })),
            state.pending(&name(who))
        );
    }
    let owed = |seq| {
        let owes = |status: &Status| matches!(status, Status::Ended { told_by: Some(told), recorded: false, .. } if *told == seq);
        parts.grants.iter().filter(|grant| owes(&grant.status)).count()
    };
    for (seq, _) in &parts.cut_offs {
        assert_eq!(state.owed_by(*seq), owed(*seq));
    }
    let again = State::from_parts(parts.clone());
    assert_eq!(again.parts(), parts, "a snapshot is not the state");
    assert_eq!(again.next_deadline(), state.next_deadline());
}

proptest! {
    #![proptest_config(Config::with_cases(256))]
    #[test]
    fn random_commands_keep_the_law(steps in proptest::collection::vec(
        (any::<u8>(), 0..3_usize, 0..3_usize, any::<usize>().prop_map(|pick| pick % 64), 0..400_u16), 1..80,
    )) {
        let mut world = World::new();
        let mut known = Vec::new();
        let mut ends: BTreeMap<GrantId, EndReason> = BTreeMap::new();
        for step in steps {
            world.now = world.now + Duration::from_millis(u64::from(step.4) * 50);
            // A turn that is taken back leaves no trace (the run-ahead after an unknown commit).
            let before = world.state.parts();
            let deadline = world.state.next_deadline();
            world.state.begin();
            let _ = world.run(command(&world, &known, step));
            world.state.rollback();
            assert_eq!(world.state.parts(), before);
            assert_eq!(world.state.next_deadline(), deadline);

            world.state.begin();
            let events = world.run(command(&world, &known, step)).unwrap_or_default();
            world.state.commit();
            for event in &events {
                #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
                match event {
                    Event::GrantRequested(requested) => known.push(requested.grant),
                    Event::GrantActivated(activated) => {
                        let issued = &activated.credential;
                        known.push(issued.grant);
                        // I3: no credential outlives its grant; I8: nothing ended lives again.
                        assert!(issued.exp <= activated.until && !ends.contains_key(&issued.grant));
                    }
                    Event::CredentialIssued(issued) => {
                        assert!(issued.exp <= issued.until && !ends.contains_key(&issued.grant));
                    }
                    // I7: a grant ends exactly once, with one reason.
                    Event::GrantEnded(ended) => {
                        assert_eq!(ends.insert(ended.grant, ended.reason), None, "ended twice");
                    }
                    _ => {}
                }
            }
            consistent(&world.state);
        }
    }
}
