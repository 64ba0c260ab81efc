//! Streams, proofs and sign-in over the real wire, and an end that lets everybody go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protem::journal::records::Shown;
use protem::serve::server::Drain;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_request::Message as Say;
use protem_proto::wire::v1::subscribe_response::Message as Hear;
use protem_verify::ids::Hash;
use protem_verify::{merkle, proof};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::broker::{Clients, SignIn, TestBroker, Wish, ask, fresh_task, reason};
use crate::foreign::{ALGS, Foreign, agent};
use crate::process::PATIENCE;
use crate::stall::Stall;

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_the_journal_sees_what_comes_and_each_entry_once() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    agent.ask(&fresh_task()).await.unwrap();
    let before = broker.head();
    let read = v1::ReadJournalRequest { follow: true, ..Default::default() };
    let mut followed = broker.operator().governance.read_journal(read).await.unwrap().into_inner();
    for seq in 1..=before {
        assert_eq!(entry(&mut followed).await.seq, seq);
    }
    let nothing = tokio::time::timeout(Duration::from_millis(200), followed.message()).await;
    assert!(nothing.is_err(), "it waits: {nothing:?}");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    agent.complete(&task).await.unwrap();
    let after = broker.head();
    let mut kinds = Vec::new();
    for seq in before + 1..=after {
        let entry = entry(&mut followed).await;
        assert_eq!(entry.seq, seq);
        kinds.push(entry.kind);
    }
    for kind in ["grant.activated", "grant.ended", "task.ended"] {
        assert!(kinds.iter().any(|known| known == kind), "{kind} in {kinds:?}");
    }
    // Of one grant, its holder sees its own story and nothing else.
    let read = v1::ReadJournalRequest { grant: grant.id, ..Default::default() };
    let mut own = agent.governance.read_journal(read).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(message) = own.message().await.unwrap() {
        assert!(message.entry.unwrap().seq > before);
        count += 1;
    }
    assert!(count >= 2, "{count}");
    // A limit ends a stream that would follow for ever.
    let read = v1::ReadJournalRequest { follow: true, limit: 2, ..Default::default() };
    let mut short = broker.operator().governance.read_journal(read).await.unwrap().into_inner();
    entry(&mut short).await;
    entry(&mut short).await;
    let end = tokio::time::timeout(PATIENCE, short.message()).await.expect("it ends").unwrap();
    assert!(end.is_none());
    broker.stop().await;
}

