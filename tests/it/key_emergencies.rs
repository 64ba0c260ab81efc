//! Who may replace a key in an emergency, and what a checkpoint key that leaked is worth after it.

use std::time::{Duration, Instant};

use protem::engine::proof;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message;
use protem_verify::checkpoint::Checkpoint;
use protem_verify::ids::Seq;
use tonic::Code;

use crate::broker::{TestBroker, Wish, fresh_task, policies, reason};
use crate::rotation::{compromised, list, private, rotate, signing, until_gone};

/// Only a person who may administer replaces a key (row 59).
#[tokio::test(flavor = "multi_thread")]
async fn attack_unauthenticated_operator_calls_on_keys() {
    let broker = TestBroker::start().await;
    let old = signing(&list(&broker).await, "credential").key_id;
    let nobody = broker.clients(None);
    let others = [
        (nobody, Code::Unauthenticated),
        (broker.identity("payments/agent"), Code::PermissionDenied),
        (broker.gateway("edge-eu-1"), Code::PermissionDenied),
        (broker.person("mallory", &[]), Code::PermissionDenied),
        (broker.person("audrey", &["auditors"]), Code::PermissionDenied),
    ];
    for (mut clients, expect) in others {
        let asked = rotate("credential", &old, true);
        let status = clients.governance.rotate_key(asked).await.unwrap_err();
        assert_eq!(status.code(), expect, "{status:?}");
    }
    let mut operator = broker.operator();
    for (bad, expect) in [
        (v1::RotateKeyRequest { note: " ".into(), ..rotate("", "", true) }, Code::InvalidArgument),
        (rotate("other", "", true), Code::InvalidArgument),
        (rotate("", "nosuchkey", true), Code::NotFound),
    ] {
        let status = operator.governance.rotate_key(bad).await.unwrap_err();
        assert_eq!(status.code(), expect, "{status:?} {}", reason(&status));
    }
    assert_eq!(signing(&list(&broker).await, "credential").key_id, old, "nothing happened");
    broker.stop().await;
}

/// At night whoever may administer replaces a key, and sees which there are, without a right to see all the rest.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_replace_a_key_may_see_which_there_are() {
    let mut files = policies().to_vec();
    for (name, text) in &mut files {
        if &**name == "people.cedar" {
            let mut all = String::from_utf8(text.to_vec()).unwrap();
            all.push_str(
                "\n@id(\"oncall-administers\")\npermit (principal in Group::\"shop-oncall\", \
                 action == Action::\"administer\", resource == Broker::\"protem\");\n",
            );
            *text = all.into_bytes().into();
        }
    }
    let bundle = Some(files.into());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let mut oncall = broker.person("oscar", &["shop-oncall"]);
    let status = oncall.governance.list_secrets(v1::ListSecretsRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let keys = oncall.governance.list_keys(v1::ListKeysRequest {}).await.unwrap().into_inner().keys;
    let old = signing(&keys, "credential").key_id;
    assert_eq!(compromised(&mut oncall, "credential", &old).await.replaced, old);
    let mut mallory = broker.person("mallory", &[]);
    let status = mallory.governance.list_keys(v1::ListKeysRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    broker.stop().await;
}

/// Retired first, as every key is one day, and found out later: who has it and a gateway's login must not stop a broker.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_cut_off_checkpoint_key_shows_a_head_that_never_was() {
    let broker = TestBroker::start().await;
    let folder = broker.folder.path().join("keys");
    let old = signing(&list(&broker).await, "checkpoint").key_id;
    let key = private(&folder.join(format!("{old}.key")));
    let former = folder.join(format!("{old}.former"));
    broker.operator().governance.rotate_key(rotate("checkpoint", &old, false)).await.unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !former.exists() {
        assert!(Instant::now() < end, "it is never retired: {:?}", list(&broker).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    compromised(&mut broker.operator(), "checkpoint", &old).await;
    until_gone(&former).await;
    let head = broker.broker.reader().head().unwrap();
    let never = Checkpoint {
        journal: head.journal,
        epoch: head.epoch,
        seq: Seq(head.seq.0 + 1_000),
        at: head.at,
        root: head.root,
    };
    let open = v1::Open {
        gateway: "edge-eu-1".into(),
        resources: vec!["orders-api".into()],
        enforcing: true,
        last: Some(proof::wire(&never.sign(&key))),
        instance: "thief".into(),
        version: 1,
        ..v1::Open::default()
    };
    let open = v1::SubscribeRequest { message: Some(v1::subscribe_request::Message::Open(open)) };
    let opening = tokio_stream::StreamExt::chain(tokio_stream::once(open), tokio_stream::pending());
    let mut thief = broker.gateway("edge-eu-1");
    let mut heard = thief.revocations.subscribe(opening).await.unwrap().into_inner();
    let first = heard.message().await.unwrap().unwrap().message;
    assert!(matches!(first, Some(Message::Opened(_))), "{first:?}");
    broker.identity("payments/agent").ask(&fresh_task()).await.expect("it goes on issuing");
    drop(heard);
    broker.stop().await;
}
