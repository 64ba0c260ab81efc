//! The law under random commands: what must hold after every one of them.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::{Strategy, any, proptest};
use proptest::test_runner::Config;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{KeyId, ResourceName, Words};
use protem_verify::time::Time;

use crate::command::{Choice, Command};
use crate::event::{CredentialIssued, EndReason, Ended, Event, Target};
use crate::grant::Status;
use crate::standing::Revocation;
use crate::state::State;
use crate::testbed::{World, hold, keyed, name, request, revoke, task, words, workload};
use crate::verdict::Effect;

const WHO: [&str; 3] = ["team/a", "team/b", "team/c"];
const TASKS: [&str; 3] = ["t", "u", "v"];

/// One random step: what, by whom, on which task and grant, after how long.
type Step = (u8, usize, usize, usize, u16);

fn command(world: &World, known: &[GrantId], step: Step) -> Command {
    let (what, who, which, pick, _) = step;
    let what = what % 24;
    let (identity, id) = (WHO[who], TASKS[which]);
    let grant = known.get(pick % known.len().max(1)).copied().unwrap_or(GrantId([9; 16]));
    let by = workload(identity);
    match what {
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
        15..=18 => of_keys(what, which, pick),
        19..=22 => world.renew(active(world, known, pick).unwrap_or(grant), Effect::Issue),
        _ => Command::Tick,
    }
}

/// One that can be renewed, if there is any.
fn active(world: &World, known: &[GrantId], pick: usize) -> Option<GrantId> {
    let is = |id: &&GrantId| world.state.grant(id).is_some_and(|one| one.active_at(world.now));
    let active: Vec<_> = known.iter().filter(is).copied().collect();
    active.get(pick % active.len().max(1)).copied()
}

fn of_keys(what: u8, which: usize, pick: usize) -> Command {
    let id = format!("k{}", pick % 5);
    let key = KeyId::try_from(id.as_str()).unwrap();
    let note = words("drill");
    match (what, which) {
        (15, _) => Command::PublishKey(crate::testbed::key(&id)),
        (16, _) => Command::ActivateKey { key },
        (17, 0) => Command::RetireKey { key, compromised: true, note },
        (17, 1) => Command::RetireKey { key, compromised: false, note },
        (17, _) => Command::ReplaceKey { key, note },
        _ => Command::ForgetKey { key },
    }
}

/// What must hold of every key, as the events alone tell it.
#[derive(Default)]
struct Keys {
    last_exp: BTreeMap<KeyId, Time>,
    void: BTreeSet<KeyId>,
}

impl Keys {
    fn issued(&mut self, issued: &CredentialIssued) {
        assert!(!self.void.contains(&issued.key), "signed with a key that was cut off");
        let last = self.last_exp.entry(issued.key.clone()).or_default();
        *last = issued.exp.max(*last);
    }

    fn event(&mut self, event: &Event, now: Time) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
        match event {
            Event::KeyPublished(key) => assert!(!self.void.contains(&key.id), "it came back"),
            Event::CutOff { target: Target::Key(key), .. } => drop(self.void.insert(key.clone())),
            // I16: nothing that a gateway must still verify loses its key.
            Event::KeyForgotten { key } => {
                let dead = self.last_exp.remove(key).is_none_or(|exp| exp <= now);
                assert!(dead || self.void.contains(key), "a live token lost its key");
            }
            _ => {}
        }
    }
}

/// What a gateway that begins late must still be told, as the events alone tell it.
#[derive(Default)]
struct Ends {
    /// When the last credential of each grant dies.
    last_exp: BTreeMap<GrantId, Time>,
    /// The entry that voids what is left of a grant.
    voided_at: BTreeMap<GrantId, Seq>,
}

impl Ends {
    fn issued(&mut self, issued: &CredentialIssued) {
        let last = self.last_exp.entry(issued.grant).or_default();
        *last = issued.exp.max(*last);
    }

    fn ended(&mut self, ended: &Ended, seq: Seq) {
        if ended.reason != EndReason::Expired {
            self.voided_at.insert(ended.grant, ended.told_by.unwrap_or(seq));
        }
    }

