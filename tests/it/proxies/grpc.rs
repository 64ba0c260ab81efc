//! A gRPC API and its caller, down to paths and headers that no stub would send.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::process::PATIENCE;

/// One empty message.
const EMPTY: &[u8] = &[0; 5];

/// A gRPC API on a port of its own that answers every method with an empty message.
pub struct GrpcUpstream {
    address: String,
    seen: Arc<Mutex<Vec<Call>>>,
    _runtime: Runtime,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method's path.
    pub path: String,
    /// `:authority`.
    pub authority: Option<String>,
    /// What came with it.
    pub headers: HeaderMap,
}

impl GrpcUpstream {
    /// Starts it.
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<Call>>>::default();
        let kept = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((line, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path().to_owned();
                    let authority = request.uri().authority().map(ToString::to_string);
                    let headers = request.headers().clone();
                    kept.lock().unwrap().push(Call { path, authority, headers });
                    async move {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        let body = Full::new(Bytes::from_static(EMPTY));
                        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                        let answer = Response::builder().header("content-type", "application/grpc");
                        Ok::<_, Infallible>(answer.body(body).unwrap())
                    }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(line), service));
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What arrived since the last call of this.
    pub fn taken(&self) -> Vec<Call> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// What a gRPC caller is told: the HTTP status, gRPC's own, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// HTTP's.
    pub http: u16,
    /// gRPC's, from the trailers or, in an answer without a body, the headers.
    pub grpc: Option<u16>,
    /// `grpc-message`.
    pub message: String,
    /// `www-authenticate`.
    pub challenge: String,
    /// The body, where it is no gRPC.
    pub body: String,
}

/// Calls a method with an empty message.
pub fn call(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Said, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sent = tokio::time::timeout(PATIENCE, send(address, path, headers)).await;
        sent.map_err(|_| "no answer".to_owned())?.map_err(|why| why.to_string())
    })
}

async fn send(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Said, Box<dyn std::error::Error>> {
    let line = TokioIo::new(TcpStream::connect(address).await?);
    let (mut send, line) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), line).await?;
    tokio::spawn(line);
    let mut request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = send.send_request(request.body(Full::new(Bytes::from_static(EMPTY)))?).await?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let word = |name: &str| {
        let value = trailers.get(name).or_else(|| parts.headers.get(name))?;
        value.to_str().ok().map(str::to_owned)
    };
    Ok(Said {
        http: parts.status.as_u16(),
        grpc: word("grpc-status").and_then(|status| status.parse().ok()),
        message: word("grpc-message").unwrap_or_default(),
        challenge: word("www-authenticate").unwrap_or_default(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}

/// Calls a method by frames of our own, with any path and any words for the host at all; comes back when it was answered, or
/// refused in some way.
pub fn exact(address: &str, path: &str, hosts: &[(&str, &str)], token: &str) {
    let bearer = format!("Bearer {token}");
    let mut block = Vec::new();
    let first = [(":method", "POST"), (":scheme", "http"), (":path", path)];
    let last = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", bearer.as_str()),
    ];
    for (name, value) in first.iter().chain(hosts).chain(&last) {
        // Literal, not indexed, not compressed (RFC 7541 §6.2.2).
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, HEADERS, 0x4, 1, &block);
    frame(&mut bytes, DATA, 0x1, 1, EMPTY);
    let mut line = std::net::TcpStream::connect(address).unwrap();
    line.set_read_timeout(Some(PATIENCE)).unwrap();
    line.write_all(&bytes).unwrap();
    let mut head = [0; 9];
    while line.read_exact(&mut head).is_ok() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut rest = vec![0; length];
        let read = line.read_exact(&mut rest);
        let ends = head[8] == 1 && (head[3] == RST_STREAM || head[4] & 0x1 != 0);
        if read.is_err() || ends || head[3] == GOAWAY {
            return;
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, content: &[u8]) {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    bytes.extend_from_slice(content);
}

/// A string of HPACK: its length in seven bits and more, then itself (RFC 7541 §5.1, §5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend_from_slice(text.as_bytes());
}
