//! Every stream ends with its caller: when the token does, when its grounds go, and whatever the clocks say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use protem::policy::bundle::Files;
use protem_clock::clock::{Clock, ManualClock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_proto::wire::v1::subscribe_request::Message as Said;
use protem_proto::wire::v1::subscribe_response::Message as Told;
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, Streaming};

use crate::broker::{SignIn, TestBroker, Wish, fresh_task, reason};
use crate::callers::Raw;
use crate::foreign::{Foreign, agent};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many seconds a token lives that ends under its streams: all of them are open before, and nothing else ends them so soon.
const LIFE: u64 = 8;

/// A method that streams answers, who calls it, and its first message. A method of the contract without an entry fails the
/// test below, and one that is not built answers so.
struct Case {
    path: String,
    kind: &'static str,
    body: Vec<u8>,
}

fn case(path: &str, grant: &str, task: &str, other: &str) -> Case {
    let path = path.to_owned();
    let (kind, body) = match path.rsplit('/').next().unwrap() {
        "WatchGrant" => {
            let asked = v1::WatchGrantRequest { grant_id: grant.to_owned() };
            ("identity", asked.encode_to_vec())
        }
        "HoldTask" => {
            let lease = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            ("identity", v1::HoldTaskRequest { task_id: task.to_owned(), lease }.encode_to_vec())
        }
        "ReadJournal" => {
            let read = v1::ReadJournalRequest { follow: true, ..Default::default() };
            ("person", read.encode_to_vec())
        }
        "Revoke" => {
            // A gateway that never acknowledges keeps the receipts coming for longer than the token lives.
            let revoke = v1::RevokeRequest {
                selector: Some(v1::Selector { by: Some(By::Grant(other.to_owned())) }),
                note: "a test says so".into(),
                wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            };
            ("person", revoke.encode_to_vec())
        }
        "Subscribe" => ("gateway", open().encode_to_vec()),
        "WatchPending" | "Backup" | "DiffBundle" => ("person", Vec::new()),
        other => panic!("who calls `{other}`, and what with?"),
    };
    Case { path, kind, body }
}

/// `list_services: "*"`, of which no generated type is at hand.
const LIST_SERVICES: [u8; 3] = [0x3a, 1, b'*'];

fn open() -> v1::SubscribeRequest {
    let open = v1::Open {
        gateway: "edge-eu-1".into(),
        instance: "silent".into(),
        enforcing: true,
        version: 1,
        ..Default::default()
    };
    v1::SubscribeRequest { message: Some(Said::Open(open)) }
}

/// A gateway that has been proven fresh once and never acknowledges anything: it is waited for.
async fn silent(broker: &TestBroker) -> Streaming<v1::SubscribeResponse> {
    let ping = v1::Ping { nonce: vec![7; 16], ..Default::default() };
    let ping = v1::SubscribeRequest { message: Some(Said::Ping(ping)) };
    let requests = tokio_stream::iter([open(), ping]).chain(tokio_stream::pending());
    let mut gateway = broker.gateway("edge-eu-1");
    let mut told = gateway.revocations.subscribe(requests).await.unwrap().into_inner();
    while let Some(message) = told.message().await.unwrap() {
        if matches!(message.message, Some(Told::Checkpoint(checkpoint)) if !checkpoint.nonce.is_empty())
        {
            return told;
        }
    }
    panic!("never proven");
}

