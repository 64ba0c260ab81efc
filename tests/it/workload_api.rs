//! Callers that get their SVIDs from a SPIFFE agent's socket, against a real `protem serve` with a trust domain.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::spiffe::X509svid;
use rcgen::SanType;
use serde_json::json;
use tonic::Code;

use crate::agent::{Agent, Says, jwt, nobody, x509};
use crate::cli::{READ, line};
use crate::foreign::Foreign;
use crate::pki::{AGENT, Authority, DOMAIN, Issued, Pki, server, svid, svid_until, write};
use crate::process::{Kept, Ran, program, ran, until};
use crate::serve_tls::Machine;
use crate::svid_tokens;

/// A broker behind TLS that trusts a domain, and what an agent of the domain signs with.
struct Site {
    machine: Machine,
    pki: Pki,
    _broker: Kept,
}

impl Site {
    fn start() -> Self {
        let pki = Pki::new();
        let own = pki.ca.issue(&server());
        Self::with(pki, &own)
    }

    /// With this certificate of the broker's.
    fn with(pki: Pki, own: &Issued) -> Self {
        let machine = Machine::new();
        write(&machine.path("etc/protem/tls/cert.pem"), &own.chain);
        write(&machine.path("etc/protem/tls/key.pem"), &own.key);
        write(&machine.path("etc/protem/tls/ca.pem"), &pki.ca.pem());
        write(&machine.path("run/spire/bundle.json"), &pki.domain.bundle());
        let broker = machine.start();
        Self { machine, pki, _broker: broker }
    }

    /// What an agent gives `payments/agent`.
    fn svid(&self) -> X509svid {
        x509(AGENT, &self.pki.domain.issue(&svid(AGENT)), &self.pki.domain, "")
    }

    /// A command line beside this agent.
    fn command(&self, agent: &str) -> Command {
        let mut command = program(self.machine.home());
        command.env("PROTEM_BROKER", self.machine.url()).env("PROTEM_CA", self.machine.ca());
        command.env("SPIFFE_ENDPOINT_SOCKET", agent);
        command
    }

    fn run(&self, agent: &str, line: &[&str]) -> Ran {
        out(self.command(agent).args(line))
    }
}

fn out(command: &mut Command) -> Ran {
    tokio::task::block_in_place(|| ran(command.output().unwrap()))
}

