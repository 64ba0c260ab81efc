//! Row 71: what proves or checks something ends with 0 only when it is so: never on damage, on nonsense, or by a panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use protem_clock::random;

use crate::broker::{TestBroker, fresh_task, policies};

/// The program, with nothing of the environment that it reads.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_protem"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PROTEM") || name.starts_with("XDG_"))
        {
            command.env_remove(name);
        }
    }
    command.current_dir(home).env("HOME", home).stdin(Stdio::null());
    command
}

fn protem(home: &Path, line: &[&str]) -> Output {
    program(home).args(line).output().unwrap()
}

/// Fails unless the program ended in order: with a code of its table and without a panic.
#[track_caller]
fn code(output: &Output, what: &str) -> i32 {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{what}: {said}");
    let code = output.status.code().unwrap_or_else(|| panic!("{what}: ended by a signal: {said}"));
    assert!((0..=7).contains(&code), "{what}: {code} {said}");
    if code != 0 {
        assert!(said.contains("error:") || !output.stdout.is_empty(), "{what}: says nothing");
    }
    code
}

#[track_caller]
fn fails(home: &Path, line: &[&str], what: &str) {
    let output = protem(home, line);
    assert_ne!(code(&output, what), 0, "{what}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Where damage is done: everywhere in a small file, here and there in a large one.
fn places(length: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count)
        .map(|_| usize::try_from(u64::from_be_bytes(random::bytes()) >> 1).unwrap() % length)
        .collect();
    places.extend([0, 16, 18, 96, length / 2, length - 1]);
    places.retain(|at| *at < length);
    places
}

/// A store of a broker that was stopped, and an export of one of its grants.
async fn evidence(home: &Path) -> (PathBuf, PathBuf) {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let mut grant = String::new();
    for _ in 0..3 {
        let task = fresh_task();
        grant = agent.ask(&task).await.unwrap().grant.unwrap().id;
        agent.complete(&task).await.unwrap();
    }
    let (export, store, token) =
        (home.join("export.json"), home.join("store.db"), home.join("token"));
    let operator = broker.sign(&broker.claims("olga", "person", &["operators"]));
    std::fs::write(&token, operator).unwrap();
    let (broker_url, to, from) =
        (broker.url.clone(), export.display().to_string(), home.to_owned());
    let exported = tokio::task::spawn_blocking(move || {
        let line = [
            "audit",
            "export",
            &grant,
            "--to",
            &to,
            "--broker",
            &broker_url,
            "--token-file",
            "token",
        ];
        let wire = ["audit", "verify", "--broker", &broker_url, "--token-file", "token"];
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut lost = program(&from);
        lost.args(["audit", "export", &grant, "--broker", &broker_url, "--token-file", "token"]);
        let lost = lost.stdout(full).output().unwrap();
        assert_eq!(code(&lost, "export to a full disk"), 1);
        (protem(&from, &line), protem(&from, &wire))
    });
    let (exported, wire) = exported.await.unwrap();
    assert_eq!(code(&exported, "export"), 0, "{}", String::from_utf8_lossy(&exported.stderr));
    assert_eq!(code(&wire, "verify"), 0, "{}", String::from_utf8_lossy(&wire.stderr));
    let folder = broker.folder.path().to_owned();
    broker.broker.stop().await;
    // The whole store in one file, as a stopped broker leaves it.
    let live = rusqlite::Connection::open(folder.join("journal.db")).unwrap();
    live.execute("VACUUM INTO ?1", [store.to_str().unwrap()]).unwrap();
    drop(live);
    broker.stop().await;
    (export, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_cli_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_owned();
    let (export, store) = evidence(&home).await;
    let tried = tokio::task::spawn_blocking(move || {
        verify_is_not_fooled(&home, &export, 40);
        verify_is_not_fooled(&home, &store, 40);
        nonsense_is_no_proof(&home);
        bundles_are_checked(&home);
    });
    tried.await.unwrap();
}

/// What `audit verify` says of a file: the count, the journal and the root, if it is proven.
fn proven(home: &Path, file: &Path) -> Option<[serde_json::Value; 3]> {
    let output = protem(home, &["audit", "verify", "-o", "json", file.to_str().unwrap()]);
    if code(&output, &file.display().to_string()) != 0 {
        return None;
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["verified"], true);
    Some(["entries", "of", "root"].map(|name| said[name].clone()))
}

fn verify_is_not_fooled(home: &Path, good: &Path, count: usize) {
    let truth = proven(home, good).expect("the evidence is good");
    let bytes = std::fs::read(good).unwrap();
    let bad = home.join("bad");
    let mut refused = 0;
    for at in places(bytes.len(), count) {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1 << (at % 8);
        std::fs::write(&bad, &spoilt).unwrap();
        // A byte may say nothing: a space, a free page. Then what is proven must be the same.
        match proven(home, &bad) {
            None => refused += 1,
            Some(said) => assert_eq!(said, truth, "flipped at {at} of {}", good.display()),
        }
        std::fs::write(&bad, &bytes[..at]).unwrap();
        // All but the last line's end counts.
        if at + 1 < bytes.len() {
            assert_eq!(proven(home, &bad), None, "cut at {at} of {}", good.display());
        }
    }
    assert!(refused > 0, "no flip of {} was noticed", good.display());
    std::fs::remove_file(bad).unwrap();
}

fn nonsense_is_no_proof(home: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(home.join(name), bytes).unwrap();
    write("empty", b"");
    write("invalid", b"\xff\xfe{\x80}");
    write("null", b"null");
    write("object", b"{}");
    write("deep", "[".repeat(100_000).as_bytes());
    write("magic", b"SQLite format 3\0");
    std::fs::create_dir(home.join("folder")).unwrap();
    rusqlite::Connection::open(home.join("fresh.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);")
        .unwrap();
    let names =
        ["empty", "invalid", "null", "object", "deep", "magic", "folder", "fresh.db", "missing"];
    for name in names {
        fails(home, &["audit", "verify", name], name);
    }
    // A broker that is not there proves nothing.
    fails(home, &["audit", "verify", "--broker", "http://127.0.0.1:1"], "no broker");
    fails(home, &["audit", "export", "gr_x", "--broker", "http://127.0.0.1:1"], "no broker");
    // Neither a reader that closed its end nor a full disk turns a refusal into a success.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_protem"));
    let line = ["audit", "verify", "object"];
    let out = full.try_clone().unwrap();
    let ended = command.args(line).current_dir(home).stdout(out).stderr(full.try_clone().unwrap());
    assert_eq!(ended.status().unwrap().code(), Some(1));
    // Data that could not be written was not delivered, whatever the command found.
    let mut command = Command::new(env!("CARGO_BIN_EXE_protem"));
    let ended = command.args(["explain-error", "PT-0101"]).current_dir(home).stdout(full);
    assert_eq!(ended.output().unwrap().status.code(), Some(1));
}

/// What is done to a file.
type Spoil = fn(Vec<u8>) -> Vec<u8>;

fn bundles_are_checked(home: &Path) {
    let good = home.join("good");
    bundle(&good, "", |text| text);
    for verb in ["check", "test"] {
        let output = protem(home, &["policy", verb, "good"]);
        assert_eq!(code(&output, verb), 0, "{}", String::from_utf8_lossy(&output.stdout));
    }
    let spoil: [(&str, Spoil); 6] = [
        ("catalog.toml", |_| Vec::new()),
        ("catalog.toml", |text| text[..text.len() / 2].to_vec()),
        ("identities.toml", |_| b"\xff\xfe\x00".to_vec()),
        ("payments.cedar", |text| text[..text.len() - 20].to_vec()),
        ("payments.cedar", |_| b"\xc3\x28".to_vec()),
        // A test that fails fails the check.
        ("tests/access.toml", |text| {
            String::from_utf8(text).unwrap().replacen("\"issue\"", "\"deny\"", 1).into_bytes()
        }),
    ];
    for (count, (file, change)) in spoil.into_iter().enumerate() {
        let name = format!("bad-{count}");
        bundle(&home.join(&name), file, change);
        for verb in ["check", "test"] {
            fails(home, &["policy", verb, &name], &format!("{verb} of a spoilt {file}, {count}"));
        }
    }
    std::fs::create_dir(home.join("nothing")).unwrap();
    for name in ["missing", "nothing", "empty"] {
        for verb in ["check", "test", "apply"] {
            fails(home, &["policy", verb, name], &format!("{verb} {name}"));
        }
    }
}

/// The repository's bundle in a folder, with one file changed.
fn bundle(folder: &Path, spoilt: &str, change: Spoil) {
    for (name, text) in policies().iter() {
        let path = folder.join(&**name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text.to_vec();
        std::fs::write(path, if **name == *spoilt { change(text) } else { text }).unwrap();
    }
}

/// A broker that refuses a bundle leaves no doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_bundle_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_owned();
    let broker = TestBroker::start().await;
    let operator = broker.sign(&broker.claims("olga", "person", &["operators"]));
    std::fs::write(home.join("token"), operator).unwrap();
    bundle(&home.join("bad"), "payments.cedar", |text| text[..text.len() - 20].to_vec());
    bundle(&home.join("good"), "", |text| text);
    let (before, url) = (broker.broker.bundle().digest(), broker.url.clone());
    let tried = tokio::task::spawn_blocking(move || {
        for more in [&[][..], &["--dry-run"], &["-o", "json"], &["-o", "json", "--dry-run"]] {
            for (name, ends) in [("bad", 1), ("good", 0)] {
                let line = ["policy", "apply", name, "--broker", &url, "--token-file", "token"];
                let line = [&line[..], more].concat();
                let output = protem(&home, &line);
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!(code(&output, name), ends, "{line:?}: {said}");
            }
        }
    });
    tried.await.unwrap();
    assert_eq!(broker.broker.bundle().digest(), before);
    broker.stop().await;
}
