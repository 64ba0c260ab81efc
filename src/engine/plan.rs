//! What is to be done about the keys, as a pure function of what is known of them.

use std::time::Duration;

use protem_core::event::KeyPurpose;
use protem_core::grant::{KeyRecord, KeyState};
use protem_core::limits::SIGNING_KEYS_MAX;
use protem_verify::names::KeyId;
use protem_verify::time::Time;

/// How long keys live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long a key signs before the next one does; `None`: until somebody asks.
    pub rotate_every: Option<Duration>,
    /// How long a credential key is in the public key set before it signs.
    pub jwks_wait: Duration,
}

impl Default for Schedule {
    /// As the settings are when they say nothing.
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        Self { rotate_every: Some(hours(24)), jwks_wait: hours(1) / 3 }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a key known ahead of its time.
    Publish(KeyPurpose),
    /// Let it sign.
    Activate(KeyId),
    /// Let it sign no more.
    Retire(KeyId),
    /// Nothing needs it any more.
    Forget(KeyId),
}

/// What a key's next step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: there is no next step, or it is taken in a moment.
    Nothing,
    /// Every enforcing gateway's word that it knows the key, or the bound.
    Gateways,
    /// Those who read the public key set now and then, until this time.
    Pollers(Time),
    /// Its turn, at this time.
    Turn(Time),
    /// Somebody who asks for a rotation.
    Asked,
    /// Earlier keys to be forgotten: as many are known as gateways hold.
    Room,
    /// The last that it signed to die, at this time.
    Dying(Time),
}

/// All that decides.
pub struct Plan<'a> {
    /// Every key that is not forgotten.
    pub keys: &'a [KeyRecord],
    /// The journal's time.
    pub now: Time,
    /// Whether a key's private half is here.
    pub here: &'a dyn Fn(&KeyId) -> bool,
    /// Whether every gateway that may be fresh knows a key.
    pub everywhere: &'a dyn Fn(&KeyRecord) -> bool,
    /// How long keys live.
    pub schedule: Schedule,
    /// Steps that cannot be taken now: the others do not wait for them.
    pub stuck: &'a [Step],
}

const PURPOSES: [KeyPurpose; 2] = [KeyPurpose::Credential, KeyPurpose::Checkpoint];

/// The key that signs for a purpose: the one activated last.
#[must_use]
pub fn signing(keys: &[KeyRecord], purpose: KeyPurpose) -> Option<&KeyRecord> {
    let signs =
        |record: &&KeyRecord| record.key.purpose == purpose && record.state == KeyState::Signing;
    keys.iter().filter(signs).max_by_key(|record| record.activated)
}

