//! Rows 64 and 65: real processes that say all they can say, and whatever they say, write or show holds no secret.

use std::fmt::Write;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use protem::cli::client::Client;
use protem::cli::dev_key::{self, DevKey};
use protem::cli::token::{Login, broker_uri};
use protem::mint::SigningKey;
use protem::policy::bundle::Files;
use protem_clock::clock::{Clock, SystemClock};
use protem_core::event::KeyPurpose;
use protem_gate::login::CallerToken;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Endpoint;
use zeroize::Zeroizing;

use crate::broker::{Clients, TestBroker, ask, fresh_task, policies};
use crate::foreign::{ALGS, Foreign, agent};
use crate::ports::free_port;

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Texts and bytes that nobody may find.
#[derive(Default)]
struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// A token, and its signature alone: without it the rest is no secret.
    fn token(&mut self, token: &str) {
        let signature = token.rsplit('.').next().unwrap();
        self.0.extend([token.into(), signature.into()]);
        self.0.push(BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap_or_else(|_| token.into()));
    }

    /// A private key in any spelling.
    fn seed(&mut self, seed: &[u8]) {
        assert_eq!(seed.len(), 32);
        self.0.extend([
            seed.to_vec(),
            HEXLOWER.encode(seed).into(),
            BASE64URL_NOPAD.encode(seed).into(),
        ]);
        self.0.push(data_encoding::BASE64.encode(seed).into());
        self.0.push(format!("{seed:?}").trim_matches(['[', ']']).into());
    }

    /// The signing keys of a broker.
    fn keys(&mut self, folder: &Path) {
        let before = self.0.len();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let seed = text.split_whitespace().nth(2).unwrap();
            self.seed(&BASE64URL_NOPAD.decode(seed.as_bytes()).unwrap());
        }
        assert!(self.0.len() > before, "no keys in {}", folder.display());
    }

    #[track_caller]
    fn not_in(&self, sink: &[u8], what: &str) {
        assert!(!sink.is_empty(), "{what} is empty: nothing was looked at");
        for secret in self.0.iter().filter(|secret| !secret.is_empty()) {
            let found = sink.windows(secret.len()).position(|part| part == secret);
            let near = found.map(|at| {
                let around = &sink[at.saturating_sub(300)..(at + 40).min(sink.len())];
                String::from_utf8_lossy(around).into_owned()
            });
            assert!(near.is_none(), "a secret is in {what}: {near:?}");
        }
    }
}

/// A process that is killed when the test forgets it; what it says is in a file.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(home: &Path, line: &[&str]) -> Self {
        let log = home.join(format!("{}.log", line[0]));
        let file = std::fs::File::create(&log).unwrap();
        let mut command = program(home);
        command.args(line).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&mut self, ready: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !ready(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and what its exit code is.
    fn end(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(ended) => return ended.code(),
                None => assert!(Instant::now() < until, "it ignores SIGTERM: {}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with `home` as its home and nothing else of the environment that it reads.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_protem"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["PROTEM", "XDG_", "RUST_LOG"].iter().any(|of| name.starts_with(of)) {
            command.env_remove(name);
        }
    }
    command.current_dir(home).env("HOME", home).env("XDG_STATE_HOME", home.join("state"));
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").stdin(Stdio::null());
    command
}

fn write_files(folder: &Path, files: &Files) {
    for (name, text) in files.iter() {
        let path = folder.join(&**name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// What everybody on the machine, or its user, can see of a process.
fn shown(pid: u32) -> Vec<u8> {
    let of = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (line, environment) = (of("cmdline"), of("environ"));
    assert!(!line.is_empty() && !environment.is_empty(), "{pid} has gone");
    [line, environment, of("comm"), of("status")].concat()
}

/// The processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let wanted = format!("PPid:\t{parent}\n");
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains(&wanted).then_some(pid)
    });
    all.collect()
}

/// Everything that a caller can do with secrets: rightly, wrongly, and in the wrong place.
async fn exercise(url: &str, caller: &str, operator: &str, secrets: &mut Secrets) {
    let channel = || Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy();
    let clients = |token: &str| Clients::over(channel(), Some(token.to_owned()));
    let mut agent = clients(caller);
    let task = fresh_task();
    let granted = agent.ask(&task).await.unwrap();
    let (grant, credential) = (granted.grant.unwrap(), granted.credential.unwrap().token);
    let spoilt = format!("{caller}x");
    for secret in [caller, operator, &credential, &spoilt] {
        secrets.token(secret);
    }
    let renew = v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    agent.access.renew_credential(renew).await.unwrap();
    let hold = v1::HoldTaskRequest { task_id: task.clone(), lease: None };
    agent.access.hold_task(tokio_stream::once(hold)).await.unwrap();
    // Refused for its signature, and with a credential for a caller token.
    clients(&spoilt).ask(&task).await.unwrap_err();
    clients(&credential).ask(&task).await.unwrap_err();
    clients(&format!("{caller},{caller}")).ask(&task).await.unwrap_err();
    // Where names should be.
    for secret in [caller, &credential] {
        let mut request = ask(&fresh_task());
        request.scopes = vec![secret.to_owned()];
        agent.access.request_access(request).await.unwrap_err();
        let mut request = ask(&fresh_task());
        request.resource = secret.to_owned();
        agent.access.request_access(request).await.unwrap_err();
        let mut request = ask(&fresh_task());
        request.request_id = secret.to_owned();
        agent.access.request_access(request).await.unwrap_err();
        let get = v1::GetGrantRequest { grant_id: secret.to_owned() };
        agent.governance.get_grant(get).await.unwrap_err();
        agent.revoke(By::Token(secret.to_owned())).await.unwrap();
    }
    clients(operator).revoke(By::Everything(true)).await.unwrap();
    let mut journal = clients(operator)
        .governance
        .read_journal(v1::ReadJournalRequest::default())
        .await
        .unwrap()
        .into_inner();
    while journal.message().await.unwrap().is_some() {}
    // In a query, in a header of another name, and over HTTP/1.
    let address = url.trim_start_matches("http://").to_owned();
    let (caller, credential) = (caller.to_owned(), credential.clone());
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        for path in ["/jwks.json", "/nothing", "/protem.v1.AccessService/WhoAmI"] {
            let mut line = std::net::TcpStream::connect(&address).unwrap();
            let ask = format!(
                "POST {path}?access_token={credential} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                 authorization: Bearer {caller}\r\nx-token: {credential}\r\ncontent-length: 0\r\n\r\n"
            );
            line.write_all(ask.as_bytes()).unwrap();
            let mut answer = Vec::new();
            line.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 "));
        }
    });
    asked.await.unwrap();
}

