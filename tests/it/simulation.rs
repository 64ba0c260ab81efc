//! The main test: whole worlds from a seed, in virtual time, held against the invariants after each step.
//!
//! `PROTEM_SIM_SEED=17 cargo test --test it simulation -- --nocapture` replays one seed and prints its history.

mod ask;
mod broker;
mod chance;
mod checks;
mod counts;
mod feed;
mod gateway;
mod history;
mod people;
mod post;
mod quorum;
mod rules;
mod store;
mod weak;
mod work;
mod world;

use std::sync::Arc;

use protem::journal::memory::MemoryJournal;

use self::checks::violation;
use self::counts::Counts;
use self::history::{digest, print};
use self::store::Store;
use self::weak::Weak;
use self::world::{CROWDED_EVERY, START, World};

/// Seeds of one run.
const SEEDS: u64 = 200;
/// Seeds of the worlds with two brokers.
const SEEDS_BESIDE: u64 = 50;
/// Seeds at most until a guard that is missing has been missed; mostly the first ones are enough.
const SEEDS_WEAK: u64 = 200;
/// Seeds that once failed, and what was wrong.
const REGRESSIONS: [u64; 0] = [];

/// What 200 seeds must have reached, or they prove nothing.
const SOMETIMES: &[&str] = &[
    // faults
    "store failed before the commit",
    "commit unknown, done",
    "commit unknown, lost",
    "store deaf",
    "broker crashed",
    "clock stepped",
    "network clogged",
    "network silent",
    "network cut",
    "gateway paused",
    "gateway restarted",
    "batch lost",
    // ways through
    "accepted",
    "credential",
    "retry",
    "resumed",
    "snapshot",
    "hold lost",
    "outlived",
    "outlived its end",
    // people
    "decision stuck",
    "decision repeated",
    "review refused",
    "message failed",
    "sender died",
    "told: pending",
    "told: emergency",
    "told: decided",
    "told: ended",
    "told: quarantined",
    // the journal's kinds
    "grant.activated",
    "grant.requested",
    "grant.ended",
    "credential.issued",
    "task.held",
    "task.ended",
    "bundle.activated",
    "request.repeated",
    "request.reevaluated",
    "grants.confirmed",
    "bundle.settled",
    "cut_off.made",
    "identity.quarantined",
    "quarantine.lifted",
    "key.retired",
    "key.forgotten",
    "access.refused",
    "approval.given",
    "approval.taken_back",
    "request.narrowed",
    "request.reminded",
    "review.closed",
    // why gateways refuse: unknown key, expired, revoked, key cut off, nothing proven, too old
    "PT-0403",
    "PT-0407",
    "PT-0410",
    "PT-0411",
    "PT-0416",
    "PT-0417",
    // why brokers refuse: ended, too many, quarantined, rules changed, store failed, unknown, clock
    "PT-0102",
    "PT-0103",
    "PT-0109",
    "PT-0111",
    "PT-0112",
    "PT-0501",
    "PT-0502",
    "PT-0508",
];

fn memory() -> Store {
    let (journal, reader) = MemoryJournal::new();
    Store::new(Box::new(journal), reader)
}

/// Runs a seed; a failure says how to see it again.
fn run(seed: u64, weak: Weak) -> (World, Result<(), String>) {
    let mut world = World::new(seed, weak, 1);
    let result = world.run();
    (world, result)
}

#[test]
fn two_hundred_worlds_keep_every_promise() {
    if let Some(seed) = std::env::var("PROTEM_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (world, result) = run(seed, Weak::Nothing);
        println!("{}\n{result:?}, history {}", print(&world.history), digest(&world.history));
        return result.unwrap();
    }
    let seeds: Vec<u64> = REGRESSIONS.into_iter().chain(1..=SEEDS).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = Arc::new(seeds);
    let workers = (0..threads).map(|worker| {
        let seeds = Arc::clone(&seeds);
        std::thread::spawn(move || {
            let (mut counts, mut failures) = (Counts::default(), Vec::new());
            for seed in seeds.iter().skip(worker).step_by(threads) {
                let (world, result) = run(*seed, Weak::Nothing);
                counts.all(&world.counts);
                failures.extend(result.err().map(|violation| (*seed, violation)));
            }
            (counts, failures)
        })
    });
    let workers: Vec<_> = workers.collect();
    let (mut counts, mut failures) = (Counts::default(), Vec::new());
    for worker in workers {
        let (counted, failed) = worker.join().unwrap();
        counts.all(&counted);
        failures.extend(failed);
    }
    for (seed, violation) in &failures {
        eprintln!("seed {seed}: {violation}");
        eprintln!("  PROTEM_SIM_SEED={seed} cargo test --test it simulation -- --nocapture");
    }
    assert!(failures.is_empty(), "{} of {} seeds failed", failures.len(), seeds.len());
    let missing = counts.missing(SOMETIMES);
    assert!(missing.is_empty(), "never reached: {missing:?} in {counts:#?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 1..=5 {
        let (world, result) = run(seed, Weak::Nothing);
        // The checkers are pure: the recorded history alone says the same.
        assert_eq!(violation(&world.history, START), result.err());
        let (one, two) = (run(seed, Weak::Nothing).0, run(seed, Weak::Nothing).0);
        assert_eq!(digest(&one.history), digest(&two.history), "seed {seed}");
        assert!(one.history.len() > 100);
    }
    let (one, two) = (run(1, Weak::Nothing).0, run(2, Weak::Nothing).0);
    assert_ne!(digest(&one.history), digest(&two.history));
}

