//! The command line as a stranger meets it: asking, exit codes, errors that help, and what machines read.

use std::path::Path;

use serde_json::Value;

use crate::ports::free_port;
use crate::process::{Broker, Ran, mode, program, ran};

/// Who asks; orders:read at once for agents, orders:refund after an approval.
pub const AGENT: &str = "payments/agent";
/// Who operates.
pub const OPERATOR: &str = "olga:operators,auditors";
/// What AGENT gets at once.
pub const READ: [&str; 6] = ["--kind", "agent", "--on", "orders-api", "--scope", "orders:read"];
/// What waits for an approver.
const REFUND: [&str; 6] = ["--kind", "agent", "--on", "orders-api", "--scope", "orders:refund"];

/// A command line with more words at its end.
pub fn line<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    words.iter().chain(more).copied().collect()
}

/// A grant of AGENT under `task`: its id and its token.
pub fn granted(broker: &Broker, task: &str) -> (String, String) {
    let ask = line(&["request", "-o", "json", "--task", task], &READ);
    let answer = broker.run(AGENT, &ask).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&answer["grant"]["id"]), text(&answer["credential"]["token"]))
}

/// Fails unless an error is three lines: what happened, why with a code, and what helps.
#[track_caller]
fn three_lines(ran: &Ran, code: &str) {
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines[0].starts_with("error: "), "{ran:?}");
    assert!(lines[1].starts_with("  why:  ") && lines[1].contains(code), "{ran:?}");
    assert!(lines[2].starts_with("  help: "), "{ran:?}");
    assert!(ran.out.is_empty(), "{ran:?}");
}

