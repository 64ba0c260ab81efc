//! Property: what a slice decides is what all policies would decide, whatever they look like.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{Context, Entity};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_verify::names::{
    GroupName, IdentityName, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::Time;

use crate::policy::ask::Ask;
use crate::policy::bundle::{Bundle, Load};
use crate::policy::context;
use crate::policy::entities::{Kind, Store};
use crate::policy::example::example;
use crate::policy::feed;
use crate::policy::finding::{Findings, Source};
use crate::policy::login::Login;
use crate::policy::rulebook::{Judged, Rulebook, Slice};
use crate::policy::rules::{self, Act};

static BUNDLE: std::sync::OnceLock<Bundle> = std::sync::OnceLock::new();
const NOW: Time = Time::from_secs(1_795_000_000);

fn policy() -> impl Strategy<Value = String> {
    let principal = select(vec![
        "principal",
        "principal is Identity",
        "principal == Identity::\"payments/agent\"",
        "principal in Identity::\"shop/checkout\"",
        "principal in Team::\"payments\"",
        "principal is Identity in Team::\"shop\"",
        "principal in Broker::\"protem\"",
        "principal == Team::\"payments\"",
        "principal in Group::\"shop-oncall\"",
        "principal is Person in Group::\"operators\"",
    ]);
    let action = select(vec![
        "action",
        "action == Action::\"issue\"",
        "action == Action::\"request\"",
        "action == Action::\"approve\"",
        "action in [Action::\"issue\", Action::\"emergency\", Action::\"approve\"]",
    ]);
    let resource = select(vec![
        "resource",
        "resource is Scope",
        "resource == Scope::\"orders-api#orders:read\"",
        "resource in Scope::\"legacy-crm#crm:read\"",
        "resource in Resource::\"orders-api\"",
        "resource in Class::\"money\"",
        "resource is Scope in Class::\"read\"",
        "resource in Broker::\"protem\"",
    ]);
    let condition = select(vec![
        "",
        "when { context.task.kind == \"batch\" }",
        "unless { context.lifetime <= duration(\"10m\") }",
        "when { resource in Class::\"read\" }",
        "when { Identity::\"payments/reconciler\" in Team::\"payments\" }",
        "when { Identity::\"shop/checkout\".tier == \"internal\" }",
        "when { context.login.hasTag(\"protem/as\") }",
        "when { principal.team == \"payments\" }",
        "when { context.identity in Team::\"payments\" }",
        // Errs whenever it is looked at with a grant held.
        "when { 9223372036854775807 + context.active > 0 }",
        "when { resource.risk == \"high\" }",
    ]);
    let shadow = select(vec!["", "", "", "@mode(\"shadow\")"]);
    (any::<bool>(), shadow, principal, action, resource, condition).prop_map(
        |(permit, shadow, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{shadow} {effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

fn request(identity: &str, kind: &str) -> AccessRequest {
    AccessRequest {
        by: Workload {
            identity: IdentityName::try_from(identity).unwrap(),
            subject: Subject::try_from("s").unwrap(),
        },
        task: Task {
            id: TaskId::try_from("t").unwrap(),
            kind: TaskKind::try_from(kind).unwrap(),
            url: Words::default(),
        },
        resource: ResourceName::try_from("orders-api").unwrap(),
        scopes: Scopes::new(vec![ScopeName::try_from("orders:read").unwrap()]).unwrap(),
        lifetime: None,
        purpose: Words::default(),
        key: None,
        emergency: false,
        proof: None,
    }
}

fn book(bundle: &Bundle, policies: &[String]) -> Rulebook {
    let text: String = policies
        .iter()
        .enumerate()
        .map(|(at, policy)| format!("@id(\"p{at}\") {policy}\n"))
        .collect();
    let source = Source::new(&Arc::from("p.cedar"), &text);
    let rules = rules::read(&[source], &BTreeSet::new(), &mut Findings::default());
    assert_eq!(rules.len(), policies.len());
    let store = Store::new(bundle.catalog(), bundle.identities(), bundle.people()).unwrap();
    Rulebook::new(store, rules)
}

fn both(book: &Rulebook, slice: &Slice, context: &Context, more: &[Entity]) -> (Judged, Judged) {
    let sorted = |mut judged: Judged| {
        judged.errors.sort();
        judged.shadow.sort();
        judged
    };
    let sliced = sorted(book.judge(slice, context.clone(), more));
    let flat = sorted(book.judge(&book.flat(slice), context.clone(), more));
    (sliced, flat)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn a_slice_decides_as_all_policies_do(
        policies in prop::collection::vec(policy(), 1..14),
        kind in select(vec!["batch", "agent"]),
        active in 0_u32..2,
    ) {
        let bundle = BUNDLE.get_or_init(|| Bundle::load(example(), Load::Activate, true).unwrap());
        let book = book(bundle, &policies);
        let identities = ["payments/agent", "payments/reconciler", "shop/checkout", "partner/courier"];
        for identity in identities {
            let request = request(identity, kind);
            let login = Login::dev_identity(identity);
            let ask = Ask { request: &request, login: &login, now: NOW, active, findings: &[], region: "" };
            let context = context::access(&book.store, &ask, Duration::from_secs(900)).unwrap();
            let login = context::login(&book.store, &login).unwrap();
            let askable = feed::askable(&book, bundle.catalog(), &request.by.identity);
            for (resource, values) in &bundle.catalog().resources {
                for scope in values.scopes.keys() {
                    for act in [Act::Issue, Act::Request, Act::Emergency] {
                        let slice = book.access(act, &request.by.identity, resource, scope);
                        let (sliced, flat) = both(&book, &slice, &context, std::slice::from_ref(&login));
                        prop_assert_eq!(&sliced, &flat, "{:?} {} {}#{}", act, identity, resource, scope);
                        let told = askable.as_ref().is_none_or(|some| some.contains(resource));
                        prop_assert!(told || !sliced.yes, "{:?} {} {}#{}", act, identity, resource, scope);
                    }
                }
            }
        }
        for group in ["shop-oncall", "operators", "auditors"] {
            let group = book.store.uid(Kind::Group, GroupName::try_from(group).unwrap().as_str());
            let person = book.store.uid(Kind::Person, "alice");
            let person = Entity::new_no_attrs(person, [group.clone()].into_iter().collect());
            let identity = book.store.uid(Kind::Identity, "payments/agent");
            let task = request("payments/agent", kind).task;
            let lifetime = Duration::from_secs(900);
            let context = context::approve(identity.clone(), &task, lifetime, NOW, &[]).unwrap();
            let scope = book.store.uid(Kind::Scope, "orders-api#orders:refund");
            let slice = book.person(Act::Approve, &person, &[group], scope, &[identity]);
            let (sliced, flat) = both(&book, &slice, &context, std::slice::from_ref(&person));
            prop_assert_eq!(sliced, flat);
        }
    }
}
