//! The bound, by experiment: whatever fails, no real gate lets a revoked credential through later than its `fresh` after the
//! revocation was answered.
//!
//! Nothing here is ever asserted to be fast: a slow machine only makes a gate refuse earlier than it must.

use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use protem_proto::wire::v1::selector::By;
use rustix::process::Signal;

use crate::process::{Broker, until};
use crate::proxies::bundle::{BRIEF, ORDERS};
use crate::proxies::gate::{self, Gate};
use crate::proxies::prober::{Asked, Prober};
use crate::proxies::relay::{Relay, Way};
use crate::proxies::site::{Credential, Revoker, broker, credential, fresh_gate, told};

/// The greatest age of a view that may accept a credential of [`BRIEF`], stretched by what a clock's rate may be off.
const BOUND: Duration = Duration::from_millis(2_001);
/// Questions that must have been answered after the bound: fewer would show nothing.
const AFTER: usize = 6;

/// A credential that is about to be revoked, and who asks with it all the while.
pub struct Experiment<'a> {
    what: String,
    gate: &'a Gate,
    broker: &'a Broker,
    revoker: Revoker,
    /// Lives on.
    control: Credential,
    revoked: Credential,
    prober: Prober,
}

impl<'a> Experiment<'a> {
    /// Begins it: the credential counts.
    pub fn begin(what: impl Into<String>, broker: &'a Broker, gate: &'a Gate) -> Self {
        let control = credential(broker, BRIEF, ORDERS, "orders:read");
        let revoked = credential(broker, BRIEF, ORDERS, "orders:read");
        let revoker = Revoker::of(broker);
        let (address, token) = (gate.address(), revoked.token.clone());
        let prober = Prober::start(move || ask(&address, &token));
        let this = Self { what: what.into(), gate, broker, revoker, control, revoked, prober };
        this.still_passes();
        this
    }

    /// Waits until it was let through again.
    pub fn still_passes(&self) {
        self.prober.passes(&format!("{}: let through", self.what), Instant::now(), 2);
    }

    /// The credential that is, or was, revoked.
    pub fn token(&self) -> &str {
        &self.revoked.token
    }

    /// Revokes it, and tells when that was answered.
    pub fn revoke(&self) -> Instant {
        self.revoker.grant(&self.revoked)
    }

    /// Waits for answers from after the bound.
    pub fn outlast(&self, answered: Instant) {
        self.prober.hears(&format!("{}: answers", self.what), answered + BOUND, AFTER);
    }

    /// Ends it, now that all is well again: the other credential counts, a new one too, and the revoked one never did after the
    /// bound. `paused`: when the gate's process was stopped for sure, so that it decided nothing.
    pub fn end(self, answered: Instant, paused: Option<(Instant, Instant)>) {
        let fresh = credential(self.broker, BRIEF, ORDERS, "orders:read");
        for (which, one) in [("the other", &self.control), ("a new", &fresh)] {
            until(&format!("{}: {which} credential counts again", self.what), || {
                ask(&self.gate.address(), &one.token) == Some(200)
            });
        }
        self.prober.hears(&format!("{}: answers at the end", self.what), Instant::now(), AFTER);
        let asked = self.prober.asked();
        let not_before = |one: &Asked| match paused {
            Some((from, to)) if one.sent >= from && one.sent < to => to,
            _ => one.sent,
        };
        let passed: Vec<_> = asked.iter().filter(|one| one.passed()).collect();
        let late: Vec<_> = passed.iter().filter(|one| not_before(one) > answered + BOUND).collect();
        assert!(late.is_empty(), "{}: let through {} times too late", self.what, late.len());
        let last = passed.iter().map(|one| one.sent).max().unwrap();
        println!(
            "{}: {} of {} let through, the last one {} ms after the answer",
            self.what,
            passed.len(),
            asked.len(),
            last.saturating_duration_since(answered).as_millis()
        );
    }
}

/// One question with a credential, as nginx would ask it.
fn ask(address: &str, token: &str) -> Option<u16> {
    gate::ask(address, ORDERS, "/v1/orders", token).ok().map(|answer| answer.status)
}

/// What a test does to a line.
type Change = fn(&Relay);

/// What happens to the line between broker and gate.
const CUTS: [(&str, Change, Change); 6] = [
    ("answers are held", |line| line.hold(&[Way::Back]), Relay::release),
    ("questions are held", |line| line.hold(&[Way::There]), Relay::release),
    ("both ways are held", |line| line.hold(&[Way::There, Way::Back]), Relay::release),
    (
        "proofs come five seconds late",
        |line| line.lag(Duration::from_secs(5)),
        |line| line.lag(Duration::ZERO),
    ),
    ("the line is cut", Relay::cut, Relay::mend),
    ("the line is well", |_| (), |_| ()),
];

