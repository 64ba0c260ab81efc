//! People decide on the command line: real jobs that wait, real people who approve, deny, narrow and think again.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::bundle::FILES;
use crate::cli::line;
use crate::process::{Broker, Kept, PATIENCE, PROTEM, Ran, ran, until};

const WORKER: &str = "load/w0";
const ALICE: &str = "alice:desk";
const BOB: &str = "bob:desk";
const CAROL: &str = "carol:desk";
const OPERATOR: &str = "olga:operators";

const PEOPLE: &str = r#"
[group.leads]
claims = { groups = "leads" }
[group.oncall]
claims = { groups = "oncall" }
[group.desk]
claims = { groups = "desk" }
[group.operators]
claims = { groups = "operators" }
"#;

const RULES: &str = r#"
@id("reads")
permit (principal in Team::"load", action == Action::"issue", resource == Scope::"orders-api#orders:read");

@id("refunds-need-two")
@approvals("2")
@decide_within("30m")
permit (principal in Team::"load", action == Action::"request", resource == Scope::"orders-api#orders:refund");

@id("writes-need-one-soon")
@approvals("1")
@decide_within("2s")
permit (principal in Team::"load", action == Action::"request", resource == Scope::"orders-api#orders:write");

@id("breaks-glass")
@max_lifetime("10m")
permit (principal in Team::"load", action == Action::"emergency", resource == Scope::"orders-api#orders:refund");

@id("desk-approves-orders")
permit (principal in Group::"desk", action == Action::"approve", resource in Resource::"orders-api");

@id("operators-rule")
permit (
  principal in Group::"operators",
  action in [Action::"revoke", Action::"view", Action::"review", Action::"administer"],
  resource in Broker::"protem"
);
"#;

/// Two people for refunds, one soon for writes, emergencies; ALICE, BOB and CAROL decide.
pub fn broker() -> Broker {
    let files: Vec<(&str, &str)> = FILES
        .iter()
        .map(|(name, text)| match *name {
            "people.toml" => (*name, PEOPLE),
            "rules.cedar" => (*name, RULES),
            _ => (*name, *text),
        })
        .collect();
    Broker::with_bundle(&files)
}

/// A command line of WORKER in the background; what it says goes to files.
pub struct Job {
    process: Kept,
    out: PathBuf,
    err: PathBuf,
}

impl Job {
    fn start(broker: &Broker, task: &str, words: &[&str]) -> Self {
        let (out, err) =
            (broker.home().join(format!("{task}.out")), broker.home().join(format!("{task}.err")));
        let file = |path: &PathBuf| std::fs::File::create(path).unwrap();
        let mut command = broker.cli();
        command.env("PROTEM_AS", WORKER).args(words).stdout(file(&out)).stderr(file(&err));
        Self { process: Kept(command.spawn().unwrap()), out, err }
    }

    /// `protem run` for a refund.
    pub fn refund(broker: &Broker, task: &str, script: &str) -> Self {
        Self::run(broker, task, &["--scope", "orders:refund", "--purpose", "INC-42"], script)
    }

    /// `protem run` for anything.
    pub fn run(broker: &Broker, task: &str, more: &[&str], script: &str) -> Self {
        let ask = ["run", "--task", task, "--on", "orders-api"];
        Self::start(broker, task, &line(&line(&ask, more), &["--", "sh", "-c", script]))
    }

    /// `protem request --wait` for a refund.
    pub fn request(broker: &Broker, task: &str, more: &[&str]) -> Self {
        let ask = ["request", "--wait", "--task", task, "--on", "orders-api"];
        Self::start(broker, task, &line(&ask, more))
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }

    /// Its exit code and what it said.
    #[track_caller]
    pub fn ends(mut self, code: i32) -> (String, String) {
        let ended = self.process.ended(PATIENCE);
        let (out, said) = (std::fs::read_to_string(&self.out).unwrap(), self.said());
        assert_eq!(ended, Some(code), "{out}\n{said}");
        (out, said)
    }
}

/// What ALICE sees of the request under a task, once it waits.
fn waiting(broker: &Broker, task: &str) -> Value {
    let mut found = None;
    until("it waits", || {
        let seen = broker.run(ALICE, &["pending", "-o", "json"]).expect(0).json();
        let all = seen["pending"].as_array().cloned().unwrap_or_default();
        found = all.into_iter().find(|one| one["grant"]["task"]["id"] == task);
        found.is_some()
    });
    found.unwrap()
}

