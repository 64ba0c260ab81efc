//! Whose the open connections are: strangers' until somebody signs in, then their last caller's; and who makes room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protem_core::event::Actor;
use protem_verify::codes::wire;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code as Grpc;

use crate::policy::bundle::Bundle;
use crate::policy::login::{Caller, Principal};
use crate::serve::limits::{
    CONNECTIONS_MAX, CONNECTIONS_OF_GATEWAY_MAX, CONNECTIONS_OF_IDENTITY,
    CONNECTIONS_OF_IDENTITY_MAX, CONNECTIONS_OF_PERSON_MAX, CONNECTIONS_RESERVED, FAULT_RETRY,
    STRANGER_LEAST, STRANGERS_MAX,
};
use crate::serve::rates::household;
use crate::serve::seats::one_less;
use crate::serve::status::Problem;

/// How many connections there may be; tests choose smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// In all.
    pub connections: usize,
    /// Of these, for whoever is no workload.
    pub reserved: usize,
    /// Of one address (or IPv6 network) without anybody signed in.
    pub strangers: usize,
    /// How long each of these has at least to sign in.
    pub stranger_least: Duration,
    /// Of one identity, beside one for each grant that it may hold at once.
    pub of_identity: usize,
    /// Of all processes of one gateway.
    pub of_gateway: usize,
    /// Of one person.
    pub of_person: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            reserved: CONNECTIONS_RESERVED,
            strangers: STRANGERS_MAX,
            stranger_least: STRANGER_LEAST,
            of_identity: CONNECTIONS_OF_IDENTITY,
            of_gateway: CONNECTIONS_OF_GATEWAY_MAX,
            of_person: CONNECTIONS_OF_PERSON_MAX,
        }
    }
}

impl ConnectionLimits {
    /// How many connections may be this caller's.
    fn of(&self, caller: &Caller, bundle: &Bundle) -> usize {
        match &caller.principal {
            Principal::Workload { by, .. } => {
                let identity = bundle.identities().get(&by.identity);
                let tier = identity.and_then(|known| bundle.catalog().tiers.get(&known.tier));
                let jobs = tier.and_then(|tier| usize::try_from(tier.active_max).ok());
                let all = self.of_identity.saturating_add(jobs.unwrap_or(0));
                all.min(CONNECTIONS_OF_IDENTITY_MAX)
            }
            Principal::Person(_) => self.of_person,
            Principal::Gateway { .. } => self.of_gateway,
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub struct Peers {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
    /// Told when whoever waits for a place should look again.
    room: Notify,
}

/// Every connection is in exactly one of `waiting` and `owners`, so that none is counted twice or forgotten.
#[derive(Debug, Default)]
struct Counts {
    /// How many were let in.
    came: u64,
    /// Those on which nobody has signed in, in the order in which they make room.
    waiting: BTreeMap<Turn, Stranger>,
    /// The same, by address.
    strangers: HashMap<IpAddr, usize>,
    /// Those that are somebody's.
    owners: HashMap<u64, Owner>,
    /// How many are whose.
    owned: HashMap<Actor, usize>,
    /// Whether somebody has come for whom there is no place.
    wanted: bool,
}

/// Who came first makes room first, but those who are signing in after all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    signs_in: bool,
    number: u64,
}

#[derive(Debug)]
struct Stranger {
    told: Arc<Notify>,
    /// How many of its calls are signing in.
    calls: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    who: Actor,
    is_workload: bool,
}

/// One connection's place among the others; dropping it gives the place back.
#[derive(Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    number: u64,
    stays_until: Instant,
    told: Arc<Notify>,
    refused: Notify,
    of: Arc<Peers>,
}

/// A call that is signing in, until this is dropped: others make room before its connection does.
#[derive(Debug)]
pub struct SigningIn<'a>(&'a Peer);

