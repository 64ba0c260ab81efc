//! A webhook's receiver: a real HTTP server on loopback that takes messages well, badly, slowly or not at all, and remembers them.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ports::free_port;

/// What a message meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is taken.
    Take,
    /// This status.
    Status(u16),
    /// A redirect to there.
    Redirect(String),
    /// No answer, while the connection stays open.
    Hang,
    /// An answer's head, a byte now and then, without end.
    Drip,
    /// It is taken, in an answer whose body never ends.
    Huge,
    /// It is read, and the connection closed.
    Cut,
}

/// One try of a message.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Whether it was acknowledged.
    pub taken: bool,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn id(&self) -> String {
        self.headers["webhook-id"].clone()
    }

    /// Whether one of its signatures is that of a secret, by an HMAC (RFC 2104) of our own.
    pub fn signed_by(&self, secret: &str) -> bool {
        let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let mut content =
            format!("{}.{}.", self.id(), self.headers["webhook-timestamp"]).into_bytes();
        content.extend_from_slice(&self.body);
        let expect = format!("v1,{}", BASE64.encode(&hmac(&key, &content)));
        self.headers["webhook-signature"].split(' ').any(|one| one == expect)
    }
}

fn hmac(key: &[u8], content: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(content).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[derive(Default)]
struct Shared {
    /// For the next messages, one each; then everything is taken.
    manners: Mutex<VecDeque<Manner>>,
    always: Mutex<Option<Manner>>,
    /// What holds both texts of one of these is answered 500, whatever else is.
    refused: Mutex<Vec<(String, String)>>,
    received: Mutex<Vec<Received>>,
    stop: AtomicBool,
}

/// A running receiver.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start() -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let mut receiver = Self { port, shared: Arc::default(), serving: None };
        receiver.serve(listener);
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook/s3cret-path", self.port)
    }

    /// Stops listening: connections are refused.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
        self.shared.stop.store(false, Ordering::SeqCst);
    }

    /// Listens again, where it did before.
    pub fn restart(&mut self) {
        self.stop();
        self.serve(TcpListener::bind(("127.0.0.1", self.port)).unwrap());
    }

    fn serve(&mut self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&self.shared);
        self.serving = Some(std::thread::spawn(move || {
            while !shared.stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        std::thread::spawn(move || answer(stream, &shared));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }));
    }

    /// How the next messages are met, one by one; those after them are taken.
    pub fn next(&self, manners: &[Manner]) {
        self.shared.manners.lock().unwrap().extend(manners.iter().cloned());
    }

    /// How every message is met from now on; none: it is taken.
    pub fn always(&self, manner: Option<Manner>) {
        *self.shared.always.lock().unwrap() = manner;
    }

    /// From now on, what holds both texts of one of these is answered 500.
    pub fn refuse(&self, pairs: &[(&str, &str)]) {
        let pairs = pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned()));
        *self.shared.refused.lock().unwrap() = pairs.collect();
    }

    /// Every try so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// What was acknowledged, in order.
    pub fn taken(&self) -> Vec<Received> {
        self.received().into_iter().filter(|one| one.taken).collect()
    }

    /// Waits until so many were acknowledged.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Received> {
        crate::process::until("the messages arrive", || self.taken().len() >= count);
        self.taken()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let Some((headers, body)) = read(&mut stream) else { return };
    let always = shared.always.lock().unwrap().clone();
    let manner = always.or_else(|| shared.manners.lock().unwrap().pop_front());
    let text = String::from_utf8_lossy(&body);
    let holds = |(one, other): &(String, String)| text.contains(one) && text.contains(other);
    let refused = shared.refused.lock().unwrap().iter().any(holds);
    let manner = if refused { Some(Manner::Status(500)) } else { manner };
    let manner = manner.unwrap_or(Manner::Take);
    let taken = matches!(manner, Manner::Take | Manner::Huge | Manner::Status(200..=299));
    shared.received.lock().unwrap().push(Received { headers, body, taken });
    let gone = |_| ();
    let status =
        |line: &str, more: &str| format!("HTTP/1.1 {line}\r\n{more}content-length: 0\r\n\r\n");
    match manner {
        Manner::Take => stream.write_all(status("200 OK", "").as_bytes()).unwrap_or_else(gone),
        Manner::Status(code) => {
            stream.write_all(status(&format!("{code} No"), "").as_bytes()).unwrap_or_else(gone);
        }
        Manner::Redirect(to) => {
            let head = status("301 Moved", &format!("location: {to}\r\n"));
            stream.write_all(head.as_bytes()).unwrap_or_else(gone);
        }
        Manner::Hang => std::thread::sleep(Duration::from_secs(3)),
        Manner::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat_n(&b'a', 40)) {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Manner::Huge => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunk = format!("1000\r\n{}\r\n", "a".repeat(4_096));
            for _ in 0..10_000 {
                if stream.write_all(chunk.as_bytes()).is_err() {
                    return;
                }
            }
        }
        Manner::Cut => {}
    }
}

fn read(stream: &mut TcpStream) -> Option<(HashMap<String, String>, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0_u8];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("POST /hook/s3cret-path HTTP/1.1\r\n"), "{head}");
    let pairs = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: HashMap<String, String> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let mut body = vec![0; headers.get("content-length")?.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((headers, body))
}