async fn entry(stream: &mut Streaming<v1::ReadJournalResponse>) -> v1::JournalEntry {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time").unwrap();
    next.expect("one more").entry.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_hold_by_our_own_verifier_and_for_nothing_else() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    for _ in 0..5 {
        agent.ask(&fresh_task()).await.unwrap();
    }
    let mut operator = broker.operator();
    let (bodies, leaves) = entries(&mut operator).await;
    let size = u64::try_from(leaves.len()).unwrap();
    for seq in 1..=size {
        for older_size in [0, 1, seq, size] {
            let asked = v1::GetProofRequest { seq, tree_size: size, older_size };
            let proof = operator.governance.get_proof(asked).await.unwrap().into_inner();
            let checkpoint = proof.checkpoint.unwrap();
            assert_eq!(checkpoint.seq, broker.head());
            let root = tree(&leaves);
            assert_eq!(checkpoint.audit_root, root.0);
            let (path, index) = (hashes(&proof.inclusion), seq - 1);
            let leaf = leaves[usize::try_from(index).unwrap()];
            assert_eq!(merkle::leaf(&bodies[usize::try_from(index).unwrap()]), leaf);
            assert!(proof::included(leaf, index, size, &path, &root), "{seq} of {size}");
            assert!(!proof::included(merkle::leaf(b"forged"), index, size, &path, &root));
            assert!(!proof::included(leaf, (index + 1) % size, size, &path, &root));
            let (old, grown) = (usize::try_from(older_size).unwrap(), hashes(&proof.consistency));
            let old_root = tree(&leaves[..old]);
            assert!(proof::consistent(older_size, size, &old_root, &root, &grown));
            if older_size != 0 {
                let other = Hash([7; 32]);
                assert!(!proof::consistent(older_size, size, &other, &root, &grown));
            }
        }
    }
    for (seq, tree_size, older_size) in
        [(1, size + 99, 0), (size, size - 1, 0), (1, size, size + 1)]
    {
        let asked = v1::GetProofRequest { seq, tree_size, older_size };
        let status = operator.governance.get_proof(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{asked:?}");
    }
    let refused = agent.governance.get_proof(v1::GetProofRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    broker.stop().await;
}

async fn entries(operator: &mut Clients) -> (Vec<Vec<u8>>, Vec<Hash>) {
    let read = v1::ReadJournalRequest::default();
    let mut rows = operator.governance.read_journal(read).await.unwrap().into_inner();
    let (mut bodies, mut leaves) = (Vec::new(), Vec::new());
    while let Some(row) = rows.message().await.unwrap() {
        let row = row.entry.unwrap();
        leaves.push(Hash(row.leaf_hash.try_into().unwrap()));
        bodies.push(row.body);
    }
    (bodies, leaves)
}

fn tree(leaves: &[Hash]) -> Hash {
    let mut tree = merkle::Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

fn hashes(wire: &[Vec<u8>]) -> Vec<Hash> {
    wire.iter().map(|hash| Hash(hash.clone().try_into().unwrap())).collect()
}

/// A held task: what to say, and what is heard.
struct Held {
    say: mpsc::UnboundedSender<v1::HoldTaskRequest>,
    hear: Streaming<v1::HoldTaskResponse>,
}

async fn hold(clients: &mut Clients, task: &str, lease: i64) -> Held {
    let (say, said) = mpsc::unbounded_channel();
    let lease = Some(prost_types::Duration { seconds: lease, nanos: 0 });
    say.send(v1::HoldTaskRequest { task_id: task.into(), lease }).unwrap();
    let beats = UnboundedReceiverStream::new(said);
    let mut hear = clients.access.hold_task(beats).await.unwrap().into_inner();
    let first = tokio::time::timeout(PATIENCE, hear.message()).await.unwrap().unwrap().unwrap();
    assert!(first.beat_every.is_some() && first.lease_until.is_some());
    Held { say, hear }
}

impl Held {
    /// What the stream ends with.
    async fn end(&mut self) -> Result<(), tonic::Status> {
        let drained = async {
            while self.hear.message().await?.is_some() {}
            Ok(())
        };
        tokio::time::timeout(PATIENCE, drained).await.expect("the stream ends")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closing_a_hold_completes_the_task() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let mut held = hold(&mut agent, &task, 60).await;
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    let Held { say, .. } = &held;
    say.send(v1::HoldTaskRequest::default()).unwrap();
    let (say, _) = mpsc::unbounded_channel();
    drop(std::mem::replace(&mut held.say, say));
    held.end().await.unwrap();
    let ended = ended(&broker, &grant.id).await;
    assert_eq!(ended.end_reason(), v1::EndReason::Completed);
    assert_eq!(reason(&agent.ask(&task).await.unwrap_err()), "PT-0102");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_hold_is_forgiven_for_its_lease_and_then_abandons_the_task() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let (lost, kept) = (fresh_task(), fresh_task());
    let grant = agent.ask(&lost).await.unwrap().grant.unwrap();
    let other = agent.ask(&kept).await.unwrap().grant.unwrap();
    // Its own connection, so that dropping it resets the stream and nothing else.
    let mut leaving = broker.identity("payments/agent");
    let gone = hold(&mut leaving, &lost, 6).await;
    // Who did not beat would lose its task before the other one does.
    let stays = hold(&mut agent, &kept, 4).await;
    let since = Instant::now();
    // The answers are let go while the requests stay open: a reset, as of a process that is killed.
    let Held { say, hear } = gone;
    drop(hear);
    let beating = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if stays.say.send(v1::HoldTaskRequest::default()).is_err() {
                return;
            }
        }
    });
    let ended = ended(&broker, &grant.id).await;
    assert_eq!(ended.end_reason(), v1::EndReason::Abandoned);
    assert!(since.elapsed() >= Duration::from_millis(5_900), "{:?}", since.elapsed());
    assert_eq!(reason(&agent.ask(&lost).await.unwrap_err()), "PT-0102");
    let still = state(&broker, &other.id).await;
    assert_eq!(still.state(), v1::GrantState::Active, "who beats keeps its task");
    beating.abort();
    drop((say, leaving));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_hold_replaces_an_older_one() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    let mut older = hold(&mut agent, &task, 5).await;
    let newer = hold(&mut agent, &task, 60).await;
    let status = older.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PT-0115"));
    // What the older one does from now on means nothing.
    drop(older);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&broker, &grant.id).await.state(), v1::GrantState::Active);
    drop(newer.say);
    let ended = ended(&broker, &grant.id).await;
    assert_eq!(ended.end_reason(), v1::EndReason::Completed);
    broker.stop().await;
}

