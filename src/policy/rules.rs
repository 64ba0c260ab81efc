//! Policies as they are written: Cedar read and validated, annotations parsed, each policy a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use protem_core::limits::{DECIDE_WITHIN_MAX, STALENESS};
use protem_core::request::field;
use protem_verify::codes::{Code, policy};
use protem_verify::ids::Hash;
use protem_verify::names::{GroupName, PolicyId};
use sha2::{Digest, Sha256};

use crate::policy::finding::{At, Findings, Source, did_you_mean};
use crate::policy::parse_catalog::LIFETIMES;
use crate::policy::read::duration;

/// The built-in schema, as `protem policy schema` prints it.
pub const SCHEMA: &str = include_str!("schema.cedarschema");
/// Policies in one bundle: ten times what the benchmarks show.
pub const POLICIES_MAX: usize = 100_000;

/// What a policy may be about; Cedar's actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Granted at once.
    Issue,
    /// Granted after approval.
    Request,
    /// Break-glass.
    Emergency,
    /// May decide.
    Approve,
    /// May end access.
    Revoke,
    /// May look.
    View,
    /// May close a review.
    Review,
    /// May change the rules.
    Administer,
}

/// Every act.
pub const ACTS: [Act; 8] = [
    Act::Issue,
    Act::Request,
    Act::Emergency,
    Act::Approve,
    Act::Revoke,
    Act::View,
    Act::Review,
    Act::Administer,
];

impl Act {
    /// Its name in policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Request => "request",
            Self::Emergency => "emergency",
            Self::Approve => "approve",
            Self::Revoke => "revoke",
            Self::View => "view",
            Self::Review => "review",
            Self::Administer => "administer",
        }
    }

    /// Whether it is a workload's.
    #[must_use]
    pub fn is_access(self) -> bool {
        matches!(self, Self::Issue | Self::Request | Self::Emergency)
    }

    fn of(uid: &EntityUid) -> Option<Self> {
        let name = uid.id().unescaped();
        ACTS.into_iter().find(|act| act.as_str() == name)
    }
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its `@id`.
    pub id: PolicyId,
    /// Where it is written.
    pub at: At,
    /// As it is written, for digests.
    pub text: Arc<str>,
    /// For evaluation; its Cedar id is its `@id`.
    pub cedar: Policy,
    /// Which acts it is about.
    pub acts: BTreeSet<Act>,
    /// Whom its head names; absent: anyone, `is` too.
    pub principal: Option<EntityUid>,
    /// What its head names; absent: anything, `is` too.
    pub resource: Option<EntityUid>,
    /// What its annotations say.
    pub notes: Notes,
}

/// What a policy's annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Distinct approvers; absent: one.
    pub approvals: Option<u16>,
    /// How long a request waits.
    pub decide_within: Option<Duration>,
    /// When to remind.
    pub remind: Option<Duration>,
    /// Whom to ask after the reminder.
    pub then: Option<GroupName>,
    /// The identity's owners may decide.
    pub owners_may: bool,
    /// It is evaluated and journaled, and decides nothing.
    pub shadow: bool,
    /// Tightens a grant's lifetime.
    pub max_lifetime: Option<Duration>,
    /// Tightens a credential's freshness.
    pub max_staleness: Option<Duration>,
}

impl Rule {
    /// Whether it permits.
    #[must_use]
    pub fn permits(&self) -> bool {
        self.cedar.effect() == Effect::Permit
    }

    /// Whether it can be about a request for access.
    #[must_use]
    pub fn is_of_access(&self) -> bool {
        self.acts.iter().any(|act| act.is_access())
    }

    /// Whether its text could speak of `word`: a text with escapes could spell any.
    #[must_use]
    pub fn mentions(&self, word: &str) -> bool {
        self.text.contains(word) || self.text.contains('\\')
    }
}

