//! The API behind a proxy: it answers everybody, in its own time, and keeps exactly what it was sent.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::proxies::raw::{body, head};

/// An HTTP/1.1 API on a port of its own.
pub struct Upstream {
    address: String,
    seen: Arc<Mutex<Vec<Received>>>,
    over: Arc<AtomicBool>,
}

/// An order that the API cannot give: 503.
pub const DOWN: &str = "/v1/orders/down";
/// One that takes it [`SLOWLY`].
pub const SLOW: &str = "/v1/orders/slow";
/// Much longer than the time limits that a test sets.
const SLOWLY: Duration = Duration::from_millis(500);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// `GET`, say.
    pub method: String,
    /// Path and query, byte for byte.
    pub target: String,
    /// Names as they were spelled, and values; bytes that are no UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// What came after them.
    pub body: Vec<u8>,
}

impl Received {
    /// All values of the headers that some server would read as `name`: `_` and `.` for `-`, any case.
    pub fn like(&self, name: &str) -> Vec<&str> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
        let found = self.headers.iter().filter(|(of, _)| plain(of) == plain(name));
        found.map(|(_, value)| value.as_str()).collect()
    }
}

impl Upstream {
    /// Starts it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, over) = (Arc::<Mutex<Vec<Received>>>::default(), Arc::<AtomicBool>::default());
        let (kept, ends) = (Arc::clone(&seen), Arc::clone(&over));
        std::thread::spawn(move || {
            for line in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(line), kept) = (line, Arc::clone(&kept)) else { continue };
                std::thread::spawn(move || serve(line, &kept));
            }
        });
        Self { address, seen, over }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What arrived since the last call of this.
    pub fn taken(&self) -> Vec<Received> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(&self.address);
    }
}

/// Any error ends the connection: it is the proxy's, and it asks again.
fn serve(line: TcpStream, seen: &Mutex<Vec<Received>>) {
    let mut read = BufReader::new(line.try_clone().unwrap());
    let mut write = line;
    while let Ok(Some(head)) = head(&mut read) {
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let pair = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        let headers: Vec<_> = lines.filter_map(pair).collect();
        let Ok(body) = body(&mut read, &headers) else { return };
        let status = if target == DOWN { "503 Service Unavailable" } else { "200 OK" };
        let slow = target == SLOW;
        seen.lock().unwrap().push(Received { method, target, headers, body });
        if slow {
            std::thread::sleep(SLOWLY);
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\norders"
        );
        if write.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
