//! Attacks on who a login is: names that look alike, claims that nearly match, memories that mix callers up, empty lists.

use protem::policy::bundle::{Bundle, Files, Load};
use protem_clock::clock::Clock;
use protem_clock::clock::SystemClock;
use protem_proto::wire::v1;
use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use serde_json::{Value, json};
use tonic::Code;

use crate::broker::{TestBroker, Wish, fresh_task, policies, reason};
use crate::foreign::{Foreign, agent};
use crate::served::refused;

/// The repository's bundle with one text replaced in one file.
fn edited(name: &str, from: &str, to: &str) -> Files {
    let mut files = policies().to_vec();
    let (_, text) = files.iter_mut().find(|(known, _)| **known == *name).unwrap();
    let old = String::from_utf8(text.to_vec()).unwrap();
    assert!(old.contains(from), "{from}");
    *text = old.replacen(from, to, 1).into_bytes().into();
    files.into()
}

#[track_caller]
fn unfit(files: Files, code: &str) {
    let Err(findings) = Bundle::load(files, Load::Activate, false) else {
        panic!("the bundle is taken");
    };
    let found: Vec<_> = findings.iter().map(|finding| finding.code.id).collect();
    assert!(found.contains(&code), "{findings:?}");
}

async fn broker(foreign: &Foreign) -> TestBroker {
    TestBroker::with(Wish { bundle: Some(foreign.bundle()), ..Wish::default() }).await
}

/// Who a token of the CI provider is, with some claims replaced.
async fn who(broker: &TestBroker, foreign: &Foreign, spoilt: &[(&str, Value)]) -> String {
    let mut claims = agent(SystemClock.unix().as_secs());
    for (name, value) in spoilt {
        claims[*name] = value.clone();
    }
    let mut caller = broker.clients(Some(foreign.token("ES256", &claims)));
    caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner().identity
}

/// Row 34: neither case nor spaces make another spelling of a name or of a claim.
#[tokio::test(flavor = "multi_thread")]
async fn attack_identity_case_space_alias() {
    for name in [
        "Payments/agent",
        "payments/agent ",
        " payments/agent",
        "payments/ agent",
        "payments/AGENT",
        "payments/agent\t",
    ] {
        assert!(IdentityName::try_from(name).is_err(), "{name:?}");
        assert!(ResourceName::try_from(name).is_err(), "{name:?}");
        assert!(ScopeName::try_from(name).is_err(), "{name:?}");
    }
    let foreign = Foreign::new();
    let broker = broker(&foreign).await;
    assert_eq!(who(&broker, &foreign, &[]).await, "payments/agent");
    for other in [
        "refs/heads/Main",
        "refs/heads/main ",
        " refs/heads/main",
        "REFS/HEADS/MAIN",
        "refs/heads/main\0",
    ] {
        assert_eq!(who(&broker, &foreign, &[("ref", other.into())]).await, "", "{other:?}");
    }
    broker.stop().await;
}

/// Row 35: letters that look alike are other letters, and none of them are in names.
#[tokio::test(flavor = "multi_thread")]
async fn attack_unicode_homograph_identity() {
    for name in [
        "p\u{430}yments/agent",
        "payments\u{2215}agent",
        "payments/agent\u{200b}",
        "\u{ff50}ayments/agent",
        "payments/a\u{301}gent",
        "payments/\u{202e}agent",
    ] {
        assert!(IdentityName::try_from(name).is_err(), "{name:?}");
    }
    let foreign = Foreign::new();
    let broker = broker(&foreign).await;
    for other in [
        "refs/heads/m\u{430}in",
        "refs/heads/main\u{200b}",
        "refs/he\u{e4}ds/main",
        "refs\u{2215}heads/main",
    ] {
        assert_eq!(who(&broker, &foreign, &[("ref", other.into())]).await, "", "{other:?}");
    }
    broker.stop().await;
}

