//! A client of the feed, written from the contract alone: it follows, resumes by cursor, and notes whatever should not be.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protem::cli::client::Client;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_request::Message as Say;
use protem_proto::wire::v1::subscribe_response::Message as Hear;
use tokio::sync::mpsc;
use tonic::Status;

use crate::process::PATIENCE;

/// Follows until dropped, over as many connections as it takes.
pub struct Follower {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

/// All that was heard.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every item, in order; those of a snapshot first.
    pub items: Vec<v1::Revocation>,
    /// Streams that were opened.
    pub opened: u32,
    /// Snapshots that were sent.
    pub snapshots: u32,
    /// Resets that were sent.
    pub resets: u32,
    /// Farewells that were sent.
    pub farewells: u32,
    /// The head of the newest checkpoint that proved one of our pings.
    pub proven: u64,
    /// What should not be: gaps, repeats, an order that the contract forbids.
    pub wrong: Vec<String>,
    cursor: Option<v1::Cursor>,
    last: u64,
    in_snapshot: bool,
}

/// How often it pings: often enough that a test does not wait for it.
const PING_EVERY: Duration = Duration::from_millis(50);

impl Follower {
    /// As the client's caller, opening with `open` and then with the newest cursor.
    pub fn start(client: Client, open: v1::Open) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(follow(client, open, Arc::clone(&seen)));
        Self { seen, task }
    }

    /// What was heard so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until a checkpoint has proven the head at or above `seq`, sent after this call.
    pub async fn reach(&self, seq: u64) {
        let end = Instant::now() + PATIENCE;
        while self.seen.lock().unwrap().proven < seq {
            let seen = self.seen();
            assert!(Instant::now() < end, "at {} of {seq}, {:?}", seen.proven, seen.wrong);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, open: v1::Open, seen: Arc<Mutex<Seen>>) {
    loop {
        let after = seen.lock().unwrap().cursor.clone().or_else(|| open.after.clone());
        let open = v1::Open { after, version: 1, ..open.clone() };
        // A lost stream is no event: the next one goes on where this one ended.
        let _ = stream(&client, open, &seen).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stream(client: &Client, open: v1::Open, seen: &Mutex<Seen>) -> Result<(), Status> {
    let resumes = open.after.is_some();
    let (say, said) = mpsc::channel(8);
    let gone = |_| Status::unavailable("gone");
    say.send(request(Say::Open(open))).await.map_err(|_| gone(()))?;
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut answers = client.feed().subscribe(said).await?.into_inner();
    let mut every = tokio::time::interval(PING_EVERY);
    let mut nonce = 0_u64;
    loop {
        tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer? else { return Ok(()) };
                let Some(message) = answer.message else { continue };
                let ack = seen.lock().unwrap().hear(message, resumes);
                if let Some(ack) = ack {
                    say.send(request(Say::Ack(v1::Ack { seq: ack }))).await.map_err(|_| gone(()))?;
                }
            }
            _ = every.tick() => {
                nonce += 1;
                let ping = v1::Ping { nonce: nonce.to_be_bytes().into(), ..v1::Ping::default() };
                say.send(request(Say::Ping(ping))).await.map_err(|_| gone(()))?;
            }
        }
    }
}

fn request(message: Say) -> v1::SubscribeRequest {
    v1::SubscribeRequest { message: Some(message) }
}

impl Seen {
    /// Takes one message in, and tells what to acknowledge.
    fn hear(&mut self, message: Hear, resumes: bool) -> Option<u64> {
        match message {
            Hear::Opened(opened) => {
                self.opened += 1;
                self.in_snapshot = false;
                if resumes && opened.last_sent != self.last {
                    let last = self.last;
                    self.wrong.push(format!("resumed after {}, was at {last}", opened.last_sent));
                }
            }
            Hear::SnapshotBegin(_) => {
                self.snapshots += 1;
                self.in_snapshot = true;
                self.items.clear();
            }
            Hear::SnapshotEnd(end) => {
                self.in_snapshot = false;
                self.last = end.last_sent;
                self.cursor = end.cursor;
            }
            Hear::Batch(batch) => {
                batch.items.into_iter().for_each(|item| self.item(item));
                self.cursor = batch.cursor.or(self.cursor.take());
                return (!self.in_snapshot).then_some(self.last);
            }
            Hear::Checkpoint(checkpoint) => {
                if self.in_snapshot {
                    self.wrong.push("a checkpoint inside a snapshot".to_owned());
                }
                if checkpoint.last_sent != self.last {
                    let (said, last) = (checkpoint.last_sent, self.last);
                    self.wrong.push(format!("the checkpoint's last item is {said}, ours {last}"));
                }
                if !checkpoint.nonce.is_empty() {
                    self.proven = self.proven.max(checkpoint.seq);
                }
                self.cursor = checkpoint.cursor.or(self.cursor.take());
            }
            Hear::Reset(_) => self.resets += 1,
            Hear::GoAway(_) => self.farewells += 1,
            Hear::Keys(_) | Hear::Catalog(_) => {}
        }
        None
    }

    fn item(&mut self, item: v1::Revocation) {
        if !self.in_snapshot {
            if item.prev_seq != self.last || item.seq <= self.last {
                let (seq, prev, last) = (item.seq, item.prev_seq, self.last);
                self.wrong.push(format!("item {seq} comes after {prev}, ours is {last}"));
            }
            self.last = item.seq;
        }
        self.items.push(item);
    }
}
