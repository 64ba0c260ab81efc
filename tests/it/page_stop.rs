//! Ending access in a browser: a grant, all of an identity, a quarantine; and receipts as real gateways send them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::approvals_cli;
use crate::browser::{Browser, Look, Window, installed};
use crate::gate::Gate;
use crate::page::{shot, signed_in};
use crate::process::{Broker, Kept, PATIENCE, call, until};

pub const OPERATOR: &str = "olga:operators";

/// A job that holds access to read orders until it is told to end; its token is in the file.
pub struct Running {
    process: Kept,
    file: PathBuf,
    log: PathBuf,
}

impl Running {
    pub fn start(broker: &Broker, who: &str, task: &str, purpose: &str) -> Self {
        let file = broker.home().join(format!("token-of-{task}"));
        let mut command = broker.cli();
        command.args(["run", "--as", who, "--task", task, "--kind", "batch", "--purpose", purpose]);
        command.args(["--on", "orders-api", "--scope", "orders:read", "--", "sh", "-c"]);
        // Moved into place whole, so that who waits for it reads all of it.
        command.arg(format!(
            "cp \"$PROTEM_CREDENTIAL_FILE\" '{0}.new' && mv '{0}.new' '{0}' && exec sleep 600",
            file.display()
        ));
        let log = broker.home().join(format!("log-of-{task}"));
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut job = Self { process: Kept(command.spawn().unwrap()), file, log };
        until("the job has access", || {
            assert!(job.runs(), "{}", job.said());
            job.file.exists()
        });
        job
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap().trim().to_owned()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn runs(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    #[track_caller]
    pub fn ends(mut self, code: i32) {
        let end = Instant::now() + PATIENCE;
        while self.runs() {
            assert!(Instant::now() < end, "it still runs: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.process.ended(PATIENCE), Some(code), "{}", self.said());
    }
}

/// The newest grant, as an operator sees it.
pub fn newest(broker: &Broker) -> serde_json::Value {
    let list = broker.run(OPERATOR, &["grants", "-o", "json"]).expect(0).json();
    list["grants"][0].clone()
}

pub fn newest_id(broker: &Broker) -> String {
    newest(broker)["id"].as_str().unwrap().to_owned()
}

pub fn go(window: &Window, broker: &Broker, path: &str) -> u64 {
    window.go(&format!("{}{path}", broker.url())).status
}

#[test]
fn a_grant_is_revoked_in_the_browser_and_its_gateway_says_so() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::example(), Browser::start(&folder));
    let job = Running::start(&broker, "payments/agent", "nightly-1", "INC-60: totals");
    let token = job.token();
    until("the gateway lets it through", || call(&broker, &token) == 200);
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    window.click("nav >> text=Grants");
    window.wait("#found >> text=INC-60: totals");
    shot(&window, "grants");
    window.click("#found a");
    window.wait("h1 >> text=active");
    // What gateways report of its use comes to the open page by itself.
    window.wait("#usage >> text=GET /v1/orders");
    window.wait("#usage >> text=orders:read GET /v1/orders/{id}");
    assert!(window.text("#asked").contains("1 credential so far"), "{}", window.text("#asked"));
    assert!(window.text("#rule").contains("payments-reads-orders"), "{}", window.text("#rule"));
    shot(&window, "grant");
    window.click("#revoke");
    window.wait("h1:text('Revoke this grant?')");
    shot(&window, "revoke");
    let asked = window.url();
    window.click("button:text-is('Revoke now')");
    // The browser asks for the note; without its help the broker does.
    assert_eq!(window.url(), asked);
    window.run("document.querySelector('#note').removeAttribute('required')");
    window.click("button:text-is('Revoke now')");
    window.wait(".stop >> text=note");
    assert_eq!(window.trouble().len(), 1, "the browser's word about the refusal");
    assert_eq!(newest(&broker)["state"], "GRANT_STATE_ACTIVE");
    window.click("text=Look at it as it is now");
    window.fill("#note", "the totals are wrong");
    window.click("button:text-is('Revoke now')");
    window.wait("text=Enforced everywhere, at 1 gateway.");
    let said = window.text("main");
    assert!(said.contains("edge-eu-1") && said.contains("acknowledged after"), "{said}");
    assert!(said.contains("olga") && said.contains("the totals are wrong"), "{said}");
    shot(&window, "receipts");
    assert_eq!(call(&broker, &token), 401);
    job.ends(124);
    window.click("text=Look at it as it is now");
    window.wait("h1 >> text=revoked");
    assert!(window.text("#asked").contains("the totals are wrong"));
    assert_eq!(window.count("#revoke"), 0);
    window.click("text=When each gateway heard of it");
    window.wait("text=Enforced everywhere, at 1 gateway.");
    assert_eq!(window.trouble(), Vec::<String>::new());
}

/// A gate that is stopped says nothing: its receipt waits, and comes when it goes on.
#[test]
fn receipts_are_drawn_as_they_arrive() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let gate = Gate::start(&broker, &[]);
    let job = Running::start(&broker, "load/w0", "t-1", "INC-61");
    let id = newest_id(&broker);
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    assert_eq!(go(&window, &broker, &format!("/ui/revoke?grant={id}")), 200);
    gate.process.signal(Signal::STOP);
    window.fill("#note", "leaked");
    window.click("button:text-is('Revoke now')");
    window.wait("#receipts >> text=has not said so yet");
    assert!(window.text("#said-so").contains("Within 10.10 s"), "{}", window.text("#said-so"));
    window.run("window.kept = true");
    gate.process.signal(Signal::CONT);
    window.wait("text=Enforced everywhere, at 1 gateway.");
    assert_eq!(window.run("window.kept"), true, "it was drawn, not loaded again");
    job.ends(124);
    assert_eq!(window.trouble(), Vec::<String>::new());
}

/// The same without a script, of a gate that stays silent: the page loads itself again until the bound has passed.
#[test]
fn receipts_come_without_javascript_also_of_a_silent_gateway() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let gate = Gate::start(&broker, &[]);
    let job = Running::start(&broker, "load/w0", "t-2", "INC-62");
    let plain = Look { script: false, ..Look::default() };
    let window = signed_in(&browser, &broker, OPERATOR, plain);
    window.click("nav >> text=Grants");
    window.fill("#identity", "load/w0");
    window.choose("#state", "active");
    window.click("button:text-is('Search')");
    window.click("#found a");
    window.click("#revoke");
    gate.process.signal(Signal::STOP);
    window.fill("#note", "leaked");
    window.click("button:text-is('Revoke now')");
    window.wait("#receipts >> text=has not said so yet");
    window.wait("text=Enforced everywhere, at 1 gateway.");
    assert!(window.text("#receipts").contains("bound passed"), "{}", window.text("#receipts"));
    job.ends(124);
    gate.process.signal(Signal::CONT);
}

