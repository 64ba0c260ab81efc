//! `protem serve` as an operator runs it: the settings that docs/operating.md shows, certificates by OpenSSL in SVID shape, and
//! a workload, a person's command line and a gateway that are known by their certificates.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use protem_clock::clock::SystemClock;
use protem_gate::connect::TlsFiles;
use protem_gate::gate::{Gate, GateConfig};
use rustix::process::Signal;

use crate::cli::{READ, line};
use crate::pki::{AGENT, EDGE, Pki, server, svid};
use crate::ports::free_port;
use crate::process::{Kept, PATIENCE, Ran, program, ran, until};

/// A folder that stands for a machine: `/etc`, `/var/lib` and `/run` of the documentation's samples are in it.
pub struct Machine {
    home: tempfile::TempDir,
    port: u16,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self { home: tempfile::tempdir().unwrap(), port: free_port() };
        for folder in ["etc/protem/tls", "var/lib/protem", "run/spire"] {
            std::fs::create_dir_all(machine.path(folder)).unwrap();
        }
        let made = program(machine.home.path()).arg("init").output().unwrap();
        assert!(made.status.success());
        std::fs::rename(machine.path("policies"), machine.path("etc/protem/policies")).unwrap();
        machine.settings(&documented());
        machine
    }

    /// The folder that stands for the machine.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes the settings, with this machine's folders and port.
    pub fn settings(&self, text: &str) {
        let home = self.home.path().display();
        let mut text = text.replace("0.0.0.0:7420", &format!("127.0.0.1:{}", self.port));
        for root in ["/etc/protem", "/var/lib/protem", "/run/spire"] {
            text = text.replace(&format!("\"{root}"), &format!("\"{home}{root}"));
        }
        std::fs::write(self.path("etc/protem/protem.toml"), text).unwrap();
        let _ = std::fs::remove_file(self.path("protem.toml"));
    }

    fn serve(&self) -> Command {
        let mut command = program(self.home.path());
        command.args(["serve", "--config"]).arg(self.path("etc/protem/protem.toml"));
        command
    }

    /// Starts it, and waits until it answers.
    pub fn start(&self) -> Kept {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = self.serve();
        command.stdout(Stdio::null()).stderr(log);
        let kept = Kept(command.spawn().unwrap());
        until("it listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        kept
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A command line that is known by this certificate.
    fn run(&self, name: &str, line: &[&str]) -> Ran {
        let mut command = program(self.home.path());
        command.args(line).env("PROTEM_BROKER", self.url()).env("PROTEM_CA", self.ca());
        command.env("PROTEM_CERT", self.path(&format!("run/spire/{name}.pem")));
        command.env("PROTEM_KEY", self.path(&format!("run/spire/{name}.key")));
        ran(command.output().unwrap())
    }

    pub fn ca(&self) -> PathBuf {
        self.path("etc/protem/tls/ca.pem")
    }
}

/// The settings that the documentation shows for TLS and SPIFFE.
fn documented() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/operating.md")).unwrap();
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).collect();
    let block = blocks.iter().find(|block| block.contains("[tls]")).expect("no sample of `[tls]`");
    block.split("```").next().unwrap().to_owned()
}

/// Certificates as SPIRE's servers shape them, made by OpenSSL alone.
struct OpenSsl<'m>(&'m Machine);

