//! How somebody asks to follow the feed, and what it says while it does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protem_core::event::Actor;
use protem_verify::checkpoint::Signed;
use protem_verify::ids::Seq;
use protem_verify::names::GatewayName;
use tokio::sync::Notify;

use crate::engine::broker::Broker;
use crate::engine::filter::{Cursor, Filter};
use crate::engine::proof;
use crate::engine::receipts::InstanceId;
use crate::journal::fault::Fault;

/// The longest nonce of a ping.
pub const NONCE_MAX: usize = 32;
/// How somebody follows the feed. Whether they may was decided before.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Whose subscriptions are counted together.
    pub who: Actor,
    /// A gateway, by its name in the bundle.
    pub gateway: Option<GatewayName>,
    /// Tells its replicas apart.
    pub instance: String,
    /// Tells its processes apart.
    pub process: String,
    /// What it follows.
    pub filter: Filter,
    /// Where it left off.
    pub after: Option<Cursor>,
    /// It enforces: its acknowledgements are receipts.
    pub enforcing: bool,
    /// No snapshot: everything after `after`, or from the journal's start. Not with `enforcing`.
    pub history: bool,
    /// The newest signed checkpoint that it holds.
    pub last: Option<Signed>,
}

/// Why somebody cannot follow the feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsubscribed {
    /// As many subscriptions as it may have.
    #[error("it follows the feed as often as it may")]
    TooMany,
    /// As many different filters as it may have, now or lately.
    #[error("it follows, or did so lately, as many different parts of the feed as it may")]
    TooVaried,
    /// Enforcing needs a gateway and a snapshot.
    #[error("an enforcing subscriber is a gateway and takes no history")]
    Unfit,
    /// The world broke.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a subscriber says: acknowledgements and pings. Cheap to clone.
#[derive(Clone)]
pub struct Peer(pub(in crate::engine) Arc<Side>);

pub(in crate::engine) struct Side {
    pub(in crate::engine) broker: Broker,
    pub(in crate::engine) instance: Option<InstanceId>,
    pub(in crate::engine) ping: Mutex<Option<Vec<u8>>>,
    pub(in crate::engine) wake: Notify,
    pub(in crate::engine) sent: AtomicU64,
}

impl Broker {
    /// Holds what a gateway shows against the journal. After a restart all gateways show something at once, and some of it is
    /// read from the store: one at a time, and not on the threads that answer everybody.
    pub(in crate::engine) async fn compare(&self, shown: Signed) -> Result<(), Fault> {
        let _turn = self.0.comparing.acquire().await.map_err(|_| Fault::Stopping)?;
        let broker = self.clone();
        let compared = tokio::task::spawn_blocking(move || {
            let inner = &broker.0;
            let known = proof::journal_keys(&inner.keys, &inner.sets.load().checkpoint);
            inner.prover.compare(&shown, &known, &broker.head(), &**broker.reader())
        });
        compared.await.unwrap_or(Err(Fault::Stopping))
    }
}

impl Peer {
    /// Everything up to `seq` is being enforced. More than it was sent it cannot enforce.
    pub fn ack(&self, seq: Seq) {
        let Some(id) = &self.0.instance else { return };
        let seq = Seq(seq.0.min(self.0.sent.load(Ordering::Acquire)));
        self.0.broker.0.receipts.acked(id, seq, self.0.broker.0.clock.boot());
    }

    /// Asks for a proof; a newer question replaces one that was not answered yet.
    pub fn ping(&self, nonce: Vec<u8>, state: String, view_age: Option<Duration>) {
        let now = self.0.broker.0.clock.boot();
        if let Some(id) = &self.0.instance {
            let state = state.chars().filter(char::is_ascii_uppercase).take(16).collect();
            self.0.broker.0.receipts.pinged(id, state, view_age, now);
        }
        if !nonce.is_empty() && nonce.len() <= NONCE_MAX {
            *self.pending() = Some(nonce);
            self.0.wake.notify_one();
        }
    }

    pub(in crate::engine) fn pending(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.0.ping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