    /// I8, I10: while any credential of an ended grant may live, whoever begins now is told, for as long as it may.
    fn told(&self, world: &World) {
        let told: BTreeMap<_, _> =
            world.revocations().into_iter().map(|one| (one.seq, one.forget_after)).collect();
        for (grant, seq) in &self.voided_at {
            let Some(exp) = self.last_exp.get(grant).filter(|exp| world.now < **exp) else {
                continue;
            };
            let until = told.get(seq).unwrap_or_else(|| panic!("{seq} is not told until {exp}"));
            assert!(until.is_none_or(|until| *exp <= until), "{seq} is forgotten before {exp}");
        }
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

/// A gateway that is told all that stands, a little at each step, while the world goes on.
#[derive(Default)]
struct Beginner {
    since: Option<Time>,
    after: Seq,
    told: Vec<Revocation>,
}

impl Beginner {
    fn step(&mut self, world: &World) {
        let since = *self.since.get_or_insert(world.now);
        let part = world.state.revocations(since, self.after, 2);
        assert!(part.items.len() <= 2 * 2);
        self.told.extend(part.items);
        if let Some(next) = part.next {
            self.after = next;
            return;
        }
        let seqs: Vec<_> = self.told.iter().map(|one| one.seq).collect();
        assert!(seqs.is_sorted_by(|one, two| one < two), "in order, and none twice");
        for standing in world.revocations() {
            assert!(self.told.contains(&standing), "{standing:?} is not told");
        }
        *self = Self::default();
    }
}

proptest! {
    #![proptest_config(Config::with_cases(256))]
    #[test]
    fn random_commands_keep_the_law(steps in proptest::collection::vec(
        (any::<u8>(), 0..3_usize, 0..3_usize, any::<usize>().prop_map(|pick| pick % 64), 0..400_u16), 1..80,
    )) {
        let mut world = World::new();
        let mut known = Vec::new();
        let mut keys = Keys::default();
        let mut void = Ends::default();
        let mut ends: BTreeMap<GrantId, EndReason> = BTreeMap::new();
        let mut beginner = Beginner::default();
        let mut charter = world.state.charter();
        for step in steps {
            world.now = world.now + Duration::from_millis(u64::from(step.4) * 50);
            // Rules that shorten lives, and lengthen them again, take no token back.
            world.credential = Duration::from_secs([90, 10, 45][usize::from(step.4) % 3]);
            // A turn that is taken back leaves no trace (the run-ahead after an unknown commit).
            let before = world.state.parts();
            let deadline = world.state.next_deadline();
            world.state.begin();
            let _ = world.run(command(&world, &known, step));
            world.state.rollback();
            assert_eq!(world.state.parts(), before);
            assert_eq!(world.state.next_deadline(), deadline);

            world.state.begin();
            let mut seq = world.state.seq();
            let events = world.run(command(&world, &known, step)).unwrap_or_default();
            world.state.commit();
            for event in &events {
                seq = seq.next();
                charter.apply(seq, world.now, event);
                keys.event(event, world.now);
                #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
                match event {
                    Event::GrantRequested(requested) => known.push(requested.grant),
                    Event::GrantActivated(activated) => {
                        let issued = &activated.credential;
                        keys.issued(issued);
                        void.issued(issued);
                        known.push(issued.grant);
                        // I3: no credential outlives its grant; I8: nothing ended lives again.
                        assert!(issued.exp <= activated.until && !ends.contains_key(&issued.grant));
                    }
                    Event::CredentialIssued(issued) => {
                        keys.issued(issued);
                        void.issued(issued);
                        assert!(issued.exp <= issued.until && !ends.contains_key(&issued.grant));
                    }
                    // I7: a grant ends exactly once, with one reason.
                    Event::GrantEnded(ended) => {
                        assert_eq!(ends.insert(ended.grant, ended.reason), None, "ended twice");
                        void.ended(ended, seq);
                    }
                    _ => {}
                }
            }
            assert_eq!(seq, world.state.seq());
            assert!(charter.agrees(&world.state.charter()), "what the journal says of itself");
            assert!(keys.void.iter().all(|key| charter.is_cut_off(key)));
            consistent(&world.state);
            beginner.step(&world);
            void.told(&world);
        }
    }
}
