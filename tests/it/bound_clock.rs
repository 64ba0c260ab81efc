//! The bound when wall clocks step an hour, on either side and in either direction.

use std::path::PathBuf;
use std::thread;

use protem_proto::wire::v1::selector::By;
use tonic_types::StatusExt;

use crate::bound::Experiment;
use crate::process::until;
use crate::proxies::bundle::{BRIEF, ORDERS};
use crate::proxies::gate::Gate;
use crate::proxies::relay::{Relay, Way};
use crate::proxies::site::{Revoker, broker, credential, fresh_gate, told};
use crate::proxies::tools::{Tools, tools};

/// Seconds that a wall clock steps.
const STEPS: [i64; 2] = [3_600, -3_600];

/// The wall clock of one process; its monotonic clocks are the machine's.
struct WallClock {
    folder: tempfile::TempDir,
    preload: PathBuf,
}

impl WallClock {
    /// Right, so far.
    fn new(tools: &Tools) -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap(), preload: tools.faketime() };
        this.step(0);
        this
    }

    /// From now on it is wrong by so many seconds.
    fn step(&self, seconds: i64) {
        let (file, beside) = (self.file(), self.folder.path().join("new"));
        std::fs::write(&beside, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(beside, file).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// What makes a process see it.
    fn env(&self) -> Vec<(&'static str, String)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD", text(self.preload.clone())),
            ("FAKETIME_TIMESTAMP_FILE", text(self.file())),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}

/// F8 at the gate: what it hears goes on, or stops at the same moment.
#[test]
fn no_step_of_the_gates_wall_clock_outlasts_the_bound() {
    let Some(tools) = tools("wall clocks of gates") else { return };
    thread::scope(|scope| {
        for (step, held) in
            [(STEPS[0], true), (STEPS[1], true), (STEPS[0], false), (STEPS[1], false)]
        {
            let tools = &tools;
            scope.spawn(move || {
                let broker = broker(Vec::new());
                let (line, clock) = (Relay::to(&broker), WallClock::new(tools));
                let owned = |(name, value): (&str, String)| (name.to_owned(), value);
                let env = clock.env().into_iter().map(owned).collect();
                let gate = Gate::start(crate::proxies::gate::Told {
                    env,
                    ..told(&broker, line.url(), Some("nginx"))
                });
                gate.fresh();
                let what = format!("gate's wall clock {step:+} s, held: {held}");
                let one = Experiment::begin(what, &broker, &gate);
                if held {
                    line.hold(&[Way::Back]);
                }
                let answered = one.revoke();
                clock.step(step);
                if held {
                    // It noticed: so it did step, and for this process.
                    until("the step is noticed", || {
                        gate.ask(ORDERS, "/v1/orders", one.token())
                            .is_ok_and(|answer| answer.body.contains("PT-0420"))
                    });
                }
                one.outlast(answered);
                line.release();
                one.end(answered, None);
            });
        }
    });
}

/// F8 at the broker: it stops to decide and to prove until its clocks agree again, and so gates close.
#[test]
fn no_step_of_the_brokers_wall_clock_outlasts_the_bound() {
    let Some(tools) = tools("wall clocks of brokers") else { return };
    thread::scope(|scope| {
        for step in STEPS {
            let tools = &tools;
            scope.spawn(move || {
                let clock = WallClock::new(tools);
                let broker = broker(clock.env());
                let gate = fresh_gate(&broker, Some("nginx"));
                let other = credential(&broker, BRIEF, ORDERS, "orders:read");
                let what = format!("broker's wall clock {step:+} s");
                let one = Experiment::begin(what, &broker, &gate);
                let answered = one.revoke();
                clock.step(step);
                let revoker = Revoker::of(&broker);
                let refused = revoker.revoke(By::Grant(other.grant.clone())).unwrap_err();
                // The clock itself, or a caller's token that by this clock is over or not yet there: so it did step.
                let reason = refused.get_error_details().error_info().unwrap().reason.clone();
                let by_clock = ["PT-0508", "PT-0608", "PT-0609"];
                assert!(by_clock.contains(&reason.as_str()), "{refused:?}");
                one.outlast(answered);
                clock.step(0);
                until("it decides again", || {
                    revoker.revoke(By::Grant(other.grant.clone())).is_ok()
                });
                one.end(answered, None);
            });
        }
    });
}