/// Every streaming method of the contract.
fn streaming() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(protem_proto::wire::DESCRIPTORS).unwrap();
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| method.server_streaming()) {
                found.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(found.len() >= 7, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_stream_outlives_its_token() {
    let broker = TestBroker::start().await;
    let _silent = silent(&broker).await;
    let task = fresh_task();
    let grant = broker.identity("payments/agent").ask(&task).await.unwrap().grant.unwrap();
    let other = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap().grant.unwrap();
    let mut ends = tokio::task::JoinSet::new();
    for path in streaming() {
        let Case { path, kind, body } = case(&path, &grant.id, &task, &other.id);
        let claims = match kind {
            "identity" => broker.claims("payments/agent", kind, &[]),
            "gateway" => broker.claims("edge-eu-1", kind, &[]),
            _ => broker.claims("olga", kind, &["operators"]),
        };
        let (channel, token) = (broker.channel(), broker.sign(&ending(claims, LIFE)));
        ends.spawn(async move { (path.clone(), follow(channel, token, &path, body).await) });
    }
    while let Some(end) = ends.join_next().await {
        let (path, status) = end.unwrap();
        if status.code() == Code::Unimplemented {
            continue;
        }
        assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status:?}");
        assert_eq!(reason(&status), "PT-0614", "{path}: {status:?}");
        assert!(status.message().contains("expired"), "{path}: {status:?}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_ends_with_its_callers_token() {
    let foreign = Foreign::new();
    let wish = Wish { bundle: Some(foreign.bundle()), no_dev: true, ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let claims = ending(agent(SystemClock.unix().as_secs()), LIFE);
    let token = foreign.token("ES256", &claims);
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let status = follow(broker.channel(), token, path, LIST_SERVICES.to_vec()).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "PT-0614".to_owned()));
    broker.stop().await;
}

fn ending(mut claims: Value, seconds: u64) -> Value {
    claims["exp"] = (claims["iat"].as_u64().unwrap() + seconds).into();
    claims
}

/// Opens a stream, never closes our side of it if it takes more than one message, and reads until it ends.
async fn follow(
    channel: tonic::transport::Channel,
    token: String,
    path: &str,
    body: Vec<u8>,
) -> Status {
    let mut signed = SignIn(Some(token));
    let request = tonic::service::Interceptor::call(&mut signed, Request::new(())).unwrap();
    let stays = ["/HoldTask", "/Subscribe", "/ServerReflectionInfo"];
    let more = stays.iter().any(|method| path.ends_with(method));
    let open = tokio_stream::once(body).chain(tokio_stream::pending());
    // A method that takes one message waits for the end of what it is sent.
    let messages = open.take(if more { usize::MAX } else { 1 });
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let answer = grpc.streaming(request.map(|()| messages), path.parse().unwrap(), Raw).await;
    match answer {
        Err(status) => status,
        Ok(answers) => end(&mut answers.into_inner()).await,
    }
}

/// What a stream ends with.
pub async fn end<T>(answers: &mut Streaming<T>) -> Status {
    let drained = async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("it ended well"),
                Err(status) => return status,
            }
        }
    };
    let late = Status::ok("it never ended");
    tokio::time::timeout(PATIENCE, drained).await.unwrap_or(late)
}

/// Whether a stream goes on for a while.
pub async fn goes_on<T: std::fmt::Debug>(answers: &mut Streaming<T>) -> bool {
    let some = Duration::from_millis(900);
    let until = tokio::time::Instant::now() + some;
    while let Ok(message) = tokio::time::timeout_at(until, answers.message()).await {
        if !matches!(message, Ok(Some(_))) {
            return false;
        }
    }
    true
}

pub fn edited(files: &Files, name: &str, edit: impl Fn(String) -> String) -> Files {
    let mut files: Vec<_> = files.to_vec();
    for (known, text) in &mut files {
        if **known == *name {
            let old = String::from_utf8(text.to_vec()).unwrap();
            let new = edit(old.clone());
            assert_ne!(old, new);
            *text = new.into_bytes().into();
        }
    }
    files.into()
}

pub async fn apply(broker: &TestBroker, files: &Files) {
    let files = files.iter().map(|(name, text)| (name.to_string(), text.to_vec())).collect();
    let apply = v1::ApplyBundleRequest { files, ..Default::default() };
    let answer = broker.operator().bundles.apply_bundle(apply).await.unwrap().into_inner();
    assert!(!answer.digest.is_empty(), "{answer:?}");
}

/// The issuer's keys, our audience and the issuer itself: what vouched once must go on doing so.
#[tokio::test(flavor = "multi_thread")]
async fn attack_stream_outlives_its_issuers_key() {
    let foreign = Foreign::new();
    let first = foreign.bundle();
    let stranger = Foreign::stranger().jwks();
    let other_keys = edited(&first, "github.jwks.json", |_| stranger.clone());
    let audience = "audience = \"https://protem.shop.example\"";
    let other_audience = edited(&first, "issuers.toml", |text| {
        text.replace(audience, "audience = \"https://protem2.shop.example\"")
    });
    let other_login = edited(&first, "identities.toml", |text| {
        text.replace("repository_id = \"7\"", "repository_id = \"8\"")
    });
    let unrelated = edited(&first, "catalog.toml", |text| format!("{text}\n# nothing\n"));
    for (files, refused) in [
        (&other_keys, Some("PT-0606")),
        (&other_audience, Some("PT-0607")),
        (&other_login, Some("PT-0610")),
        (&unrelated, None),
    ] {
        let wish = Wish { bundle: Some(first.clone()), ..Wish::default() };
        let broker = TestBroker::with(wish).await;
        let claims = agent(SystemClock.unix().as_secs());
        let mut caller = broker.clients(Some(foreign.token("ES256", &claims)));
        // Unlike a grant, which policy may end at the same moment, a held task has no other reason to end.
        let hold = v1::HoldTaskRequest { task_id: fresh_task(), lease: None };
        let beats = tokio_stream::once(hold).chain(tokio_stream::pending());
        let mut watched = caller.access.hold_task(beats).await.unwrap().into_inner();
        assert!(goes_on(&mut watched).await);
        apply(&broker, files).await;
        let Some(code) = refused else {
            assert!(goes_on(&mut watched).await, "an unrelated change ends nothing");
            broker.stop().await;
            continue;
        };
        let status = end(&mut watched).await;
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "PT-0614".into()));
        // Nor does the sign-in that was remembered let it in again.
        let status = caller.ask(&fresh_task()).await.unwrap_err();
        assert_eq!(reason(&status), code);
        broker.stop().await;
    }
}

