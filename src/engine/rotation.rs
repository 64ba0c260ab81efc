//! Rotation: which key is published, signs, is retired and forgotten next. Each step follows from the journal and the key
//! folder alone, so a broker that was stopped in the middle goes on where it was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::{Actor, KeyPurpose};
use protem_core::grant::{KeyRecord, KeyState};
use protem_core::refusal::Refusal;
use protem_verify::ids::Seq;
use protem_verify::names::{KeyId, Words};
use protem_verify::time::Time;
use tokio::sync::Semaphore;

use crate::engine::keys::{KeyRing, Unkept, public};
use crate::engine::lane::{Lane, Lanes};
use crate::engine::plan::{Plan, Schedule, Step, Waits, signing};
use crate::engine::receipts::{Covers, Enforcement, Mark, Receipts};
use crate::engine::sequencer::{Answered, Work};
use crate::engine::stop::Stop;
use crate::engine::thread::{system, wait_as};

/// Steps taken in one pass: a rotation is four, of two purposes.
const STEPS_MAX: usize = 16;
/// How often the keys are looked at, unless they live so short that a tenth of that is less.
const EVERY: Duration = Duration::from_secs(1);
/// How long somebody who asks waits for a pass to end: two seconds.
const LOCK_TRIES: u32 = 200;
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// Takes the steps of this broker's keys, one pass at a time.
pub struct Rotation {
    keys: Arc<KeyRing>,
    lanes: Arc<Lanes>,
    clock: Arc<dyn Clock>,
    receipts: Arc<Receipts>,
    schedule: Schedule,
    known: Mutex<Known>,
    woken: AtomicBool,
    /// Who asks of the keys, one at a time: each holds a thread while it waits for turns.
    pub(in crate::engine) asking: Semaphore,
}

/// What only this process knows of keys.
struct Known {
    /// When keys were found durable, on the monotonic clock; earlier processes' count from this one's start, which is later.
    published: BTreeMap<KeyId, Duration>,
    started: Duration,
    /// What could not be changed in the key folder by the last pass, so that the log says it once.
    unkept: Option<Unkept>,
}

/// What an operator asks.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Of which purpose the key is.
    pub purpose: KeyPurpose,
    /// Which key must go; absent: the one that signs.
    pub key: Option<KeyId>,
    /// Somebody else may have it: all that it ever signed becomes void, now.
    pub compromised: bool,
    /// Why.
    pub note: Words,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The key that goes.
    pub replaced: KeyId,
    /// The key that signs now, or that will.
    pub key: Option<KeyId>,
    /// Whether it signs.
    pub signs: bool,
    /// What it waits for, when it does not.
    pub waits: Waits,
    /// The entry that gateways must have applied.
    pub mark: Mark,
}

