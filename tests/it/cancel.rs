//! Row 69: a caller that leaves at any await leaves nothing half done, and nobody gets another's answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use protem::engine::broker::Broker;
use protem::journal::reader::GrantFilter;
use protem::journal::records::{GrantRecord, Shown};
use protem::policy::login::{Caller, Login, Principal};
use protem_clock::clock::{Clock, ManualClock, SystemClock};
use protem_clock::random;
use protem_core::event::{EndReason, Event, Target};
use protem_core::request::{AccessRequest, Scopes, Task};
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{ResourceName, ScopeName, TaskId, Words};

use crate::broker::{TestBroker, Wish, fresh_task};

/// More polls than any call has awaits; one that is still not done has no end.
const POLLS_MAX: u32 = 200;

/// A call that is dropped after so many polls.
struct Leaving<'call, T> {
    call: Option<Pin<Box<dyn Future<Output = T> + Send + 'call>>>,
    left: u32,
}

impl<T> Future for Leaving<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.left > 0 {
            self.left -= 1;
            let call = self.call.as_mut().expect("polled after its end");
            if let Poll::Ready(answer) = call.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
        }
        if self.left > 0 {
            return Poll::Pending;
        }
        self.call = None;
        Poll::Ready(None)
    }
}

fn leaving<'call, T>(
    polls: u32,
    call: impl Future<Output = T> + Send + 'call,
) -> Leaving<'call, T> {
    Leaving { call: Some(Box::pin(call)), left: polls }
}

/// One broker, the caller that leaves, and one that stays.
struct Scene {
    broker: TestBroker,
    clock: Arc<ManualClock>,
    leaves: Caller,
    stays: Caller,
}

impl Scene {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.unix()));
        let given = Some(Arc::clone(&clock) as Arc<dyn Clock>);
        let broker = TestBroker::with(Wish { clock: given, ..Wish::default() }).await;
        let (leaves, stays) = (caller(&broker, "payments/agent"), caller(&broker, "shop/checkout"));
        Self { broker, clock, leaves, stays }
    }

    fn engine(&self) -> &Broker {
        &self.broker.broker
    }

    /// Another caller is served meanwhile, and gets its own answer.
    async fn other(&self) {
        let task = fresh_task();
        let asked = request(&self.stays, &task, self.clock.unix());
        let granted = self.engine().request_access(&self.stays, asked.clone()).await.unwrap();
        assert_eq!(granted.grant.request, asked, "the answer to another's question");
        let token = granted.credential.unwrap().token;
        assert!(claims(token.reveal()).contains(&task));
    }

    /// Everything that was begun has been done: the turns that wait come before this look.
    async fn settled(&self) {
        self.engine().ask(|_| ()).await.unwrap();
    }

    async fn grant(&self, task: &str) -> GrantId {
        let asked = request(&self.leaves, task, self.clock.unix());
        self.engine().request_access(&self.leaves, asked).await.unwrap().grant.id
    }

    fn record(&self, id: GrantId) -> GrantRecord {
        self.engine().reader().grant(&id).unwrap().unwrap()
    }

    /// How many entries of a grant are of a kind.
    fn count(&self, id: GrantId, of: fn(&Event) -> bool) -> usize {
        let reader = self.engine().reader();
        let seqs: Vec<Seq> = reader.grant_entries(&id).unwrap();
        let entries = seqs.into_iter().map(|seq| reader.entry(seq).unwrap().unwrap());
        entries.filter(|entry| of(entry.what())).count()
    }
}

/// Somebody of the bundle.
pub fn caller(broker: &TestBroker, name: &str) -> Caller {
    let login = Arc::new(Login::dev_identity(name));
    let principal = broker.broker.bundle().who(&login).unwrap();
    Caller { principal, login }
}

/// Reads orders for a task.
pub fn request(caller: &Caller, task: &str, now: Duration) -> AccessRequest {
    let now = u64::try_from(now.as_millis()).unwrap();
    let key = uuid::Builder::from_unix_timestamp_millis(now, &random::bytes()).into_uuid();
    let Principal::Workload { by, .. } = &caller.principal else { panic!("no workload") };
    AccessRequest {
        by: by.clone(),
        task: Task {
            id: TaskId::try_from(task).unwrap(),
            kind: "agent".try_into().unwrap(),
            url: Words::default(),
        },
        resource: ResourceName::try_from("orders-api").unwrap(),
        scopes: Scopes::new(vec![ScopeName::try_from("orders:read").unwrap()]).unwrap(),
        lifetime: None,
        purpose: Words::parse("purpose", "a test").unwrap(),
        key: Some(key.to_string().parse().unwrap()),
        emergency: false,
        proof: None,
    }
}

