//! Keys come and go under load, and no live token is ever refused for it; a key that leaked takes all it signed with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use protem::engine::plan::Schedule;
use protem::policy::bundle::Files;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::known::Moment;
use protem_verify::time::Time;
use protem_verify::verifier::{Call, Reason, Verdict};
use serde_json::Value;
use tonic::Code;

use crate::broker::{Clients, TestBroker, Wish, ask, fresh_task, policies, reason};
use crate::key_scope::{Guard, orders, signed_anew};
use crate::process::PATIENCE;

/// Gateways that check every token.
const GATEWAYS: usize = 3;
/// Jobs that hold a grant, renew it and begin again.
const JOBS: u32 = 16;

/// The repository's bundle with credentials that live so short that keys are forgotten while the test runs.
fn short_lived() -> Files {
    let mut files = policies().to_vec();
    for (name, text) in &mut files {
        if &**name == "catalog.toml" {
            let read = String::from_utf8(text.to_vec()).unwrap();
            assert!(read.contains("credential       = \"5m\""));
            let edited = read.replace("credential       = \"5m\"", "credential       = \"10s\"");
            *text = edited.into_bytes().into();
        }
    }
    files.into()
}

/// What the jobs hold and what was seen of it.
#[derive(Default)]
struct Load {
    live: Mutex<Vec<Live>>,
    /// The keys that signed, with their private halves as they lay in the folder.
    kids: Mutex<BTreeMap<String, SigningKey>>,
    checks: AtomicU64,
    refused: AtomicU64,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

#[derive(Clone)]
struct Live {
    token: String,
    dies: Duration,
}

impl Load {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    fn hold(&self, token: &str, broker: &TestBroker) {
        let public = broker.broker.jwks();
        let kid = part(token, 0)["kid"].as_str().unwrap().to_owned();
        if !public.contains(&kid) {
            self.wrong(format!("{kid} signs and is not in the public key set"));
        }
        let key = private(&broker.folder.path().join("keys").join(format!("{kid}.key")));
        self.kids.lock().unwrap().insert(kid, key);
        let dies = Duration::from_secs(part(token, 1)["exp"].as_u64().unwrap());
        self.live.lock().unwrap().push(Live { token: token.to_owned(), dies });
    }
}

/// The private half in a key file.
pub fn private(file: &Path) -> SigningKey {
    let text = std::fs::read_to_string(file).unwrap();
    let seed = BASE64URL_NOPAD.decode(text.split_whitespace().nth(2).unwrap().as_bytes()).unwrap();
    SigningKey::from_bytes(&seed.try_into().unwrap())
}

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

pub fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// One job: asks, renews when it is due, and begins anew when its grant is over.
async fn job(broker: Arc<TestBroker>, load: Arc<Load>, after: Duration) {
    tokio::time::sleep(after).await;
    let mut agent = broker.identity("payments/agent");
    while !load.over() {
        let granted = match agent.ask(&fresh_task()).await {
            Ok(granted) => granted,
            Err(status) if status.code() == Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(status) => return load.wrong(format!("no grant: {status:?}")),
        };
        let id = granted.grant.unwrap().id;
        let mut credential = granted.credential.unwrap();
        load.hold(&credential.token, &broker);
        for _ in 0..3 {
            let due = Duration::from_secs(
                u64::try_from(credential.renew_at.unwrap().seconds).unwrap() + 1,
            );
            let until = due.saturating_sub(SystemClock.unix());
            let end = Instant::now() + until;
            while Instant::now() < end && !load.over() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if load.over() {
                return;
            }
            let asked = v1::RenewCredentialRequest { grant_id: id.clone() };
            match agent.access.renew_credential(asked).await {
                Ok(answer) => credential = answer.into_inner().credential.unwrap(),
                Err(status) => return load.wrong(format!("no renewal: {status:?}")),
            }
            load.hold(&credential.token, &broker);
        }
    }
}

/// Checks every live token at every gateway that is fresh, over and over.
fn check(gateways: &[Guard], load: &Load) {
    let resource = orders();
    let call = Call { resource: &resource, method: "GET", path: "/v1/orders" };
    let moment = || Moment { boot: SystemClock.boot(), unix: SystemClock.unix() };
    while !load.over() {
        let now = SystemClock.unix();
        load.live.lock().unwrap().retain(|live| live.dies > now);
        let live = load.live.lock().unwrap().clone();
        for (at, guard) in gateways.iter().enumerate() {
            for one in &live {
                let verdict = guard.gate.verifier().check(&one.token, &call, moment());
                load.checks.fetch_add(1, Ordering::Relaxed);
                let Verdict::Deny(reason) = verdict else { continue };
                // It died on the way to the check: by now it may be refused for any reason.
                if one.dies <= SystemClock.unix() {
                    continue;
                }
                // A machine that has no time for its streams has stale views; that is no matter of keys.
                if reason == Reason::Stale {
                    load.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                // A gateway's time never runs late, so it may run early.
                let theirs = guard.gate.verifier().known().now(moment());
                let dies = Time::from(one.dies);
                if reason == Reason::Expired && theirs.is_some_and(|now| dies <= now) {
                    continue;
                }
                load.wrong(format!("{reason:?} at gateway {at} by key {}", kid(&one.token)));
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// I15, I16. `PROTEM_ROTATION_SECS=60` makes it longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_live_token_verifies_at_every_fresh_gateway_while_keys_rotate() {
    let seconds = std::env::var("PROTEM_ROTATION_SECS").map_or(14, |text| text.parse().unwrap());
    let every = Duration::from_secs(2);
    let rotation = Schedule { rotate_every: Some(every), jwks_wait: Duration::ZERO };
    let bundle = Some(short_lived());
    let broker = Arc::new(TestBroker::with(Wish { bundle, rotation, ..Wish::default() }).await);
    let mut gateways = Vec::new();
    for _ in 0..GATEWAYS {
        gateways.push(Guard::of(&broker).await);
    }
    let load = Arc::new(Load::default());
    let spawn = |at: u32| {
        // Spread, so that there is always a token of a moment ago and one that is nearly dead.
        let after = Duration::from_millis(700) * at;
        tokio::spawn(job(Arc::clone(&broker), Arc::clone(&load), after))
    };
    let jobs: Vec<_> = (0..JOBS).map(spawn).collect();
    let checking = Arc::clone(&load);
    let checker = std::thread::spawn(move || {
        check(&gateways, &checking);
        gateways
    });
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let end = Instant::now() + PATIENCE;
    while load.kids.lock().unwrap().len() < usize::try_from(seconds / 4).unwrap() {
        assert!(Instant::now() < end, "too few rotations: {:?}", load.kids.lock().unwrap().keys());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load.over.store(true, Ordering::Relaxed);
    for job in jobs {
        job.await.unwrap();
    }
    let gateways = tokio::task::spawn_blocking(|| checker.join().unwrap()).await.unwrap();
    let signed = load.kids.lock().unwrap().clone();
    let kids = signed.len();
    let (checks, stale) =
        (load.checks.load(Ordering::Relaxed), load.refused.load(Ordering::Relaxed));
    let keys = list(&broker).await;
    println!("{checks} checks, {stale} at stale views, {kids} keys signed, {} known", keys.len());
    assert_eq!(*load.wrong.lock().unwrap(), Vec::<String>::new());
    assert!(checks - stale > 1_000, "{checks} {stale}");
    removed_keys_verify_nothing(&broker, &gateways, &signed).await;
    drop(gateways);
    Arc::into_inner(broker).unwrap().stop().await;
}

/// I15: what was forgotten is gone from the public set, from every gateway and from the folder, and what its private half
/// signs verifies nowhere.
async fn removed_keys_verify_nothing(
    broker: &TestBroker,
    gateways: &[Guard],
    signed: &BTreeMap<String, SigningKey>,
) {
    let live = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    let live = live.credential.unwrap().token;
    for guard in gateways {
        // None of the rotations left one behind.
        tokio::time::timeout(PATIENCE, guard.gate.fresh()).await.expect("a gateway stays stale");
        assert_eq!(guard.reads_orders(&live).await, Ok(()));
    }
    let end = Instant::now() + PATIENCE;
    let gone = loop {
        let known: BTreeSet<String> =
            list(broker).await.into_iter().map(|key| key.key_id).collect();
        let gone: Vec<_> = signed.iter().filter(|(kid, _)| !known.contains(*kid)).collect();
        if !gone.is_empty() {
            break gone;
        }
        assert!(Instant::now() < end, "no key is forgotten: {known:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for (kid, key) in gone {
        assert!(!broker.broker.jwks().contains(kid.as_str()), "{kid} is still published");
        for ending in ["key", "new", "former"] {
            let file = broker.folder.path().join("keys").join(format!("{kid}.{ending}"));
            assert!(!file.exists(), "{} is still there", file.display());
        }
        let forged = signed_anew(&live, key, kid);
        for guard in gateways {
            let end = Instant::now() + PATIENCE;
            // Its feed may be a moment behind the list.
            while guard.gate.verifier().known().keys.ids().any(|id| id.as_str() == kid) {
                assert!(Instant::now() < end, "a gateway still knows {kid}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(guard.reads_orders(&forged).await, Err(Reason::UnknownKey), "{kid}");
        }
    }
}

pub async fn list(broker: &TestBroker) -> Vec<v1::Key> {
    let asked = v1::ListKeysRequest {};
    broker.operator().governance.list_keys(asked).await.unwrap().into_inner().keys
}

pub fn signing(keys: &[v1::Key], purpose: &str) -> v1::Key {
    let mut signs = keys.iter().filter(|key| key.signs && key.purpose == purpose);
    let found = signs.next().unwrap_or_else(|| panic!("nothing signs: {keys:?}")).clone();
    assert_eq!(signs.next(), None);
    found
}

pub fn rotate(purpose: &str, replaces: &str, compromised: bool) -> v1::RotateKeyRequest {
    v1::RotateKeyRequest {
        compromised,
        note: "a drill".into(),
        purpose: purpose.into(),
        replaces: replaces.into(),
    }
}

pub async fn compromised(operator: &mut Clients, purpose: &str, id: &str) -> v1::RotateKeyResponse {
    let asked = rotate(purpose, id, true);
    operator.governance.rotate_key(asked).await.unwrap().into_inner()
}

/// Twice in a row, which must not need a restart: the key that comes after a successor is published at once.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_leaked_key_voids_all_it_signed_and_jobs_go_on() {
    let rotation = Schedule { rotate_every: None, jwks_wait: Duration::from_secs(3_600) };
    let broker = TestBroker::with(Wish { rotation, ..Wish::default() }).await;
    let guard = Guard::of(&broker).await;
    let mut agent = broker.identity("payments/agent");
    let mut request = ask(&fresh_task());
    request.request_id = protem::cli::ask::fresh_key().to_string();
    let granted = agent.access.request_access(request.clone()).await.unwrap().into_inner();
    let grant = granted.grant.unwrap().id;
    let watched = v1::WatchGrantRequest { grant_id: grant.clone() };
    let mut changes = agent.access.watch_grant(watched).await.unwrap().into_inner();
    changes.message().await.unwrap().expect("how it is now");
    let mut token = granted.credential.unwrap().token;
    for round in 0..3 {
        assert_eq!(guard.reads_orders(&token).await, Ok(()), "round {round}");
        let old = signing(&list(&broker).await, "credential").key_id;
        assert_eq!(old, kid(&token));
        let done = compromised(&mut broker.operator(), "credential", &old).await;
        // Who holds it is told at once, long before it would renew.
        let told = tokio::time::timeout(PATIENCE, changes.message()).await;
        assert!(told.expect("it is told").unwrap().is_some());
        refused(&guard, &token).await;
        // The same call again replaces nothing.
        let again = compromised(&mut broker.operator(), "credential", &old).await;
        assert_eq!((again.replaced.as_str(), again.key_id), (old.as_str(), done.key_id));
        // A request that is repeated and a renewal answer a credential of the next key, and the same one.
        let fresh = eventually(async || {
            agent.access.request_access(request.clone()).await.map(tonic::Response::into_inner)
        })
        .await;
        assert_eq!(fresh.grant.unwrap().id, grant);
        let fresh = fresh.credential.expect("a credential").token;
        assert_ne!(kid(&fresh), old, "never signed with again");
        let asked = v1::RenewCredentialRequest { grant_id: grant.clone() };
        let renewed = agent.access.renew_credential(asked).await.unwrap().into_inner();
        assert_eq!(renewed.credential.unwrap().token, fresh);
        while changes.message().await.unwrap().unwrap().credential.is_none() {}
        token = fresh;
        let left = broker.folder.path().join("keys").join(format!("{old}.key"));
        until_gone(&left).await;
    }
    broker.stop().await;
}

/// A cut-off of the key that signs, by `protem revoke`, is the same emergency; so is one of checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_leaked_checkpoint_key_proves_nothing_and_gateways_stay_fresh() {
    let broker = TestBroker::start().await;
    let guard = Guard::of(&broker).await;
    let token = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    let token = token.credential.unwrap().token;
    for by_revoke in [false, true, false] {
        let old = signing(&list(&broker).await, "checkpoint").key_id;
        if by_revoke {
            broker.operator().revoke(By::KeyId(old.clone())).await.unwrap();
        } else {
            let done = compromised(&mut broker.operator(), "checkpoint", &old).await;
            assert!(done.signs && done.key_id != old, "{done:?}");
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let keys = list(&broker).await;
            let new = keys.iter().find(|key| key.signs && key.purpose == "checkpoint");
            if new.is_some_and(|new| new.key_id != old) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_ne!(signing(&list(&broker).await, "checkpoint").key_id, old);
        // It goes on being proven, by the new key: beyond the bound without a proof it would be stale.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let proven = guard.gate.verifier().known().proven.unwrap().seq.0;
        broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
        let end = Instant::now() + PATIENCE;
        while guard.gate.verifier().known().proven.unwrap().seq.0 <= proven {
            assert!(Instant::now() < end, "the gateway is proven nothing any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(guard.reads_orders(&token).await, Ok(()), "its own key is as good as before");
    }
    broker.stop().await;
}

async fn refused(guard: &Guard, token: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        match guard.reads_orders(token).await {
            Ok(()) => assert!(Instant::now() < end, "a void token is let through"),
            // Its holder is told that a renewal helps.
            Err(Reason::KeyCutOff) => return,
            // The set without the key comes just before the cut-off that says why.
            Err(reason) => {
                assert_eq!(reason, Reason::UnknownKey);
                assert!(Instant::now() < end, "nobody says that a renewal helps");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Repeats while no key may sign; then a broker says so and asks to come back.
pub async fn eventually<T>(mut call: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert_eq!(reason(&status), "PT-0127");
                assert!(Instant::now() < end, "{status:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn until_gone(file: &Path) {
    let end = Instant::now() + PATIENCE;
    while file.exists() {
        assert!(Instant::now() < end, "{} stays", file.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
