//! Who may replace a key in an emergency, and what a checkpoint key that leaked is worth after it.

use std::time::{Duration, Instant};

use protem::engine::plan::Schedule;
use protem::engine::proof;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message;
use protem_verify::checkpoint::Checkpoint;
use protem_verify::ids::Seq;
use tonic::Code;

use crate::broker::{TestBroker, Wish, fresh_task, reason};
use crate::key_scope::Guard;
use crate::rotation::{compromised, eventually, list, private, rotate, signing, until_gone};

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

/// A folder that cannot be changed keeps what leaked on the disk, and nobody from working: each successor signs, what was cut off
/// never does, and the file goes as soon as it can. A folder in the file's place stands for it, as it holds even root.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_key_file_that_cannot_be_removed_blocks_the_emergency() {
    let rotation = Schedule { rotate_every: None, jwks_wait: Duration::ZERO };
    let broker = TestBroker::with(Wish { rotation, ..Wish::default() }).await;
    let _guard = Guard::of(&broker).await;
    let mut agent = broker.identity("payments/agent");
    let mut leaked = Vec::new();
    // The first successor is known ahead; those after it must be made, told to the gateway and waited for.
    for _ in 0..3 {
        let old = signing(&list(&broker).await, "credential").key_id;
        let file = broker.folder.path().join("keys").join(format!("{old}.key"));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("stays")).unwrap();
        compromised(&mut broker.operator(), "credential", &old).await;
        leaked.push((old, file));
        eventually(async || agent.ask(&fresh_task()).await).await;
        let keys = list(&broker).await;
        let signs = signing(&keys, "credential").key_id;
        for (old, file) in &leaked {
            assert_ne!(signs, *old, "{keys:?}");
            assert!(!broker.broker.jwks().contains(old), "{old} still counts");
            assert!(file.exists(), "nothing stood in the way");
        }
    }
    for (_, file) in leaked {
        std::fs::remove_dir_all(&file).unwrap();
        std::fs::write(&file, "what is left of it").unwrap();
        until_gone(&file).await;
    }
    broker.stop().await;
}
