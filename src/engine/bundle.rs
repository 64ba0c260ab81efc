//! The bundle in force: swapped after its entry is durable, and every grant from before it confirmed or ended.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::Actor;
use protem_core::limits::STEP_MAX;
use protem_core::verdict::Verdict;
use protem_verify::ids::{GrantId, Hash};
use protem_verify::time::Time;

use crate::engine::again::again;
use crate::engine::broker::Broker;
use crate::engine::lane::{Lane, Lanes};
use crate::engine::receipts::{Covers, Mark};
use crate::engine::sequencer::Work;
use crate::engine::stop::Stop;
use crate::engine::thread;
use crate::engine::unusual::Unusual;
use crate::journal::fault::Fault;
use crate::journal::reader::Reader;
use crate::policy::bundle::{Bundle, Files, Load};

/// How long a step that could not be taken waits before the next try.
const AGAIN: Duration = Duration::from_millis(200);

/// The bundle in force, and those on their way.
pub struct Bundles {
    in_force: ArcSwap<Bundle>,
    coming: Mutex<HashMap<Hash, Arc<Bundle>>>,
    dev: bool,
    unsettled: Mutex<Signal>,
    wake: Condvar,
}

#[derive(Default)]
struct Signal {
    work: bool,
    closed: bool,
}

impl Bundles {
    /// This one is in force; whether grants from before it are left is looked at once.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>, dev: bool) -> Self {
        Self {
            in_force: ArcSwap::new(bundle),
            coming: Mutex::default(),
            dev,
            unsettled: Mutex::new(Signal { work: true, closed: false }),
            wake: Condvar::new(),
        }
    }

    /// The bundle in force.
    #[must_use]
    pub fn in_force(&self) -> Arc<Bundle> {
        self.in_force.load_full()
    }

    /// Its activation is durable: from here on verdicts come from it. A bundle of another broker is read from its entry;
    /// if that cannot be, the old one stays, whose verdicts are refused.
    pub(in crate::engine) fn activated(&self, digest: Hash, files: &Files) -> Option<Arc<Bundle>> {
        let coming = self.lock().remove(&digest);
        let bundle = match coming {
            Some(bundle) => bundle,
            None => match Bundle::load(Arc::clone(files), Load::Activate, self.dev) {
                Ok(bundle) => Arc::new(bundle),
                Err(findings) => {
                    let first = findings.first().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(%digest, first, "the activated bundle cannot be read");
                    return None;
                }
            },
        };
        self.in_force.store(Arc::clone(&bundle));
        self.signal().work = true;
        self.wake.notify_all();
        Some(bundle)
    }

    /// Ends [`Self::settle`].
    pub(in crate::engine) fn close(&self) {
        self.signal().closed = true;
        self.wake.notify_all();
    }

    /// Confirms or ends every grant from before the bundle in force, whenever there is one; until closed.
    pub(in crate::engine) fn settle(
        &self,
        lanes: &Lanes,
        reader: &dyn Reader,
        clock: &dyn Clock,
        unusual: &Unusual,
    ) {
        loop {
            let signal = self.signal();
            let waited = self.wake.wait_while(signal, |signal| !signal.work && !signal.closed);
            let mut signal = waited.unwrap_or_else(PoisonError::into_inner);
            if signal.closed {
                return;
            }
            signal.work = false;
            drop(signal);
            match self.step(lanes, reader, clock, unusual) {
                Ok(true) => {}
                Ok(false) => self.signal().work = true,
                Err(stop) => {
                    tracing::warn!(%stop, "a step of settling the bundle was not taken");
                    let mut signal = self.signal();
                    signal.work = true;
                    let slept = self.wake.wait_timeout_while(signal, AGAIN, |it| !it.closed);
                    drop(slept.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// One step of at most a thousand grants; whether all is settled.
    fn step(
        &self,
        lanes: &Lanes,
        reader: &dyn Reader,
        clock: &dyn Clock,
        unusual: &Unusual,
    ) -> Result<bool, Stop> {
        let found = thread::wait(lanes, Lane::Ordinary, Work::Look, |answered| {
            let state = answered.state;
            let digest = state.bundle().filter(|_| !state.settled())?;
            let grants: Vec<_> = state.unsettled(STEP_MAX);
            let active = grants.into_iter().map(|id| {
                let active = state.grant(&id).map_or(0, |grant| state.active(&grant.by.identity));
                (id, active)
            });
            Some((digest, active.collect::<Vec<_>>(), state.last_at()))
        })?;
        let Some((digest, grants, last)) = found else { return Ok(true) };
        let bundle = self.in_force();
        if bundle.digest() != digest {
            return Err(Fault::Store(format!("bundle `{digest}` is not loaded")).into());
        }
        let now = Time::from(clock.unix()).max(last);
        let mut verdicts: Vec<(GrantId, Verdict)> = Vec::with_capacity(grants.len());
        for (id, active) in grants {
            let record = reader.grant(&id)?;
            let record = record.ok_or(Fault::Store(format!("grant `{id}` cannot be read")))?;
            let of_use = unusual.of(&record.request.by.identity, now);
            let counts = (active, of_use.as_slice());
            verdicts.push((id, again(&bundle, &record, &record.request, now, counts)));
        }
        let command = Command::Settle { digest, grants: verdicts };
        let work = Work::Command(Box::new(command));
        thread::wait(lanes, Lane::Ordinary, work, |answered| answered.state.settled())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Arc<Bundle>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Puts a checked bundle in force. Grants from before it are confirmed or ended in steps that follow.
    ///
    /// # Errors
    /// When another bundle than `expect` is in force, or the world broke.
    pub async fn apply_bundle(
        &self,
        actor: Actor,
        bundle: Bundle,
        expect: Option<Hash>,
    ) -> Result<Mark, Stop> {
        let (digest, files) = (bundle.digest(), Arc::clone(bundle.files()));
        self.0.bundles.lock().insert(digest, Arc::new(bundle));
        let command = Command::ActivateBundle { digest, files, expect };
        let done = self
            .submit(Lane::Ordinary, actor, command, |answered| {
                let seq = answered.rows.last().map_or(answered.head.seq, |row| row.seq());
                Mark { seq, committed: answered.committed, covers: Covers::Everything }
            })
            .await;
        self.0.bundles.lock().remove(&digest);
        done
    }
}
