//! What is usual, finding by finding, on and off at its threshold.
#![cfg(test)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;
use protem_verify::names::ResourceName;
use protem_verify::time::Time;

use crate::command::Command;
use crate::event::Event;
use crate::refusal::Refusal;
use crate::request::AccessRequest;
use crate::state::State;
use crate::testbed::{START, World, edit, name, request, scopes};
use crate::usual::{
    AWAKE, DORMANT, HISTORY_GRANTS, HOUR_AGE, Hour, KNOWN_MAX, RATE_LEAST, RATE_TIMES, REMEMBERED,
    Usual, findings, unmoved,
};
use crate::verdict::Effect;

const HOUR: Duration = Duration::from_secs(3_600);

/// An identity's grants, one after the other.
struct Life {
    now: Time,
    usual: Option<Usual>,
}

impl Life {
    /// At ten o'clock of some day.
    fn new() -> Self {
        let day = START.as_secs() / 86_400;
        Self { now: Time::from_secs(day * 86_400 + 10 * 3_600), usual: None }
    }

    fn hours(&mut self, hours: u32) -> &mut Self {
        self.now = self.now + HOUR * hours;
        self
    }

    fn granted(&mut self, times: u32) -> &mut Self {
        let asked = asked("orders-api", &["orders:read"]);
        for _ in 0..times {
            self.grant(&asked);
        }
        self
    }

    fn grant(&mut self, asked: &AccessRequest) -> &mut Self {
        let after = Usual::after(self.usual.as_ref(), &asked.resource, &asked.scopes, self.now);
        self.usual = Some(after);
        self
    }

    /// Known for eight days, with seven grants at ten on each. It is ten again.
    fn settled() -> Self {
        let mut life = Self::new();
        for _ in 0..8 {
            life.granted(7).hours(24);
        }
        life
    }

    #[track_caller]
    fn finds(&self, asked: &AccessRequest, words: &[&str]) {
        let found = findings(self.usual.as_ref(), asked, self.now);
        assert_eq!(found.iter().map(|one| one.word()).collect::<Vec<_>>(), words, "{found:?}");
    }

    #[track_caller]
    fn check(&self, words: &[&str]) {
        self.finds(&asked("orders-api", &["orders:read"]), words);
    }

    #[track_caller]
    fn says(&self, text: &str) {
        let asked = asked("orders-api", &["orders:read"]);
        let found = findings(self.usual.as_ref(), &asked, self.now);
        assert!(found.iter().any(|one| one.to_string() == text), "{found:?}");
    }
}

fn asked(resource: &str, names: &[&str]) -> AccessRequest {
    let resource = ResourceName::try_from(resource).unwrap();
    AccessRequest { resource, scopes: scopes(names), ..request("team/a", "t") }
}

#[test]
fn who_was_granted_nothing_asks_for_what_is_new_and_no_more() {
    let life = Life::new();
    life.check(&["new-resource", "new-scope"]);
    life.says("new-resource: nothing on `orders-api` was granted in 90 days");
    life.says("new-scope: `orders:read` not granted in 90 days");
}

#[test]
fn what_was_granted_is_known_for_ninety_days() {
    let mut life = Life::new();
    life.granted(1).check(&[]);
    life.finds(&asked("orders-api", &["orders:read", "orders:write"]), &["new-scope"]);
    life.finds(&asked("billing", &["orders:read"]), &["new-resource", "new-scope"]);
    life.hours(REMEMBERED - 1).check(&["dormant"]);
    life.hours(1).check(&["new-resource", "new-scope", "dormant"]);
    // Another grant keeps what was granted before it only as long.
    let mut life = Life::new();
    life.granted(1).hours(REMEMBERED - 1).grant(&asked("billing", &["bills:read"]));
    life.hours(1).finds(&asked("billing", &["bills:read"]), &["dormant"]);
    life.check(&["new-resource", "new-scope", "dormant"]);
}

#[test]
fn the_scope_granted_longest_ago_goes_when_there_are_too_many() {
    let mut life = Life::new();
    let nth = |number: usize| asked("orders-api", &[format!("s{number}").as_str()]);
    life.grant(&nth(0)).hours(1);
    for number in 1..KNOWN_MAX {
        life.grant(&nth(number));
    }
    life.finds(&nth(0), &[]);
    life.grant(&nth(KNOWN_MAX)).finds(&nth(0), &["new-scope"]);
    for number in 1..=KNOWN_MAX {
        life.finds(&nth(number), &[]);
    }
    assert_eq!(life.usual.unwrap().known.len(), KNOWN_MAX);
}

