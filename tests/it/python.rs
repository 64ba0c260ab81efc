//! A client in another language, against a real `protem dev` process.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::process::Broker;

#[test]
fn a_python_client_asks_verifies_completes_and_follows() {
    let Ok(python) = std::env::var("PROTEM_PYTHON") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_PYTHON names no interpreter");
        // Written past the harness's capture, so that plain `cargo test` says what it did not do.
        writeln!(std::io::stderr(), "left out: python client (tests/run runs it)").unwrap();
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let broker = Broker::example();
    let generated = broker.home().join("generated");
    std::fs::create_dir(&generated).unwrap();
    let token = std::fs::read_to_string(broker.token_file("payments/agent")).unwrap();
    let out = Command::new(python)
        .arg(root.join("tests/python/client.py"))
        .arg(broker.address())
        .args([root.join("proto"), generated])
        .env("AGENT_TOKEN", token.trim())
        .env("CATALOG", root.join("policies/catalog.toml"))
        .output()
        .unwrap();
    let (said, wrong) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{wrong}\nbroker: {}", broker.log());
    assert!(said.lines().count() >= 12, "{said}");
}
