//! Checks that need the whole bundle: names in policies, who may administer, what is overdue, what nobody may get.

use std::collections::BTreeSet;
use std::sync::Arc;

use protem_core::usual::word;
use protem_verify::codes::policy;
use protem_verify::names::{GroupName, PersonName, ResourceName, ScopeName};
use protem_verify::time::Time;
use serde_json::Value;

use crate::policy::ask::{Action, Object};
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{LoginRule, Owners, People};
use crate::policy::context::words;
use crate::policy::entities::{BROKER, Kind, Store};
use crate::policy::finding::{At, Findings, did_you_mean};
use crate::policy::login::Person;
use crate::policy::parse::Parsed;
use crate::policy::read::spoken;
use crate::policy::rules::{Act, Rule};

/// Every entity that a policy names must exist.
pub fn entities(rules: &[Rule], store: &Store, people: &People, findings: &mut Findings) {
    for rule in rules {
        let mut seen = Vec::new();
        for uid in rule.cedar.entity_literals() {
            if store.knows(&uid) || seen.contains(&uid) {
                continue;
            }
            let name = uid.id().unescaped().to_owned();
            let kind = Kind::of(&uid);
            let (code, hint) = match kind {
                Some(Kind::Action) | None => continue,
                Some(Kind::Person) if person_exists(people, &name) => continue,
                Some(Kind::Broker) => {
                    (policy::UNKNOWN_ENTITY, format!(", write `Broker::\"{BROKER}\"`"))
                }
                Some(Kind::Group) if rule.acts.contains(&Act::Approve) => {
                    (policy::UNKNOWN_APPROVERS, suggestion(store, Kind::Group, &name))
                }
                Some(kind) => (policy::UNKNOWN_ENTITY, suggestion(store, kind, &name)),
            };
            let message = format!(
                "policy `{}` names `{uid}`, which the bundle does not define{hint}",
                rule.id
            );
            let kind = kind.map(Kind::as_str).unwrap_or_default().to_lowercase();
            findings.missing(&rule.at, code, (&kind, &name), message);
            seen.push(uid);
        }
    }
}

fn suggestion(store: &Store, kind: Kind, name: &str) -> String {
    let known = store.names(kind);
    did_you_mean(name, known.iter().map(String::as_str))
}

/// `alice` of a `[person]`, or an account such as `corp|bob@shop.example`.
fn person_exists(people: &People, name: &str) -> bool {
    name.contains('|') || people.persons.keys().any(|person| person.as_str() == name)
}

/// Somebody must be able to put the next bundle in force.
pub fn administered(bundle: &Bundle, findings: &mut Findings) {
    let groups: Vec<GroupName> = bundle.people.groups.keys().cloned().collect();
    let Ok(anyone) = PersonName::try_from("anyone") else { return };
    let alone = groups.iter().map(|group| Person::new(anyone.clone(), vec![group.clone()]));
    let named = bundle.people.persons.keys().map(|name| Person::new(name.clone(), Vec::new()));
    let all = Person::new(anyone.clone(), groups.clone());
    let mut candidates = alone.chain(named).chain([all]);
    let may =
        |person: Person| bundle.may(&person, Action::Administer, &Object::Broker, CASE_NOW).yes;
    if !candidates.any(may) {
        let message = "nobody may administer: permit it, like `@id(\"operators-administer\") permit (principal in Group::\"operators\", action == Action::\"administer\", resource == Broker::\"protem\");`";
        findings.error(&At::bundle(), policy::NOBODY_ADMINISTERS, message);
    }
}

/// The moment at which cases without a `now` are evaluated, so that age changes none: noon of 2026-01-01 UTC.
pub const CASE_NOW: Time = Time::from_secs(1_767_268_800);

/// What time alone made wrong.
pub fn age(parsed: &Parsed, now: Time, findings: &mut Findings) {
    let place = |key: String| parsed.places.get(&key).cloned().unwrap_or_else(At::bundle);
    for identity in parsed.identities.values() {
        if now >= identity.review_by {
            let message = format!(
                "the review of identity `{}` is overdue: it gets no new grants; ask {}",
                identity.name, identity.owner.business
            );
            findings.age(
                &place(format!("identity {}", identity.name)),
                policy::REVIEW_OVERDUE,
                message,
            );
        }
    }
    for (name, secret) in &parsed.catalog.secrets {
        let at = place(format!("secret {name}"));
        if now >= secret.expires {
            let message = format!("secret `{name}` has expired: {}", secret.revoke);
            findings.age(&at, policy::SECRET_EXPIRED, message);
        } else if now.since(secret.created) > secret.rotate_every {
            let message = format!(
                "secret `{name}` is older than {}: rotate it, then set `created`",
                spoken(secret.rotate_every)
            );
            findings.age(&at, policy::SECRET_OVERDUE, message);
        }
    }
}