impl Plan<'_> {
    /// The next step, if one is due.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        PURPOSES.into_iter().find_map(|purpose| self.step_of(purpose))
    }

    fn step_of(&self, purpose: KeyPurpose) -> Option<Step> {
        let dead = self.of(purpose).filter(|record| record.dead(self.now));
        let mut forget = dead.map(|record| Step::Forget(record.key.id.clone()));
        if let Some(forget) = forget.find(|step| !self.stuck.contains(step)) {
            return Some(forget);
        }
        // A journal has one broker as yet: what signs beside the newest, or was published and is lost, is nobody else's.
        let signs = signing(self.keys, purpose);
        let over = self.of(purpose).find(|record| match record.state {
            KeyState::Signing => signs.is_some_and(|signs| signs.key.id != record.key.id),
            KeyState::Published => !(self.here)(&record.key.id),
            KeyState::Retired | KeyState::CutOff => false,
        });
        if let Some(over) = over {
            return Some(Step::Retire(over.key.id.clone()));
        }
        let Some(next) = self.next_of(purpose) else {
            let publish = Step::Publish(purpose);
            return (self.room(purpose) && !self.stuck.contains(&publish)).then_some(publish);
        };
        let waits = self.waits(next);
        (waits == Waits::Nothing).then(|| Step::Activate(next.key.id.clone()))
    }

    /// The key that signs next.
    #[must_use]
    pub fn next_of(&self, purpose: KeyPurpose) -> Option<&KeyRecord> {
        let next = self.of(purpose).filter(|record| record.state == KeyState::Published);
        let next = next.filter(|record| (self.here)(&record.key.id));
        next.min_by_key(|record| (record.published, record.created))
    }

    /// The key that may sign at once when the one that signs must go.
    #[must_use]
    pub fn successor(&self, purpose: KeyPurpose) -> Option<KeyId> {
        let next = self.next_of(purpose).filter(|next| self.unready(next, true).is_none());
        next.map(|record| record.key.id.clone())
    }

    /// What the key's next step waits for.
    #[must_use]
    pub fn waits(&self, record: &KeyRecord) -> Waits {
        match record.state {
            KeyState::Retired | KeyState::CutOff => return Waits::Dying(record.last_exp),
            KeyState::Signing => return Waits::Nothing,
            KeyState::Published => {}
        }
        let usable = signing(self.keys, record.key.purpose).filter(|at| (self.here)(&at.key.id));
        if let Some(unready) = self.unready(record, usable.is_none()) {
            return unready;
        }
        match (usable, self.schedule.rotate_every) {
            (None, _) => Waits::Nothing,
            // One more is always known ahead: without room for it the last one is not used up.
            (Some(old), _) if old.leaving => self.after_room(record),
            (Some(_), None) => Waits::Asked,
            (Some(old), Some(every)) => {
                let turn = old.since.max(old.created) + every;
                if self.now < turn { Waits::Turn(turn) } else { self.after_room(record) }
            }
        }
    }

    fn after_room(&self, record: &KeyRecord) -> Waits {
        if self.room(record.key.purpose) { Waits::Nothing } else { Waits::Room }
    }

    /// Who must still hear of it. `urgent`: nothing else may sign.
    fn unready(&self, next: &KeyRecord, urgent: bool) -> Option<Waits> {
        let checkpoint = next.key.purpose == KeyPurpose::Checkpoint;
        if urgent && checkpoint {
            return None; // it travels on the very stream that it signs for, ahead of what it signed
        }
        if !(self.everywhere)(next) {
            return Some(Waits::Gateways);
        }
        let told = next.created + self.schedule.jwks_wait;
        // To issue nothing until pollers have come by would help none of them.
        let waits = !urgent && !checkpoint && self.now < told;
        waits.then_some(Waits::Pollers(told))
    }

    fn room(&self, purpose: KeyPurpose) -> bool {
        self.of(purpose).count() < SIGNING_KEYS_MAX
    }

    fn of(&self, purpose: KeyPurpose) -> impl Iterator<Item = &KeyRecord> {
        self.keys.iter().filter(move |record| record.key.purpose == purpose)
    }
}

#[cfg(test)]
mod tests {
    use protem_core::event::PublicKey;
    use protem_verify::ids::Seq;

    use super::*;
    use KeyState::{CutOff, Published, Retired, Signing};

    fn key(id: &str, state: KeyState, at: u64) -> KeyRecord {
        let purpose = KeyPurpose::Credential;
        let id = KeyId::try_from(id).unwrap();
        KeyRecord {
            key: PublicKey { id, purpose, public: [1; 32] },
            state,
            created: Time::from_secs(at),
            published: Seq(at),
            activated: Seq(at),
            since: Time::from_secs(at),
            leaving: false,
            last_exp: Time::from_secs(at + 50),
        }
    }

    /// `known`: keys that gateways know; keys that begin with `lost` have no private half here.
    #[track_caller]
    fn check(keys: &[KeyRecord], known: &[&str], now: u64, expect: Option<Step>) {
        check_stuck(keys, known, now, &[], expect);
    }

    #[track_caller]
    fn check_stuck(
        keys: &[KeyRecord],
        known: &[&str],
        now: u64,
        stuck: &[Step],
        expect: Option<Step>,
    ) {
        let checkpoints = ["c1", "c2"].map(|id| {
            let mut record = key(id, if id == "c1" { Signing } else { Published }, 99_999);
            record.key.purpose = KeyPurpose::Checkpoint;
            record
        });
        let keys = [keys, &checkpoints].concat();
        let plan = Plan {
            keys: &keys,
            now: Time::from_secs(now),
            here: &|id| !id.as_str().starts_with("lost"),
            everywhere: &|record| known.contains(&record.key.id.as_str()),
            schedule: Schedule {
                rotate_every: Some(Duration::from_secs(100)),
                jwks_wait: Duration::from_secs(20),
            },
            stuck,
        };
        assert_eq!(plan.step(), expect);
    }

