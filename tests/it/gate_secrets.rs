//! APIs that cannot check tokens: the gate adds a secret that nobody else ever sees, by a settings file of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::bundle::{FILES, GATEWAY, WORKERS};
use crate::gate::{Gate, Question};
use crate::pki::{Authority, server};
use crate::process::Broker;

const LEGACY: &str = r#"
[resource.legacy-crm]
audience = "https://crm.example"
purpose  = "Vendor CRM"
owner    = { business = "group:leads", technical = "group:oncall" }
inject   = { header = "X-Api-Key", secret = "crm-key" }
[resource.legacy-crm.scope."crm:read"]
purpose    = "Read customers"
class      = "read"
operations = ["GET /api/customers/{id}"]
[resource.basic-crm]
audience = "https://basic.example"
purpose  = "An API with a password"
owner    = { business = "group:leads", technical = "group:oncall" }
inject   = { header = "Authorization", secret = "basic" }
[resource.basic-crm.scope."basic:read"]
purpose    = "Read customers"
class      = "read"
operations = ["GET /api/customers/{id}"]
[resource.lost-crm]
audience = "https://lost.example"
purpose  = "An API whose secret no gate was given"
owner    = { business = "group:leads", technical = "group:oncall" }
inject   = { header = "X-Api-Key", secret = "lost-key" }
[resource.lost-crm.scope."lost:read"]
purpose    = "Read customers"
class      = "read"
operations = ["GET /api/customers/{id}"]
"#;

/// The test asks over a port, as Traefik does.
const OPEN: &str = "only_proxy_connects = true";

struct Rig {
    broker: Broker,
    gate: Gate,
    config: PathBuf,
    secret: PathBuf,
}

fn secret_of(name: &str, resource: &str) -> String {
    format!(
        "[secret.{name}]\npurpose = \"A key\"\nresource = \"{resource}\"\n\
         owner = {{ business = \"group:leads\", technical = \"group:oncall\" }}\ncreated = 2026-09-04\n\
         rotate_every = \"90d\"\nexpires = 2099-01-01\nrevoke = \"vendor console\"\nstatus = \"managed\"\n"
    )
}

fn put(path: &Path, text: &str, mode: u32) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(fresh, path).unwrap();
}

