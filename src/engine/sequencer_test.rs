//! The sequencer on a journal that fails on command.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protem_clock::clock::{Clock, ManualClock};
use protem_core::command::Command;
use protem_core::dice::Dice;
use protem_core::event::{Actor, Event};
use protem_core::request::Workload;
use protem_core::state::State;
use protem_verify::ids::{Epoch, HoldId, JournalId, Seq};
use protem_verify::names::{IdentityName, Subject, TaskId, Words};

use crate::engine::sequencer::{Job, Sequencer, Tail, Work};
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::memory::{Call, Faults, MemoryJournal, MemoryStore, Mishap};
use crate::journal::port::Head;
use crate::journal::reader::Reader;

const START: Duration = Duration::from_secs(1_700_000_000);

struct Counting(u8);

impl Dice for Counting {
    fn bytes(&mut self) -> [u8; 16] {
        self.0 = self.0.wrapping_add(1);
        [self.0; 16]
    }
}

#[derive(Default)]
struct Told(Vec<Seq>);

impl Tail for Told {
    fn committed(&mut self, rows: &Arc<[Committed<Event>]>, _: &State, _: &Head, _: Duration) {
        self.0.extend(rows.iter().map(Committed::seq));
    }
}

struct Bench {
    sequencer: Sequencer<MemoryJournal>,
    reader: Arc<dyn Reader>,
    clock: Arc<ManualClock>,
    told: Told,
    mishaps: Arc<Mutex<Vec<(Call, Mishap)>>>,
}

/// What became of a job: how many entries it made, or why it made none.
type Outcome = Result<usize, Stop>;

impl Bench {
    fn new(store: &MemoryStore, seed: u8) -> Self {
        let mishaps: Arc<Mutex<Vec<(Call, Mishap)>>> = Arc::default();
        let coming = Arc::clone(&mishaps);
        let faults: Faults = Box::new(move |call| {
            let mut coming = coming.lock().unwrap();
            let next = coming.first().is_some_and(|(of, _)| *of == call);
            if next { coming.remove(0).1 } else { Mishap::None }
        });
        let (journal, reader) = MemoryJournal::on(store, Some(faults));
        let clock = Arc::new(ManualClock::new(START));
        let head = reader.head().unwrap();
        let mut state = State::new();
        for row in reader.read(Seq(0), 1_000).unwrap() {
            state.apply(row.at(), row.what());
        }
        let dice = Box::new(Counting(seed));
        let shared: Arc<dyn Clock> = clock.clone();
        let sequencer = Sequencer::new(journal, state, head, shared, dice);
        Self { sequencer, reader, clock, told: Told::default(), mishaps }
    }

    fn opened() -> Self {
        let mut bench = Self::new(&MemoryStore::default(), 0);
        assert_eq!(bench.run(vec![open()]), [Ok(1)]);
        bench
    }

    fn will(&self, mishaps: &[(Call, Mishap)]) {
        self.mishaps.lock().unwrap().extend_from_slice(mishaps);
    }

    fn run(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let count = commands.len();
        let answers: Arc<Mutex<Vec<Option<Outcome>>>> = Arc::new(Mutex::new(vec![None; count]));
        let job = |(at, command): (usize, Command)| {
            let answers: Arc<Mutex<Vec<Option<Outcome>>>> = Arc::clone(&answers);
            Job {
                actor: Actor("system".into()),
                work: Work::Command(Box::new(command)),
                answer: Box::new(move |answered| {
                    let outcome = answered.map(|answered| answered.rows.len());
                    let before = answers.lock().unwrap()[at].replace(outcome);
                    assert!(before.is_none(), "each job is answered once");
                }),
            }
        };
        let batch = commands.into_iter().enumerate().map(job).collect();
        self.sequencer.turn(batch, &mut self.told);
        let answers = answers.lock().unwrap();
        answers.iter().map(|answer| answer.clone().expect("each job is answered")).collect()
    }

    /// The state is the fold of the journal, and the tail heard all of it once and in order.
    #[track_caller]
    fn sound(&self) {
        let mut fold = State::new();
        let rows = self.reader.read(Seq(0), 1_000).unwrap();
        for row in &rows {
            fold.apply(row.at(), row.what());
        }
        assert_eq!(fold.parts(), self.sequencer.state().parts());
        assert_eq!(self.sequencer.head(), &self.reader.head().unwrap());
        let told: Vec<u64> = self.told.0.iter().map(|seq| seq.0).collect();
        assert_eq!(told, (1..=u64::try_from(rows.len()).unwrap()).collect::<Vec<_>>());
    }
}

fn open() -> Command {
    let (journal, epoch) = (JournalId([9; 16]), Epoch(1));
    Command::OpenJournal { journal, epoch, issuer: "https://broker.example".into(), dev: false }
}

fn hold(task: &str) -> Command {
    let identity = IdentityName::try_from("payments/job").unwrap();
    let by = Workload { identity, subject: Subject::try_from("ci|job").unwrap() };
    let (task, hold) = (TaskId::try_from(task).unwrap(), HoldId([7; 16]));
    Command::HoldTask { by, task, hold, lease: Duration::from_secs(15) }
}

fn complete(task: &str) -> Command {
    let identity = IdentityName::try_from("payments/job").unwrap();
    let by = Workload { identity, subject: Subject::try_from("ci|job").unwrap() };
    let task = TaskId::try_from(task).unwrap();
    Command::CompleteTask { by, task, hold: None, outcome: Words::default() }
}

fn faulted(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Stop::Faulted(_)))
}

#[test]
fn a_refused_command_spoils_no_other() {
    let mut bench = Bench::opened();
    let outcomes = bench.run(vec![hold("a"), open(), complete("none"), hold("b")]);
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
    bench.sound();
}