/// As brokers on one PostgreSQL will be. It fails when the sequencer passes over what another broker appended after a turn
/// that was found later.
#[test]
fn two_brokers_on_one_store_keep_every_promise() {
    let failed = |seed: u64| Some((seed, World::new(seed, Weak::Nothing, 2).run().err()?));
    let failures: Vec<(u64, String)> = (1..=SEEDS_BESIDE).filter_map(failed).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// With a guard taken out, some seed breaks one of the promises.
#[track_caller]
fn weakened(weak: Weak, expect: &[&str]) {
    let broken = (1..=SEEDS_WEAK).filter_map(|seed| run(seed, weak).1.err());
    let mut seen = Vec::new();
    for violation in broken {
        if expect.iter().any(|which| violation.starts_with(which)) {
            return;
        }
        seen.push(violation);
    }
    panic!("{SEEDS_WEAK} seeds without a violation of {expect:?}; saw {seen:?}");
}

#[test]
fn weakened_gateway_without_a_gap_check_is_found() {
    weakened(Weak::SkipsPrev, &["I9", "I10", "I11"]);
}

#[test]
fn weakened_verifier_without_cut_offs_is_found() {
    weakened(Weak::IgnoresCutOffs, &["I10", "I11"]);
}

#[test]
fn weakened_gateway_that_trusts_any_checkpoint_is_found() {
    weakened(Weak::TrustsAnyCheckpoint, &["I11"]);
}

#[test]
fn weakened_broker_that_answers_before_the_commit_is_found() {
    weakened(Weak::AnswersEarly, &["I5"]);
}

#[test]
fn weakened_broker_that_mints_anew_is_found() {
    weakened(Weak::MintsAnew, &["I2"]);
}

#[test]
fn weakened_broker_that_counts_accounts_is_found() {
    weakened(Weak::CountsAccounts, &["I17"]);
}

#[test]
fn weakened_broker_that_asks_only_the_account_in_use_what_it_owns_is_found() {
    weakened(Weak::AsksOneAccount, &["I18", "I20"]);
}

#[test]
fn weakened_broker_that_asks_nobody_whose_people_decide_is_found() {
    weakened(Weak::AsksNobody, &["I18"]);
}

#[test]
fn weakened_broker_that_takes_any_digest_is_found() {
    weakened(Weak::TakesAnyDigest, &["I19"]);
}

#[test]
fn weakened_broker_that_keeps_approvals_of_other_rules_is_found() {
    weakened(Weak::KeepsApprovals, &["I19"]);
}

#[test]
fn weakened_broker_that_takes_one_approval_for_enough_is_found() {
    weakened(Weak::OneIsEnough, &["I4"]);
}

/// Not by luck: in at least every third crowded world, be it that nobody decides or that people approve.
#[test]
fn weakened_broker_that_grants_beyond_the_cap_is_found_everywhere() {
    for weak in [Weak::GrantsBeyondTheCap, Weak::ApprovesBeyondTheCap] {
        let ends = (1..=12).map(|seed| run(seed * CROWDED_EVERY, weak).1.err());
        let ends: Vec<Option<String>> = ends.collect();
        let found = ends.iter().flatten().filter(|why| why.starts_with("I4: too many")).count();
        assert!(found >= 4, "{weak:?}: in {found} of 12 crowded worlds: {ends:#?}");
    }
}

#[test]
fn weakened_broker_that_takes_any_past_is_found() {
    weakened(Weak::TakesAnyPast, &["I4"]);
}

#[test]
fn weakened_sender_that_forgets_to_tell_is_found() {
    weakened(Weak::ForgetsToTell, &["I20"]);
}

#[test]
fn weakened_broker_whose_requesters_review_themselves_is_found() {
    weakened(Weak::ReviewsItself, &["I20"]);
}
