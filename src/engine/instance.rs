//! What one gateway process told this broker, and what must therefore be so.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use protem_verify::ids::Seq;
use protem_verify::known::State;
use protem_verify::names::GatewayName;

use crate::engine::receipts::{Covers, How, InstanceId, Mark};

/// Acknowledgements remembered per process: a receipt for something older names a later moment, never an earlier one.
const ACKS_MAX: usize = 256;
/// Lags kept per process for its percentiles.
const LAGS_MAX: usize = 512;

/// One process of a gateway, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayState {
    /// The gateway's name.
    pub name: GatewayName,
    /// Tells its replicas apart.
    pub instance: String,
    /// Tells processes of one instance id apart.
    pub process: String,
    /// Another live process holds the same instance id: its folder was copied.
    pub twin: bool,
    /// Whether it follows the feed of this broker now.
    pub connected: bool,
    /// Up to here it enforces.
    pub acknowledged: Seq,
    /// The age of its view: by its own last word, and what has gone by since.
    pub view_age: Option<Duration>,
    /// From the commit of an end of access to its acknowledgement, half of the time.
    pub lag_p50: Option<Duration>,
    /// The same, 99 of 100 times.
    pub lag_p99: Option<Duration>,
    /// `UNREADY`, `SYNCING`, `FRESH` or `STALE`: its own last word, but `STALE` once its view must be.
    pub state: String,
}

/// What it told, and what it was sent.
pub(in crate::engine) struct Instance {
    pub(in crate::engine) covers: Covers,
    pub(in crate::engine) connected: u32,
    pub(in crate::engine) acked: Seq,
    acks: VecDeque<(Seq, Duration)>,
    pub(in crate::engine) first_proof: Option<Seq>,
    pub(in crate::engine) last_proof: Option<Duration>,
    /// When it first came: it has no part in what was ended before.
    since: Duration,
    pub(in crate::engine) seen: Duration,
    /// The moment that its view was last known to be whole, by its own word.
    pub(in crate::engine) view_from: Option<Duration>,
    pub(in crate::engine) state: String,
    lags: VecDeque<Duration>,
}

impl Instance {
    pub(in crate::engine) fn new(now: Duration) -> Self {
        Self {
            covers: Covers::Resources(BTreeSet::new()),
            connected: 0,
            acked: Seq(0),
            acks: VecDeque::new(),
            first_proof: None,
            last_proof: None,
            since: now,
            seen: now,
            view_from: None,
            state: State::Unready.word().to_owned(),
            lags: VecDeque::new(),
        }
    }

    /// It enforces everything up to `seq`; `heard`: what ended access since its last word.
    pub(in crate::engine) fn acknowledge<'marks>(
        &mut self,
        seq: Seq,
        heard: impl Iterator<Item = &'marks Mark>,
        now: Duration,
        took: impl Fn(Duration),
    ) {
        for mark in heard {
            if mark.committed >= self.since && mark.covers.meets(&self.covers) {
                let lag = now.saturating_sub(mark.committed);
                keep(&mut self.lags, lag, LAGS_MAX);
                took(lag);
            }
        }
        self.acked = seq;
        keep(&mut self.acks, (seq, now), ACKS_MAX);
    }

    pub(in crate::engine) fn receipt(
        &self,
        mark: &Mark,
        bound: Duration,
        now: Duration,
    ) -> Option<(How, Duration)> {
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

    pub(in crate::engine) fn shown(
        &self,
        id: &InstanceId,
        bound: Duration,
        now: Duration,
    ) -> GatewayState {
        let mut lags: Vec<Duration> = self.lags.iter().copied().collect();
        lags.sort_unstable();
        // Whoever has had no proof for so long refuses every credential, whatever it said last.
        let proven = self.last_proof.is_some_and(|at| at.saturating_add(bound) >= now);
        let stale = self.state == State::Fresh.word() && !proven;
        GatewayState {
            name: id.gateway.clone(),
            instance: id.instance.clone(),
            process: id.process.clone(),
            twin: false,
            connected: self.connected > 0,
            acknowledged: self.acked,
            view_age: self.view_from.map(|from| now.saturating_sub(from)),
            lag_p50: percentile(&lags, 50),
            lag_p99: percentile(&lags, 99),
            state: if stale { State::Stale.word().to_owned() } else { self.state.clone() },
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last.saturating_mul(percent) / 100).copied()
}

pub(in crate::engine) fn keep<T>(queue: &mut VecDeque<T>, what: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(what);
}