/// What is worth a look.
pub fn warnings(bundle: &Bundle, parsed: &Parsed, findings: &mut Findings) {
    let place = |key: String| parsed.places.get(&key).cloned().unwrap_or_else(At::bundle);
    for (resource, values) in &bundle.catalog.resources {
        for scope in values.scopes.keys() {
            if !permitted(bundle, resource, scope, Act::is_access) {
                let message = format!(
                    "nobody may get `{scope}` on `{resource}`: permit it to someone, or remove it"
                );
                findings.warning(
                    &place(format!("scope {resource}#{scope}")),
                    policy::UNREACHABLE_SCOPE,
                    message,
                );
            } else if permitted(bundle, resource, scope, |act| act == Act::Request)
                && !permitted(bundle, resource, scope, |act| act == Act::Approve)
            {
                let message = format!(
                    "`{scope}` on `{resource}` may be requested, and nobody may approve it: permit a group to `approve` it"
                );
                let at = place(format!("scope {resource}#{scope}"));
                findings.warning(&at, policy::NOBODY_DECIDES, message);
            }
        }
    }
    for (person, accounts, issuer) in several_accounts(bundle) {
        let message = format!(
            "person `{person}` signs in at `{issuer}` as {}: each account may be in a group that owns an identity, so they \
             decide on nothing that a group of `{issuer}` owns",
            accounts.join(" and as ")
        );
        let at = place(format!("person {person}"));
        findings.warning(&at, policy::SEVERAL_ACCOUNTS, message);
    }
    for identity in bundle.identities.values().filter(|identity| identity.logins.is_empty()) {
        let message = format!("identity `{}` has no login: nobody can ever be it", identity.name);
        findings.warning(&place(format!("identity {}", identity.name)), policy::NO_LOGIN, message);
    }
    for identity in bundle.identities.values() {
        if identity.logins.iter().any(by_name_alone) {
            let message = format!(
                "a login of identity `{}` names a service account, and one that is deleted and made again keeps its name: \
                 match `{ACCOUNT_UID}`, too",
                identity.name
            );
            let at = place(format!("identity {}", identity.name));
            findings.warning(&at, policy::WIDE_LOGIN, message);
        }
    }
    finding_words(bundle, findings);
    untold_emergencies(bundle, findings);
    for (name, secret) in &bundle.catalog.secrets {
        if let Some(found) = &secret.found_in {
            let message = format!("secret `{name}`, found in {found}, is not under control yet");
            findings.warning(&place(format!("secret {name}")), policy::UNMANAGED_SECRET, message);
        }
    }
}

/// Emergencies of which none of those who were skipped is told. Of a scope that nobody may approve, its resource's owners are.
fn untold_emergencies(bundle: &Bundle, findings: &mut Findings) {
    let groups = &bundle.people.groups;
    let told = |name: &GroupName| groups.get(name).is_some_and(|group| group.notify.is_some());
    for rule in
        bundle.book.rules.iter().filter(|rule| {
            rule.permits() && !rule.notes.shadow && rule.acts.contains(&Act::Emergency)
        })
    {
        let (mut untold, mut skipped) = (Vec::new(), BTreeSet::new());
        for (resource, values) in &bundle.catalog.resources {
            for scope in values.scopes.keys().filter(|scope| covers(bundle, rule, resource, scope))
            {
                let mut hear = bundle.approvers(resource, std::slice::from_ref(scope));
                if hear.is_empty() {
                    hear = values.owner.groups();
                }
                if !hear.iter().any(told) {
                    untold.push(format!("`{scope}` on `{resource}`"));
                    skipped.extend(hear.iter().map(|group| format!("`{group}`")));
                }
            }
        }
        let Some(first) = untold.first() else { continue };
        let more = match untold.len().saturating_sub(1) {
            0 => String::new(),
            1 => " and 1 more scope".to_owned(),
            more => format!(" and {more} more scopes"),
        };
        let skipped = skipped.into_iter().collect::<Vec<_>>().join(", ");
        let give = if skipped.is_empty() {
            "permit a group with a `notify` to `approve` it".to_owned()
        } else {
            format!("give a `notify` to {skipped}")
        };
        let message = format!(
            "policy `{}` gives {first}{more} in an emergency, and no webhook tells those who were not asked: {give}, unless \
             the broker's settings list such a group",
            rule.id
        );
        findings.warning(&rule.at, policy::EMERGENCY_UNTOLD, message);
    }
}

