//! Usage over the wire: who may report, of what, once; and what people and policies see of it.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_verify::ids::GrantId;
use protem_verify::time::Time;
use tonic::{Code, Status};

use crate::broker::{Clients, TestBroker, Wish, fresh_task, policies, reason};

const READ: &str = "GET /v1/orders";

struct Stage {
    broker: TestBroker,
    edge: Clients,
    grant: GrantId,
}

impl Stage {
    /// A broker whose `edge-eu-1` has the orders API alone, and `edge-crm` the other one.
    async fn new() -> Self {
        let broker = TestBroker::with(Wish { bundle: Some(bundle()), ..Wish::default() }).await;
        let edge = broker.gateway("edge-eu-1");
        let grant = granted(&broker).await;
        Self { broker, edge, grant }
    }

    fn allowed(&self, report: u64, count: u64) -> v1::ReportUsageRequest {
        v1::ReportUsageRequest {
            gateway: "edge-eu-1".into(),
            grant: self.grant.0.to_vec(),
            scope: "orders:read".into(),
            operation: READ.into(),
            allowed: count,
            instance: "one".into(),
            report,
            ..v1::ReportUsageRequest::default()
        }
    }

    fn refused(&self, report: u64, count: u64) -> v1::ReportUsageRequest {
        v1::ReportUsageRequest {
            scope: String::new(),
            operation: "POST /v1/orders/{id}/refund".into(),
            allowed: 0,
            refused: count,
            refusal: "PT-0413".into(),
            ..self.allowed(report, 0)
        }
    }

    async fn shown(&self) -> v1::GetGrantResponse {
        let get = v1::GetGrantRequest { grant_id: self.grant.text() };
        self.broker.operator().governance.get_grant(get).await.unwrap().into_inner()
    }
}

fn bundle() -> protem::policy::bundle::Files {
    let split = |text: &str| {
        let both = "resources = [\"orders-api\", \"legacy-crm\"]";
        assert!(text.contains(both));
        let crm = "[gateway.edge-crm]\nlogin = { spiffe = \"spiffe://shop.example/ns/edge/sa/crm\" }\nresources = [\"legacy-crm\"]\n";
        format!("{}\n{crm}", text.replace(both, "resources = [\"orders-api\"]"))
    };
    let edited = policies()
        .iter()
        .map(|(name, text)| match &**name {
            "catalog.toml" => {
                (name.clone(), split(std::str::from_utf8(text).unwrap()).into_bytes().into())
            }
            _ => (name.clone(), text.clone()),
        })
        .collect::<Vec<_>>();
    edited.into_iter().collect()
}

async fn granted(broker: &TestBroker) -> GrantId {
    let answer = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    answer.grant.unwrap().id.parse().unwrap()
}

