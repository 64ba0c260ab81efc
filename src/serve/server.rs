//! The broker's listeners: gRPC and HTTP on one port, connections under limits, and an end that lets everybody go.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use protem_clock::random;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::engine::broker::Broker;
use crate::serve::caller::Door;
use crate::serve::entrance::{CallLimits, Entrance};
use crate::serve::grounds::CallerTime;
use crate::serve::incoming::{ConnectionLimits, Connections, Peer, spread};
use crate::serve::issuers::Reach;
use crate::serve::limits::{
    CONNECTION_AGE, GRACE, HEADER_LIST_MAX, HTTP1_BUFFER_MAX, KEEP_ALIVE_EVERY, KEEP_ALIVE_WITHIN,
    LOCAL_RESETS_MAX, PENDING_RESETS_MAX, STRANGER_FOR, STREAMS_MAX,
};
use crate::serve::private;
use crate::serve::routes;
use crate::serve::watch::Watch;
use crate::serve::whole::Whole;

/// What the doors need to know beside the broker.
#[derive(Debug, Default)]
pub struct ServeSettings {
    /// The JWKS of the development issuer, in `protem dev` and `demo` only; reflection is open then, and `Host` and
    /// `Origin` are checked.
    pub dev_jwks: Option<String>,
    /// The second listener, with `/livez` and `/readyz`; none: not served.
    pub private: Option<TcpListener>,
    /// Connections.
    pub connections: ConnectionLimits,
    /// Calls in flight.
    pub calls: CallLimits,
    /// How long a broker that ends waits for what has begun.
    pub drain: Drain,
    /// How issuers' keys are fetched.
    pub reach: Reach,
}

/// How long a broker that ends waits for calls that have begun, before it cuts their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain(pub Duration);

impl Default for Drain {
    fn default() -> Self {
        Self(GRACE)
    }
}

/// Serves until `shutdown` is done; then tells every stream to go, waits for what is in flight, at most `drain`, and
/// returns. The broker itself is stopped by whoever started it.
///
/// # Errors
/// When the development issuer's JWKS cannot be used.
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
    let (drain, draining) = watch::channel(false);
    let clock = Arc::clone(broker.clock());
    let door = Arc::new(Door::new(dev, settings.reach, Arc::clone(&clock)));
    let time = CallerTime::start(clock);
    let watch = Watch::start(broker.clone(), Arc::clone(&door), time.clone(), draining.clone());
    let entrance = Entrance::new(
        broker.clone(),
        Arc::clone(&door),
        time,
        watch.clone(),
        is_dev,
        settings.calls,
    );
    let entrance = Arc::new(entrance);
    let router = routes::all(&broker, &entrance, &watch, is_dev.then_some(port));
    let private = settings
        .private
        .map(|listener| tokio::spawn(private::serve(broker.clone(), listener, draining.clone())));
    let tidying = tokio::spawn(tidy(Arc::clone(&entrance)));
    let tending = tokio::spawn(tend(broker.clone(), door));
    let connections = Connections::new(settings.connections);
    let mut open = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, peer) = connections.next(&listener) => {
                open.spawn(connection(stream, peer, router.clone(), draining.clone(), settings.drain));
            }
            Some(_) = open.join_next() => {}
        }
    }
    drop(listener);
    drain.send_replace(true);
    let all_gone = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(settings.drain.0, all_gone).await.is_err() {
        tracing::warn!(left = open.len(), "connections were cut, as they did not end in time");
    }
    open.shutdown().await;
    tidying.abort();
    tending.abort();
    if let Some(private) = private {
        private.abort();
    }
    Ok(())
}

/// One connection: HTTP/1.1 or HTTP/2 without TLS, under limits that neither tonic nor hyper sets by themselves.
async fn connection(
    stream: TcpStream,
    peer: Arc<Peer>,
    router: Router,
    mut draining: watch::Receiver<bool>,
    drain: Drain,
) {
    // Small answers are not held back for company; a failure here costs only that.
    let _ = stream.set_nodelay(true);
    let known = Arc::clone(&peer);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let flagged = request.version() == http::Version::HTTP_2;
        let mut request = request.map(|body| Body::new(Whole::new(body, flagged)));
        request.extensions_mut().insert(Arc::clone(&known));
        router.clone().oneshot(request)
    });
    let builder = limited();
    let served = builder.serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let age = spread(CONNECTION_AGE, random::bytes());
    let mut aged = std::pin::pin!(tokio::time::sleep(age));
    let mut strange = std::pin::pin!(tokio::time::sleep(STRANGER_FOR));
    let mut left = false;
    let mut cut = std::pin::pin!(tokio::time::sleep(Duration::MAX.min(FAR)));
    loop {
        tokio::select! {
            _ = served.as_mut() => return,
            () = cut.as_mut(), if left => return,
            () = strange.as_mut(), if !left && !peer.is_signed_in() => {
                left = true;
                served.as_mut().graceful_shutdown();
                cut.as_mut().reset(tokio::time::Instant::now() + GRACE);
            }
            () = aged.as_mut(), if !left => {
                left = true;
                served.as_mut().graceful_shutdown();
                cut.as_mut().reset(tokio::time::Instant::now() + CONNECTION_AGE);
            }
            _ = draining.wait_for(|draining| *draining), if !left => {
                left = true;
                served.as_mut().graceful_shutdown();
                cut.as_mut().reset(tokio::time::Instant::now() + drain.0);
            }
        }
    }
}

/// hyper with every limit said aloud: tonic's own server would undo some of them.
fn limited() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE_EVERY)
        .max_buf_size(HTTP1_BUFFER_MAX);
    builder
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
/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);
