//! Signing off the sequencer's thread: what waits is signed in parallel and checked as a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use protem_core::event::CredentialIssued;
use tokio::sync::oneshot;

use crate::engine::keys::KeyRing;
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::mint::{self, Token, Unchecked, Unminted};

/// Credentials signed and checked together by one thread: beyond this a batch saves little and its first waits.
const BATCH_MAX: usize = 64;
/// Fewer than this are not shared out among threads: their check as one batch saves more than a second thread brings.
const SHARED_MIN: usize = 32;

/// Takes a token when it is signed and checked, on the thread that signed it: short work only.
pub type Take = Box<dyn FnOnce(Result<Token, Stop>) + Send>;

/// Signs what is on record. Each of its threads takes a share of what waits.
pub struct Minting {
    queue: Mutex<Queue>,
    wake: Condvar,
    keys: Arc<KeyRing>,
    issuer: Arc<str>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Order>,
    closed: bool,
}

struct Order {
    issued: Committed<CredentialIssued>,
    take: Take,
}

impl Minting {
    /// Signs with the keys of `keys` in the name of `issuer`.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>, issuer: Arc<str>) -> Self {
        Self { queue: Mutex::default(), wake: Condvar::new(), keys, issuer }
    }

    /// The token of a committed credential: the same record gives the same token.
    ///
    /// # Errors
    /// When the key on record is not here, or the token fails its own check.
    pub async fn token(&self, issued: Committed<CredentialIssued>) -> Result<Token, Stop> {
        let (reply, token) = oneshot::channel();
        self.order(issued, Box::new(move |token| drop(reply.send(token))));
        token.await.unwrap_or(Err(Stop::Faulted(Fault::Stopping)))
    }

    /// The same without waiting: `take` is called once.
    pub fn order(&self, issued: Committed<CredentialIssued>, take: Take) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if !queue.closed {
                queue.waiting.push_back(Order { issued, take });
                drop(queue);
                self.wake.notify_one();
                return;
            }
        }
        take(Err(Fault::Stopping.into()));
    }

    /// Signs until [`Self::close`]; run it on as many threads as there are cores to sign on.
    pub fn run(&self) {
        while let Some(orders) = self.next() {
            let mut signed: Vec<Unchecked> = Vec::with_capacity(orders.len());
            let mut takers = Vec::with_capacity(orders.len());
            for order in orders {
                match self.sign(&order.issued) {
                    Ok(one) => {
                        signed.push(one);
                        takers.push(order.take);
                    }
                    Err(stop) => (order.take)(Err(stop)),
                }
            }
            for (take, token) in takers.into_iter().zip(mint::check(signed)) {
                // A caller that left asks again under its key and gets the same token.
                take(token.map_err(|why| unminted(&why)));
            }
        }
    }

    /// Signs what waits, then ends the threads.
    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    fn sign(&self, issued: &Committed<CredentialIssued>) -> Result<Unchecked, Stop> {
        let id = &issued.what().key;
        let Some(key) = self.keys.find(id) else {
            return Err(unminted(&Unminted::OtherKey(id.clone())));
        };
        mint::sign(issued, &self.issuer, &key).map_err(|why| unminted(&why))
    }

    fn next(&self) -> Option<Vec<Order>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self
            .wake
            .wait_while(queue, |queue| queue.waiting.is_empty() && !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.is_empty() {
            return None;
        }
        let waiting = queue.waiting.len();
        let share = if waiting < SHARED_MIN { waiting } else { waiting.div_ceil(2).min(BATCH_MAX) };
        let orders = queue.waiting.drain(..share).collect();
        let more = !queue.waiting.is_empty();
        drop(queue);
        if more {
            self.wake.notify_one();
        }
        Some(orders)
    }
}

fn unminted(why: &Unminted) -> Stop {
    tracing::error!(%why, "a credential was not signed");
    Stop::Faulted(match why {
        Unminted::OtherKey(id) => Fault::NoPrivateKey(id.clone()),
        Unminted::SelfCheck => Fault::SelfCheck,
    })
}