impl OpenSsl<'_> {
    fn run(&self, line: &str) {
        let mut command = Command::new("openssl");
        command.current_dir(self.0.home.path()).args(line.split(' ')).stdin(Stdio::null());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn extensions(&self, name: &str, lines: &str) {
        let config = format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{lines}\n");
        std::fs::write(self.0.path(&format!("{name}.cnf")), config).unwrap();
    }

    /// A root: `name.pem` and `name.key` under `folder`.
    fn authority(&self, folder: &str, name: &str) {
        let lines = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n\
                     subjectKeyIdentifier=hash\nsubjectAltName=URI:spiffe://shop.example";
        self.extensions(name, lines);
        self.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 7 -subj /O=SPIRE/CN={name} \
             -config {name}.cnf -extensions ext -keyout {folder}/{name}.key -out {folder}/{name}.pem"
        ));
    }

    /// A leaf of that root.
    fn leaf(&self, by: &str, at: &str, key: &str, lines: &str) {
        let name = at.replace('/', "-");
        self.extensions(&name, lines);
        self.run(&format!(
            "req -new -newkey {key} -nodes -subj /C=US/O=SPIRE -config {name}.cnf -keyout {at}.key -out {name}.csr"
        ));
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 1 -sha256 \
             -extfile {name}.cnf -extensions ext -out {at}.pem"
        ));
        let key = self.0.path(&format!("{at}.key"));
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn svid(&self, name: &str, key: &str, id: &str) {
        let lines = format!(
            "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature,keyAgreement\n\
             extendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\n\
             authorityKeyIdentifier=keyid\nsubjectAltName=URI:{id}"
        );
        self.leaf("run/spire/root", &format!("run/spire/{name}"), key, &lines);
    }
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "rsa:2048";

#[tokio::test(flavor = "multi_thread")]
async fn openssl_svids_work_with_settings_as_documented() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "openssl is missing");
        writeln!(std::io::stderr(), "left out: certificates by OpenSSL (it is missing)").unwrap();
        return;
    }
    let machine = Machine::new();
    let openssl = OpenSsl(&machine);
    openssl.authority("etc/protem/tls", "ca");
    let own = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth";
    openssl.leaf("etc/protem/tls/ca", "etc/protem/tls/cert", EC, own);
    std::fs::rename(
        machine.path("etc/protem/tls/cert.key"),
        machine.path("etc/protem/tls/key.pem"),
    )
    .unwrap();
    openssl.authority("run/spire", "root");
    openssl.svid("agent", EC, AGENT);
    openssl.svid("old-agent", RSA, AGENT);
    openssl.svid("edge", EC, EDGE);
    std::fs::copy(machine.path("run/spire/root.pem"), machine.path("run/spire/bundle.json"))
        .unwrap();

    let probes = free_port();
    machine.settings(
        &documented().replace("[tls]", &format!("probes = \"127.0.0.1:{probes}\"\n[tls]")),
    );
    let mut broker = tokio::task::block_in_place(|| machine.start());
    tokio::task::block_in_place(|| {
        for name in ["agent", "old-agent"] {
            let status = machine.run(name, &["auth", "status"]).expect(0);
            assert!(status.out.contains("payments/agent"), "{status:?}");
            assert!(status.out.contains(AGENT), "{status:?}");
        }
        let words = line(&["run", "--task", "t-1"], &READ);
        let words =
            line(&words, &["--", "sh", "-c", "test -s \"$PROTEM_CREDENTIAL_FILE\"; exit 7"]);
        let worked = machine.run("agent", &words);
        assert_eq!(worked.code, Some(7), "{worked:?}\n{}", machine.log());
    });
    let state = tempfile::tempdir().unwrap();
    let file = |name: &str| machine.path(&format!("run/spire/edge.{name}"));
    let gate = Gate::start(GateConfig {
        broker: machine.url(),
        gateway: "edge-eu-1".try_into().unwrap(),
        issuer: "https://protem.shop.example:7420".into(),
        resources: Vec::new(),
        state: state.path().to_owned(),
        login: None,
        tls: TlsFiles { ca: Some(machine.ca()), identity: Some((file("pem"), file("key"))) },
        clock: Arc::new(SystemClock),
    });
    let gate = gate.unwrap();
    let fresh = tokio::time::timeout(PATIENCE, gate.fresh()).await;
    assert!(fresh.is_ok(), "the gateway stays blind: {}", machine.log());

    // Another authority from now on, and a hang-up to say so.
    tokio::task::block_in_place(|| {
        openssl.authority("run/spire", "root");
        openssl.svid("next", EC, AGENT);
        let next = std::fs::read_to_string(machine.path("run/spire/root.pem")).unwrap();
        crate::pki::write(&machine.path("run/spire/bundle.json"), &next);
        broker.signal(Signal::HUP);
        until("the new root counts", || machine.run("next", &["auth", "status"]).code == Some(0));
        let refused = machine.run("agent", &["auth", "status"]);
        assert_ne!(refused.code, Some(0), "{refused:?}");
        // Half a file is told of, and takes nobody out of service.
        assert_eq!(ready(probes), (200, "ready\n".into()));
        crate::pki::write(&machine.path("etc/protem/tls/cert.pem"), "");
        until("it is told", || ready(probes).1.contains("holds no certificate"));
        assert_eq!(ready(probes).0, 200);
        assert_eq!(machine.run("next", &["auth", "status"]).code, Some(0));
        broker.signal(Signal::TERM);
        assert_eq!(broker.ended(PATIENCE), Some(0), "{}", machine.log());
    });
}

