//! A gateway in a process: start it, ask how it stands, put its layer before what it protects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_verify::known::State;
use protem_verify::names::{GatewayName, ResourceName};
use protem_verify::verifier::Verifier;
use protem_verify::view::View;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::apply::Follower;
use crate::follow::{Follow, moment};
use crate::layer::GateLayer;
use crate::login::Login;
use crate::state::{StateError, Store};
use crate::tally::Tally;

/// What a gateway must be told.
pub struct GateConfig {
    /// The broker, `http://127.0.0.1:7420`.
    pub broker: String,
    /// Its name in the bundle.
    pub gateway: GatewayName,
    /// The issuer whose credentials count; the feed of another one is refused.
    pub issuer: String,
    /// The resources it protects: a part of those that the bundle gives it.
    pub resources: Vec<ResourceName>,
    /// A folder of its own.
    pub state: PathBuf,
    /// How it signs in.
    pub login: Arc<dyn Login>,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
}

/// A running gateway; its follower ends with the last clone.
#[derive(Clone)]
pub struct Gate {
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
    _follower: Arc<Running>,
}

struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The broker's address is none.
    #[error("`{0}` is not an address of a broker, such as `http://127.0.0.1:7420`")]
    Broker(String),
    /// A caller token would travel in the clear.
    #[error("`{0}` is beyond loopback and has no TLS; a caller token is never sent there")]
    InTheClear(String),
    /// No issuer: then any would do.
    #[error("the gateway has no issuer to trust")]
    NoIssuer,
    /// The folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// How long a connect may take; the view does not get younger meanwhile.
const CONNECT: Duration = Duration::from_secs(3);
/// How often the transport asks a silent peer whether it is there, and how long it waits.
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

impl Gate {
    /// Starts to follow the feed; must be called in a tokio runtime. Until the first proof everything is refused.
    ///
    /// # Errors
    /// When the settings or the folder cannot be used.
    pub fn start(config: GateConfig) -> Result<Self, StartError> {
        if config.issuer.is_empty() {
            return Err(StartError::NoIssuer);
        }
        let broker = Endpoint::from_shared(config.broker.clone());
        let broker = broker.map_err(|_| StartError::Broker(config.broker.clone()))?;
        let https = broker.uri().scheme_str() == Some("https");
        if !https && !broker.uri().host().is_some_and(is_loopback) {
            return Err(StartError::InTheClear(config.broker));
        }
        let (store, newest) = Store::open(&config.state)?;
        let view = View::new(&config.issuer, newest);
        let verifier = Verifier::new(view.reader());
        let tally = Arc::new(Tally::default());
        let follow = Follow {
            follower: Follower::new(view),
            broker: broker
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(ALIVE.0)
                .keep_alive_timeout(ALIVE.1)
                .keep_alive_while_idle(true),
            gateway: config.gateway.to_string(),
            resources: config.resources,
            login: config.login,
            clock: Arc::clone(&config.clock),
            store,
            keeping: None,
            tally: Arc::clone(&tally),
        };
        let follower = Arc::new(Running(tokio::spawn(follow.run())));
        Ok(Self { verifier, clock: config.clock, tally, _follower: follower })
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.verifier.known().state(moment(&*self.clock))
    }

    /// How the feed has gone since the start.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What decides; for adapters other than the layer.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The clocks it decides by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A tower layer that protects `resource`.
    #[must_use]
    pub fn layer(&self, resource: ResourceName) -> GateLayer {
        GateLayer::new(self.verifier.clone(), Arc::clone(&self.clock), resource)
    }

    /// Waits until its view is fresh.
    pub async fn fresh(&self) {
        while self.state() != State::Fresh {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_travels_in_the_clear_on_loopback_only() {
        for near in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"] {
            assert!(is_loopback(near), "{near}");
        }
        for far in ["10.0.0.1", "broker.example", "127.0.0.1.example", "localhost.example", ""] {
            assert!(!is_loopback(far), "{far}");
        }
    }
}
