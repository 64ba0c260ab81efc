//! When a revocation took force at each gateway: acknowledged, or its bound has passed. Never a guess.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protem_core::limits::{LIFETIME_MAX, STALENESS};
use protem_metrics::spread::Spread;
use protem_verify::ids::Seq;
use protem_verify::names::{GatewayName, ResourceName};
use protem_verify::time::Staleness;
use tokio::sync::watch;

use crate::engine::instance::{GatewayState, Instance, keep};

/// Ends of access remembered to measure lags against.
const COMMITS_MAX: usize = 4_096;
/// How long a silent instance is still shown: its owner may be looking for it.
const SHOWN: Duration = Duration::from_secs(60 * 60);
/// Instances remembered at once: four gateways' worth of every connection there may be.
const INSTANCES_MAX: usize = 65_536;

/// A durable end of access whose enforcement can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The entry that gateways must have applied.
    pub seq: Seq,
    /// When it was found durable, by this broker's monotonic clock.
    pub committed: Duration,
    /// Which gateways it concerns.
    pub covers: Covers,
}

/// A part of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covers {
    /// All of it.
    Everything,
    /// These resources; none when nothing was ended.
    Resources(BTreeSet<ResourceName>),
}

impl Covers {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Resources(mut one), Self::Resources(two)) => {
                one.extend(two);
                Self::Resources(one)
            }
        }
    }

    /// Whether they have something in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => true,
            (Self::Resources(one), Self::Resources(two)) => !one.is_disjoint(two),
        }
    }
}

/// What is known of a mark's enforcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// One per process that it concerns and that this broker knows.
    pub receipts: Vec<Receipt>,
    /// No enforcing gateway anywhere can still accept a covered credential.
    pub everywhere: bool,
}

/// When a mark took force at one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The gateway's name.
    pub gateway: GatewayName,
    /// Tells its replicas apart.
    pub instance: String,
    /// Tells processes of one instance id apart.
    pub process: String,
    /// How it is known.
    pub how: How,
    /// Since the mark was durable.
    pub after: Duration,
}

/// How enforcement is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Not yet.
    Waiting,
    /// The instance says so.
    Acknowledged,
    /// No covered credential may be accepted on a view as old as this instance's must be.
    BoundPassed,
}

/// Which process speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceId {
    /// The gateway's name.
    pub gateway: GatewayName,
    /// Tells its replicas apart; kept on disk, so a copied folder gives two of them one.
    pub instance: String,
    /// Tells processes apart, whatever they keep: what one of them says is no word of another.
    pub process: String,
}

impl InstanceId {
    /// Whether two processes hold one instance id.
    fn twins(&self, other: &Self) -> bool {
        self.gateway == other.gateway && self.instance == other.instance && self != other
    }
}

/// All that enforcing gateways told this broker.
pub struct Receipts {
    known: Mutex<Known>,
    changed: watch::Sender<u64>,
    started: Duration,
    /// The journal's epoch began in this process: nobody else ever gave a gateway a proof of it.
    alone: bool,
    /// Of all instances, for whoever watches the broker.
    lag: Spread,
}

struct Known {
    instances: BTreeMap<InstanceId, Instance>,
    commits: VecDeque<Mark>,
    /// What a credential's `fresh` may be, and until when such a credential may be alive (monotonic).
    fresh: Vec<(Staleness, Option<Duration>)>,
    /// When the bounds of marks pass that somebody may wait for.
    bounds: BTreeSet<Duration>,
}

impl Receipts {
    /// Knows nobody yet. `alone`: the journal's epoch began in this process. `lag`: where lags are counted, of all instances.
    #[must_use]
    pub fn new(started: Duration, alone: bool, lag: Spread) -> Self {
        let known = Known {
            instances: BTreeMap::new(),
            commits: VecDeque::new(),
            fresh: Vec::new(),
            bounds: BTreeSet::new(),
        };
        Self { known: Mutex::new(known), changed: watch::Sender::new(0), started, alone, lag }
    }

    /// Changes whenever an answer of [`Self::enforcement`] may have.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// From now on credentials carry at most `fresh`; those from before live on for as long as a credential may.
    pub fn bundle(&self, fresh: Staleness, now: Duration) {
        let mut known = self.lock();
        for (_, until) in &mut known.fresh {
            until.get_or_insert(now.saturating_add(LIFETIME_MAX));
        }
        known.fresh.retain(|(_, until)| until.is_none_or(|until| until > now));
        known.fresh.push((fresh, None));
    }

