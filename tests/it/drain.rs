//! SIGTERM: the feed's followers are told to go, what has begun is finished, and the process ends in time with code 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protem::cli::ask::fresh_key;
use protem::cli::client::Client;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::bundle::{FILES, OPERATOR, RESOURCE, WORKERS};
use crate::edge::Edge;
use crate::follower::Follower;
use crate::foreign::{Foreign, agent};
use crate::oidc::Served;
use crate::process::{Broker, PATIENCE};

/// Callers that are in the middle of something.
const CALLERS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_broker_finishes_what_has_begun() {
    let mut broker = tokio::task::block_in_place(|| Broker::with_bundle(FILES));
    let feed = Follower::start(broker.client(OPERATOR), v1::Open::default());
    let edge = Edge::start(&broker).await;
    let held = hold(&broker.client(WORKERS[0]), "held").await;
    let count = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = broker.client(WORKERS[1]);
            tokio::spawn(ask_until_told_to_go(client, caller, Arc::clone(&count)))
        })
        .collect();
    while count.load(Ordering::SeqCst) < 2 * CALLERS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let began = Instant::now();
    broker.signal(Signal::TERM);
    let code = tokio::task::block_in_place(|| broker.ended(PATIENCE));
    println!("it ended after {:?}", began.elapsed());
    assert_eq!(code, Some(0), "{}", broker.log());
    assert!(feed.seen().farewells > 0, "nobody told the followers");
    drop(held);

    let (mut granted, mut refused) = (Vec::new(), Vec::new());
    for (number, caller) in load.into_iter().enumerate() {
        let (grants, last) = caller.await.unwrap();
        // Refused, or never sent because the connection was closing; never cut short.
        let gone = [Code::Unavailable, Code::Cancelled].contains(&last.code());
        assert!(gone, "{last:?}");
        refused.push(format!("{}#d-{number}-{}", WORKERS[1], grants.len()));
        granted.extend(grants);
    }

    tokio::task::block_in_place(|| broker.start());
    let operator = broker.client(OPERATOR);
    let mut newest = 0;
    for grant in &granted {
        let request = v1::GetGrantRequest { grant_id: grant.id.clone() };
        let found = operator.governance().get_grant(request).await.unwrap().into_inner();
        assert_eq!(found.grant.unwrap().state(), v1::GrantState::Active);
        newest = newest.max(grant.seq);
    }
    // What was not answered was not begun.
    for task in refused {
        let selector = Some(v1::Selector { by: Some(By::Task(task.clone())) });
        let request = v1::ListGrantsRequest { selector, ..Default::default() };
        let found = operator.governance().list_grants(request).await.unwrap().into_inner();
        assert!(found.grants.is_empty(), "{task}: {found:?}");
    }
    feed.reach(newest).await;
    edge.reach(newest).await;
    let seen = feed.seen();
    assert_eq!((seen.snapshots, seen.resets, seen.wrong), (1, 0, vec![]));
    assert_eq!(edge.tally().1, 1, "the gateway did not resume");
    // A held task gets one full lease after a start: it is still there to be completed.
    let done = v1::CompleteTaskRequest { task_id: "held".into(), ..Default::default() };
    let done = broker.client(WORKERS[0]).access().complete_task(done).await.unwrap().into_inner();
    assert_eq!(done.ended.len(), 1);
}

/// A call that does not end is cut when `broker.drain` is over, whatever time the call itself would have had (five seconds, and then
/// an answer that says so; without a setting a drain is ten).
#[test]
fn a_stuck_call_does_not_outlast_the_drain() {
    let foreign = Foreign::new();
    let mut broker = Served::with_broker(&foreign.bundle(), "drain = \"1s\"", "");
    // A stranger's would have no more time than the drain.
    let token = foreign.token("ES256", &agent(SystemClock.unix().as_secs()));
    let mut stuck = TcpStream::connect(broker.address()).unwrap();
    stuck.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /protem.v1.AccessService/RequestAccess HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc\r\n\
         te: trailers\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n",
        broker.address()
    );
    stuck.write_all(head.as_bytes()).unwrap();
    // Said when somebody waits for the body: the call has begun.
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut said = vec![0; go_on.len()];
    stuck.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said), go_on);
    stuck.write_all(b"\0\0").unwrap();
    broker.process().signal(Signal::TERM);
    assert_eq!(broker.process().ended(PATIENCE), Some(0), "{}", broker.log());
    let mut rest = Vec::new();
    // However the line ends, nothing was said on it.
    let _ = stuck.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "", "the call was waited for");
}

/// Asks, one request after the other, until the broker takes no more.
async fn ask_until_told_to_go(
    client: Client,
    caller: usize,
    count: Arc<AtomicUsize>,
) -> (Vec<v1::Grant>, Status) {
    let mut granted = Vec::new();
    for number in 0.. {
        match ask(&client, &format!("d-{caller}-{number}")).await {
            Ok(grant) => {
                granted.push(grant);
                count.fetch_add(1, Ordering::SeqCst);
            }
            Err(status) => return (granted, status),
        }
    }
    unreachable!()
}

/// Asks to read orders under a task.
pub async fn ask(client: &Client, task: &str) -> Result<v1::Grant, Status> {
    let request = v1::RequestAccessRequest {
        task: Some(v1::Task { id: task.into(), kind: "batch".into(), url: String::new() }),
        resource: RESOURCE.into(),
        scopes: vec!["orders:read".into()],
        request_id: fresh_key().to_string(),
        ..Default::default()
    };
    Ok(client.access().request_access(request).await?.into_inner().grant.unwrap_or_default())
}

/// A grant under a task that a stream holds, until the answer is dropped.
async fn hold(client: &Client, task: &str) -> mpsc::Sender<v1::HoldTaskRequest> {
    let (beats, outgoing) = mpsc::channel(4);
    let lease = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    beats.send(v1::HoldTaskRequest { task_id: task.into(), lease }).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = client.access().hold_task(outgoing).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    ask(client, task).await.unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    beats
}