/// A key as an operator sees it.
#[derive(Clone, Debug)]
pub struct ShownKey {
    /// As the journal has it.
    pub record: KeyRecord,
    /// Whether it is the one that signs for its purpose.
    pub signs: bool,
    /// Whether its private half is here.
    pub here: bool,
    /// What its next step waits for.
    pub waits: Waits,
    /// Who knows that it was published.
    pub enforcement: Enforcement,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Halted {
    /// The law or the world said no.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// The key folder cannot be changed.
    #[error("key folder: {0}")]
    Unkept(#[from] Unkept),
}

/// The keys at one moment.
struct Looked {
    keys: Vec<KeyRecord>,
    now: Time,
    head: Seq,
}

impl Rotation {
    /// Of the keys in this folder; takes no step before [`Self::pass`].
    #[must_use]
    pub fn new(
        keys: Arc<KeyRing>,
        lanes: Arc<Lanes>,
        clock: Arc<dyn Clock>,
        receipts: Arc<Receipts>,
        schedule: Schedule,
    ) -> Self {
        let known = Known { published: BTreeMap::new(), started: clock.boot(), unkept: None };
        let (known, woken) = (Mutex::new(known), AtomicBool::new(false));
        let asking = Semaphore::new(1);
        Self { keys, lanes, clock, receipts, schedule, known, woken, asking }
    }

    /// How often [`Self::pass`] is to be called.
    #[must_use]
    pub fn every(&self) -> Duration {
        self.schedule.rotate_every.map_or(EVERY, |every| (every / 10).min(EVERY))
    }

    /// Something about the keys changed: the next pass is due at once.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
    }

    /// Whether [`Self::wake`] was called since the last time.
    #[must_use]
    pub fn woken(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }

    /// Takes every step that is due.
    ///
    /// # Errors
    /// When one cannot be taken; the next pass tries again.
    pub fn pass(&self) -> Result<(), Halted> {
        self.steps(&mut self.lock(), Lane::Ordinary).map(drop)
    }

    /// An operator wants another key to sign. Where a successor is known everywhere it signs before the old one is cut off,
    /// so that there is no moment without.
    ///
    /// # Errors
    /// When there is no such key, or a step cannot be taken. What was recorded by then goes on by itself.
    pub fn replace(&self, actor: &Actor, asked: &Replacement) -> Result<Replaced, Halted> {
        // A key that leaked ends access; all else about keys waits its turn.
        let lane = if asked.compromised { Lane::Ending } else { Lane::Ordinary };
        let mut known = self.lock_soon()?;
        let looked = self.look(lane)?;
        let signs = signing(&looked.keys, asked.purpose);
        let old = asked.key.clone().or_else(|| signs.map(|record| record.key.id.clone()));
        let old = old.ok_or(Stop::Refused(Refusal::NoSigningKey))?;
        let record = looked.keys.iter().find(|record| record.key.id == old);
        if record.is_none() && asked.compromised && self.keys.is_former(&old) {
            return self.cut_off_former(actor, old, asked, &looked);
        }
        let record = record.ok_or_else(|| Stop::Refused(Refusal::UnknownKey(old.clone())))?;
        let purpose = record.key.purpose;
        let mut mark =
            Mark { seq: looked.head, committed: self.clock.boot(), covers: Covers::Everything };
        if asked.compromised {
            if signs.is_some_and(|signs| signs.key.id == old) {
                let successor = self.planning(&looked, &known, &[], |plan| plan.successor(purpose));
                if let Some(key) = successor {
                    self.command(actor, Command::ActivateKey { key })?;
                }
            }
            let (key, note) = (old.clone(), asked.note.clone());
            mark = self.command(actor, Command::RetireKey { key, compromised: true, note })?;
        } else if record.state == KeyState::Signing {
            let (key, note) = (old.clone(), asked.note.clone());
            mark = self.command(actor, Command::ReplaceKey { key, note })?;
        }
        // The answer is durable already: what cannot be done now is tried again by the next pass.
        if let Err(halted) = self.steps(&mut known, lane) {
            tracing::warn!(%halted, "a rotation is not finished yet");
        }
        let looked = self.look(lane)?;
        let signs = signing(&looked.keys, purpose).map(|record| record.key.id.clone());
        let now = signs.filter(|id| *id != old);
        let (next, waits) = self.planning(&looked, &known, &[], |plan| {
            let next = plan.next_of(purpose);
            let waits = next.map_or(Waits::Nothing, |record| plan.waits(record));
            (next.map(|record| record.key.id.clone()), waits)
        });
        let (signs, waits) = (now.is_some(), if now.is_some() { Waits::Nothing } else { waits });
        Ok(Replaced { replaced: old, key: now.or(next), signs, waits, mark })
    }

    /// The journal has forgotten this key, and this broker still believes the checkpoints that it signed.
    fn cut_off_former(
        &self,
        actor: &Actor,
        old: KeyId,
        asked: &Replacement,
        looked: &Looked,
    ) -> Result<Replaced, Halted> {
        let (key, note) = (old.clone(), asked.note.clone());
        let mark = self.command(actor, Command::RetireKey { key, compromised: true, note })?;
        if let Err(why) = self.keys.remove(&old) {
            tracing::warn!(%why, "what is left of a key is not removed yet");
        }
        let signs = signing(&looked.keys, KeyPurpose::Checkpoint);
        let key = signs.map(|record| record.key.id.clone());
        Ok(Replaced { replaced: old, signs: key.is_some(), key, waits: Waits::Nothing, mark })
    }

    /// Every key that is not forgotten.
    ///
    /// # Errors
    /// When the state cannot be asked.
    pub fn shown(&self) -> Result<Vec<ShownKey>, Halted> {
        let looked = self.look(Lane::Ordinary)?;
        let known = self.lock_soon()?;
        let show = |record: &KeyRecord| {
            let id = &record.key.id;
            let signs = signing(&looked.keys, record.key.purpose);
            ShownKey {
                record: record.clone(),
                signs: signs.is_some_and(|signs| signs.key.id == *id),
                here: self.keys.find(id).is_some(),
                waits: self.planning(&looked, &known, &[], |plan| plan.waits(record)),
                enforcement: self.enforcement(record, looked.head, &known),
            }
        };
        Ok(looked.keys.iter().map(show).collect())
    }

    /// Takes what is due. What the key folder does not let us do is told of, left for the next pass, and keeps nothing else waiting:
    /// a cut-off key whose file cannot be removed must not keep its successor from signing.
    fn steps(&self, known: &mut Known, lane: Lane) -> Result<(), Halted> {
        let (mut stuck, mut unkept) = (Vec::new(), None);
        for _ in 0..STEPS_MAX {
            let looked = self.look(lane)?;
            let untidy = self.tidy(&looked).err();
            unkept = unkept.or(untidy);
            let step = self.planning(&looked, known, &stuck, |plan| plan.step());
            let Some(step) = step else { break };
            match self.take(&step, known) {
                Ok(()) => {}
                Err(Halted::Unkept(why)) => {
                    unkept = unkept.or(Some(why));
                    stuck.push(step);
                }
                Err(Halted::Stop(stop)) => return Err(stop.into()),
            }
        }
        if known.unkept != unkept {
            match &unkept {
                Some(why) => tracing::error!(
                    %why,
                    "the key folder cannot be changed: a key that was cut off or is over never signs again, but its file is still \
                     there; let the broker's user write to the folder, or remove the file by hand. It is tried again"
                ),
                None => tracing::info!("the key folder can be changed again"),
            }
            known.unkept = unkept;
        }
        Ok(())
    }

    fn take(&self, step: &Step, known: &mut Known) -> Result<(), Halted> {
        let by = system();
        match step {
            Step::Publish(purpose) => {
                let spare = self.keys.spare(*purpose);
                let key = spare.map_or_else(|| self.keys.generate(*purpose), Ok)?;
                let mark = self.command(&by, Command::PublishKey(public(&key)))?;
                known.published.insert(key.id().clone(), mark.committed);
                self.keys.published(key.id())?;
                tracing::info!(key = %key.id(), ?purpose, "the next signing key is published");
            }
            Step::Activate(key) => {
                self.command(&by, Command::ActivateKey { key: key.clone() })?;
                tracing::info!(%key, "a signing key came into force");
            }
            Step::Retire(key) => {
                let note = Words::default();
                let retire = Command::RetireKey { key: key.clone(), compromised: false, note };
                self.command(&by, retire)?;
            }
            Step::Forget(key) => {
                // INVARIANT(no_private_half_is_forgotten): once the journal has forgotten it, nobody would remove it. What
                // `tidy` kept of a checkpoint key stays.
                self.keys.retire(key)?;
                self.command(&by, Command::ForgetKey { key: key.clone() })?;
                known.published.remove(key);
            }
        }
        Ok(())
    }

    /// Removes private halves that can never be asked to sign again. A retired credential key can: a request that is
    /// repeated gets the same token while that lives. One that cannot be removed keeps none of the others.
    fn tidy(&self, looked: &Looked) -> Result<(), Unkept> {
        let over = looked.keys.iter().map(|record| match (record.state, record.key.purpose) {
            (KeyState::CutOff, _) => self.keys.remove(&record.key.id),
            (KeyState::Retired, KeyPurpose::Checkpoint) => self.keys.retire(&record.key.id),
            (KeyState::Retired, KeyPurpose::Credential) => Ok(()),
            // Its file may still be called a spare's.
            (KeyState::Published | KeyState::Signing, _) => self.keys.published(&record.key.id),
        });
        // Also those that the journal forgot before they were cut off.
        let locked = self.keys.locked_away();
        let locked = locked.iter().map(|id| self.keys.remove(id));
        over.chain(locked).fold(Ok(()), Result::and)
    }

    fn planning<T>(
        &self,
        looked: &Looked,
        known: &Known,
        stuck: &[Step],
        ask: impl FnOnce(&Plan<'_>) -> T,
    ) -> T {
        let here = |id: &KeyId| self.keys.find(id).is_some();
        let everywhere =
            |record: &KeyRecord| self.enforcement(record, looked.head, known).everywhere;
        ask(&Plan {
            keys: &looked.keys,
            now: looked.now,
            here: &here,
            everywhere: &everywhere,
            schedule: self.schedule,
            stuck,
        })
    }

    fn enforcement(&self, record: &KeyRecord, head: Seq, known: &Known) -> Enforcement {
        let committed = known.published.get(&record.key.id).copied().unwrap_or(known.started);
        // A snapshot of an earlier version does not say which entry published it.
        let seq = if record.published == Seq(0) { head } else { record.published };
        let mark = Mark { seq, committed, covers: Covers::Everything };
        self.receipts.enforcement(&mark, self.clock.boot())
    }

    fn look(&self, lane: Lane) -> Result<Looked, Stop> {
        let read = |answered: &Answered<'_>| Looked {
            keys: answered.state.keys().cloned().collect(),
            now: answered.now,
            head: answered.head.seq,
        };
        wait_as(&self.lanes, lane, system(), Work::Look, read)
    }

    fn command(&self, actor: &Actor, command: Command) -> Result<Mark, Stop> {
        let work = Work::Command(Box::new(command));
        wait_as(&self.lanes, Lane::Ending, actor.clone(), work, |answered| Mark {
            seq: answered.rows.last().map_or(answered.head.seq, |row| row.seq()),
            committed: answered.committed,
            covers: Covers::Everything,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for who has somebody waiting: a pass that itself waits for turns is not waited for without end.
    fn lock_soon(&self) -> Result<MutexGuard<'_, Known>, Stop> {
        for _ in 0..LOCK_TRIES {
            match self.known.try_lock() {
                Ok(known) => return Ok(known),
                Err(TryLockError::Poisoned(known)) => return Ok(known.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_EVERY),
            }
        }
        Err(Stop::busy())
    }
}

#[cfg(test)]
mod tests {
    use protem_clock::clock::ManualClock;
    use protem_metrics::spread::Spread;

    use super::*;
    use crate::engine::lane::LaneLimits;
    use crate::engine::meters::TIMES;

    /// What looks at keys every second is no end of access, and makes no turn small.
    #[test]
    fn keys_are_looked_at_among_ordinary_work_and_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(KeyRing::open(&folder.path().join("keys")).unwrap());
        let lanes = Arc::new(Lanes::new(LaneLimits::default()));
        let clock = Arc::new(ManualClock::new(Duration::from_secs(1_000)));
        let receipts = Arc::new(Receipts::new(clock.boot(), true, Spread::new(TIMES)));
        let rotation =
            Rotation::new(keys, Arc::clone(&lanes), clock, receipts, Schedule::default());
        std::thread::scope(|scope| {
            let pass = scope.spawn(|| rotation.pass());
            while lanes.waiting() == (0, 0) {
                std::thread::yield_now();
            }
            assert_eq!(lanes.waiting(), (0, 1));
            // The pass waits for its turn, and nobody waits for the pass for long.
            let asked = Replacement {
                purpose: KeyPurpose::Credential,
                key: None,
                compromised: true,
                note: Words::default(),
            };
            let replaced = rotation.replace(&system(), &asked);
            assert!(matches!(replaced, Err(Halted::Stop(Stop::Busy { .. }))), "{replaced:?}");
            assert!(matches!(pass.join().unwrap(), Err(Halted::Stop(Stop::Busy { .. }))));
        });
    }
}
