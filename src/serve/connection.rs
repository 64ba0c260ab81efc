//! One connection, from its handshake to its end: limits, and the reasons for which the broker lets it go.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use protem_clock::random;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::serve::draining::Draining;
use crate::serve::grounds::{CallerTime, Changes};
use crate::serve::incoming::spread;
use crate::serve::limits::{
    CONNECTION_AGE, GRACE, HEADER_LIST_MAX, HTTP1_BUFFER_MAX, KEEP_ALIVE_EVERY, KEEP_ALIVE_WITHIN,
    LEAVE_AHEAD, LOCAL_RESETS_MAX, PENDING_RESETS_MAX, STRANGER_FOR, STREAMS_MAX,
};
use crate::serve::peers::Peer;
use crate::serve::svid::Presented;
use crate::serve::tls::Tls;
use crate::serve::whole::Whole;

/// What all connections are served with.
#[derive(Clone)]
pub(super) struct Served {
    /// What answers.
    pub(super) router: Router,
    /// TLS; none: plain HTTP.
    pub(super) tls: Option<Arc<Tls>>,
    /// The time that certificates are judged by.
    pub(super) time: CallerTime,
    /// The word that trust may have changed.
    pub(super) changes: Changes,
    /// Whether the broker is about to end.
    pub(super) draining: Draining,
    /// How long what has begun, and then the feed, may take to end.
    pub(super) drain: Duration,
}

impl Served {
    /// Serves one connection until its end.
    pub(super) async fn run(self, stream: TcpStream, peer: Arc<Peer>) {
        // Small answers are not held back for company; a failure here costs only that.
        let _ = stream.set_nodelay(true);
        let Some(tls) = self.tls.clone() else {
            return self.speak(stream, peer, None).await;
        };
        let opened = tokio::select! {
            opened = tls.accept(stream, peer.address.ip()) => opened,
            () = self.draining.begun() => return,
            () = peer.evicted() => return,
        };
        match opened {
            Ok((stream, certificate)) => self.speak(stream, peer, certificate).await,
            // Whoever knocks can cause this: it is for the curious, and what it costs is bounded.
            Err(error) => tracing::debug!(address = %peer.address, %error, "no TLS connection"),
        }
    }

    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Arc<Peer>,
        certificate: Option<Presented>,
    ) {
        let (router, known, shown) = (self.router.clone(), Arc::clone(&peer), certificate.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let flagged = request.version() == http::Version::HTTP_2;
            let mut request = request.map(|body| Body::new(Whole::new(body, flagged)));
            request.extensions_mut().insert(Arc::clone(&known));
            if let Some(certificate) = &shown {
                request.extensions_mut().insert(certificate.clone());
            }
            router.clone().oneshot(request)
        });
        let builder = limited();
        let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let within = tokio::select! {
            _ = served.as_mut() => return,
            within = self.leave(&peer, certificate) => within,
        };
        // No new streams from here on; those that are open have this long.
        served.as_mut().graceful_shutdown();
        tokio::select! {
            _ = tokio::time::timeout(within, served) => {}
            () = peer.evicted() => {}
        }
    }

    /// Done when the connection should end, with how long its streams may take.
    async fn leave(&self, peer: &Peer, certificate: Option<Presented>) -> Duration {
        let age = spread(CONNECTION_AGE, random::bytes());
        let (time, changes) = (self.time.clone(), self.changes.clone());
        let strange = async {
            tokio::time::sleep(STRANGER_FOR).await;
            if peer.is_signed_in() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = strange => GRACE,
            () = tokio::time::sleep(age) => CONNECTION_AGE,
            () = self.draining.begun() => self.drain,
            // Its owner may have a better certificate by now, for the next connection, or closes another one first.
            () = peer.refused() => GRACE,
            () = peer.evicted() => Duration::ZERO,
            () = outlived(certificate, time, changes) => LEAVE_AHEAD.saturating_add(GRACE),
        }
    }
}

/// Done when a certificate that counted counts no more, and a little before its end, so that its owner comes back with the next one before
/// a call is refused. A connection that begins so late stays until the end itself.
async fn outlived(certificate: Option<Presented>, time: CallerTime, changes: Changes) {
    let Some(Ok(certificate)) = certificate else { return std::future::pending().await };
    let mut changes = changes.follow();
    let late = certificate.not_after.since(time.now()) <= LEAVE_AHEAD.saturating_mul(2);
    let ahead = if late { Duration::ZERO } else { LEAVE_AHEAD };
    let end = certificate.not_after.minus(ahead);
    loop {
        changes.mark_unchanged();
        let now = time.now();
        if now >= end || certificate.check(now).is_err() {
            return;
        }
        // This sleep knows nothing of a machine's suspend, so it is a short one.
        let look = end.since(now).min(LOOK_EVERY);
        let _ = tokio::time::timeout(look, changes.changed()).await;
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

/// How often a connection looks at the clock for its certificate's sake.
const LOOK_EVERY: Duration = Duration::from_secs(30);
