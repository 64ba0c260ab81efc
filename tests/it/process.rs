//! A real broker process of our own binary, its clients, and the signals it may get; nothing is left behind.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use protem::cli::client::Client;
use protem::cli::dev_key;
use protem::cli::private_file::write_private;
use protem::cli::token::{Login, broker_uri};
use rustix::process::{Pid, Signal, kill_process};

use crate::ports::free_port;

/// The program under test.
pub const PROTEM: &str = env!("CARGO_BIN_EXE_protem");
/// How long anything may take before the test gives up: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `protem dev` with a folder and a port of its own; killed, and all it left removed, when dropped.
pub struct Broker {
    process: Option<Child>,
    port: u16,
    home: tempfile::TempDir,
    bundle: bool,
    orders: bool,
    env: Vec<(&'static str, String)>,
    logins: Mutex<HashMap<String, PathBuf>>,
}

impl Broker {
    /// With the built-in example bundle, and the example orders API behind its gateway.
    pub fn example() -> Self {
        Self::prepared(&[], true, Vec::new())
    }

    /// The same, whose keys sign so long.
    pub fn rotating(files: &[(&str, &str)], orders: bool, every: &str) -> Self {
        let wait = ("PROTEM_DEV_JWKS_WAIT", "0s".to_owned());
        Self::prepared(files, orders, vec![("PROTEM_DEV_ROTATE_EVERY", every.to_owned()), wait])
    }

    /// With a bundle of the test's own: file names and texts.
    pub fn with_bundle(files: &[(&str, &str)]) -> Self {
        Self::prepared(files, false, Vec::new())
    }

    /// The same, with more of its environment.
    pub fn with_env(files: &[(&str, &str)], env: Vec<(&'static str, String)>) -> Self {
        Self::prepared(files, false, env)
    }

    fn prepared(files: &[(&str, &str)], orders: bool, env: Vec<(&'static str, String)>) -> Self {
        let home = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = home.path().join("policies").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        let (bundle, logins, port) = (!files.is_empty(), Mutex::default(), free_port());
        let mut broker = Self { process: None, port, home, bundle, orders, env, logins };
        broker.start();
        broker
    }

    /// Starts the process, on the same port and data as before, and waits until it answers.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        // A key of an earlier life would be taken for this one's.
        let _ = std::fs::remove_file(self.key());
        let began = self.said().len();
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.cli();
        // It reads our pipe, so that it ends even if this process is killed.
        command.args(["dev", "--until-eof", "-o", "json", "--listen", &self.address()]);
        command.arg("--data").arg(self.data()).stdin(Stdio::piped());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if !self.orders {
            command.arg("--no-orders");
        }
        if self.bundle {
            command.arg("--policies").arg(self.home.path().join("policies"));
        }
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        self.wait_ready(began);
    }

    /// The ports of its starts, as it said them.
    fn said(&self) -> Vec<u16> {
        let port = |line: &str| {
            let said: serde_json::Value = serde_json::from_str(line).ok()?;
            said["broker"].as_str()?.rsplit(':').next()?.parse().ok()
        };
        self.log().lines().filter_map(port).collect()
    }

    fn wait_ready(&mut self, began: usize) {
        let until = Instant::now() + PATIENCE;
        // Only what it says last is the end of its start: the key's file is there before all that belongs to it.
        while self.said().len() <= began || !self.is_ready() {
            // Some connection of this machine had the port for a moment, and it took the next one: as good for a first start, and
            // for no other.
            match self.said().get(began) {
                Some(port) if began == 0 => self.port = *port,
                Some(port) if *port != self.port => {
                    self.kill();
                    return self.start();
                }
                Some(_) | None => {}
            }
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no broker: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        let known: Vec<String> = self.logins.lock().unwrap().keys().cloned().collect();
        for name in known {
            self.sign_in(&name);
        }
    }

    fn is_ready(&self) -> bool {
        let said = !self.orders || self.orders_url().is_some();
        said && self.key().exists() && TcpStream::connect(self.address()).is_ok()
    }

    /// Where the example orders API listens, as the broker last said.
    pub fn orders_url(&self) -> Option<String> {
        let log = self.log();
        let said =
            log.lines().rev().find(|line| line.starts_with('{') && line.contains("orders"))?;
        let said: serde_json::Value = serde_json::from_str(said).ok()?;
        said["orders"].as_str().map(str::to_owned)
    }

    /// SIGKILL, and nothing of the process is left when this returns.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it does not run");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.process.as_ref().expect("it does not run")), signal).unwrap();
    }

    /// The id of its process.
    pub fn process(&self) -> u32 {
        self.process.as_ref().expect("it does not run").id()
    }

    /// Waits until the process has ended by itself, and tells its exit code.
    pub fn ended(&mut self, within: Duration) -> Option<i32> {
        let mut process = self.process.take().expect("it does not run");
        let ended = wait_for(&mut process, within);
        if ended.is_none() {
            let _ = process.kill();
            let _ = process.wait();
            panic!("it still runs after {within:?}: {}", self.log());
        }
        ended.unwrap().code()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `--broker` takes.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The folder that stands for the user's home; the broker's `TMPDIR` is in it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the journal is.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The journal's file: the only one of SQLite in the data folder.
    pub fn journal(&self) -> PathBuf {
        let sqlite = |path: &PathBuf| {
            std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3"))
        };
        files_under(&self.data()).into_iter().find(sqlite).expect("no journal")
    }

    /// What the broker said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("broker.log")
    }

    fn key(&self) -> PathBuf {
        self.home.path().join("state/protem/dev").join(self.port.to_string()).join("key")
    }

    /// The program with no settings but this test's, pointed at this broker.
    pub fn cli(&self) -> Command {
        let mut command = program(self.home.path());
        command.env("PROTEM_BROKER", self.url());
        command
    }

    /// Runs a command line as `name` (nobody, if empty) to its end.
    pub fn run(&self, name: &str, line: &[&str]) -> Ran {
        let mut command = self.cli();
        command.args(line);
        if !name.is_empty() {
            command.env("PROTEM_AS", name);
        }
        ran(command.output().unwrap())
    }

    /// A file with the caller token of `name`, as the command line would present it; renewed at each restart.
    pub fn token_file(&self, name: &str) -> PathBuf {
        if let Some(file) = self.logins.lock().unwrap().get(name) {
            return file.clone();
        }
        self.sign_in(name)
    }

    fn sign_in(&self, name: &str) -> PathBuf {
        let key = dev_key::read(&self.home.path().join("state"), self.port).unwrap();
        let file = self.home.path().join(format!("token-{}", name.replace(['/', ':'], "-")));
        let fresh = file.with_extension("new");
        write_private(&fresh, key.sign(name).as_bytes()).unwrap();
        std::fs::rename(fresh, &file).unwrap();
        self.logins.lock().unwrap().insert(name.to_owned(), file.clone());
        file
    }

    /// The command line's own client as `name`; it outlives restarts. Each has a connection of its own.
    pub fn client(&self, name: &str) -> Client {
        let uri = broker_uri(&self.url()).unwrap();
        let login = Login::file(self.token_file(name));
        Client::new(uri, login)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "the broker said:\n{}", tail.join("\n"));
        }
    }
}

