//! `protem run` in a CI job: tokens that live shorter than the job, and examples that are safe to copy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use protem_clock::clock::{Clock, SystemClock};
use serde_json::json;

use crate::foreign::{AUDIENCE, Foreign, agent};
use crate::oidc::Served;
use crate::process::{Ran, ran, until};

/// GitHub's token service, as far as a job sees it.
struct GitHub {
    url: String,
    /// The heads of what was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

const SECRET: &str = "the-jobs-request-token";

impl GitHub {
    /// Gives tokens of `foreign` that live for so many seconds; the first try of every other one fails.
    fn start(foreign: Foreign, life: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token?api-version=2.0", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for line in listener.incoming() {
                let mut line = line.unwrap();
                let head = head(&mut line);
                let mut seen = seen.lock().unwrap();
                seen.push(head.clone());
                let now = SystemClock.unix().as_secs();
                let mut claims = agent(now);
                claims["exp"] = (now + life).into();
                let audience =
                    head.split("&audience=").nth(1).and_then(|rest| rest.split(' ').next());
                let right =
                    audience.is_some_and(|audience| audience.contains("protem.shop.example"));
                claims["aud"] = if right { AUDIENCE } else { "somebody-else" }.into();
                let token =
                    json!({"count": 1, "value": foreign.token("RS256", &claims)}).to_string();
                let (status, body) = if seen.len() % 3 == 1 {
                    ("503 Busy", String::new())
                } else {
                    ("200 OK", token)
                };
                let size = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = line.write_all(answer.as_bytes());
            }
        });
        Self { url, asked }
    }

    fn job(&self, broker: &Served) -> Command {
        let mut command = broker.cli();
        command.env("ACTIONS_ID_TOKEN_REQUEST_URL", &self.url);
        command.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", SECRET);
        command.env("PROTEM_AUDIENCE", AUDIENCE).env("RUNNER_NAME", "runner 7");
        for (name, value) in [
            ("ACTIONS", "true"),
            ("REPOSITORY", "shop/payments"),
            ("RUN_ID", "4711"),
            ("RUN_ATTEMPT", "2"),
            ("JOB", "deploy"),
        ] {
            command.env(format!("GITHUB_{name}"), value);
        }
        command
    }
}