/// What `/readyz` answers: its status and text.
fn ready(port: u16) -> (u16, String) {
    let mut line = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let ask = "GET /readyz HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n";
    line.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Row 52: a broker that cannot read what protects it does not start, and says why.
#[test]
fn attack_start_with_unreadable_key_ca_policy() {
    let machine = Machine::new();
    let pki = Pki::new();
    let (cert, key, bundle) =
        ("etc/protem/tls/cert.pem", "etc/protem/tls/key.pem", "run/spire/bundle.json");
    let put = |name: &str, text: &str| crate::pki::write(&machine.path(name), text);
    let own = pki.ca.issue(&server());
    let good = || {
        put(cert, &own.chain);
        put(key, &own.key);
        put(bundle, &pki.domain.bundle());
        machine.settings(&documented());
    };
    let open = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(machine.path(name), mode).unwrap();
    };
    let gone = |name: &str| std::fs::remove_file(machine.path(name)).unwrap();
    let edit = |from: &str, to: &str| {
        let text = documented();
        assert!(text.contains(from), "{from}");
        machine.settings(&text.replace(from, to));
    };
    let cases: [(&dyn Fn(), &str, &str); 15] = [
        (&|| gone(key), "PT-0704", "key.pem` cannot be read"),
        (&|| open(key, 0o644), "PT-0704", "must be 0600"),
        (&|| put(key, "no key"), "PT-0704", "holds no private key"),
        (&|| put(key, &pki.ca.issue(&server()).key), "PT-0704", "cannot be used with"),
        (&|| gone(cert), "PT-0704", "cert.pem` cannot be read"),
        (&|| put(cert, ""), "PT-0704", "holds no certificate"),
        (&|| gone(bundle), "PT-0704", "bundle of `shop.example`"),
        (&|| put(bundle, "{\"keys\":["), "PT-0704", "is no SPIFFE bundle"),
        (&|| put(bundle, &pki.domain.issue(&svid(AGENT)).chain), "PT-0704", "is no CA's"),
        (&|| edit("[spiffe.\"shop.example\"]", "[spiffe.\"Shop\"]"), "PT-0704", "trust domain"),
        (&|| edit("bundle = ", "# "), "PT-0704", "has no `bundle`"),
        (&|| edit("key  = ", "# "), "PT-0704", "without `tls.key`"),
        (&|| edit("[tls]", "[tls]\nmin_version = \"1.1\""), "PT-0704", "`1.1`"),
        (&|| edit("policies = \"/etc/protem/policies\"", "policies = \"/none\""), "PT-07", "/none"),
        (
            &|| {
                let text = documented().replace("0.0.0.0", "0.0.0.0.");
                let text = text.replace("[tls]", "[log]\n[tls]").replace("0.0.0.0.", "192.0.2.1");
                let plain: Vec<_> = text
                    .lines()
                    .filter(|l| !l.starts_with("cert") && !l.starts_with("key "))
                    .collect();
                machine.settings(&plain.join("\n"));
            },
            "PT-0709",
            "192.0.2.1:7420",
        ),
    ];
    good();
    let fine = ran(machine.serve().arg("--check-config").output().unwrap());
    assert_eq!(fine.code, Some(0), "{fine:?}");
    for (spoil, code, part) in cases {
        good();
        spoil();
        let refused = ran(machine.serve().output().unwrap());
        assert!(refused.code.is_some_and(|code| code != 0), "{part}: {refused:?}");
        assert!(refused.err.contains(code) && refused.err.contains(part), "{part}: {refused:?}");
        assert!(TcpStream::connect(("127.0.0.1", machine.port)).is_err(), "{part}: it listens");
        assert!(!machine.path("var/lib/protem/journal.db").exists(), "{part}: it began");
    }
}

