//! A bundle's own test cases: expected verdicts, run at every check and activation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_core::verdict::Effect;
use protem_verify::codes::policy;
use protem_verify::names::{
    GroupName, IdentityName, PersonName, PolicyId, ResourceName, ScopeName, Subject, TaskId,
    TaskKind, Words,
};
use protem_verify::time::{Lifetime, Time};

use crate::policy::ask::{Action, Ask, Object};
use crate::policy::bundle::Bundle;
use crate::policy::evaluate::Mode;
use crate::policy::finding::{At, Findings, Source, did_you_mean};
use crate::policy::lint::CASE_NOW;
use crate::policy::login::{Claim, Login, Person};
use crate::policy::person::Approvable;
use crate::policy::raw::{Case, Cases, Text};
use crate::policy::read::{duration, moment};

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub at: At,
    /// Whether it went as expected.
    pub passed: bool,
    /// What was decided: `issue`, `approval`, `permit` or `deny`.
    pub decided: String,
    /// The policies that decided.
    pub policies: Vec<PolicyId>,
    /// Of a failed one: what differs; of one that cannot be run: why.
    pub why: String,
    /// It cannot be run.
    pub bad: bool,
}

/// The verdicts a case may expect.
const EXPECTED: [&str; 4] = ["issue", "approval", "permit", "deny"];
/// The acts that a case may name.
const ACTIONS: [&str; 6] = ["emergency", "approve", "revoke", "view", "review", "administer"];

impl Bundle {
    /// Runs every case of the bundle, in order.
    #[must_use]
    pub fn test(&self) -> Vec<CaseResult> {
        let cases = |(source, cases): &(Source, Cases)| {
            cases.case.iter().map(|case| self.run(source, case.get_ref())).collect::<Vec<_>>()
        };
        self.cases.iter().flat_map(cases).collect()
    }

    fn run(&self, source: &Source, case: &Case) -> CaseResult {
        let at = source.at(&case.name.span());
        let name = case.name.get_ref().clone();
        match self.decide(case) {
            Ok((decided, policies, why)) => {
                let why = differs(case, &decided, &policies, why);
                CaseResult { name, at, passed: why.is_empty(), decided, policies, why, bad: false }
            }
            Err((text, why)) => {
                let at = text.map_or(at, |span| source.at(&span));
                let (decided, policies) = (String::new(), Vec::new());
                CaseResult { name, at, passed: false, decided, policies, why, bad: true }
            }
        }
    }

    fn decide(&self, case: &Case) -> Result<Decided, Bad> {
        one_of(&case.expect, &EXPECTED)?;
        match &case.action {
            None => self.access(case, false),
            Some(action) => match one_of(action, &ACTIONS)? {
                "emergency" => self.access(case, true),
                "approve" => self.approve(case),
                "revoke" => self.operate(case, Action::Revoke),
                "view" => self.operate(case, Action::View),
                "review" => self.operate(case, Action::Review),
                _ => self.operate(case, Action::Administer),
            },
        }
    }

    fn access(&self, case: &Case, emergency: bool) -> Result<Decided, Bad> {
        let identity = self.case_identity(case)?;
        let login = self.case_login(case, &identity);
        let subject = Subject::try_from("case").map_err(|bad| (None, bad.to_string()))?;
        let lifetime = match &case.lifetime {
            Some(text) => Some(case_duration(text)?),
            None => None,
        };
        let scopes = Scopes::new(case_scopes(case)?).map_err(|bad| (None, bad.to_string()))?;
        let request = AccessRequest {
            by: Workload { identity, subject },
            task: case_task(case)?,
            resource: self.case_resource(case)?,
            scopes,
            lifetime: lifetime.map(Lifetime),
            purpose: Words::parse("purpose", "a test case").unwrap_or_default(),
            key: None,
            emergency,
            proof: None,
        };
        let findings = case_findings(case);
        let ask = Ask {
            request: &request,
            login: &login,
            now: case_now(case)?,
            active: case.active,
            findings: &findings,
            region: &case.region,
        };
        let mode = Mode { issue_only: false, case: case.now.is_none(), advise: true };
        let ruling = self.rule_on(&ask, Mode { case: mode.case || case.login.is_none(), ..mode });
        let decided = match ruling.effect {
            Effect::Issue if emergency => "permit",
            Effect::Issue => "issue",
            Effect::NeedsApproval => "approval",
            Effect::Deny => "deny",
        };
        Ok((decided.to_owned(), ruling.policies, format!("{} {}", ruling.code, ruling.remedy)))
    }

