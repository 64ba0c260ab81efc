//! A gateway in a process: start it, ask how it stands, put its layer before what it protects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use http::Uri;
use protem_clock::clock::Clock;
use protem_verify::known::State;
use protem_verify::names::{GatewayName, ResourceName};
use protem_verify::verifier::Verifier;
use protem_verify::view::View;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::apply::Follower;
use crate::connect::{BadAddress, Dial, TlsFiles, check};
use crate::decision::{Judge, Ledger};
use crate::follow::{Follow, moment};
use crate::layer::GateLayer;
use crate::login::Login;
use crate::rate::{RATE, Rate};
use crate::report::Reporter;
use crate::secrets::Secrets;
use crate::state::{StateError, Store};
use crate::tally::Tally;
use crate::usage::{Lost, Sums, Uses};

/// What a gateway must be told.
pub struct GateConfig {
    /// The broker, `https://broker.example:7420`; `http` on this machine only.
    pub broker: String,
    /// Its name in the bundle.
    pub gateway: GatewayName,
    /// The issuer whose credentials count; the feed of another one is refused.
    pub issuer: String,
    /// The resources it protects: a part of those that the bundle gives it.
    pub resources: Vec<ResourceName>,
    /// A folder of its own.
    pub state: PathBuf,
    /// How it signs in; `None`: by the certificate of `tls`.
    pub login: Option<Arc<dyn Login>>,
    /// Whom it believes, and the certificate that it shows.
    pub tls: TlsFiles,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
}

/// A running gateway; what follows and reports for it ends with the last clone.
#[derive(Clone)]
pub struct Gate {
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
    uses: Uses,
    /// Where the reporter is asked to tell all at once.
    tell: mpsc::Sender<oneshot::Sender<()>>,
    ledger: Ledger,
    _running: Arc<Running>,
}

/// What follows the feed, and what reports usage.
struct Running([JoinHandle<()>; 2]);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing may be sent to the broker's address.
    #[error(transparent)]
    Broker(#[from] BadAddress),
    /// Neither a token nor a certificate says who it is.
    #[error("nothing says who the gateway is: it has neither a login nor a certificate")]
    Nobody,
    /// No issuer: then any would do.
    #[error("the gateway has no issuer to trust")]
    NoIssuer,
    /// The folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// How long a connect may take; the view does not get younger meanwhile.
pub(crate) const CONNECT: Duration = Duration::from_secs(3);

impl Gate {
    /// Starts to follow the feed; must be called in a tokio runtime. Until the first proof everything is refused. Each
    /// credential may be used as often as [`RATE`] says.
    ///
    /// # Errors
    /// When the settings or the folder cannot be used.
    pub fn start(config: GateConfig) -> Result<Self, StartError> {
        let rate = Some(Arc::new(Rate::new(RATE)));
        Self::start_with(config, Ledger { rate, ..Ledger::default() })
    }

    /// The same, where calls are counted together with others', and limited otherwise.
    ///
    /// # Errors
    /// When the settings or the folder cannot be used.
    pub fn start_with(config: GateConfig, ledger: Ledger) -> Result<Self, StartError> {
        if config.issuer.is_empty() {
            return Err(StartError::NoIssuer);
        }
        if config.login.is_none() && config.tls.identity.is_none() {
            return Err(StartError::Nobody);
        }
        let broker: Result<Uri, _> = config.broker.parse();
        let broker = broker.map_err(|_| BadAddress::NoAddress(config.broker))?;
        check(&broker)?;
        let broker = Dial::new(broker, config.tls, CONNECT)
            .with(|endpoint| endpoint.keep_alive_while_idle(true));
        let (store, newest) = Store::open(&config.state)?;
        let view = View::new(&config.issuer, newest);
        let verifier = Verifier::new(view.reader());
        let tally = Arc::new(Tally::default());
        // A process of its own: its numbers begin at one, and what it did not tell ends with it.
        let process = protem_clock::random::bytes::<16>();
        let instance = format!("{}.{}", store.instance, HEXLOWER.encode(process.split_at(4).0));
        let lost = Lost::new(ledger.meters.dropped_here());
        let (uses, from) = Uses::new(lost.clone());
        // One at a time is enough: whoever comes next asks for more than that.
        let (tell, asked) = mpsc::channel(1);
        let report = Reporter {
            from,
            asked,
            sums: Sums::new(config.gateway.to_string(), instance, lost),
            broker: broker.clone(),
            login: config.login.clone(),
            ledger: ledger.clone(),
        };
        let mut follower = Follower::new(view);
        follower.process = process.into();
        let follow = Follow {
            follower,
            broker,
            gateway: config.gateway.to_string(),
            resources: config.resources,
            login: config.login,
            clock: Arc::clone(&config.clock),
            store,
            keeping: None,
            tally: Arc::clone(&tally),
        };
        let running = Running([tokio::spawn(follow.run()), tokio::spawn(report.run())]);
        let (clock, running) = (config.clock, Arc::new(running));
        Ok(Self { verifier, clock, tally, uses, tell, ledger, _running: running })
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

    /// What decides for every face, by this view alone and without secrets of APIs.
    #[must_use]
    pub fn judge(&self) -> Judge {
        Judge::new(vec![self.verifier.clone()], Arc::clone(&self.clock), Secrets::default())
            .counting(vec![self.uses.clone()], self.ledger.clone())
    }

    /// Where what its view decides is counted.
    #[must_use]
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Tells the broker at once what was counted and not told yet; whether that was done `within` this time. What a process
    /// has not told when it ends is lost: call it last, with [`crate::report::LAST_WITHIN`].
    pub async fn tell_uses(&self, within: Duration) -> bool {
        let told = async {
            let (tell, told) = oneshot::channel();
            self.tell.send(tell).await.is_ok() && told.await.is_ok()
        };
        let told = tokio::time::timeout(within, told).await.unwrap_or(false);
        if !told {
            tracing::warn!(issuer = %self.verifier.known().issuer, "the broker could not be told of the last calls");
        }
        told
    }

    /// What checks credentials.
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
        GateLayer::new(self.judge(), resource)
    }

    /// Waits until its view is fresh.
    pub async fn fresh(&self) {
        while self.state() != State::Fresh {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
