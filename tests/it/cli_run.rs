//! `protem run`: the command's access, its signals, its exit code, and its end in every way there is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cli::{AGENT, OPERATOR, READ, line};
use crate::process::{Broker, Kept, PATIENCE, Ran, call, files_under, until};

fn run(broker: &Broker, task: &str, more: &[&str], command: &[&str]) -> Ran {
    let words = line(&["run", "--task", task], &READ);
    let words = line(&line(&words, more), &["--"]);
    broker.run(AGENT, &line(&words, command))
}

/// The same, in the background.
fn spawn(broker: &Broker, task: &str, more: &[&str], script: &str) -> Kept {
    let words = line(&line(&["run", "--task", task], &READ), more);
    let words = line(&words, &["--", "sh", "-c", script]);
    let mut command = broker.cli();
    command.env("PROTEM_AS", AGENT).args(words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Kept(command.spawn().unwrap())
}

/// Why the only grant under a task ended; none while it lives.
fn end_reason(broker: &Broker, task: &str) -> Option<String> {
    let task = format!("{AGENT}#{task}");
    let list = broker.run(OPERATOR, &["grants", "--task", &task, "-o", "json"]).expect(0).json();
    let grants = list["grants"].as_array().expect("no grant").clone();
    assert_eq!(grants.len(), 1, "{grants:?}");
    grants[0]["endReason"].as_str().map(str::to_owned)
}

fn tmp(broker: &Broker) -> PathBuf {
    broker.home().join("tmp")
}

#[test]
fn the_commands_code_is_ours_and_the_task_is_complete() {
    let broker = Broker::example();
    let broken = broker.home().join("broken");
    std::fs::write(&broken, "#!/there/is/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cases: [(&str, &[&str], i32); 4] = [
        ("ok", &["true"], 0),
        ("three", &["sh", "-c", "exit 3"], 3),
        ("killed", &["sh", "-c", "kill -9 $$"], 128 + 9),
        ("broken", &["./broken"], 127),
    ];
    for (task, command, code) in cases {
        let ran = run(&broker, task, &[], command).expect(code);
        assert_eq!(end_reason(&broker, task).as_deref(), Some("END_REASON_COMPLETED"), "{ran:?}");
        assert!(files_under(&tmp(&broker)).is_empty(), "{ran:?}");
    }
    // What cannot begin asks nobody for access.
    std::fs::write(broker.home().join("text"), "no program\n").unwrap();
    for (task, command, code) in [
        ("none", "./there-is-no-such-command", 127),
        ("no-path", "there-is-no-such-command", 127),
        ("folder", "/", 126),
        ("text", "./text", 126),
    ] {
        let ran = run(&broker, task, &[], &[command]).expect(code);
        assert!(ran.err.contains("PT-0710") && ran.err.contains(command), "{ran:?}");
        let task = format!("{AGENT}#{task}");
        let asked = broker.run(OPERATOR, &["grants", "--task", &task]).expect(0);
        assert!(asked.out.is_empty(), "it asked all the same: {asked:?}");
    }
    let done = run(&broker, "receipt", &[], &["true"]).expect(0);
    assert!(
        done.err.contains("1 gateway refuses it after") && done.err.contains(" ms"),
        "{done:?}"
    );
}

#[test]
fn without_access_the_command_never_starts() {
    let broker = Broker::example();
    let touch = ["--", "touch", "started"];
    let crm = ["run", "--kind", "agent", "--on", "legacy-crm", "--scope", "crm:read"];
    let denied = broker.run(AGENT, &line(&crm, &touch)).expect(125);
    assert!(denied.err.contains("PT-03"), "{denied:?}");
    broker.run("", &line(&line(&["run"], &READ), &touch)).expect(125);
    let away = line(&["run", "--broker", "http://127.0.0.1:1"], &READ);
    broker.run(AGENT, &line(&away, &touch)).expect(125);
    assert!(!broker.home().join("started").exists());
}

#[test]
fn the_credential_is_in_a_private_file_that_goes() {
    let broker = Broker::example();
    let script = "stat -c %a $PROTEM_CREDENTIAL_FILE; cat $PROTEM_CREDENTIAL_FILE; echo; \
        test \"$(cat $PROTEM_CREDENTIAL_FILE)\" = \"$TOKEN\" && echo same; echo $PROTEM_CREDENTIAL_FILE";
    let ran = run(&broker, "file", &["--env", "TOKEN"], &["sh", "-c", script]).expect(0);
    let lines: Vec<&str> = ran.out.split_whitespace().collect();
    assert_eq!(lines[0], "600", "{ran:?}");
    assert_eq!(lines[1].split('.').count(), 3, "{ran:?}");
    assert_eq!(lines[2], "same", "{ran:?}");
    assert!(!Path::new(lines[3]).exists() && !Path::new(lines[3]).parent().unwrap().exists());
}

#[test]
fn signals_reach_the_command() {
    let broker = Broker::example();
    let script = "trap 'exit 42' TERM; touch $0-ready; while :; do sleep 0.05; done";
    let ready = broker.home().join("sh-ready");
    let mut running = spawn(&broker, "term", &[], script);
    until("the command runs", || ready.exists());
    running.signal(Signal::TERM);
    assert_eq!(running.ended(PATIENCE), Some(42));
    assert_eq!(end_reason(&broker, "term").as_deref(), Some("END_REASON_COMPLETED"));
    // One that does not listen ends by the signal.
    std::fs::remove_file(&ready).unwrap();
    let mut running = spawn(&broker, "int", &[], "touch $0-ready; exec sleep 60");
    until("the command runs", || ready.exists());
    running.signal(Signal::INT);
    assert_eq!(running.ended(PATIENCE), Some(128 + 2));
}

#[test]
fn a_waiting_request_is_withdrawn_by_a_signal() {
    let broker = Broker::example();
    let words = ["run", "--task", "waits", "--kind", "agent", "--on", "orders-api", "--scope"];
    let words = line(&words, &["orders:refund", "--", "touch", "started"]);
    let mut command = broker.cli();
    command.env("PROTEM_AS", AGENT).args(words).stderr(Stdio::null());
    let mut waiting = Kept(command.spawn().unwrap());
    until("it waits", || {
        broker.run(OPERATOR, &["grants", "--state", "pending"]).out.contains("waits")
    });
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.ended(PATIENCE), Some(128 + 15));
    assert_eq!(end_reason(&broker, "waits").as_deref(), Some("END_REASON_WITHDRAWN"));
    assert!(!broker.home().join("started").exists());
}

