//! The slim gateway, `protem-gate`, as a process of its own: what it says, how it fails, and that it stands before an API.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use protem::cli::private_file::write_private;
use rustix::process::Signal;

use crate::bundle::{FILES, GATEWAY, OPERATOR, WORKERS};
use crate::gate::credential;
use crate::ports::free_port;
use crate::process::{Broker, Kept, PATIENCE, PROTEM, Ran, at_home, ran, until};
use crate::proxies::gate::ask;
use crate::proxies::raw::get;

/// The program beside ours, if it is as new as its sources; else it is built now.
fn slim() -> &'static Path {
    static SLIM: OnceLock<PathBuf> = OnceLock::new();
    SLIM.get_or_init(|| {
        let program = Path::new(PROTEM).with_file_name("protem-gate");
        if !is_new(&program) {
            build(&program);
        }
        program
    })
}

/// Whether all that cargo made it from is older.
fn is_new(program: &Path) -> bool {
    let changed = |file: &Path| file.metadata().and_then(|about| about.modified()).ok();
    let Some(made) = changed(program) else { return false };
    let from = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let from = from.split_once(": ").map_or("", |(_, from)| from).replace("\\ ", "\0");
    let mut from = from.split_ascii_whitespace().map(|file| file.replace('\0', " "));
    from.clone().next().is_some()
        && from.all(|file| changed(Path::new(&file)).is_some_and(|at: SystemTime| at <= made))
}

fn build(program: &Path) {
    let folder = program.parent().unwrap();
    let profile = match folder.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        other => other,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--quiet", "--package", "protem-gate", "--profile", profile]);
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// Runs it to its end.
fn run(home: &Path, line: &[&str], config: Option<&Path>) -> Ran {
    let mut command = at_home(slim(), home);
    if let Some(config) = config {
        command.env("PROTEM_GATE_CONFIG", config);
    }
    ran(command.args(line).output().unwrap())
}

#[test]
fn it_says_how_it_is_used() {
    let home = tempfile::tempdir().unwrap();
    for line in [["--help"], ["-h"]] {
        let said = run(home.path(), &line, None).expect(0);
        assert!(said.out.contains("protem-gate --config FILE"), "{}", said.out);
        assert_eq!(said.err, "");
    }
    let said = run(home.path(), &["--version"], None).expect(0);
    assert_eq!(said.out.trim(), concat!("protem-gate ", env!("CARGO_PKG_VERSION")));
    for (line, why) in [
        (&[][..], "`--config FILE` is missing"),
        (&["--config"], "`--config` is followed by a file"),
        (&["--confg", "gate.toml"], "`--confg` means nothing here"),
    ] {
        let said = run(home.path(), line, None).expect(2);
        assert!(said.err.contains(why) && said.err.contains("Usage:"), "{}", said.err);
        assert_eq!(said.out, "");
    }
}

#[test]
fn settings_that_cannot_be_used_start_nothing() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("gate.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let config = file.to_str().unwrap();
    let missing = run(home.path(), &["--config", "none.toml"], None).expect(1);
    assert!(missing.err.contains("none.toml"), "{}", missing.err);
    let good = settings("http://127.0.0.1:1", "http://127.0.0.1:1", home.path(), [1, 2]);
    write(&format!("{good}toke_file = \"x\"\n"));
    for more in [&[][..], &["--check-config"]] {
        let line = [&["--config", config], more].concat();
        let refused = run(home.path(), &line, None).expect(1);
        let told = refused.err.contains("line 11, column 1") && refused.err.contains("toke_file");
        assert!(told && refused.out.is_empty(), "{}", refused.err);
    }
    // Settings that are good, and a file that is not there: only a check says so.
    write(&good);
    let checked = run(home.path(), &["--check-config"], Some(&file)).expect(1);
    assert!(checked.err.contains("token"), "{}", checked.err);
    write_private(&home.path().join("token"), b"a.b.c").unwrap();
    let checked = run(home.path(), &["--check-config"], Some(&file)).expect(0);
    assert_eq!(checked.out.trim(), format!("{config}: ok"));
    // A place that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    write(&settings("http://127.0.0.1:1", "http://127.0.0.1:1", home.path(), [port, 0]));
    let refused = run(home.path(), &["--config", config], None).expect(1);
    assert!(refused.err.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", refused.err);
}

/// Of a gate at these ports that nginx asks, with a token beside its state.
fn settings(broker: &str, issuer: &str, home: &Path, [port, probes]: [u16; 2]) -> String {
    format!(
        "name = \"{GATEWAY}\"\nproxy = \"nginx\"\nlisten = \"127.0.0.1:{port}\"\n\
         metrics = \"127.0.0.1:{probes}\"\nstate = \"{home}/kept\"\n[[broker]]\nurl = \"{broker}\"\n\
         issuer = \"{issuer}\"\n[login]\ntoken_file = \"{home}/token\"\n",
        home = home.display(),
    )
}

#[test]
fn it_stands_before_an_api_and_ends_when_it_is_told_to() {
    let broker = Broker::with_bundle(FILES);
    let home = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port()];
    let [at, probes] = ports.map(|port| format!("127.0.0.1:{port}"));
    let config = home.path().join("gate.toml");
    std::fs::copy(broker.token_file(GATEWAY), home.path().join("token")).unwrap();
    std::fs::write(&config, settings(&broker.url(), &broker.url(), home.path(), ports)).unwrap();
    let log = home.path().join("gate.log");
    let mut command = at_home(slim(), home.path());
    command.arg(format!("--config={}", config.display())).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut gate = Kept(command.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    until("it is fresh", || {
        assert!(gate.0.try_wait().unwrap().is_none(), "{}", said());
        get(&probes, "/readyz", &[]).is_ok_and(|answer| answer.status == 200)
    });
    assert!(said().contains(&at), "{}", said());
    let (token, grant) = credential(&broker, "t-1", "orders:read");
    let allowed = ask(&at, "orders-api", "/v1/orders", &token).unwrap();
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(allowed.header("x-protem-identity"), Some(WORKERS[0]));
    assert_eq!(ask(&at, "orders-api", "/v1/orders", "a.b.c").unwrap().status, 401);
    assert_eq!(ask(&at, "orders-api", "/v1/secrets", &token).unwrap().status, 403);
    gate.signal(Signal::TERM);
    assert_eq!(gate.ended(PATIENCE), Some(0), "{}", said());
    assert!(!said().contains(&token), "the log holds a credential");
    let usage = broker.run(OPERATOR, &["grant", &grant, "-o", "json"]).expect(0).json();
    assert_eq!(usage["usage"]["used"][0]["count"], "1", "{usage}");
}
