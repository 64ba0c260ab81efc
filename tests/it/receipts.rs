//! Receipts over the wire: one for each process, whoever else holds its name.

use std::time::{Duration, Instant};

use protem::serve::places::CallLimits;
use protem_proto::wire::v1;
use protem_proto::wire::v1::enforcement::How;
use protem_proto::wire::v1::selector::By;
use protem_proto::wire::v1::subscribe_request::Message as Said;
use protem_proto::wire::v1::subscribe_response::Message as Told;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::broker::{Clients, TestBroker, Wish, fresh_task};
use crate::key_scope::Guard;
use crate::process::PATIENCE;

/// An enforcing process of this instance that has been proven fresh and never acknowledges anything. It leaves when what it
/// says with is dropped: a stream whose requests go on does not end for want of a listener.
async fn silent(broker: &TestBroker, instance: &str) -> mpsc::Sender<v1::SubscribeRequest> {
    let open = v1::Open {
        gateway: "edge-eu-1".into(),
        instance: instance.into(),
        enforcing: true,
        version: 1,
        ..v1::Open::default()
    };
    let ping = v1::Ping { nonce: vec![7; 16], ..v1::Ping::default() };
    let (say, said) = mpsc::channel(2);
    for message in [Said::Open(open), Said::Ping(ping)] {
        say.send(v1::SubscribeRequest { message: Some(message) }).await.unwrap();
    }
    let mut gateway = broker.gateway("edge-eu-1");
    let told = gateway.revocations.subscribe(ReceiverStream::new(said)).await;
    let mut told = told.unwrap().into_inner();
    loop {
        let message = told.message().await.unwrap().expect("it is never proven");
        if matches!(message.message, Some(Told::Checkpoint(proof)) if !proof.nonce.is_empty()) {
            break;
        }
    }
    // It goes on to listen, as a gateway does that is alive.
    tokio::spawn(async move { while let Ok(Some(_)) = told.message().await {} });
    say
}

async fn gateways(operator: &mut Clients) -> Vec<v1::Gateway> {
    let asked = v1::ListGatewaysRequest {};
    let listed = operator.governance.list_gateways(asked).await.unwrap().into_inner().gateways;
    listed.into_iter().filter(|gateway| !gateway.instance.is_empty()).collect()
}

/// A state folder that was copied gives two gateways one instance id.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_copied_instance_speaks_for_the_other() {
    let broker = TestBroker::start().await;
    let guard = Guard::of(&broker).await;
    let (mut agent, mut operator) = (broker.identity("payments/agent"), broker.operator());
    let alone = gateways(&mut operator).await;
    assert_eq!((alone.len(), alone[0].twin), (1, false), "{alone:?}");
    let copy = silent(&broker, &alone[0].instance).await;
    let both = gateways(&mut operator).await;
    assert_eq!(both.iter().filter(|gateway| gateway.twin).count(), 2, "{both:?}");
    let granted = agent.ask(&fresh_task()).await.unwrap();
    let token = granted.credential.unwrap().token;
    assert_eq!(guard.reads_orders(&token).await, Ok(()));
    let request = v1::RevokeRequest {
        selector: Some(v1::Selector { by: Some(By::Grant(granted.grant.unwrap().id)) }),
        note: "a test says so".into(),
        wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    let mut answers = operator.governance.revoke(request).await.unwrap().into_inner();
    let (mut halfway, mut last) = (false, v1::RevokeResponse::default());
    while let Some(answer) = answers.message().await.unwrap() {
        let of = |wanted: How| {
            answer.enforcement.iter().filter(|receipt| receipt.how() == wanted).count()
        };
        halfway |= of(How::Acknowledged) == 1 && of(How::Waiting) == 1;
        // Before the bound only one of the two has said anything.
        assert!(of(How::Acknowledged) <= 1, "{answer:?}");
        assert_eq!(answer.enforced_everywhere, of(How::Waiting) == 0, "{answer:?}");
        last = answer;
    }
    assert!(halfway, "the copy was never waited for");
    let mut how: Vec<How> = last.enforcement.iter().map(v1::Enforcement::how).collect();
    how.sort();
    assert_eq!(how, [How::Acknowledged, How::BoundPassed], "{last:?}");
    assert_eq!(last.enforcement[0].instance, last.enforcement[1].instance);
    assert_ne!(last.enforcement[0].process, last.enforcement[1].process);
    // The copy leaves, and the one that is left is told of no twin any more.
    drop(copy);
    let end = Instant::now() + PATIENCE;
    while gateways(&mut operator).await.iter().any(|one| one.twin) {
        assert!(Instant::now() < end, "a twin that has gone is still one");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.stop().await;
}

/// Access has ended all the same, and nobody's waits pile up.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_place_to_wait_in_is_told_what_is_known() {
    let calls = CallLimits { waits_of_one: 0, followed_of_one: 0, ..CallLimits::default() };
    let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
    let _gateway = silent(&broker, "i-1").await;
    let (mut agent, mut operator) = (broker.identity("payments/agent"), broker.operator());
    let (task, other) = (fresh_task(), fresh_task());
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    agent.ask(&other).await.unwrap();
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let request = v1::RevokeRequest {
        selector: Some(v1::Selector { by: Some(By::Grant(grant.id)) }),
        note: "a test says so".into(),
        wait,
    };
    let mut answers = operator.governance.revoke(request).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!((first.grants_ended, first.enforced_everywhere), (1, false), "{first:?}");
    assert_eq!(first.enforcement[0].how(), How::Waiting);
    assert_eq!(answers.message().await.unwrap(), None, "there is one answer");
    let done = v1::CompleteTaskRequest { task_id: other, wait, ..Default::default() };
    let done = agent.access.complete_task(done).await.unwrap().into_inner();
    assert_eq!((done.ended.len(), done.enforced_everywhere), (1, false), "{done:?}");
    broker.stop().await;
}
