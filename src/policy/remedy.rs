//! What a refused requester can do: the nearest request that would pass, or who can change that it does not.

use std::collections::BTreeSet;
use std::time::Duration;

use protem_core::request::{AccessRequest, Scopes, Task};
use protem_verify::names::{ScopeName, TaskKind};
use protem_verify::time::Lifetime;

use crate::policy::ask::Ask;
use crate::policy::bundle::Bundle;
use crate::policy::evaluate::{Hearing, Mode, No};
use crate::policy::read::spoken;
use crate::policy::rules::{Act, Rule};

/// Lifetimes that are tried, longest first.
const LIFETIMES: [u64; 6] = [3_600, 1_800, 900, 300, 60, 10];
/// Task kinds that are tried: a refusal must stay cheap.
const KINDS_MAX: usize = 16;
/// Scopes of a request up to which single ones are tried.
const SCOPES_MAX: usize = 8;

/// One sentence for the requester.
#[must_use]
pub fn nearest(bundle: &Bundle, hearing: &Hearing<'_>, no: &No, mode: Mode) -> String {
    let request = hearing.ask.request;
    let passes = |changed: &AccessRequest, findings: &[String]| {
        let ask = Ask { request: changed, findings, ..*hearing.ask };
        let mode = Mode { advise: false, ..mode };
        bundle.rule_on(&ask, mode).code.is_empty()
    };
    let findings = hearing.ask.findings;
    if request.emergency {
        let calm = AccessRequest { emergency: false, ..request.clone() };
        if passes(&calm, findings) {
            return "ask without `--emergency`".to_owned();
        }
    }
    if let Some(scopes) = fewer(request, |scopes| passes(&with(request, scopes), findings)) {
        return format!("ask for {} alone", list(scopes.iter()));
    }
    for lifetime in LIFETIMES.map(Duration::from_secs) {
        let shorter = AccessRequest { lifetime: Some(Lifetime(lifetime)), ..request.clone() };
        if lifetime < hearing.lifetime.0 && passes(&shorter, findings) {
            return format!("ask for at most {}", spoken(lifetime));
        }
    }
    for kind in kinds(bundle, hearing).iter().take(KINDS_MAX) {
        let task = Task { kind: kind.clone(), ..request.task.clone() };
        if passes(&AccessRequest { task, ..request.clone() }, findings) {
            return format!("a task of kind `{kind}` may: say `--kind {kind}`");
        }
    }
    let owner = &hearing.resource.owner;
    if !findings.is_empty() && passes(request, &[]) {
        return format!("what is unusual about it stands in the way; ask {}", owner.technical);
    }
    if !no.policies.is_empty() {
        let ids: Vec<String> =
            bundle.book.ids(&no.policies).iter().map(|id| format!("`{id}`")).collect();
        return format!(
            "{} forbids it; ask {}, who owns `{}`",
            ids.join(", "),
            owner.business,
            request.resource
        );
    }
    format!(
        "no policy permits it to `{}`; ask {}, who owns `{}`, for one",
        request.by.identity, owner.business, request.resource
    )
}

/// The scopes that pass by themselves, when they also pass together and are not all of them.
fn fewer(request: &AccessRequest, passes: impl Fn(Scopes) -> bool) -> Option<Scopes> {
    let all: Vec<&ScopeName> = request.scopes.iter().collect();
    if all.len() < 2 || all.len() > SCOPES_MAX {
        return None;
    }
    let single = |scope: &&&ScopeName| Scopes::new(vec![(**scope).clone()]).is_ok_and(&passes);
    let good: Vec<ScopeName> = all.iter().filter(single).map(|scope| (*scope).clone()).collect();
    let scopes = Scopes::new(good).ok()?;
    passes(scopes.clone()).then_some(scopes)
}

fn with(request: &AccessRequest, scopes: Scopes) -> AccessRequest {
    AccessRequest { scopes, ..request.clone() }
}

fn list<'a>(scopes: impl Iterator<Item = &'a ScopeName>) -> String {
    scopes.map(|scope| format!("`{scope}`")).collect::<Vec<_>>().join(", ")
}

/// Words that the policies that could apply compare with: task kinds are among them.
fn kinds(bundle: &Bundle, hearing: &Hearing<'_>) -> BTreeSet<TaskKind> {
    let request = hearing.ask.request;
    let store = &bundle.book.store;
    let identity = store.uid(crate::policy::entities::Kind::Identity, request.by.identity.as_str());
    let line = store.lineage(&identity);
    let mut kinds = BTreeSet::new();
    for (scope, _) in &hearing.scopes {
        let name = format!("{}#{scope}", request.resource);
        let object = store.uid(crate::policy::entities::Kind::Scope, &name);
        for act in [Act::Issue, Act::Request] {
            let places = bundle.book.candidates(act, &line, &object);
            let rules = places.iter().filter_map(|place| bundle.book.rule(*place));
            kinds.extend(rules.filter(|rule| rule.text.contains("kind")).flat_map(quoted));
        }
    }
    kinds
}

/// Every quoted word after a policy's head: a list of kinds may stand before the word `kind`.
fn quoted(rule: &Rule) -> Vec<TaskKind> {
    let body = rule.text.split_once("resource").map_or("", |(_, body)| body);
    body.split('"').skip(1).step_by(2).filter_map(|word| TaskKind::try_from(word).ok()).collect()
}
