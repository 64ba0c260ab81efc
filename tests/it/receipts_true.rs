//! Receipts never lie: what one says of a real gate is held against what that gate still lets through.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use protem_proto::wire::v1;
use protem_proto::wire::v1::enforcement::How;

use crate::process::{Broker, until};
use crate::proxies::bundle::{BRIEF, FILES, OPERATOR, ORDERS};
use crate::proxies::gate::{Gate, ask};
use crate::proxies::prober::Prober;
use crate::proxies::relay::{Relay, Way};
use crate::proxies::site::{Credential, Revoker, credential, told};

/// The greatest `fresh` of all credentials where a gate is to be given up soon: the least there is.
const SOON: u64 = 2;
/// The same where a gate that is well must have acknowledged before: far beyond what a loaded machine needs for that.
const LATE: u64 = 10;

/// What a revoker was told, and when.
#[derive(Clone, Debug)]
struct Told {
    at: Instant,
    answer: v1::RevokeResponse,
}

/// A broker whose credentials' greatest `fresh` is so many seconds.
fn brief_broker(fresh: u64) -> Broker {
    let fresh = format!("max_staleness    = \"{fresh}s\"");
    let files: Vec<(&str, String)> = FILES
        .iter()
        .map(|(name, text)| (*name, text.replace("max_staleness    = \"10s\"", &fresh)))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    Broker::with_env(&files, vec![("PROTEM_DEV_JWKS_WAIT", "0s".to_owned())])
}

/// Two gates: one that nothing happens to, and one that trouble finds behind a line of its own.
struct Pair {
    /// When a silent gate's receipt says that the bound has passed.
    bound: Duration,
    broker: Broker,
    line: Relay,
    well: Gate,
    hurt: Gate,
    revoked: Credential,
    probers: [Prober; 2],
}

impl Pair {
    /// With this greatest `fresh`.
    fn start(fresh: u64) -> Self {
        let bound = Duration::from_millis(fresh * 1_010);
        let broker = brief_broker(fresh);
        let line = Relay::to(&broker);
        let well = Gate::start(told(&broker, broker.url(), Some("nginx")));
        let hurt = Gate::start(told(&broker, line.url(), Some("nginx")));
        well.fresh();
        hurt.fresh();
        let revoked = credential(&broker, BRIEF, ORDERS, "orders:read");
        let probers = [&well, &hurt].map(|gate| {
            let (address, token) = (gate.address(), revoked.token.clone());
            Prober::start(move || {
                ask(&address, ORDERS, "/v1/orders", &token).ok().map(|answer| answer.status)
            })
        });
        for prober in &probers {
            prober.passes("let through", Instant::now(), 2);
        }
        Self { bound, broker, line, well, hurt, revoked, probers }
    }

    /// Revokes, and follows the receipts until nothing is left to wait for; `meanwhile` happens when the first answer is here.
    fn revoke(&mut self, meanwhile: impl FnOnce(&mut Self)) -> Vec<Told> {
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let (kept, revoker, grant) =
            (Arc::clone(&told), Revoker::of(&self.broker), self.revoked.grant.clone());
        let follows = thread::spawn(move || {
            revoker.follow(grant, |answer| {
                kept.lock().unwrap().push(Told { at: Instant::now(), answer })
            });
        });
        until("it is revoked", || !told.lock().unwrap().is_empty());
        meanwhile(self);
        follows.join().unwrap();
        let told = told.lock().unwrap();
        told.clone()
    }

    /// Holds every receipt against what its gate let through after it, and tells how each gate's last one knows.
    fn check(&self, told: &[Told]) -> [Option<How>; 2] {
        let gates = [&self.well, &self.hurt];
        let said = told.last().expect("an answer").at;
        for prober in &self.probers {
            prober.hears("answers after the last receipt", said.max(Instant::now()), 4);
        }
        let mut last = [None, None];
        let first = told[0].at;
        for Told { at, answer } in told {
            for (number, gate) in gates.iter().enumerate() {
                let (instance, prober) = (gate.instance(), &self.probers[number]);
                let mine = answer.enforcement.iter().filter(|one| one.instance == instance);
                let hows: Vec<How> = mine.map(v1::Enforcement::how).collect();
                let over = answer.enforced_everywhere
                    || (!hows.is_empty() && !hows.contains(&How::Waiting));
                last[number] = hows.first().copied().or(last[number]);
                if hows.contains(&How::BoundPassed) {
                    let after =
                        answer.enforcement.iter().filter(|one| one.how() == How::BoundPassed);
                    for one in after {
                        let after = Duration::try_from(one.after.unwrap()).unwrap();
                        assert!(after >= self.bound, "it speaks of a bound of {after:?}");
                    }
                }
                let asked = prober.asked();
                let late =
                    asked.iter().filter(|one| over && one.sent > *at && one.passed()).count();
                let since = at.duration_since(first);
                assert_eq!(
                    late, 0,
                    "gate {number} let through {late} after its receipt, {since:?}: {answer:?}"
                );
            }
        }
        last
    }
}