pub fn id(broker: &Broker, task: &str) -> String {
    waiting(broker, task)["grant"]["id"].as_str().unwrap().to_owned()
}

/// The only grant under a task, as an operator sees it.
pub fn grant(broker: &Broker, task: &str) -> Value {
    let task = format!("{WORKER}#{task}");
    let list = broker.run(OPERATOR, &["grants", "--task", &task, "-o", "json"]).expect(0).json();
    assert_eq!(list["grants"].as_array().map(Vec::len), Some(1), "{list}");
    list["grants"][0].clone()
}

#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_job_waits_for_two_different_people_and_then_runs() {
    let broker = broker();
    let job = Job::refund(&broker, "two", "touch started; exit 9");
    let id = id(&broker, "two");
    let approve = |who: &str, more: &[&str]| broker.run(who, &line(&["approve", &id], more));
    let first = approve(ALICE, &["--note", "go ahead"]).expect(0);
    says(&first.out, &["your approval counts; 1 of 2"]);
    // The same person twice is one person.
    says(&approve(ALICE, &[]).expect(0).out, &["1 of 2"]);
    until("the job hears of it", || job.said().contains("approved by alice"));
    assert!(!broker.home().join("started").exists());
    // The end of an id is enough of it.
    let end = format!("gr_…{}", &id[id.len() - 6..]);
    says(&broker.run(BOB, &["approve", &end]).expect(0).out, &["is approved: load/w0 has"]);
    let (_, said) = job.ends(9);
    assert!(broker.home().join("started").exists());
    says(
        &said,
        &[
            "orders:refund on orders-api for up to 30m needs 2 approvals  (policy refunds-need-two)",
            "approve: protem approve gr_…",
            " --as alice:desk --broker http://127.0.0.1:",
            "approved by alice: \"go ahead\", 1 of 2",
            "approved by alice: \"go ahead\" and bob; ends with this command, at ",
            "done after ",
        ],
    );
    assert_eq!(grant(&broker, "two")["endReason"], "END_REASON_COMPLETED");
    // What is decided is decided.
    let late = broker.run(CAROL, &["approve", &id]);
    assert!(matches!(late.code, Some(1 | 5)), "{late:?}");
}

#[test]
fn a_denied_or_lapsed_request_says_so_by_its_exit_code() {
    let broker = broker();
    let job = Job::refund(&broker, "denied", "touch started");
    let id_ = id(&broker, "denied");
    broker.run(ALICE, &["deny", &id_]).expect(2);
    let denied = broker.run(ALICE, &["deny", &id_, "--reason", "not today"]).expect(0);
    says(&denied.out, &["is denied"]);
    let (_, said) = job.ends(125);
    says(&said, &["was denied", "not today", "PT-0716"]);
    let asked = Job::request(&broker, "no", &["--scope", "orders:refund"]);
    let id = id(&broker, "no");
    let waits = Job::start(&broker, "no-wait", &["wait", &id]);
    until("both wait", || waits.said().contains("needs 2 approvals"));
    broker.run(BOB, &["deny", &id, "--reason", "nor now"]).expect(0);
    says(&asked.ends(3).1, &["was denied", "nor now"]);
    says(&waits.ends(3).1, &["was denied", "nor now"]);
    // Nobody decides within two seconds.
    let ask = ["run", "--task", "lapses", "--on", "orders-api", "--scope", "orders:write"];
    let job = Job::start(&broker, "lapses", &line(&ask, &["--", "touch", "started"]));
    let asked = Job::request(&broker, "lapses-too", &["--scope", "orders:write"]);
    says(&job.ends(125).1, &["lapsed"]);
    says(&asked.ends(3).1, &["lapsed"]);
    assert!(!broker.home().join("started").exists());
}

