//! A real gateway in the test's own process: the library's follower and verifier, signed in as `edge`.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use protem_clock::clock::SystemClock;
use protem_gate::connect::TlsFiles;
use protem_gate::follow::moment;
use protem_gate::gate::{Gate, GateConfig};
use protem_gate::login::{CallerToken, Login, LoginFailed};
use protem_verify::known::State;
use protem_verify::verifier::{Call, Reason, Verdict};

use crate::bundle::{GATEWAY, RESOURCE};
use crate::process::{Broker, PATIENCE};

/// A gateway before the orders API.
pub struct Edge {
    gate: Gate,
    _state: tempfile::TempDir,
}

/// Presents what the file holds now: the key of a development broker changes with each start.
struct FromFile(PathBuf);

impl Login for FromFile {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        let read = std::fs::read_to_string(&self.0);
        let token = read.map(CallerToken::new).map_err(|why| LoginFailed(why.to_string()));
        Box::pin(std::future::ready(token))
    }
}

impl Edge {
    /// Starts it, and waits until its view is fresh.
    pub async fn start(broker: &Broker) -> Self {
        Self::with_token(broker, broker.token_file(GATEWAY)).await
    }

    /// The same, signing in with what this file holds at each connect.
    pub async fn with_token(broker: &Broker, token: PathBuf) -> Self {
        let state = tempfile::tempdir().unwrap();
        let gate = Gate::start(GateConfig {
            broker: broker.url(),
            gateway: GATEWAY.try_into().unwrap(),
            issuer: broker.url(),
            resources: Vec::new(),
            state: state.path().to_owned(),
            login: Some(Arc::new(FromFile(token))),
            tls: TlsFiles::default(),
            clock: Arc::new(SystemClock),
        });
        let edge = Self { gate: gate.unwrap(), _state: state };
        tokio::time::timeout(PATIENCE, edge.gate.fresh()).await.expect("the gateway stays blind");
        edge
    }

    /// Waits until its view is fresh and has applied the journal up to `seq`.
    pub async fn reach(&self, seq: u64) {
        let end = Instant::now() + PATIENCE;
        while self.gate.verifier().known().proven.is_none_or(|proven| proven.seq.0 < seq)
            || self.gate.state() != State::Fresh
        {
            let at = self.gate.verifier().known().seq;
            assert!(
                Instant::now() < end,
                "the gateway is at {at} of {seq}, {:?}",
                self.gate.state()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Streams that it opened, and snapshots that it needed.
    pub fn tally(&self) -> (u64, u64) {
        (self.gate.tally().opened(), self.gate.tally().snapshots())
    }

    /// What it says to a call for which a credential with this scope is made.
    pub fn check(&self, token: &str, scope: &str) -> Result<(), Reason> {
        let resource = RESOURCE.try_into().unwrap();
        let (method, path) = match scope {
            "orders:read" => ("GET", "/v1/orders"),
            "orders:write" => ("PUT", "/v1/orders/7"),
            other => panic!("{other}"),
        };
        let call = Call { resource: &resource, method, path };
        match self.gate.verifier().check(token, &call, moment(&**self.gate.clock())) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny(reason) => Err(reason),
        }
    }
}