fn head(line: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && line.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn trusting(foreign: &Foreign) -> Served {
    Served::with(&foreign.bundle())
}

fn run(command: &mut Command, line: &[&str]) -> Ran {
    ran(command.args(line).output().unwrap())
}

const RUN: [&str; 6] = ["run", "--on", "orders-api", "--scope", "orders:read", "--"];

#[test]
fn a_job_outlives_its_id_tokens() {
    let foreign = Foreign::new();
    let broker = trusting(&foreign);
    let github = GitHub::start(foreign, 8);
    let wait = "until test -e done; do sleep 0.1; done; test -s $PROTEM_CREDENTIAL_FILE";
    let mut job = github.job(&broker);
    let job = std::thread::spawn(move || run(&mut job, &[&RUN[..], &["sh", "-c", wait]].concat()));
    let good = |asked: usize| asked - asked.div_ceil(3);
    until("it has its third token", || good(github.asked.lock().unwrap().len()) >= 3);
    std::fs::write(broker.home().join("done"), "").unwrap();
    job.join().unwrap().expect(0);
    let asked = github.asked.lock().unwrap().clone();
    for head in &asked {
        assert!(
            head.starts_with(
                "GET /token?api-version=2.0&audience=https%3A%2F%2Fprotem.shop.example "
            ),
            "{head}"
        );
        assert!(head.contains(&format!("authorization: Bearer {SECRET}\r\n")), "{head}");
    }
    drop(asked);
    let task = "payments/agent#github:shop/payments/4711/2/deploy/runner-7";
    let line = ["grants", "--task", task, "-o", "json"];
    let list = run(&mut github.job(&broker), &line).expect(0).json();
    let grant = &list["grants"][0];
    assert_eq!(grant["endReason"], "END_REASON_COMPLETED", "{list}");
    assert_eq!(grant["task"]["kind"], "ci-job", "{list}");
    assert_eq!(
        grant["task"]["url"], "https://github.com/shop/payments/actions/runs/4711/attempts/2",
        "{list}"
    );
}

#[test]
fn attack_broker_asks_a_job_for_a_token_that_is_good_elsewhere() {
    let foreign = Foreign::new();
    let broker = trusting(&foreign);
    let github = GitHub::start(foreign, 60);
    // The bundle's audience is not this broker's address: nothing is fetched before somebody says that it is meant.
    let ran = run(github.job(&broker).env_remove("PROTEM_AUDIENCE"), &["auth", "status"]).expect(4);
    assert!(ran.err.contains("PT-0736"), "{ran:?}");
    assert!(github.asked.lock().unwrap().is_empty());
    let ran =
        run(github.job(&broker).env("PROTEM_AUDIENCE", "other"), &["auth", "status"]).expect(4);
    assert!(ran.err.contains("PT-0607"), "{ran:?}");
}

#[test]
fn a_gitlab_job_presents_the_token_it_was_started_with() {
    let foreign = Foreign::new();
    let broker = trusting(&foreign);
    let token = foreign.token("RS256", &agent(SystemClock.unix().as_secs()));
    let mut job = broker.cli();
    job.env("PROTEM_ID_TOKEN", token).env("GITLAB_CI", "true");
    job.env("CI_PROJECT_PATH", "shop/payments").env("CI_JOB_ID", "99");
    let ran = run(&mut job, &[&RUN[..], &["true"]].concat()).expect(0);
    assert!(ran.err.contains("orders-api"), "{ran:?}");
    let ran = run(broker.cli().env("PROTEM_ID_TOKEN", "two words"), &["auth", "status"]).expect(4);
    assert!(ran.err.contains("PROTEM_ID_TOKEN"), "{ran:?}");
}

/// Row 74: what we show others to copy is pinned by content, asks for little, and holds no secret.
#[test]
fn ci_actions_pinned_and_secretless() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wrong = lint(&text);
        assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
        assert!(text.contains("protem run ") && text.contains("Not run by protem's own tests"));
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn the_lint_of_ci_files_finds_what_it_looks_for() {
    for (text, part) in [
        ("      - uses: actions/checkout@v4", "not pinned"),
        ("      - uses: actions/checkout@11bd719", "not pinned"),
        ("  image: debian:13", "not pinned"),
        ("    TOKEN: ${{ secrets.DEPLOY }}", "secret"),
        ("    API_TOKEN: abc", "secret"),
        ("permissions: write-all", "permission"),
        ("      contents: write", "permission"),
    ] {
        let text = format!("id-token: write\npermissions: {{}}\n{text}\n");
        assert!(lint(&text).iter().any(|found| found.contains(part)), "{text}");
    }
    assert_eq!(lint("runs-on: x\n"), ["no `permissions: {}` and no `id_tokens`"]);
}

fn lint(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let hex =
        |of: &str, many: usize| of.len() == many && of.bytes().all(|byte| byte.is_ascii_hexdigit());
    for line in text.lines() {
        let line = line.split('#').next().unwrap().trim();
        let (key, value) = line.trim_start_matches("- ").split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        let pinned = match key {
            "uses" => value.split_once('@').is_some_and(|(_, at)| hex(at, 40)),
            "image" => value.split_once("@sha256:").is_some_and(|(_, at)| hex(at, 64)),
            _ => true,
        };
        if !pinned {
            wrong.push(format!("`{line}` is not pinned by its content"));
        }
        let shout = key.to_uppercase();
        let named = ["TOKEN", "SECRET", "PASSWORD"].iter().any(|word| shout.contains(word));
        if line.contains("secrets.") || (named && !value.is_empty() && key != "id-token") {
            wrong.push(format!("`{line}` holds a secret"));
        }
        if line.contains("write-all") || (value == "write" && key != "id-token") {
            wrong.push(format!("`{line}` is a permission that no example needs"));
        }
    }
    if !text.contains("\npermissions: {}\n") && !text.contains("  id_tokens:\n") {
        wrong.push("no `permissions: {}` and no `id_tokens`".to_owned());
    }
    wrong
}