#[test]
fn who_no_longer_waits_takes_the_request_back() {
    let broker = broker();
    let asked = Job::request(&broker, "stopped", &["--scope", "orders:refund"]);
    let id_ = id(&broker, "stopped");
    until("it waits", || asked.said().contains("needs 2 approvals"));
    asked.process.signal(Signal::INT);
    says(&asked.ends(3).1, &["is withdrawn"]);
    assert_eq!(grant(&broker, "stopped")["endReason"], "END_REASON_WITHDRAWN");
    let late = broker.run(ALICE, &["approve", &id_]);
    assert_ne!(late.code, Some(0), "{late:?}");
    // Whoever waits for it elsewhere hears of it.
    let job = Job::refund(&broker, "elsewhere", "touch started");
    let id = id(&broker, "elsewhere");
    until("it waits", || job.said().contains("needs 2 approvals"));
    broker.run(WORKER, &["return", &id]).expect(0);
    says(&job.ends(125).1, &["withdrawn"]);
    assert!(!broker.home().join("started").exists());
}

#[test]
fn an_approver_narrows_and_never_widens() {
    let broker = broker();
    let scopes = ["--scope", "orders:read,orders:refund", "--for", "20m", "-o", "json"];
    let asked = Job::request(&broker, "narrow", &scopes);
    let id = id(&broker, "narrow");
    let wide = broker.run(ALICE, &["approve", &id, "--for", "25m"]);
    assert_ne!(wide.code, Some(0), "{wide:?}");
    says(&wide.err, &["PT-0119"]);
    let wide = broker.run(ALICE, &["approve", &id, "--scope", "orders:write"]);
    assert_ne!(wide.code, Some(0), "{wide:?}");
    let narrow = ["approve", &id, "--for", "60s", "--scope", "orders:refund"];
    says(&broker.run(ALICE, &narrow).expect(0).out, &["1 of 2"]);
    until("it hears of it", || asked.said().contains("narrowed to orders:refund for up to 1m"));
    broker.run(BOB, &["approve", &id, "--note", "fine"]).expect(0);
    let (out, _) = asked.ends(0);
    let got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(got["grant"]["scopes"], serde_json::json!(["orders:refund"]), "{got}");
    assert_eq!(got["grant"]["lifetime"], "60s", "{got}");
    assert_eq!(got["credential"]["scheme"], "Bearer", "{got}");
}

#[test]
fn an_approval_is_taken_back_while_it_waits() {
    let broker = broker();
    let job = Job::refund(&broker, "undone", "exit 4");
    let id = id(&broker, "undone");
    let nothing = broker.run(ALICE, &["approve", &id, "--undo"]).expect(1);
    says(&nothing.err, &["PT-0121"]);
    broker.run(ALICE, &["approve", &id]).expect(0);
    until("it hears of it", || job.said().contains("approved by alice, 1 of 2"));
    says(&broker.run(ALICE, &["approve", &id, "--undo"]).expect(0).out, &["taken back; 0 of 2"]);
    until("it hears of it", || job.said().contains("alice took the approval back, 0 of 2"));
    says(&broker.run(BOB, &["approve", &id]).expect(0).out, &["1 of 2"]);
    says(&broker.run(CAROL, &["approve", &id]).expect(0).out, &["is approved"]);
    says(&job.ends(4).1, &["approved by bob and carol; "]);
}

#[test]
fn an_emergency_is_at_once_and_blocks_the_next_until_somebody_looked() {
    let broker = broker();
    let ask = |task: &str, more: &[&str]| -> Ran {
        let words = ["run", "--emergency", "--task", task, "--on", "orders-api", "--scope"];
        let words = line(&words, &["orders:refund"]);
        broker.run(WORKER, &line(&line(&words, more), &["--", "sh", "-c", "exit 6"]))
    };
    let why = ["--purpose", "the shop is down"];
    says(&ask("no-purpose", &[]).expect(2).err, &["--purpose"]);
    says(&ask("empty-purpose", &["--purpose", ""]).expect(125).err, &["PT-0120"]);
    ask("first", &why).expect(6);
    says(&ask("second", &why).expect(125).err, &["PT-0122"]);
    let list = broker.run(OPERATOR, &["review"]).expect(0);
    says(&list.out, &["load/w0", "orders:refund on orders-api", "\"the shop is down\"", "open"]);
    let seen = broker.run(OPERATOR, &["review", "-o", "json"]).expect(0).json();
    let id = seen["reviews"][0]["grant"]["id"].as_str().unwrap().to_owned();
    assert_eq!(seen["reviews"][0]["grant"]["emergency"], true, "{seen}");
    says(&broker.run(OPERATOR, &["review", &id]).expect(0).out, &["break-glass", "--note"]);
    // Not by people who may not, nor by the requester's own.
    for who in [ALICE, "otto:operators,oncall"] {
        let refused = broker.run(who, &["review", &id, "--note", "fine"]);
        assert!(matches!(refused.code, Some(3 | 5)), "{refused:?}");
    }
    let closed = broker.run(OPERATOR, &["review", &id, "--note", "was right"]).expect(0);
    says(&closed.out, &["is reviewed"]);
    says(&broker.run(OPERATOR, &["review"]).expect(0).err, &["no emergency waits"]);
    says(
        &broker.run(OPERATOR, &["review", "--all"]).expect(0).out,
        &["closed by olga", "was right"],
    );
    ask("third", &why).expect(6);
}

