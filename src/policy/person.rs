//! What people may: decide requests, end access, look, review, administer.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Entity, EntityUid};
use protem_core::request::{AccessRequest, Task};
use protem_core::verdict::{Approver, ApproverVerdict, Effect, Ruling, Standing, Verdict};
use protem_verify::ids::Hash;
use protem_verify::names::{
    GroupName, IdentityName, PersonName, PolicyId, ResourceName, ScopeName,
};
use protem_verify::time::Time;

use crate::policy::ask::{Action, Object, Permit};
use crate::policy::bundle::{Bundle, Decision};
use crate::policy::catalog::{Identity, Issuer, LoginRule, Owner, Owners, Subjects};
use crate::policy::context;
use crate::policy::entities::Kind;
use crate::policy::input::Recorded;
use crate::policy::login::{DEV_ISSUER, Person};
use crate::policy::rulebook::Judged;
use crate::policy::rules::Act;

/// A request as its approver's policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Approvable<'a> {
    /// Who asks.
    pub identity: &'a IdentityName,
    /// For what.
    pub task: &'a Task,
    /// On what.
    pub resource: &'a ResourceName,
    /// The scopes that need approval.
    pub scopes: &'a [ScopeName],
    /// For how long.
    pub lifetime: std::time::Duration,
    /// When.
    pub now: Time,
    /// What is unusual about it.
    pub findings: &'a [String],
}

/// An approval that was given.
#[derive(Clone, Copy, Debug)]
pub struct Approved<'a> {
    /// Who.
    pub by: &'a PersonName,
    /// Who they were then.
    pub standing: &'a Standing,
    /// When.
    pub at: Time,
}

impl Bundle {
    /// Whether a person may decide a waiting request: policy's `approve` for every scope that needs it, and not their own.
    #[must_use]
    pub fn may_decide(&self, decision: &Decision<'_>) -> ApproverVerdict {
        let (may, why_not, policies) = match self.decider(decision) {
            Ok(policies) => (true, String::new(), policies),
            Err((why_not, policies)) => (false, why_not, policies),
        };
        ApproverVerdict::from_policy(Approver {
            person: decision.person.name.clone(),
            digest: decision.digest,
            bundle: self.digest(),
            at: decision.now,
            may,
            why_not,
            standing: Standing {
                account: decision.account.into(),
                groups: decision.person.groups.clone(),
                policies,
            },
        })
    }

