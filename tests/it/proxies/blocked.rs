//! Row 21, end to end: who is blocked stays blocked, by every way back in, over restarts of everybody.

use protem::cli::ask::fresh_key;
use protem_proto::wire::v1;
use tonic::Code;

use crate::process::{Broker, until};
use crate::proxies::bundle::{OPERATOR, ORDERS, STEADY};
use crate::proxies::proxy::Kind;
use crate::proxies::site::{broker, credential};
use crate::proxies::stage::Stage;
use crate::proxies::tools::tools;

/// Asks for the same again and for something new, and renews: everything that could give a blocked identity a credential.
fn every_way_back(broker: &Broker, grant: &str, task: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut access = broker.client(STEADY).access();
        let renewed = v1::RenewCredentialRequest { grant_id: grant.to_owned() };
        let status = access.renew_credential(renewed).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for task in [task, "another-task"] {
            let ask = v1::RequestAccessRequest {
                request_id: fresh_key().to_string(),
                task: Some(v1::Task { id: task.into(), kind: "load".into(), url: String::new() }),
                resource: ORDERS.into(),
                scopes: vec!["orders:read".into()],
                ..v1::RequestAccessRequest::default()
            };
            let answer = access.request_access(ask).await;
            let status = answer.map(|answer| panic!("{:?}", answer.into_inner())).unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        }
    });
}

#[test]
fn attack_reissue_after_block() {
    let Some(tools) = tools("blocked identities behind real proxies") else { return };
    let mut broker = broker(Vec::new());
    let mut stages = [Kind::Envoy, Kind::Nginx].map(|kind| Stage::start(kind, &tools, &broker));
    let held = credential(&broker, STEADY, ORDERS, "orders:read");
    for stage in &stages {
        assert_eq!(stage.status(&held.token), Some(200), "{:?}", stage.kind);
    }
    broker.run(OPERATOR, &["quarantine", STEADY, "--note", "its key leaked"]).expect(0);
    let closed = |stage: &Stage| {
        until("what it holds is refused", || stage.status(&held.token) == Some(401));
        stage.upstream.taken();
        assert_eq!(stage.status(&held.token), Some(401));
        assert!(stage.upstream.taken().is_empty());
    };
    stages.iter().for_each(closed);
    every_way_back(&broker, &held.grant, &held.task);
    // What was answered is durable, and a gate that forgot everything learns it again before it lets anybody through.
    broker.kill();
    stages.iter_mut().for_each(|stage| stage.gate.kill());
    broker.start();
    stages.iter_mut().for_each(|stage| stage.gate.restart());
    stages.iter().for_each(|stage| stage.gate.fresh());
    stages.iter().for_each(closed);
    every_way_back(&broker, &held.grant, &held.task);
    // Lifted, it may ask again; what it held stays void.
    broker.run(OPERATOR, &["quarantine", STEADY, "--lift", "--note", "it has a new key"]).expect(0);
    let anew = credential(&broker, STEADY, ORDERS, "orders:read");
    for stage in &stages {
        until("the new credential counts", || stage.status(&anew.token) == Some(200));
        closed(stage);
    }
}
