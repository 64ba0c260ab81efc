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

/// Acknowledgements remembered per instance: a receipt for something older names a later moment, never an earlier one.
const ACKS_MAX: usize = 256;
/// Lags kept per instance for its percentiles.
const LAGS_MAX: usize = 512;
/// Commits remembered to measure lags against.
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
    /// One per instance that it concerns and that this broker knows.
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

/// One instance of a gateway, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayState {
    /// The gateway's name.
    pub name: GatewayName,
    /// Tells its replicas apart.
    pub instance: String,
    /// Whether it follows the feed of this broker now.
    pub connected: bool,
    /// Up to here it enforces.
    pub acknowledged: Seq,
    /// The age of its view, by its own word.
    pub view_age: Option<Duration>,
    /// Commit to acknowledgement, half of the time.
    pub lag_p50: Option<Duration>,
    /// Commit to acknowledgement, 99 of 100 times.
    pub lag_p99: Option<Duration>,
    /// `UNREADY`, `SYNCING`, `FRESH` or `STALE`, by its own last word.
    pub state: String,
}

/// Which instance speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceId {
    /// The gateway's name.
    pub gateway: GatewayName,
    /// Tells its replicas apart.
    pub instance: String,
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
    commits: VecDeque<(Seq, Duration)>,
    /// What a credential's `fresh` may be, and until when such a credential may be alive (monotonic).
    fresh: Vec<(Staleness, Option<Duration>)>,
    /// When the bounds of marks pass that somebody may wait for.
    bounds: BTreeSet<Duration>,
}

struct Instance {
    covers: Covers,
    connected: u32,
    acked: Seq,
    acks: VecDeque<(Seq, Duration)>,
    first_proof: Option<Seq>,
    last_proof: Option<Duration>,
    seen: Duration,
    view_age: Option<Duration>,
    state: String,
    lags: VecDeque<Duration>,
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

    /// A turn was found durable.
    pub fn committed(&self, seq: Seq, boot: Duration) {
        let mut known = self.lock();
        if known.commits.len() >= COMMITS_MAX {
            known.commits.pop_front();
        }
        known.commits.push_back((seq, boot));
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
        instance.covers = match (&instance.covers, covers) {
            (Covers::Everything, _) | (_, Covers::Everything) => Covers::Everything,
            (Covers::Resources(old), Covers::Resources(new)) => {
                Covers::Resources(old.union(&new).cloned().collect())
            }
        };
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
        let at = commits.partition_point(|(end, _)| *end <= seq).checked_sub(1);
        let newest = at.and_then(|at| commits.get(at));
        if let Some((end, committed)) = newest
            && *end > instance.acked
        {
            let lag = now.saturating_sub(*committed);
            keep(&mut instance.lags, lag, LAGS_MAX);
            self.lag.took(lag);
        }
        instance.acked = seq;
        keep(&mut instance.acks, (seq, now), ACKS_MAX);
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
            instance.view_age = view_age;
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
        known.instances.retain(|_, one| one.connected > 0 || now.saturating_sub(one.seen) < SHOWN);
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
            let (gateway, instance) = (id.gateway.clone(), id.instance.clone());
            receipts.push(Receipt { gateway, instance, how, after });
        }
        // INVARIANT(receipts_never_lie): before the bound has passed, "everywhere" needs that this broker can know every
        // instance whose view may be fresh, and that each of them has said so.
        let knows_all = self.alone || now.saturating_sub(self.started) > bound;
        let all = receipts.iter().all(|receipt| receipt.how != How::Waiting);
        Enforcement { receipts, everywhere: passed || (knows_all && all) }
    }

    /// Every enforcing instance that this broker knows, connected or lately so.
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayState> {
        let known = self.lock();
        known.instances.iter().map(|(id, instance)| instance.shown(id)).collect()
    }

    fn nudge(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The greatest `fresh` that a credential alive at `at` may carry, and 1 % for the clocks' rates (500 ppm each way at
    /// most, with room).
    fn bound(&self, at: Duration) -> Duration {
        let alive = self.fresh.iter().filter(|(_, until)| until.is_none_or(|until| until >= at));
        let fresh = alive.map(|(fresh, _)| fresh.0).max().unwrap_or(*STALENESS.end());
        fresh.saturating_add(fresh / 100)
    }
}

impl Instance {
    fn new(now: Duration) -> Self {
        Self {
            covers: Covers::Resources(BTreeSet::new()),
            connected: 0,
            acked: Seq(0),
            acks: VecDeque::new(),
            first_proof: None,
            last_proof: None,
            seen: now,
            view_age: None,
            state: String::new(),
            lags: VecDeque::new(),
        }
    }

    fn receipt(&self, mark: &Mark, bound: Duration, now: Duration) -> Option<(How, Duration)> {
        if !self.covers.meets(&mark.covers) {
            return None;
        }
        // Only rising acknowledgements are kept.
        let first = self.acks.partition_point(|(seq, _)| *seq < mark.seq);
        if let Some((_, at)) = self.acks.get(first) {
            return Some((How::Acknowledged, at.saturating_sub(mark.committed)));
        }
        let age = now.saturating_sub(mark.committed);
        // Without a proof from before the mark and within the bound, its view cannot be fresh without holding the mark.
        let first = self.first_proof.is_some_and(|seq| seq < mark.seq);
        let fresh = self.last_proof.is_some_and(|at| at.saturating_add(bound) >= mark.committed);
        if !(first && fresh) {
            return None;
        }
        Some(if age > bound { (How::BoundPassed, bound) } else { (How::Waiting, age) })
    }

    fn shown(&self, id: &InstanceId) -> GatewayState {
        let mut lags: Vec<Duration> = self.lags.iter().copied().collect();
        lags.sort_unstable();
        GatewayState {
            name: id.gateway.clone(),
            instance: id.instance.clone(),
            connected: self.connected > 0,
            acknowledged: self.acked,
            view_age: self.view_age,
            lag_p50: percentile(&lags, 50),
            lag_p99: percentile(&lags, 99),
            state: self.state.clone(),
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last.saturating_mul(percent) / 100).copied()
}

fn keep<T>(queue: &mut VecDeque<T>, what: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(what);
}