    /// Adds to what policy says of a request who of those that approved it may still do so: each is asked about as they were
    /// and at the moment they approved, under this bundle. Whom it joins to another name is not the one who approved.
    #[must_use]
    pub fn with_approvers(
        &self,
        verdict: Verdict,
        request: &AccessRequest,
        behind: Option<&PersonName>,
        approved: &[Approved<'_>],
    ) -> Verdict {
        let ruling = verdict.ruling();
        let still = approved.iter().map(|one| {
            let known = |group: &&GroupName| self.people.groups.contains_key(*group);
            let groups = one.standing.groups.iter().filter(known).cloned().collect();
            let elsewhere = self.elsewhere(one.by, &one.standing.account);
            let person = Person { name: one.by.clone(), groups, elsewhere };
            let decision = Decision {
                person: &person,
                request,
                ruling,
                lifetime: ruling.terms.lifetime,
                behind,
                account: &one.standing.account,
                digest: Hash::default(),
                now: one.at,
            };
            (one.by.clone(), self.is_still(one) && self.decider(&decision).is_ok())
        });
        let still = still.collect();
        verdict.with_approvers(still)
    }

    /// Whether the account that approved is still that person's.
    fn is_still(&self, one: &Approved<'_>) -> bool {
        let Some((issuer, name)) = one.standing.account.split_once('|') else { return false };
        if issuer == DEV_ISSUER {
            return self.dev && name == one.by.as_str();
        }
        let people = |issuer: &&Issuer| issuer.subjects == Subjects::People;
        self.issuers.get(issuer).filter(people).is_some()
            && self.people.person(issuer, name).is_ok_and(|name| name == *one.by)
    }

    fn decider(&self, decision: &Decision<'_>) -> Result<Vec<PolicyId>, (String, Vec<PolicyId>)> {
        let no = |why: &str| Err((why.to_owned(), Vec::new()));
        if decision.behind == Some(&decision.person.name) {
            return no("they are behind the request");
        }
        if decision.ruling.bundle != self.digest() {
            return no("the bundle changed since policy looked at the request");
        }
        let Ok(input) = Recorded::from_json(&decision.ruling.input) else {
            return no("what was recorded of the request cannot be read");
        };
        if self.is_behind(&decision.person.name, &input) {
            return no("they are behind the request");
        }
        if decision.ruling.effect == Effect::Deny {
            return no("policy would refuse the request as it is now");
        }
        let request: &AccessRequest = decision.request;
        let needs: Vec<ScopeName> = request
            .scopes
            .iter()
            .filter(|scope| input.needs.iter().any(|need| need == scope.as_str()))
            .cloned()
            .collect();
        self.approves(
            decision.person,
            &Approvable {
                identity: &request.by.identity,
                task: &request.task,
                resource: &request.resource,
                scopes: &needs,
                lifetime: decision.lifetime.0,
                now: decision.now,
                findings: &input.findings,
            },
        )
    }

    /// The person behind a recorded login, as this bundle joins accounts; an error when its rule names one that nobody has.
    fn behind_now(&self, input: &Recorded) -> Result<Option<PersonName>, String> {
        let login = input.login();
        let Some((_, Some(rule))) = self.whose(&login) else { return Ok(None) };
        self.behind(rule, &login)
    }

    fn is_behind(&self, person: &PersonName, input: &Recorded) -> bool {
        self.behind_now(input).is_ok_and(|behind| behind.as_ref() == Some(person))
    }

    /// Whether a person may approve each of these scopes: the determining policies, or why not.
    ///
    /// # Errors
    /// Why not, with the policies that forbid it.
    pub(in crate::policy) fn approves(
        &self,
        person: &Person,
        of: &Approvable<'_>,
    ) -> Result<Vec<PolicyId>, (String, Vec<PolicyId>)> {
        let store = &self.book.store;
        let identity = store.uid(Kind::Identity, of.identity.as_str());
        let (entity, groups) = self.entity(person);
        let mut places = Vec::new();
        let no_owner = self.is_no_owner(person, of.identity);
        if of.scopes.is_empty() {
            return Err(("no scope of it needs approval".to_owned(), Vec::new()));
        }
        for scope in of.scopes {
            let object = store.uid(Kind::Scope, &format!("{}#{scope}", of.resource));
            let with = [identity.clone()];
            let slice = self.book.person(Act::Approve, &entity, &groups, object, &with);
            let context =
                context::approve(identity.clone(), of.task, of.lifetime, of.now, of.findings)
                    .map_err(|why| (why, Vec::new()))?;
            let judged = self.book.judge(&slice, context, std::slice::from_ref(&entity));
            if !judged.yes {
                let why = why_not(&judged, &format!("approve `{scope}` on `{}`", of.resource));
                return Err((why, self.book.ids(&judged.policies)));
            }
            // INVARIANT(owners_do_not_approve_their_own): unless a policy that determines it says they may.
            let rules = judged.policies.iter().filter_map(|place| self.book.rule(*place));
            let owners_may = rules.into_iter().any(|rule| rule.notes.owners_may);
            if let (Err(why), false) = (&no_owner, owners_may) {
                return Err((why.clone(), self.book.ids(&judged.policies)));
            }
            places.extend(judged.policies);
        }
        Ok(self.book.ids(&places))
    }

    /// Whether a person may do something to something.
    #[must_use]
    pub fn may(&self, person: &Person, action: Action, object: &Object, now: Time) -> Permit {
        let store = &self.book.store;
        let no = |why_not: String, forbidden| {
            let policies = Vec::new();
            Permit { yes: false, forbidden, policies, why_not }
        };
        let fits = match action {
            Action::Revoke | Action::View => true,
            Action::Review => !matches!(object, Object::Resource(_)),
            Action::Administer => matches!(object, Object::Broker),
        };
        if !fits {
            return no(format!("`{}` is not about {object}", action.as_str()), false);
        }
        let uid = match object {
            Object::Identity(name) => store.uid(Kind::Identity, name.as_str()),
            Object::Resource(name) => store.uid(Kind::Resource, name.as_str()),
            Object::Broker => store.broker().clone(),
        };
        let (entity, groups) = self.entity(person);
        let slice = self.book.person(act(action), &entity, &groups, uid, &[]);
        let context = match context::operate(now) {
            Ok(context) => context,
            Err(why) => return no(why, true),
        };
        let judged = self.book.judge(&slice, context, std::slice::from_ref(&entity));
        let policies = self.book.ids(&judged.policies);
        if judged.yes {
            return Permit { yes: true, forbidden: false, policies, why_not: String::new() };
        }
        let why_not = why_not(&judged, &format!("{} {object}", action.as_str()));
        let forbidden = judged.forbidden || !judged.errors.is_empty();
        Permit { yes: false, forbidden, policies, why_not }
    }

    /// Whether policy lets a person do this to anything at all, under whatever conditions: whom no permit names may not even
    /// ask about one thing or another.
    #[must_use]
    pub fn may_something(&self, person: &Person, action: Action) -> bool {
        let (entity, groups) = self.entity(person);
        let mut line = groups.into_iter().chain([entity.uid()]).map(Some).chain([None]);
        line.any(|whom| self.book.permits_something(act(action), whom))
    }

    /// Whether a person may do something to one of these objects: any one yes is enough, unless policy forbids it for an
    /// identity or resource among them. What is forbidden of one thing no yes on another gives back.
    ///
    /// # Errors
    /// Policy's reason for the first of them.
    pub fn permits(
        &self,
        person: &Person,
        action: Action,
        objects: &[Object],
        now: Time,
    ) -> Result<(), String> {
        let (mut yes, mut why_not) = (false, None);
        for object in objects {
            let permit = self.may(person, action, object, now);
            let why = || {
                let (name, verb) = (&person.name, action.as_str());
                // What is asked is said already.
                let why = permit.why_not.replace(&format!("s them to {verb} {object}"), "s it");
                format!("`{name}` may not {verb} {object}: {why}")
            };
            if permit.forbidden && *object != Object::Broker {
                return Err(why());
            }
            yes |= permit.yes;
            if !permit.yes {
                why_not.get_or_insert_with(why);
            }
        }
        if yes {
            return Ok(());
        }
        Err(why_not.unwrap_or_else(|| format!("`{}` may not do that", person.name)))
    }

    /// Whether a person is behind the request of an identity that a ruling is about, as this bundle joins accounts.
    ///
    /// # Errors
    /// Why nobody can know: then it may be anybody.
    pub fn stands_behind(
        &self,
        person: &Person,
        identity: &IdentityName,
        ruling: &Ruling,
    ) -> Result<bool, String> {
        let input = Recorded::from_json(&ruling.input);
        let input = input.map_err(|_| "what was recorded of the request cannot be read")?;
        let login = input.login();
        if self.whose(&login).is_some() {
            return Ok(self.behind_now(&input)?.as_ref() == Some(&person.name));
        }
        // The login is no one's now. Whoever was behind it is still told by the claim that the identity's logins name.
        let known = self.identities.get(identity);
        let known = known.ok_or_else(|| format!("the bundle no longer has `{identity}`"))?;
        let rules = known.logins.iter().filter(|rule| *rule.issuer == *login.issuer);
        let told = |rule: &&LoginRule| {
            rule.person.as_deref().is_some_and(|claim| login.text(claim).is_some())
        };
        for rule in rules.filter(told) {
            if self.behind(rule, &login)?.as_ref() == Some(&person.name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a person is among those who answer for an identity.
    #[must_use]
    pub fn owns_identity(&self, person: &Person, identity: &IdentityName) -> bool {
        self.identities.get(identity).is_some_and(|known| owns(person, &known.owner))
    }

    /// Whether a person surely answers for an identity by none of their accounts.
    ///
    /// # Errors
    /// Why they do, or may: who is in a group by an account that is not used now is not known.
    pub fn is_no_owner(&self, person: &Person, identity: &IdentityName) -> Result<(), String> {
        if self.owns_identity(person, identity) {
            return Err(format!("they own `{identity}`, and its owners do not count"));
        }
        let Some(known) = self.identities.get(identity) else { return Ok(()) };
        // INVARIANT(an_owner_is_one_by_every_account): what cannot be known counts against them.
        let mut owners = known.owner.groups().into_iter();
        owners.find(|group| person.elsewhere.contains(group)).map_or(Ok(()), |group| {
            Err(format!(
                "another account of theirs may be in `group:{group}`, which owns `{identity}`, and its owners do not count: only that \
                 account tells"
            ))
        })
    }

    /// The identities that `owner` (`group:payments-leads`, `person:alice`) answers for.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> &[IdentityName] {
        self.owned.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Everybody who answers for an identity, as [`Self::owned_by`] spells them.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.owned.keys().map(String::as_str)
    }

    /// Whether some `approve` policy names this group, for this scope.
    pub(in crate::policy) fn names_approver(
        &self,
        group: &GroupName,
        resource: &ResourceName,
        scope: &ScopeName,
    ) -> bool {
        let store = &self.book.store;
        let group = store.uid(Kind::Group, group.as_str());
        let scope = store.uid(Kind::Scope, &format!("{resource}#{scope}"));
        let places = self.book.candidates(Act::Approve, std::slice::from_ref(&group), &scope);
        let mut rules = places.iter().filter_map(|place| self.book.rule(*place));
        rules.any(|rule| {
            rule.permits() && !rule.notes.shadow && rule.principal.as_ref() == Some(&group)
        })
    }

    /// A person as Cedar sees it.
    fn entity(&self, person: &Person) -> (Entity, Vec<EntityUid>) {
        let store = &self.book.store;
        let groups: Vec<EntityUid> =
            person.groups.iter().map(|group| store.uid(Kind::Group, group.as_str())).collect();
        let uid = store.uid(Kind::Person, person.name.as_str());
        (Entity::new_no_attrs(uid, groups.iter().cloned().collect()), groups)
    }
}

fn act(action: Action) -> Act {
    match action {
        Action::Revoke => Act::Revoke,
        Action::View => Act::View,
        Action::Review => Act::Review,
        Action::Administer => Act::Administer,
    }
}

/// Whom each owner answers for.
pub(in crate::policy) fn owned(
    identities: &BTreeMap<IdentityName, Identity>,
) -> BTreeMap<String, Vec<IdentityName>> {
    let mut owned: BTreeMap<String, Vec<IdentityName>> = BTreeMap::new();
    for (name, identity) in identities {
        let both = [&identity.owner.business, &identity.owner.technical].map(Owner::to_string);
        for owner in BTreeSet::from(both) {
            owned.entry(owner).or_default().push(name.clone());
        }
    }
    owned
}

fn owns(person: &Person, owners: &Owners) -> bool {
    let is = |owner: &Owner| match owner {
        Owner::Group(name) => person.groups.contains(name),
        Owner::Person(name) => person.name == *name,
    };
    is(&owners.business) || is(&owners.technical)
}

fn why_not(judged: &Judged, what: &str) -> String {
    if !judged.errors.is_empty() {
        return format!("a policy failed: {}", judged.errors.join("; "));
    }
    if judged.forbidden {
        return format!("a policy forbids them to {what}");
    }
    format!("no policy permits them to {what}")
}
