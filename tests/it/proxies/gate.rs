//! A real `protem gate` process with a folder and ports of its own.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::pki::write;
use crate::ports::free_port;
use crate::process::{Kept, PATIENCE, files_under, program, until};
use crate::proxies::bundle::GATEWAY;
use crate::proxies::raw::{Answer, get};

/// The secret of the API that cannot check tokens: its name, and that of its file in the folder.
const SECRET: &str = "crm-key";
/// What it is at first.
pub const FIRST_SECRET: &str = "canary-first";
/// The socket's name in the folder.
const SOCKET: &str = "gate.sock";

/// The process, its settings and its state; killed when dropped.
pub struct Gate {
    process: Option<Kept>,
    home: tempfile::TempDir,
    port: u16,
    probes: u16,
    env: Vec<(String, String)>,
}

/// What a gate is told.
pub struct Told<'a> {
    /// Where it finds its broker.
    pub broker: String,
    /// The issuer whose credentials count.
    pub issuer: String,
    /// A file with its token.
    pub token: PathBuf,
    /// The proxy in front; none: Envoy.
    pub proxy: Option<&'a str>,
    /// Whether it listens on a socket, as behind the proxies of the examples, or on a port, where a test asks it itself.
    pub socket: bool,
    /// More of its environment.
    pub env: Vec<(String, String)>,
}

impl Gate {
    /// Starts it, and waits until it listens.
    pub fn start(told: Told<'_>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (port, probes) = (free_port(), free_port());
        let place = match told.socket {
            true => format!("unix:{}", home.path().join(SOCKET).display()),
            false => format!("127.0.0.1:{port}"),
        };
        // Whoever could ask over a port would be told the secret.
        let secret = match told.socket {
            true => {
                format!("[secret.{SECRET}]\nfile = \"{}\"\n", home.path().join(SECRET).display())
            }
            false => String::new(),
        };
        let proxy = told.proxy.map(|name| format!("proxy = \"{name}\"\n")).unwrap_or_default();
        let text = format!(
            "name = \"{GATEWAY}\"\n{proxy}listen = \"{place}\"\nmetrics = \"127.0.0.1:{probes}\"\n\
             state = \"{}\"\n[[broker]]\nurl = \"{}\"\nissuer = \"{}\"\n[login]\ntoken_file = \"{}\"\n{secret}",
            home.path().join("kept").display(),
            told.broker,
            told.issuer,
            told.token.display(),
        );
        std::fs::write(home.path().join("gate.toml"), text).unwrap();
        let mut gate = Self { process: None, home, port, probes, env: told.env };
        gate.put_secret(FIRST_SECRET);
        gate.restart();
        gate
    }

    /// Starts it again, on the same ports and state.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = self.home.path().join("gate.log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = program(self.home.path());
        command.args(["gate", "--config"]).arg(self.home.path().join("gate.toml"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child: Child = command.spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        while !self.is_open() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no gate: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process = Some(Kept(child));
    }

    /// Replaces the secret of the API that cannot check tokens, as whoever rotates it does.
    pub fn put_secret(&self, secret: &str) {
        write(&self.home.path().join(SECRET), secret);
    }

    /// Takes it away.
    pub fn lose_secret(&self) {
        std::fs::remove_file(self.home.path().join(SECRET)).unwrap();
    }

    fn is_open(&self) -> bool {
        TcpStream::connect(self.address()).is_ok() || UnixStream::connect(self.socket()).is_ok()
    }

    /// SIGKILL, and nothing of the process is left when this returns.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it does not run").signal(signal);
    }

    /// Whether the process is stopped, as the kernel says it.
    pub fn is_stopped(&self) -> bool {
        let pid = self.process.as_ref().expect("it does not run").0.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// The socket's file, if it listens on one.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join(SOCKET)
    }

    /// Its port, if it listens on one.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it says of itself: its status and its text.
    pub fn ready(&self) -> Option<Answer> {
        get(&format!("127.0.0.1:{}", self.probes), "/readyz", &[]).ok()
    }

    /// What it tells Prometheus.
    pub fn metrics(&self) -> String {
        get(&format!("127.0.0.1:{}", self.probes), "/metrics", &[]).unwrap().body
    }

    /// Waits until its view is fresh.
    #[track_caller]
    pub fn fresh(&self) {
        until("the gate is fresh", || self.ready().is_some_and(|answer| answer.status == 200));
    }

    /// Waits until its broker has proven its view to it by a ping that it sent after a moment.
    #[track_caller]
    pub fn proven_since(&self, moment: Instant) {
        until("the gate has a new proof", || {
            let now = Instant::now();
            let said = self.ready().map(|answer| answer.body).unwrap_or_default();
            let age = said.split_once("proven ").and_then(|(_, rest)| rest.split_once(" ms"));
            let age = age.and_then(|(age, _)| age.parse().ok()).map(Duration::from_millis);
            // It is told in whole milliseconds.
            let sent = age.and_then(|age| now.checked_sub(age + Duration::from_millis(1)));
            sent.is_some_and(|sent| sent > moment)
        });
    }

    /// Asks as nginx would.
    pub fn ask(&self, resource: &str, path: &str, token: &str) -> std::io::Result<Answer> {
        ask(&self.address(), resource, path, token)
    }

    /// What tells it apart from its replicas: kept over restarts.
    pub fn instance(&self) -> String {
        let kept = files_under(&self.home.path().join("kept"));
        let file = kept.into_iter().find(|file| file.ends_with("instance")).expect("no instance");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("gate.log")).unwrap_or_default()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "the gate said:\n{}", tail.join("\n"));
        }
    }
}

/// Asks the gate at an address as nginx would.
pub fn ask(address: &str, resource: &str, path: &str, token: &str) -> std::io::Result<Answer> {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("X-Original-Method", "GET"),
        ("X-Original-URI", path),
        ("Authorization", &bearer),
        ("Connection", "close"),
    ];
    get(address, &format!("/authz/{resource}"), &headers)
}