#[test]
fn a_waiting_job_outlives_a_restart_of_its_broker() {
    let mut broker = broker();
    let job = Job::refund(&broker, "restart", "exit 8");
    let asked = Job::request(&broker, "restart-too", &["--scope", "orders:refund"]);
    let (one, two) = (id(&broker, "restart"), id(&broker, "restart-too"));
    broker.run(ALICE, &["approve", &one]).expect(0);
    until("it waits", || job.said().contains("1 of 2"));
    until("the other waits", || asked.said().contains("needs 2"));
    broker.kill();
    until("it is told", || job.said().contains("the broker does not answer"));
    broker.start();
    until("it is back", || job.said().contains("the broker is back"));
    // What was approved before is approved still.
    says(&broker.run(BOB, &["approve", &one]).expect(0).out, &["is approved"]);
    job.ends(8);
    broker.run(ALICE, &["approve", &two]).expect(0);
    broker.run(BOB, &["approve", &two]).expect(0);
    let (out, _) = asked.ends(0);
    assert_eq!(out.trim().split('.').count(), 3, "{out}");
}

#[test]
fn the_queue_is_a_table_json_and_a_stream() {
    let broker = broker();
    says(&broker.run(ALICE, &["pending"]).expect(0).err, &["nothing waits"]);
    let (out, err) = (broker.home().join("watch.out"), broker.home().join("watch.err"));
    let file = |path: &PathBuf| std::fs::File::create(path).unwrap();
    let mut command = broker.cli();
    command.env("PROTEM_AS", ALICE).args(["pending", "--watch"]);
    let watch = Kept(command.stdout(file(&out)).stderr(file(&err)).spawn().unwrap());
    let told = || std::fs::read_to_string(&out).unwrap();
    until("it follows", || told().contains("nothing waits yet"));
    let job = Job::refund(&broker, "queue", "true");
    let seen = waiting(&broker, "queue");
    assert_eq!(seen["mayDecide"], true, "{seen}");
    assert_eq!(seen["risk"], "high", "{seen}");
    assert_eq!(seen["operations"], serde_json::json!(["POST /v1/orders/{id}/refund"]), "{seen}");
    assert_eq!(seen["grant"]["purpose"], "INC-42", "{seen}");
    let table = broker.run(ALICE, &["pending"]).expect(0).out;
    says(&table, &["GRANT", "load/w0", "orders:refund on orders-api", "0 of 2", "may decide"]);
    says(&table, &["UNUSUAL", "new-resource, new-scope"]);
    assert_eq!(seen["findings"], seen["grant"]["verdict"]["findings"], "{seen}");
    until("it arrives", || told().contains("arrived"));
    let id = seen["grant"]["id"].as_str().unwrap();
    broker.run(ALICE, &["approve", id]).expect(0);
    until("it changes", || told().contains("changed") && told().contains("1 of 2"));
    broker.run(BOB, &["approve", id]).expect(0);
    until("it is settled", || told().contains("settled"));
    job.ends(0);
    drop(watch);
}