#[test]
fn all_of_an_identity_is_revoked_and_it_may_ask_again() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let gate = Gate::start(&broker, &[]);
    let jobs = ["a", "b"].map(|task| Running::start(&broker, "load/w0", task, "INC-63"));
    let mut other = Running::start(&broker, "load/w1", "c", "INC-63");
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    assert_eq!(go(&window, &broker, "/ui/inventory/identities/load/w0"), 200);
    window.click("text=Revoke all it holds");
    window.wait("text=It has 2 active grants.");
    window.fill("#note", "a bad build");
    window.click("button:text-is('Revoke now')");
    window.wait("text=Enforced everywhere, at 1 gateway.");
    assert!(window.text("h1").contains("all access of load/w0"), "{}", window.text("h1"));
    for job in jobs {
        job.ends(124);
    }
    assert!(other.runs());
    assert!(gate.log().len() < 100_000);
    Running::start(&broker, "load/w0", "d", "INC-63");
}

#[test]
fn a_quarantined_identity_gets_nothing_until_it_is_lifted() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let _gate = Gate::start(&broker, &[]);
    let job = Running::start(&broker, "load/w0", "t-3", "INC-64");
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    window.click("nav >> text=Inventory");
    window.fill("#name", "w0");
    window.click("button:text-is('Search')");
    window.wait("#found");
    assert_eq!(window.count("#found > li"), 1);
    window.click("#found a");
    window.click("text=Quarantine…");
    window.wait("text=It has 1 active grant.");
    window.fill("#note", "found its key in a paste");
    window.click("button:text-is('Quarantine now')");
    window.wait("text=Enforced everywhere, at 1 gateway.");
    assert!(window.text("h1").contains("quarantined"), "{}", window.text("h1"));
    job.ends(124);
    let ask = ["request", "--task", "t-4", "--on", "orders-api", "--scope", "orders:read"];
    let refused = broker.run("load/w0", &ask);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    window.click("text=Look at it as it is now");
    window.wait("h1 >> text=quarantined");
    shot(&window, "identity");
    window.click("text=Lift the quarantine…");
    window.fill("#note", "rotated");
    window.click("button:text-is('Lift it')");
    window.wait("text=It may ask for access again.");
    assert_eq!(window.count("h1 .state"), 0);
    broker.run("load/w0", &ask).expect(0);
    assert_eq!(window.trouble(), Vec::<String>::new());
}
