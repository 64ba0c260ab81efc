//! A broker that errs and lies, speaking the real protocol over loopback, and a gateway that must not be fooled.
#![cfg(test)]

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation::Target;
use protem_proto::wire::v1::revocation_service_server::{
    RevocationService, RevocationServiceServer,
};
use protem_proto::wire::v1::subscribe_request::Message as Asked;
use protem_proto::wire::v1::subscribe_response::Message;
use protem_proto::wire::v1::usage_service_server::{UsageService, UsageServiceServer};
use protem_verify::checkpoint::Checkpoint;
use protem_verify::claims::Claims;
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::jws::{ACCESS_TOKEN, encode};
use protem_verify::keys::{jwks, thumbprint};
use protem_verify::known::State;
use protem_verify::names::{GatewayName, IdentityName, ResourceName, ScopeName, TaskId};
use protem_verify::time::{Staleness, Time};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming};
use tower::{Layer, ServiceExt, service_fn};

use crate::apply::checkpoint_message;
use crate::body::Guarded;
use crate::connect::TlsFiles;
use crate::gate::{Gate, GateConfig};
use crate::login::{CallerToken, Login, LoginFailed};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
const ISSUER: &str = "http://broker.test";
const CATALOG: &str = r#"{"resources":{"orders-api":{"audience":"https://orders.example","scopes":{
    "orders:read":{"risk":"low","operations":["GET /v1/orders"]},
    "orders:refund":{"risk":"high","operations":["POST /v1/orders/{id}/refund"]}}}}}"#;

/// What the broker tells; a test turns it while streams are open.
struct Script {
    head: u64,
    last_sent: u64,
    root: u8,
    epoch: u64,
    proving: bool,
    catalog: String,
    delay: Duration,
    streams: Vec<mpsc::Sender<Result<v1::SubscribeResponse, Status>>>,
    opens: Vec<v1::Open>,
    acked: u64,
    /// What becomes of a report of usage.
    reports: Reports,
    /// Calls that reports told of.
    used: u64,
}

#[derive(Clone, Copy)]
enum Reports {
    Taken,
    Refused,
    Unanswered,
}

#[derive(Clone)]
struct Broker(Arc<Mutex<Script>>);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn message(message: Message) -> Result<v1::SubscribeResponse, Status> {
    Ok(v1::SubscribeResponse { message: Some(message) })
}

impl Broker {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Script {
            head: 100,
            last_sent: 0,
            root: 1,
            epoch: 5,
            proving: true,
            catalog: CATALOG.to_owned(),
            delay: Duration::ZERO,
            streams: Vec::new(),
            opens: Vec::new(),
            acked: 0,
            reports: Reports::Taken,
            used: 0,
        })))
    }

    fn turn<T>(&self, with: impl FnOnce(&mut Script) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    fn opening(&self) -> Vec<Message> {
        let set = |seed| jwks(&[key(seed).verifying_key().to_bytes()]);
        self.turn(|script| {
            let (head, last_sent) = (script.head, script.last_sent);
            vec![
                Message::Opened(v1::Opened {
                    journal: vec![7; 16],
                    epoch: script.epoch,
                    issuer: ISSUER.into(),
                    head,
                    ping_every: prost_types::Duration::try_from(Duration::from_millis(250)).ok(),
                    max_staleness: prost_types::Duration::try_from(Duration::from_secs(5)).ok(),
                    last_sent,
                }),
                Message::Keys(v1::Keys { jwks: set(1), seq: 2, checkpoint_jwks: set(2) }),
                Message::Catalog(v1::Catalog {
                    json: script.catalog.clone(),
                    seq: 3,
                    ..Default::default()
                }),
                Message::SnapshotBegin(v1::SnapshotBegin { at_seq: head, entries: 0 }),
                Message::SnapshotEnd(v1::SnapshotEnd {
                    at_seq: head,
                    entries: 0,
                    cursor: cursor(head),
                    last_sent,
                }),
            ]
        })
    }

    fn checkpoint(&self, nonce: Vec<u8>) -> Message {
        let at = Time::from(SystemClock.unix()).end_of_second();
        self.turn(|script| {
            let signed = Checkpoint {
                journal: JournalId([7; 16]),
                epoch: Epoch(script.epoch),
                seq: Seq(script.head),
                at,
                root: Hash([script.root; 32]),
            }
            .sign(&key(2));
            Message::Checkpoint(v1::Checkpoint {
                last_sent: script.last_sent,
                nonce,
                keys_seq: 2,
                catalog_seq: 3,
                cursor: cursor(script.head),
                ..checkpoint_message(&signed)
            })
        })
    }

    /// Sends one item to every stream.
    async fn revoke(&self, target: Option<Target>) {
        let (item, streams) = self.turn(|script| {
            let prev_seq = script.last_sent;
            script.head += 1;
            script.last_sent = script.head;
            let item = v1::Revocation { seq: script.head, prev_seq, target, ..Default::default() };
            (item, script.streams.clone())
        });
        for stream in streams {
            let batch = v1::RevocationBatch { items: vec![item.clone()], cursor: cursor(item.seq) };
            let _ = stream.send(message(Message::Batch(batch))).await;
        }
    }

    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RevocationServiceServer::new(self.clone()))
            .add_service(UsageServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }
}

