//! A real gateway counts what it decides and tells its broker; a credential that is used too often is slowed, and no other.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protem_clock::clock::SystemClock;
use protem_gate::connect::TlsFiles;
use protem_gate::decision::{Asked, Decision, Judge, Ledger, Strips};
use protem_gate::gate::{Gate, GateConfig};
use protem_gate::login::{CallerToken, Login, LoginFailed};
use protem_gate::meters::{Exposition, Meters};
use protem_gate::rate::Rate;
use protem_gate::refusal;
use protem_proto::wire::v1;

use crate::broker::{TestBroker, fresh_task};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs in unless it is told not to.
struct Switch {
    token: String,
    off: Arc<AtomicBool>,
}

impl Login for Switch {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        let found = match self.off.load(Ordering::SeqCst) {
            true => Err(LoginFailed("switched off".into())),
            false => Ok(CallerToken::new(self.token.clone())),
        };
        Box::pin(std::future::ready(found))
    }
}

struct Stage {
    broker: TestBroker,
    gate: Gate,
    off: Arc<AtomicBool>,
    ledger: Ledger,
    _state: tempfile::TempDir,
}

impl Stage {
    async fn new(rate: Option<u32>) -> Self {
        let broker = TestBroker::start().await;
        let state = tempfile::tempdir().unwrap();
        let off = Arc::new(AtomicBool::new(false));
        let token = broker.sign(&broker.claims("edge-eu-1", "gateway", &[]));
        let config = GateConfig {
            broker: broker.url.clone(),
            gateway: "edge-eu-1".try_into().unwrap(),
            issuer: broker.url.clone(),
            resources: Vec::new(),
            state: state.path().to_owned(),
            login: Some(Arc::new(Switch { token, off: Arc::clone(&off) })),
            tls: TlsFiles::default(),
            clock: Arc::new(SystemClock),
        };
        let rate = rate.and_then(NonZeroU32::new).map(|rate| Arc::new(Rate::new(rate)));
        let ledger = Ledger { rate, meters: Meters::default() };
        let gate = Gate::start_with(config, ledger.clone()).unwrap();
        tokio::time::timeout(PATIENCE, gate.fresh()).await.unwrap();
        Self { broker, gate, off, ledger, _state: state }
    }

    async fn granted(&self) -> (String, String) {
        let answer = self.broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
        (answer.grant.unwrap().id, answer.credential.unwrap().token)
    }

    async fn usage(&self, grant_id: &str) -> v1::GrantUsage {
        let get = v1::GetGrantRequest { grant_id: grant_id.to_owned() };
        let answer = self.broker.operator().governance.get_grant(get).await.unwrap();
        answer.into_inner().usage.unwrap()
    }