impl Rig {
    fn start() -> Self {
        let resources = r#"resources = ["orders-api", "legacy-crm", "basic-crm", "lost-crm"]"#;
        let catalog = FILES[0].1.replace(r#"resources = ["orders-api"]"#, resources) + LEGACY;
        let secrets = [("crm-key", "legacy-crm"), ("basic", "basic-crm"), ("lost-key", "lost-crm")];
        let secrets = secrets.map(|(name, resource)| secret_of(name, resource)).concat();
        let catalog = catalog + &secrets;
        let broker =
            Broker::with_bundle(&[&[(FILES[0].0, catalog.as_str())], &FILES[1..]].concat());
        let home = broker.home();
        let (secret, basic) = (home.join("crm-key"), home.join("basic"));
        put(&secret, "canary-one\n", 0o600);
        put(&basic, "Basic Y2FuYXJ5OnR3bw==", 0o640);
        let config = home.join("gate.toml");
        let text = format!(
            "name = \"{GATEWAY}\"\nproxy = \"nginx\"\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n{OPEN}\n\
             state = \"{}\"\n[[broker]]\nurl = \"{url}\"\nissuer = \"{url}\"\n[login]\ntoken_file = \"{}\"\n\
             [secret.crm-key]\nfile = \"{}\"\n[secret.basic]\nfile = \"{}\"\n[log]\nlevel = \"debug\"\n",
            home.join("gate-state").display(),
            broker.token_file(GATEWAY).display(),
            secret.display(),
            basic.display(),
            url = broker.url(),
        );
        fs::write(&config, text).unwrap();
        let mut command = broker.cli();
        command.args(["gate", "-o", "json", "--config"]).arg(&config);
        let gate = Gate::spawn(command, home.join("gate.log"));
        gate.until("it is fresh", |gate| gate.probe("/readyz").status == 200);
        Self { broker, gate, config, secret }
    }

    fn token(&self, resource: &str, scope: &str) -> String {
        let line = ["request", "--task", resource, "--on", resource, "--scope", scope];
        self.broker.run(WORKERS[0], &line).expect(0).out.trim().to_owned()
    }

    fn ask(&self, resource: &str, token: &str, more: &[(&str, &str)]) -> crate::gate::Reply {
        let bearer = format!("Bearer {token}");
        let call = [
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/api/customers/7"),
            ("Authorization", &bearer),
        ];
        self.gate.ask_at(&format!("/authz/{resource}"), &[&call[..], more].concat())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_secret_of_an_api_is_seen_forged_or_kept() {
    let rig = tokio::task::block_in_place(Rig::start);
    let token = rig.token("legacy-crm", "crm:read");
    let reply = rig.ask("legacy-crm", &token, &[]);
    assert_eq!(
        (reply.status, reply.headers["x-api-key"].as_str()),
        (200, "canary-one"),
        "{reply:?}"
    );
    // The caller's own copy is replaced; what only looks like it would pass beside it.
    let own = rig.ask("legacy-crm", &token, &[("X-Api-Key", "mine")]);
    assert_eq!((own.status, own.headers["x-api-key"].as_str()), (200, "canary-one"));
    let alike = rig.ask("legacy-crm", &token, &[("X_Api_Key", "mine")]);
    assert_eq!(alike.verdict(), (403, "PT-0423".to_owned()));
    let mut envoy = rig.gate.envoy().await;
    let question = Question {
        resource: Some("legacy-crm"),
        ..Question::new("GET", "/api/customers/7", &token)
    };
    let question = question.with("x-api-key", b"mine").with("x_api_key", b"mine");
    let (set, remove) = envoy.ask(&question).await.changes();
    assert_eq!(set["x-api-key"], "canary-one");
    assert_eq!(remove, ["authorization", "x_api_key"]);
    // No refusal says it.
    let refused = rig.ask("legacy-crm", &token[..token.len() - 2], &[]);
    assert!(refused.status == 401 && !format!("{refused:?}").contains("canary"), "{refused:?}");
    assert!(!format!("{:?}", rig.ask("orders-api", &token, &[])).contains("canary"));
    // Where it goes into `Authorization`, it takes the credential's place.
    let basic = rig.token("basic-crm", "basic:read");
    let question = Question {
        resource: Some("basic-crm"),
        ..Question::new("GET", "/api/customers/7", &basic)
    };
    let (set, remove) = envoy.ask(&question).await.changes();
    assert_eq!(set["authorization"], "Basic Y2FuYXJ5OnR3bw==");
    assert!(remove.is_empty(), "{remove:?}");
    assert_eq!(rig.ask("basic-crm", &basic, &[]).headers["authorization"], set["authorization"]);
    let (log, broker) = (rig.gate.log(), rig.broker.log());
    assert!(!log.contains("canary") && !log.contains("Y2FuYXJ5") && !broker.contains("canary"));
    assert!(!log.contains(&token), "the log holds a credential");
}

/// Whoever may ask the gate, and has a credential of his own, is told the secret: no other workload may connect.
#[test]
fn attack_static_secret_read_by_a_neighbour() {
    let rig = Rig::start();
    let text = fs::read_to_string(&rig.config).unwrap().replace(OPEN, "");
    let socket = format!("unix:{}", rig.broker.home().join("g.sock").display());
    let run = |text: &str| {
        let config = rig.broker.home().join("closed.toml");
        fs::write(&config, text).unwrap();
        rig.broker.run("", &["gate", "--check-config", "--config", config.to_str().unwrap()])
    };
    let refused = run(&text).expect(1);
    assert!(refused.err.contains("only_proxy_connects"), "{}", refused.err);
    let text = text.replacen("127.0.0.1:0", &socket, 1);
    run(&text).expect(0);
    run(&format!("socket_mode = \"0660\"\n{text}")).expect(0);
    let refused = run(&format!("socket_mode = \"0666\"\n{text}")).expect(1);
    assert!(refused.err.contains("only_proxy_connects"), "{}", refused.err);
}

#[test]
fn a_secret_is_rotated_without_a_restart_and_a_lost_one_closes() {
    let rig = Rig::start();
    let token = rig.token("legacy-crm", "crm:read");
    let added = |gate: &Gate| {
        let _ = gate;
        rig.ask("legacy-crm", &token, &[]).headers.get("x-api-key").cloned()
    };
    assert_eq!(added(&rig.gate).as_deref(), Some("canary-one"));
    put(&rig.secret, "canary-two\n", 0o600);
    rig.gate.until("the new one is used", |gate| added(gate).as_deref() == Some("canary-two"));
    let check = ["gate", "--check-config", "--config", rig.config.to_str().unwrap()];
    rig.broker.run("", &check).expect(0);
    put(&rig.secret, "canary-three\n", 0o644);
    rig.gate.until("it is closed", |_| {
        rig.ask("legacy-crm", &token, &[]).verdict() == (503, "PT-0424".to_owned())
    });
    let failed = rig.broker.run("", &check).expect(1);
    assert!(failed.err.contains("crm-key") && failed.err.contains("0600"), "{}", failed.err);
    assert!(rig.gate.log().contains("others may read it"), "{}", rig.gate.log());
    put(&rig.secret, "canary-four\n", 0o600);
    rig.gate.until("it is open again", |gate| added(gate).as_deref() == Some("canary-four"));
    // The bundle wants one that this gate was never told of: each call says so, and the log did at once.
    let lost = rig.token("lost-crm", "lost:read");
    assert_eq!(rig.ask("lost-crm", &lost, &[]).verdict(), (503, "PT-0424".to_owned()));
    assert!(rig.gate.log().contains("[secret.lost-key]"), "{}", rig.gate.log());
    assert!(!rig.gate.log().contains("canary"));
}

#[test]
fn attack_gate_starts_with_unreadable_files() {
    let broker = Broker::with_bundle(FILES);
    let home = broker.home();
    let text = |login: &str, ca: &str| login_settings(&broker, login, ca);
    fs::write(home.join("broken.pem"), "-----BEGIN CERTIFICATE-----\n!!\n").unwrap();
    let missing = "token_file = \"missing\"";
    let broken = "cert = \"broken.pem\"\nkey = \"broken.pem\"";
    for (at, (login, ca)) in
        [(missing, ""), (broken, ""), (missing, "ca = \"broken.pem\"\n")].into_iter().enumerate()
    {
        let config = home.join(format!("gate-{at}.toml"));
        fs::write(&config, text(login, ca)).unwrap();
        let config = config.to_str().unwrap();
        broker.run("", &["gate", "--check-config", "--config", config]).expect(1);
        // Started all the same, it lets nobody in.
        let mut command = broker.cli();
        command.args(["gate", "-o", "json", "--config", config]);
        let gate = Gate::spawn(command, home.join(format!("gate-{at}.log")));
        let reply = gate.nginx(
            "GET",
            "/v1/orders",
            &crate::gate::credential(&broker, "t", "orders:read").0,
        );
        assert_eq!(reply.verdict(), (503, "PT-0416".to_owned()));
        assert_eq!(gate.probe("/readyz").status, 503);
    }
    // What the settings themselves say wrongly starts nothing.
    let config = home.join("gate-bad.toml");
    fs::write(&config, text(missing, "") + "toke_file = \"x\"\n").unwrap();
    let failed = broker.run("", &["gate", "--config", config.to_str().unwrap()]).expect(1);
    let told = failed.err.contains("line 11, column 1") && failed.err.contains("toke_file");
    assert!(told, "{}", failed.err);
}

/// The settings of a gate that signs in so, at a broker that is not there.
fn login_settings(broker: &Broker, login: &str, ca: &str) -> String {
    format!(
        "name = \"{GATEWAY}\"\nproxy = \"nginx\"\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n\
         state = \"{}\"\n[[broker]]\nurl = \"https://127.0.0.1:1\"\nissuer = \"{}\"\n{ca}[login]\n{login}\n",
        broker.home().join("gate-state").display(),
        broker.url(),
    )
}

/// A key or a token that others may read is no sign-in: it may be somebody else's by now.
#[test]
fn attack_a_gates_key_or_token_that_others_may_read() {
    let broker = Broker::with_bundle(FILES);
    let home = broker.home();
    let issued = Authority::new("any").issue(&server());
    put(&home.join("cert.pem"), &issued.chain, 0o644);
    put(&home.join("open.pem"), &issued.key, 0o644);
    put(&home.join("own.pem"), &issued.key, 0o600);
    let open_key = "cert = \"cert.pem\"\nkey = \"open.pem\"";
    put(&home.join("open"), "a.b.c", 0o644);
    put(&home.join("own"), "a.b.c", 0o640);
    let open_token = "token_file = \"open\"";
    for (at, (login, why)) in [
        (open_key, Some("open.pem")),
        ("cert = \"cert.pem\"\nkey = \"own.pem\"", None),
        (open_token, Some("`open`")),
        ("token_file = \"own\"", None),
    ]
    .into_iter()
    .enumerate()
    {
        let config = home.join(format!("modes-{at}.toml"));
        fs::write(&config, login_settings(&broker, login, "ca = \"cert.pem\"\n")).unwrap();
        let check = ["gate", "--check-config", "--config", config.to_str().unwrap()];
        let ran = broker.run("", &check).expect(i32::from(why.is_some()));
        let told = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in why.into_iter().flat_map(|file| [file, "mode is 0644", "must be 0600"]) {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