fn cursor(seq: u64) -> Option<v1::Cursor> {
    Some(v1::Cursor { journal: vec![7; 16], epoch: 5, seq, filter: vec![] })
}

#[tonic::async_trait]
impl RevocationService for Broker {
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: tonic::Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<tonic::Response<Self::SubscribeStream>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer let-me-in");
        let mut requests = request.into_inner();
        let (stream, answers) = mpsc::channel(64);
        let broker = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                match request.message.unwrap() {
                    Asked::Open(open) => {
                        let resumed = open.after.is_some();
                        broker.turn(|script| script.opens.push(open));
                        for part in broker.opening() {
                            let snapshot =
                                matches!(part, Message::SnapshotBegin(_) | Message::SnapshotEnd(_));
                            if !(resumed && snapshot) {
                                let _ = stream.send(message(part)).await;
                            }
                        }
                        broker.turn(|script| script.streams.push(stream.clone()));
                    }
                    Asked::Ack(ack) => broker.turn(|script| script.acked = ack.seq),
                    Asked::Ping(ping) => {
                        let (proving, delay) = broker.turn(|script| (script.proving, script.delay));
                        tokio::time::sleep(delay).await;
                        if proving {
                            let _ = stream.send(message(broker.checkpoint(ping.nonce))).await;
                        }
                    }
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(answers)))
    }

    async fn head(
        &self,
        _: tonic::Request<v1::HeadRequest>,
    ) -> Result<tonic::Response<v1::HeadResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl UsageService for Broker {
    async fn report_usage(
        &self,
        request: tonic::Request<Streaming<v1::ReportUsageRequest>>,
    ) -> Result<tonic::Response<v1::ReportUsageResponse>, Status> {
        let mut messages = request.into_inner();
        let mut used = 0;
        while let Some(message) = messages.message().await? {
            used += message.allowed;
        }
        match self.turn(|script| script.reports) {
            Reports::Taken => {
                self.turn(|script| script.used += used);
                Ok(tonic::Response::new(v1::ReportUsageResponse::default()))
            }
            Reports::Refused => Err(Status::unavailable("not now")),
            Reports::Unanswered => std::future::pending().await,
        }
    }
}

struct Password;

impl Login for Password {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(CallerToken::new("let-me-in".into()))))
    }
}

struct Bench {
    broker: Broker,
    gate: Gate,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

fn start(address: SocketAddr, folder: &std::path::Path) -> Gate {
    Gate::start(GateConfig {
        broker: format!("http://{address}"),
        gateway: GatewayName::try_from("edge-eu-1").unwrap(),
        issuer: ISSUER.into(),
        resources: vec![resource()],
        state: folder.join("gate"),
        login: Some(Arc::new(Password)),
        tls: TlsFiles::default(),
        clock: Arc::new(SystemClock),
    })
    .unwrap()
}

impl Bench {
    async fn start() -> Self {
        Self::on(Broker::new()).await
    }

    async fn on(broker: Broker) -> Self {
        let address = broker.serve().await;
        let folder = tempfile::tempdir().unwrap();
        let gate = start(address, folder.path());
        let bench = Self { broker, gate, folder, address };
        bench.until("fresh", |bench| bench.gate.state() == State::Fresh).await;
        bench
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = SystemClock.boot() + PATIENCE;
        while !done(self) {
            let state = self.gate.state();
            assert!(SystemClock.boot() < end, "not {what} after {PATIENCE:?}; {state:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn call(
        &self,
        request: Request<Full<bytes::Bytes>>,
    ) -> (StatusCode, http::HeaderMap, String) {
        let inner = service_fn(|request: Request<Guarded<Full<bytes::Bytes>>>| async move {
            let seen: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                .collect();
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from(
                seen.join("\n"),
            ))))
        });
        let answer = self.gate.layer(resource()).layer(inner).oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn status(&self) -> u16 {
        self.call(get(&token()).body(Full::default()).unwrap()).await.0.as_u16()
    }
}

fn resource() -> ResourceName {
    ResourceName::try_from("orders-api").unwrap()
}

fn get(token: &str) -> http::request::Builder {
    Request::get("/v1/orders").header("authorization", format!("Bearer {token}"))
}

fn token() -> String {
    let now = Time::from(SystemClock.unix()).as_secs();
    let claims = Claims {
        issuer: ISSUER.into(),
        subject: protem_verify::names::Subject::try_from("x|y").unwrap(),
        identity: IdentityName::try_from("payments/agent").unwrap(),
        grant: GrantId([5; 16]),
        number: 0,
        issued: Time::from_secs(now),
        not_before: Time::from_secs(now),
        expires: Time::from_secs(now + 300),
        scopes: vec![ScopeName::try_from("orders:read").unwrap()],
        audience: "https://orders.example".into(),
        proof: None,
        seq: Seq(50),
        until: Time::from_secs(now + 300),
        task: TaskId::try_from("t-1").unwrap(),
        epoch: Epoch(5),
        fresh: Staleness(Duration::from_secs(2)),
        status: None,
        template: Vec::new(),
    };
    let kid = thumbprint(&key(1).verifying_key().to_bytes());
    encode(ACCESS_TOKEN, &kid, &claims.encode(), |bytes| key(1).sign(bytes).to_bytes())
}

mod tests;