#[test]
fn nothing_is_a_habit_in_the_first_week() {
    // Twenty grants at ten on each of three days, and still a week has not passed.
    let mut life = Life::new();
    life.granted(20).hours(24).granted(20).hours(24).granted(20).hours(12).check(&[]);
    life.hours(7 * 24 - 61).granted(20 * RATE_TIMES).check(&[]);
    life.hours(1).granted(20 * RATE_TIMES).check(&["unusual-rate"]);
    life.hours(2).check(&["unusual-hour"]);
    // The days are too few: a week later, and at another hour.
    let mut life = Life::new();
    life.granted(20).hours(24).granted(20).hours(7 * 24 + 12).check(&[]);
    // The grants are too few.
    let mut life = Life::new();
    for _ in 0..HISTORY_GRANTS - 1 {
        life.granted(1).hours(24);
    }
    life.hours(12).check(&[]);
    life.hours(12).granted(1).hours(36).check(&["unusual-hour"]);
}

#[test]
fn an_hour_is_usual_when_something_was_granted_near_it_on_an_earlier_day() {
    let mut life = Life::settled();
    life.check(&[]);
    life.hours(1).check(&[]);
    life.hours(1).check(&["unusual-hour"]);
    life.says("unusual-hour: 12:00 UTC, usually 10");
    // What is done tonight does not make tonight usual, not even after midnight.
    life.hours(11).check(&["unusual-hour"]);
    life.granted(3).check(&["unusual-hour"]);
    life.hours(1).check(&["unusual-hour"]);
    // A day later it does.
    life.hours(HOUR_AGE - 1).check(&[]);
    life.hours(10).check(&[]); // an hour early
    life.hours(23).check(&["unusual-hour"]);
    life.says("unusual-hour: 08:00 UTC, usually 10, 23");
}

#[test]
fn an_hour_is_forgotten_after_ninety_days() {
    let mut life = Life::settled();
    // From now on at six in the evening, for as long as ten o'clock is remembered.
    life.hours(8);
    for _ in 0..87 {
        life.granted(1).hours(24);
    }
    life.hours(16).check(&[]); // ten o'clock, 89 days after the last one
    life.hours(24).check(&["unusual-hour"]);
    life.says("unusual-hour: 10:00 UTC, usually 18");
}

#[test]
fn a_rate_is_unusual_beyond_one_a_minute_and_ten_times_the_busiest_hour_of_a_week() {
    let mut life = Life::settled();
    life.granted(RATE_LEAST - 1).check(&[]);
    // Seven was the busiest hour: seventy is ten times that.
    life.granted(7 * RATE_TIMES - RATE_LEAST).check(&[]);
    life.granted(1).check(&["unusual-rate"]);
    life.says("unusual-rate: 71 grants this hour, at most 7 in any of the week before");
    // Not so in the next hour; but today's hours do not count, so that nothing doubles by the hour.
    life.hours(1).check(&[]);
    life.granted(7 * RATE_TIMES).check(&["unusual-rate"]);
    // The next day it is usual, as long as it was in the last seven days.
    life.hours(23).granted(7 * RATE_TIMES).check(&[]);
    life.hours(8 * 24).granted(RATE_LEAST).check(&["unusual-rate"]);
    life.says("unusual-rate: 61 grants this hour, at most 0 in any of the week before");
    // Slots are of eight days: what is older is not taken for newer.
    let mut life = Life::settled();
    life.granted(50).hours(7 * 24).granted(499).check(&[]);
    let mut life = Life::settled();
    life.granted(50).hours(8 * 24).granted(499).check(&["unusual-rate"]);
}

#[test]
fn who_was_silent_for_a_month_is_dormant_until_a_day_after_it_woke() {
    let mut life = Life::new();
    life.granted(1).hours(DORMANT - 1).check(&[]);
    life.hours(1).check(&["dormant"]);
    life.says("dormant: `team/a` was granted nothing for 30 days");
    // A harmless grant does not wake it for a harmful one.
    life.granted(1).check(&["dormant"]);
    life.hours(AWAKE - 1).granted(1).check(&["dormant"]);
    life.hours(1).check(&[]);
    // However long ago.
    life.hours(5 * REMEMBERED).check(&["new-resource", "new-scope", "dormant"]);
    life.says("dormant: `team/a` was granted nothing for 450 days");
}

