//! The raw fan-out probe: the same messages over bare tonic streams, without a broker behind them.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation_service_server::{
    RevocationService, RevocationServiceServer,
};
use protem_proto::wire::v1::subscribe_response::Message;
use protem_verify::codes::tool;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::cli::child::stdin_ends;
use crate::cli::exit::{Exit, Failure};
use crate::cli::scene::Ready;

/// A published message goes to every stream; a poll of `Head` publishes one.
struct Raw(broadcast::Sender<v1::SubscribeResponse>);

type Answers = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RevocationService for Raw {
    type SubscribeStream = Answers;

    async fn subscribe(
        &self,
        _: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let opened =
            v1::SubscribeResponse { message: Some(Message::Opened(v1::Opened::default())) };
        let stream = BroadcastStream::new(self.0.subscribe());
        let stream = stream.map(|item| item.map_err(|why| Status::data_loss(why.to_string())));
        let stream = tokio_stream::once(Ok(opened)).chain(stream);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn head(
        &self,
        request: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let item = v1::Revocation {
            seq: 1,
            target: Some(v1::revocation::Target::Grant(request.into_inner().nonce)),
            ..v1::Revocation::default()
        };
        let batch = v1::RevocationBatch { items: vec![item], cursor: None };
        // Nobody listening is no failure of a publisher.
        let _ = self.0.send(v1::SubscribeResponse { message: Some(Message::Batch(batch)) });
        Ok(Response::new(v1::HeadResponse::default()))
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// When it cannot listen.
pub async fn serve() -> Result<Exit, Failure> {
    let bad = |why: &dyn std::fmt::Display| Failure::of(Exit::Failed, tool::STEP, why.to_string());
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(at).await.map_err(|why| bad(&why))?;
    let at = listener.local_addr().map_err(|why| bad(&why))?;
    let ready = Ready { broker: format!("http://{at}"), orders: None };
    println!("{}", serde_json::to_string(&ready).unwrap_or_default());
    let (publish, _) = broadcast::channel(1_024);
    let service = RevocationServiceServer::new(Raw(publish));
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stdin_ends());
    served.await.map_err(|why| bad(&why))?;
    Ok(Exit::Done)
}