/// What a command line did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// Fails unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

/// What a finished process did.
pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The program, with `home` as its user's home and working directory, and nothing else of the environment that it reads.
pub fn program(home: &Path) -> Command {
    at_home(Path::new(PROTEM), home)
}

/// The same of another program of ours.
pub fn at_home(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    let foreign = |name: &String| {
        ["PROTEM", "GITHUB_", "GITLAB_", "ACTIONS_", "RUNNER_", "CI", "XDG_", "NO_COLOR", "SPIFFE_"]
            .iter()
            .any(|of| name.starts_with(of))
    };
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(foreign)
    {
        command.env_remove(name);
    }
    let tmp = home.join("tmp");
    let _ = std::fs::create_dir(&tmp);
    command.current_dir(home).env("HOME", home).env("TMPDIR", tmp).stdin(Stdio::null());
    command.env("XDG_STATE_HOME", home.join("state")).env("XDG_CONFIG_HOME", home.join("config"));
    command
}

/// A child that is killed when the test forgets it.
pub struct Kept(pub Child);

impl Kept {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(&self.0), signal).unwrap();
    }

    /// Waits for its end, and tells its exit code.
    pub fn ended(&mut self, within: Duration) -> Option<i32> {
        wait_for(&mut self.0, within).expect("it still runs").code()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(process: &mut Child, within: Duration) -> Option<std::process::ExitStatus> {
    let until = Instant::now() + within;
    loop {
        match process.try_wait().unwrap() {
            Some(ended) => return Some(ended),
            None if Instant::now() > until => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap()
}

/// Waits until `holds`, and fails with `what` when it never does.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The status that the example orders API answers when orders are read with a token.
pub fn call(broker: &Broker, token: &str) -> u16 {
    let url = broker.orders_url().expect("no orders API");
    let mut line = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let ask = format!(
        "GET /v1/orders HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    line.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("no answer")
}

/// All files below a folder.
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