/// A token of ten minutes: what the clocks do to it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_clock_set_back_revives_a_token() {
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let (real, clock, broker) = off(Duration::ZERO).await;
    let token = broker.sign(&ending(broker.claims("payments/agent", "identity", &[]), 600));
    let mut caller = broker.clients(Some(token));
    let grant = caller.ask(&fresh_task()).await.unwrap().grant.unwrap();
    let watch = v1::WatchGrantRequest { grant_id: grant.id };
    let mut watched = caller.access.watch_grant(watch.clone()).await.unwrap().into_inner();
    // The clock is set back, and the token's time passes all the same.
    clock.set_unix(real.saturating_sub(minutes(5)));
    assert!(goes_on(&mut watched).await);
    clock.advance(minutes(10) + Duration::from_secs(1));
    let status = end(&mut watched).await;
    assert!(status.message().contains("expired"), "{status:?}");
    for _ in 0..2 {
        let status = caller.access.watch_grant(watch.clone()).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0608");
    }
    broker.stop().await;
    // Set ahead, a token ends early rather than late.
    let (real, clock, broker) = off(Duration::ZERO).await;
    let token = broker.sign(&ending(broker.claims("payments/agent", "identity", &[]), 600));
    let mut caller = broker.clients(Some(token));
    let grant = caller.ask(&fresh_task()).await.unwrap().grant.unwrap();
    let watch = v1::WatchGrantRequest { grant_id: grant.id };
    let mut watched = caller.access.watch_grant(watch).await.unwrap().into_inner();
    clock.set_unix(real + minutes(11));
    let status = end(&mut watched).await;
    assert!(status.message().contains("expired"), "{status:?}");
    broker.stop().await;
}

/// A broker whose clock stands off the callers': the time of the callers, its clock, and itself.
async fn off(ahead: Duration) -> (Duration, Arc<ManualClock>, TestBroker) {
    let real = SystemClock.unix();
    let clock = Arc::new(ManualClock::new(real + ahead));
    let wish = Wish { clock: Some(clock.clone()), ..Wish::default() };
    (real, clock, TestBroker::with(wish).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_minutes_off_is_told_and_nothing_is_stuck() {
    let ten = Duration::from_secs(600);
    // The broker ahead: a token of five minutes has expired for it. Behind: it is not valid yet.
    let (_, _, broker) = off(ten).await;
    let token = broker.sign(&ending(broker.claims("payments/agent", "identity", &[]), 300));
    refused(&broker, token, "PT-0608").await;
    broker.stop().await;
    let clock = Arc::new(ManualClock::new(SystemClock.unix().saturating_sub(ten)));
    let broker = TestBroker::with(Wish { clock: Some(clock), ..Wish::default() }).await;
    refused(&broker, broker.identity_token("payments/agent"), "PT-0609").await;
    broker.stop().await;
    // The clock of a running broker jumps: commands are refused at once and by name, and go on when it is mended.
    for back in [true, false] {
        let (real, clock, broker) = off(Duration::ZERO).await;
        let mut caller = broker.identity("payments/agent");
        caller.ask(&fresh_task()).await.unwrap();
        clock.set_unix(if back { real.saturating_sub(ten) } else { real + ten });
        let status = caller.ask(&fresh_task()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "PT-0508".into()));
        clock.set_unix(real);
        let end = Instant::now() + PATIENCE;
        while let Err(status) = caller.ask(&fresh_task()).await {
            assert_eq!(reason(&status), "PT-0508");
            assert!(Instant::now() < end, "it stays stuck");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        broker.stop().await;
    }
}

#[track_caller]
fn refused(
    broker: &TestBroker,
    token: String,
    code: &'static str,
) -> impl Future<Output = ()> + use<> {
    let mut caller = broker.clients(Some(token));
    async move {
        let status = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, code));
    }
}