/// `protem serve` with every log there is, in both forms.
#[tokio::test(flavor = "multi_thread")]
async fn attack_grep_every_sink_for_canary_token() {
    let foreign = Foreign::new();
    let now = SystemClock.unix().as_secs();
    let mut person = agent(now);
    for (name, value) in
        [("iss", "https://idp.shop.example"), ("aud", "protem-people"), ("email", "olga")]
    {
        person[name] = value.into();
    }
    person["email_verified"] = true.into();
    person["groups"] = serde_json::json!(["operators"]);
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        write_files(&home.join("policies"), &trusting(&foreign));
        let (caller, operator) =
            (foreign.token(ALGS[3], &agent(now)), foreign.token(ALGS[2], &person));
        std::fs::write(home.join("own.jwt"), &caller).unwrap();
        let port = free_port();
        let settings = format!(
            "[broker]\nlisten = \"127.0.0.1:{port}\"\nkeys = \"keys\"\n[store]\npath = \"store/journal.db\"\n\
             anchor = \"anchor\"\n[log]\nformat = \"{format}\"\nfilter = \"trace\"\n[client]\ntoken_file = \"own.jwt\"\n"
        );
        std::fs::write(home.join("protem.toml"), settings).unwrap();
        let mut serve = Running::start(home, &["serve"]);
        serve.wait_for(|serve| serve.said().contains("serving"));
        let mut secrets = Secrets::default();
        secrets.keys(&home.join("keys"));
        exercise(&format!("http://127.0.0.1:{port}"), &caller, &operator, &mut secrets).await;
        secrets.not_in(&shown(serve.pid()), "what the process shows");
        assert_eq!(serve.end(), Some(0), "{}", serve.said());
        let log = serve.said();
        // It said all it can say: its own spans and those of the libraries that saw the headers.
        for part in [
            "TRACE",
            "/protem.v1.AccessService/RequestAccess",
            "h2",
            "payments/agent",
            "Unauthenticated",
        ] {
            assert!(log.contains(part), "no `{part}` in a log of {} bytes", log.len());
        }
        secrets.not_in(log.as_bytes(), "the log");
        for folder in ["store", "."] {
            for file in std::fs::read_dir(home.join(folder)).unwrap() {
                let path = file.unwrap().path();
                let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { continue };
                if !bytes.is_empty() && !path.ends_with("own.jwt") {
                    secrets.not_in(&bytes, &path.display().to_string());
                }
            }
        }
    }
}

/// The repository's bundle, with people of the same provider.
fn trusting(foreign: &Foreign) -> Files {
    let line = "audience = \"protem-people\"\n";
    let edit = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.replace(line, &format!("{line}jwks     = \"file:github.jwks.json\"\n")).into_bytes()
    };
    let files = foreign.bundle();
    let edited = files.iter().map(|(name, text)| match &**name {
        "issuers.toml" => (name.clone(), edit(text).into()),
        _ => (name.clone(), text.clone()),
    });
    edited.collect()
}

