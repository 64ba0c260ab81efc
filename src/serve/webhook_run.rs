//! Tells each webhook what the journal says, in its order but for what it fails to take, until that is acknowledged or parked in sight.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::random;
use protem_verify::time::Time;
use tokio::task::JoinSet;

use crate::engine::broker::Broker;
use crate::journal::fault::Fault;
use crate::journal::outbox::{Aside, Key, Later, Note, Parked, Place, Waits};
use crate::serve::webhook::{Failing, Undelivered, Webhook, Webhooks};
use crate::serve::webhook_look::{First, Look, Message, Step};

/// How fast the tellers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often it is looked whether there is something to tell.
    pub look: Duration,
    /// At most so long after the first failed try; twice as long after each further one.
    pub first: Duration,
    /// At most so long between two tries.
    pub most: Duration,
    /// One try, from the first lookup to the status.
    pub whole: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { look: LOOK, first: PAUSE_FIRST, most: PAUSE_MOST, whole: WHOLE }
    }
}

impl Pace {
    /// How long to wait after so many failed tries: exponential, with full jitter, so that a receiver that comes back meets
    /// its senders one by one.
    fn pause(&self, tries: u32, chance: u32) -> Duration {
        let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        let most = self.first.saturating_mul(doubled).min(self.most);
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        let part = u64::from(chance).saturating_mul(millis) / u64::from(u32::MAX);
        Duration::from_millis(part).max(PAUSE_LEAST.min(most))
    }
}

/// One task for each webhook, so that a bad receiver delays no other; nobody else waits for any of them.
pub async fn run(webhooks: Webhooks, broker: Broker, pace: Pace) {
    for why in webhooks.problems(&broker.bundle()) {
        tracing::warn!(why, "somebody is not told what happens");
    }
    let mut tellers = JoinSet::new();
    for webhook in webhooks.iter() {
        tellers.spawn(Teller::new(webhook, &webhooks, &broker, pace).run());
    }
    // They never end by themselves; dropped, all of them end.
    while tellers.join_next().await.is_some() {}
}

/// Notes where a webhook that was never told begins: here. Called before anything is served, so that nothing is missed.
///
/// # Errors
/// When the store cannot be asked.
pub fn begin(webhooks: &Webhooks, broker: &Broker) -> Result<(), Fault> {
    let reader = broker.reader();
    for webhook in webhooks.iter() {
        if reader.told(&webhook.name)?.is_none() {
            let told = Some(reader.head()?.seq);
            reader.note(&webhook.name, &Note { told, ..Note::default() })?;
        }
    }
    Ok(())
}

struct Teller {
    webhook: Arc<Webhook>,
    broker: Broker,
    pace: Pace,
    look: Look,
    first: First,
    strikes: Strikes,
}

/// Tries that failed since a message was taken.
#[derive(Default)]
struct Strikes {
    /// Of whichever messages: whoever takes none is tried ever more rarely, however much there is to tell.
    count: u32,
    /// The message that was tried last.
    last: Option<Sitting>,
}

/// One message's tries in a row.
#[derive(Clone)]
struct Sitting {
    key: Key,
    /// With those before it was set aside.
    tries: u32,
    /// Tries that can be the message's own fault.
    answered: u32,
    /// So many of them, and it is set aside.
    patience: u32,
}

/// What becomes of a message that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It keeps its place: its receiver is away, or will take it in a moment.
    Again,
    /// Others go past it.
    Aside,
    Parked,
}

impl Teller {
    fn new(webhook: &Arc<Webhook>, all: &Webhooks, broker: &Broker, pace: Pace) -> Self {
        let look = Look::new(webhook, all, broker);
        let (webhook, broker) = (Arc::clone(webhook), broker.clone());
        Self { webhook, broker, pace, look, first: First::Due, strikes: Strikes::default() }
    }

