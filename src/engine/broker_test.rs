//! A whole broker on a journal in memory: ask, follow, end, restart.

use std::future::Future as _;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prost::Message;
use protem_clock::clock::{Clock, SystemClock};
use protem_core::event::{Actor, EndReason, Target};
use protem_core::request::{AccessRequest, Scopes, Task};
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::{RequestId, Seq};
use protem_verify::names::{GatewayName, ResourceName, ScopeName, TaskId, TaskKind, Words};

use crate::engine::broker::{Broker, Start};
use crate::engine::filter::{Cursor, Filter};
use crate::engine::lane::LaneLimits;
use crate::engine::loading::Loading;
use crate::engine::plan::Schedule;
use crate::engine::proof;
use crate::engine::receipts::How;
use crate::engine::stop::{StartError, Stop};
use crate::engine::subscribe::Subscribe;
use crate::engine::subscription::Subscription;
use crate::journal::fault::Fault;
use crate::journal::memory::{MemoryJournal, MemoryStore};
use crate::journal::records::Shown;
use crate::policy::bundle::{Files, read_folder};
use crate::policy::login::{Caller, Login};

/// Far beyond what a loaded machine needs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Home {
    pub(super) store: MemoryStore,
    folder: tempfile::TempDir,
}

impl Home {
    pub(super) fn new() -> Self {
        Self { store: MemoryStore::default(), folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn start(&self) -> Result<Broker, StartError> {
        self.start_with(read_folder(Path::new("policies")).unwrap())
    }

    /// Opened, and not loaded before the store gives its snapshot.
    pub(super) fn open(&self) -> Result<(Broker, Loading), StartError> {
        self.store.withhold_snapshot(true);
        self.open_with(read_folder(Path::new("policies")).unwrap(), Arc::new(SystemClock))
    }

    pub(super) fn start_with(&self, bundle: Files) -> Result<Broker, StartError> {
        self.start_on(bundle, Arc::new(SystemClock))
    }

    pub(super) fn start_on(
        &self,
        bundle: Files,
        clock: Arc<dyn Clock>,
    ) -> Result<Broker, StartError> {
        let (broker, loading) = self.open_with(bundle, clock)?;
        loading.wait().map(|()| broker)
    }

    fn open_with(
        &self,
        bundle: Files,
        clock: Arc<dyn Clock>,
    ) -> Result<(Broker, Loading), StartError> {
        let (journal, reader) = MemoryJournal::on(&self.store, None);
        Broker::open(Start {
            journal: Box::new(journal),
            reader,
            clock,
            issuer: "https://broker.example".to_owned(),
            dev: true,
            bundle,
            keys: self.folder.path().join("keys"),
            anchor: Some(self.folder.path().join("anchor")),
            region: String::new(),
            rotation: Schedule { rotate_every: None, jwks_wait: Duration::ZERO },
            limits: LaneLimits::default(),
        })
    }
}

pub(super) fn caller(broker: &Broker, login: Login) -> Caller {
    Caller { principal: broker.bundle().who(&login).unwrap(), login: Arc::new(login) }
}

fn agent(broker: &Broker) -> Caller {
    caller(broker, Login::dev_identity("payments/agent"))
}

pub(super) fn ask(caller: &Caller, task: &str, key: Option<RequestId>) -> AccessRequest {
    let crate::policy::login::Principal::Workload { by, .. } = &caller.principal else { panic!() };
    AccessRequest {
        by: by.clone(),
        task: Task {
            id: TaskId::try_from(task).unwrap(),
            kind: TaskKind::try_from("agent").unwrap(),
            url: Words::default(),
        },
        resource: ResourceName::try_from("orders-api").unwrap(),
        scopes: Scopes::new(vec![ScopeName::try_from("orders:read").unwrap()]).unwrap(),
        lifetime: None,
        purpose: Words::default(),
        key,
        emergency: false,
        proof: None,
    }
}

fn key(last: u8) -> RequestId {
    let millis = u64::try_from(SystemClock.unix().as_millis()).unwrap().to_be_bytes();
    let [_, _, a, b, c, d, e, f] = millis;
    RequestId([a, b, c, d, e, f, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, last])
}

pub(super) fn follow(after: Option<Cursor>) -> Subscribe {
    let filter = Filter {
        resources: Some([ResourceName::try_from("orders-api").unwrap()].into()),
        identity: None,
        observed: None,
        expiries: false,
    };
    Subscribe {
        who: Actor("gateway:edge".into()),
        gateway: Some(GatewayName::try_from("edge").unwrap()),
        instance: "one".to_owned(),
        process: "p".to_owned(),
        filter,
        after,
        enforcing: true,
        history: false,
        last: None,
    }
}

/// What no credential's `fresh` exceeds, as a catalog says it.
fn ceiling(told: Wire) -> Duration {
    let Wire::Catalog(catalog) = told else { panic!("no catalog") };
    catalog.max_staleness.map(Duration::try_from).unwrap().unwrap()
}

pub(super) fn decode(encoded: &Encoded) -> Wire {
    v1::SubscribeResponse::decode(encoded.0.clone()).unwrap().message.unwrap()
}

pub(super) async fn next(feed: &mut Subscription) -> Wire {
    let next = tokio::time::timeout(PATIENCE, feed.next()).await;
    decode(&next.expect("a message in time").expect("the stream goes on"))
}

/// Reads up to a checkpoint that answers `nonce`; the items that came before it.
pub(super) async fn up_to(
    feed: &mut Subscription,
    nonce: &[u8],
) -> (Vec<v1::Revocation>, v1::Checkpoint) {
    let mut items = Vec::new();
    loop {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
        match next(feed).await {
            Wire::Checkpoint(checkpoint) if checkpoint.nonce == nonce => {
                return (items, checkpoint);
            }
            Wire::Batch(batch) => items.extend(batch.items),
            _ => {}
        }
    }
}

pub(super) fn cursor(wire: &v1::Cursor) -> Cursor {
    Cursor {
        journal: protem_verify::ids::JournalId(wire.journal.clone().try_into().unwrap()),
        epoch: protem_verify::ids::Epoch(wire.epoch),
        seq: Seq(wire.seq),
        filter: wire.filter.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gets_access_and_a_retry_the_same_token() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let request = ask(&agent, "t-1", Some(key(1)));
    let first = broker.request_access(&agent, request.clone()).await.unwrap();
    let token = first.credential.unwrap().token;
    let again = broker.request_access(&agent, request.clone()).await.unwrap();
    assert_eq!(again.grant.id, first.grant.id);
    assert_eq!(again.credential.unwrap().token, token);
    let renewed = broker.renew(&agent, first.grant.id).await.unwrap();
    assert_eq!(renewed.credential.unwrap().token, token, "before renew_at it is the newest again");
    broker.stop().await;
    drop(broker);

    let broker = home.start().unwrap();
    let after = broker.request_access(&agent, request.clone()).await.unwrap();
    assert_eq!(after.credential.unwrap().token, token, "a restart makes the same token again");
    let ended = broker
        .complete_task(&agent, TaskId::try_from("t-1").unwrap(), Words::default())
        .await
        .unwrap();
    assert_eq!(ended.ended.len(), 1);
    assert!(matches!(ended.ended[0].status, Shown::Ended { reason: EndReason::Completed, .. }));
    let late = broker.request_access(&agent, request).await.unwrap();
    assert!(late.credential.is_none(), "a known key answers its grant, ended as it is");
    let other = broker.request_access(&agent, ask(&agent, "t-1", None)).await;
    assert!(matches!(other, Err(Stop::Refused(_))), "{other:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_opens_in_order_tells_of_ends_and_resumes_without_a_gap() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let mut feed = broker.subscribe(follow(None)).await.unwrap();
    assert!(matches!(next(&mut feed).await, Wire::Opened(_)));
    assert!(matches!(next(&mut feed).await, Wire::Keys(_)));
    assert_eq!(ceiling(next(&mut feed).await), broker.bundle().known_max_fresh().0);
    assert!(matches!(next(&mut feed).await, Wire::SnapshotBegin(_)));
    assert!(matches!(next(&mut feed).await, Wire::SnapshotEnd(_)));
    let (items, first) = up_to(&mut feed, b"").await;
    assert!(items.is_empty());
    assert_eq!(first.seq, broker.head().seq.0);

    let peer = feed.peer();
    peer.ping(b"n1".to_vec(), "FRESH".to_owned(), None);
    up_to(&mut feed, b"n1").await;
    for task in ["t-1", "t-2"] {
        broker.request_access(&agent, ask(&agent, task, None)).await.unwrap();
    }
    let task = |task: &str| TaskId::try_from(task).unwrap();
    let one = broker.complete_task(&agent, task("t-1"), Words::default()).await.unwrap();
    let before = broker.enforcement(&one.mark);
    assert!(!before.everywhere, "{before:?}");
    peer.ping(b"n2".to_vec(), "FRESH".to_owned(), None);
    let (items, proof) = up_to(&mut feed, b"n2").await;
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].prev_seq, proof.last_sent), (0, items[0].seq));
    peer.ack(Seq(u64::MAX));
    let after = broker.enforcement(&one.mark);
    assert_eq!(after.receipts[0].how, How::Acknowledged);
    assert!(after.everywhere, "the only instance there can be has said so");

    let left = cursor(proof.cursor.as_ref().unwrap());
    drop(feed);
    let revoked = broker
        .revoke(
            &agent,
            vec![Target::Identity(items_identity())],
            Words::parse("note", "leak").unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(revoked.grants_ended, 1);
    for restart in [false, true] {
        let broker = if restart {
            broker.stop().await;
            home.start().unwrap()
        } else {
            broker.clone()
        };
        let mut feed = broker.subscribe(follow(Some(left.clone()))).await.unwrap();
        let (missed, proof) = up_to(&mut feed, b"").await;
        assert_eq!(missed.len(), 1 + usize::from(restart), "restarted: {restart}");
        assert_eq!(missed[0].prev_seq, items[0].seq, "restarted: {restart}");
        let mut prev = missed.last().unwrap().seq;
        assert_eq!(proof.last_sent, prev);
        // What comes next is linked to what this stream was sent, in the old ring and in the new one.
        let agent = self::agent(&broker);
        let third = if restart { "t-4" } else { "t-3" };
        broker.request_access(&agent, ask(&agent, third, None)).await.unwrap();
        let done = broker.complete_task(&agent, task(third), Words::default()).await.unwrap();
        feed.peer().ping(b"n3".to_vec(), "FRESH".to_owned(), None);
        let (items, _) = up_to(&mut feed, b"n3").await;
        for item in &items {
            assert_eq!(item.prev_seq, prev);
            prev = item.seq;
        }
        assert!(done.mark.seq.0 >= prev && !items.is_empty());
        if restart {
            broker.stop().await;
        }
    }
}

fn items_identity() -> protem_verify::names::IdentityName {
    protem_verify::names::IdentityName::try_from("payments/agent").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_hold_ends_its_task_after_the_lease() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let granted = broker.request_access(&agent, ask(&agent, "t-1", None)).await.unwrap();
    let task = TaskId::try_from("t-1").unwrap();
    let hold = broker.hold_task(&agent, task, Some(Duration::from_secs(1))).await.unwrap();
    let mut changes = hold.changes();
    drop(hold);
    let ended = tokio::time::timeout(PATIENCE, changes.next()).await.unwrap();
    let ended = ended.unwrap().unwrap();
    assert_eq!(ended.grant.id, granted.grant.id);
    assert!(matches!(ended.grant.status, Shown::Ended { reason: EndReason::Abandoned, .. }));
    broker.stop().await;
}

/// Who holds a task listens to its client as well, and gives a look up when a beat comes: the change is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_with_its_look() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    for number in 0..20 {
        let name = format!("t-{number}");
        let granted = broker.request_access(&agent, ask(&agent, &name, None)).await.unwrap();
        let task = TaskId::try_from(name.as_str()).unwrap();
        let hold = broker.hold_task(&agent, task, Some(Duration::from_secs(60))).await.unwrap();
        let mut changes = hold.changes();
        broker.return_grant(&agent, granted.grant.id, Words::default()).await.unwrap();
        let first = {
            let mut next = Box::pin(changes.next());
            std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await
        };
        // It went to read the grant, and is given up; unless this thread was away for so long that it is back already.
        let ended = match first {
            Poll::Ready(_) => continue,
            Poll::Pending => tokio::time::timeout(PATIENCE, changes.next()).await.unwrap(),
        };
        let ended = ended.unwrap().unwrap();
        assert!(matches!(ended.grant.status, Shown::Ended { reason: EndReason::Completed, .. }));
        return broker.stop().await;
    }
    panic!("no look was given up");
}

