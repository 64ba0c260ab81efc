//! An identity provider's web server, which answers as a test wants: well, badly, slowly or without end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::Issued;
use crate::ports::free_port;

/// What is answered to a path.
#[derive(Clone)]
pub enum Answer {
    /// A document, and what `Cache-Control` says of it.
    Json(String, &'static str),
    /// These bytes, as they are.
    Raw(String),
    /// The head of an answer, and then one byte now and then.
    Drip,
    /// A body that never ends.
    Endless,
    /// Nothing.
    Silent,
    /// A document, once it is said that it may be told.
    Later(watch::Receiver<bool>, String),
}

/// Path and `authorization` of each request.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server on a loopback port of its own.
pub struct Site {
    pub url: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// Path and `authorization` of each request.
    asked: Asked,
    serving: Serving,
}

/// Ends with the site.
struct Serving(JoinHandle<()>);

/// Where an issuer describes itself.
pub const DISCOVERY: &str = "/.well-known/openid-configuration";

impl Site {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
        Self::on(listener)
    }

    pub fn on(listener: TcpListener) -> Self {
        Self::speaking(listener, None)
    }

    /// Behind TLS with this certificate, at `localhost`.
    pub async fn over_tls(own: &Issued) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes());
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let port = listener.local_addr().unwrap().port();
        let site = Self::speaking(listener, Some(TlsAcceptor::from(Arc::new(config.unwrap()))));
        Self { url: format!("https://localhost:{port}"), ..site }
    }

    fn speaking(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address: SocketAddr = listener.local_addr().unwrap();
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let asked: Arc<Mutex<Vec<_>>> = Arc::default();
        let (known, heard) = (Arc::clone(&answers), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (known, heard, tls) = (Arc::clone(&known), Arc::clone(&heard), tls.clone());
                open.spawn(async move {
                    match tls {
                        None => serve(stream, known, heard).await,
                        // Who does not trust the certificate ends the handshake.
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            serve(stream, known, heard).await;
                        }
                    }
                });
            }
        });
        let serving = Serving(serving);
        Self { url: format!("http://{address}"), answers, asked, serving }
    }

    /// A well-behaved issuer with this JWKS.
    pub async fn with_keys(jwks: &str) -> Self {
        let site = Self::start().await;
        site.describe(&site.url, &format!("{}/keys", site.url));
        site.set("/keys", Answer::Json(jwks.to_owned(), ""));
        site
    }

    /// The discovery document.
    pub fn describe(&self, issuer: &str, jwks_uri: &str) {
        let document = json!({"issuer": issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"]});
        self.set(DISCOVERY, Answer::Json(document.to_string(), ""));
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// The tokens that were sent with a path.
    pub fn tokens(&self, path: &str) -> Vec<Option<String>> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == path).map(|(_, token)| token.clone()).collect()
    }

    /// Stops answering: connections are refused from now on.
    pub async fn stop(&mut self) {
        self.serving.0.abort();
        let _ = (&mut self.serving.0).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection, with TLS or without.
trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<L: AsyncRead + AsyncWrite + Send + Unpin> Line for L {}

async fn serve(mut stream: impl Line, answers: Arc<Mutex<HashMap<String, Answer>>>, asked: Asked) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let token = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    asked.lock().unwrap().push((path.clone(), token));
    let answer = answers.lock().unwrap().get(&path).cloned();
    let _ = tell(&mut stream, answer).await;
    let _ = stream.shutdown().await;
}

async fn tell(stream: &mut impl Line, answer: Option<Answer>) -> std::io::Result<()> {
    match answer {
        Some(Answer::Later(mut may, json)) => {
            let _ = may.wait_for(|may| *may).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", json.len());
            stream.write_all(format!("{head}{json}").as_bytes()).await
        }
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await,
        Some(Answer::Raw(raw)) => stream.write_all(raw.as_bytes()).await,
        Some(Answer::Json(json, cache)) => {
            let cache = if cache.is_empty() {
                String::new()
            } else {
                format!("cache-control: {cache}\r\n")
            };
            let length = json.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{cache}content-length: {length}\r\n\r\n"
            );
            stream.write_all(format!("{head}{json}").as_bytes()).await
        }
        Some(Answer::Drip) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{").await?;
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.write_all(b" ").await?;
            }
        }
        Some(Answer::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await?;
            loop {
                stream.write_all(&[b' '; 4_096]).await?;
            }
        }
        Some(Answer::Silent) => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(())
        }
    }
}
