//! A workload: it asks for what its task needs, holds the task while it works, calls the API, and completes.
//!
//! `PROTEM_TOKEN_FILE=token cargo run -p example-workload`, with a broker on port 7420, the orders API on 7430 and, in the file,
//! a token that the bundle maps to an identity (`protem auth token --as payments/agent > token` against `protem dev`).

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use protem_proto::wire::v1::access_service_client::AccessServiceClient;
use protem_proto::wire::v1::{
    CompleteTaskRequest, Credential, HoldTaskRequest, RequestAccessRequest, Task,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = setting("PROTEM_BROKER", "http://127.0.0.1:7420");
    let token = std::fs::read_to_string(setting("PROTEM_TOKEN_FILE", "token"))?;
    let channel = Endpoint::from_shared(broker)?.connect().await?;
    let caller = Caller(format!("Bearer {}", token.trim()).parse()?);
    let mut access = AccessServiceClient::with_interceptor(channel, caller);
    let task = format!("example-{}", uuid::Uuid::now_v7());

    // 1. Hold the task: if this process dies, its access dies with the lease.
    let (beats, waiting) = tokio::sync::mpsc::channel(1);
    let hold = HoldTaskRequest { task_id: task.clone(), lease: None };
    beats.send(hold.clone()).await?;
    let mut held = access.hold_task(ReceiverStream::new(waiting)).await?.into_inner();
    let first = held.message().await?.ok_or("the broker did not take the task")?;
    let every = first.beat_every.and_then(|every| Duration::try_from(every).ok());
    let beating = tokio::spawn(async move {
        loop {
            tokio::time::sleep(every.unwrap_or(Duration::from_secs(5))).await;
            if beats.send(hold.clone()).await.is_err() {
                return;
            }
        }
    });

    // 2. Ask for exactly what the task needs. The request id makes a retry safe.
    let request = RequestAccessRequest {
        task: Some(Task { id: task.clone(), kind: "batch".into(), url: String::new() }),
        resource: "orders-api".into(),
        scopes: vec!["orders:read".into()],
        purpose: "show how it is done".into(),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..RequestAccessRequest::default()
    };
    let answer = access.request_access(request).await?.into_inner();
    let credential = answer.credential.ok_or("the request waits for an approver")?;

    // 3. Work.
    let done = call_the_api(&credential).await;

    // 4. Say that it is over, whichever way it went: access ends now, not when a lifetime runs out.
    let outcome = if done.is_ok() { "success" } else { "failure" }.to_owned();
    let complete = CompleteTaskRequest { task_id: task, outcome, wait: None };
    let ended = access.complete_task(complete).await?.into_inner().ended;
    beating.abort();
    println!("completed; {} grant(s) ended", ended.len());
    done
}

async fn call_the_api(credential: &Credential) -> Result<(), Box<dyn Error>> {
    let api = setting("ORDERS_API", "http://127.0.0.1:7430");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let call = http::Request::get(format!("{api}/v1/orders"))
        .header("authorization", format!("{} {}", credential.scheme, credential.token))
        .body(Empty::new())?;
    let answer = client.request(call).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    println!("{status} {}", String::from_utf8_lossy(&body).trim());
    Ok(())
}

/// Signs every call in.
#[derive(Clone)]
struct Caller(MetadataValue<Ascii>);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