/// A digest of rules' ids and texts, in the order of their ids.
#[must_use]
pub fn digest<'a>(rules: impl Iterator<Item = &'a Rule>) -> Hash {
    let sorted: BTreeMap<&PolicyId, &Rule> = rules.map(|rule| (&rule.id, rule)).collect();
    let mut hash = Sha256::new();
    for (id, rule) in sorted {
        field(&mut hash, id.as_str().as_bytes());
        field(&mut hash, rule.text.as_bytes());
    }
    Hash(hash.finalize().into())
}

/// Reads and validates every policy file.
pub fn read(
    sources: &[Source],
    groups: &BTreeSet<GroupName>,
    findings: &mut Findings,
) -> Vec<Rule> {
    let schema = match Schema::from_cedarschema_str(SCHEMA) {
        Ok((schema, _)) => schema,
        Err(error) => {
            findings.error(
                &At::bundle(),
                policy::CEDAR_INVALID,
                format!("built-in schema: {error}"),
            );
            return Vec::new();
        }
    };
    let validator = Validator::new(schema);
    let mut rules: BTreeMap<PolicyId, Rule> = BTreeMap::new();
    for source in sources {
        let Some((set, placed)) = file(source, findings) else { continue };
        validate(&validator, &set, source, &placed, findings);
        for (policy, at) in placed {
            let mut reading = Annotations { findings, at: &at, groups };
            let Some(rule) = reading.rule(policy) else { continue };
            if let Some(other) = rules.get(&rule.id) {
                let message = format!("`@id(\"{}\")` is also at {}", rule.id, other.at);
                findings.error(&rule.at, policy::DUPLICATE_ID, message);
            } else {
                rules.insert(rule.id.clone(), rule);
            }
        }
    }
    if rules.len() > POLICIES_MAX {
        let message = format!("there are more than {POLICIES_MAX} policies");
        findings.error(&At::bundle(), policy::TOO_LARGE, message);
    }
    rules.into_values().collect()
}

type Placed = Vec<(Policy, At)>;

/// One file's policies, each with the place where it begins.
fn file(source: &Source, findings: &mut Findings) -> Option<(PolicySet, Placed)> {
    let set = match PolicySet::from_str(&source.text) {
        Ok(set) => set,
        Err(errors) => {
            for error in errors.iter().take(ERRORS_MAX) {
                let at = source.at(&span(error).unwrap_or(0..0));
                findings.error(&at, policy::CEDAR_SYNTAX, one_line(error));
            }
            return None;
        }
    };
    for template in set.templates() {
        let text = template.to_cedar();
        let start = source.text.find(text.trim()).unwrap_or(0);
        let message =
            "templates are not used; write a policy in place of `?principal` and `?resource`";
        findings.error(&source.at(&(start..start)), policy::NO_TEMPLATES, message);
    }
    let mut policies: Vec<&Policy> = set.policies().collect();
    // Cedar numbers them as they are written: policy0, policy1, …
    policies.sort_by_key(|policy| number(policy));
    let mut from = 0;
    let mut placed = Vec::new();
    for policy in policies {
        let text = policy.to_cedar().unwrap_or_default();
        let rest = source.text.get(from..).unwrap_or_default();
        let start = rest.find(text.trim()).map_or(from, |at| from.saturating_add(at));
        from = start.saturating_add(text.trim().len()).min(source.text.len());
        placed.push((policy.clone(), source.at(&(start..start))));
    }
    Some((set, placed))
}

/// Errors of one file that are reported: the rest follows from the first ones.
const ERRORS_MAX: usize = 20;

