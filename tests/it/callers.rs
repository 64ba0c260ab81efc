//! Who may call what: every route without a caller, with a bad one, and as somebody else.

use std::str::FromStr;

use prost::Message;
use prost_types::FileDescriptorSet;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::ids::GrantId;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::broker::{SignIn, TestBroker, ask, fresh_task, reason};

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_asks_renews_and_completes() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let granted = agent.ask(&task).await.unwrap();
    let grant = granted.grant.unwrap();
    assert_eq!(grant.state(), v1::GrantState::Active);
    assert_eq!(grant.identity, "payments/agent");
    let token = granted.credential.unwrap().token;
    let again = agent.ask(&task).await.unwrap();
    assert_eq!(again.credential.unwrap().token, token, "the same ask, the same token");
    let renew = v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    let renewed = agent.access.renew_credential(renew).await.unwrap().into_inner();
    assert_eq!(renewed.credential.unwrap().token, token, "before `renew_at` the newest again");
    let done = agent.complete(&task).await.unwrap();
    assert_eq!(done.ended.len(), 1);
    assert_eq!(done.ended[0].end_reason(), v1::EndReason::Completed);
    let late = agent.ask(&task).await.unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "PT-0102"));
    broker.stop().await;
}

/// Row 31: generated from the contract, so that a new method cannot be forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn attack_every_rpc_without_role() {
    let broker = TestBroker::start().await;
    let head = broker.head();
    let mut expired = broker.claims("payments/agent", "identity", &[]);
    expired["exp"] = (expired["iat"].as_u64().unwrap() - 1).into();
    let mut foreign = broker.claims("payments/agent", "identity", &[]);
    foreign["iss"] = "https://evil.example".into();
    let nobody = broker.sign(&broker.claims("nobody/here", "identity", &[]));
    for path in methods() {
        for (token, code) in [
            (None, "PT-0601"),
            (Some("a.b.c".to_owned()), "PT-0603"),
            (Some(broker.sign(&expired)), "PT-0608"),
            (Some(broker.sign(&foreign)), "PT-0604"),
        ] {
            let status = patient(&broker, &path, token).await;
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unauthenticated, code),
                "{path}"
            );
        }
        if path.ends_with("/WhoAmI") {
            continue;
        }
        let status = patient(&broker, &path, Some(nobody.clone())).await;
        assert_eq!(reason(&status), "PT-0610", "{path}");
    }
    assert_eq!(broker.head(), head, "nothing changed");
    broker.stop().await;
}

/// Row 42.
#[tokio::test(flavor = "multi_thread")]
async fn attack_metadata_identity() {
    let broker = TestBroker::start().await;
    let mut request = Request::new(v1::WhoAmIRequest {});
    for name in ["x-protem-identity", "x-forwarded-user", "identity", "x-protem-as", "cookie"] {
        request.metadata_mut().insert(name, "payments/agent".parse().unwrap());
    }
    let status = broker.clients(None).access.who_am_i(request).await.unwrap_err();
    assert_eq!(reason(&status), "PT-0601");
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("x-protem-identity", "payments/reconciler".parse().unwrap());
    let who =
        broker.identity("payments/agent").access.who_am_i(request).await.unwrap().into_inner();
    assert_eq!(who.identity, "payments/agent");
    // Two callers in one call are no caller.
    let mut twice = Request::new(v1::WhoAmIRequest {});
    let other = format!("Bearer {}", broker.identity_token("payments/reconciler"));
    let own = format!("Bearer {}", broker.identity_token("payments/agent"));
    twice.metadata_mut().append("authorization", own.parse().unwrap());
    twice.metadata_mut().append("authorization", other.parse().unwrap());
    let status = broker.clients(None).access.who_am_i(twice).await.unwrap_err();
    assert_eq!(reason(&status), "PT-0602");
    broker.stop().await;
}