impl Peers {
    /// None are open.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default(), room: Notify::new() })
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lock().open()
    }

    /// A place for who has come from `address`, once there is one: while all are taken the stranger who came first has to make
    /// room, so that who signs in soon after it has come always gets in. None: its address has as many as it may. One at a time
    /// waits here.
    pub async fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        loop {
            let room = self.room.notified();
            {
                let mut counts = self.lock();
                counts.wanted = false;
                let own = counts.strangers.get(&household(address.ip())).copied().unwrap_or(0);
                if own >= self.limits.strangers {
                    return None;
                }
                if counts.open() < self.limits.connections {
                    return Some(self.enter(&mut counts, address));
                }
                counts.wanted = true;
                counts.ask_for_room();
            }
            room.await;
        }
    }

    /// Whether nothing is counted, of nobody.
    #[cfg(test)]
    pub(in crate::serve) fn is_empty(&self) -> bool {
        let Counts { came: _, waiting, strangers, owners, owned, wanted } = &*self.lock();
        let none = waiting.is_empty() && strangers.is_empty() && owners.is_empty();
        none && owned.is_empty() && !wanted
    }

    fn enter(self: &Arc<Self>, counts: &mut Counts, address: SocketAddr) -> Arc<Peer> {
        counts.came = counts.came.saturating_add(1);
        let (number, told) = (counts.came, Arc::new(Notify::new()));
        let strangers = counts.strangers.entry(household(address.ip())).or_default();
        *strangers = strangers.saturating_add(1);
        let stranger = Stranger { told: Arc::clone(&told), calls: 0 };
        counts.waiting.insert(Turn { signs_in: false, number }, stranger);
        let stays_until = Instant::now() + self.limits.stranger_least;
        let of = Arc::clone(self);
        Arc::new(Peer { address, number, stays_until, told, refused: Notify::new(), of })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn open(&self) -> usize {
        self.waiting.len().saturating_add(self.owners.len())
    }

    fn ask_for_room(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.told.notify_one();
        }
    }

    /// What keeps a connection of `old`, or of nobody, from being one of `new`, who may have `max`; workloads may sign in while
    /// less than `for_workloads` are anybody's.
    fn obstacle(
        &self,
        old: Option<&Owner>,
        new: &Owner,
        max: usize,
        for_workloads: usize,
    ) -> Option<String> {
        if self.owned.get(&new.who).copied().unwrap_or(0) >= max {
            return Some(format!("`{}` has {max} connections open", new.who.0));
        }
        let one_more = new.is_workload && !old.is_some_and(|old| old.is_workload);
        // Strangers are not counted: they make room.
        (one_more && self.owners.len() >= for_workloads)
            .then(|| "workloads have all connections that they may have".to_owned())
    }

    fn own(&mut self, number: u64, new: Owner) {
        self.disown(number);
        let own = self.owned.entry(new.who.clone()).or_default();
        *own = own.saturating_add(1);
        self.owners.insert(number, new);
    }

    fn disown(&mut self, number: u64) {
        if let Some(old) = self.owners.remove(&number) {
            one_less(&mut self.owned, &old.who);
        }
    }

    fn stranger(&mut self, number: u64) -> Option<Stranger> {
        let mut of = |signs_in| self.waiting.remove(&Turn { signs_in, number });
        of(false).or_else(|| of(true))
    }

    /// It is none any more, or has gone.
    fn no_stranger(&mut self, peer: &Peer) {
        if self.stranger(peer.number).is_some() {
            one_less(&mut self.strangers, &household(peer.address.ip()));
        }
    }

    /// Counts a stranger's calls that are signing in.
    fn signing_in(&mut self, number: u64, change: impl FnOnce(usize) -> usize) {
        let Some(stranger) = self.stranger(number) else { return };
        let calls = change(stranger.calls);
        self.waiting.insert(Turn { signs_in: calls > 0, number }, Stranger { calls, ..stranger });
    }
}

impl Peer {
    /// A caller signed in on it: it counts as this caller's until another one calls on it, as on a proxy's. One that is somebody
    /// else's, where the caller has as many as it may, stays theirs: it costs no connection more.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED and when to come back: the caller has as many as it may. The connection, which is nobody's, is let go.
    pub fn sign_in(&self, caller: &Caller, bundle: &Bundle) -> Result<(), Problem> {
        let limits = &self.of.limits;
        let new = Owner::of(caller);
        let mut counts = self.of.lock();
        let old = counts.owners.get(&self.number);
        if old == Some(&new) {
            return Ok(());
        }
        let for_workloads = limits.connections.saturating_sub(limits.reserved);
        let max = limits.of(caller, bundle);
        match (old, counts.obstacle(old, &new, max, for_workloads)) {
            (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => {
                counts.own(self.number, new);
                Ok(())
            }
            (None, None) => {
                counts.no_stranger(self);
                counts.own(self.number, new);
                // Whoever waits was perhaps promised this place.
                if counts.wanted {
                    self.of.room.notify_one();
                }
                Ok(())
            }
            (None, Some(why)) => {
                drop(counts);
                self.refuse();
                let code = wire::TOO_MANY_CONNECTIONS;
                Err(Problem::new(Grpc::ResourceExhausted, code, why).retry(FAULT_RETRY))
            }
        }
    }

    /// A call on it is signing in, which may take a while.
    #[must_use]
    pub fn signing_in(&self) -> SigningIn<'_> {
        self.of.lock().signing_in(self.number, |calls| calls.saturating_add(1));
        SigningIn(self)
    }

    /// Done when it has to make room: nobody has signed in on it for long enough, and somebody waits for its place.
    pub async fn evicted(&self) {
        tokio::time::sleep_until(self.stays_until).await;
        loop {
            self.told.notified().await;
            let counts = self.of.lock();
            if !counts.wanted {
                continue;
            }
            match counts.waiting.first_key_value() {
                Some((first, _)) if first.number == self.number => return,
                Some(_) | None => counts.ask_for_room(),
            }
        }
    }

    /// A call was refused, and what it was refused for is the connection's: no call on it would fare better.
    pub fn refuse(&self) {
        self.refused.notify_one();
    }

    /// Done when [`Self::refuse`] was called.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Whether anybody has signed in on it.
    #[must_use]
    pub fn is_signed_in(&self) -> bool {
        self.of.lock().owners.contains_key(&self.number)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        counts.no_stranger(self);
        counts.disown(self.number);
        drop(counts);
        self.of.room.notify_one();
    }
}

impl Drop for SigningIn<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.of.lock();
        counts.signing_in(self.0.number, |calls| calls.saturating_sub(1));
    }
}

impl Owner {
    fn of(caller: &Caller) -> Self {
        let is_workload = match &caller.principal {
            Principal::Workload { .. } => true,
            Principal::Person(_) | Principal::Gateway { .. } => false,
        };
        Self { who: caller.actor(), is_workload }
    }
}