    /// A turn that ended access was found durable: what gateways take to hear of it is their lag. Of other turns they hear
    /// with the next proof, and nobody waits for that.
    pub fn committed(&self, ended: Mark) {
        keep(&mut self.lock().commits, ended, COMMITS_MAX);
    }

    /// An enforcing instance follows the feed.
    pub fn connected(&self, id: &InstanceId, covers: Covers, now: Duration) {
        let mut known = self.lock();
        if known.instances.len() >= INSTANCES_MAX {
            known.instances.retain(|_, one| {
                one.connected > 0 || now.saturating_sub(one.seen) < *STALENESS.end() * 2
            });
        }
        let instance = known.instances.entry(id.clone()).or_insert_with(|| Instance::new(now));
        // What an earlier stream of this instance covered counts on: its proofs may still be fresh.
        instance.covers = instance.covers.clone().and(covers);
        instance.connected = instance.connected.saturating_add(1);
        instance.seen = now;
    }

    /// Its stream ended. It may go on accepting until its view is stale, so it is not forgotten.
    pub fn disconnected(&self, id: &InstanceId, now: Duration) {
        let mut known = self.lock();
        if let Some(instance) = known.instances.get_mut(id) {
            instance.connected = instance.connected.saturating_sub(1);
            instance.seen = now;
        }
    }

    /// It is about to be sent a checkpoint of `seq` or later that answers a ping.
    pub fn proven(&self, id: &InstanceId, seq: Seq, now: Duration) {
        let mut known = self.lock();
        if let Some(instance) = known.instances.get_mut(id) {
            instance.first_proof.get_or_insert(seq);
            instance.last_proof = Some(now);
            instance.seen = now;
        }
    }

    /// It says that it enforces everything up to `seq`, which it was sent.
    pub fn acked(&self, id: &InstanceId, seq: Seq, now: Duration) {
        let mut known = self.lock();
        let Known { instances, commits, .. } = &mut *known;
        let Some(instance) = instances.get_mut(id) else { return };
        instance.seen = now;
        if seq <= instance.acked {
            return;
        }
        let first = commits.partition_point(|mark| mark.seq <= instance.acked);
        let heard = commits.iter().skip(first).take_while(|mark| mark.seq <= seq);
        instance.acknowledge(seq, heard, now, |lag| self.lag.took(lag));
        drop(known);
        self.nudge();
    }

    /// What it says of itself with a ping.
    pub fn pinged(
        &self,
        id: &InstanceId,
        state: String,
        view_age: Option<Duration>,
        now: Duration,
    ) {
        let mut known = self.lock();
        if let Some(instance) = known.instances.get_mut(id) {
            instance.state = state;
            instance.view_from = view_age.map(|age| now.saturating_sub(age));
            instance.seen = now;
        }
    }

    /// Somebody may wait for this mark: they are woken when its bound passes.
    pub fn watch(&self, mark: &Mark) {
        let mut known = self.lock();
        let passes = mark.committed.saturating_add(known.bound(mark.committed));
        known.bounds.insert(passes);
    }

    /// Wakes those whose bound has passed.
    pub fn sweep(&self, now: Duration) {
        let mut known = self.lock();
        let after = known.bounds.split_off(&now);
        let passed = !known.bounds.is_empty();
        known.bounds = after;
        known.forget(now);
        drop(known);
        if passed {
            self.nudge();
        }
    }

    /// How long after its commit a mark is in force at every enforcing gateway, whatever fails.
    #[must_use]
    pub fn bound(&self, mark: &Mark) -> Duration {
        self.lock().bound(mark.committed)
    }

    /// What is known of a mark's enforcement.
    #[must_use]
    pub fn enforcement(&self, mark: &Mark, now: Duration) -> Enforcement {
        let known = self.lock();
        let bound = known.bound(mark.committed);
        let age = now.saturating_sub(mark.committed);
        let passed = age > bound;
        let mut receipts = Vec::new();
        for (id, instance) in &known.instances {
            let Some((how, after)) = instance.receipt(mark, bound, now) else { continue };
            let InstanceId { gateway, instance, process } = id.clone();
            receipts.push(Receipt { gateway, instance, process, how, after });
        }
        // INVARIANT(receipts_never_lie): before the bound has passed, "everywhere" needs that this broker can know every
        // instance whose view may be fresh, and that each of them has said so.
        let knows_all = self.knows_all(bound, now);
        let all = receipts.iter().all(|receipt| receipt.how != How::Waiting);
        Enforcement { receipts, everywhere: passed || (knows_all && all) }
    }

