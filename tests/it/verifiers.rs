//! Verifiers in other languages over the token vectors: each says of every token what ours says, and why.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a verifier over all cases, without telling it what is expected: names and what it said.
fn verdicts(mut command: Command, vectors: &Value) -> Vec<(String, String)> {
    let mut told = vectors.clone();
    for case in told["cases"].as_array_mut().unwrap() {
        case.as_object_mut().unwrap().remove("expect");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(told.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).unwrap();
    let pairs = said.lines().map(|line| line.split_once('\t').expect("a tab"));
    pairs.map(|(name, code)| (name.to_owned(), code.to_owned())).collect()
}

#[track_caller]
fn agrees(language: &str, command: Command) {
    let text = std::fs::read_to_string(root().join("tests/vectors/tokens.json")).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 50, "{} cases", cases.len());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let expected: Vec<_> =
        cases.iter().map(|case| (text(&case["name"]), text(&case["expect"]))).collect();
    let said = verdicts(command, &vectors);
    let differ: Vec<_> =
        expected.iter().zip(&said).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(
        differ.is_empty() && said.len() == expected.len(),
        "{language}, ours and theirs: {differ:?}"
    );
}

fn left_out(what: &str) {
    assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "{what} is missing");
    // Written past the harness's capture, so that plain `cargo test` says what it did not do.
    let said = format!("left out: token vectors in {what} (tests/run runs them)\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

#[test]
fn a_python_verifier_agrees_on_every_token() {
    let Ok(python) = std::env::var("PROTEM_PYTHON") else { return left_out("Python") };
    let mut command = Command::new(python);
    command.arg(root().join("tests/python/verify.py"));
    agrees("Python", command);
}

#[test]
fn a_go_verifier_agrees_on_every_token() {
    if Command::new("go").arg("version").output().is_err() {
        return left_out("Go");
    }
    let folder = tempfile::tempdir().unwrap();
    let program: PathBuf = folder.path().join("verify");
    let mut build = Command::new("go");
    build.current_dir(root().join("tests/go")).args(["build", "-o"]).arg(&program).arg(".");
    let built = build.env("GOFLAGS", "-mod=readonly").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    agrees("Go", Command::new(program));
}
