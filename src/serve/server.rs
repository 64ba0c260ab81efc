//! The broker's listeners: gRPC and HTTP on one port, connections under limits, and an end that lets everybody go.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::engine::broker::Broker;
use crate::serve::caller::Door;
use crate::serve::connection::Served;
use crate::serve::draining::End;
use crate::serve::entrance::Entrance;
use crate::serve::grounds::CallerTime;
use crate::serve::incoming::Connections;
use crate::serve::issuers::{Reach, Svids};
use crate::serve::limits::{FAREWELL, GRACE};
use crate::serve::metrics::Calls;
use crate::serve::peers::ConnectionLimits;
use crate::serve::places::CallLimits;
use crate::serve::private;
use crate::serve::reload::Files;
use crate::serve::routes;
use crate::serve::ui::site::{Shared, Site};
use crate::serve::usage;
use crate::serve::watch::Watch;
use crate::serve::webhook::Webhooks;
use crate::serve::webhook_run::{self, Pace};
use crate::serve::work::Work;

/// What the doors need to know beside the broker.
#[derive(Debug, Default)]
pub struct ServeSettings {
    /// The JWKS of the development issuer, in `protem dev` and `demo` only; reflection is open then, and `Host` and
    /// `Origin` are checked.
    pub dev_jwks: Option<String>,
    /// The second listener, with `/livez`, `/readyz` and `/metrics`; none: not served.
    pub private: Option<TcpListener>,
    /// Connections.
    pub connections: ConnectionLimits,
    /// Calls in flight.
    pub calls: CallLimits,
    /// How long a broker that ends waits for what has begun.
    pub drain: Drain,
    /// How issuers' keys are fetched.
    pub reach: Reach,
    /// TLS and trust bundles.
    pub files: Files,
    /// Who is told what happens.
    pub webhooks: Webhooks,
    /// How fast they are.
    pub pace: Pace,
    /// The URL that people open the page at; empty: that of the broker's issuer.
    pub page: String,
}

/// How long a broker that ends waits for calls that have begun, before it cuts their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain(pub Duration);

impl Default for Drain {
    fn default() -> Self {
        Self(GRACE)
    }
}

/// Serves until `shutdown` is done; then tells every stream but the feed's to go, waits for what is in flight, at most `drain`,
/// lets gateways go, and returns. The broker itself is stopped by whoever started it.
///
/// # Errors
/// When the development issuer's JWKS cannot be used, or the system has no threads left.
pub async fn serve(
    broker: Broker,
    settings: ServeSettings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let port = listener.local_addr()?.port();
    let dev = match &settings.dev_jwks {
        None => None,
        Some(jwks) => Some(Door::dev_issuer(jwks, broker.issuer()).map_err(io::Error::other)?),
    };
    let is_dev = dev.is_some();
    let (webhooks, of) = (settings.webhooks.clone(), broker.clone());
    let begun = tokio::task::spawn_blocking(move || webhook_run::begin(&webhooks, &of)).await;
    begun.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let (end, draining) = End::new();
    let clock = Arc::clone(broker.clock());
    let svids = Svids { trust: settings.files.trust.clone(), audience: broker.issuer().into() };
    let door = Arc::new(Door::new(dev, svids, settings.reach, Arc::clone(&clock)));
    let time = CallerTime::start(clock);
    let watch = Watch::start(broker.clone(), Arc::clone(&door), time.clone(), draining.clone());
    let entrance = Arc::new(Entrance::new(
        broker.clone(),
        Arc::clone(&door),
        time.clone(),
        watch.clone(),
        is_dev,
        settings.calls,
    ));
    let shared = Shared {
        broker: broker.clone(),
        entrance: Arc::clone(&entrance),
        door: Arc::clone(&door),
        watch: watch.clone(),
        time: time.clone(),
        webhooks: settings.webhooks.clone(),
    };
    let port = is_dev.then_some(port);
    let site = Site::at(shared, &settings.page, port)?;
    let calls = Calls::new(Arc::clone(broker.clock()));
    let router = routes::all(&site, &settings.webhooks, Work::start()?, calls.clone(), port);
    // Dropped, and so ended, when this returns.
    let mut chores = JoinSet::new();
    if let Some(listener) = settings.private {
        let (draining, files) = (draining.clone(), settings.files.clone());
        let webhooks = settings.webhooks.clone();
        chores.spawn(private::serve(broker.clone(), listener, draining, files, webhooks, calls));
    }
    chores.spawn(webhook_run::run(settings.webhooks, broker.clone(), settings.pace));
    chores.spawn(settings.files.clone().watch(door.changes().clone()));
    chores.spawn(tidy(Arc::clone(&entrance)));
    chores.spawn(usage::forget(broker.clone()));
    let (tls, changes) = (settings.files.tls, door.changes().clone());
    chores.spawn(tend(broker, door));
    let within = settings.drain.0;
    let lasting = within.saturating_add(FAREWELL);
    let served = Served { router, tls, time, changes, draining, drain: lasting };
    let connections = Connections::new(settings.connections);
    let mut open = accept(&served, &connections, &listener, shutdown).await;
    drop(listener);
    end.drain();
    // Gateways are let go last: until the next process answers, nobody proves anything to them.
    if tokio::time::timeout(within, entrance.quiet()).await.is_err() {
        tracing::warn!("calls that did not end in time are cut");
    }
    end.leave();
    let all_gone = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, all_gone).await.is_err() {
        tracing::warn!(left = open.len(), "connections were cut, as they did not end in time");
    }
    open.shutdown().await;
    Ok(())
}

/// Serves who comes until `shutdown` is done; answers the connections that are open then.
async fn accept(
    served: &Served,
    connections: &Connections,
    listener: &TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> JoinSet<()> {
    let mut open = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    // Kept while others end: somebody may wait at the door in it.
    let mut next = std::pin::pin!(connections.next(listener));
    loop {
        tokio::select! {
            () = &mut shutdown => return open,
            (stream, peer) = &mut next => {
                open.spawn(served.clone().run(stream, peer));
                next.set(connections.next(listener));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn tidy(entrance: Arc<Entrance>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        entrance.tidy();
    }
}

async fn tend(broker: Broker, door: Arc<Door>) {
    loop {
        door.tend(&broker.bundle());
        tokio::time::sleep(TEND_EVERY).await;
    }
}

/// How often it is looked which issuers' keys are due.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How often the rate limits forget who has not called for a while.
const TIDY_EVERY: Duration = Duration::from_secs(60);