/// Row 36: what another issuer, or a token itself, calls its subject names nobody of ours.
#[tokio::test(flavor = "multi_thread")]
async fn attack_id_collision_and_reuse() {
    let foreign = Foreign::new();
    let broker = broker(&foreign).await;
    let names = [
        ("sub", json!("payments/reconciler")),
        ("protem/as", json!("payments/reconciler")),
        ("protem/kind", json!("identity")),
        ("client_id", json!("payments/reconciler")),
    ];
    // Its own claims count, and nothing that it says of itself in our words.
    assert_eq!(who(&broker, &foreign, &names).await, "payments/agent");
    let mut nobody = names.to_vec();
    nobody.push(("repository_id", json!("8")));
    assert_eq!(who(&broker, &foreign, &nobody).await, "");
    // An id that is used again under another owner is somebody else: the owner is pinned beside it.
    assert_eq!(who(&broker, &foreign, &[("repository_owner_id", json!("43"))]).await, "");
    // The development issuer's words count from the development issuer alone.
    let mut claims = broker.claims("payments/agent", "identity", &[]);
    claims["iss"] = crate::foreign::ISSUER.into();
    assert_eq!(refused(&broker, broker.sign(&claims)).await, "PT-0605");
    // Grants belong to a subject: another one of the same identity gets no credential of them.
    let own = agent(SystemClock.unix().as_secs());
    let mut first = broker.clients(Some(foreign.token("ES256", &own)));
    let task = fresh_task();
    let grant = first.ask(&task).await.unwrap().grant.unwrap();
    let mut claims = agent(SystemClock.unix().as_secs());
    claims["sub"] = "repo:shop/other".into();
    let mut second = broker.clients(Some(foreign.token("ES256", &claims)));
    let renew = v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    let status = second.access.renew_credential(renew.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "PT-0105"));
    // By the subject alone: the first one gets it, and the second one by the same words a grant of its own.
    assert!(first.access.renew_credential(renew).await.unwrap().into_inner().credential.is_some());
    let other = second.ask(&task).await.unwrap().grant.unwrap();
    assert_eq!(other.identity, grant.identity);
    assert_ne!(other.id, grant.id);
    broker.stop().await;
}

/// Row 37: a claim is equal as a whole, whatever is before, after or inside it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_unanchored_identity_pattern() {
    let foreign = Foreign::new();
    let broker = broker(&foreign).await;
    for other in [
        "refs/heads/main@evil",
        "evil@refs/heads/main",
        "refs/heads/mainx",
        "xrefs/heads/main",
        "refs/heads/.*",
        "refs/heads/mai.",
        "*",
        "refs/heads/*",
        "refs/heads/main\nrefs/heads/main",
        "^refs/heads/main$",
        "",
    ] {
        assert_eq!(who(&broker, &foreign, &[("ref", other.into())]).await, "", "{other:?}");
    }
    for other in [json!(null), json!({"refs/heads/main": 1}), json!(true)] {
        assert_eq!(who(&broker, &foreign, &[("ref", other.clone())]).await, "", "{other}");
    }
    broker.stop().await;
}

/// Row 38: the memory of good tokens is asked with the whole token, so that nothing like one counts for it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_cache_key_collision() {
    let broker = TestBroker::start().await;
    // Long enough that any key cut off would be the same.
    let mut claims = broker.claims("payments/agent", "identity", &[]);
    claims["long"] = "x".repeat(4_000).into();
    let good = broker.sign(&claims);
    let mut caller = broker.clients(Some(good.clone()));
    for _ in 0..2 {
        let known = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!(known.identity, "payments/agent");
    }
    claims["protem/as"] = "payments/reconciler".into();
    claims["sub"] = "payments/reconciler".into();
    let other = broker.sign(&claims);
    let mut second = broker.clients(Some(other.clone()));
    let known = second.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(known.identity, "payments/reconciler", "the other token is its own caller");
    // One token's signature under the other's words, and a good one with a little more or less.
    let (signed, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    assert_eq!(refused(&broker, format!("{signed}.{signature}")).await, "PT-0606");
    for (spoilt, code) in [
        (format!("{good}A"), "PT-0606"),
        (good[..good.len() - 1].to_owned(), "PT-0603"),
        (format!("{good}."), "PT-0603"),
    ] {
        assert_eq!(refused(&broker, spoilt).await, code);
    }
    broker.stop().await;
}