#[test]
fn receipts_of_gates_that_are_well_are_acknowledgements() {
    let mut pair = Pair::start(LATE);
    let told = pair.revoke(|_| ());
    assert_eq!(pair.check(&told), [Some(How::Acknowledged); 2], "{told:?}");
    assert!(told.last().unwrap().answer.enforced_everywhere, "{told:?}");
}

/// A replica that vanished says nothing, so nothing is said in its name.
#[test]
fn a_gate_that_vanished_is_only_ever_bound_passed() {
    let mut pair = Pair::start(SOON);
    pair.hurt.kill();
    let told = pair.revoke(|_| ());
    let hurt = pair.hurt.instance();
    let spoke = told.iter().flat_map(|told| &told.answer.enforcement);
    let spoke = spoke.filter(|one| one.instance == hurt && one.how() == How::Acknowledged).count();
    assert_eq!(spoke, 0, "{told:?}");
    assert!(told.last().unwrap().answer.enforced_everywhere, "{told:?}");
    // It comes back, and knows.
    pair.hurt.restart();
    pair.hurt.fresh();
    pair.check(&told);
}

/// One whose line is dead goes on letting through for a while, and nobody says otherwise.
#[test]
fn a_gate_that_hears_nothing_is_bound_passed_when_it_must_have_closed() {
    let mut pair = Pair::start(LATE);
    pair.line.hold(&[Way::Back, Way::There]);
    let told = pair.revoke(|_| ());
    assert_eq!(pair.check(&told), [Some(How::Acknowledged), Some(How::BoundPassed)], "{told:?}");
    pair.line.release();
}

/// One that comes again on another connection: what it says there is as good, and what was not said before is not made up.
#[test]
fn a_gate_that_moves_to_another_connection_speaks_for_itself() {
    let mut pair = Pair::start(LATE);
    pair.line.hold(&[Way::Back]);
    let told = pair.revoke(|pair| {
        pair.line.cut();
        pair.line.release();
        pair.line.mend();
    });
    let [well, hurt] = pair.check(&told);
    assert_eq!(well, Some(How::Acknowledged), "{told:?}");
    assert!(matches!(hurt, Some(How::Acknowledged | How::BoundPassed)), "{told:?}");
    assert!(told.last().unwrap().answer.enforced_everywhere, "{told:?}");
}

/// A broker that was restarted knows nobody: it claims nothing before a bound has passed since its start, whoever is there.
#[test]
fn a_broker_that_began_anew_claims_nothing_of_gates_it_never_met() {
    let mut pair = Pair::start(SOON);
    // It lives on what it was proven a moment ago, and cannot come back.
    pair.line.hold(&[Way::Back]);
    pair.broker.kill();
    pair.line.cut();
    pair.broker.start();
    let told = pair.revoke(|_| ());
    pair.check(&told);
    let everywhere = told.iter().find(|told| told.answer.enforced_everywhere).expect("in the end");
    let since = everywhere.at.duration_since(told[0].at);
    println!("enforced everywhere is said {since:?} after the answer: {:?}", told.last());
    pair.line.mend();
}

/// What the command line prints when its broker goes in the middle: what is durable, and no word about what was not seen.
#[test]
fn a_revocation_whose_broker_goes_prints_only_what_was_seen() {
    let mut pair = Pair::start(LATE);
    pair.line.hold(&[Way::Back]);
    let grant = pair.revoked.grant.clone();
    let mut command = pair.broker.cli();
    command.env("PROTEM_AS", OPERATOR);
    command.args(["revoke", "--grant", &grant, "--note", "a test", "--wait", "1m"]);
    let log = pair.broker.home().join("revoke.log");
    let out = std::fs::File::create(&log).unwrap();
    command.stdout(out.try_clone().unwrap()).stderr(out);
    let mut child = crate::process::Kept(command.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    until("it is durable", || said().contains("revoked; durable as entry"));
    until("the well one has said so", || said().contains("refuses it after"));
    pair.broker.kill();
    let code = child.ended(crate::process::PATIENCE);
    let printed = said();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("receipts can no longer be followed"), "{printed}");
    assert!(
        !printed.contains("enforced everywhere") && !printed.contains("bound passed"),
        "{printed}"
    );
    assert_eq!(printed.matches("refuses it after").count(), 1, "{printed}");
    pair.broker.start();
    pair.line.release();
    until("both refuse", || {
        [&pair.well, &pair.hurt].iter().all(|gate| {
            let answer = gate.ask(ORDERS, "/v1/orders", &pair.revoked.token);
            answer.is_ok_and(|answer| answer.body.contains("PT-0410"))
        })
    });
}
