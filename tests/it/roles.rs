//! Every method of the contract against every role, generated from the descriptors: a new method fails until somebody says
//! who may call it.

use prost::Message;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tonic::{Code, Status};

use crate::broker::{TestBroker, Wish, ask, fresh_task, policies};
use crate::callers::{call, methods};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The workload whose request it is.
    Requester,
    OtherWorkload,
    /// In the group that may approve, look at and end what is on the resource.
    Approver,
    /// Answers for the requester's identity.
    Owner,
    Operator,
    Auditor,
    Gateway,
    /// Signed in, and in no group.
    Stranger,
}
use Role::{Approver, Auditor, Gateway, Operator, OtherWorkload, Owner, Requester, Stranger};

const ROLES: [Role; 8] =
    [Requester, OtherWorkload, Approver, Owner, Operator, Auditor, Gateway, Stranger];

/// Who gets further than "you may not" with a method that names somebody's waiting request; `None`: a test of its own says.
fn permitted(path: &str) -> Option<&'static [Role]> {
    let (service, method) = path.trim_start_matches("/protem.v1.").split_once('/').unwrap();
    Some(match (service, method) {
        ("AccessService", "WhoAmI") => &ROLES,
        ("AccessService", "RequestAccess" | "ExplainAccess" | "HoldTask") => return None,
        ("AccessService", "WatchGrant" | "RenewCredential" | "ReturnGrant" | "CompleteTask") => {
            &[Requester]
        }
        ("ApprovalService", "ListPending" | "WatchPending" | "ListReviews") => {
            &[Approver, Owner, Operator, Auditor, Stranger]
        }
        ("ApprovalService", "Decide") => &[Approver],
        ("ApprovalService", "CloseReview") => &[Operator],
        ("GovernanceService", "GetGrant" | "ReadJournal") => {
            &[Requester, Approver, Operator, Auditor]
        }
        ("GovernanceService", "ListGrants") => &[Requester, OtherWorkload, Operator, Auditor],
        ("GovernanceService", "Revoke") => &[Approver, Operator],
        ("GovernanceService", "SetQuarantine" | "RotateKey")
        | ("BundleService", "ApplyBundle" | "DiffBundle") => &[Operator],
        ("GovernanceService", "ListGateways" | "ListKeys" | "ListSecrets" | "ListWebhooks")
        | ("BundleService", "GetBundle") => &[Operator, Auditor],
        (
            "GovernanceService",
            "ListIdentities" | "GetProof" | "GetReport" | "Backup" | "RetryWebhook",
        )
        | ("RevocationService", "Subscribe" | "Head") => return None,
        ("UsageService", "ReportUsage") => &[Gateway],
        _ => panic!("say who may call {path}"),
    })
}

fn body(path: &str, grant: &v1::Grant) -> Vec<u8> {
    let id = grant.id.clone();
    match path.rsplit('/').next().unwrap() {
        "CompleteTask" => {
            let task_id = grant.task.clone().unwrap().id;
            v1::CompleteTaskRequest { task_id, ..Default::default() }.encode_to_vec()
        }
        "Decide" => {
            let digest = grant.digest.clone();
            v1::DecideRequest { grant_id: id, digest, approve: true, ..Default::default() }
                .encode_to_vec()
        }
        "CloseReview" => {
            v1::CloseReviewRequest { grant_id: id, note: "fine".into() }.encode_to_vec()
        }
        "Revoke" => v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(By::Grant(id)) }),
            note: "a test says so".into(),
            wait: None,
        }
        .encode_to_vec(),
        "SetQuarantine" => v1::SetQuarantineRequest {
            identity: "partner/courier".into(),
            quarantined: true,
            note: "a test says so".into(),
        }
        .encode_to_vec(),
        "ReadJournal" => v1::ReadJournalRequest { grant: id, ..Default::default() }.encode_to_vec(),
        "WatchGrant" | "RenewCredential" | "ReturnGrant" | "GetGrant" => {
            v1::WatchGrantRequest { grant_id: id }.encode_to_vec()
        }
        _ => Vec::new(),
    }
}