    fn id(id: &str) -> KeyId {
        KeyId::try_from(id).unwrap()
    }

    #[test]
    fn a_key_is_known_before_it_signs_and_one_more_is_known_ahead() {
        let old = key("a", Signing, 1_000);
        check(std::slice::from_ref(&old), &[], 1_001, Some(Step::Publish(KeyPurpose::Credential)));
        let both = [old, key("b", Published, 1_090)];
        check(&both, &["b"], 1_099, None);
        check(&both, &["b"], 1_100, None); // pollers have had 10 s
        check(&both, &["b"], 1_110, Some(Step::Activate(id("b"))));
        check(&both, &[], 1_110, None); // a gateway does not know it
    }

    #[test]
    fn what_somebody_asked_for_waits_only_for_those_who_must_know() {
        let mut old = key("a", Signing, 1_000);
        old.leaving = true;
        let both = [old, key("b", Published, 1_000)];
        check(&both, &["b"], 1_019, None);
        check(&both, &["b"], 1_020, Some(Step::Activate(id("b"))));
    }

    #[test]
    fn a_compromised_or_lost_key_is_replaced_without_waiting_for_pollers() {
        for old in [key("a", CutOff, 1_000), key("lost", Signing, 1_000)] {
            let both = [old, key("b", Published, 1_001)];
            check(&both, &["b"], 1_002, Some(Step::Activate(id("b"))));
            check(&both, &[], 1_002, None);
        }
    }

    #[test]
    fn what_is_over_is_retired_and_what_is_dead_is_forgotten() {
        let two = [key("a", Signing, 1_000), key("b", Signing, 1_001)];
        check(&two, &[], 1_002, Some(Step::Retire(id("a"))));
        let lost = [key("a", Signing, 1_000), key("lost", Published, 1_001)];
        check(&lost, &[], 1_002, Some(Step::Retire(id("lost"))));
        let next = key("c", Published, 1_001);
        let dying = [key("b", Signing, 1_001), key("a", Retired, 1_000), next];
        check(&dying, &[], 1_049, None);
        check(&dying, &[], 1_050, Some(Step::Forget(id("a"))));
    }

    /// A folder that cannot be changed keeps nobody from signing.
    #[test]
    fn what_cannot_be_done_keeps_nothing_else_from_being_done() {
        let dead = [key("a", CutOff, 1_000), key("b", CutOff, 1_000), key("c", Published, 1_090)];
        let forget = |name: &str| Step::Forget(id(name));
        check_stuck(&dead, &["c"], 1_100, &[], Some(forget("a")));
        check_stuck(&dead, &["c"], 1_100, &[forget("a")], Some(forget("b")));
        let stuck = [forget("a"), forget("b")];
        check_stuck(&dead, &["c"], 1_100, &stuck, Some(Step::Activate(id("c"))));
        let none = [key("a", Signing, 1_000)];
        let publish = Step::Publish(KeyPurpose::Credential);
        check_stuck(&none, &[], 1_001, &[], Some(publish.clone()));
        check_stuck(&none, &[], 1_001, &[publish], None);
    }

    #[test]
    fn the_last_key_that_is_known_ahead_is_not_used_up_for_a_schedule() {
        let mut keys: Vec<KeyRecord> =
            (0..SIGNING_KEYS_MAX - 2).map(|at| key(&format!("r{at}"), Retired, 5_000)).collect();
        keys.push(key("a", Signing, 1_000));
        keys.push(key("b", Published, 1_000));
        check(&keys, &["b"], 5_001, None);
        keys.remove(0);
        check(&keys, &["b"], 5_001, Some(Step::Activate(id("b"))));
        // An emergency takes it.
        keys.push(key("r0", Retired, 5_000));
        keys.iter_mut().for_each(|one| {
            if one.state == Signing {
                one.state = CutOff;
                one.last_exp = Time::from_secs(9_000);
            }
        });
        check(&keys, &["b"], 5_001, Some(Step::Activate(id("b"))));
    }
}