/// However long the state takes to load: who has a view goes on at once, with proofs; all else waits, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_view_goes_on_before_the_state_is_loaded() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let mut feed = broker.subscribe(follow(None)).await.unwrap();
    for task in ["t-1", "t-2"] {
        broker.request_access(&agent, ask(&agent, task, None)).await.unwrap();
    }
    let (_, proof) = up_to(&mut feed, b"").await;
    let left = cursor(proof.cursor.as_ref().unwrap());
    drop(feed);
    let task = |task: &str| TaskId::try_from(task).unwrap();
    // It ends while the gateway is away.
    let done = broker.complete_task(&agent, task("t-1"), Words::default()).await.unwrap();
    let keys = broker.jwks();
    broker.stop().await;
    drop(broker);

    let (broker, loading) = home.open().unwrap();
    assert!(!broker.takes_turns(Duration::ZERO).await);
    assert_eq!(broker.jwks(), keys);
    let mut feed = broker.subscribe(follow(Some(left))).await.unwrap();
    feed.peer().ping(b"n1".to_vec(), "FRESH".to_owned(), None);
    let (missed, proof) = up_to(&mut feed, b"n1").await;
    assert_eq!(missed.iter().map(|item| item.seq).collect::<Vec<_>>(), [done.mark.seq.0]);
    assert_eq!(proof.seq, broker.head().seq.0);
    // Who has none waits for the state, and so does whoever asks for anything else.
    let mut other = Subscribe { instance: "two".to_owned(), ..follow(None) };
    other.process = "q".to_owned();
    let mut other = broker.subscribe(other).await.unwrap();
    let end = broker.complete_task(&agent, task("t-2"), Words::default());
    let mut end = Box::pin(end);
    let mut begin = Box::pin(other.next());
    for _ in 0..100 {
        let waits = std::future::poll_fn(|cx| {
            Poll::Ready(end.as_mut().poll(cx).is_pending() && begin.as_mut().poll(cx).is_pending())
        });
        assert!(waits.await);
        tokio::task::yield_now().await;
    }
    drop(begin);
    home.store.withhold_snapshot(false);
    loading.wait().unwrap();
    let ended = end.await.unwrap();
    assert_eq!(ended.ended.len(), 1);
    feed.peer().ping(b"n2".to_vec(), "FRESH".to_owned(), None);
    let (items, _) = up_to(&mut feed, b"n2").await;
    assert_eq!(items.iter().map(|item| item.prev_seq).collect::<Vec<_>>(), [done.mark.seq.0]);
    other.peer().ping(b"n3".to_vec(), "FRESH".to_owned(), None);
    let (items, _) = up_to(&mut other, b"n3").await;
    assert_eq!(items.len(), 2, "both ends");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_loaded_leaves_nobody_waiting() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    // More than the entries in which a journal's first bundle is looked for.
    for number in 0..20 {
        broker.request_access(&agent, ask(&agent, &format!("t-{number}"), None)).await.unwrap();
    }
    let grant = broker.head().seq;
    broker.stop().await;
    drop(broker);
    home.store.flip(grant);
    // No grant is looked at before the state is loaded.
    let (broker, loading) = home.open().unwrap();
    let asks = tokio::spawn({
        let (broker, agent) = (broker.clone(), agent.clone());
        async move { broker.request_access(&agent, ask(&agent, "late", None)).await }
    });
    home.store.withhold_snapshot(false);
    let failed = loading.wait();
    assert!(matches!(failed, Err(StartError::Fault(Fault::Damaged { .. }))), "{failed:?}");
    assert!(asks.await.unwrap().is_err());
    assert!(broker.prove(b"n".to_vec()).await.is_err(), "nothing is proven from then on");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_stopped_while_it_loads_ends() {
    let home = Home::new();
    home.start().unwrap().stop().await;
    let (broker, loading) = home.open().unwrap();
    let stopping = tokio::spawn(async move { broker.stop().await });
    // What was asked of the store before is still answered.
    home.store.withhold_snapshot(false);
    // Whichever is first: it is loaded and ends, or it ends unloaded.
    let loaded = loading.wait();
    assert!(matches!(loaded, Ok(()) | Err(StartError::Fault(Fault::Stopping))), "{loaded:?}");
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_neither_issues_nor_proves() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let kept = broker.head().seq;
    broker.request_access(&agent, ask(&agent, "t-1", None)).await.unwrap();
    let shown = broker.prove(b"n".to_vec()).await.unwrap().signed;
    broker.stop().await;
    drop(broker);
    home.store.roll_back(kept);
    let anchor = home.folder.path().join("anchor");
    assert!(proof::read_anchor(&anchor).unwrap().is_some_and(|shown| shown.checkpoint.seq > kept));
    assert!(matches!(home.start(), Err(StartError::Fault(Fault::RolledBack { .. }))));
    std::fs::remove_file(&anchor).unwrap();
    let broker = home.start().unwrap();
    let mut open = follow(None);
    open.last = Some(shown);
    assert!(broker.subscribe(open).await.is_err(), "a gateway shows what the store lost");
    let refused = broker.request_access(&agent, ask(&agent, "t-2", None)).await;
    assert!(matches!(refused, Err(Stop::Faulted(Fault::RolledBack { .. }))), "{refused:?}");
    assert!(broker.prove(b"n".to_vec()).await.is_err());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ask_at_once_and_each_gets_its_own() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let agent = agent(&broker);
    let asks = (0..200).map(|at| {
        let (broker, agent) = (broker.clone(), agent.clone());
        tokio::spawn(async move {
            let request = ask(&agent, &format!("t-{at}"), None);
            broker.request_access(&agent, request).await.unwrap()
        })
    });
    let mut tokens = std::collections::BTreeSet::new();
    for asked in asks.collect::<Vec<_>>() {
        let granted = asked.await.unwrap();
        assert!(tokens.insert(granted.credential.unwrap().token.reveal().to_owned()));
    }
    assert_eq!(tokens.len(), 200);
    broker.stop().await;
}
