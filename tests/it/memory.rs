//! What long-lived processes have in memory, keys and secrets and tokens on their way, is in no dump: looked at from outside, at the
//! programs as they are run.

use std::process::Command;

use crate::broker::policies;
use crate::bundle::FILES;
use crate::gate::Gate;
use crate::oidc::Served;
use crate::process::{Broker, Kept};

/// The limit that a process which keeps itself to itself gives up for good: soft and hard.
fn core_size(process: u32) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    line.unwrap().split_whitespace().take(2).map(str::to_owned).collect()
}

#[track_caller]
fn kept_to_itself(what: &str, process: u32) {
    assert_eq!(core_size(process), ["0", "0"], "{what} could be dumped");
}

/// Rows 64 and 65, from the outside.
#[test]
fn attack_dump_of_a_running_process() {
    // Else the limit would say nothing of what the programs do.
    if core_size(std::process::id())[1] == "0" {
        eprintln!("left out: this very process may not dump, nor may what it starts");
        return;
    }
    let mut served = Served::with(&policies());
    kept_to_itself("protem serve", served.process().0.id());
    let broker = Broker::with_bundle(FILES);
    kept_to_itself("protem dev", broker.process());
    let gate = Gate::start(&broker, &[]);
    kept_to_itself("protem gate", gate.process.0.id());
    let mut idle = Command::new("sleep");
    let idle = Kept(idle.arg("60").spawn().unwrap());
    assert_ne!(core_size(idle.0.id())[1], "0", "any process looks like that");
}
