//! What policy says to a request: at once, after approval, or no, and what a yes is worth.

use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{Context, Entity};
use protem_core::limits::{DECIDE_WITHIN_DEFAULT, LIFETIME_MAX};
use protem_core::request::AccessRequest;
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Terms, Verdict};
use protem_verify::codes::{Code, policy};
use protem_verify::names::{GroupName, ResourceName, ScopeName};
use protem_verify::time::{Lifetime, Staleness, Time};

use crate::policy::ask::Ask;
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Identity, Resource, Scope, Tier};
use crate::policy::context;
use crate::policy::input::Recorded;
use crate::policy::read::spoken;
use crate::policy::remedy;
use crate::policy::rulebook::Judged;
use crate::policy::rules::{self, Act, Rule};

/// How a request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Only `issue` counts: it was granted at once.
    pub issue_only: bool,
    /// A test case: nothing is overdue, and its login need not be the identity's.
    pub case: bool,
    /// Say what would pass instead; off while looking for that.
    pub advise: bool,
}

/// A fresh request.
pub const FRESH: Mode = Mode { issue_only: false, case: false, advise: true };

/// A no, before it is written down.
pub struct No {
    /// Its code.
    pub code: Code,
    /// The policies that forbid.
    pub policies: Vec<usize>,
    /// What to do instead; empty when it is still to be found.
    pub remedy: String,
}

impl No {
    fn new(code: Code, remedy: impl Into<String>) -> Self {
        Self { code, policies: Vec::new(), remedy: remedy.into() }
    }
}

/// A request whose names have all been found.
pub struct Hearing<'a> {
    /// What is asked.
    pub ask: &'a Ask<'a>,
    /// Who asks.
    pub identity: &'a Identity,
    /// Its tier.
    pub tier: &'a Tier,
    /// On what.
    pub resource: &'a Resource,
    /// The scopes that are asked for.
    pub scopes: Vec<(&'a ScopeName, &'a Scope)>,
    /// After the limits of scopes and tier, and which of them applied.
    pub lifetime: (Duration, String),
}

/// What the policies said, over all scopes.
#[derive(Default)]
pub struct Heard {
    /// The act that decided.
    pub act: Option<Act>,
    /// Determining policies.
    pub policies: Vec<usize>,
    /// Those of them that permit `request`.
    pub requests: Vec<usize>,
    /// Scopes that need approval.
    pub needs: Vec<ScopeName>,
    /// Some policy could look at how many grants the identity holds.
    pub reads_active: bool,
    /// What shadow policies would have said.
    pub shadow: Vec<String>,
}

impl Bundle {
    /// What policy says to a request. Total: whatever goes wrong is a deny with a code of its own.
    #[must_use]
    pub fn evaluate(&self, ask: &Ask<'_>) -> Verdict {
        Verdict::from_policy(self.rule_on(ask, FRESH)).reading_findings(self.reads_findings)
    }

    /// What this bundle says of a request that was ruled on before: on its recorded login and region, on what was unusual
    /// about it then, and on what is unusual about its use now (`of_use`). `as_issued`: it was granted at once, so only
    /// `issue` counts. An emergency is asked as `emergency`.
    #[must_use]
    pub fn reevaluate(
        &self,
        recorded: &Ruling,
        request: &AccessRequest,
        now: Time,
        (active, as_issued): (u32, bool),
        of_use: &[String],
    ) -> Verdict {
        let mode = Mode { issue_only: as_issued && !request.emergency, ..FRESH };
        let input = match Recorded::from_json(&recorded.input) {
            Ok(input) => input,
            Err(why) => {
                let no = No::new(policy::INPUT_UNREADABLE, format!("ask again; {why}"));
                return Verdict::from_policy(self.denied(request, now, None, no));
            }
        };
        let login = input.login();
        let (findings, region) = (&context::in_use(&input.findings, of_use), input.region.as_str());
        let ask = Ask { request, login: &login, now, active, findings, region };
        Verdict::from_policy(self.rule_on(&ask, mode))
    }

    /// Whether any policy could look at how many grants an identity holds.
    #[must_use]
    pub fn reads_active(&self) -> bool {
        self.reads_active
    }

    /// The ruling on a request.
    pub(in crate::policy) fn rule_on(&self, ask: &Ask<'_>, mode: Mode) -> Ruling {
        let tier = self.identities.get(&ask.request.by.identity);
        let tier = tier.and_then(|identity| self.catalog.tiers.get(&identity.tier));
        let hearing = match self.hearing(ask, mode) {
            Ok(hearing) => hearing,
            Err(no) => return self.record(ask, self.denied(ask.request, ask.now, tier, no)),
        };
        let heard = self.hear(&hearing, mode.issue_only).and_then(|heard| {
            self.behind_known(ask, &heard, mode)?;
            let terms = self.terms(&hearing, &heard)?;
            Ok((heard, terms))
        });
        match heard {
            Ok((heard, terms)) => self.granted(&hearing, heard, terms),
            Err(mut no) => {
                if no.remedy.is_empty() {
                    no.remedy = if mode.advise {
                        remedy::nearest(self, &hearing, &no, mode)
                    } else {
                        no.code.remedy.to_owned()
                    };
                }
                self.record(ask, self.denied(ask.request, ask.now, tier, no))
            }
        }
    }