async fn report(
    by: &Clients,
    messages: Vec<v1::ReportUsageRequest>,
) -> Result<(u64, u64, u64), Status> {
    let answer = by.usage.clone().report_usage(tokio_stream::iter(messages)).await?.into_inner();
    Ok((answer.accepted, answer.repeated_before, answer.unknown))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_reports_is_shown_with_the_grant_and_its_identity() {
    let stage = Stage::new().await;
    let messages = vec![stage.allowed(1, 7), stage.allowed(2, 1), stage.refused(3, 2)];
    assert_eq!(report(&stage.edge, messages.clone()).await.unwrap(), (3, 0, 0));
    assert_eq!(report(&stage.edge, messages).await.unwrap(), (0, 3, 0), "the answer was lost");
    let shown = stage.shown().await;
    let usage = shown.usage.unwrap();
    assert_eq!((usage.used.len(), usage.refused.len()), (1, 1));
    assert_eq!((&*usage.used[0].operation, usage.used[0].count), (READ, 8));
    assert_eq!((&*usage.refused[0].refusal, usage.refused[0].count), ("PT-0413", 2));
    assert_eq!(usage.never_used, ["orders:read GET /v1/orders/{id}"]);
    assert!(shown.grant.unwrap().last_used.is_some());
    let mut operator = stage.broker.operator();
    let list = v1::ListGrantsRequest::default();
    let grants = operator.governance.list_grants(list).await.unwrap().into_inner().grants;
    assert!(grants[0].last_used.is_some());
    let named = v1::ListIdentitiesRequest { name: "payments/agent".into(), ..Default::default() };
    let found = operator.governance.list_identities(named).await.unwrap().into_inner();
    assert!(found.identities[0].last_used.is_some());
    assert!(found.identities[0].unused_scopes.is_empty());
    let gateways = operator.governance.list_gateways(v1::ListGatewaysRequest {}).await.unwrap();
    let gateways = gateways.into_inner().gateways;
    let edge = gateways.iter().find(|one| one.name == "edge-eu-1").unwrap();
    assert!(edge.last_report.is_some());
    stage.broker.stop().await;
}

/// Attack test: usage of others cannot be made up, nor read out, nor filled with names of one's own.
#[tokio::test(flavor = "multi_thread")]
async fn attack_usage_of_foreign_grants() {
    let stage = Stage::new().await;
    let foreign = stage.broker.gateway("edge-crm");
    let own_name = |message| v1::ReportUsageRequest { gateway: String::new(), ..message };
    // A grant on another gateway's resource, and one that there never was: the same answer. So for its scope's name.
    let unknown = v1::ReportUsageRequest { grant: vec![7; 16], ..stage.refused(2, 1) };
    let messages = vec![own_name(stage.refused(1, 1)), own_name(unknown)];
    assert_eq!(report(&foreign, messages).await.unwrap(), (0, 0, 2));
    assert_eq!(report(&foreign, vec![own_name(stage.allowed(3, 1))]).await.unwrap(), (0, 0, 1));
    // In another gateway's name.
    let denied = report(&foreign, vec![stage.refused(4, 1)]).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    // Nobody but gateways.
    for other in [stage.broker.operator(), stage.broker.identity("payments/agent")] {
        let denied = report(&other, vec![own_name(stage.allowed(5, 1))]).await.unwrap_err();
        assert_eq!((denied.code(), &*reason(&denied)), (Code::PermissionDenied, "PT-0613"));
    }
    let nobody = report(&stage.broker.clients(None), vec![stage.allowed(6, 1)]).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let usage = stage.shown().await.usage.unwrap();
    assert!(usage.used.is_empty() && usage.refused.is_empty(), "{usage:?}");
    // Paths are no operations: what the catalog does not spell is counted without a name.
    let path = |report, text: &str| v1::ReportUsageRequest {
        operation: text.into(),
        ..stage.refused(report, 1)
    };
    let messages = (1..=50).map(|at| path(at, &format!("GET /v1/orders/{at}"))).collect();
    assert_eq!(report(&stage.edge, messages).await.unwrap(), (50, 0, 0));
    let usage = stage.shown().await.usage.unwrap();
    assert_eq!((usage.refused.len(), &*usage.refused[0].operation), (1, ""));
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_reports_are_refused() {
    let stage = Stage::new().await;
    let good = || stage.allowed(1, 1);
    let far = prost_types::Timestamp { seconds: -1, nanos: 0 };
    for (what, bad) in [
        ("no instance", v1::ReportUsageRequest { instance: String::new(), ..good() }),
        ("a long instance", v1::ReportUsageRequest { instance: "i".repeat(65), ..good() }),
        ("no number", v1::ReportUsageRequest { report: 0, ..good() }),
        ("no grant", v1::ReportUsageRequest { grant: vec![1; 15], ..good() }),
        ("no count", v1::ReportUsageRequest { allowed: 0, ..good() }),
        ("both counts", v1::ReportUsageRequest { refused: 1, ..good() }),
        ("a huge count", v1::ReportUsageRequest { allowed: u64::MAX, ..good() }),
        ("no code", v1::ReportUsageRequest { refusal: "PT-0101".into(), ..stage.refused(1, 1) }),
        ("a time before 1970", v1::ReportUsageRequest { last: Some(far), ..good() }),
    ] {
        let refused = report(&stage.edge, vec![bad]).await.expect_err(what);
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::InvalidArgument, "PT-0201"),
            "{what}"
        );
    }
    let two =
        vec![good(), v1::ReportUsageRequest { instance: "two".into(), ..stage.allowed(2, 1) }];
    assert_eq!(report(&stage.edge, two).await.unwrap_err().code(), Code::InvalidArgument);
    let many = (1..=1_001).map(|at| stage.allowed(at, 1)).collect();
    let refused = report(&stage.edge, many).await.unwrap_err();
    assert_eq!(reason(&refused), "PT-0203");
    // What had been counted before that is not counted again.
    let before = stage.shown().await.usage.unwrap().used[0].count;
    let (counted, repeated, _) =
        report(&stage.edge, (1..=1_000).map(|at| stage.allowed(at, 1)).collect()).await.unwrap();
    assert_eq!((counted + repeated, before), (1_000, repeated));
    assert_eq!(stage.shown().await.usage.unwrap().used[0].count, 1_000);
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_says_who_is_dormant_and_who_was_granted_what() {
    let stage = Stage::new().await;
    let mut operator = stage.broker.operator();
    let mut names = async |wire: v1::ListIdentitiesRequest| {
        let found = operator.governance.list_identities(wire).await.unwrap().into_inner();
        let named = found.identities.iter().find(|one| one.name == "payments/agent");
        (named.cloned(), found.identities.len())
    };
    let all = names(v1::ListIdentitiesRequest::default()).await.1;
    let dormant_for = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let dormant = |seconds| v1::ListIdentitiesRequest {
        dormant_for: dormant_for(seconds),
        ..Default::default()
    };
    let (agent, count) = names(dormant(3_600)).await;
    assert_eq!((agent, count), (None, all - 1), "granted a moment ago");
    let on = |resource: &str| v1::ListIdentitiesRequest {
        resource: resource.into(),
        ..Default::default()
    };
    assert_eq!(names(on("orders-api")).await.1, 1);
    assert_eq!(names(on("legacy-crm")).await.1, 0);
    let (agent, _) = names(on("orders-api")).await;
    assert_eq!(agent.unwrap().unused_scopes, ["orders-api#orders:read"]);
    // What only waits for people is no grant.
    let mut deployer = stage.broker.identity("payments/deployer");
    let mut waits = crate::broker::ask(&fresh_task());
    waits.scopes = vec!["orders:refund".into()];
    let asked = deployer.access.request_access(waits).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(asked.state(), v1::GrantState::Pending);
    let dormants = operator.governance.list_identities(dormant(3_600)).await.unwrap().into_inner();
    let one = dormants.identities.iter().find(|one| one.name == "payments/deployer");
    assert_eq!(one.map(|one| one.last_granted), Some(None), "asked a moment ago, granted nothing");
    // By pages of one, with a filter that passes over the others.
    let mut seen = 0;
    let mut page = v1::ListIdentitiesRequest { page_size: 1, ..dormant(3_600) };
    loop {
        let found = stage.broker.operator().governance.list_identities(page.clone()).await.unwrap();
        let found = found.into_inner();
        seen += found.identities.len();
        assert!(found.identities.iter().all(|one| one.name != "payments/agent"));
        if found.next_page_token.is_empty() {
            break;
        }
        page.page_token = found.next_page_token;
    }
    assert_eq!(seen, all - 1);
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_use_is_found_when_it_is_reported() {
    let stage = Stage::new().await;
    let now = || Time::from(SystemClock.unix());
    let identity = "payments/agent".try_into().unwrap();
    let found = || stage.broker.broker.usage_findings(&identity, now());
    report(&stage.edge, vec![stage.allowed(1, 100), stage.refused(2, 49)]).await.unwrap();
    assert_eq!(found(), Vec::<String>::new());
    report(&stage.edge, vec![stage.refused(3, 9)]).await.unwrap();
    // At the turn of an hour the counts fall into two of them, and a further report makes it sure.
    report(&stage.edge, vec![stage.refused(4, 1_000)]).await.unwrap();
    assert!(found()[0].starts_with("refused-spike: "), "{:?}", found());
    let later = now() + Duration::from_secs(3_601);
    assert!(stage.broker.broker.usage_findings(&identity, later).is_empty());
    stage.broker.stop().await;
}

/// What gateways report reaches policy: `findings` holds it at the next request.
#[tokio::test(flavor = "multi_thread")]
async fn policy_sees_what_is_unusual_about_use() {
    let forbids = "@id(\"nothing-while-often-refused\")\n\
                   forbid (principal, action == Action::\"issue\", resource)\n\
                   when { context.findings.contains(\"refused-spike\") };\n\
                   @id(\"nor-after-approval\")\n\
                   forbid (principal, action == Action::\"request\", resource)\n\
                   when { context.findings.contains(\"refused-spike\") };\n";
    let (files, name): (_, Arc<str>) = (bundle(), "unusual.cedar".into());
    let added = files.iter().cloned().chain([(name, forbids.as_bytes().into())]);
    let mut files: Vec<_> = added.collect();
    files.sort();
    let wish = Wish { bundle: Some(files.into()), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let grant = granted(&broker).await;
    let stage = Stage { edge: broker.gateway("edge-eu-1"), grant, broker };
    let mut agent = stage.broker.identity("payments/agent");
    agent.ask(&fresh_task()).await.unwrap();
    // At the turn of an hour the counts fall into two of them, and one of the two is enough.
    report(&stage.edge, vec![stage.refused(1, 60), stage.refused(2, 1_000)]).await.unwrap();
    let denied = agent.ask(&fresh_task()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    assert!(String::from_utf8_lossy(denied.details()).contains("refused-spike: "), "{denied:?}");
    // Somebody else's requests are as usual.
    let other = stage.broker.identity("shop/checkout").ask(&fresh_task()).await;
    let unusual =
        |status: &Status| String::from_utf8_lossy(status.details()).contains("refused-spike");
    assert!(!other.is_err_and(|status| unusual(&status)));
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_secrets_are_shown_with_whose_they_are_and_what_is_wrong() {
    let files = policies();
    let edited = files.iter().map(|(name, text)| match &**name {
        "catalog.toml" => (name.clone(), [&**text, SECRETS.as_bytes()].concat().into()),
        _ => (name.clone(), text.clone()),
    });
    let bundle = Some(edited.collect());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let answer = broker.operator().governance.list_secrets(v1::ListSecretsRequest {}).await;
    let secrets = answer.unwrap().into_inner().secrets;
    let named = |name: &str| secrets.iter().find(|one| one.name == name).unwrap();
    let (old, new) = (named("crm-key"), named("crm-export"));
    assert_eq!((old.overdue, old.expired, &*old.status), (true, true, "unmanaged"));
    assert_eq!(&*old.found_in, "legacy/deploy.sh, line 12");
    assert_eq!((new.overdue, new.expired, &*new.status), (false, false, "managed"));
    assert_eq!((&*new.owner_technical, &*new.revoke), ("group:shop-oncall", "vendor console"));
    assert!(new.created.is_some() && new.rotate_by.is_some() && new.expires.is_some());
    broker.stop().await;
}

const SECRETS: &str = r#"
[secret.crm-key]
purpose      = "CRM vendor key"
resource     = "legacy-crm"
owner        = { business = "group:shop-leads", technical = "group:shop-oncall" }
created      = 2020-09-04
rotate_every = "90d"
expires      = 2021-09-04
revoke       = "vendor console, Settings, API keys"
status       = "unmanaged"
found_in     = "legacy/deploy.sh, line 12"
[secret.crm-export]
purpose      = "CRM nightly export"
resource     = "legacy-crm"
owner        = { business = "group:shop-leads", technical = "group:shop-oncall" }
created      = 2026-09-04
rotate_every = "3650d"
expires      = 2096-09-04
revoke       = "vendor console"
status       = "managed"
"#;
