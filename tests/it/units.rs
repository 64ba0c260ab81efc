//! The files that operators copy: systemd units that are sandboxed and start what there is, and a sidecar's settings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use protem_gate::settings::Settings;

use crate::pki::{Pki, server, write};
use crate::process::{PROTEM, ran};
use crate::serve_tls::Machine;

/// The worst exposure that is accepted, in tenths.
const THRESHOLD: &str = "--threshold=15";
const UNITS: [&str; 2] = ["protem.service", "protem-gate.service"];

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// What systemd says of a unit with this text; none where there is no systemd.
fn analyzed(folder: &Path, unit: &str, text: &str, words: &[&str]) -> Option<Output> {
    let file: PathBuf = folder.join(unit);
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("systemd-analyze");
    match command.args(words).arg(file).output() {
        Ok(output) => Some(output),
        Err(why) => {
            assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "systemd-analyze is missing: {why}");
            None
        }
    }
}

#[test]
fn units_are_sandboxed_as_systemd_measures_it() {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = example(&format!("systemd/{unit}"));
        let words = ["security", "--offline=true", "--no-pager", THRESHOLD];
        let Some(found) = analyzed(folder.path(), unit, &text, &words) else {
            writeln!(std::io::stderr(), "left out: systemd units (systemd-analyze is missing)")
                .unwrap();
            return;
        };
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.status.success() && said.contains("OK"), "{unit}: {said}");
        // The measure bites: a unit that may do half as much more does not pass.
        let weak: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("SystemCallFilter=")).collect();
        let weak = analyzed(folder.path(), unit, &weak.join("\n"), &words).unwrap();
        assert!(!weak.status.success(), "{unit}: without a filter it is as good");
        // Nothing is misspelt: systemd passes over keys that it does not know.
        let here = text.replace("/usr/local/bin/protem-gate", PROTEM);
        let here = here.replace("/usr/local/bin/protem", PROTEM);
        let found = analyzed(folder.path(), unit, &here, &["verify", "--man=no"]).unwrap();
        let wrong = String::from_utf8_lossy(&found.stderr).into_owned();
        let about_us = wrong.lines().filter(|line| line.contains(unit)).collect::<Vec<_>>();
        assert!(about_us.is_empty(), "{about_us:?}");
    }
}

/// The words of a unit's command, with its program's name first.
fn command(unit: &str, key: &str) -> Vec<String> {
    let text = example(&format!("systemd/{unit}"));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_brokers_unit_checks_and_starts_a_broker() {
    let (machine, pki) = (Machine::new(), Pki::new());
    let own = pki.ca.issue(&server());
    write(&machine.path("etc/protem/tls/cert.pem"), &own.chain);
    write(&machine.path("etc/protem/tls/key.pem"), &own.key);
    write(&machine.path("run/spire/bundle.json"), &pki.domain.bundle());
    let checks = command("protem.service", "ExecStartPre");
    let starts = command("protem.service", "ExecStart");
    assert_eq!(checks[..checks.len() - 1], starts[..], "what is checked is what starts");
    let words = checks[1..].iter().map(|word| {
        let etc = machine.path("etc/protem").display().to_string();
        word.replace("/etc/protem", &etc)
    });
    let mut command = Command::new(PROTEM);
    ran(command.args(words).current_dir(machine.home()).output().unwrap()).expect(0);
}

#[test]
fn the_sidecars_settings_are_some() {
    let text = example("kubernetes/sidecar.yaml");
    assert!(text.contains("Not run by protem's own tests"));
    assert!(example("container/Containerfile").contains("Not run by protem's own tests"));
    let (_, rest) = text.split_once("  gate.toml: |\n").unwrap();
    let lines = rest.lines().map_while(|line| line.strip_prefix("    "));
    let settings = lines.collect::<Vec<_>>().join("\n");
    let settings = Settings::parse(&settings).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7431", "for the pod alone");
    let broker = &settings.brokers[0];
    let token = broker.token_file.as_ref().unwrap();
    for (what, part) in [
        ("the token", format!("mountPath: {}", token.parent().unwrap().display())),
        ("its audience", format!("audience: {}\n", broker.issuer)),
        ("the state", format!("mountPath: {} }}", settings.state.display())),
        ("the probes", format!("containerPort: {}", settings.metrics.unwrap().port())),
    ] {
        assert!(text.contains(&part), "{what}: {part}");
    }
    // By content, and nothing that a container could gain.
    for line in text.lines().filter(|line| line.trim().starts_with("image:")) {
        assert!(line.contains("@sha256:"), "{line}");
    }
    let containers = text.matches("image:").count();
    assert_eq!(
        text.matches("securityContext: &tight").count() + text.matches("*tight").count(),
        containers
    );
}
