//! What workloads ask for, and what a policy of one line says to it.

use std::sync::Arc;
use std::time::Duration;

use protem_core::limits::DECIDE_WITHIN_DEFAULT;
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Terms, Verdict};
use protem_verify::ids::{Hash, RequestId};
use protem_verify::names::{
    IdentityName, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::{Lifetime, Staleness, Time};

use super::chance::Chance;

pub const ISSUER: &str = "https://protem.test";
/// Two bundles that take turns.
pub const BUNDLES: [Hash; 2] = [Hash([1; 32]), Hash([2; 32])];
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

pub fn workload(name: &str) -> Workload {
    let subject = Subject::try_from(format!("issuer|{name}").as_str()).unwrap();
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
    if chance.percent(30) {
        scopes.push(scope(chance.pick(&SCOPES).unwrap()));
    }
    AccessRequest {
        by: workload(name),
        task: Task {
            id: TaskId::try_from(task).unwrap(),
            kind: TaskKind::try_from("batch").unwrap(),
            url: Words::default(),
        },
        resource: resource(chance.pick(&RESOURCES).unwrap()),
        scopes: Scopes::new(scopes).unwrap(),
        lifetime: Some(Lifetime(Duration::from_secs(chance.between(10, 60)))),
        purpose: words("simulated"),
        key: chance.percent(90).then(|| key(now, chance)),
        emergency: false,
        proof: None,
    }
}

/// What policy says: mostly yes; no to nobody by name, so that every bundle change has something to end.
pub fn verdict(request: &AccessRequest, bundle: Hash, active: u32, now: Time) -> Verdict {
    let write = request.scopes.contains(&scope("write"));
    let by = request.by.identity.as_str();
    let effect = match (bundle == BUNDLES[0], by, write) {
        (false, "ops/d", true) => Effect::Deny,
        (_, "ops/c", true) => Effect::NeedsApproval,
        _ => Effect::Issue,
    };
    let rule = (effect == Effect::NeedsApproval).then(|| ApprovalRule {
        required: 1,
        decide_within: DECIDE_WITHIN_DEFAULT.min(Duration::from_secs(20)),
        remind: None,
        then: None,
        policies: Hash([3; 32]),
        groups: Vec::new(),
    });
    let fresh = if by.starts_with("shop") { 2 } else { 5 };
    Verdict::from_policy(Ruling {
        content: request.content(),
        effect,
        policies: Vec::new(),
        bundle,
        at: now,
        terms: Terms {
            lifetime: request.lifetime.unwrap_or(Lifetime(Duration::from_secs(30))),
            credential: Lifetime(Duration::from_secs(15)),
            fresh: Staleness(Duration::from_secs(fresh)),
            audience: audience(&request.resource),
            claims: Arc::new([]),
            operations: Arc::new([]),
            active_max: 40,
            pending_max: 5,
        },
        limits: Vec::new(),
        findings: Vec::new(),
        code: String::new(),
        remedy: String::new(),
        rule,
        active: write.then_some(active),
        input: Arc::new([]),
    })
}
