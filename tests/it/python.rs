//! A client in another language, against a real `protem dev` process.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROTEM: &str = env!("CARGO_BIN_EXE_protem");

/// A `protem dev` of its own; killed when dropped.
struct Dev {
    process: Child,
    address: String,
    home: tempfile::TempDir,
}

impl Dev {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(home.path().join("dev.log")).unwrap();
        let process = protem(home.path())
            .args(["dev", "--listen", &address, "--data"])
            .arg(home.path().join("data"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut dev = Self { process, address, home };
        dev.wait();
        dev
    }

    fn wait(&mut self) {
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&self.address).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no broker: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("dev.log")).unwrap_or_default()
    }

    /// The caller token that the CLI would present as `name`.
    fn token(&self, name: &str) -> String {
        let broker = format!("http://{}", self.address);
        let out = protem(self.home.path())
            .args(["auth", "token", "--as", name, "--broker", &broker])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The program, with no settings but those of this test.
fn protem(home: &Path) -> Command {
    let mut command = Command::new(PROTEM);
    command.current_dir(home).env("HOME", home).env("XDG_STATE_HOME", home.join("state"));
    command.env("XDG_CONFIG_HOME", home.join("config")).env("TMPDIR", home).stdin(Stdio::null());
    command
}

#[test]
fn a_python_client_asks_verifies_completes_and_follows() {
    let Ok(python) = std::env::var("PROTEM_PYTHON") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_PYTHON names no interpreter");
        // Written past the harness's capture, so that plain `cargo test` says what it did not do.
        writeln!(std::io::stderr(), "left out: python client (tests/run runs it)").unwrap();
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dev = Dev::start();
    let generated = dev.home.path().join("generated");
    std::fs::create_dir(&generated).unwrap();
    let out = Command::new(python)
        .arg(root.join("tests/python/client.py"))
        .args([dev.address.as_str()])
        .args([root.join("proto"), generated])
        .env("AGENT_TOKEN", dev.token("payments/agent"))
        .env("CATALOG", root.join("policies/catalog.toml"))
        .output()
        .unwrap();
    let (said, wrong) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{wrong}\nbroker: {}", dev.log());
}