/// Row 24: every method that takes a grant, a task or a selector, called by another workload.
#[tokio::test(flavor = "multi_thread")]
async fn attack_end_foreign_grant_by_every_route() {
    let broker = TestBroker::start().await;
    let mut owner = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = owner.ask(&task).await.unwrap().grant.unwrap();
    let head = broker.head();
    let foreign = broker.identity_token("shop/checkout");
    let absent = "gr_00000000000000000000000000";
    for path in methods() {
        let (found, unknown) = (body(&path, &grant.id, &task), body(&path, absent, "no-such-task"));
        let one = call(&broker, &path, Some(foreign.clone()), &found).await;
        let other = call(&broker, &path, Some(foreign.clone()), &unknown).await;
        if path.ends_with("/ReturnGrant")
            || path.ends_with("/RenewCredential")
            || path.ends_with("/CompleteTask")
        {
            assert_eq!(one.code(), Code::NotFound, "{path}");
        }
        // What is somebody else's looks exactly like what is not there.
        assert_eq!(one.code(), other.code(), "{path}");
        assert_eq!(mask(&one, &grant.id, &task), mask(&other, absent, "no-such-task"), "{path}");
    }
    for by in [
        By::Grant(grant.id.clone()),
        By::Identity("payments/agent".into()),
        By::Task(format!("payments/agent#{task}")),
        By::Resource("orders-api".into()),
        By::Scope("orders-api#orders:read".into()),
        By::Owner("group:payments-leads".into()),
        By::Everything(true),
    ] {
        for mut caller in [
            broker.identity("shop/checkout"),
            broker.gateway("edge-eu-1"),
            broker.person("mallory", &[]),
            broker.person("anna", &["auditors"]),
        ] {
            let status = caller.revoke(by.clone()).await.unwrap_err();
            assert!(
                matches!(status.code(), Code::PermissionDenied | Code::NotFound),
                "{by:?} {status:?}"
            );
        }
    }
    assert_eq!(broker.head(), head, "nothing changed");
    let still = owner.ask(&task).await.unwrap();
    assert_eq!(still.grant.unwrap().id, grant.id);
    broker.stop().await;
}

/// Row 25.
#[tokio::test(flavor = "multi_thread")]
async fn attack_renew_or_heartbeat_as_other_identity() {
    let broker = TestBroker::start().await;
    let task = fresh_task();
    let grant = broker.identity("payments/agent").ask(&task).await.unwrap().grant.unwrap();
    let mut other = broker.identity("payments/reconciler");
    let renew = v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    let status = other.access.renew_credential(renew).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "PT-0105"));
    // A hold of the same task id by another identity is another task: it says nothing of this one.
    let beat = v1::HoldTaskRequest { task_id: task.clone(), lease: None };
    let beats = tokio_stream::once(beat);
    let mut held = other.access.hold_task(beats).await.unwrap().into_inner();
    while let Ok(Some(_)) = held.message().await {}
    let watched = v1::WatchGrantRequest { grant_id: grant.id.clone() };
    assert_eq!(other.access.watch_grant(watched).await.unwrap_err().code(), Code::NotFound);
    let get = v1::GetGrantRequest { grant_id: grant.id.clone() };
    let found = broker.identity("payments/agent").governance.get_grant(get).await.unwrap();
    assert_eq!(found.into_inner().grant.unwrap().state(), v1::GrantState::Active);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_credential_ends_by_whoever_holds_it() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let granted = agent.ask(&task).await.unwrap();
    let token = granted.credential.unwrap().token;
    let mut finder = broker.identity("shop/checkout");
    let head = broker.head();
    for bad in ["x".to_owned(), format!("{token}x"), broker.identity_token("payments/agent")] {
        let answer = finder.revoke(By::Token(bad)).await.unwrap();
        assert_eq!((answer.grants_ended, answer.enforcement.len()), (0, 0));
    }
    assert_eq!(broker.head(), head, "nothing changed");
    let answer = finder.revoke(By::Token(token)).await.unwrap();
    assert_eq!(
        (answer.grants_ended, answer.enforcement.len()),
        (0, 0),
        "it tells nothing but the seq"
    );
    let again = agent.access.request_access(ask(&task)).await.unwrap().into_inner();
    assert_ne!(again.grant.unwrap().id, granted.grant.unwrap().id);
    broker.stop().await;
}