fn number(policy: &Policy) -> u64 {
    let id: &str = policy.id().as_ref();
    id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

/// Validates strictly; warnings are errors.
fn validate(
    validator: &Validator,
    set: &PolicySet,
    source: &Source,
    placed: &Placed,
    findings: &mut Findings,
) {
    let found = validator.validate(set, ValidationMode::Strict);
    let whole = |id: &cedar_policy::PolicyId| {
        let policy = placed.iter().find(|(policy, _)| policy.id() == id);
        policy.map_or_else(|| At::file(&source.name), |(_, at)| at.clone())
    };
    for error in found.validation_errors().take(ERRORS_MAX) {
        let at = span(error).map_or_else(|| whole(error.policy_id()), |span| source.at(&span));
        findings.error(&at, policy::CEDAR_INVALID, one_line(error));
    }
    for warning in found.validation_warnings().take(ERRORS_MAX) {
        let at = span(warning).map_or_else(|| whole(warning.policy_id()), |span| source.at(&span));
        findings.error(&at, policy::CEDAR_INVALID, one_line(warning));
    }
}

fn span(diagnostic: &dyn Diagnostic) -> Option<Range<usize>> {
    let label = diagnostic.labels()?.next()?;
    Some(label.offset()..label.offset().saturating_add(label.len()))
}

/// A diagnostic in one line: Cedar's own number of a policy says nothing to people.
fn one_line(diagnostic: &dyn Diagnostic) -> String {
    let text = diagnostic.to_string();
    let text = text
        .strip_prefix("for policy `")
        .map_or(text.as_str(), |rest| rest.split_once("`, ").map_or(rest, |(_, said)| said));
    let help = diagnostic.help().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{text}{help}").replace('\n', " ")
}

/// Reading one policy's head and annotations.
struct Annotations<'a> {
    findings: &'a mut Findings,
    at: &'a At,
    groups: &'a BTreeSet<GroupName>,
}

const KNOWN: [&str; 9] = [
    "id",
    "approvals",
    "decide_within",
    "remind",
    "then",
    "owners",
    "mode",
    "max_lifetime",
    "max_staleness",
];