async fn state(broker: &TestBroker, id: &str) -> v1::Grant {
    let get = v1::GetGrantRequest { grant_id: id.to_owned() };
    broker.operator().governance.get_grant(get).await.unwrap().into_inner().grant.unwrap()
}

async fn ended(broker: &TestBroker, id: &str) -> v1::Grant {
    let until = Instant::now() + PATIENCE;
    loop {
        let grant = state(broker, id).await;
        if grant.state() == v1::GrantState::Ended {
            return grant;
        }
        assert!(Instant::now() < until, "it lives: {grant:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_issuers_sign_in_by_every_accepted_algorithm() {
    let foreign = Foreign::new();
    let bundle = Some(foreign.bundle());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let claims = agent(SystemClock.unix().as_secs());
    for alg in ALGS {
        let mut caller = broker.clients(Some(foreign.token(alg, &claims)));
        let who = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!(who.identity, "payments/agent", "{alg}");
        let granted = caller.ask(&fresh_task()).await.unwrap();
        assert_eq!(granted.grant.unwrap().identity, "payments/agent");
        // The key fixes the algorithm: no other one counts for it, and no other key for its name.
        for other in ALGS.into_iter().filter(|other| *other != alg) {
            let lies = json!({"alg": other, "kid": alg});
            let code = refused(&broker, foreign.token_with(&lies, other, &claims)).await;
            assert_eq!(code, "PT-0605", "{other} as {alg}");
            let lies = json!({"alg": alg, "kid": alg});
            let code = refused(&broker, foreign.token_with(&lies, other, &claims)).await;
            assert_eq!(code, "PT-0606", "{other}'s signature as {alg}");
        }
        let mut token = foreign.token(alg, &claims).into_bytes();
        let dot = token.iter().rposition(|byte| *byte == b'.').unwrap();
        token[dot + 20] = if token[dot + 20] == b'A' { b'B' } else { b'A' };
        let code = refused(&broker, String::from_utf8(token).unwrap()).await;
        assert_eq!(code, "PT-0606", "{alg}");
        let stranger = Foreign::stranger().token(alg, &claims);
        assert_eq!(refused(&broker, stranger).await, "PT-0606", "{alg}");
    }
    broker.stop().await;
}

/// The code that a caller token is refused with; told to slow down, it does.
pub async fn refused(broker: &TestBroker, token: String) -> String {
    loop {
        let mut clients = broker.clients(Some(token.clone()));
        let status = clients.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        if reason(&status) != "PT-0611" {
            return reason(&status);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_nobody_is_told_the_nearest_login_and_what_differs() {
    let foreign = Foreign::new();
    let bundle = Some(foreign.bundle());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let mut claims = agent(SystemClock.unix().as_secs());
    claims["ref"] = "refs/heads/feature".into();
    let mut nobody = broker.clients(Some(foreign.token("ES256", &claims)));
    let who = nobody.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.identity.as_str(), who.person.as_str()), ("", ""));
    assert_eq!(who.subject, "repo:shop/agent");
    for part in ["payments/agent", "ref"] {
        assert!(who.why_not.contains(part), "`{part}` in {}", who.why_not);
    }
    // To know who one is, is all that a nobody may.
    let status = nobody.ask(&fresh_task()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "PT-0610"));
    assert!(status.message().contains("payments/agent"), "{}", status.message());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_broker_tells_probes_and_streams_and_finishes_what_it_began() {
    let (stall, store) = Stall::new();
    let wish = Wish { journal: Some(store), drain: Drain(PATIENCE), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let mut probe = HealthClient::new(broker.channel());
    let all = HealthCheckRequest { service: String::new() };
    let check = probe.check(all.clone()).await.unwrap().into_inner();
    assert_eq!(check.status(), ServingStatus::Serving);
    let mut watched = probe.watch(all).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut agent = broker.identity("payments/agent");
    let (task, held) = (fresh_task(), fresh_task());
    let [begun, grant] =
        [agent.ask(&task).await, agent.ask(&held).await].map(|asked| asked.unwrap().grant.unwrap());
    let mut holds = hold(&mut agent, &held, 60).await;
    let (say, said) = mpsc::channel(4);
    let mut gateway = broker.gateway("edge-eu-1");
    let open = v1::Open { gateway: "edge-eu-1".into(), version: 1, ..v1::Open::default() };
    say.send(said_of(Say::Open(open))).await.unwrap();
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut feed = gateway.revocations.subscribe(said).await.unwrap().into_inner();
    proven(&say, &mut feed, b"before").await;
    let done = stall.completing(&broker, &agent, &task).await;
    let (reader, url) = (Arc::clone(broker.broker.reader()), broker.port);
    let stopping = tokio::spawn(broker.stop());
    let next = tokio::time::timeout(PATIENCE, watched.message()).await.expect("it hears").unwrap();
    assert_eq!(next.expect("a status").status(), ServingStatus::NotServing);
    let end = tokio::time::timeout(PATIENCE, watched.message()).await.expect("it ends");
    assert!(end.unwrap().is_none());
    let status = holds.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PT-0509"));
    let refused = tokio::net::TcpStream::connect(("127.0.0.1", url)).await;
    assert!(refused.is_err(), "nobody new is let in");
    // As long as something is waited for, gateways are proven that nothing is missing.
    proven(&say, &mut feed, b"meanwhile").await;
    stall.end();
    let seq = done.await.unwrap().expect("what has begun is finished");
    let since = Instant::now();
    let mut farewell = false;
    let last = loop {
        match feed.message().await {
            Ok(Some(told)) => farewell |= matches!(told.message, Some(Hear::GoAway(_))),
            Ok(None) => panic!("the stream ends without a reason"),
            Err(status) => break status,
        }
    };
    assert!(farewell, "nobody told the gateway to come back");
    assert_eq!((last.code(), reason(&last).as_str()), (Code::Unavailable, "PT-0509"));
    stopping.await.unwrap();
    assert!(since.elapsed() < PATIENCE / 2, "nothing holds the drain: {:?}", since.elapsed());
    assert!(reader.head().unwrap().seq.0 >= seq);
    for (id, ended) in [(begun.id, true), (grant.id, false)] {
        let record = reader.grant(&id.parse().unwrap()).unwrap().expect("a grant");
        assert_eq!(matches!(record.status, Shown::Ended { .. }), ended, "{record:?}");
    }
}

fn said_of(message: Say) -> v1::SubscribeRequest {
    v1::SubscribeRequest { message: Some(message) }
}

/// Waits for the proof that answers this question.
async fn proven(
    say: &mpsc::Sender<v1::SubscribeRequest>,
    feed: &mut Streaming<v1::SubscribeResponse>,
    nonce: &[u8],
) {
    let ping = v1::Ping { nonce: nonce.to_vec(), ..v1::Ping::default() };
    say.send(said_of(Say::Ping(ping))).await.unwrap();
    let told = async {
        loop {
            let told = feed.message().await.unwrap().expect("the stream goes on");
            if let Some(Hear::Checkpoint(checkpoint)) = told.message
                && checkpoint.nonce == nonce
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("a proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_within_its_time_and_finished_all_the_same() {
    let (stall, store) = Stall::new();
    let broker = TestBroker::with(Wish { journal: Some(store), ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let mut request = ask(&task);
    request.request_id = uuid::Uuid::now_v7().to_string();
    stall.begin();
    let since = Instant::now();
    let status = agent.access.request_access(request.clone()).await.unwrap_err();
    let took = since.elapsed();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "PT-0208"));
    assert!(took >= Duration::from_millis(4_900) && took < PATIENCE, "{took:?}");
    // A caller's own shorter time counts too; a machine that was away for so long is asked again.
    let mut hasty = false;
    for _ in 0..4 {
        let mut asks = tonic::Request::new(request.clone());
        asks.set_timeout(Duration::from_millis(300));
        let since = Instant::now();
        agent.access.request_access(asks).await.unwrap_err();
        hasty |= since.elapsed() < Duration::from_secs(4);
        if hasty {
            break;
        }
    }
    assert!(hasty, "it is kept waiting");
    stall.end();
    let first = agent.access.request_access(request.clone()).await.unwrap().into_inner();
    let again = agent.access.request_access(request).await.unwrap().into_inner();
    assert_eq!(first.grant.unwrap().id, again.grant.unwrap().id, "one grant, however often asked");
    let selector =
        v1::Selector { by: Some(v1::selector::By::Task(format!("payments/agent#{task}"))) };
    let list = v1::ListGrantsRequest { selector: Some(selector), ..Default::default() };
    let listed = broker.operator().governance.list_grants(list).await.unwrap().into_inner();
    assert_eq!(listed.grants.len(), 1);
    broker.stop().await;
}

/// Who may not is turned away before its body is read: the body of this call never ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_not_read_from_who_may_not_send_it() {
    let broker = TestBroker::start().await;
    let workload = broker.identity_token("payments/agent");
    for method in ["ApplyBundle", "DiffBundle", "GetBundle"] {
        let refused = endless(&broker, workload.clone(), method, PATIENCE).await;
        assert_eq!(refused.map(|status| reason(&status)).as_deref(), Some("PT-0613"), "{method}");
    }
    let person = |groups: &[&str]| broker.sign(&broker.claims("olga", "person", groups));
    let refused = endless(&broker, person(&[]), "ApplyBundle", PATIENCE).await;
    assert_eq!(refused.map(|status| reason(&status)).as_deref(), Some("PT-0612"));
    let some = Duration::from_secs(4);
    let waits = endless(&broker, person(&["operators"]), "ApplyBundle", some).await;
    assert!(waits.is_none(), "it waits for the body: {waits:?}");
    broker.stop().await;
}

/// The status of a call whose body never comes; none when it is waited for.
async fn endless(
    broker: &TestBroker,
    token: String,
    method: &str,
    within: Duration,
) -> Option<tonic::Status> {
    let signed = InterceptedService::new(broker.channel(), SignIn(Some(token)));
    let mut grpc = tonic::client::Grpc::new(signed);
    grpc.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<v1::ApplyBundleRequest, v1::ApplyBundleResponse> =
        tonic_prost::ProstCodec::default();
    let path = format!("/protem.v1.BundleService/{method}").parse().unwrap();
    let body = tonic::Request::new(tokio_stream::pending());
    let call = grpc.client_streaming(body, path, codec);
    let answer = tokio::time::timeout(within, call).await.ok()?;
    Some(answer.map(|_| ()).unwrap_err())
}
