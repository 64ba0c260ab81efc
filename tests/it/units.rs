//! The files that operators copy: systemd units that are sandboxed and start what there is, and a sidecar's settings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use protem_gate::settings::Settings;

use crate::pki::{Pki, server, write};
use crate::process::{PROTEM, program, ran};
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

/// A file in a ConfigMap of a manifest.
pub fn block(manifest: &str, key: &str) -> String {
    let (_, rest) = manifest.split_once(&format!("\n  {key}: |\n")).unwrap();
    let inside = |line: &str| match line.is_empty() {
        true => Some("\n".to_owned()),
        false => line.strip_prefix("    ").map(|line| line.to_owned() + "\n"),
    };
    rest.lines().map_while(inside).collect()
}

/// The gate's unit checks the settings and no file that they name, as SVIDs and tokens may come later; and a unit that failed is
/// tried again for ever.
#[test]
fn the_gates_unit_waits_for_its_login_and_no_unit_gives_up() {
    for unit in UNITS {
        let text = example(&format!("systemd/{unit}"));
        let head = text.split("[Service]").next().unwrap();
        let (_, head) = head.split_once("[Unit]").unwrap();
        assert!(head.lines().any(|line| line == "StartLimitIntervalSec=0"), "{unit}");
        assert!(text.lines().any(|line| line == "Restart=always"), "{unit}");
    }
    let (starts, checks) = (
        command("protem-gate.service", "ExecStart"),
        command("protem-gate.service", "ExecStartPre"),
    );
    assert_eq!(checks[..starts.len()], starts[..], "what is checked is what starts");
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("gate.toml");
    let settings = "name = \"edge\"\nlisten = \"127.0.0.1:0\"\nstate = \"kept\"\n[[broker]]\n\
                    url = \"https://b.example\"\nissuer = \"https://b.example\"\n\
                    [login]\ncert = \"no.pem\"\nkey = \"no.key\"\n[secret.crm-key]\nfile = \"no\"\n";
    let settings = format!("only_proxy_connects = true\n{settings}");
    let run = |text: &str, words: &[String]| {
        std::fs::write(&config, text).unwrap();
        let words = words.iter().map(|word| match word.starts_with('/') {
            true => config.to_str().unwrap(),
            false => word,
        });
        ran(program(home.path()).arg("gate").args(words).output().unwrap())
    };
    run(&settings, &checks[1..]).expect(0);
    run(&(settings.clone() + "tokn = 1\n"), &checks[1..]).expect(1);
    // The flag is what makes it so.
    let whole: Vec<_> = checks[1..].iter().filter(|word| *word != "--no-files").cloned().collect();
    assert!(whole.len() < checks.len() - 1);
    let told = run(&settings, &whole).expect(1).err;
    assert!(told.contains("no.pem") && told.contains("crm-key"), "{told}");
}

/// A volume has the owner of the folder that the image has there, which is root unless it was put there before.
#[test]
fn the_images_volumes_belong_to_their_user() {
    let text = example("container/Containerfile");
    let lines: Vec<&str> = text.lines().collect();
    let mut volumes = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(folder) = line.strip_prefix("VOLUME [\"") else { continue };
        let folder = folder.trim_end_matches("\"]");
        volumes += 1;
        let image = lines[..at].iter().rposition(|line| line.starts_with("FROM ")).unwrap();
        let user = lines[image..at].iter().find_map(|line| line.strip_prefix("USER ")).unwrap();
        let name = folder.rsplit('/').next().unwrap();
        let copy = format!("COPY --from=build --chown={user} /empty/{name} {folder}");
        assert!(lines[image..at].contains(&copy.as_str()), "{folder}: no `{copy}`");
        let made = lines.iter().find(|line| line.starts_with("RUN install -d -m 0700 ")).unwrap();
        assert!(made.split(' ').any(|word| word == format!("/empty/{name}")), "{made}");
    }
    assert_eq!(volumes, 2);
}

#[test]
fn the_sidecars_settings_are_some() {
    let text = example("kubernetes/sidecar.yaml");
    assert!(text.contains("Not run by protem's own tests"));
    assert!(example("container/Containerfile").contains("Not run by protem's own tests"));
    let settings = Settings::parse(&block(&text, "gate.toml")).unwrap();
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
