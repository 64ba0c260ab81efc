//! What workloads ask for, and how a broker puts it to policy.

use std::sync::Arc;
use std::time::Duration;

use protem::policy::ask::Ask;
use protem::policy::bundle::Bundle;
use protem::policy::login::Principal;
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_core::state::State;
use protem_core::usual::findings;
use protem_core::verdict::Verdict;
use protem_verify::ids::RequestId;
use protem_verify::names::{
    IdentityName, PersonName, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::{Lifetime, Time};

use super::chance::Chance;
use super::rules::{actor, login};

pub const ISSUER: &str = "https://protem.test";
pub const IDENTITIES: [&str; 4] = ["shop/a", "shop/b", "ops/c", "ops/d"];
pub const RESOURCES: [&str; 2] = ["orders", "billing"];
pub const SCOPES: [&str; 2] = ["read", "write"];

pub fn identity(name: &str) -> IdentityName {
    IdentityName::try_from(name).unwrap()
}

pub fn resource(name: &str) -> ResourceName {
    ResourceName::try_from(name).unwrap()
}

pub fn scope(name: &str) -> ScopeName {
    ScopeName::try_from(name).unwrap()
}

pub fn words(text: &str) -> Words {
    Words::parse("note", text).unwrap()
}

pub fn audience(resource: &ResourceName) -> Arc<str> {
    format!("https://{resource}.test").into()
}

/// Who asks for an identity under a task.
pub fn workload(name: &str, task: &str) -> Workload {
    let subject = if name.starts_with("shop") {
        format!("spiffe://sim.test/{name}")
    } else {
        format!("ci|repo:{name}|actor={}", actor(task))
    };
    let subject = Subject::try_from(subject.as_str()).unwrap();
    Workload { identity: identity(name), subject }
}

/// A UUIDv7 of this moment.
pub fn key(now: Time, chance: &mut Chance) -> RequestId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(now.as_millis() << 16).to_be_bytes());
    bytes[8..].copy_from_slice(&chance.roll().to_be_bytes());
    bytes[6] = 0x70;
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    RequestId(bytes)
}

/// Any request of one of the identities under `task`.
pub fn request(name: &str, task: &str, now: Time, chance: &mut Chance) -> AccessRequest {
    let mut scopes = vec![scope(chance.pick(&SCOPES).unwrap())];
    let emergency = chance.percent(8);
    if chance.percent(30) && !emergency {
        scopes.push(scope(chance.pick(&SCOPES).unwrap()));
    }
    // Who breaks the glass must say why.
    let silent = emergency && chance.percent(20);
    AccessRequest {
        by: workload(name, task),
        task: Task {
            id: TaskId::try_from(task).unwrap(),
            kind: TaskKind::try_from("batch").unwrap(),
            url: Words::default(),
        },
        resource: resource(chance.pick(&RESOURCES).unwrap()),
        scopes: Scopes::new(scopes).unwrap(),
        lifetime: Some(Lifetime(Duration::from_secs(chance.between(10, 90)))),
        purpose: if silent { Words::default() } else { words("simulated") },
        key: chance.percent(90).then(|| key(now, chance)),
        emergency,
        proof: None,
    }
}

/// What policy says to a request, as a broker asks it.
pub fn verdict(request: &AccessRequest, bundle: &Bundle, state: &State, now: Time) -> Verdict {
    let login = login(request.by.identity.as_str(), request.task.id.as_str());
    let active = state.active(&request.by.identity);
    let past = state.usual(&request.by.identity);
    let found = findings(past.map(|past| &**past), request, now);
    let findings: Vec<String> = found.iter().map(ToString::to_string).collect();
    let ask = Ask { request, login: &login, now, active, findings: &findings, region: "" };
    bundle.evaluate(&ask)
}

/// The person behind a request, as a broker learns it from the sign-in.
pub fn behind(request: &AccessRequest, bundle: &Bundle) -> Option<PersonName> {
    let login = login(request.by.identity.as_str(), request.task.id.as_str());
    match bundle.who(&login) {
        Ok(Principal::Workload { by, behind }) if by == request.by => behind,
        other => panic!("{other:?}"),
    }
}