/// What keeps a command line from its broker is told as what it is, with what helps.
#[test]
fn a_broker_that_is_not_reached_is_told_from_files_that_cannot_be_used() {
    let (machine, pki) = (Machine::new(), Pki::new());
    let put = |name: &str, text: &str| crate::pki::write(&machine.path(name), text);
    let (own, agent) = (pki.ca.issue(&server()), pki.domain.issue(&svid(AGENT)));
    put("etc/protem/tls/cert.pem", &own.chain);
    put("etc/protem/tls/key.pem", &own.key);
    put("etc/protem/tls/ca.pem", &pki.ca.pem());
    put("etc/protem/tls/other.pem", &pki.domain.pem());
    put("run/spire/bundle.json", &pki.domain.bundle());
    put("run/spire/agent.pem", &agent.chain);
    put("run/spire/agent.key", &agent.key);
    let _broker = machine.start();
    machine.run("agent", &["auth", "status"]).expect(0);
    let file = |name: &str| machine.path(name).display().to_string();
    let told = |words: &[&str], code: i32, parts: &[&str]| {
        let told = machine.run("agent", &line(&["auth", "status"], words)).expect(code);
        assert!(parts.iter().all(|part| told.err.contains(part)), "{parts:?} {told:?}");
    };
    told(&["--ca", &file("etc/protem/tls/other.pem")], 7, &["PT-0701", "--ca FILE"]);
    told(&["--ca", &file("nothing.pem")], 4, &["PT-0720", "nothing.pem"]);
    told(&["--ca", &file("run/spire/agent.key")], 4, &["PT-0720", "agent.key"]);
    let plain = machine.url().replace("https", "http");
    put("token", "a.b.c");
    let token = ["--token-file", &file("token"), "--broker", &plain].map(str::to_owned);
    told(&token.each_ref().map(String::as_str), 7, &["PT-0701", "https://"]);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(machine.path("run/spire/agent.key"), open).unwrap();
    told(&[], 4, &["PT-0720", "agent.key", "must be 0600"]);
}

/// An issuer is for ever, and a filter with a slip in it would silence the broker: both are looked at before anything begins.
#[test]
fn settings_that_would_be_regretted_do_not_start() {
    let (machine, pki) = (Machine::new(), Pki::new());
    let own = pki.ca.issue(&server());
    crate::pki::write(&machine.path("etc/protem/tls/cert.pem"), &own.chain);
    crate::pki::write(&machine.path("etc/protem/tls/key.pem"), &own.key);
    crate::pki::write(&machine.path("run/spire/bundle.json"), &pki.domain.bundle());
    let issuer = "issuer   = \"https://protem.shop.example:7420\"";
    for (from, to, part) in [
        (issuer, "issuer = \"protem\"", "no https URL"),
        (issuer, "issuer = \"http://protem.shop.example\"", "no https URL"),
        (issuer, "issuer = \"https://protem.shop.example?x\"", "no https URL"),
        ("[tls]", "[log]\nfilter = \"info,loud\"\n[tls]", "`loud` is no level"),
    ] {
        let text = documented();
        assert!(text.contains(from), "{from}");
        machine.settings(&text.replace(from, to));
        let refused = ran(machine.serve().arg("--check-config").output().unwrap()).expect(2);
        assert!(refused.err.contains("PT-0704") && refused.err.contains(part), "{refused:?}");
    }
    machine.settings(
        &documented().replace("[tls]", "[log]\nfilter = \"warn,protem::engine=info\"\n[tls]"),
    );
    ran(machine.serve().arg("--check-config").output().unwrap()).expect(0);
}
