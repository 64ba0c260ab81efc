//! What policy says to requests and people, case by case.

use std::sync::Arc;
use std::time::Duration;

use protem_core::request::{AccessRequest, ProofKey, Scopes, Task, Workload};
use protem_core::verdict::{Effect, Ruling};
use protem_verify::ids::Hash;
use protem_verify::names::{
    GroupName, IdentityName, PersonName, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::{Lifetime, Staleness, Time};

use crate::policy::ask::{Action, Ask, Object};
use crate::policy::bundle::{Bundle, Decision, Files, Load};
use crate::policy::example::example;
use crate::policy::feed::To;
use crate::policy::input::Recorded;
use crate::policy::login::{Caller, Claim, Login, Person, Principal};

const NOW: Time = Time::from_secs(1_795_000_000);

/// The example's one forbid, as it is written.
const FORBID: &str = "forbid (principal, action == Action::\"issue\", resource)\nwhen { context.findings.contains(\"unusual-volume\") };";

fn bundle() -> Bundle {
    Bundle::load(example(), Load::Activate, true).unwrap()
}

fn with(file: &str, from: &str, to: &str) -> Bundle {
    let mut files = example().to_vec();
    for (name, bytes) in &mut files {
        if &**name == file {
            let text = str::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{from}");
            *bytes = text.replacen(from, to, 1).into_bytes().into();
        }
        if name.starts_with("tests/") {
            *bytes = Arc::from(*b"");
        }
    }
    let files: Files = files.into();
    Bundle::load(files, Load::Activate, true).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn request(identity: &str, on: &str, scopes: &[&str], kind: &str) -> AccessRequest {
    let scopes = scopes.iter().map(|scope| ScopeName::try_from(*scope).unwrap()).collect();
    AccessRequest {
        by: Workload {
            identity: IdentityName::try_from(identity).unwrap(),
            subject: Subject::try_from(format!("protem-dev|{identity}").as_str()).unwrap(),
        },
        task: Task {
            id: TaskId::try_from("t1").unwrap(),
            kind: TaskKind::try_from(kind).unwrap(),
            url: Words::default(),
        },
        resource: ResourceName::try_from(on).unwrap(),
        scopes: Scopes::new(scopes).unwrap(),
        lifetime: None,
        purpose: Words::default(),
        key: None,
        emergency: false,
        proof: None,
    }
}

fn agent(scopes: &[&str]) -> AccessRequest {
    request("payments/agent", "orders-api", scopes, "agent")
}

fn rule(bundle: &Bundle, request: &AccessRequest) -> Ruling {
    ask(bundle, request, &Login::dev_identity(request.by.identity.as_str()), NOW, &[])
}

fn ask(
    bundle: &Bundle,
    request: &AccessRequest,
    login: &Login,
    now: Time,
    findings: &[String],
) -> Ruling {
    let ask = Ask { request, login, now, active: 0, findings, region: "" };
    bundle.evaluate(&ask).ruling().clone()
}

#[track_caller]
fn check(ruling: &Ruling, effect: Effect, policies: &[&str]) {
    let ids: Vec<&str> = ruling.policies.iter().map(|id| id.as_str()).collect();
    assert_eq!((ruling.effect, ids.as_slice()), (effect, policies), "{ruling:#?}");
}

#[track_caller]
fn denied(ruling: &Ruling, code: &str, remedy: &str) {
    assert_eq!((ruling.effect, ruling.code.as_str()), (Effect::Deny, code), "{ruling:#?}");
    assert!(ruling.remedy.contains(remedy), "`{}` does not say `{remedy}`", ruling.remedy);
}

#[test]
fn a_yes_carries_its_terms() {
    let bundle = bundle();
    let request = AccessRequest {
        lifetime: Some(Lifetime(Duration::from_secs(8 * 3_600))),
        ..agent(&["orders:read"])
    };
    let ruling = rule(&bundle, &request);
    check(&ruling, Effect::Issue, &["payments-reads-orders"]);
    assert_eq!(ruling.content, request.content());
    assert_eq!((ruling.bundle, ruling.at), (bundle.digest(), NOW));
    assert_eq!(ruling.terms.lifetime, Lifetime(Duration::from_secs(3_600)));
    assert_eq!(ruling.limits.first().unwrap(), "lifetime 1h, from policy `payments-reads-orders`");
    assert_eq!(ruling.terms.credential, Lifetime(Duration::from_secs(300)));
    assert_eq!(ruling.terms.fresh, Staleness(Duration::from_secs(10)));
    assert_eq!(&*ruling.terms.audience, "https://orders.example");
    assert_eq!(&*ruling.terms.claims, &[("shop/team".into(), "payments".into())]);
    assert_eq!(
        &*ruling.terms.operations,
        &["orders:read GET /v1/orders".into(), "orders:read GET /v1/orders/{id}".into()]
    );
    assert_eq!((ruling.terms.active_max, ruling.terms.pending_max), (1_000, 20));
    assert_eq!(ruling.active, None);
}

#[test]
fn a_lifetime_is_the_least_of_all_limits() {
    let bundle = bundle();
    for (request, secs, says) in [
        (agent(&["orders:read"]), 900, "lifetime 15m, the default of tier `internal`"),
        (
            AccessRequest {
                lifetime: Some(Lifetime(Duration::from_secs(60))),
                ..agent(&["orders:read"])
            },
            60,
            "lifetime 1m, as asked",
        ),
        (
            AccessRequest {
                lifetime: Some(Lifetime(Duration::from_secs(7_200))),
                ..agent(&["orders:refund"])
            },
            1_800,
            "lifetime 30m, from scope `orders:refund`",
        ),
        (
            AccessRequest {
                lifetime: Some(Lifetime(Duration::from_secs(90_000))),
                ..request("shop/checkout", "orders-api", &["orders:write"], "")
            },
            3_600,
            "lifetime 1h, from scope `orders:write`",
        ),
    ] {
        let ruling = rule(&bundle, &request);
        assert_eq!(ruling.terms.lifetime, Lifetime(Duration::from_secs(secs)), "{ruling:#?}");
        assert_eq!(ruling.limits.first().unwrap(), says);
    }
}

#[test]
fn one_scope_that_waits_makes_all_wait() {
    let bundle = bundle();
    let ruling = rule(&bundle, &agent(&["orders:read", "orders:refund"]));
    check(&ruling, Effect::NeedsApproval, &["payments-reads-orders", "refunds-need-a-person"]);
    let needs = Recorded::from_json(&ruling.input).unwrap().needs;
    assert_eq!(needs, ["orders:refund"]);
    let rule = ruling.rule.unwrap();
    assert_eq!((rule.required, rule.decide_within), (1, Duration::from_secs(1_800)));
    assert_eq!(rule.groups, [GroupName::try_from("shop-oncall").unwrap()]);
    let edited = with("payments.cedar", "@approvals(\"1\")", "@approvals(\"2\")");
    let again = self::rule(&edited, &agent(&["orders:refund"])).rule.unwrap();
    assert_eq!(again.required, 2);
    assert_ne!(again.policies, rule.policies);
}

#[test]
fn a_no_says_what_would_pass() {
    let bundle = bundle();
    denied(
        &rule(&bundle, &request("payments/agent", "orders-api", &["orders:read"], "other")),
        "PT-0350",
        "a task of kind `",
    );
    denied(
        &rule(&bundle, &agent(&["orders:read", "orders:write"])),
        "PT-0350",
        "ask for `orders:read` alone",
    );
    denied(
        &rule(&bundle, &request("payments/agent", "legacy-crm", &["crm:read"], "agent")),
        "PT-0350",
        "group:shop-leads",
    );
    let unusual = ["unusual-volume: 900 requests an hour".to_owned()];
    let login = Login::dev_identity("payments/agent");
    let ruling = ask(&bundle, &agent(&["orders:read"]), &login, NOW, &unusual);
    denied(&ruling, "PT-0351", "unusual");
    check(&ruling, Effect::Deny, &["nothing-at-once-while-unusual"]);
    let short = with(
        "shop.cedar",
        "unless { resource in Class::\"money\" }",
        "when { context.lifetime <= duration(\"5m\") }",
    );
    denied(
        &rule(&short, &request("shop/checkout", "orders-api", &["orders:read"], "")),
        "PT-0350",
        "ask for at most 5m",
    );
}

#[test]
fn what_stands_before_policies_is_refused_with_its_own_code() {
    let bundle = bundle();
    let login = Login::dev_identity("payments/agent");
    let late = Time::from_secs(1_830_297_600);
    assert_eq!(
        ask(&bundle, &agent(&["orders:read"]), &login, late.minus(Duration::from_millis(1)), &[])
            .effect,
        Effect::Issue
    );
    denied(&ask(&bundle, &agent(&["orders:read"]), &login, late, &[]), "PT-0356", "payments-leads");
    let bound =
        AccessRequest { proof: Some(ProofKey::Thumbprint([0; 32])), ..agent(&["orders:read"]) };
    denied(&rule(&bundle, &bound), "PT-0357", "");
    denied(
        &rule(&bundle, &request("payments/nobody", "orders-api", &["orders:read"], "")),
        "PT-0353",
        "",
    );
    denied(
        &rule(&bundle, &request("payments/agent", "orders", &["orders:read"], "")),
        "PT-0354",
        "",
    );
    denied(&rule(&bundle, &agent(&["orders:raed"])), "PT-0355", "orders:raed");
    denied(
        &ask(&bundle, &agent(&["orders:read"]), &Login::dev_identity("shop/checkout"), NOW, &[]),
        "PT-0360",
        "",
    );
    let regional = with(
        "catalog.toml",
        "purpose  = \"Orders of the web shop\"",
        "purpose = \"Orders\"\nregions = [\"us1\"]",
    );
    denied(&rule(&regional, &agent(&["orders:read"])), "PT-0359", "us1");
    let serve = Bundle::load(example(), Load::Activate, false).unwrap();
    denied(&rule(&serve, &agent(&["orders:read"])), "PT-0360", "");
    let claims = with("catalog.toml", "{identity.team}", "{login.ref}");
    denied(&rule(&claims, &agent(&["orders:read"])), "PT-0361", "ref");
}

#[test]
fn attack_cedar_forbid_type_error() {
    let overflow = "forbid (principal, action == Action::\"issue\", resource)\nwhen { 9223372036854775807 + context.active > 0 };";
    let bundle = with("shop.cedar", FORBID, overflow);
    let request = agent(&["orders:read"]);
    let login = Login::dev_identity("payments/agent");
    let of = |active| {
        let ask =
            Ask { request: &request, login: &login, now: NOW, active, findings: &[], region: "" };
        bundle.evaluate(&ask).ruling().clone()
    };
    denied(&of(1), "PT-0352", "nothing-at-once-while-unusual");
    assert_eq!(of(1).active, Some(1));
    assert!(bundle.reads_active());
}

#[test]
fn shadow_policies_decide_nothing_and_are_recorded() {
    let shadow = "@mode(\"shadow\")\nforbid (principal, action == Action::\"issue\", resource)\nwhen { context.active >= 0 };";
    let bundle = with("shop.cedar", FORBID, shadow);
    let ruling = rule(&bundle, &agent(&["orders:read"]));
    check(&ruling, Effect::Issue, &["payments-reads-orders"]);
    assert_eq!(
        Recorded::from_json(&ruling.input).unwrap().shadow,
        ["would forbid: nothing-at-once-while-unusual"]
    );
}

#[test]
fn emergencies_are_an_act_of_their_own() {
    let bundle = bundle();
    let bare = AccessRequest { emergency: true, ..agent(&["orders:refund"]) };
    denied(&rule(&bundle, &bare), "PT-0364", "purpose");
    let request = AccessRequest { purpose: Words::parse("purpose", "INC-42").unwrap(), ..bare };
    check(&rule(&bundle, &request), Effect::Issue, &["payments-breaks-glass"]);
    let reading = AccessRequest { scopes: agent(&["orders:read"]).scopes, ..request };
    denied(&rule(&bundle, &reading), "PT-0363", "without `--emergency`");
}

#[test]
fn a_live_grant_is_evaluated_again_as_it_was_made() {
    let first = bundle();
    let (read, refund) = (agent(&["orders:read"]), agent(&["orders:refund"]));
    let (issued, waited) = (rule(&first, &read), rule(&first, &refund));
    let later = NOW + Duration::from_secs(60);
    let again = |bundle: &Bundle, ruling: &Ruling, request: &AccessRequest, as_issued| {
        bundle.reevaluate(ruling, request, later, (1, as_issued), &[]).ruling().clone()
    };
    check(&again(&first, &issued, &read, true), Effect::Issue, &["payments-reads-orders"]);
    check(
        &again(&first, &waited, &refund, false),
        Effect::NeedsApproval,
        &["refunds-need-a-person"],
    );
    denied(&again(&first, &waited, &refund, true), "PT-0350", "");
    let narrower = with("payments.cedar", "\"agent\"]", "\"job\"]");
    denied(&again(&narrower, &issued, &read, true), "PT-0350", "");
    assert_eq!(again(&narrower, &issued, &read, true).bundle, narrower.digest());
    let mut damaged = issued.clone();
    damaged.input = Arc::from(*b"{");
    denied(&again(&first, &damaged, &read, true), "PT-0362", "");
}

fn github(actor: &str) -> Login {
    let text = |(name, value): (&str, &str)| (name.to_owned(), Claim::Text(value.to_owned()));
    let claims = [
        ("repository_id", "4711"),
        ("repository_owner_id", "42"),
        ("environment", "production"),
        ("actor", actor),
    ];
    Login {
        issuer: "github".to_owned(),
        subject: "repo:shop/pay".to_owned(),
        claims: claims.map(text).into_iter().collect(),
    }
}

#[test]
fn logins_are_matched_exactly() {
    let bundle = bundle();
    let Principal::Workload { by, behind } = bundle.who(&github("alice-gh")).unwrap() else {
        panic!()
    };
    assert_eq!(
        (by.identity.as_str(), by.subject.as_str()),
        ("payments/deployer", "github|repo:shop/pay|actor=alice-gh")
    );
    assert_eq!(behind.unwrap().as_str(), "alice");
    // Anybody can get a token of this issuer: only its owner is told of the owner's logins.
    for (claim, value, says, near) in [
        ("environment", "staging", "`environment` is `staging`, not `production`", None),
        ("repository_id", "47110", "its `repository_id` is `47110`", Some("not `4711`")),
        ("repository_owner_id", "43", "its `repository_id` is `4711`", Some("not `42`")),
    ] {
        let mut login = github("x");
        login.claims.insert(claim.to_owned(), Claim::Text(value.to_owned()));
        let no = bundle.who(&login).unwrap_err();
        assert!(no.why_not.contains(says), "{no:?}");
        assert_eq!(no.why_not.contains("deployer"), near.is_none(), "{no:?}");
        assert_eq!(no.untold.is_some(), near.is_some(), "{no:?}");
        assert!(near.is_none_or(|near| no.untold.unwrap().contains(near)));
    }
    let mut bob =
        Login { issuer: "corp".to_owned(), subject: "1".to_owned(), claims: github("x").claims };
    assert!(bundle.who(&bob).is_err());
    bob.claims.insert("email".to_owned(), Claim::Text("bob@shop.example".to_owned()));
    bob.claims
        .insert("groups".to_owned(), Claim::List(vec!["operators".to_owned(), "other".to_owned()]));
    for unproven in [None, Some("false"), Some("")] {
        let text = unproven.map(|text| Claim::Text(text.to_owned()));
        bob.claims.extend(text.map(|text| ("email_verified".to_owned(), text)));
        let why = bundle.who(&bob).unwrap_err().why_not;
        assert!(why.contains("email_verified"), "{why}");
    }
    bob.claims.insert("email_verified".to_owned(), Claim::Text("true".to_owned()));
    let Principal::Person(person) = bundle.who(&bob).unwrap() else { panic!() };
    assert_eq!((person.name.as_str(), person.groups.len()), ("corp|bob@shop.example", 1));
    // Another provider may call its people what it likes.
    let partner = crate::policy::check_tests::with_partner("issuer = \"corp\"\nclaims");
    let partner = Bundle::load(partner, Load::Activate, false).unwrap();
    for (issuer, groups) in [("corp", 1), ("partner", 0)] {
        let login = Login { issuer: issuer.to_owned(), ..bob.clone() };
        let Principal::Person(person) = partner.who(&login).unwrap() else { panic!() };
        assert_eq!(person.groups.len(), groups, "{issuer}");
    }
    bob.claims.insert("email".to_owned(), Claim::Text("alice@shop.example".to_owned()));
    let principal = bundle.who(&bob).unwrap();
    let caller = Caller { principal, login: Arc::new(bob) };
    assert_eq!(&*caller.actor().0, "person:alice");
    let dev =
        bundle.who(&Login::dev_person("alice", &["shop-oncall", "operators", "nothing"])).unwrap();
    assert!(matches!(dev, Principal::Person(Person { groups, .. }) if groups.len() == 2));
    assert!(
        matches!(bundle.who(&Login::dev_gateway("edge-eu-1")), Ok(Principal::Gateway { resources, .. }) if resources.len() == 2)
    );
    assert!(
        bundle
            .who(&Login::dev_identity("payments/agnt"))
            .unwrap_err()
            .why_not
            .contains("did you mean `payments/agent`?")
    );
    let serve = Bundle::load(example(), Load::Activate, false).unwrap();
    assert!(serve.who(&Login::dev_identity("payments/agent")).is_err());
}

#[test]
fn the_person_behind_must_be_known_and_never_decides() {
    let bundle = bundle();
    let refund = request("payments/deployer", "orders-api", &["orders:refund"], "ci-job");
    denied(&ask(&bundle, &refund, &github("mallory"), NOW, &[]), "PT-0358", "mallory");
    let ruling = ask(&bundle, &refund, &github("alice-gh"), NOW, &[]);
    check(&ruling, Effect::NeedsApproval, &["refunds-need-a-person"]);
    let alice = PersonName::try_from("alice").unwrap();
    let group = |name: &str| GroupName::try_from(name).unwrap();
    for (person, groups, behind, why) in [
        ("bob", vec!["shop-oncall"], Some(&alice), None),
        ("alice", vec!["shop-oncall"], Some(&alice), Some("behind")),
        ("bob", vec!["operators"], None, Some("no policy permits")),
        ("bob", vec!["shop-oncall", "payments-leads"], None, Some("own")),
    ] {
        let groups = groups.into_iter().map(group).collect();
        let person = Person::new(PersonName::try_from(person).unwrap(), groups);
        let digest = Hash([7; 32]);
        let decision = Decision {
            person: &person,
            request: &refund,
            ruling: &ruling,
            lifetime: ruling.terms.lifetime,
            behind,
            account: "corp|bob",
            digest,
            now: NOW,
        };
        let verdict = bundle.may_decide(&decision);
        assert_eq!(verdict.approver().may, why.is_none(), "{verdict:?}");
        assert!(verdict.approver().why_not.contains(why.unwrap_or_default()), "{verdict:?}");
    }
}

#[test]
fn people_may_what_policies_say() {
    let bundle = bundle();
    let groups =
        |names: &[&str]| names.iter().map(|name| GroupName::try_from(*name).unwrap()).collect();
    let person = |names: &[&str]| Person::new(PersonName::try_from("bob").unwrap(), groups(names));
    let identity = Object::Identity(IdentityName::try_from("payments/agent").unwrap());
    let orders = Object::Resource(ResourceName::try_from("orders-api").unwrap());
    for (names, action, object, yes) in [
        (&["operators"][..], Action::Revoke, &identity, true),
        (&["operators"], Action::Revoke, &Object::Broker, true),
        (&["operators"], Action::Administer, &Object::Broker, true),
        (&["operators"], Action::Administer, &identity, false),
        (&["shop-oncall"], Action::Revoke, &orders, true),
        (&["shop-oncall"], Action::Revoke, &identity, false),
        (&["auditors"], Action::View, &orders, true),
        (&["auditors"], Action::Revoke, &orders, false),
        (&[], Action::View, &Object::Broker, false),
    ] {
        let permit = bundle.may(&person(names), action, object, NOW);
        assert_eq!(permit.yes, yes, "{names:?} {action:?} {object}");
        assert_eq!(permit.why_not.is_empty(), yes);
    }
    assert_eq!(bundle.owned_by("group:payments-leads").len(), 3);
}

#[test]
fn what_an_identity_may_ask_for_is_told_without_asking_policy() {
    let bundle = bundle();
    for (identity, resources) in [
        ("payments/agent", &["orders-api"][..]),
        ("payments/reconciler", &["legacy-crm", "orders-api"]),
        ("shop/checkout", &["orders-api"]),
        ("nobody/at-all", &[]),
    ] {
        let askable = bundle.askable(&IdentityName::try_from(identity).unwrap()).unwrap();
        assert!(
            askable.iter().map(ResourceName::as_str).eq(resources.iter().copied()),
            "{identity}"
        );
    }
}

#[test]
fn gateways_get_their_part_of_the_catalog() {
    let bundle = bundle();
    let crm = ResourceName::try_from("legacy-crm").unwrap();
    assert_eq!(
        bundle.catalog_json(To::Gateway, Some(&[crm].into())),
        r#"{"resources":{"legacy-crm":{"audience":"https://crm.example","scopes":{"crm:read":{"risk":"low","operations":["GET /api/customers","GET /api/customers/{id}"]}}}}}"#
    );
    assert_eq!(bundle.known_max_fresh(), Staleness(Duration::from_secs(10)));
    let unknown = bundle.check_names("orders-api", &["orders:raed"]).unwrap_err();
    assert_eq!((unknown.field, unknown.did_you_mean.as_deref()), ("scopes", Some("orders:read")));
    assert!(bundle.check_names("orders-api", &["orders:read"]).is_ok());
}