/// Words that are no finding: a `forbid` that waits for one is no guard, and a case that sets one tries nothing.
fn finding_words(bundle: &Bundle, findings: &mut Findings) {
    let mut look = |who: String, word: &str, at: &At| {
        if words().all(|known| known != word) {
            let hint = did_you_mean(word, words());
            let message = format!("{who} `{word}`, which is no finding and never so{hint}");
            findings.warning(at, policy::FINDING_ABSENT, message);
        }
    };
    for rule in bundle.book.rules.iter().filter(|rule| rule.mentions("findings")) {
        let mut compared = BTreeSet::new();
        compared_with_findings(&rule.cedar.to_json().unwrap_or_default(), &mut compared);
        for word in compared {
            look(format!("policy `{}` looks for", rule.id), &word, &rule.at);
        }
    }
    for (source, cases) in &bundle.cases {
        for case in &cases.case {
            let case = case.get_ref();
            for text in &case.findings {
                let who = format!("case `{}` sets", case.name.get_ref());
                look(who, word(text.get_ref()), &source.at(&text.span()));
            }
        }
    }
}

/// The texts that stand across from `context.findings` in a policy's tree, be it `contains`, `containsAny` or `==`.
fn compared_with_findings(tree: &Value, found: &mut BTreeSet<String>) {
    let is = |side: &Value| {
        let of = side.get(".");
        of.and_then(|of| of.get("attr")).and_then(Value::as_str) == Some("findings")
    };
    if let (Some(left), Some(right)) = (tree.get("left"), tree.get("right")) {
        for (one, other) in [(left, right), (right, left)] {
            if is(one) {
                texts(other, found);
            }
        }
    }
    match tree {
        Value::Array(all) => all.iter().for_each(|one| compared_with_findings(one, found)),
        Value::Object(all) => all.values().for_each(|one| compared_with_findings(one, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every literal text in a tree.
fn texts(tree: &Value, found: &mut BTreeSet<String>) {
    match tree {
        Value::Array(all) => all.iter().for_each(|one| texts(one, found)),
        Value::Object(all) => match all.get("Value") {
            Some(Value::String(text)) => drop(found.insert(text.clone())),
            _ => all.values().for_each(|one| texts(one, found)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a login matches a service account of Kubernetes by what another one may be called tomorrow.
fn by_name_alone(rule: &LoginRule) -> bool {
    let by_subject =
        rule.claims.get("sub").is_some_and(|sub| sub.starts_with("system:serviceaccount:"));
    let by_name = rule.claims.contains_key("kubernetes.io/serviceaccount/name");
    (by_subject || by_name) && !rule.claims.contains_key(ACCOUNT_UID)
}

/// The claim of a projected token that is never given again.
const ACCOUNT_UID: &str = "kubernetes.io/serviceaccount/uid";

/// Persons with more than one account at an issuer one of whose groups owns an identity: of no account it can be known that
/// the others are not in that group.
fn several_accounts(bundle: &Bundle) -> Vec<(PersonName, Vec<String>, Arc<str>)> {
    let owners = bundle.identities.values().map(|identity| &identity.owner);
    let owners: BTreeSet<GroupName> = owners.flat_map(Owners::groups).collect();
    let issuers = bundle.issuers.keys();
    let owning: Vec<&Arc<str>> = issuers
        .filter(|issuer| bundle.groups_by(issuer).any(|group| owners.contains(group)))
        .collect();
    let mut found = Vec::new();
    for (person, accounts) in &bundle.people.persons {
        for issuer in &owning {
            let there = accounts.iter().filter(|(at, _)| at == *issuer);
            let names: Vec<String> = there.map(|(_, name)| format!("`{name}`")).collect();
            if names.len() > 1 {
                found.push((person.clone(), names, Arc::clone(issuer)));
            }
        }
    }
    found
}

/// Whether any permit of such an action is about this scope.
fn permitted(
    bundle: &Bundle,
    resource: &ResourceName,
    scope: &ScopeName,
    such: impl Fn(Act) -> bool,
) -> bool {
    bundle.book.rules.iter().any(|rule| {
        rule.permits()
            && !rule.notes.shadow
            && rule.acts.iter().any(|act| such(*act))
            && covers(bundle, rule, resource, scope)
    })
}

/// Whether a rule can be about this scope.
fn covers(bundle: &Bundle, rule: &Rule, resource: &ResourceName, scope: &ScopeName) -> bool {
    let store = &bundle.book.store;
    let line = store.lineage(&store.uid(Kind::Scope, &format!("{resource}#{scope}")));
    rule.resource.as_ref().is_none_or(|uid| line.contains(uid))
}