/// F9, F10, F11.
#[test]
fn no_trouble_of_the_line_outlasts_the_bound() {
    thread::scope(|scope| {
        for (what, hurt, heal) in CUTS {
            scope.spawn(move || {
                let broker = broker(Vec::new());
                let line = Relay::to(&broker);
                let gate = Gate::start(told(&broker, line.url(), Some("nginx")));
                gate.fresh();
                let one = Experiment::begin(what, &broker, &gate);
                hurt(&line);
                let answered = one.revoke();
                one.outlast(answered);
                heal(&line);
                one.end(answered, None);
            });
        }
    });
}

/// F19: paused, or gone, right after it answered.
#[test]
fn no_pause_of_the_broker_outlasts_the_bound() {
    thread::scope(|scope| {
        // What the gate does not hear of, and what it may just have heard.
        for held in [true, false] {
            scope.spawn(move || {
                let broker = broker(Vec::new());
                let line = Relay::to(&broker);
                let gate = Gate::start(told(&broker, line.url(), Some("nginx")));
                gate.fresh();
                let one = Experiment::begin(format!("broker paused, held: {held}"), &broker, &gate);
                if held {
                    line.hold(&[Way::Back]);
                }
                let answered = one.revoke();
                broker.signal(Signal::STOP);
                one.outlast(answered);
                broker.signal(Signal::CONT);
                line.release();
                one.end(answered, None);
            });
        }
        scope.spawn(|| {
            let mut broker = broker(Vec::new());
            let gate = fresh_gate(&broker, Some("nginx"));
            let one = Experiment::begin("broker killed", &broker, &gate);
            let Experiment { what, revoker, control, revoked, prober, .. } = one;
            let answered = revoker.grant(&revoked);
            broker.kill();
            prober.hears("answers while it is gone", answered + BOUND, AFTER);
            broker.start();
            let one = Experiment {
                what,
                gate: &gate,
                broker: &broker,
                revoker,
                control,
                revoked,
                prober,
            };
            one.end(answered, None);
        });
    });
}

/// F19 on the other side: what a gate knew when it was paused is no reason to let anything through when it goes on.
#[test]
fn no_pause_of_the_gate_outlasts_the_bound() {
    thread::scope(|scope| {
        for held in [false, true] {
            scope.spawn(move || {
                let broker = broker(Vec::new());
                let line = Relay::to(&broker);
                let gate = Gate::start(told(&broker, line.url(), Some("nginx")));
                gate.fresh();
                let one = Experiment::begin(format!("gate paused, held: {held}"), &broker, &gate);
                if held {
                    line.hold(&[Way::Back]);
                }
                gate.signal(Signal::STOP);
                until("it is stopped", || gate.is_stopped());
                let from = Instant::now();
                let answered = one.revoke();
                until("the bound has passed", || Instant::now() > answered + BOUND);
                let to = Instant::now();
                gate.signal(Signal::CONT);
                one.outlast(to);
                line.release();
                one.end(answered, Some((from, to)));
            });
        }
    });
}

/// Every way to end access: each is a fence of its own at the gate.
#[test]
fn every_axis_ends_access_within_the_bound() {
    let broker = broker(Vec::new());
    let gate = fresh_gate(&broker, Some("nginx"));
    let axes: [fn(&Credential) -> By; 8] = [
        |one| By::Task(format!("{}#{}", one.identity, one.task)),
        |one| By::Token(one.token.clone()),
        |one| By::Identity(one.identity.clone()),
        |_| By::Resource(ORDERS.into()),
        |_| By::Scope(format!("{ORDERS}#orders:read")),
        |_| By::Owner("group:operators".into()),
        |_| By::Everything(true),
        |one| By::KeyId(key_of(&one.token)),
    ];
    for by in axes {
        let one = Experiment::begin("axis", &broker, &gate);
        let by = by(&one.revoked);
        let what = format!("{by:?}").chars().take(20).collect();
        let answered = one.revoker.revoke(by).unwrap();
        one.outlast(answered);
        // A key that is cut off is followed by another, which takes a moment.
        let ask = ["request", "--task", "next", "--kind", "load", "--on", ORDERS];
        let ask = [&ask[..], &["--scope", "orders:read"]].concat();
        until("it issues", || broker.run(BRIEF, &ask).code == Some(0));
        // A wide cut-off takes the other one along.
        let control = credential(&broker, BRIEF, ORDERS, "orders:read");
        Experiment { control, what, ..one }.end(answered, None);
    }
}

/// The key that signed a credential, as its header says.
fn key_of(token: &str) -> String {
    let header = BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes()).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}