    fn approve(&self, case: &Case) -> Result<Decided, Bad> {
        let (identity, resource) = (self.case_identity(case)?, self.case_resource(case)?);
        let lifetime = match &case.lifetime {
            Some(text) => case_duration(text)?,
            None => self.default_lifetime(&identity),
        };
        let of = Approvable {
            identity: &identity,
            task: &case_task(case)?,
            resource: &resource,
            scopes: &case_scopes(case)?,
            lifetime,
            now: case_now(case)?,
            findings: &case_findings(case),
        };
        Ok(match self.approves(&self.case_person(case)?, &of) {
            Ok(policies) => ("permit".to_owned(), policies, String::new()),
            Err((why, policies)) => ("deny".to_owned(), policies, why),
        })
    }

    fn operate(&self, case: &Case, action: Action) -> Result<Decided, Bad> {
        let object = match (&case.identity, &case.resource) {
            (Some(_), _) => Object::Identity(self.case_identity(case)?),
            (None, Some(_)) => Object::Resource(self.case_resource(case)?),
            (None, None) => Object::Broker,
        };
        let permit = self.may(&self.case_person(case)?, action, &object, case_now(case)?);
        let decided = if permit.yes { "permit" } else { "deny" };
        Ok((decided.to_owned(), permit.policies, permit.why_not))
    }

    fn case_identity(&self, case: &Case) -> Result<IdentityName, Bad> {
        let text = case.identity.as_ref().ok_or((None, "it needs `identity`".to_owned()))?;
        let name = IdentityName::try_from(text.get_ref().as_str()).ok();
        name.filter(|name| self.identities.contains_key(name)).ok_or_else(|| {
            let known = self.identities.keys().map(IdentityName::as_str);
            missing(text, "identity", did_you_mean(text.get_ref(), known))
        })
    }

    fn case_resource(&self, case: &Case) -> Result<ResourceName, Bad> {
        let text = case.resource.as_ref().ok_or((None, "it needs `resource`".to_owned()))?;
        let name = ResourceName::try_from(text.get_ref().as_str()).ok();
        let Some(name) = name.filter(|name| self.catalog.resources.contains_key(name)) else {
            let known = self.catalog.resources.keys().map(ResourceName::as_str);
            return Err(missing(text, "resource", did_you_mean(text.get_ref(), known)));
        };
        let scopes = self.catalog.resources.get(&name).map(|resource| &resource.scopes);
        for text in &case.scopes {
            let known = || scopes.into_iter().flat_map(BTreeMap::keys).map(ScopeName::as_str);
            if !known().any(|scope| scope == text.get_ref()) {
                return Err(missing(text, "scope", did_you_mean(text.get_ref(), known())));
            }
        }
        Ok(name)
    }

    fn case_person(&self, case: &Case) -> Result<Person, Bad> {
        let name = case.person.as_ref().map_or("case", |text| text.get_ref());
        let name = PersonName::try_from(name).map_err(|bad| (None, bad.to_string()))?;
        let mut groups = Vec::new();
        for text in &case.groups {
            let group = GroupName::try_from(text.get_ref().as_str()).ok();
            let group =
                group.filter(|group| self.people.groups.contains_key(group)).ok_or_else(|| {
                    let known = self.people.groups.keys().map(GroupName::as_str);
                    missing(text, "group", did_you_mean(text.get_ref(), known))
                })?;
            groups.push(group);
        }
        Ok(Person::new(name, groups))
    }

    /// What the case says, or the identity's first login.
    fn case_login(&self, case: &Case, identity: &IdentityName) -> Login {
        let texts = |claims: &BTreeMap<String, String>| {
            claims.iter().map(|(name, value)| (name.clone(), Claim::Text(value.clone()))).collect()
        };
        if let Some(login) = &case.login {
            let subject = login.claims.get("sub").cloned().unwrap_or_else(|| "case".to_owned());
            return Login {
                issuer: login.issuer.get_ref().clone(),
                subject,
                claims: texts(&login.claims),
            };
        }
        let rule = self.identities.get(identity).and_then(|identity| identity.logins.first());
        rule.map_or_else(
            || Login::dev_identity(identity.as_str()),
            |rule| {
                let subject = rule.claims.get("sub").cloned().unwrap_or_else(|| "case".to_owned());
                Login { issuer: rule.issuer.to_string(), subject, claims: texts(&rule.claims) }
            },
        )
    }

