//! A gateway as a process of its own beside a proxy: settings become followers, one judge and two listeners.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use protem_clock::clock::{Clock, SystemClock};
use protem_private::memory::keep_to_itself;
use protem_verify::merkle::leaf;
use protem_verify::names::ResourceName;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connect::{Dial, TlsFiles};
use crate::decision::{Judge, Ledger};
use crate::door::Door;
use crate::gate::{CONNECT, Gate, GateConfig, StartError};
use crate::listener::{Listener, Place};
use crate::login::{Login, LoginFailed, TokenFile};
use crate::probes::Probes;
use crate::rate::Rate;
use crate::report::LAST_WITHIN;
use crate::secrets::{LOOK_EVERY, Secrets};
use crate::settings::{BrokerSettings, Settings};

/// A sidecar whose listeners are open and whose followers follow; it answers as soon as it is served.
pub struct Sidecar {
    gates: Vec<Gate>,
    door: Door,
    listener: Listener,
    private: Option<TcpListener>,
    secrets: Secrets,
}

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// A broker's part.
    #[error("broker `{issuer}`: {source}")]
    Broker {
        /// Which.
        issuer: String,
        /// Why.
        source: StartError,
    },
    /// A place to listen at.
    #[error("cannot listen on {place}: {source}")]
    Listen {
        /// Where.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// The memory of its process.
    #[error("the process cannot be kept from dumping its memory: {0}")]
    Memory(io::Error),
}

impl Sidecar {
    /// Keeps the process's memory to itself, opens the listeners and begins to follow. `login` says who the gateway is where the settings do not.
    ///
    /// # Errors
    /// When a place is taken, or a folder or an address cannot be used.
    pub async fn start(
        settings: Settings,
        login: Option<Arc<dyn Login>>,
    ) -> Result<Self, CannotStart> {
        // Before anything reads a key, a token or a secret.
        keep_to_itself().map_err(CannotStart::Memory)?;
        let listener = Listener::bind(&settings.listen, settings.socket_mode).await;
        let listener = listener
            .map_err(|source| CannotStart::Listen { place: settings.listen.clone(), source })?;
        let private = match settings.metrics {
            None => None,
            Some(at) => Some(
                TcpListener::bind(at)
                    .await
                    .map_err(|source| CannotStart::Listen { place: Place::Address(at), source })?,
            ),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let rate = settings.rate.map(|rate| Arc::new(Rate::new(rate)));
        let ledger = Ledger { rate, ..Ledger::default() };
        let mut gates = Vec::new();
        for broker in &settings.brokers {
            let config = config(&settings, broker, login.clone(), Arc::clone(&clock));
            let gate = Gate::start_with(config, ledger.clone())
                .map_err(|source| CannotStart::Broker { issuer: broker.issuer.clone(), source })?;
            gates.push(gate);
        }
        let secrets = Secrets::new(settings.secrets);
        let views = gates.iter().map(|gate| gate.verifier().clone()).collect();
        let uses = gates.iter().map(|gate| gate.uses().clone()).collect();
        let opened = settings.brokers.into_iter().map(|broker| broker.resources).collect();
        let judge = Judge::new(views, clock, secrets.clone()).opening(opened);
        let judge = judge.counting(uses, ledger);
        let door = Door { judge, proxy: settings.proxy };
        Ok(Self { gates, door, listener, private, secrets })
    }

    /// Where it listens for its proxy.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.listener.place()
    }

    /// Where its private listener is.
    #[must_use]
    pub fn private(&self) -> Option<SocketAddr> {
        self.private.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Its followers, one for each broker.
    #[must_use]
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// Answers until `shutdown` is done, and then what has begun; tells its brokers of the last calls.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let (drain, draining) = watch::channel(false);
        // Dropped, and so ended, when this returns.
        let mut chores = JoinSet::new();
        if let Some(listener) = self.private {
            let probes = Probes { judge: self.door.judge.clone(), draining };
            chores.spawn(probes.serve(listener));
        }
        chores.spawn(tell_of_absent(self.door.judge.clone(), self.secrets.clone()));
        chores.spawn(self.secrets.watch());
        let ending = async move {
            shutdown.await;
            drain.send_replace(true);
        };
        self.door.serve(self.listener, ending).await;
        let mut last = JoinSet::new();
        for gate in self.gates {
            last.spawn(async move { gate.tell_uses(LAST_WITHIN).await });
        }
        while last.join_next().await.is_some() {}
    }
}

/// Tells the log of each secret that a catalog wants added and this gateway was never told of: calls that need it are refused.
async fn tell_of_absent(judge: Judge, secrets: Secrets) {
    let mut told: BTreeSet<(ResourceName, Arc<str>)> = BTreeSet::new();
    loop {
        let mut absent = BTreeSet::new();
        for view in judge.views() {
            let known = view.known();
            let all = known.catalog.injects().filter(|(_, inject)| !secrets.names(&inject.secret));
            absent.extend(all.map(|(name, inject)| (name.clone(), Arc::clone(&inject.secret))));
        }
        for (resource, secret) in absent.difference(&told) {
            tracing::error!(
                %resource, %secret,
                "the catalog wants a secret added, and `gate.toml` has no `[secret.{secret}]`; calls are refused (PT-0424)"
            );
        }
        told = absent;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn config(
    settings: &Settings,
    broker: &BrokerSettings,
    login: Option<Arc<dyn Login>>,
    clock: Arc<dyn Clock>,
) -> GateConfig {
    let from_file = broker.token_file.clone();
    let login: Option<Arc<dyn Login>> = match from_file {
        Some(file) => Some(Arc::new(TokenFile(file))),
        None => login,
    };
    GateConfig {
        broker: broker.url.clone(),
        gateway: settings.name.clone(),
        issuer: broker.issuer.clone(),
        resources: broker.resources.clone().unwrap_or_else(|| settings.resources.clone()),
        // Each broker's own, so that one more of them forgets nothing of the others.
        state: settings.state.join(folder(&broker.issuer)),
        login,
        tls: broker.tls.clone(),
        clock,
    }
}

/// A folder's name for an issuer: a part of its hash, as an issuer has slashes.
fn folder(issuer: &str) -> String {
    let hash = leaf(issuer.as_bytes()).to_string();
    hash.chars().take(16).collect()
}

/// What cannot be used of what the settings name: certificates, keys, tokens, secrets. A sidecar starts without them and
/// refuses what needs them, as they may be on their way; `--check-config` tells them before.
#[must_use]
pub fn missing(settings: &Settings) -> Vec<String> {
    let mut missing = Vec::new();
    for broker in &settings.brokers {
        if let Some(file) = &broker.token_file
            && let Err(LoginFailed(why)) = TokenFile(file.clone()).read()
        {
            missing.push(why);
        }
        let TlsFiles { ca, identity } = &broker.tls;
        if (ca.is_some() || identity.is_some())
            && let Ok(uri) = broker.url.parse()
            && let Err(why) = Dial::new(uri, broker.tls.clone(), CONNECT).usable()
        {
            missing.push(why.to_string());
        }
    }
    let secrets = Secrets::new(settings.secrets.clone());
    for (name, file) in &settings.secrets {
        if let Some(why) = secrets.trouble(name) {
            missing.push(format!("secret `{name}`, `{}`: {why}", file.display()));
        }
    }
    missing
}