#[test]
fn a_turn_that_failed_leaves_no_trace() {
    let mut bench = Bench::opened();
    bench.will(&[(Call::Turn, Mishap::Before)]);
    assert!(bench.run(vec![hold("a"), hold("b")]).iter().all(faulted));
    assert!(bench.sequencer.failed());
    bench.sound();
    assert_eq!(bench.run(vec![hold("a")]), [Ok(1)]);
    assert!(!bench.sequencer.failed());
    bench.sound();
}

#[test]
fn only_a_commit_shows_that_the_store_can() {
    let mut bench = Bench::opened();
    assert_eq!(bench.run(vec![hold("a"), complete("a")]), [Ok(1), Ok(1)]);
    bench.will(&[(Call::Turn, Mishap::Before)]);
    assert!(bench.run(vec![hold("b")]).iter().all(faulted));
    assert_eq!(bench.run(vec![complete("a")]), [Ok(0)], "a repeated call makes no entry");
    assert!(bench.sequencer.failed(), "and so no commit");
}

#[test]
fn an_unknown_commit_that_happened_is_answered() {
    let mut bench = Bench::opened();
    bench.will(&[(Call::Turn, Mishap::UnknownDone)]);
    assert_eq!(bench.run(vec![hold("a"), complete("a")]), [Ok(1), Ok(1)]);
    bench.sound();
}

#[test]
fn an_unknown_commit_that_was_lost_is_tried_again() {
    let mut bench = Bench::opened();
    bench.will(&[(Call::Turn, Mishap::UnknownLost), (Call::Turn, Mishap::UnknownLost)]);
    assert_eq!(bench.run(vec![hold("a")]), [Ok(1)]);
    bench.sound();
}

#[test]
fn nothing_is_decided_while_a_turn_is_in_doubt() {
    for (mishap, entries) in [(Mishap::UnknownDone, 3), (Mishap::UnknownLost, 2)] {
        let mut bench = Bench::opened();
        bench.will(&[
            (Call::Turn, mishap),
            (Call::Find, Mishap::Before),
            (Call::Find, Mishap::Before),
        ]);
        let unknown = bench.run(vec![hold("a")]);
        assert!(matches!(unknown[..], [Err(Stop::Faulted(Fault::Unknown(_)))]), "{unknown:?}");
        assert!(bench.run(vec![hold("b")]).iter().all(faulted), "the doubt is not settled");
        assert!(bench.sequencer.is_in_doubt());
        assert_eq!(bench.run(vec![hold("b")]), [Ok(1)]);
        assert_eq!(bench.sequencer.head().seq, Seq(entries));
        bench.sound();
    }
}

#[test]
fn entries_of_another_broker_come_first() {
    let store = MemoryStore::default();
    let mut one = Bench::new(&store, 0);
    assert_eq!(one.run(vec![open()]), [Ok(1)]);
    let mut two = Bench::new(&store, 100);
    two.told.0.push(Seq(1));
    assert_eq!(one.run(vec![hold("a"), complete("a")]), [Ok(1), Ok(1)]);
    let late = two.run(vec![hold("a"), hold("b")]);
    assert!(matches!(late[0], Err(Stop::Refused(_))), "the task ended at the other broker");
    assert_eq!(late[1], Ok(1));
    two.sound();
}

#[test]
fn one_who_is_far_behind_catches_up_first() {
    let store = MemoryStore::default();
    let mut one = Bench::new(&store, 0);
    assert_eq!(one.run(vec![open()]), [Ok(1)]);
    let mut two = Bench::new(&store, 100);
    two.told.0.push(Seq(1));
    for part in 0..5 {
        let holds = (0..300).map(|at| hold(&format!("t-{}", (part * 300 + at) % 40))).collect();
        assert!(one.run(holds).iter().all(Result::is_ok));
    }
    assert_eq!(two.run(vec![hold("mine")]), [Ok(1)]);
    assert_eq!(two.sequencer.head(), &two.reader.head().unwrap());
    assert_eq!(two.told.0.len(), 1_502);
}

#[test]
fn a_store_that_went_back_stops_everything() {
    let store = MemoryStore::default();
    let mut bench = Bench::new(&store, 0);
    assert_eq!(bench.run(vec![open()]), [Ok(1)]);
    assert_eq!(bench.run(vec![hold("a")]), [Ok(1)]);
    store.roll_back(Seq(1));
    for _ in 0..2 {
        let outcomes = bench.run(vec![hold("b")]);
        assert!(matches!(outcomes[..], [Err(Stop::Faulted(Fault::RolledBack { .. }))]));
    }
}

#[test]
fn a_clock_that_cannot_be_trusted_decides_nothing() {
    let mut bench = Bench::opened();
    bench.clock.set_unix(START + Duration::from_secs(10));
    let outcomes = bench.run(vec![hold("a")]);
    assert!(matches!(outcomes[..], [Err(Stop::Faulted(Fault::Clock { .. }))]), "{outcomes:?}");
    bench.sound();
    bench.clock.set_unix(START);
    assert_eq!(bench.run(vec![hold("a")]), [Ok(1)]);
    bench.sound();
}

#[test]
fn a_look_sees_what_is_committed_on_any_clock() {
    let mut bench = Bench::opened();
    bench.clock.set_unix(START + Duration::from_secs(10));
    let seen: Arc<Mutex<Option<Seq>>> = Arc::default();
    let told = Arc::clone(&seen);
    let job = Job {
        actor: Actor("system".into()),
        work: Work::Look,
        answer: Box::new(move |answered| *told.lock().unwrap() = answered.ok().map(|a| a.head.seq)),
    };
    bench.sequencer.turn(vec![job], &mut bench.told);
    assert_eq!(*seen.lock().unwrap(), Some(Seq(1)));
}
