//! A gateway's listener for its proxy: forward-auth and ext_authz on one port or socket, within limits.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::decision::Judge;
use crate::ext_authz::{self, METHOD};
use crate::forward::{PATH, Proxy, forward_auth};
use crate::listener::Listener;

/// Who decides, and which proxy asks.
#[derive(Clone)]
pub struct Door {
    /// Who decides.
    pub judge: Judge,
    /// The proxy that asks by forward-auth; none: only Envoy asks.
    pub proxy: Option<Proxy>,
}

/// Connections at once. A proxy keeps a few for each of its workers; what comes beyond waits in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Questions at once on one connection: Envoy asks all of a worker's on one.
pub const STREAMS_MAX: u32 = 1_024;
/// A question's headers, all together: what nginx and Envoy take of a caller at most, and what they add.
pub const HEADERS_MAX: u32 = 128 * 1024;
/// The same of HTTP/1.
pub const HTTP1_BUFFER_MAX: usize = 128 * 1024;
/// Header lines of one question: more than any proxy lets through.
pub const HEADER_LINES_MAX: usize = 256;
/// How long a connection may take to send a question's head, or stay without one: longer than the minute for which proxies keep
/// a connection that nobody uses, so that it is they who close it.
pub const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// How long what has begun may take when the gateway ends.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// The pause when no connection can be accepted: the process has no descriptors left, and time is what helps.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Door {
    /// Answers until `shutdown` is done; then lets what has begun end.
    pub async fn serve(self, listener: Listener, shutdown: impl Future<Output = ()> + Send) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (drain, draining) = watch::channel(false);
        let mut open = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
                accepted = accept(&listener, &room) => accepted,
            };
            let (stream, place) = accepted;
            let (door, draining) = (self.clone(), draining.clone());
            open.spawn(async move {
                door.speak(stream, draining, HEAD_WITHIN).await;
                drop(place);
            });
        }
        // The socket's file goes first: nobody new comes to somebody who leaves.
        drop(listener);
        drain.send_replace(true);
        let all_gone = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all_gone).await.is_err() {
            tracing::warn!(left = open.len(), "connections were cut, as they did not end in time");
        }
        open.shutdown().await;
    }

    /// Answers on a connection until it ends, all is to end, or for `within` nobody asked anything: whoever connects and says
    /// nothing would otherwise hold a place for ever, as nothing times a connection whose version is not known yet.
    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        mut draining: watch::Receiver<bool>,
        within: Duration,
    ) {
        let (ask, mut asked) = watch::channel(());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            ask.send_replace(());
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        });
        let builder = limited();
        let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        loop {
            tokio::select! {
                _ = served.as_mut() => return,
                _ = draining.wait_for(|draining| *draining) => break,
                heard = tokio::time::timeout(within, asked.changed()) => match heard {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => break,
                }
            }
        }
        served.as_mut().graceful_shutdown();
        // What goes wrong on a connection is its peer's to notice.
        let _ = tokio::time::timeout(DRAIN, served).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path == METHOD {
            return ext_authz::check(&self.judge, body).await;
        }
        match self.proxy {
            Some(proxy) if path.starts_with(PATH) => {
                forward_auth(&self.judge, proxy, &parts).map(|body| Full::new(body).boxed_unsync())
            }
            Some(_) | None => nothing_here(),
        }
    }
}

async fn accept(
    listener: &Listener,
    room: &Arc<Semaphore>,
) -> (Box<dyn crate::listener::Stream>, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let place = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok(stream) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; trying again soon");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Not found: every proxy takes that for a refusal.
fn nothing_here() -> Answer {
    let body = "there is nothing here; docs/gates.md says where a proxy asks\n";
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed_unsync());
    *response.status_mut() = StatusCode::NOT_FOUND;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn limited() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .keep_alive_interval(ALIVE.0)
        .keep_alive_timeout(ALIVE.1);
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_headers(HEADER_LINES_MAX)
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HTTP1_BUFFER_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use protem_clock::clock::SystemClock;
    use protem_verify::verifier::Verifier;
    use protem_verify::view::View;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::secrets::Secrets;

    /// Longer than a slow machine needs, and shorter than anything else that would end a connection.
    const PATIENCE: Duration = Duration::from_secs(15);

    fn door() -> Door {
        let view = View::new("https://broker.example", None);
        let views = vec![Verifier::new(view.reader())];
        let judge = Judge::new(views, Arc::new(SystemClock), Secrets::default());
        Door { judge, proxy: Some(Proxy::Nginx) }
    }

    #[tokio::test]
    async fn attack_silent_connections_hold_their_places() {
        for begun in [
            &b""[..],
            b"P",
            b"PRI * HTTP/2.0\r\n",
            b"GET /authz/orders-api HTTP/1.1\r\nhost: x\r\n",
            // A whole beginning of HTTP/2, with its settings.
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            // One question, and silence.
            b"GET /authz/orders-api HTTP/1.1\r\nhost: x\r\n\r\n",
        ] {
            let (mut caller, stream) = tokio::io::duplex(64 * 1024);
            caller.write_all(begun).await.unwrap();
            let (_drain, draining) = watch::channel(false);
            let served = door().speak(stream, draining, Duration::from_millis(50));
            let ended = tokio::time::timeout(PATIENCE, served).await;
            assert!(ended.is_ok(), "{:?} holds its place", String::from_utf8_lossy(begun));
        }
    }
}