/// Every method of our contract.
pub fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(protem_proto::wire::DESCRIPTORS).unwrap();
    let of = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("/{package}.{}", service.name());
            service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
        })
    };
    let found: Vec<_> = set.file.into_iter().flat_map(of).collect();
    assert!(found.len() > 25);
    found
}

/// A request that names a grant and a task wherever the method takes one.
fn body(path: &str, grant: &str, task: &str) -> Vec<u8> {
    let (grant, task) = (grant.to_owned(), task.to_owned());
    match path.rsplit('/').next().unwrap() {
        "CompleteTask" => {
            v1::CompleteTaskRequest { task_id: task, ..Default::default() }.encode_to_vec()
        }
        // Opening a task of one's own is no attack on another's.
        "HoldTask" | "RequestAccess" | "ExplainAccess" => Vec::new(),
        "Revoke" => v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(By::Grant(grant)) }),
            note: "mine now".into(),
            wait: None,
        }
        .encode_to_vec(),
        "ReadJournal" => v1::ReadJournalRequest { grant, ..Default::default() }.encode_to_vec(),
        "ListPending" => {
            v1::ListPendingRequest { grant_id: grant, ..Default::default() }.encode_to_vec()
        }
        "ReportUsage" => {
            let grant = GrantId::from_str(&grant).unwrap().0.to_vec();
            let (gateway, instance) = ("edge-eu-1".to_owned(), "foreign".to_owned());
            let (report, refused) = (1, 1);
            let wire = v1::ReportUsageRequest {
                gateway,
                grant,
                instance,
                report,
                refused,
                ..Default::default()
            };
            wire.encode_to_vec()
        }
        // `grant_id` is the first field of these.
        "WatchGrant" | "RenewCredential" | "ReturnGrant" | "GetGrant" | "Decide"
        | "CloseReview" => v1::WatchGrantRequest { grant_id: grant }.encode_to_vec(),
        // These take neither a grant nor a task, nor a selector that could name one.
        "WhoAmI" | "ListGrants" | "SetQuarantine" | "ListIdentities" | "GetProof" | "Subscribe"
        | "Head" | "WatchPending" | "ListReviews" | "ListGateways" | "ListKeys" | "RotateKey"
        | "ListSecrets" | "GetReport" | "Backup" | "ListWebhooks" | "RetryWebhook"
        | "ApplyBundle" | "GetBundle" | "DiffBundle" => Vec::new(),
        other => panic!("what does `{other}` take of another's?"),
    }
}

fn mask(status: &Status, grant: &str, task: &str) -> String {
    status.message().replace(grant, "GRANT").replace(task, "TASK")
}

/// The same, when so many bad tokens from one address are slowed down, as they should be.
async fn patient(broker: &TestBroker, path: &str, token: Option<String>) -> Status {
    loop {
        let status = call(broker, path, token.clone(), &[]).await;
        if reason(&status) != "PT-0611" {
            return status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

/// One raw call of any method: its status, also when that is OK.
pub async fn call(broker: &TestBroker, path: &str, token: Option<String>, body: &[u8]) -> Status {
    let mut signed = SignIn(token);
    let request = tonic::service::Interceptor::call(&mut signed, Request::new(())).unwrap();
    let messages = tokio_stream::once(body.to_vec());
    let mut grpc = tonic::client::Grpc::new(broker.channel());
    grpc.ready().await.unwrap();
    let answer = grpc.streaming(request.map(|()| messages), path.parse().unwrap(), Raw).await;
    let mut answers = match answer {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    match tokio::time::timeout(std::time::Duration::from_secs(5), answers.message()).await {
        Ok(Err(status)) => status,
        Ok(Ok(_)) | Err(_) => Status::ok(""),
    }
}

/// Messages as bytes.
#[derive(Clone, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, length).to_vec()))
    }
}
