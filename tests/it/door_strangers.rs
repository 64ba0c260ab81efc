//! What strangers begin and never end takes no place of anybody else: neither of callers, nor of probes from elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use protem::serve::places::CallLimits;
use protem_proto::wire::v1;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::broker::{SignIn, TestBroker, Wish, fresh_task, reason};
use crate::callers::Raw;
use crate::process::PATIENCE;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WHO_AM_I: &str = "/protem.v1.AccessService/WhoAmI";

/// Row 56: calls that anybody may make, and whose message never comes.
#[tokio::test(flavor = "multi_thread")]
async fn attack_unfinished_calls_of_strangers() {
    for path in [CHECK, WHO_AM_I] {
        let calls = CallLimits {
            ordinary: 4,
            strangers: 4,
            strangers_of_one: 2,
            strangers_within: PATIENCE,
            ..CallLimits::default()
        };
        let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
        // A token that is good, and of nobody whom the bundle knows.
        let nobody = broker.sign(&broker.claims("nobody/here", "identity", &[]));
        let token = Some(nobody).filter(|_| path == WHO_AM_I);
        let channel = broker.channel();
        let mut begun = JoinSet::new();
        for _ in 0..16 {
            begun.spawn(never_ending(channel.clone(), token.clone(), path));
        }
        // Once one is refused, as many as may be are in flight, and stay there.
        for count in 0..14 {
            let status = begun.join_next().await.unwrap().unwrap();
            assert_eq!(reason(&status), "PT-0207", "{path} {count} {status:?}");
            assert_eq!(status.code(), Code::ResourceExhausted);
            let mut agent = broker.identity("payments/agent");
            agent.ask(&fresh_task()).await.unwrap();
            probe(&from(&broker, 2)).await.unwrap();
        }
        let status = probe(&channel).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0207", "{path} {status:?}");
        let held = broker.operator().access.who_am_i(v1::WhoAmIRequest {}).await;
        held.expect("who signs in is no stranger, wherever they come from");
        // Whoever fills the rest, from other addresses, takes no caller's place either.
        let other = from(&broker, 2);
        begun.spawn(never_ending(other.clone(), token.clone(), path));
        begun.spawn(never_ending(other.clone(), token.clone(), path));
        begun.spawn(never_ending(other.clone(), token, path));
        let status = begun.join_next().await.unwrap().unwrap();
        assert_eq!(reason(&status), "PT-0207", "{path} {status:?}");
        assert_eq!(reason(&probe(&from(&broker, 3)).await.unwrap_err()), "PT-0207");
        broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
        // Their places are free again when they have gone.
        begun.abort_all();
        let end = std::time::Instant::now() + PATIENCE;
        while let Err(status) = probe(&channel).await {
            assert_eq!(reason(&status), "PT-0207");
            assert!(std::time::Instant::now() < end, "{path}: places are never given back");
        }
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_message_must_come_soon() {
    let broker = TestBroker::start().await;
    for (token, path) in [
        (None, CHECK),
        (Some(broker.sign(&broker.claims("nobody/here", "identity", &[]))), WHO_AM_I),
    ] {
        let status = never_ending(broker.channel(), token, path).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "PT-0208"));
        assert!(status.message().ends_with("within 1s"), "{path} {status:?}");
    }
    broker.stop().await;
}

/// A connection from another address of this machine.
fn from(broker: &TestBroker, last: u8) -> Channel {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    broker.endpoint().local_address(Some(address)).connect_lazy()
}

async fn probe(channel: &Channel) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = Request::new(Vec::new());
    grpc.unary(request, CHECK.parse().unwrap(), Raw).await.map(drop)
}

/// A call whose only message never comes.
async fn never_ending(channel: Channel, token: Option<String>, path: &'static str) -> Status {
    let mut signed = SignIn(token);
    let request = tonic::service::Interceptor::call(&mut signed, Request::new(())).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let messages = tokio_stream::pending::<Vec<u8>>();
    let request = request.map(|()| messages);
    match grpc.client_streaming(request, path.parse().unwrap(), Raw).await {
        Ok(_) => Status::ok("it was answered"),
        Err(status) => status,
    }
}
