//! The command line as an operator meets it: revoke with receipts, quarantine, the stream, and proofs without a broker.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use ed25519_dalek::SigningKey;

use crate::cli::{AGENT, OPERATOR, READ, granted, line};
use crate::process::{Broker, Kept, Ran, call, ran, until};

#[test]
fn a_revocation_shows_each_gateways_receipt() {
    let broker = Broker::example();
    let axes: [(&str, &[&str]); 6] = [
        ("identity", &["--identity", AGENT]),
        ("resource", &["--resource", "orders-api"]),
        ("scope", &["--scope", "orders-api#orders:read"]),
        ("task", &["--task", "payments/agent#by-task"]),
        ("owner", &["--owner", "group:payments-leads"]),
        ("everything", &["--everything"]),
    ];
    for (axis, selector) in axes {
        let (_, token) = granted(&broker, &format!("by-{axis}"));
        assert_eq!(call(&broker, &token), 200, "{axis}");
        let words = line(&["revoke", "--note", "drill"], selector);
        let revoked = broker.run(OPERATOR, &words).expect(0);
        assert!(revoked.out.contains("1 grant ended"), "{axis}: {revoked:?}");
        let receipt = revoked.out.lines().find(|line| line.contains("refuses it after"));
        let receipt = receipt.unwrap_or_else(|| panic!("no receipt: {revoked:?}"));
        assert!(receipt.contains("edge-eu-1") && receipt.ends_with(" ms"), "{receipt}");
        assert!(revoked.out.contains("enforced everywhere"), "{revoked:?}");
        assert!(revoked.err.contains("again"), "it does not say who may ask again: {revoked:?}");
        assert_eq!(call(&broker, &token), 401, "{axis}");
    }
    let (id, token) = granted(&broker, "by-grant");
    broker.run(OPERATOR, &["revoke", "--grant", &id[id.len() - 8..], "--note", "x"]).expect(0);
    assert_eq!(call(&broker, &token), 401);
    broker.run("vera:auditors", &["revoke", "--everything", "--note", "x"]).expect(3);
    // A slip ends nothing, and is told as one to those who might have ended it alone.
    for (axis, slip, meant) in [
        ("--identity", "payments/agnt", "did you mean `payments/agent`"),
        ("--task", "payments/agnt#t", "did you mean `payments/agent`"),
        ("--owner", "payments-oncall", "did you mean `group:payments-oncall`"),
        ("--owner", "group:payments-oncal", "did you mean `group:payments-oncall`"),
    ] {
        let slip = ["revoke", axis, slip, "--note", "x"];
        let told = broker.run(OPERATOR, &slip).expect(2);
        assert!(told.err.contains("PT-0202") && told.err.contains(meant), "{told:?}");
        if axis != "--owner" {
            broker.run("vera:auditors", &slip).expect(3);
        }
    }
    broker.run(OPERATOR, &["revoke", "--everything"]).expect(2);
}

#[test]
fn a_leaked_token_is_revoked_by_whoever_finds_it() {
    let broker = Broker::example();
    let (_, token) = granted(&broker, "leak");
    let mut command = broker.cli();
    command.args(["revoke", "--token-stdin", "--note", "found in a log"]);
    command.env("PROTEM_AS", "payments/reconciler");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut found = command.spawn().unwrap();
    found.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let found = ran(found.wait_with_output().unwrap()).expect(0);
    assert_eq!(call(&broker, &token), 401, "{found:?}");
    assert!(found.out.starts_with("if the token still counted"), "it tells of a grant: {found:?}");
    assert!(!found.out.contains("gateway"), "it tells of receipts that nobody gave: {found:?}");
    assert!(!format!("{}{}{}", found.out, found.err, broker.log()).contains(&token));
}

#[test]
fn quarantine_stops_an_identity_until_it_is_lifted() {
    let broker = Broker::example();
    let (_, token) = granted(&broker, "before");
    broker.run(OPERATOR, &["quarantine", AGENT, "--note", "odd calls"]).expect(0);
    until("the API refuses it", || call(&broker, &token) == 401);
    let refused = broker.run(AGENT, &line(&["request"], &READ)).expect(3);
    assert!(refused.err.contains("PT-0111"), "{refused:?}");
    broker.run(OPERATOR, &["quarantine", AGENT, "--lift", "--note", "explained"]).expect(0);
    granted(&broker, "after");
    broker.run(AGENT, &["quarantine", "payments/reconciler", "--note", "x"]).expect(3);
    broker.run(OPERATOR, &["quarantine", "payments/agnt", "--note", "x"]).expect(2);
}

#[test]
fn the_stream_tells_and_goes_on_from_its_cursor() {
    let broker = Broker::example();
    let (first, _) = granted(&broker, "first");
    let mut watching = Watching::start(&broker, &[]);
    watching.until("following");
    broker.run(AGENT, &["complete", "first"]).expect(0);
    let told = watching.until(&first);
    assert!(told.contains("completed"), "{told}");
    let cursor = watching.until("go on with --after");
    let cursor = cursor.rsplit(' ').next().unwrap().to_owned();
    drop(watching);
    let (second, _) = granted(&broker, "second");
    broker.run(OPERATOR, &["revoke", "--grant", &second, "--note", "x"]).expect(0);
    let mut watching = Watching::start(&broker, &["--after", &cursor]);
    let told = watching.until(&second);
    assert!(told.contains("revoked"), "{told}");
    assert!(!watching.heard.contains(&first), "{}", watching.heard);
    broker.run(OPERATOR, &["watch", "--after", "rubbish"]).expect(2);
}