    fn default_lifetime(&self, identity: &IdentityName) -> Duration {
        let tier =
            self.identities.get(identity).and_then(|known| self.catalog.tiers.get(&known.tier));
        tier.map_or(Duration::ZERO, |tier| tier.default_lifetime.0)
    }
}

/// Reports cases that fail or cannot be run, and policies that decide none.
pub fn report(bundle: &Bundle, findings: &mut Findings) {
    let mut decided: BTreeSet<PolicyId> = BTreeSet::new();
    for result in bundle.test() {
        decided.extend(result.policies);
        if !result.passed {
            let code = if result.bad { policy::BAD_CASE } else { policy::CASE_FAILED };
            findings.error(&result.at, code, format!("case `{}`: {}", result.name, result.why));
        }
    }
    for rule in bundle.book.rules.iter().filter(|rule| !rule.notes.shadow) {
        if !decided.contains(&rule.id) {
            let message = format!("policy `{}` decides no case: add one to tests/", rule.id);
            findings.warning(&rule.at, policy::UNTESTED_POLICY, message);
        }
    }
}

/// What was decided, by which policies, and why.
type Decided = (String, Vec<PolicyId>, String);
/// Why a case cannot be run, and where that is written.
type Bad = (Option<std::ops::Range<usize>>, String);

fn differs(case: &Case, decided: &str, policies: &[PolicyId], why: String) -> String {
    let expected = case.expect.get_ref();
    if expected != decided {
        let why = if decided == "deny" { format!(" ({})", why.trim()) } else { String::new() };
        let by = names(policies.iter().map(PolicyId::as_str));
        let by = if policies.is_empty() { String::new() } else { format!(" by {by}") };
        return format!("expected {expected}, decided {decided}{by}{why}");
    }
    let Some(wanted) = &case.policies else { return String::new() };
    let wanted: BTreeSet<&str> = wanted.iter().map(|text| text.get_ref().as_str()).collect();
    let found: BTreeSet<&str> = policies.iter().map(PolicyId::as_str).collect();
    if wanted == found {
        return String::new();
    }
    let (wanted, found) = (names(wanted.into_iter()), names(found.into_iter()));
    format!("expected to be decided by {wanted}, was by {found}")
}

/// `` `a`, `b` ``, or `no policy`.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "no policy".to_owned() } else { names.join(", ") }
}

fn one_of<'a>(text: &'a Text, known: &[&'static str]) -> Result<&'a str, Bad> {
    if known.contains(&text.get_ref().as_str()) {
        return Ok(text.get_ref());
    }
    Err((Some(text.span()), format!("`{}` is none of {}", text.get_ref(), known.join(", "))))
}

fn missing(text: &Text, what: &str, hint: String) -> Bad {
    (Some(text.span()), format!("there is no {what} `{}`{hint}", text.get_ref()))
}

fn case_scopes(case: &Case) -> Result<Vec<ScopeName>, Bad> {
    let name = |text: &Text| {
        let name = ScopeName::try_from(text.get_ref().as_str());
        name.map_err(|bad| (Some(text.span()), bad.to_string()))
    };
    case.scopes.iter().map(name).collect()
}

fn case_findings(case: &Case) -> Vec<String> {
    case.findings.iter().map(|text| text.get_ref().clone()).collect()
}

fn case_task(case: &Case) -> Result<Task, Bad> {
    let (id, kind) =
        case.task.as_ref().map_or(("case", ""), |task| (task.id.get_ref(), &task.kind));
    let id = TaskId::try_from(id).map_err(|bad| (None, bad.to_string()))?;
    let kind = TaskKind::try_from(kind).map_err(|bad| (None, bad.to_string()))?;
    Ok(Task { id, kind, url: Words::default() })
}

fn case_duration(text: &Text) -> Result<Duration, Bad> {
    let range = crate::policy::parse_catalog::LIFETIMES;
    duration(text.get_ref(), range).map_err(|why| (Some(text.span()), why))
}

fn case_now(case: &Case) -> Result<Time, Bad> {
    let Some(now) = &case.now else { return Ok(CASE_NOW) };
    let text = now.get_ref().to_string();
    let parsed = moment(&text);
    parsed.ok_or_else(|| {
        (Some(now.span()), format!("`{text}` is no moment, write it like 2026-11-22T09:00:00Z"))
    })
}