#[test]
fn words_are_compared_and_not_numbers() {
    let is = findings(None, &request("team/a", "t"), START);
    let seen = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    assert!(unmoved(&seen(&["new-resource: x", "new-scope", "unusual-volume: 9"]), &is));
    assert!(!unmoved(&seen(&["new-resource"]), &is));
    assert!(!unmoved(&seen(&["new-resource", "new-scope", "dormant: 30"]), &is));
}

/// Asks with what is unusual as it is now.
fn ask(world: &World, asked: &AccessRequest, reads: bool) -> Command {
    let past = world.state.usual(&asked.by.identity);
    let found = findings(past.map(|it| &**it), asked, world.now);
    let verdict = edit(&world.verdict(asked, Effect::Issue), |ruling| {
        ruling.findings = found.iter().map(ToString::to_string).collect();
    });
    let verdict = verdict.reading_findings(reads);
    Command::RequestAccess { request: asked.clone(), verdict, behind: None }
}

#[test]
fn only_one_first_request_is_the_first() {
    let mut world = World::new();
    let (one, other) = (request("team/a", "t"), request("team/a", "u"));
    let (first, second) = (ask(&world, &one, true), ask(&world, &other, true));
    world.ok(first);
    world.refused(second, &Refusal::VerdictStale);
    let again = ask(&world, &other, true);
    let events = world.ok(again);
    let Some(Event::GrantActivated(activated)) = events.first() else { panic!("{events:?}") };
    assert!(activated.asked.as_ref().unwrap().ruling.findings.is_empty());
    // A verdict that claims what is not so is refused as well.
    let third = request("team/a", "v");
    let Command::RequestAccess { request, verdict, behind } = ask(&world, &third, true) else {
        panic!()
    };
    let verdict = edit(&verdict, |ruling| ruling.findings = vec!["dormant: 40".into()]);
    let verdict = verdict.reading_findings(true);
    world.refused(Command::RequestAccess { request, verdict, behind }, &Refusal::VerdictStale);
}

#[test]
fn nobody_asks_twice_where_no_policy_reads_findings() {
    let mut world = World::new();
    let (one, other) = (request("team/a", "t"), request("team/a", "u"));
    let (first, second) = (ask(&world, &one, false), ask(&world, &other, false));
    world.ok(first);
    world.ok(second);
}

#[test]
fn a_denied_or_waiting_request_makes_nothing_usual() {
    let mut world = World::new();
    world.ok(world.ask(request("team/a", "t"), Effect::Deny));
    let waits = world.pending(request("team/a", "u"), 1);
    assert!(world.state.usual(&name("team/a")).is_none());
    world.ok(world.decide(waits, "ann", crate::command::Choice::Approve));
    let usual = world.state.usual(&name("team/a")).unwrap();
    assert_eq!((usual.last, usual.known.len()), (Hour::of(world.now), 1));
}

/// What a sweep frees makes no difference to what is unusual, nor to what becomes usual after it.
#[test]
fn a_sweep_changes_no_finding() {
    let mut swept = World::new();
    swept.granted(request("team/a", "t"));
    let kept = swept.state.clone();
    let of = |state: &State| state.usual(&name("team/a")).cloned().unwrap();
    let begins = Time::from_secs(u64::from(of(&kept).last.0) * 3_600);
    let later = begins + HOUR * REMEMBERED;
    swept.state.sweep(later.minus(Duration::from_millis(1)), usize::MAX);
    assert_eq!(of(&swept.state), of(&kept), "not a moment too early");
    swept.state.sweep(later, usize::MAX);
    assert_eq!(*of(&swept.state), Usual { last: of(&kept).last, ..Usual::default() });
    let asked = request("team/a", "u");
    let found = |state: &State| findings(Some(&of(state)), &asked, later);
    assert_eq!(found(&swept.state), found(&kept));
    let after =
        |state: &State| Usual::after(Some(&of(state)), &asked.resource, &asked.scopes, later);
    assert_eq!(after(&swept.state), after(&kept));
}