#[test]
fn exit_codes_say_what_came_of_it() {
    let broker = Broker::example();
    let check = |name: &str, words: &[&str], exit: i32, code: &str| {
        let ran = broker.run(name, words).expect(exit);
        if exit != 0 && !code.is_empty() {
            three_lines(&ran, code);
        }
        ran
    };
    let request = |more: &[&'static str]| line(&["request", "--task", "codes"], more);
    // 0 done: the token alone on stdout.
    let got = check(AGENT, &request(&READ), 0, "");
    assert_eq!(got.out.trim().split('.').count(), 3, "{got:?}");
    // 1 failed: an ended task takes no further requests.
    check(AGENT, &["complete", "codes"], 0, "");
    check(AGENT, &request(&READ), 1, "PT-0102");
    // 2 usage: by the parser, and by the broker with a suggestion.
    check(AGENT, &["request", "--nonsense"], 2, "");
    let raed = ["--on", "orders-api", "--scope", "orders:raed"];
    let typo = check(AGENT, &line(&["request"], &raed), 2, "PT-0202");
    assert!(typo.err.contains("did you mean `orders:read`"), "{typo:?}");
    let typo =
        check(AGENT, &["request", "--on", "order-api", "--scope", "orders:read"], 2, "PT-0202");
    assert!(typo.err.contains("did you mean `orders-api`"), "{typo:?}");
    // 3 denied: the verdict's remedy is the help.
    let crm = ["request", "--kind", "agent", "--on", "legacy-crm", "--scope", "crm:read"];
    check(AGENT, &crm, 3, "PT-03");
    // 4 not authenticated: nobody, somebody with rubbish, and a name without a key.
    check("", &["grants"], 4, "PT-0713");
    let rubbish = broker.home().join("rubbish");
    std::fs::write(&rubbish, "not.a.token").unwrap();
    check("", &["grants", "--token-file", rubbish.to_str().unwrap()], 4, "PT-06");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("http://{}", other.local_addr().unwrap());
    check(AGENT, &["grants", "--broker", &other], 4, "PT-0703");
    // 5 not found: a task and grants that are not there, or not one's own.
    check(AGENT, &["complete", "nothing"], 5, "PT-0104");
    check(OPERATOR, &["grant", "zzzzzz"], 5, "PT-0707");
    check(OPERATOR, &["grant", "gr_01jd8kqxyz0123456789abcdef"], 5, "PT-0105");
    // 6 still pending, with the id to go on with.
    let waits =
        check(AGENT, &line(&["request", "--wait", "1s", "--task", "waits"], &REFUND), 6, "");
    assert!(waits.err.contains("protem wait gr_") && waits.err.contains("PT-0717"), "{waits:?}");
    let waits = check(AGENT, &line(&["request", "--task", "waits"], &REFUND), 6, "");
    assert!(waits.out.starts_with("gr_"), "{waits:?}");
    // Nobody waits longer than they said.
    let waited = broker.run(AGENT, &["wait", waits.out.trim(), "--wait", "1s"]).expect(6);
    assert!(waited.err.contains("still waits after 1 s"), "{waited:?}");
    // 3 again: withdrawn is not granted.
    check(AGENT, &["return", waits.out.trim()], 0, "");
    check(AGENT, &["wait", waits.out.trim()], 3, "PT-0716");
    // 7 unreachable: nobody is there, whether it is asked with a token or a key were looked for.
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    check(AGENT, &["grants", "--broker", &nowhere], 7, "PT-0701");
    let token = broker.token_file(AGENT);
    let away = ["grants", "--broker", &nowhere, "--token-file", token.to_str().unwrap()];
    check("", &away, 7, "PT-0701");
}

#[test]
fn machines_read_the_protos_json() {
    let broker = Broker::example();
    let ask = line(&["request", "-o", "json", "--task", "json", "--purpose", "to see"], &READ);
    let answer = broker.run(AGENT, &ask).expect(0).json();
    let grant = &answer["grant"];
    assert_eq!(grant["state"], "GRANT_STATE_ACTIVE");
    assert_eq!(grant["scopes"], serde_json::json!(["orders:read"]));
    assert!(grant["activeUntil"].as_str().unwrap().ends_with('Z'), "{grant}");
    assert!(grant["seq"].as_str().unwrap().parse::<u64>().is_ok(), "{grant}");
    assert_eq!(answer["credential"]["scheme"], "Bearer");
    let id = grant["id"].as_str().unwrap();
    let json = |name: &str, words: &[&str]| {
        broker.run(name, &line(words, &["-o", "json"])).expect(0).json()
    };
    assert_eq!(json(OPERATOR, &["grant", id])["grant"]["id"], id);
    assert_eq!(json(OPERATOR, &["grants"])["grants"][0]["id"], id);
    let gateways = json(OPERATOR, &["gateways"]);
    assert_eq!(gateways["gateways"][0]["name"], "edge-eu-1", "{gateways}");
    assert_eq!(gateways["gateways"][0]["connected"], true, "{gateways}");
    assert_eq!(json(AGENT, &["auth", "status"])["identity"], AGENT);
    assert_eq!(json(OPERATOR, &["auth", "status"])["person"], "olga");
    let dry = line(&["request", "--dry-run"], &REFUND);
    let dry = json(AGENT, &dry);
    assert_eq!(dry["verdict"]["effect"], "EFFECT_NEEDS_APPROVAL", "{dry}");
    assert_eq!(dry["approvalsRequired"], 1, "{dry}");
    let done = json(AGENT, &["complete", "json"]);
    assert_eq!(done["ended"][0]["endReason"], "END_REASON_COMPLETED", "{done}");
    assert_eq!(done["enforcedEverywhere"], true, "{done}");
}

#[test]
fn asking_says_what_it_got_and_parts_of_ids_do() {
    let broker = Broker::example();
    let (id, token) = granted(&broker, "parts");
    let end = &id[id.len() - 8..];
    for part in [&id, &format!("…{end}"), end, &id[..24]] {
        let shown = broker.run(OPERATOR, &["grant", part]).expect(0);
        assert!(shown.out.contains(&id) && shown.out.contains("active"), "{shown:?}");
    }
    let list = broker.run(OPERATOR, &["grants", "--state", "active"]).expect(0);
    assert!(list.out.contains("parts") && list.out.contains("orders:read"), "{list:?}");
    assert!(!list.out.contains(&token) && !broker.log().contains(&token), "a token was shown");
    let given = broker.run(AGENT, &["return", end]).expect(0);
    assert!(given.out.contains("completed"), "{given:?}");
    let list = broker.run(OPERATOR, &["grants", "--state", "active"]).expect(0);
    assert!(!list.out.contains("parts"), "{list:?}");
    // Somebody else's grant is not there.
    let (id, _) = granted(&broker, "mine");
    broker.run("payments/reconciler", &["return", &id]).expect(5);
    // Nothing of the dry run is recorded.
    let dry = broker.run(AGENT, &line(&["request", "--dry-run", "--task", "dry"], &READ)).expect(0);
    assert!(dry.out.contains("payments-reads-orders"), "{dry:?}");
    let list = broker.run(OPERATOR, &["grants"]).expect(0);
    assert!(!list.out.contains("dry"), "{list:?}");
}

#[test]
fn colour_is_for_terminals() {
    let broker = Broker::example();
    granted(&broker, "plain");
    let revoke = ["revoke", "--identity", AGENT, "--note", "drill"];
    let off = [broker.run(OPERATOR, &["grants"]), broker.run(OPERATOR, &revoke)];
    for ran in off {
        assert!(!format!("{}{}", ran.out, ran.err).contains('\u{1b}'), "{ran:?}");
    }
    // `script` gives the command a terminal.
    let on = |plain: &str| {
        let mut command = broker.cli();
        command.env("PROTEM_AS", OPERATOR).env("NO_COLOR", plain).env("TERM", "xterm");
        let own = std::mem::replace(&mut command, std::process::Command::new("script"));
        command.args([
            "-qec",
            &format!(
                "{} {}",
                crate::process::PROTEM,
                "revoke --identity payments/agent --note drill"
            ),
            "/dev/null",
        ]);
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(broker.home());
        command.output().map(ran)
    };
    match (on(""), on("1")) {
        (Ok(coloured), Ok(plain)) => {
            assert!(coloured.out.contains("\u{1b}[32m"), "{coloured:?}");
            assert!(!plain.out.contains("\u{1b}[32m"), "{plain:?}");
        }
        (Err(why), _) | (_, Err(why)) => println!("no terminal to try on: {why}"),
    }
}

#[test]
fn what_needs_no_broker() {
    let home = tempfile::tempdir().unwrap();
    let check = |words: &[&str], exit: i32| {
        ran(program(home.path()).args(words).output().unwrap()).expect(exit)
    };
    let page = check(&["explain-error", "PT-0101"], 0);
    assert!(page.out.contains("PT-0101") && page.out.contains("help:"), "{page:?}");
    assert!(check(&["explain-error"], 0).out.lines().count() > 50);
    check(&["explain-error", "PT-9999"], 5);
    for shell in ["bash", "zsh", "fish"] {
        assert!(check(&["completions", shell], 0).out.contains("protem"), "{shell}");
    }
    let manual = check(&["man"], 0);
    assert!(manual.out.contains(".TH protem") && manual.out.contains("protem run"), "no manual");
    let version = check(&["--version"], 0);
    assert!(version.out.starts_with("protem "), "{version:?}");
    assert!(check(&["--help"], 0).out.contains("Exit codes"));
    check(&[], 2);
    check(&["nonsense"], 2);
    sample_and_init(home.path(), &check);
}

/// The sample is a settings file, and what `init` writes serves at once.
fn sample_and_init(home: &Path, check: &dyn Fn(&[&str], i32) -> Ran) {
    let sample = check(&["config", "sample"], 0);
    std::fs::write(home.join("sample.toml"), &sample.out).unwrap();
    check(&["init"], 0);
    assert!(home.join("protem.toml").is_file() && home.join("policies/catalog.toml").is_file());
    check(&["serve", "--check-config"], 0);
    check(&["serve", "--config", "sample.toml", "--check-config"], 0);
    check(&["policy", "check"], 0);
    assert!(check(&["init"], 1).err.contains("nothing of yours is overwritten"));
    std::fs::write(home.join("bad.toml"), "[store]\npth = \"x\"\n").unwrap();
    let bad = check(&["serve", "--config", "bad.toml", "--check-config"], 2);
    assert!(bad.err.contains("line 2, column 1") && bad.err.contains("PT-0704"), "{bad:?}");
    let open = "[broker]\nlisten = \"0.0.0.0:7420\"\n";
    std::fs::write(home.join("open.toml"), open).unwrap();
    let open = check(&["serve", "--config", "open.toml", "--check-config"], 2);
    assert!(open.err.contains("PT-0709"), "{open:?}");
    check(&["dev", "--listen", "0.0.0.0:0"], 2);
    assert!(!home.join(".protem-dev").exists());
}

#[test]
fn keys_and_journal_are_their_owners_alone() {
    let broker = Broker::example();
    let private = |path: &Path| assert_eq!(mode(path) & 0o077, 0, "{}", path.display());
    private(&broker.data());
    private(&broker.data().join("keys"));
    private(
        &broker
            .home()
            .join("state/protem/dev")
            .join(broker.address().split(':').nth(1).unwrap())
            .join("key"),
    );
    for key in crate::process::files_under(&broker.data().join("keys")) {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
}

#[test]
fn the_demo_goes_as_told_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let told = ran(program(home.path()).arg("demo").output().unwrap()).expect(0);
    let story = format!("{}{}", told.out, told.err);
    for part in ["200", "403", "401", "SIGKILL", "refuses it after", "verif"] {
        assert!(story.contains(part), "no {part}: {story}");
    }
    let left = crate::process::files_under(&home.path().join("tmp"));
    assert!(
        left.is_empty() && home.path().join("tmp").read_dir().unwrap().next().is_none(),
        "{left:?}"
    );
}

/// A checkout's settings name a broker, and a file to send it.
#[test]
fn attack_a_checkout_names_where_the_login_goes() {
    let broker = Broker::example();
    let evil = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    evil.set_nonblocking(true).unwrap();
    std::fs::write(broker.home().join("secret"), "a.b.c").unwrap();
    let to = evil.local_addr().unwrap();
    let settings = format!("[client]\nbroker = \"http://{to}\"\ntoken_file = \"secret\"\n");
    std::fs::write(broker.home().join("protem.toml"), settings).unwrap();
    let said = ran(program(broker.home()).args(["grants"]).output().unwrap());
    assert!(said.err.contains("`client.broker`, `client.token_file`"), "{said:?}");
    assert!(evil.accept().is_err(), "it was called");
    // What a flag or variable says is nobody's secret wish.
    let said = broker.run(OPERATOR, &["grants"]).expect(0);
    assert!(
        said.err.contains("`client.token_file`") && !said.err.contains("client.broker"),
        "{said:?}"
    );
}
