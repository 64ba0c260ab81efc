//! The private listener, for whoever runs the gateway: is it alive, is it ready, what does it do.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use protem_metrics::page::MEDIA_TYPE;
use protem_verify::known::State;
use protem_verify::verifier::Verifier;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::decision::Judge;
use crate::door::ACCEPT_PAUSE;
use crate::follow::moment;
use crate::meters::Exposition;

/// What the private listener tells of.
#[derive(Clone)]
pub struct Probes {
    /// Whose views.
    pub judge: Judge,
    /// Whether the gateway is about to end.
    pub draining: watch::Receiver<bool>,
}

/// Connections at once: one of each prober and scraper.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last, with its one question and answer: as long as probers wait at most. Were connections kept, so
/// many clients that keep theirs would leave no place for the orchestrator's probe.
const WITHIN: Duration = Duration::from_secs(10);

impl Probes {
    /// Serves until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            if open.len() >= CONNECTIONS_MAX {
                open.join_next().await;
            }
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let probes = self.clone();
            open.spawn(async move {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let answer = probes.answer(request.method(), request.uri().path());
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(WITHIN).keep_alive(false);
                let served = builder.serve_connection(TokioIo::new(stream), service);
                // What goes wrong on a connection is its peer's to notice.
                let _ = tokio::time::timeout(WITHIN, served).await;
            });
            while open.try_join_next().is_some() {}
        }
    }

    /// The answer to a path.
    #[must_use]
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let mut kind = "text/plain; charset=utf-8";
        let (status, text) = match (method, path) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => self.ready(),
            (&Method::GET | &Method::HEAD, "/metrics") => {
                kind = MEDIA_TYPE;
                (StatusCode::OK, self.page())
            }
            _ => (StatusCode::NOT_FOUND, "there is nothing here\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    fn page(&self) -> String {
        let now = moment(&**self.judge.clock());
        let known = self.judge.views().iter().map(Verifier::known);
        let views: Vec<_> = known.map(|one| (one.state(now).word(), one.age(now))).collect();
        Exposition::new(self.judge.meters()).text(views.into_iter())
    }

    /// Ready: not about to end, and fresh for one issuer at least. Were all of them needed, one region's outage would take every
    /// gateway of the world out of service, and with them the other regions' access.
    fn ready(&self) -> (StatusCode, String) {
        let now = moment(&**self.judge.clock());
        let mut any = false;
        let mut text = String::new();
        for view in self.judge.views() {
            let known = view.known();
            let state = known.state(now);
            let age = known.age(now);
            any |= state == State::Fresh;
            let age = age.map(|age| format!(", proven {} ms ago", age.as_millis()));
            let (word, age) = (state.word(), age.unwrap_or_default());
            text.push_str(&format!("{word} {} at {}{age}\n", known.issuer, known.seq));
        }
        if *self.draining.borrow() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("draining\n{text}"));
        }
        let status = if any { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protem_clock::clock::SystemClock;
    use protem_verify::view::View;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::secrets::Secrets;

    /// Longer than a silent connection may last.
    const PATIENCE: Duration = Duration::from_secs(40);

    /// Asks, and reads what comes first.
    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
        read.expect("no answer").unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn attack_kept_connections_starve_probes() {
        let view = View::new("https://broker.example", None);
        let views = vec![Verifier::new(view.reader())];
        let judge = Judge::new(views, Arc::new(SystemClock), Secrets::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = watch::channel(false);
        let serving = tokio::spawn(Probes { judge, draining }.serve(listener));
        let mut kept = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(&mut stream).await, "HTTP/1.1 200");
            kept.push(stream);
        }
        let mut prober = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut prober).await, "HTTP/1.1 200");
        // Nor do those that say nothing at all.
        for _ in 0..CONNECTIONS_MAX {
            kept.push(TcpStream::connect(address).await.unwrap());
        }
        let mut prober = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut prober).await, "HTTP/1.1 200");
        serving.abort();
    }
}