/// Who goes on asking is not forgotten, and the sweep looks again in time.
#[test]
fn a_sweep_leaves_who_is_active() {
    let mut world = World::new();
    world.granted(request("team/a", "t"));
    world.now = world.now + HOUR * (REMEMBERED - 1);
    world.granted(request("team/a", "u"));
    world.state.sweep(world.now + HOUR * 2, usize::MAX);
    assert_eq!(world.state.usual(&name("team/a")).unwrap().known.len(), 1);
    let again = State::from_parts(world.state.parts());
    for mut state in [world.state, again] {
        assert!(state.sweep(world.now + HOUR * (REMEMBERED + 1), usize::MAX));
        let usual = state.usual(&name("team/a")).unwrap();
        assert_eq!((usual.known.len(), usual.last), (0, Hour::of(world.now)));
    }
}

/// What is unusual, worked out anew from every grant: hours and what was granted in them.
fn plainly(history: &[(u32, usize)], which: usize, hour: u32) -> Vec<&'static str> {
    let age = |at: u32| hour - at;
    let silences = || history.windows(2).map(|two| (two[1].0, two[1].0 - two[0].0));
    let last = history.last().map(|(at, _)| *at);
    // After 90 days without a grant its history begins anew.
    let over = last.is_some_and(|at| age(at) >= REMEMBERED);
    let from = silences().rposition(|(_, silent)| silent >= REMEMBERED).map_or(0, |at| at + 1);
    let recent = if over { &[] } else { &history[from..] };
    let known = |wanted: fn(usize, usize) -> bool| {
        recent.iter().any(|(at, what)| wanted(*what, which) && age(*at) < REMEMBERED)
    };
    let mut words = Vec::new();
    words.extend((!known(|one, other| one / 2 == other / 2)).then_some("new-resource"));
    words.extend((!known(|one, other| one == other)).then_some("new-scope"));
    let mut days: Vec<u32> = recent.iter().map(|(at, _)| at / 24).collect();
    days.dedup();
    let settled = recent.len() >= 20
        && days.len() >= 3
        && recent.first().is_some_and(|(at, _)| age(*at) >= 7 * 24);
    let near = |at: u32| [23, 0, 1].contains(&((hour + 24 - at % 24) % 24));
    let usual = |at: u32| near(at) && age(at) >= 24 && age(at) < REMEMBERED;
    words.extend((settled && !recent.iter().any(|(at, _)| usual(*at))).then_some("unusual-hour"));
    let mut of: BTreeMap<u32, u32> = BTreeMap::new();
    recent.iter().for_each(|(at, _)| *of.entry(*at).or_default() += 1);
    let today = hour / 24 * 24;
    let busiest = of.range(today - 7 * 24..today).map(|(_, count)| *count).max().unwrap_or(0);
    let count = of.get(&hour).copied().unwrap_or(0) + 1;
    words.extend((settled && count > 60 && count > busiest * 10).then_some("unusual-rate"));
    let woke = silences().any(|(at, silent)| silent >= DORMANT && age(at) < 24);
    let dormant = woke || last.is_some_and(|at| age(at) >= DORMANT);
    words.extend(dormant.then_some("dormant"));
    words
}

const ASKED: [(&str, &str); 4] = [("a", "r"), ("a", "w"), ("b", "r"), ("b", "w")];

proptest! {
    #![proptest_config(Config::with_cases(64))]
    #[test]
    fn the_fold_finds_what_the_whole_history_shows(steps in proptest::collection::vec(
        (0..12_u8, 0..30_u32, 0..4_usize, 0..90_u32, any::<bool>()), 1..60,
    )) {
        let mut world = World::new();
        let mut usual: Option<Usual> = None;
        let mut history = Vec::new();
        for (kind, gap, which, times, sweep) in steps {
            let hours = match kind {
                0 => gap * 24 * 4,
                1 => gap * 24,
                2..=6 => 24,
                7..=9 => gap,
                _ => 0,
            };
            world.now = world.now + HOUR * hours;
            let hour = Hour::of(world.now);
            if let Some(known) = usual.as_ref().filter(|known| sweep && known.forgotten(hour)) {
                usual = Some(Usual::bare(known.last));
            }
            let (resource, scope) = ASKED[which];
            let asked = asked(resource, &[scope]);
            for _ in 0..if kind % 3 == 0 { times } else { 1 + times % 7 } {
                let found = findings(usual.as_ref(), &asked, world.now);
                let words: Vec<&str> = found.iter().map(|one| one.word()).collect();
                assert_eq!(words, plainly(&history, which, hour.0), "{history:?} {which} {hour:?}");
                usual = Some(Usual::after(usual.as_ref(), &asked.resource, &asked.scopes, world.now));
                history.push((hour.0, which));
            }
        }
    }
}