const STATUS: [&str; 2] = ["auth", "status"];

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_x509_svid_says_who_calls() {
    let site = Site::start();
    for agent in [
        Agent::start(Says::Svids(vec![site.svid()])),
        Agent::on_tcp(Says::Svids(vec![site.svid()])),
    ] {
        let status = site.run(&agent.address, &STATUS).expect(0);
        assert!(status.out.contains("payments/agent") && status.out.contains(AGENT), "{status:?}");
        let by = format!("by the X.509-SVID `{AGENT}` of the agent at {}", agent.address);
        assert!(status.err.contains(&by), "{status:?}");
    }
    let agent = Agent::start(Says::Svids(vec![site.svid()]));
    let asked = site.run(&agent.address, &line(&["request", "--task", "t-1"], &READ)).expect(0);
    assert_eq!(asked.out.trim().split('.').count(), 3, "{asked:?}");
    // The flag names another agent than the standard's variable, and nearer ways than an agent go first.
    let flag = ["auth", "status", "--spiffe-socket", &agent.address];
    site.run(&nobody(site.machine.home()), &flag).expect(0);
    let mut nearer = site.command(&agent.address);
    let file = nearer.env("PROTEM_TOKEN_FILE", "/none").args(STATUS);
    assert!(out(file).expect(4).err.contains("PT-0705"));
    // One that the agent knows late is waited for.
    let late = Agent::start(Says::No(Code::PermissionDenied, "not yet"));
    let mut asking = Kept(site.command(&late.address).args(STATUS).spawn().unwrap());
    tokio::task::block_in_place(|| {
        until("it asks again", || late.seen().streams.load(Ordering::SeqCst) >= 2);
        late.say(Says::Svids(vec![site.svid()]));
        assert_eq!(asking.ended(Duration::from_secs(30)), Some(0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_its_x509_svids() {
    let site = Site::start();
    let until_then = |secs| {
        let end = SystemClock.unix() + Duration::from_secs(secs);
        x509(AGENT, &site.pki.domain.issue(&svid_until(AGENT, end)), &site.pki.domain, "")
    };
    let agent = Agent::start(Says::Svids(vec![until_then(7)]));
    let work = "touch begun; sleep 11; test -s \"$PROTEM_CREDENTIAL_FILE\"";
    let words = line(&["run", "--task", "long"], &READ);
    let mut command = site.command(&agent.address);
    command.args(words).args(["--", "sh", "-c", work]);
    let mut running = Kept(command.spawn().unwrap());
    tokio::task::block_in_place(|| {
        until("it works", || site.machine.path("begun").exists());
        // Rotated while the task is held; the stream of the first ends with it.
        agent.say(Says::Svids(vec![until_then(3_600)]));
        assert_eq!(running.ended(Duration::from_secs(60)), Some(0), "{}", site.machine.log());
    });
    let seen = agent.seen();
    assert_eq!(
        (seen.streams.load(Ordering::SeqCst), seen.sent.load(Ordering::SeqCst)),
        (1, 2),
        "one process, one stream"
    );
    let line = ["grants", "--task", "payments/agent#long", "-o", "json"];
    let list = site.run(&agent.address, &line).expect(0).json();
    assert_eq!(list["grants"][0]["endReason"], "END_REASON_COMPLETED", "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_svids_the_first_counts_unless_another_is_asked_for() {
    let site = Site::start();
    let of = |name: &str, hint: &str| {
        let id = format!("spiffe://{DOMAIN}/{name}");
        x509(&id, &site.pki.domain.issue(&svid(&id)), &site.pki.domain, hint)
    };
    let ours = X509svid { hint: "inside".into(), ..site.svid() };
    let agent = Agent::start(Says::Svids(vec![of("first", "outside"), ours]));
    let first = site.run(&agent.address, &STATUS);
    assert!(first.out.contains(&format!("spiffe://{DOMAIN}/first")), "{first:?}");
    let hinted = site.run(&agent.address, &line(&STATUS, &["--svid-hint", "inside"])).expect(0);
    assert!(hinted.out.contains("payments/agent"), "{hinted:?}");
    let none = site.run(&agent.address, &line(&STATUS, &["--svid-hint", "other"])).expect(4);
    assert!(none.err.contains("PT-0746") && none.err.contains("`outside`, `inside`"), "{none:?}");
}

/// What is wrong with an agent or its answer, and what the caller is told of it.
fn lies(site: &Site) -> Vec<(&'static str, Says, &'static str, &'static str)> {
    let good = site.svid();
    let by = |authority: &Authority, params: &rcgen::CertificateParams| {
        x509(AGENT, &authority.issue(params), &site.pki.domain, "")
    };
    let elsewhere = "spiffe://elsewhere.example/ns/payments/sa/agent";
    let ended = svid_until(AGENT, SystemClock.unix().saturating_sub(Duration::from_secs(60)));
    let svids = |one: X509svid| Says::Svids(vec![one]);
    let huge = X509svid { bundle: vec![0x30; 2 << 20], ..good.clone() };
    let many = good.x509_svid.repeat(9);
    vec![
        (
            "no entry",
            Says::No(Code::PermissionDenied, "no identity issued"),
            "PT-0746",
            "no identity issued",
        ),
        ("no word", Says::Silent, "PT-0745", "does not answer"),
        ("its own fault", Says::No(Code::Internal, "broken"), "PT-0745", "broken"),
        ("nothing in it", Says::Svids(Vec::new()), "PT-0746", "holds no identity"),
        ("too large", svids(huge), "PT-0745", "OutOfRange"),
        (
            "a foreign key",
            svids(X509svid {
                x509_svid_key: by(&site.pki.domain, &svid(AGENT)).x509_svid_key,
                ..good.clone()
            }),
            "PT-0747",
            "does not go with",
        ),
        (
            "no key",
            svids(X509svid { x509_svid_key: b"key".to_vec(), ..good.clone() }),
            "PT-0747",
            "key is none",
        ),
        (
            "no certificate",
            svids(X509svid { x509_svid: Vec::new(), ..good.clone() }),
            "PT-0747",
            "holds no certificate",
        ),
        (
            "no DER",
            svids(X509svid { x509_svid: b"-----BEGIN".to_vec(), ..good.clone() }),
            "PT-0747",
            "no DER",
        ),
        (
            "a long chain",
            svids(X509svid { x509_svid: many, ..good.clone() }),
            "PT-0747",
            "more than 8",
        ),
        (
            "another domain",
            svids(by(&site.pki.domain, &svid(elsewhere))),
            "PT-0621",
            "elsewhere.example",
        ),
        ("another authority", svids(by(&Authority::new("x"), &svid(AGENT))), "PT-0621", ""),
        ("an end", svids(by(&site.pki.domain, &ended)), "PT-0620", "expired"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_agent_that_lies_floods_or_stalls() {
    let site = Site::start();
    for (why, says, code, part) in lies(&site) {
        let agent = Agent::start(says);
        let refused = site.run(&agent.address, &STATUS);
        assert_eq!(refused.code, Some(4), "{why}: {refused:?}");
        assert!(refused.err.contains(code) && refused.err.contains(part), "{why}: {refused:?}");
    }
    let missing = site.run(&nobody(site.machine.home()), &STATUS).expect(4);
    assert!(
        missing.err.contains("PT-0745") && missing.err.contains("cannot be reached"),
        "{missing:?}"
    );
    for (address, part) in [
        ("/run/agent.sock", "begins with"),
        ("tcp://192.0.2.1:8081", "beyond loopback"),
        ("unix://agent.sock", "names a host"),
    ] {
        let refused = site.run(address, &STATUS).expect(2);
        assert!(refused.err.contains("PT-0719") && refused.err.contains(part), "{refused:?}");
    }
    // One that never stops talking is heard now and then, and no answer waits for its end.
    let agent = Agent::start(Says::Endless(vec![site.svid()]));
    let mut command = site.command(&agent.address);
    command.args(line(&["run", "--task", "flood"], &READ)).args(["--", "sleep", "2"]);
    assert_eq!(out(&mut command).code, Some(0));
    let sent = agent.seen().sent.load(Ordering::SeqCst);
    assert!((2..2_000).contains(&sent), "{sent} messages: what is not read must wait on its side");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_goes_takes_nothing_with_it_but_new_connections() {
    let site = Site::start();
    let agent = Agent::start(Says::Svids(vec![site.svid()]));
    let address = agent.address.clone();
    let mut command = site.command(&address);
    let work = "touch begun; while ! test -e end; do sleep 0.1; done";
    command.args(line(&["run", "--task", "alone"], &READ)).args(["--", "sh", "-c", work]);
    let mut running = Kept(command.spawn().unwrap());
    tokio::task::block_in_place(|| until("it works", || site.machine.path("begun").exists()));
    agent.stop().await;
    let refused = site.run(&address, &STATUS).expect(4);
    assert!(refused.err.contains("PT-0745"), "{refused:?}");
    write(&site.machine.path("end"), "");
    let code = tokio::task::block_in_place(|| running.ended(Duration::from_secs(30)));
    assert_eq!(code, Some(0), "{}", site.machine.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_known_by_its_spiffe_id_where_one_says_so() {
    let pki = Pki::new();
    let id = format!("spiffe://{DOMAIN}/protem");
    let mut own = svid(&id);
    own.subject_alt_names.push(SanType::DnsName("localhost".try_into().unwrap()));
    let own = pki.domain.issue(&own);
    let site = Site::with(pki, &own);
    let agent = Agent::start(Says::Svids(vec![site.svid()]));
    let known = site.run(&agent.address, &["auth", "status", "--broker-id", &id]).expect(0);
    assert!(known.out.contains("payments/agent"), "{known:?}");
    // Nobody else of the domain, however it is called in DNS, and nobody by the domain's roots without being asked for.
    for (more, part) in [
        (
            vec!["--broker-id", "spiffe://shop.example/other"],
            "and not `spiffe://shop.example/other`",
        ),
        (vec!["--broker-id", "spiffe://elsewhere.example/protem"], "and not"),
        (vec![], "no CA that is trusted here"),
    ] {
        let refused = site.run(&agent.address, &line(&STATUS, &more)).expect(7);
        assert!(refused.err.contains(part), "{more:?} {refused:?}");
    }
    let roots = X509svid { bundle: Authority::new(DOMAIN).der().to_vec(), ..site.svid() };
    let agent = Agent::start(Says::Svids(vec![roots]));
    let refused = site.run(&agent.address, &["auth", "status", "--broker-id", &id]).expect(7);
    assert!(refused.err.contains("invalid peer certificate"), "{refused:?}");
    let bad = site.run(&agent.address, &["auth", "status", "--broker-id", "protem"]).expect(2);
    assert!(bad.err.contains("--broker-id"), "{bad:?}");
}

/// A broker on plain loopback that trusts `keys` for JWT-SVIDs of the domain.
fn plain(keys: &Foreign) -> (Machine, Kept) {
    let machine = Machine::new();
    svid_tokens::write(&machine.path("run/spire/bundle.json"), keys, &["ES256", "RS256"]);
    machine.settings(
        "[broker]\nlisten = \"0.0.0.0:7420\"\npolicies = \"/etc/protem/policies\"\n\
         keys = \"/var/lib/protem/keys\"\n[spiffe.\"shop.example\"]\n\
         bundle = \"/run/spire/bundle.json\"\n[store]\npath = \"/var/lib/protem/journal.db\"\n",
    );
    let broker = machine.start();
    (machine, broker)
}

fn beside(machine: &Machine, agent: &Agent) -> Command {
    let mut command = program(machine.home());
    command.env("PROTEM_BROKER", machine.url().replace("https://localhost", "http://127.0.0.1"));
    command.env("SPIFFE_ENDPOINT_SOCKET", &agent.address);
    command
}

/// A JWT-SVID's claims that live for so many seconds.
fn claims(audience: &str, life: u64) -> serde_json::Value {
    let now = SystemClock.unix().as_secs();
    json!({"sub": AGENT, "aud": [audience], "exp": now + life, "iat": now})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_its_jwt_svids() {
    let keys = Foreign::new();
    let (machine, _broker) = plain(&keys);
    let agent = Agent::with_tokens(move |audience| {
        let other = json!({"sub": "spiffe://shop.example/other", "aud": [audience], "exp": 9_999_999_999_u64});
        Ok(vec![
            jwt(AGENT, keys.token("ES256", &claims(audience, 4)), ""),
            jwt("spiffe://shop.example/other", keys.token("RS256", &other), "other"),
        ])
    });
    let status = out(beside(&machine, &agent).args(STATUS)).expect(0);
    assert!(status.out.contains("payments/agent"), "{status:?}");
    assert!(status.err.contains("by a JWT-SVID of the agent at unix://"), "{status:?}");
    let hinted = out(beside(&machine, &agent).args(STATUS).args(["--svid-hint", "other"]));
    assert!(hinted.out.contains("spiffe://shop.example/other"), "{hinted:?}");
    let before = agent.seen().audiences.lock().unwrap().len();
    let mut command = beside(&machine, &agent);
    command.args(line(&["run", "--task", "long"], &READ));
    command.args(["--", "sh", "-c", "sleep 9; test -s \"$PROTEM_CREDENTIAL_FILE\""]);
    out(&mut command).expect(0);
    let audiences = agent.seen().audiences.lock().unwrap().clone();
    assert!(audiences.len() - before >= 3, "{audiences:?}: tokens of 4 s for a job of 9 s");
    let own = machine.url().replace("https://localhost", "http://127.0.0.1");
    assert!(audiences.iter().all(|asked| *asked == own), "{audiences:?}");
    let line = ["grants", "--task", "payments/agent#long", "-o", "json"];
    let list = out(beside(&machine, &agent).args(line)).expect(0).json();
    assert_eq!(list["grants"][0]["endReason"], "END_REASON_COMPLETED", "{list}");
    // A certificate cannot be shown there, and says so.
    let refused = out(beside(&machine, &agent).args(STATUS).args(["--svid", "x509"])).expect(2);
    assert!(refused.err.contains("PT-0719") && refused.err.contains("--svid jwt"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_agent_gives_a_token_that_is_none_or_for_somebody_else() {
    let keys = Foreign::new();
    let (machine, _broker) = plain(&keys);
    let other = keys.token("ES256", &claims("https://elsewhere.example", 300));
    let stranger = Foreign::stranger().token("ES256", &claims("http://mine.example", 300));
    let agent = Agent::with_tokens(move |audience| {
        let token = match audience {
            "long" => "a".repeat(17 * 1024),
            "words" => "two words".to_owned(),
            "other" => other.clone(),
            "none" => return Ok(Vec::new()),
            "denied" => return Err(tonic::Status::permission_denied("no identity issued")),
            _ => stranger.clone(),
        };
        Ok(vec![jwt(AGENT, token, "")])
    });
    for (audience, code, part) in [
        ("long", "PT-0747", "16 KiB"),
        ("words", "PT-0747", "no token"),
        ("other", "PT-0747", "another audience"),
        ("none", "PT-0746", "holds no identity"),
        ("denied", "PT-0746", "no identity issued"),
        ("silent", "PT-0745", "does not answer"),
        ("http://mine.example", "PT-0606", ""),
    ] {
        let refused = out(beside(&machine, &agent).args(STATUS).args(["--audience", audience]));
        assert_eq!(refused.code, Some(4), "{audience}: {refused:?}");
        assert!(
            refused.err.contains(code) && refused.err.contains(part),
            "{audience}: {refused:?}"
        );
    }
}
