//! Fifty random kill -9 under load lose no acknowledged grant, completion or revocation, and revive nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protem::cli::ask::fresh_key;
use protem::cli::client::Client;
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::selector::By;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::bundle::{FILES, OPERATOR, RESOURCE, WORKERS};
use crate::edge::Edge;
use crate::follower::Follower;
use crate::history::{Asked, History};
use crate::process::{Broker, PATIENCE};

/// How often the broker is killed.
const KILLS: u32 = 50;
/// Callers of each workload identity at once.
const CALLERS: usize = 6;
/// Grants looked at again after each restart, besides all new ones.
const AGAIN: usize = 10;
/// The moments of the kills and what the callers do, unless PROTEM_SEED says otherwise.
const SEED: u64 = 0x70_72_6f_74_65_6d;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_nothing_and_revive_nothing() {
    let seed = std::env::var("PROTEM_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    println!("PROTEM_SEED={seed}");
    let began = Instant::now();
    let mut dice = Dice(seed);
    let mut broker = tokio::task::block_in_place(|| Broker::with_bundle(FILES));
    let mut audit = Audit::start(&broker).await;
    let shared = Arc::new(Shared::default());
    let mut callers = callers(&broker, &shared, &mut dice);
    for round in 1..=KILLS {
        shared.pause.store(false, Ordering::SeqCst);
        let load: Vec<_> = callers.drain(..).map(|caller| tokio::spawn(caller.work())).collect();
        tokio::time::sleep(Duration::from_micros(20_000 + dice.below(230_000))).await;
        tokio::task::block_in_place(|| broker.kill());
        shared.up.send_replace(false);
        let mut watch = Watch::default();
        tokio::task::block_in_place(|| broker.start());
        watch.lap("start");
        // What was in flight is asked again and answered; then all is quiet.
        shared.pause.store(true, Ordering::SeqCst);
        shared.up.send_replace(true);
        for caller in load {
            callers.push(caller.await.unwrap());
        }
        watch.lap("in flight");
        audit.check(&shared, &mut dice, round, false, &mut watch).await;
        watch.lap("grants and retries");
        println!("round {round}: {}", watch.laps);
    }
    audit.check(&shared, &mut dice, KILLS, true, &mut Watch::default()).await;
    let verified = broker.run(OPERATOR, &["audit", "verify"]);
    verified.expect(0);
    broker.kill();
    let journal = broker.journal();
    broker.run("", &["audit", "verify", journal.to_str().unwrap()]).expect(0);
    let history = shared.history.lock().unwrap();
    let (asked, ends, repeated) = (history.asked.len(), history.ends(), history.repeated);
    println!("{asked} grants, {ends} ends, {repeated} repeated, {:?}", began.elapsed());
    assert!(asked > 400 && ends > 200 && repeated > 50, "the load was too small to tell anything");
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    pause: AtomicBool,
    up: Up,
}

/// Whether a broker runs whose callers have their tokens.
struct Up(watch::Sender<bool>);

impl Default for Up {
    fn default() -> Self {
        Self(watch::Sender::new(true))
    }
}

impl Up {
    fn send_replace(&self, up: bool) {
        self.0.send_replace(up);
    }

    async fn wait(&self) {
        self.0.subscribe().wait_for(|up| *up).await.unwrap();
    }
}

/// One caller: a workload with tasks of its own, or an operator.
struct Caller {
    name: String,
    number: usize,
    count: u64,
    client: Client,
    dice: Dice,
    shared: Arc<Shared>,
    open: Vec<Asked>,
}

fn callers(broker: &Broker, shared: &Arc<Shared>, dice: &mut Dice) -> Vec<Caller> {
    let workers = WORKERS.iter().flat_map(|name| std::iter::repeat_n(*name, CALLERS));
    let names = workers.chain([OPERATOR]);
    let caller = |(number, name): (usize, &str)| Caller {
        name: name.to_owned(),
        number,
        count: 0,
        client: broker.client(name),
        dice: Dice(dice.next()),
        shared: Arc::clone(shared),
        open: Vec::new(),
    };
    names.enumerate().map(caller).collect()
}

impl Caller {
    /// Calls until paused; what has begun is brought to its end, over however many lives of the broker.
    async fn work(mut self) -> Self {
        while !self.shared.pause.load(Ordering::SeqCst) {
            self.count += 1;
            if self.name == OPERATOR {
                self.revoke().await;
                continue;
            }
            match self.dice.below(10) {
                0..5 => self.ask().await,
                5..8 => self.complete().await,
                8 => self.give_back().await,
                _ => self.renew().await,
            }
        }
        self
    }

    async fn ask(&mut self) {
        let (number, count) = (self.number, self.count);
        // Some tasks get a second grant, so that completing ends more than one.
        let again = self.open.last().filter(|_| self.dice.below(4) == 0);
        let again = again.filter(|asked| asked.request.scopes == ["orders:read"]);
        let (task, scope) = match again {
            Some(asked) => (asked.request.task.clone().unwrap(), "orders:write"),
            None => (task(format!("t-{number}-{count}")), "orders:read"),
        };
        let request = v1::RequestAccessRequest {
            task: Some(task),
            resource: RESOURCE.to_owned(),
            scopes: vec![scope.to_owned()],
            purpose: "load".to_owned(),
            request_id: fresh_key().to_string(),
            ..v1::RequestAccessRequest::default()
        };
        if self.dice.below(4) == 0 {
            // A caller that leaves in the middle of its own call, and comes back with the same key.
            let micros = self.dice.below(20_000);
            let mut client = self.client.access();
            let asked = client.request_access(request.clone());
            let _ = tokio::time::timeout(Duration::from_micros(micros), asked).await;
        }
        let answer = self.insist(|client| {
            let request = request.clone();
            async move { client.access().request_access(request).await }
        });
        let Ok(answer) = answer.await else { return };
        let answer = answer.into_inner();
        let grant = answer.grant.clone().unwrap_or_default();
        let mut history = self.shared.history.lock().unwrap();
        history.answered(&self.name, &request, answer);
        if let Some(asked) =
            history.asked.get(&grant.id).filter(|_| grant.state() == GrantState::Active)
        {
            self.open.push(asked.clone());
        }
    }

    async fn complete(&mut self) {
        let Some(asked) = self.any() else { return };
        let task = asked.request.task.clone().unwrap().id;
        let request =
            v1::CompleteTaskRequest { task_id: task.clone(), outcome: "done".into(), wait: None };
        let done = self.insist(|client| {
            let request = request.clone();
            async move { client.access().complete_task(request).await }
        });
        let seq = match done.await {
            Ok(done) => done.into_inner().seq,
            Err(status) => panic!("completing {task}: {status:?}"),
        };
        let of_task = |asked: &Asked| asked.request.task.as_ref().is_some_and(|t| t.id == task);
        let mut history = self.shared.history.lock().unwrap();
        for asked in self.open.iter().filter(|asked| of_task(asked)) {
            history.ended(&asked.grant.id, seq);
        }
        self.open.retain(|asked| !of_task(asked));
    }

    async fn give_back(&mut self) {
        let Some(asked) = self.any() else { return };
        let grant_id = asked.grant.id.clone();
        let request = v1::ReturnGrantRequest { grant_id: grant_id.clone(), note: String::new() };
        let done = self.insist(|client| {
            let request = request.clone();
            async move { client.access().return_grant(request).await }
        });
        let seq = match done.await {
            Ok(done) => done.into_inner().seq,
            Err(status) => panic!("returning {grant_id}: {status:?}"),
        };
        self.shared.history.lock().unwrap().ended(&grant_id, seq);
        self.open.retain(|asked| asked.grant.id != grant_id);
    }

    /// Long before it is due, a renewal answers the credential that there is.
    async fn renew(&mut self) {
        let Some(asked) = self.any() else { return };
        let request = v1::RenewCredentialRequest { grant_id: asked.grant.id.clone() };
        let done = self.insist(|client| {
            let request = request.clone();
            async move { client.access().renew_credential(request).await }
        });
        match done.await {
            Ok(answer) => {
                let v1::RenewCredentialResponse { grant, credential } = answer.into_inner();
                let answer = v1::RequestAccessResponse { grant, credential };
                let mut history = self.shared.history.lock().unwrap();
                history.answered(&self.name, &asked.request, answer);
            }
            // The operator was there first.
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
        }
    }

    /// The operator ends single grants, and now and then all access of one identity.
    async fn revoke(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.dice.below(30))).await;
        let all = self.dice.below(20) == 0;
        let by = if all {
            By::Identity(WORKERS[3].into())
        } else {
            let history = self.shared.history.lock().unwrap();
            let skip = usize::try_from(self.dice.below(10)).unwrap();
            let mut newest = history.asked.values().rev().filter(|asked| history.lives(asked));
            let Some(asked) = newest.nth(skip) else { return };
            By::Grant(asked.grant.id.clone())
        };
        let request = v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(by.clone()) }),
            note: "drill".into(),
            wait: None,
        };
        let done = self.insist(|client| {
            let request = request.clone();
            async move {
                let mut answers = client.governance().revoke(request).await?.into_inner();
                answers.message().await?.ok_or_else(|| Status::unavailable("cut short"))
            }
        });
        let seq = match done.await {
            Ok(answer) => answer.seq,
            Err(status) => panic!("revoking {by:?}: {status:?}"),
        };
        let mut history = self.shared.history.lock().unwrap();
        match by {
            By::Grant(id) => history.ended(&id, seq),
            By::Identity(name) => history.cut_off(&name, seq),
            other => panic!("{other:?}"),
        }
    }

    fn any(&mut self) -> Option<Asked> {
        let count = u64::try_from(self.open.len()).unwrap();
        (count > 0).then(|| self.open[usize::try_from(self.dice.below(count)).unwrap()].clone())
    }

    /// Calls until there is an answer that is one.
    async fn insist<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let end = Instant::now() + PATIENCE;
        loop {
            self.shared.up.wait().await;
            let tried = tokio::time::timeout(PATIENCE, call(self.client.clone())).await;
            let tried = tried.expect("a call that never ends");
            match tried {
                Err(status) if is_lost(&status) => {
                    assert!(Instant::now() < end, "no answer: {status:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Whether a status says nothing about what the broker did. Between two lives a token may be of the wrong one.
fn is_lost(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unauthenticated, Unavailable, Unknown};
    [Cancelled, DeadlineExceeded, Internal, Unauthenticated, Unavailable, Unknown]
        .contains(&status.code())
}

fn task(id: String) -> v1::Task {
    v1::Task { id, kind: "batch".into(), url: String::new() }
}

/// What is compared with the history after each restart.
struct Audit {
    operator: Client,
    workers: Vec<(String, Client)>,
    feed: Follower,
    edge: Edge,
    read: u64,
    last_leaf: Vec<u8>,
    known: usize,
}

impl Audit {
    async fn start(broker: &Broker) -> Self {
        let operator = broker.client(OPERATOR);
        let feed = Follower::start(broker.client(OPERATOR), v1::Open::default());
        let workers = WORKERS.map(|name| (name.to_owned(), broker.client(name))).into();
        let edge = Edge::start(broker).await;
        Self { operator, workers, feed, edge, read: 0, last_leaf: Vec::new(), known: 0 }
    }

    async fn check(
        &mut self,
        shared: &Shared,
        dice: &mut Dice,
        round: u32,
        all: bool,
        watch: &mut Watch,
    ) {
        let (newest, sample) = {
            let history = shared.history.lock().unwrap();
            assert!(history.wrong.is_empty(), "round {round}: {:#?}", history.wrong);
            (history.newest(), self.sample(&history, dice, all))
        };
        self.journal(newest).await;
        watch.lap("journal");
        self.feed.reach(newest).await;
        let seen = self.feed.seen();
        assert!(seen.wrong.is_empty(), "round {round}: {:#?}", seen.wrong);
        assert_eq!((seen.snapshots, seen.resets), (1, 0), "round {round}: it did not resume");
        watch.lap("feed");
        self.edge.reach(newest).await;
        watch.lap("gateway");
        let (opened, snapshots) = self.edge.tally();
        assert_eq!(snapshots, 1, "round {round}: the gateway did not resume");
        assert!(all || opened > u64::from(round), "round {round}: only {opened} streams");
        for (asked, lives) in &sample {
            self.grant(asked, *lives, round).await;
            if let Some(token) = &asked.token {
                let verdict = self.edge.check(token, &asked.request.scopes[0]);
                assert_eq!(verdict.is_ok(), *lives, "round {round}: {verdict:?} {asked:?}");
            }
        }
        for (asked, lives) in sample.iter().take(if all { usize::MAX } else { AGAIN / 2 }) {
            self.retry(asked, *lives, round).await;
        }
    }

    /// All that is new, and some of the old; at the end some hundreds.
    fn sample(&mut self, history: &History, dice: &mut Dice, all: bool) -> Vec<(Asked, bool)> {
        let count = history.asked.len();
        let old = if all { 400 } else { AGAIN };
        let new = count.saturating_sub(std::mem::replace(&mut self.known, count)).min(2 * old);
        let among = u64::try_from(count.max(1)).unwrap();
        let picked: Vec<usize> =
            (0..old).map(|_| usize::try_from(dice.below(among)).unwrap()).collect();
        let wanted = |at: usize| at + new >= count || picked.contains(&at);
        let asked = history.asked.values().enumerate().filter(|(at, _)| wanted(*at));
        let mut sample: Vec<_> =
            asked.map(|(_, asked)| (asked.clone(), history.lives(asked))).collect();
        sample.reverse();
        sample
    }

    /// Every entry is there, once, and none that was read changed.
    async fn journal(&mut self, newest: u64) {
        let after = self.read.saturating_sub(1);
        let request = v1::ReadJournalRequest { after, ..v1::ReadJournalRequest::default() };
        let mut entries =
            self.operator.governance().read_journal(request).await.unwrap().into_inner();
        let mut expect = after;
        while let Some(row) = entries.message().await.unwrap() {
            let entry = row.entry.unwrap();
            expect += 1;
            assert_eq!(entry.seq, expect, "the journal has a gap");
            if entry.seq == self.read {
                assert_eq!(entry.leaf_hash, self.last_leaf, "entry {expect} changed");
            }
            self.last_leaf = entry.leaf_hash;
        }
        assert!(expect >= newest, "the journal ends at {expect}, {newest} was acknowledged");
        self.read = expect;
    }

    async fn grant(&self, asked: &Asked, lives: bool, round: u32) {
        let request = v1::GetGrantRequest { grant_id: asked.grant.id.clone() };
        let grant = loop {
            match self.operator.governance().get_grant(request.clone()).await {
                Ok(answer) => break answer.into_inner().grant.unwrap(),
                // There is more to look at than a person may ask for in a second.
                Err(why) => assert_eq!(why.code(), Code::ResourceExhausted, "{why:?} {asked:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let state = if lives { GrantState::Active } else { GrantState::Ended };
        assert_eq!(grant.state(), state, "round {round}: {grant:?}");
        let same = |grant: &v1::Grant| {
            (
                grant.seq,
                grant.task.clone(),
                grant.scopes.clone(),
                grant.active_from,
                grant.digest.clone(),
            )
        };
        assert_eq!(same(&grant), same(&asked.grant), "round {round}");
    }

    /// The same key gives the same grant, and while it lives the same token.
    async fn retry(&self, asked: &Asked, lives: bool, round: u32) {
        let (_, client) = self.workers.iter().find(|(name, _)| *name == asked.by).unwrap();
        let answer = client.access().request_access(asked.request.clone()).await;
        let answer = answer.unwrap_or_else(|why| panic!("{why:?} {asked:?}")).into_inner();
        assert_eq!(answer.grant.unwrap_or_default().id, asked.grant.id, "round {round}");
        let token = answer.credential.map(|credential| credential.token);
        let expect = asked.token.clone().filter(|_| lives);
        assert!(token == expect, "round {round}: another token for {}", asked.grant.id);
    }
}

/// How long the parts of a round took, to be read when a round is slow.
struct Watch {
    laps: String,
    last: Instant,
}

impl Default for Watch {
    fn default() -> Self {
        Self { laps: String::new(), last: Instant::now() }
    }
}

impl Watch {
    fn lap(&mut self, name: &str) {
        let took = self.last.elapsed().as_millis();
        self.laps.push_str(&format!("{name} {took} ms, "));
        self.last = Instant::now();
    }
}

/// SplitMix64: small, seeded, the same everywhere.
pub struct Dice(u64);

impl Dice {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