#[test]
fn access_that_ends_early_ends_the_command() {
    let broker = Broker::example();
    let ready = broker.home().join("sh-ready");
    let mut running = spawn(
        &broker,
        "early",
        &["--grace", "1s"],
        "trap '' TERM; touch $0-ready; while :; do sleep 0.05; done",
    );
    let mut ignoring = spawn(
        &broker,
        "late",
        &["--on-end", "ignore"],
        "while ! test -e go; do sleep 0.05; done; exit 5",
    );
    until("the command runs", || ready.exists());
    until("both are granted", || {
        let list = broker.run(OPERATOR, &["grants", "--state", "active"]).out;
        list.contains("early") && list.contains("late")
    });
    let revoke = ["revoke", "--identity", AGENT, "--note", "gone wrong"];
    let revoked = broker.run(OPERATOR, &revoke).expect(0);
    assert!(revoked.out.contains("2 grants ended"), "{revoked:?}");
    assert_eq!(running.ended(PATIENCE), Some(124));
    std::fs::write(broker.home().join("go"), "").unwrap();
    assert_eq!(ignoring.ended(PATIENCE), Some(5));
    assert_eq!(end_reason(&broker, "early").as_deref(), Some("END_REASON_REVOKED"));
}

#[test]
fn a_killed_run_loses_its_access_with_its_lease() {
    let broker = Broker::example();
    let script = "cp $PROTEM_CREDENTIAL_FILE stolen; touch $0-ready; exec sleep 30";
    let mut running = spawn(&broker, "silent", &["--lease", "5s"], script);
    until("the command runs", || broker.home().join("sh-ready").exists());
    let token = std::fs::read_to_string(broker.home().join("stolen")).unwrap();
    assert_eq!(call(&broker, &token), 200);
    running.signal(Signal::KILL);
    let began = Instant::now();
    running.ended(PATIENCE);
    until("the API refuses it", || call(&broker, &token) == 401);
    println!("refused {:?} after the kill", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(1), "the lease was not given");
    assert_eq!(end_reason(&broker, "silent").as_deref(), Some("END_REASON_ABANDONED"));
}

#[test]
fn a_run_outlives_a_restart_of_its_broker() {
    let mut broker = Broker::example();
    let script = "touch $0-ready; while ! test -e go; do sleep 0.05; done; exit 7";
    let mut running = spawn(&broker, "outlives", &["--lease", "30s"], script);
    until("the command runs", || broker.home().join("sh-ready").exists());
    broker.kill();
    broker.start();
    assert_eq!(end_reason(&broker, "outlives"), None);
    std::fs::write(broker.home().join("go"), "").unwrap();
    assert_eq!(running.ended(PATIENCE), Some(7));
}