    /// Finds every name, and what stands before all policies.
    fn hearing<'a>(&'a self, ask: &'a Ask<'a>, mode: Mode) -> Result<Hearing<'a>, No> {
        let request = ask.request;
        let identity = self.identities.get(&request.by.identity);
        let identity = identity
            .ok_or_else(|| No::new(policy::UNKNOWN_IDENTITY, policy::UNKNOWN_IDENTITY.remedy))?;
        let tier = self.catalog.tiers.get(&identity.tier);
        let tier =
            tier.ok_or_else(|| No::new(policy::UNKNOWN_IDENTITY, "its tier is not in the bundle"))?;
        let resource = self.catalog.resources.get(&request.resource);
        let resource = resource
            .ok_or_else(|| No::new(policy::UNKNOWN_RESOURCE, policy::UNKNOWN_RESOURCE.remedy))?;
        let mut scopes = Vec::new();
        for name in request.scopes.iter() {
            let scope = resource.scopes.get(name).ok_or_else(|| {
                No::new(
                    policy::UNKNOWN_SCOPE,
                    format!("`{}` has no scope `{name}`; check the name", request.resource),
                )
            })?;
            scopes.push((name, scope));
        }
        if !mode.case && self.whose(ask.login).is_none_or(|(name, _)| name != request.by.identity) {
            return Err(No::new(policy::LOGIN_CHANGED, policy::LOGIN_CHANGED.remedy));
        }
        for (what, regions) in [("identity", &identity.regions), ("resource", &resource.regions)] {
            let elsewhere = regions
                .as_ref()
                .filter(|regions| !regions.iter().any(|region| region == ask.region));
            if let Some(regions) = elsewhere {
                let remedy = format!(
                    "the {what} belongs to {}; ask that region's broker",
                    regions.join(", ")
                );
                return Err(No::new(policy::WRONG_REGION, remedy));
            }
        }
        if !mode.case && ask.now >= identity.review_by {
            let remedy = format!(
                "have {} renew `review_by` of `{}`",
                identity.owner.business, identity.name
            );
            return Err(No::new(policy::REVIEW_PASSED, remedy));
        }
        if request.proof.is_some() {
            return Err(No::new(policy::NO_BINDING, policy::NO_BINDING.remedy));
        }
        if request.emergency && request.purpose.as_str().trim().is_empty() {
            return Err(No::new(policy::PURPOSE_REQUIRED, policy::PURPOSE_REQUIRED.remedy));
        }
        let lifetime = self.lifetime(request, identity, tier, &scopes);
        Ok(Hearing { ask, identity, tier, resource, scopes, lifetime })
    }

    /// The least of what was asked, the scopes' classes and the tier, and which of them it is.
    fn lifetime(
        &self,
        request: &AccessRequest,
        identity: &Identity,
        tier: &Tier,
        scopes: &[(&ScopeName, &Scope)],
    ) -> (Duration, String) {
        let mut least = match request.lifetime {
            Some(Lifetime(asked)) => (asked, "as asked".to_owned()),
            None => (tier.default_lifetime.0, format!("the default of tier `{}`", identity.tier)),
        };
        let mut cap = |cap: Duration, from: String| {
            if cap < least.0 {
                least = (cap, from);
            }
        };
        cap(tier.max_lifetime.0, format!("from tier `{}`", identity.tier));
        cap(LIFETIME_MAX, "the longest of any grant".to_owned());
        for (name, scope) in scopes {
            let class = self.catalog.classes.get(&scope.class);
            if let Some(Lifetime(max)) = class.and_then(|class| class.max_lifetime) {
                cap(max, format!("from scope `{name}`"));
            }
        }
        least
    }

    /// Puts the request to the policies, in order: `emergency`; `issue` for all; else `issue` or `request` for each.
    pub(in crate::policy) fn hear(
        &self,
        hearing: &Hearing<'_>,
        issue_only: bool,
    ) -> Result<Heard, No> {
        let broken =
            |why: String| No::new(policy::POLICY_ERROR, format!("have it corrected: {why}"));
        let context =
            context::access(&self.book.store, hearing.ask, hearing.lifetime.0).map_err(broken)?;
        let mut session =
            Session { bundle: self, hearing, context, login: None, heard: Heard::default() };
        let one = if hearing.ask.request.emergency { Act::Emergency } else { Act::Issue };
        let (mut refused, mut forbidding) = (Vec::new(), Vec::new());
        for (name, _) in &hearing.scopes {
            let judged = session.put(one, name)?;
            if !judged.yes {
                refused.push(*name);
                forbidding.extend(judged.policies.into_iter().filter(|_| judged.forbidden));
            } else {
                session.heard.policies.extend(judged.policies);
            }
        }
        if refused.is_empty() {
            session.heard.act = Some(one);
            return Ok(session.heard);
        }
        let code = if !forbidding.is_empty() {
            policy::FORBIDDEN
        } else if one == Act::Emergency {
            policy::NO_EMERGENCY
        } else {
            policy::NOT_PERMITTED
        };
        if one == Act::Emergency || issue_only {
            return Err(No { code, policies: forbidding, remedy: String::new() });
        }
        // A forbid of `issue` alone still leaves `request`; when that fails too, it is what stood in the way.
        let mut no = No { code, policies: forbidding, remedy: String::new() };
        let mut failed = false;
        for name in refused {
            let judged = session.put(Act::Request, name)?;
            if judged.yes {
                session.heard.requests.extend(judged.policies);
                session.heard.needs.push(name.clone());
                continue;
            }
            failed = true;
            if judged.forbidden {
                no.code = policy::FORBIDDEN;
                no.policies.extend(judged.policies);
            }
        }
        if failed {
            return Err(no);
        }
        session.heard.act = Some(Act::Request);
        session.heard.policies.extend(session.heard.requests.clone());
        Ok(session.heard)
    }

    /// What needs approval must not be approved by the one who asks, so it must be known who that is.
    fn behind_known(&self, ask: &Ask<'_>, heard: &Heard, mode: Mode) -> Result<(), No> {
        if heard.act != Some(Act::Request) || mode.case {
            return Ok(());
        }
        let Some((_, Some(rule))) = self.whose(ask.login) else { return Ok(()) };
        match self.behind(rule, ask.login) {
            Ok(_) => Ok(()),
            Err(why) => Err(No::new(
                policy::PERSON_UNKNOWN,
                format!("{why}; add it to a `[person]` of people.toml"),
            )),
        }
    }

    /// What a yes is worth, with the texts of the limits that applied.
    fn terms(&self, hearing: &Hearing<'_>, heard: &Heard) -> Result<(Terms, Vec<String>), No> {
        let (mut lifetime, mut from) = hearing.lifetime.clone();
        let mut fresh = hearing.tier.max_staleness.0;
        let mut fresh_from = format!("from tier `{}`", hearing.identity.tier);
        for rule in heard.policies.iter().filter_map(|place| self.book.rule(*place)) {
            if let Some(max) = rule.notes.max_lifetime.filter(|max| *max < lifetime) {
                (lifetime, from) = (max, format!("from policy `{}`", rule.id));
            }
            if let Some(max) = rule.notes.max_staleness.filter(|max| *max < fresh) {
                (fresh, fresh_from) = (max, format!("from policy `{}`", rule.id));
            }
        }
        let request = hearing.ask.request;
        let mut claims = Vec::new();
        for (name, template) in &hearing.resource.claims {
            let filled =
                template.fill(&hearing.identity.team, request.task.id.as_str(), hearing.ask.login);
            let value = filled.map_err(|why| {
                No::new(policy::CLAIM_MISSING, format!("the claim `{name}`: {why}"))
            })?;
            claims.push((name.clone(), value));
        }
        let operations = hearing.scopes.iter().flat_map(|(name, scope)| {
            scope.operations.iter().map(move |operation| Arc::from(format!("{name} {operation}")))
        });
        let limits = vec![
            format!("lifetime {}, {from}", spoken(lifetime)),
            format!("freshness {}, {fresh_from}", spoken(fresh)),
        ];
        let terms = Terms {
            lifetime: Lifetime(lifetime),
            credential: Lifetime(hearing.tier.credential.0.min(lifetime)),
            fresh: Staleness(fresh),
            audience: hearing.resource.audience.clone(),
            claims: claims.into(),
            operations: operations.collect(),
            active_max: hearing.tier.active_max,
            pending_max: hearing.tier.pending_max,
        };
        Ok((terms, limits))
    }

    fn granted(
        &self,
        hearing: &Hearing<'_>,
        heard: Heard,
        (terms, limits): (Terms, Vec<String>),
    ) -> Ruling {
        let act = heard.act.unwrap_or(Act::Issue);
        let needs: Vec<String> =
            heard.needs.iter().map(|scope| scope.as_str().to_owned()).collect();
        let millis = u64::try_from(hearing.lifetime.0.as_millis()).unwrap_or(u64::MAX);
        let input = Recorded::new(hearing.ask, act, needs, millis, heard.shadow);
        let waits = act == Act::Request;
        Ruling {
            content: hearing.ask.request.content(),
            effect: if waits { Effect::NeedsApproval } else { Effect::Issue },
            policies: self.book.ids(&heard.policies),
            bundle: self.digest(),
            at: hearing.ask.now,
            terms,
            limits,
            findings: hearing.ask.findings.to_vec(),
            code: String::new(),
            remedy: String::new(),
            rule: waits
                .then(|| self.approval(hearing, &heard.policies, &heard.requests, &heard.needs)),
            active: heard.reads_active.then_some(hearing.ask.active),
            input: input.to_json(),
        }
    }

    /// The greatest `@approvals`, the shortest `@decide_within` and `@remind` of what permits the request.
    fn approval(
        &self,
        hearing: &Hearing<'_>,
        policies: &[usize],
        requests: &[usize],
        needs: &[ScopeName],
    ) -> ApprovalRule {
        let rules: Vec<&Rule> =
            requests.iter().filter_map(|place| self.book.rule(*place)).collect();
        let within = rules.iter().filter_map(|rule| rule.notes.decide_within).min();
        ApprovalRule {
            required: rules
                .iter()
                .filter_map(|rule| rule.notes.approvals)
                .max()
                .unwrap_or(1)
                .max(1),
            decide_within: within.unwrap_or(DECIDE_WITHIN_DEFAULT),
            remind: rules.iter().filter_map(|rule| rule.notes.remind).min(),
            then: rules.iter().find_map(|rule| rule.notes.then.clone()),
            policies: rules::digest(policies.iter().filter_map(|place| self.book.rule(*place))),
            groups: self.approvers(&hearing.ask.request.resource, needs),
        }
    }

    /// Groups that some `approve` policy names, for each of these scopes.
    #[must_use]
    pub fn approvers(&self, resource: &ResourceName, scopes: &[ScopeName]) -> Vec<GroupName> {
        let mut groups: Vec<GroupName> = self.people.groups.keys().cloned().collect();
        for scope in scopes {
            groups.retain(|group| self.names_approver(group, resource, scope));
        }
        groups
    }

    fn denied(&self, request: &AccessRequest, at: Time, tier: Option<&Tier>, no: No) -> Ruling {
        let zero = Lifetime(Duration::ZERO);
        Ruling {
            content: request.content(),
            effect: Effect::Deny,
            policies: self.book.ids(&no.policies),
            bundle: self.digest(),
            at,
            terms: Terms {
                lifetime: zero,
                credential: zero,
                fresh: Staleness(Duration::ZERO),
                audience: "".into(),
                claims: Arc::from([]),
                operations: Arc::from([]),
                active_max: tier.map_or(0, |tier| tier.active_max),
                pending_max: tier.map_or(0, |tier| tier.pending_max),
            },
            limits: Vec::new(),
            findings: Vec::new(),
            code: no.code.id.to_owned(),
            remedy: no.remedy,
            rule: None,
            active: None,
            input: Arc::from([]),
        }
    }

    fn record(&self, ask: &Ask<'_>, denied: Ruling) -> Ruling {
        let act = if ask.request.emergency { Act::Emergency } else { Act::Request };
        let asked = ask.request.lifetime.map_or(Duration::ZERO, |life| life.0);
        let millis = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
        let input = Recorded::new(ask, act, Vec::new(), millis, Vec::new());
        let active = self.reads_active.then_some(ask.active);
        Ruling { input: input.to_json(), findings: ask.findings.to_vec(), active, ..denied }
    }
}

/// One request before the policies.
struct Session<'a> {
    bundle: &'a Bundle,
    hearing: &'a Hearing<'a>,
    context: Context,
    login: Option<Entity>,
    heard: Heard,
}

impl Session<'_> {
    fn put(&mut self, act: Act, scope: &ScopeName) -> Result<Judged, No> {
        let request = self.hearing.ask.request;
        let book = &self.bundle.book;
        let slice = book.access(act, &request.by.identity, &request.resource, scope);
        self.heard.reads_active |= slice.reads_active;
        if slice.reads_login && self.login.is_none() {
            let made = context::login(&book.store, self.hearing.ask.login);
            self.login = Some(made.map_err(|why| No::new(policy::POLICY_ERROR, why))?);
        }
        let login = self.login.as_ref().filter(|_| slice.reads_login);
        let mut judged =
            book.judge(&slice, self.context.clone(), login.map_or(&[], std::slice::from_ref));
        self.heard.shadow.append(&mut judged.shadow);
        if judged.errors.is_empty() {
            return Ok(judged);
        }
        let remedy = format!("have it corrected: {}", judged.errors.join("; "));
        Err(No { code: policy::POLICY_ERROR, policies: judged.policies, remedy })
    }
}
