//! A flood of requests beyond every limit refuses and starves nobody who ends access.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protem::cli::ask::fresh_key;
use protem::cli::client::Client;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tokio::net::{TcpSocket, TcpStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::bundle::{FILES, NARROW, OPERATOR, RESOURCE, WORKERS};
use crate::process::{Broker, PATIENCE};

/// Connections of each flooding identity.
const CONNECTIONS: usize = 8;
/// Calls at once on each, one after the other without a pause.
const CALLS: usize = 16;
/// Connections on which nobody ever signs in, from an address of their own.
const STRANGERS: usize = 400;
/// Of each way of ending access, how many are tried.
const ROUNDS: usize = 8;

/// Everything that ends access is answered while the limits turn the flood away, to the flooding identity as well. How little it is
/// delayed is nothing that a test can tell on any machine: `protem bench flood` measures it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_access_goes_on_under_a_flood() {
    let broker = tokio::task::block_in_place(|| Broker::with_bundle(FILES));
    let worker = broker.client(WORKERS[0]);
    let operator = broker.client(OPERATOR);
    let narrow = broker.client(NARROW[0]);
    let own = grant(&narrow, "own", "orders:read").await.unwrap();

    let mut prepared = Vec::new();
    for number in 0..3 * ROUNDS {
        prepared.push(grant(&worker, &format!("flood-{number}"), "orders:read").await.unwrap());
    }
    let flood = Flood::start(&broker).await;
    flood.is_felt().await;
    end_all(&worker, &operator, &prepared).await;
    // The flooding identity may still give back what it has.
    let done = v1::CompleteTaskRequest { task_id: own.task.unwrap().id, ..Default::default() };
    let done = tokio::time::timeout(PATIENCE, narrow.access().complete_task(done)).await;
    assert_eq!(done.unwrap().unwrap().into_inner().ended.len(), 1);
    // And somebody else still gets in.
    let other = broker.client(WORKERS[1]);
    let end = Instant::now() + PATIENCE;
    while let Err(status) = grant(&other, "other", "orders:read").await {
        assert!(is_lost(&status) && Instant::now() < end, "{status:?}");
    }
    let answers = flood.stop().await;

    println!("the flood was answered {answers:?}");
    assert!(!answers.keys().any(|answer| answer.starts_with("other")), "{answers:?}");
}

/// Ends each grant, in one of three ways.
async fn end_all(worker: &Client, operator: &Client, grants: &[v1::Grant]) {
    for (number, grant) in grants.iter().enumerate() {
        let how = ["complete", "return", "revoke"][number % 3];
        let ended = tokio::time::timeout(PATIENCE, async {
            // A connection that the flood cost is opened again, as any client does: ending twice is ending once.
            while let Err(status) = end(worker, operator, how, grant).await {
                assert!(is_lost(&status), "{how}: {status:?}");
                println!("{how}: {status:?}");
            }
        });
        ended.await.unwrap_or_else(|_| panic!("{how} was never answered"));
    }
}

/// Whether a call was not refused but lost, or came to no answer in time, as on a loaded machine.
fn is_lost(status: &Status) -> bool {
    [Code::Unknown, Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded]
        .contains(&status.code())
}

async fn end(
    worker: &Client,
    operator: &Client,
    how: &str,
    grant: &v1::Grant,
) -> Result<(), Status> {
    match how {
        "complete" => {
            let task_id = grant.task.clone().unwrap().id;
            let request = v1::CompleteTaskRequest { task_id, ..Default::default() };
            worker.access().complete_task(request).await.map(drop)
        }
        "return" => {
            let request =
                v1::ReturnGrantRequest { grant_id: grant.id.clone(), note: String::new() };
            worker.access().return_grant(request).await.map(drop)
        }
        "revoke" => {
            let request = v1::RevokeRequest {
                selector: Some(v1::Selector { by: Some(By::Grant(grant.id.clone())) }),
                note: "drill".into(),
                wait: None,
            };
            let mut answers = operator.governance().revoke(request).await?.into_inner();
            answers.message().await.map(drop)
        }
        other => panic!("{other}"),
    }
}

async fn grant(client: &Client, task: &str, scope: &str) -> Result<v1::Grant, Status> {
    let request = v1::RequestAccessRequest {
        task: Some(v1::Task { id: task.into(), kind: "batch".into(), url: String::new() }),
        resource: RESOURCE.into(),
        scopes: vec![scope.into()],
        purpose: "load".into(),
        request_id: fresh_key().to_string(),
        ..Default::default()
    };
    let answer = client.access().request_access(request).await?;
    Ok(answer.into_inner().grant.unwrap_or_default())
}

/// Requests without pause from several identities, and connections that never say a word.
struct Flood {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
    callers: Vec<tokio::task::JoinHandle<()>>,
    _strangers: Vec<TcpStream>,
}

impl Flood {
    async fn start(broker: &Broker) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(BTreeMap::new()));
        let mut callers = Vec::new();
        for connection in 0..CONNECTIONS * NARROW.len() {
            let client = broker.client(NARROW[connection % NARROW.len()]);
            for call in 0..CALLS {
                let (client, over, answers) =
                    (client.clone(), Arc::clone(&over), Arc::clone(&answers));
                callers.push(tokio::spawn(async move {
                    let scope = if call % 4 == 0 { "orders:refund" } else { "orders:read" };
                    for number in 0.. {
                        if over.load(Ordering::SeqCst) {
                            return;
                        }
                        let task = format!("f-{connection}-{call}-{number}");
                        let answer = code(grant(&client, &task, scope).await);
                        *answers.lock().unwrap().entry(answer).or_default() += 1;
                    }
                }));
            }
        }
        let address: SocketAddr = broker.address().parse().unwrap();
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
            // Those beyond the limit may be refused or closed; that is the point.
            strangers.extend(socket.connect(address).await);
        }
        Self { over, answers, callers, _strangers: strangers }
    }

    /// Waits until every limit has begun to answer: of the rate, of grants, and of requests that wait.
    async fn is_felt(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answers = self.answers.lock().unwrap().clone();
            let count = |code: &str| answers.get(code).copied().unwrap_or(0);
            if count("PT-0206") >= 100 && count("PT-0109") > 0 && count("PT-0110") > 0 {
                return;
            }
            assert!(Instant::now() < end, "{answers:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) -> BTreeMap<String, u64> {
        self.over.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.await.unwrap();
        }
        self.answers.lock().unwrap().clone()
    }
}

/// An answer in a word: its code when it is a limit that says when to come back.
fn code(answer: Result<v1::Grant, Status>) -> String {
    let status = match answer {
        Ok(_) => return "ok".into(),
        Err(status) => status,
    };
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay).is_some();
    match (status.code(), details.error_info()) {
        (Code::ResourceExhausted, Some(info)) if retry => info.reason.clone(),
        // An overloaded machine may not get to an answer in time, and says so.
        (Code::DeadlineExceeded, Some(info)) => info.reason.clone(),
        (code, info) => {
            format!("other: {code:?} {:?} {}", info.map(|info| &info.reason), status.message())
        }
    }
}