fn token(broker: &TestBroker, role: Role) -> String {
    let (name, kind, groups): (&str, &str, &[&str]) = match role {
        Requester => ("payments/agent", "identity", &[]),
        OtherWorkload => ("shop/checkout", "identity", &[]),
        Approver => ("ann", "person", &["shop-oncall"]),
        Owner => ("otto", "person", &["payments-oncall"]),
        Operator => ("olga", "person", &["operators"]),
        Auditor => ("ada", "person", &["auditors"]),
        Gateway => ("edge-eu-1", "gateway", &[]),
        Stranger => ("sid", "person", &[]),
    };
    broker.sign(&broker.claims(name, kind, groups))
}

/// A request that waits: `before`, while it does.
async fn waiting(broker: &TestBroker, before: Option<v1::Grant>) -> v1::Grant {
    let mut agent = broker.identity("payments/agent");
    if let Some(before) = before {
        let get = v1::GetGrantRequest { grant_id: before.id.clone() };
        // The matrix may ask faster than the identity's rate, which is not what it is about.
        let now = loop {
            match agent.governance.get_grant(get.clone()).await {
                Ok(answer) => break answer.into_inner().grant.unwrap(),
                Err(busy) => assert_eq!(busy.code(), Code::ResourceExhausted, "{busy:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        if now.state() == v1::GrantState::Pending {
            return now;
        }
    }
    let scopes = vec!["orders:refund".into()];
    let request = v1::RequestAccessRequest { scopes, ..ask(&fresh_task()) };
    let grant = loop {
        match agent.access.request_access(request.clone()).await {
            Ok(answer) => break answer.into_inner().grant.unwrap(),
            Err(busy) => assert_eq!(busy.code(), Code::ResourceExhausted, "{busy:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(grant.state(), v1::GrantState::Pending);
    assert_eq!(grant.approver_groups, ["shop-oncall"]);
    grant
}

fn refused(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::NotFound)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_every_role_that_may_not() {
    let broker = TestBroker::start().await;
    let mut grant = None;
    let mut tried = 0;
    for path in methods() {
        let Some(may) = permitted(&path) else { continue };
        for role in ROLES {
            let waits = waiting(&broker, grant.take()).await;
            let status = loop {
                let token = Some(token(&broker, role));
                let status = call(&broker, &path, token, &body(&path, &waits)).await;
                if status.code() != Code::ResourceExhausted {
                    break status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            };
            assert_ne!(status.code(), Code::Unauthenticated, "{role:?} {path}: {status:?}");
            assert_eq!(refused(&status), !may.contains(&role), "{role:?} {path}: {status:?}");
            tried += 1;
            grant = Some(waits);
        }
    }
    assert!(tried > 150, "{tried}");
    broker.stop().await;
}

/// Who may replace a key may see which there are, also when nobody lets them look at anything else.
#[tokio::test(flavor = "multi_thread")]
async fn who_administers_sees_the_keys_and_no_more() {
    let mut files: Vec<_> = policies().to_vec();
    for (name, text) in &mut files {
        if &**name == "people.cedar" {
            let read = String::from_utf8(text.to_vec()).unwrap();
            let looks = "action in [Action::\"revoke\", Action::\"view\"],\n  resource in Broker";
            assert!(read.contains(looks));
            let blind = "action == Action::\"revoke\",\n  resource in Broker";
            *text = read.replace(looks, blind).into_bytes().into();
        }
    }
    // The bundle's own cases are about a bundle where operators look.
    files.retain(|(name, _)| !name.starts_with("tests/"));
    let bundle = Some(files.into());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let mut operator = broker.operator();
    let keys = operator.governance.list_keys(v1::ListKeysRequest {}).await.unwrap().into_inner();
    assert!(keys.keys.len() >= 2, "{keys:?}");
    let seen = operator.governance.list_gateways(v1::ListGatewaysRequest {}).await.unwrap_err();
    assert_eq!(seen.code(), Code::PermissionDenied, "{seen:?}");
    let mut owner = broker.clients(Some(token(&broker, Owner)));
    let status = owner.governance.list_keys(v1::ListKeysRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    broker.stop().await;
}