#[test]
fn a_decision_counts_only_from_those_who_may_and_for_what_was_shown() {
    let broker = broker();
    let job = Job::refund(&broker, "guarded", "true");
    let seen = waiting(&broker, "guarded");
    let text = |of: &Value| of.as_str().unwrap().to_owned();
    let (id, digest) = (text(&seen["grant"]["id"]), text(&seen["grant"]["digest"]));
    let other = "0".repeat(64);
    let stale = broker.run(ALICE, &["approve", &id, "--digest", &other]).expect(1);
    says(&stale.err, &["PT-0117"]);
    assert!(!stale.err.contains("approving"), "nothing is: {}", stale.err);
    let approved = broker.run(ALICE, &["approve", &id, "--digest", &digest]).expect(0);
    // What it was is said, and stdout stays the outcome alone.
    let what = [
        format!("approving {id}"),
        WORKER.to_owned(),
        "orders:refund on orders-api".to_owned(),
        "\"INC-42\"".to_owned(),
        "30m from approval".to_owned(),
        "unusual".to_owned(),
        digest.clone(),
    ];
    says(&approved.err, &what.each_ref().map(String::as_str));
    assert_eq!(approved.out.lines().count(), 1, "{}", approved.out);
    // Policy names nobody of these: not at all, an owner of the identity, a workload, the requester.
    for who in ["eve:leads", "otto:oncall,desk", "load/w1", WORKER] {
        let refused = broker.run(who, &["approve", &id]);
        assert!(matches!(refused.code, Some(3..=5)), "{who}: {refused:?}");
        let refused = broker.run(who, &["deny", &id, "--reason", "x"]);
        assert!(matches!(refused.code, Some(3..=5)), "{who}: {refused:?}");
    }
    assert_eq!(waiting(&broker, "guarded")["grant"]["approvals"].as_array().map(Vec::len), Some(1));
    let shorter = broker.run(BOB, &["approve", &id, "--for", "5m", "-o", "json"]).expect(0);
    says(&shorter.err, &["approving, narrower than it is shown here, gr_"]);
    assert_eq!(shorter.json()["grant"]["id"], id);
    job.ends(0);
    // Without a terminal nobody is asked.
    says(&broker.run(ALICE, &["approve"]).expect(2).err, &["no terminal"]);
}

/// A person at a terminal, who types this. None where there is no `script`.
pub fn terminal(broker: &Broker, who: &str, words: &str, typed: &str) -> Option<Ran> {
    let own = broker.cli();
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{PROTEM} {words}"), "/dev/null"]);
    command.env("PROTEM_AS", who).env("NO_COLOR", "1").env("TERM", "xterm");
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(broker.home()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = match command.stderr(Stdio::piped()).spawn() {
        Ok(process) => process,
        Err(why) => {
            println!("no terminal to try on: {why}");
            return None;
        }
    };
    process.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    Some(ran(process.wait_with_output().unwrap()))
}

#[test]
fn an_approver_walks_through_the_queue() {
    let broker = broker();
    let one = Job::refund(&broker, "walk-1", "exit 11");
    let first = id(&broker, "walk-1");
    let two = Job::request(&broker, "walk-2", &["--scope", "orders:refund", "--for", "20m"]);
    id(&broker, "walk-2");
    // Yes with a note; then less of it.
    let walked = terminal(&broker, ALICE, "approve", "x\na\ngo ahead\ns\n5m\n\n");
    let Some(walked) = walked else { return };
    let walked = walked.expect(0);
    says(
        &walked.out,
        &[
            "1 of 2",
            "who       load/w0",
            "wants     orders:refund on orders-api",
            "may do    orders:refund: Refund an order",
            "why       \"INC-42\"",
            "rule      refunds-need-two: 2 approvals, 0 so far",
            "2 of 2",
            "no purpose was given",
            "nothing more waits for you",
        ],
    );
    assert_eq!(waiting(&broker, "walk-2")["grant"]["lifetime"], "300s");
    // What she approved is not asked again.
    let again = terminal(&broker, ALICE, "approve", "").unwrap().expect(0);
    says(&again.out, &["nothing waits for you"]);
    // Another shows one by its id, sees what was said before, and approves; then walks on and denies.
    // What the broker does not take is no success, also where somebody was asked.
    let long = format!("a\n{}\n", "x".repeat(1_500));
    let refused = terminal(&broker, BOB, &format!("approve {first}"), &long).unwrap().expect(2);
    says(&refused.out, &["PT-0201"]);
    let shown = terminal(&broker, BOB, &format!("approve {first}"), "a\n\n").unwrap().expect(0);
    says(&shown.out, &["1 so far, from alice: \"go ahead\"", "is approved"]);
    one.ends(11);
    let denied = terminal(&broker, BOB, "approve", "d\ntoo much\n").unwrap().expect(0);
    says(&denied.out, &["is denied"]);
    says(&two.ends(3).1, &["too much"]);
}