    async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(Step::Tell(message)) => self.tell(*message).await,
                Ok(Step::GoOn) => {}
                Ok(Step::Rest) => tokio::time::sleep(self.pace.look).await,
                Err(fault) => {
                    let webhook = &self.webhook.name;
                    tracing::warn!(%webhook, %fault, "what a webhook is to be told cannot be read");
                    tokio::time::sleep(FAULT_PAUSE).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Fault> {
        let (mut look, first) = (self.look.clone(), self.first);
        let looked = tokio::task::spawn_blocking(move || look.next(first).map(|step| (look, step)));
        let (look, step) = looked.await.map_err(|_| Fault::Stopping)??;
        self.look = look;
        Ok(step)
    }

    /// One try.
    async fn tell(&mut self, message: Message) {
        let now = Time::from(self.broker.clock().unix());
        let (notice, whole) = (&message.notice, self.pace.whole);
        let posted = self.webhook.post(notice, self.broker.issuer(), now, whole).await;
        let mut note = Note::default();
        self.first = First::Due;
        let Err(bad) = posted else {
            self.strikes = Strikes::default();
            self.webhook.set_failing(None);
            note.done = Some(message.key.clone());
            return self.note(note, message).await;
        };
        let sitting = self.strikes.add(&message.key, message.in_order, message.tries, &bad);
        let pause = self.pace.pause(self.strikes.count, u32::from_be_bytes(random::bytes()));
        let (tries, why) = (sitting.tries, bad.why().to_owned());
        let at = Time::from(self.broker.clock().unix());
        let fate = sitting.fate(&bad, at.since(notice.at), self.webhook.give_up);
        self.failing(&message, tries, &why, at + pause);
        let waits = match fate {
            Fate::Again => None,
            Fate::Aside if self.full().await => {
                Some(Waits::Parked(Parked { at, tries, why: format!("{why}; {FULL}") }))
            }
            Fate::Aside => Some(Waits::Aside(Aside { tries, why })),
            Fate::Parked => Some(Waits::Parked(Parked { at, tries, why })),
        };
        if let Some(waits) = waits {
            let due = match &waits {
                Waits::Parked(parked) => {
                    self.parked(&message, parked);
                    notice.at
                }
                Waits::Aside(_) | Waits::Due => {
                    at + self.pace.pause(tries, u32::from_be_bytes(random::bytes()))
                }
            };
            if !message.in_order {
                self.first = First::Log;
            }
            note.keep.push(Later { key: message.key.clone(), due, waits });
            self.strikes.last = None;
            self.note(note, message).await;
        }
        tokio::time::sleep(pause).await;
    }

    fn failing(&self, message: &Message, tries: u32, why: &str, next: Time) {
        let Message { notice, .. } = message;
        let (occasion, seq, why) = (notice.occasion, notice.seq.0, why.to_owned());
        if tries.is_power_of_two() {
            let (webhook, what) = (&self.webhook.name, occasion.as_str());
            tracing::warn!(%webhook, seq, what, tries, why, "a webhook takes no message");
        }
        self.webhook.set_failing(Some(Failing { occasion, seq, tries, why, next }));
    }

    fn parked(&self, message: &Message, parked: &Parked) {
        let (webhook, seq) = (&self.webhook.name, message.key.seq.0);
        let Parked { tries, why, .. } = parked;
        tracing::error!(
            %webhook, seq, what = message.key.kind, tries, why,
            "a message is parked; `protem webhooks` shows it and sends it again"
        );
        self.webhook.set_failing(None);
    }

    /// Whether so much is set aside that no more is.
    async fn full(&self) -> bool {
        let (name, reader) = (self.webhook.name.clone(), Arc::clone(self.broker.reader()));
        let count = move || reader.count(&name, Place::Aside);
        let counted = tokio::task::spawn_blocking(count).await.unwrap_or(Err(Fault::Stopping));
        counted.is_ok_and(|count| count >= ASIDE_MAX)
    }

    /// Notes what became of a message before the next one is looked at: what is not noted is told again.
    async fn note(&mut self, mut note: Note, message: Message) {
        note.told = message.in_order.then_some(message.key.seq);
        let told = note.told;
        let note = Arc::new(note);
        loop {
            let (name, reader) = (self.webhook.name.clone(), Arc::clone(self.broker.reader()));
            let what = Arc::clone(&note);
            let done = tokio::task::spawn_blocking(move || reader.note(&name, &what)).await;
            let Err(fault) = done.unwrap_or(Err(Fault::Stopping)) else { break };
            let webhook = &self.webhook.name;
            tracing::warn!(%webhook, %fault, "it cannot be noted what a webhook was told");
            tokio::time::sleep(FAULT_PAUSE).await;
        }
        if let Some(told) = told {
            self.look.told(told);
        }
    }
}

impl Strikes {
    /// Counts a failed try of a message that had `tries` before it was set aside.
    fn add(&mut self, key: &Key, in_order: bool, tries: u32, bad: &Undelivered) -> Sitting {
        let last = self.last.take().filter(|last| last.key == *key);
        let mut sitting = last.unwrap_or_else(|| {
            // When nothing was taken since another one failed, one try tells whether that was the other one's fault.
            let patience = if in_order && self.count == 0 { TRIES_ASIDE } else { 1 };
            Sitting { key: key.clone(), tries, answered: 0, patience }
        });
        let answered = u32::from(!matches!(bad, Undelivered::Away(_)));
        self.count = self.count.saturating_add(1);
        sitting.tries = sitting.tries.saturating_add(1);
        sitting.answered = sitting.answered.saturating_add(answered);
        self.last.insert(sitting).clone()
    }
}

impl Sitting {
    /// What becomes of the message. It is given up when its receiver will never want it, or it is too old; one that waited
    /// behind others, or was let go, gets some tries all the same.
    fn fate(&self, bad: &Undelivered, age: Duration, give_up: Duration) -> Fate {
        let hopeless = match bad {
            Undelivered::Unwanted(_) => self.tries >= TRIES_UNWANTED,
            Undelivered::Failed(_) | Undelivered::Away(_) => {
                self.tries >= TRIES_LEAST && age >= give_up
            }
        };
        match bad {
            _ if hopeless => Fate::Parked,
            Undelivered::Away(_) => Fate::Again,
            Undelivered::Unwanted(_) | Undelivered::Failed(_) if self.answered >= self.patience => {
                Fate::Aside
            }
            Undelivered::Unwanted(_) | Undelivered::Failed(_) => Fate::Again,
        }
    }
}

/// One try: a receiver that takes longer shall say yes first and work then.
const WHOLE: Duration = Duration::from_secs(10);
/// How often it is looked for something to tell: people are slower.
const LOOK: Duration = Duration::from_millis(250);
/// The pause after a first failed try is at most so long: a receiver that restarts is back after some seconds.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// The longest pause: who comes back after an hour is told within minutes.
const PAUSE_MOST: Duration = Duration::from_secs(5 * 60);
/// The shortest: chance may not make it none.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
/// The pause when the journal cannot be asked.
const FAULT_PAUSE: Duration = Duration::from_secs(1);
/// Tries that every message gets, however old it is.
const TRIES_LEAST: u32 = 3;
/// Tries of a message that its receiver calls bad: a minute, in case it was the receiver that was bad.
const TRIES_UNWANTED: u32 = 6;
/// Tries that can be a message's own fault, after which others go past it: a receiver that restarts behind a proxy has some
/// seconds, and gets all in order.
const TRIES_ASIDE: u32 = 4;
/// Messages of one webhook that are set aside, at most; one more is parked. Who takes some messages and fails so many is not helped
/// by being tried ever more.
const ASIDE_MAX: u64 = 1_000;
/// Said of that one.
const FULL: &str = "too many are set aside already";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_minutes_and_are_spread() {
        let pace = Pace::default();
        let most = |tries| pace.pause(tries, u32::MAX).as_secs();
        assert_eq!([1, 2, 3, 8, 9, 99].map(most), [2, 4, 8, 256, 300, 300]);
        assert_eq!(pace.pause(9, u32::MAX / 2).as_secs(), 149);
        assert_eq!(pace.pause(9, 0), PAUSE_LEAST);
    }