/// Row 65: `protem dev`, its child, and `protem run` with its child.
#[tokio::test(flavor = "multi_thread")]
async fn attack_secret_in_argv_debug_startup_log() {
    for form in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        write_files(&home.join("policies"), &policies());
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut dev =
            Running::start(&home, &["dev", "--listen", &listen, "--data", "data", "-o", form]);
        dev.wait_for(|dev| dev.said().to_lowercase().contains("orders"));
        let mut secrets = Secrets::default();
        secrets.keys(&home.join("data/keys"));
        let key = std::fs::read(home.join(format!("state/protem/dev/{port}/key"))).unwrap();
        secrets.seed(&HEXLOWER.decode(key.trim_ascii()).unwrap());
        let key = dev_key::read(&home.join("state"), port).unwrap();
        let (caller, operator) = (key.sign("payments/agent"), key.sign("olga:operators"));
        exercise(&format!("http://{listen}"), &caller, &operator, &mut secrets).await;
        secrets.not_in(&shown(dev.pid()), "what `dev` shows");
        let started = children(dev.pid());
        assert_eq!(started.len(), 1, "the orders API");
        for child in started {
            secrets.not_in(&shown(child), "what the orders API shows");
        }
        let (at, from) = (format!("http://{listen}"), home.clone());
        let (given, seen) =
            tokio::task::spawn_blocking(move || run_a_job(&from, &at)).await.unwrap();
        secrets.token(given.trim());
        secrets.not_in(&seen, "what `run` and its command show");
        assert_eq!(dev.end(), Some(0));
        secrets.not_in(dev.said().as_bytes(), "what `dev` said");
        debug_texts(&secrets, key, &caller, port).await;
    }
}

/// A job that looks at itself and at who started it: its credential, and what there is to see.
fn run_a_job(home: &Path, url: &str) -> (String, Vec<u8>) {
    let look = "cat /proc/$PPID/cmdline /proc/$PPID/environ /proc/$$/cmdline /proc/$$/environ; \
                cat $PROTEM_CREDENTIAL_FILE >given";
    let mut command = program(home);
    command.args(["run", "--broker", url, "--as", "payments/agent", "--kind", "agent"]);
    command.args(["--on", "orders-api", "--scope", "orders:read", "--", "sh", "-c", look]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let given = std::fs::read_to_string(home.join("given")).unwrap();
    assert_eq!(given.trim().split('.').count(), 3);
    let seen = [output.stdout, output.stderr].concat();
    let file = b"PROTEM_CREDENTIAL_FILE=";
    assert!(seen.windows(file.len()).any(|part| part == file), "it looked at nothing: {said}");
    (given, seen)
}

/// `{:?}` and `{:#?}` of everything that holds a secret.
async fn debug_texts(secrets: &Secrets, key: DevKey, caller: &str, port: u16) {
    let file = std::env::temp_dir().join("no-such-token");
    let uri = broker_uri(&format!("http://127.0.0.1:{port}")).unwrap();
    let login = Login::file(file);
    let client = Client::new(uri, login.clone());
    let gateway = CallerToken::new(caller.to_owned());
    let mut text = format!("{key:?} {key:#?} {login:?} {login:#?} {client:?} {client:#?}");
    let dev = Login::dev(key, "payments/agent");
    assert!(dev.token().await.unwrap().is_some());
    write!(text, "{dev:?} {dev:#?} {gateway:?} {gateway:#?}").unwrap();
    secrets.not_in(text.as_bytes(), "a debug text");
}

/// What a panic would print: the debug text of whatever an `unwrap` met.
#[tokio::test(flavor = "multi_thread")]
async fn attack_secret_in_a_panic() {
    let broker = TestBroker::start().await;
    let mut secrets = Secrets::default();
    secrets.keys(&broker.folder.path().join("keys"));
    let caller = crate::cancel::caller(&broker, "payments/agent");
    let asked = crate::cancel::request(&caller, &fresh_task(), SystemClock.unix());
    let granted = broker.broker.request_access(&caller, asked).await.unwrap();
    let token = granted.credential.clone().unwrap().token;
    secrets.token(token.reveal());
    let seed = Zeroizing::new([0x5a; 32]);
    secrets.seed(seed.as_slice());
    let key = SigningKey::from_seed(&seed, KeyPurpose::Credential);
    let credential = granted.credential.clone();
    let panics = [met(granted), met(credential), met(token), met(key), met(caller)];
    for panics in panics {
        let payload = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        let text = payload.downcast_ref::<String>().unwrap();
        secrets.not_in(text.as_bytes(), "a panic's words");
    }
    broker.stop().await;
}

/// An `unwrap` that met this.
fn met(found: impl std::fmt::Debug + 'static) -> Box<dyn FnOnce()> {
    Box::new(move || panic!("called `Result::unwrap()` on an `Err` value: {found:?}"))
}