    /// Whether a mark is enforced everywhere, as [`Self::enforcement`] says. `waits_for` is whom it waits for: until that one has
    /// said so nobody else is looked at, so that many may wait while many gateways speak.
    #[must_use]
    pub fn everywhere(
        &self,
        mark: &Mark,
        now: Duration,
        waits_for: &mut Option<InstanceId>,
    ) -> bool {
        let known = self.lock();
        let bound = known.bound(mark.committed);
        if now.saturating_sub(mark.committed) > bound {
            return true;
        }
        if !self.knows_all(bound, now) {
            return false; // until the bound has passed, whatever gateways say
        }
        *waits_for = known.silent(mark, bound, now, waits_for.take());
        waits_for.is_none()
    }

    /// Whether this broker can know every instance whose view may be fresh.
    fn knows_all(&self, bound: Duration, now: Duration) -> bool {
        self.alone || now.saturating_sub(self.started) > bound
    }

    /// Every enforcing process that this broker knows, connected or lately so; not those that another one followed.
    #[must_use]
    pub fn gateways(&self, now: Duration) -> Vec<GatewayState> {
        let known = self.lock();
        let bound = known.bound(now);
        let shown = known.instances.iter().filter(|(id, _)| !known.followed(id));
        shown
            .map(|(id, instance)| GatewayState {
                twin: instance.connected > 0 && known.twin(id),
                ..instance.shown(id, bound, now)
            })
            .collect()
    }

    fn nudge(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Somebody who has not acknowledged a mark and might not enforce it, looked for from `first` on.
    fn silent(
        &self,
        mark: &Mark,
        bound: Duration,
        now: Duration,
        first: Option<InstanceId>,
    ) -> Option<InstanceId> {
        let waits = |(id, one): (&InstanceId, &Instance)| match one.receipt(mark, bound, now) {
            Some((How::Waiting, _)) => Some(id.clone()),
            Some((How::Acknowledged | How::BoundPassed, _)) | None => None,
        };
        let Some(first) = first else { return self.instances.iter().find_map(waits) };
        let next = self.instances.range(&first..).find_map(waits);
        next.or_else(|| self.instances.range(..first).find_map(waits))
    }

    /// Whether a process came after this one, which has gone, with the same instance id: a restarted gateway.
    fn followed(&self, id: &InstanceId) -> bool {
        let Some(own) = self.instances.get(id).filter(|own| own.connected == 0) else {
            return false;
        };
        self.twins(id).any(|(_, other)| other.seen > own.seen)
    }

    /// Whether another process that follows the feed now has the same instance id.
    fn twin(&self, id: &InstanceId) -> bool {
        self.twins(id).any(|(_, other)| other.connected > 0)
    }

    fn twins(&self, id: &InstanceId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        let first = InstanceId { process: String::new(), ..id.clone() };
        let same = self.instances.range(first..);
        let same = same.take_while(move |(other, _)| *other == id || other.twins(id));
        same.filter(move |(other, _)| *other != id)
    }

    /// Forgets who is silent for long, and sooner who was followed; never one whose view may be fresh.
    fn forget(&mut self, now: Duration) {
        let gone = |id: &InstanceId, one: &Instance| {
            let silent = now.saturating_sub(one.seen);
            let over = silent >= SHOWN || (silent >= *STALENESS.end() * 2 && self.followed(id));
            one.connected == 0 && over
        };
        let gone: Vec<_> = self.instances.iter().filter(|(id, one)| gone(id, one)).collect();
        let gone: Vec<InstanceId> = gone.into_iter().map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.instances.remove(&id);
        }
    }

    /// The greatest `fresh` that a credential alive at `at` may carry, and 1 % for the clocks' rates (500 ppm each way at
    /// most, with room).
    fn bound(&self, at: Duration) -> Duration {
        let alive = self.fresh.iter().filter(|(_, until)| until.is_none_or(|until| until >= at));
        let fresh = alive.map(|(fresh, _)| fresh.0).max().unwrap_or(*STALENESS.end());
        fresh.saturating_add(fresh / 100)
    }
}