    #[test]
    fn who_takes_nothing_is_not_tried_by_each_message_in_turn() {
        let failed = Undelivered::Failed("it answered 500".to_owned());
        let hour = Duration::from_secs(3_600);
        let mut strikes = Strikes::default();
        let mut fates = Vec::new();
        for seq in [1, 1, 1, 1, 2, 3, 4, 1] {
            let key = Key { seq: protem_verify::ids::Seq(seq), kind: "pending".to_owned() };
            let sitting = strikes.add(&key, true, 0, &failed);
            fates.push(sitting.fate(&failed, Duration::ZERO, hour));
            if fates.last() == Some(&Fate::Aside) {
                strikes.last = None;
            }
        }
        let (again, aside) = (Fate::Again, Fate::Aside);
        assert_eq!(fates, [again, again, again, aside, aside, aside, aside, aside]);
        assert_eq!(strikes.count, 8, "the pause grows over all of them");
        // What is set aside has one try at its time, and after somebody took a message the next one has some again.
        strikes = Strikes::default();
        let key = Key { seq: protem_verify::ids::Seq(5), kind: "pending".to_owned() };
        assert_eq!(strikes.add(&key, false, 4, &failed).fate(&failed, Duration::ZERO, hour), aside);
        strikes = Strikes::default();
        assert_eq!(strikes.add(&key, true, 0, &failed).fate(&failed, Duration::ZERO, hour), again);
    }

    #[track_caller]
    fn check(bad: &Undelivered, tries: u32, answered: u32, age: Duration, expect: Fate) {
        let key = Key { seq: protem_verify::ids::Seq(1), kind: "pending".to_owned() };
        let sitting = Sitting { key, tries, answered, patience: TRIES_ASIDE };
        let fate = sitting.fate(bad, age, Duration::from_secs(3_600));
        assert_eq!(fate, expect, "{bad:?} {tries} {age:?}");
    }

    #[test]
    fn a_message_is_given_up_when_it_is_old_and_was_tried() {
        let hour = Duration::from_secs(3_600);
        let failed = Undelivered::Failed("it answered 500".to_owned());
        let unwanted = Undelivered::Unwanted("it answered 400".to_owned());
        let away = Undelivered::Away("no connection".to_owned());
        check(&failed, 2, 2, hour * 9, Fate::Again);
        check(&failed, 3, 3, hour, Fate::Parked);
        check(&unwanted, 3, 3, hour * 9, Fate::Again);
        check(&unwanted, 6, 6, Duration::ZERO, Fate::Parked);
        check(&away, 2, 0, hour * 9, Fate::Again);
        check(&away, 3, 0, hour, Fate::Parked);
    }

    #[test]
    fn a_message_is_set_aside_for_what_can_be_its_own_fault() {
        let young = Duration::from_secs(60);
        let failed = Undelivered::Failed("it answered 500".to_owned());
        let unwanted = Undelivered::Unwanted("it answered 400".to_owned());
        let away = Undelivered::Away("no connection".to_owned());
        check(&failed, 3, 3, young, Fate::Again);
        check(&failed, 100, 3, young, Fate::Again);
        check(&failed, 4, 4, young, Fate::Aside);
        check(&unwanted, 4, 4, young, Fate::Aside);
        check(&away, 100, 0, young, Fate::Again);
        check(&away, 100, 4, young, Fate::Again);
    }
}
