//! What policy forbids of one thing no wider permission gives back, and observers of a part read no names of the rest.

use protem::policy::bundle::Files;
use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation::Target;
use protem_proto::wire::v1::selector::By;
use tonic::{Code, Status};

use crate::broker::{Clients, TestBroker, Wish, fresh_task, policies, reason};
use crate::streams::edited;

/// The bundle of the repository, with one thing that auditors may neither look at nor end, whatever else they may.
fn forbidding(what: &str) -> Files {
    let forbid = format!(
        "\n@id(\"not-that\") forbid (principal in Group::\"auditors\", action in [Action::\"view\", Action::\"revoke\"], resource == {what});\n"
    );
    let edit = |name: &str, text: &[u8]| -> std::sync::Arc<[u8]> {
        if name == "people.cedar" { [text, forbid.as_bytes()].concat().into() } else { text.into() }
    };
    policies().iter().map(|(name, text)| (name.clone(), edit(name, text))).collect()
}

async fn seen(clients: &mut Clients, selector: Option<By>) -> Result<usize, Status> {
    let selector = selector.map(|by| v1::Selector { by: Some(by) });
    let list = v1::ListGrantsRequest { selector, ..v1::ListGrantsRequest::default() };
    clients.governance.list_grants(list).await.map(|answer| answer.into_inner().grants.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_forbidden_stays_so_with_view_on_the_broker() {
    let bundle = Some(forbidding("Resource::\"orders-api\""));
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let granted = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    let grant = granted.grant.unwrap().id;
    let get = || v1::GetGrantRequest { grant_id: grant.clone() };
    let mut auditor = broker.person("ada", &["auditors"]);
    let status = auditor.governance.get_grant(get()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(seen(&mut auditor, None).await.unwrap(), 0);
    let of = By::Resource("orders-api".into());
    let status = seen(&mut auditor, Some(of.clone())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "PT-0612"));
    assert!(status.message().contains("forbids"), "{status:?}");
    let read = v1::ReadJournalRequest { grant: grant.clone(), ..Default::default() };
    assert_eq!(auditor.governance.read_journal(read).await.unwrap_err().code(), Code::NotFound);
    // Nor does one group's yes undo what is forbidden to another group of the same person.
    let mut both = broker.person("bea", &["auditors", "operators"]);
    assert_eq!(both.revoke(By::Grant(grant.clone())).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(both.revoke(of).await.unwrap_err().code(), Code::PermissionDenied);
    let mut operator = broker.operator();
    operator.governance.get_grant(get()).await.unwrap();
    assert_eq!(seen(&mut operator, None).await.unwrap(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_forbidden_is_not_listed() {
    let bundle = Some(forbidding("Identity::\"payments/agent\""));
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let names = async |mut clients: Clients| -> Vec<String> {
        let list = v1::ListIdentitiesRequest::default();
        let answer = clients.governance.list_identities(list).await.unwrap().into_inner();
        answer.identities.into_iter().map(|identity| identity.name).collect()
    };
    let all = names(broker.operator()).await;
    let some = names(broker.person("ada", &["auditors"])).await;
    assert!(all.iter().any(|name| name == "payments/agent"), "{all:?}");
    assert!(!some.iter().any(|name| name == "payments/agent"), "{some:?}");
    assert_eq!(some.len() + 1, all.len());
    broker.stop().await;
}

/// What somebody reads of the feed, in one poll.
async fn polled(clients: &mut Clients) -> Vec<Target> {
    let answer = clients.revocations.head(v1::HeadRequest::default()).await.unwrap().into_inner();
    answer.batch.unwrap().items.into_iter().filter_map(|item| item.target).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_of_one_resource_reads_no_names_of_identities() {
    let broker = TestBroker::start().await;
    let task = fresh_task();
    broker.identity("payments/agent").ask(&task).await.unwrap();
    let mut operator = broker.operator();
    let of_task = format!("payments/agent#{task}");
    operator.revoke(By::Task(of_task.clone())).await.unwrap();
    operator.revoke(By::Identity("payments/agent".into())).await.unwrap();
    operator.revoke(By::Resource("orders-api".into())).await.unwrap();
    let all = polled(&mut operator).await;
    for target in [Target::Task(of_task), Target::Identity("payments/agent".into())] {
        assert!(all.contains(&target), "{all:?}");
    }
    let some = polled(&mut broker.person("sam", &["shop-oncall"])).await;
    assert!(some.contains(&Target::Resource("orders-api".into())), "{some:?}");
    let named = |target: &&Target| matches!(target, Target::Task(_) | Target::Identity(_));
    assert_eq!(some.iter().find(named), None, "{some:?}");
    broker.stop().await;
}

/// The repository's bundle, whose CRM cannot check tokens.
fn with_a_secret() -> Files {
    edited(&policies(), "catalog.toml", |text| {
        text.replace("[resource.legacy-crm]\n", INJECT) + CRM_KEY
    })
}

const INJECT: &str = r#"[resource.legacy-crm]
inject = { header = "X-Api-Key", secret = "crm-key" }
"#;
const CRM_KEY: &str = r#"
[secret.crm-key]
purpose = "CRM vendor key"
resource = "legacy-crm"
owner = { business = "group:shop-leads", technical = "group:shop-oncall" }
created = 2026-09-04
rotate_every = "3650d"
expires = 2036-09-04
revoke = "vendor console"
status = "managed"
"#;

/// The catalog that comes along with these resources of the feed.
async fn told(clients: &Clients, resources: &[&str]) -> Result<String, Status> {
    let resources = resources.iter().map(|name| (*name).to_owned()).collect();
    let head = v1::HeadRequest { resources, ..Default::default() };
    let answer = clients.revocations.clone().head(head).await?;
    Ok(answer.into_inner().catalog.unwrap().json)
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_are_told_of_what_concerns_them_and_of_no_secret() {
    let bundle = Some(with_a_secret());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let (agent, reconciler) =
        (broker.identity("payments/agent"), broker.identity("payments/reconciler"));
    let (sam, operator) = (broker.person("sam", &["shop-oncall"]), broker.operator());
    let gateway = broker.gateway("edge-eu-1");
    for (clients, resources, orders, crm, secret) in [
        (&agent, &[][..], true, false, false),
        (&agent, &["orders-api"], true, false, false),
        (&reconciler, &[], true, true, false),
        (&reconciler, &["legacy-crm"], false, true, false),
        (&sam, &[], true, false, false),
        (&operator, &[], true, true, false),
        (&operator, &["legacy-crm"], false, true, false),
        (&gateway, &[], true, true, true),
    ] {
        let catalog = told(clients, resources).await.unwrap();
        let has = |word: &str| catalog.contains(word);
        assert_eq!(
            (has("orders-api"), has("legacy-crm"), has("X-Api-Key"), has("crm-key")),
            (orders, crm, secret, secret),
            "{resources:?}: {catalog}"
        );
    }
    for (clients, name, code, hint) in [
        (&agent, "order-api", "PT-0202", Some("orders-api")),
        // What it may not ask for is to it as if it were not there.
        (&agent, "legacy-crm", "PT-0202", None),
        (&agent, "legacy-crn", "PT-0202", None),
        (&operator, "legacy-crn", "PT-0202", Some("legacy-crm")),
        (&sam, "legacy-crm", "PT-0612", None),
        (&sam, "legacy-crn", "PT-0612", None),
    ] {
        let status = told(clients, &[name]).await.unwrap_err();
        assert_eq!(reason(&status), code, "{name}: {status:?}");
        let said = status.message().split_once("did you mean").map(|(_, near)| near);
        assert_eq!(said.is_some(), hint.is_some(), "{name}: {status:?}");
        assert!(said.unwrap_or_default().contains(hint.unwrap_or_default()), "{status:?}");
    }
    broker.stop().await;
}