    async fn wait_for(&self, grant: &str, enough: impl Fn(&v1::GrantUsage) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let usage = self.usage(grant).await;
            if enough(&usage) {
                return;
            }
            assert!(Instant::now() < end, "{usage:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn page(&self) -> String {
        Exposition::new(&self.ledger.meters).text([("FRESH", None)].into_iter())
    }
}

/// The code that a call is refused with; nothing: it passes.
fn call(judge: &Judge, token: &str, method: &str, path: &str) -> Option<(&'static str, u16)> {
    let resource = "orders-api".try_into().unwrap();
    let bearer = format!("Bearer {token}");
    let asked = Asked {
        resource: &resource,
        method: method.as_bytes(),
        target: path.as_bytes(),
        headers: &[("authorization", bearer.as_bytes())],
        strips: Strips::Any,
    };
    match judge.decide(&asked) {
        Decision::Pass(_) => None,
        Decision::Refuse(refused) => {
            let answer = refusal::answer(&refused, Some(&resource));
            assert_eq!(answer.status() == 429, refused.code().id == "PT-0427");
            let waits = answer.headers().get("retry-after").is_some();
            assert_eq!(waits, [429, 503].contains(&answer.status().as_u16()));
            Some((refused.code().id, answer.status().as_u16()))
        }
    }
}

fn counts(all: &[v1::OperationUse]) -> Vec<(&str, &str, u64)> {
    let mut all: Vec<_> =
        all.iter().map(|one| (&*one.operation, &*one.refusal, one.count)).collect();
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_tells_what_was_done_with_a_grant_and_goes_on_after_an_outage() {
    let stage = Stage::new(None).await;
    let judge = stage.gate.judge();
    let (grant, token) = stage.granted().await;
    for at in 0..5 {
        assert_eq!(call(&judge, &token, "GET", &format!("/v1/orders/{at}")), None);
    }
    assert_eq!(call(&judge, &token, "POST", "/v1/orders"), Some(("PT-0413", 403)));
    assert_eq!(call(&judge, &token, "GET", "/v1/secret/canary"), Some(("PT-0414", 403)));
    assert_eq!(call(&judge, "x.y.z", "GET", "/v1/orders"), Some(("PT-0402", 401)));
    stage.wait_for(&grant, |usage| usage.used.iter().any(|one| one.count == 5)).await;
    let usage = stage.usage(&grant).await;
    assert_eq!(counts(&usage.used), [("GET /v1/orders/{id}", "", 5)]);
    // A path that the catalog does not have is never told.
    assert_eq!(counts(&usage.refused), [("", "PT-0414", 1), ("POST /v1/orders", "PT-0413", 1)]);
    assert_eq!(usage.never_used, ["orders:read GET /v1/orders"]);
    // Nobody can be told for a while: calls are decided as before, and told of later, once.
    stage.off.store(true, Ordering::SeqCst);
    (0..7).for_each(|_| assert_eq!(call(&judge, &token, "GET", "/v1/orders"), None));
    tokio::time::sleep(protem_gate::report::EVERY).await;
    assert_eq!(counts(&stage.usage(&grant).await.used).len(), 1);
    (0..2).for_each(|_| assert_eq!(call(&judge, &token, "GET", "/v1/orders"), None));
    stage.off.store(false, Ordering::SeqCst);
    stage.wait_for(&grant, |usage| usage.used.iter().any(|one| one.count == 9)).await;
    let usage = stage.usage(&grant).await;
    let expect = [("GET /v1/orders", "", 9), ("GET /v1/orders/{id}", "", 5)];
    assert_eq!(counts(&usage.used), expect);
    assert!(usage.never_used.is_empty());
    let page = stage.page();
    for line in [
        "protem_gate_checks_total{verdict=\"allowed\"} 14",
        "protem_gate_checks_total{verdict=\"refused\"} 3",
        "protem_gate_refusals_total{code=\"PT-0413\"} 1",
        "protem_gate_credential_age_seconds_count 14",
        "protem_gate_usage_dropped_total 0",
        "protem_gate_views{state=\"fresh\"} 1.0",
    ] {
        assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
    }
    assert!(!page.contains("canary") && !page.contains("payments") && !page.contains("orders"));
    stage.broker.stop().await;
}

/// Attack test: a credential in a loop without pauses takes its own rate, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_a_credential_in_a_loop() {
    let stage = Stage::new(Some(20)).await;
    let judge = stage.gate.judge();
    let (_, wild) = stage.granted().await;
    let (_, other) = stage.granted().await;
    let answers: Vec<_> = (0..500).map(|_| call(&judge, &wild, "GET", "/v1/orders")).collect();
    let passed = answers.iter().filter(|answer| answer.is_none()).count();
    assert!(passed >= 20, "{passed}");
    assert!(answers.contains(&Some(("PT-0427", 429))), "nothing was slowed");
    assert_eq!(call(&judge, &other, "GET", "/v1/orders"), None);
    // Another judge of the same gateway, such as that of its layer, has no second rate for it.
    let again: Vec<_> =
        (0..500).map(|_| call(&stage.gate.judge(), &wild, "GET", "/v1/orders")).collect();
    assert!(again.contains(&Some(("PT-0427", 429))));
    // What is refused anyhow counts as well: refusals are no cheaper.
    let (_, lost) = stage.granted().await;
    let refused: Vec<_> = (0..500).map(|_| call(&judge, &lost, "GET", "/v1/nowhere")).collect();
    assert_eq!(refused[0], Some(("PT-0414", 403)));
    assert!(refused.contains(&Some(("PT-0427", 429))), "refusals were not slowed");
    stage.broker.stop().await;
}