/// `protem watch`, with both of its streams in one pipe.
struct Watching {
    lines: BufReader<std::io::PipeReader>,
    heard: String,
    _process: Kept,
}

impl Watching {
    fn start(broker: &Broker, more: &[&str]) -> Self {
        let (read, write) = std::io::pipe().unwrap();
        let mut command = broker.cli();
        command.env("PROTEM_AS", OPERATOR).args(line(&["watch"], more));
        command.stdout(write.try_clone().unwrap()).stderr(write);
        let process = Kept(command.spawn().unwrap());
        Self { lines: BufReader::new(read), heard: String::new(), _process: process }
    }

    /// Reads up to a line that holds `part`.
    fn until(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).unwrap();
            assert!(count > 0, "it ended: {}", self.heard);
            self.heard.push_str(&line);
            if line.contains(part) {
                return line.trim().to_owned();
            }
        }
    }
}

#[test]
fn proofs_need_no_broker_and_bear_no_change() {
    let mut broker = Broker::example();
    let (id, token) = granted(&broker, "proven");
    broker.run(AGENT, &["complete", "proven"]).expect(0);
    let over = broker.run(OPERATOR, &["audit", "verify"]).expect(0);
    assert!(over.out.contains("entries"), "{over:?}");
    broker.run(OPERATOR, &["audit", "export", &id, "--to", "grant.json"]).expect(0);
    let file = broker.home().join("grant.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("grant.activated") && text.contains("grant.ended"), "{text}");
    assert!(!text.contains(&token));
    let keys = broker.run(OPERATOR, &["keys", "list", "-o", "json"]).expect(0).json();
    let mut keys = keys["keys"].as_array().unwrap().iter();
    let key = keys.find(|key| key["purpose"] == "checkpoint").unwrap();
    let key = key["keyId"].as_str().unwrap().to_owned();
    broker.run(OPERATOR, &["audit", "verify", "--key-id", &key]).expect(0);
    broker.run(OPERATOR, &["audit", "verify", "--key-id", "AAAA"]).expect(1);
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let jwks = file["checkpoint_jwks"].as_str().unwrap().to_owned();
    let stranger = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    let others = protem_verify::keys::jwks(&[stranger]);
    // The file is only read, so its broker may go on writing it meanwhile.
    broker.run("", &["audit", "verify", "data/journal.db"]).expect(0);
    broker.kill();
    let verify = |file: &str| -> Ran { broker.run("", &["audit", "verify", file]) };
    verify("grant.json").expect(0);
    verify("data/journal.db").expect(0);
    // Whose key it is nobody but its own broker says.
    let unpinned = verify("grant.json").expect(0);
    assert!(
        unpinned.out.starts_with("unpinned: ") && !unpinned.out.contains("verified"),
        "{unpinned:?}"
    );
    let pinned = |pin: &[&str], code: i32| {
        let line = [&["audit", "verify", "grant.json", "-o", "json"], pin].concat();
        broker.run("", &line).expect(code)
    };
    assert_eq!(pinned(&[], 0).json()["pinned"], false);
    assert_eq!(pinned(&["--key-id", &key], 0).json()["pinned"], true);
    std::fs::write(broker.home().join("keys.json"), jwks).unwrap();
    assert_eq!(pinned(&["--jwks", "keys.json"], 0).json()["pinned"], true);
    std::fs::write(broker.home().join("others.json"), others).unwrap();
    for wrong in [["--key-id", "AAAA"], ["--jwks", "others.json"]] {
        let refused = pinned(&wrong, 1);
        assert!(refused.err.contains("PT-0712"), "{refused:?}");
    }
    // A store is not signed.
    broker.run("", &["audit", "verify", "data/journal.db", "--key-id", &key]).expect(2);
    // One flipped bit of each kind of content.
    for part in
        ["\"body\": \"", "\"root\": \"", "\"signature\": \"", "\"inclusion\": [\n        \""]
    {
        let mut bytes = text.clone().into_bytes();
        let Some(at) = text.find(part) else { panic!("no {part} in {text}") };
        let at = at + part.len() + 12;
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        std::fs::write(broker.home().join("flipped.json"), bytes).unwrap();
        let flipped = verify("flipped.json").expect(1);
        assert!(flipped.err.contains("PT-0712"), "{part}: {flipped:?}");
    }
    flip_in_journal(&broker);
    let flipped = verify("data/journal.db").expect(1);
    assert!(flipped.err.contains("PT-07") || flipped.err.contains("PT-05"), "{flipped:?}");
}

/// Changes one letter of a recorded word in the stopped broker's store.
fn flip_in_journal(broker: &Broker) {
    let store = rusqlite::Connection::open(broker.data().join("journal.db")).unwrap();
    let mut query = store.prepare("SELECT seq, body FROM entries ORDER BY seq").unwrap();
    let rows = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let rows: Vec<(i64, Vec<u8>)> = rows.unwrap().map(Result::unwrap).collect();
    let word = b"proven";
    let at = |body: &[u8]| body.windows(word.len()).position(|part| part == word);
    let (seq, mut body, at) =
        rows.into_iter().find_map(|(seq, body)| at(&body).map(|at| (seq, body, at))).unwrap();
    body[at] = b'q';
    store
        .execute("UPDATE entries SET body = ?1 WHERE seq = ?2", rusqlite::params![body, seq])
        .unwrap();
}
