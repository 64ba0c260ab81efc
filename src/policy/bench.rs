//! How long a decision takes with many policies, sliced and flat; for `protem bench` and the ignored test here.

use std::fmt::Write;
use std::time::Duration;

use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_verify::names::{
    IdentityName, Malformed, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::Time;

use crate::policy::ask::Ask;
use crate::policy::bundle::{Bundle, Load};
use crate::policy::context;
use crate::policy::evaluate::FRESH;
use crate::policy::example::example;
use crate::policy::login::Login;
use crate::policy::rules::Act;

/// Mean times of one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicing {
    /// Cedar alone, on a slice.
    pub sliced: Duration,
    /// Cedar alone, on the flat set.
    pub flat: Duration,
    /// The whole ruling, with its limits, input and digest.
    pub ruling: Duration,
}

/// Times decisions of the example bundle with `policies` more of them, over `rounds` rounds; `clock` is monotonic time.
///
/// # Errors
/// When the bundle that it makes does not load, which is a defect.
pub fn bench_slicing(
    policies: usize,
    rounds: u32,
    clock: &dyn Fn() -> Duration,
) -> Result<Slicing, String> {
    let mut files = example().to_vec();
    let mut text = String::new();
    for at in 0..policies {
        let id = at % 2_000;
        let written = writeln!(
            text,
            "@id(\"made-{at}\") permit (principal == Identity::\"made/{id}\", action == Action::\"issue\", resource in Resource::\"orders-api\") when {{ context.task.kind == \"made-{at}\" }};"
        );
        written.map_err(|error| error.to_string())?;
    }
    let mut inventory = String::new();
    for id in 0..policies.min(2_000) {
        let written = writeln!(
            inventory,
            "[identity.\"made/{id}\"]\npurpose = \"made\"\nowner = {{ business = \"group:shop-leads\", technical = \"group:shop-oncall\" }}\ntier = \"internal\"\nteam = \"made\"\nreview_by = 2099-01-01"
        );
        written.map_err(|error| error.to_string())?;
    }
    files.push(("made.cedar".into(), text.into_bytes().into()));
    files.push(("identities/made.toml".into(), inventory.into_bytes().into()));
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let bundle = Bundle::load(files.into(), Load::Activate, true)
        .map_err(|found| found.first().map_or(String::new(), ToString::to_string))?;
    let request = request().map_err(|bad| bad.to_string())?;
    let login = Login::dev_identity("payments/agent");
    let now = Time::from_secs(1_795_000_000);
    let ask = Ask { request: &request, login: &login, now, active: 0, findings: &[], region: "" };
    let scope = request.scopes.iter().next().ok_or("no scope")?;
    let lifetime = Duration::from_secs(900);
    let slice = bundle.book.access(Act::Issue, &request.by.identity, &request.resource, scope);
    let context = || context::access(&bundle.book.store, &ask, lifetime);
    let time = |rounds: u32, run: &dyn Fn() -> Result<bool, String>| -> Result<Duration, String> {
        let start = clock();
        for _ in 0..rounds {
            if !run()? {
                return Err("the decision is not the expected one".to_owned());
            }
        }
        Ok(clock().saturating_sub(start).checked_div(rounds).unwrap_or_default())
    };
    let flat = bundle.book.flat(&slice);
    Ok(Slicing {
        sliced: time(rounds, &|| Ok(bundle.book.judge(&slice, context()?, &[]).yes))?,
        flat: time(rounds.div_ceil(100), &|| Ok(bundle.book.judge(&flat, context()?, &[]).yes))?,
        ruling: time(rounds, &|| Ok(bundle.rule_on(&ask, FRESH).code.is_empty()))?,
    })
}

fn request() -> Result<AccessRequest, Malformed> {
    Ok(AccessRequest {
        by: Workload {
            identity: IdentityName::try_from("payments/agent")?,
            subject: Subject::try_from("protem-dev|payments/agent")?,
        },
        task: Task {
            id: TaskId::try_from("t")?,
            kind: TaskKind::try_from("agent")?,
            url: Words::default(),
        },
        resource: ResourceName::try_from("orders-api")?,
        scopes: Scopes::new(vec![ScopeName::try_from("orders:read")?])?,
        lifetime: None,
        purpose: Words::default(),
        key: None,
        emergency: false,
        proof: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "prints times; run it with --release -- --ignored --nocapture"]
    fn slicing() {
        let clock = || protem_clock::clock::Clock::boot(&protem_clock::clock::SystemClock);
        for policies in [10, 1_000, 10_000] {
            println!("{policies} policies: {:?}", bench_slicing(policies, 10_000, &clock).unwrap());
        }
    }

    #[test]
    fn the_bench_decides_as_expected() {
        let clock = || Duration::ZERO;
        assert!(bench_slicing(50, 2, &clock).is_ok());
    }
}