/// Row 43: what any repository on earth could say is no login, and the bundle that says so is not taken.
#[test]
fn attack_trust_rule_without_subject() {
    let courier = "claims = { repository_id = \"815\", repository_owner_id = \"99\", ref = \"refs/heads/main\" }";
    for claims in [
        "claims = { ref = \"refs/heads/main\" }",
        "claims = { aud = \"https://protem.shop.example\" }",
    ] {
        unfit(edited("identities.toml", courier, claims), "PT-0317");
    }
}

/// Row 44: an empty list is nobody and nothing.
#[tokio::test(flavor = "multi_thread")]
async fn attack_empty_list_means_all() {
    let courier = "claims = { repository_id = \"815\", repository_owner_id = \"99\", ref = \"refs/heads/main\" }";
    unfit(edited("identities.toml", courier, "claims = {}"), "PT-0317");
    unfit(edited("people.toml", "claims = { groups = \"auditors\" }", "claims = {}"), "PT-0342");
    let broker = TestBroker::start().await;
    let mut request = crate::broker::ask(&fresh_task());
    request.scopes.clear();
    let status =
        broker.identity("payments/agent").access.request_access(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let mut claims = broker.claims("payments/agent", "identity", &[]);
    claims["aud"] = json!([]);
    assert_eq!(refused(&broker, broker.sign(&claims)).await, "PT-0607");
    // A person of no group may do nothing, a person of a list that holds nothing neither.
    for groups in [json!([]), json!([""]), json!(null), json!([[]])] {
        let mut claims = broker.claims("nobody", "person", &[]);
        claims["groups"] = groups.clone();
        let mut person = broker.clients(Some(broker.sign(&claims)));
        let status = person.revoke(v1::selector::By::Everything(true)).await.unwrap_err();
        assert!(
            matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated),
            "{groups}: {status:?}"
        );
    }
    let revoke = v1::RevokeRequest {
        selector: Some(v1::Selector { by: None }),
        note: "all".into(),
        wait: None,
    };
    let status = broker.operator().governance.revoke(revoke).await.unwrap_err();
    assert_eq!(reason(&status), "PT-0201", "{status:?}");
    broker.stop().await;
}

/// Row 53: a gateway cannot follow more than the catalog gives it, by any spelling; nor does a path of another shape reach a
/// method.
#[tokio::test(flavor = "multi_thread")]
async fn attack_watch_scope_widening() {
    let bundle = edited(
        "catalog.toml",
        "resources = [\"orders-api\", \"legacy-crm\"]",
        "resources = [\"orders-api\"]",
    );
    let broker = TestBroker::with(Wish { bundle: Some(bundle), ..Wish::default() }).await;
    let gateway = broker.gateway("edge-eu-1");
    for (resources, fine) in [
        (vec!["orders-api"], true),
        (vec![], true),
        (vec!["legacy-crm"], false),
        (vec!["orders-api", "legacy-crm"], false),
        (vec!["*"], false),
        (vec![""], false),
        (vec!["orders-api", "Orders-API"], false),
    ] {
        let named = resources.iter().map(|name| (*name).to_owned()).collect();
        let head = v1::HeadRequest { resources: named, ..Default::default() };
        let answer = gateway.revocations.clone().head(head).await;
        assert_eq!(answer.is_ok(), fine, "{resources:?}: {answer:?}");
        if let Ok(answer) = answer {
            let catalog = answer.into_inner().catalog.unwrap().json;
            assert!(catalog.contains("orders-api") && !catalog.contains("legacy-crm"), "{catalog}");
        }
    }
    broker.stop().await;
}