fn claims(token: &str) -> String {
    let part = token.split('.').nth(1).unwrap();
    String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

fn end_of(record: &GrantRecord) -> Option<EndReason> {
    match &record.status {
        Shown::Ended { reason, .. } => Some(*reason),
        Shown::Pending { .. } | Shown::Active { .. } => None,
    }
}

const IS_END: fn(&Event) -> bool = |event| matches!(event, Event::GrantEnded(_));

#[tokio::test(flavor = "multi_thread")]
async fn attack_cancel_at_every_await() {
    let scene = Scene::new().await;
    let mut cut = [0; 4];
    cut[0] = asking(&scene).await;
    cut[1] = completing(&scene).await;
    cut[2] = renewing(&scene).await;
    cut[3] = revoking(&scene).await;
    assert!(
        cut.iter().all(|cut| *cut >= 2),
        "every call was cut at its start and at an await: {cut:?}"
    );
    scene.broker.stop().await;
}

/// How often the call was cut before it came to its end.
async fn asking(scene: &Scene) -> u32 {
    for polls in 0..POLLS_MAX {
        let asked = request(&scene.leaves, &fresh_task(), scene.clock.unix());
        let call = scene.engine().request_access(&scene.leaves, asked.clone());
        let (left, ()) = tokio::join!(leaving(polls, call), scene.other());
        scene.settled().await;
        let filter = GrantFilter {
            identity: Some(asked.by.identity.clone()),
            task: Some(asked.task.id.clone()),
            limit: 10,
            ..GrantFilter::default()
        };
        let of_task = || scene.engine().reader().grants(&filter).unwrap();
        let made = of_task();
        assert!(made.grants.len() <= 1, "wholly or not at all: {made:?}");
        let again = scene.engine().request_access(&scene.leaves, asked.clone()).await.unwrap();
        assert_eq!(again.grant.request, asked);
        if let Some(made) = made.grants.first() {
            assert_eq!(made.id, again.grant.id, "the same request id, the same grant");
        }
        assert_eq!(of_task().grants.len(), 1);
        let token = again.credential.unwrap().token;
        assert!(claims(token.reveal()).contains(&again.grant.id.to_string()));
        if let Some(first) = left {
            let first = first.unwrap();
            assert_eq!(first.grant.id, again.grant.id);
            assert_eq!(first.credential.unwrap().token, token, "the same grant, the same token");
            return polls;
        }
    }
    panic!("it never ends");
}

async fn completing(scene: &Scene) -> u32 {
    for polls in 0..POLLS_MAX {
        let task = fresh_task();
        let id = scene.grant(&task).await;
        let name = TaskId::try_from(task.as_str()).unwrap();
        let complete =
            || scene.engine().complete_task(&scene.leaves, name.clone(), Words::default());
        let (left, ()) = tokio::join!(leaving(polls, complete()), scene.other());
        scene.settled().await;
        let half = end_of(&scene.record(id));
        assert!(matches!(half, None | Some(EndReason::Completed)), "{half:?}");
        let asked = scene
            .engine()
            .request_access(&scene.leaves, request(&scene.leaves, &task, scene.clock.unix()))
            .await;
        assert_eq!(asked.is_err(), half.is_some(), "the task has ended exactly if its grant has");
        let again = complete().await.unwrap();
        let ended: Vec<GrantId> = again.ended.iter().map(|record| record.id).collect();
        assert!(ended.contains(&id), "{ended:?}");
        assert_eq!(end_of(&scene.record(id)), Some(EndReason::Completed));
        assert_eq!(scene.count(id, IS_END), 1, "it ended once");
        if left.is_some() {
            return polls;
        }
    }
    panic!("it never ends");
}

async fn renewing(scene: &Scene) -> u32 {
    for polls in 0..POLLS_MAX {
        let asked = request(&scene.leaves, &fresh_task(), scene.clock.unix());
        let first = scene.engine().request_access(&scene.leaves, asked).await.unwrap();
        let (id, before) = (first.grant.id, first.credential.unwrap());
        let due = before.renew_at.since(scene.engine().now());
        scene.clock.advance(due + Duration::from_secs(1));
        let renew = || scene.engine().renew(&scene.leaves, id);
        let (left, ()) = tokio::join!(leaving(polls, renew()), scene.other());
        scene.settled().await;
        let issued: fn(&Event) -> bool = |event| matches!(event, Event::CredentialIssued(_));
        let made = scene.count(id, issued);
        assert!(made <= 1, "one renewal is due: {made}");
        let again = renew().await.unwrap().credential.unwrap();
        assert_ne!(again.token, before.token);
        assert_eq!(scene.count(id, issued), 1, "one renewal, however often asked");
        if let Some(first) = left {
            assert_eq!(first.unwrap().credential.unwrap().token, again.token);
            return polls;
        }
    }
    panic!("it never ends");
}

async fn revoking(scene: &Scene) -> u32 {
    let note = Words::parse("note", "a test").unwrap();
    let olga = Arc::new(Login::dev_person("olga", &["operators"]));
    let principal = scene.engine().bundle().who(&olga).unwrap();
    let operator = Caller { principal, login: olga };
    for polls in 0..POLLS_MAX {
        let id = scene.grant(&fresh_task()).await;
        let revoke = || scene.engine().revoke(&operator, vec![Target::Grant(id)], note.clone());
        let (left, ()) = tokio::join!(leaving(polls, revoke()), scene.other());
        scene.settled().await;
        let half = end_of(&scene.record(id));
        assert!(matches!(half, None | Some(EndReason::Revoked)), "{half:?}");
        let again = revoke().await.unwrap();
        assert_eq!(again.grants_ended, u64::from(half.is_none()), "it ends once");
        assert_eq!(end_of(&scene.record(id)), Some(EndReason::Revoked));
        assert_eq!(scene.count(id, IS_END), 1);
        if left.is_some() {
            return polls;
        }
    }
    panic!("it never ends");
}