impl Annotations<'_> {
    fn rule(&mut self, cedar: Policy) -> Option<Rule> {
        let id = self.id(&cedar);
        let acts = acts(&cedar.action_constraint());
        let principal = match cedar.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        };
        let resource = match cedar.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => Some(uid),
        };
        let permits = cedar.effect() == Effect::Permit;
        if permits && (principal.is_none() || resource.is_none()) {
            let what = if principal.is_none() { "principal" } else { "resource" };
            let message = format!(
                "the permit does not constrain its {what}; name one in its head, with `==` or `in`"
            );
            self.findings.error(self.at, policy::UNCONSTRAINED_PERMIT, message);
        }
        let notes = self.notes(&cedar, permits, &acts);
        let text: Arc<str> = cedar.to_cedar().unwrap_or_default().into();
        let id = id?;
        let cedar = cedar.new_id(cedar_policy::PolicyId::new(id.as_str()));
        Some(Rule { id, at: self.at.clone(), text, cedar, acts, principal, resource, notes })
    }

    fn id(&mut self, cedar: &Policy) -> Option<PolicyId> {
        let Some(id) = cedar.annotation("id") else {
            let message = "write `@id(\"…\")` before the policy";
            self.findings.error(self.at, policy::NO_ID, message);
            return None;
        };
        match PolicyId::try_from(id) {
            Ok(id) => Some(id),
            Err(bad) => {
                let message = format!("`@id(\"{id}\")` {}", bad.why);
                self.findings.error(self.at, policy::BAD_ANNOTATION, message);
                None
            }
        }
    }

    fn notes(&mut self, cedar: &Policy, permits: bool, acts: &BTreeSet<Act>) -> Notes {
        let mut notes = Notes::default();
        let request = permits && *acts == BTreeSet::from([Act::Request]);
        let approve = permits && *acts == BTreeSet::from([Act::Approve]);
        let access = permits && acts.iter().all(|act| act.is_access());
        for (name, value) in cedar.annotations() {
            let (placed, home) = match name {
                "id" | "mode" => (true, ""),
                "approvals" | "decide_within" | "remind" | "then" => {
                    (request, "permits of `request`")
                }
                "owners" => (approve, "permits of `approve`"),
                "max_lifetime" | "max_staleness" => {
                    (access, "permits of `issue`, `request` or `emergency`")
                }
                _ => {
                    let hint = did_you_mean(name, KNOWN.into_iter());
                    self.bad(
                        policy::UNKNOWN_ANNOTATION,
                        format!("there is no annotation `@{name}`{hint}"),
                    );
                    continue;
                }
            };
            if !placed {
                self.bad(policy::MISPLACED_ANNOTATION, format!("`@{name}` belongs to {home} only"));
            }
            self.note(&mut notes, name, value);
        }
        let within = notes.decide_within.unwrap_or(protem_core::limits::DECIDE_WITHIN_DEFAULT);
        if notes.remind.is_some_and(|remind| remind >= within) {
            self.bad(
                policy::BAD_ANNOTATION,
                "`@remind` must be shorter than `@decide_within` (1h when absent)".to_owned(),
            );
        }
        if notes.then.is_some() && notes.remind.is_none() {
            self.bad(
                policy::MISPLACED_ANNOTATION,
                "`@then` asks after the reminder; add `@remind`".to_owned(),
            );
        }
        notes
    }

    fn note(&mut self, notes: &mut Notes, name: &str, value: &str) {
        match name {
            "approvals" => notes.approvals = self.approvals(value),
            "decide_within" => {
                notes.decide_within = self.duration(name, value, SECOND..=DECIDE_WITHIN_MAX)
            }
            "remind" => notes.remind = self.duration(name, value, SECOND..=DECIDE_WITHIN_MAX),
            "max_lifetime" => notes.max_lifetime = self.duration(name, value, LIFETIMES),
            "max_staleness" => notes.max_staleness = self.duration(name, value, STALENESS),
            "then" => {
                notes.then =
                    GroupName::try_from(value).ok().filter(|name| self.groups.contains(name));
                if notes.then.is_none() {
                    let hint = did_you_mean(value, self.groups.iter().map(GroupName::as_str));
                    let message = format!("there is no group `{value}`{hint}");
                    let code = policy::UNKNOWN_APPROVERS;
                    self.findings.missing(self.at, code, ("group", value), message);
                }
            }
            "owners" => {
                notes.owners_may = value == "may";
                if !notes.owners_may {
                    self.bad(
                        policy::BAD_ANNOTATION,
                        format!("`@owners(\"{value}\")`: write `@owners(\"may\")`"),
                    );
                }
            }
            "mode" => {
                notes.shadow = value == "shadow";
                if !notes.shadow {
                    self.bad(
                        policy::BAD_ANNOTATION,
                        format!("`@mode(\"{value}\")`: write `@mode(\"shadow\")`, or leave it out"),
                    );
                }
            }
            _ => {}
        }
    }

    fn approvals(&mut self, value: &str) -> Option<u16> {
        match value.parse::<u16>() {
            Ok(0) => {
                self.bad(
                    policy::ZERO_APPROVALS,
                    "`@approvals(\"0\")`: what needs no approval is `issue`".to_owned(),
                );
                None
            }
            Ok(count) if count <= APPROVALS_MAX => Some(count),
            _ => {
                self.bad(
                    policy::BAD_ANNOTATION,
                    format!("`@approvals(\"{value}\")`: write a number, 1 to {APPROVALS_MAX}"),
                );
                None
            }
        }
    }

    fn duration(
        &mut self,
        name: &str,
        value: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match duration(value, range) {
            Ok(duration) => Some(duration),
            Err(message) => {
                self.bad(policy::BAD_ANNOTATION, format!("`@{name}`: {message}"));
                None
            }
        }
    }

    fn bad(&mut self, code: Code, message: String) {
        self.findings.error(self.at, code, message);
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Approvers that one request may need: more people than this never agree in a day.
const APPROVALS_MAX: u16 = 16;

fn acts(constraint: &ActionConstraint) -> BTreeSet<Act> {
    match constraint {
        ActionConstraint::Any => ACTS.into_iter().collect(),
        ActionConstraint::Eq(uid) => Act::of(uid).into_iter().collect(),
        ActionConstraint::In(uids) => uids.iter().filter_map(Act::of).collect(),
    }
}
