//! Tells each webhook what the journal says, in its order, until it is acknowledged or parked in sight.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::random;
use protem_core::event::Event;
use protem_verify::ids::Seq;
use protem_verify::time::Time;
use tokio::task::JoinSet;

use crate::engine::broker::Broker;
use crate::engine::notify::{Notice, Occasion, remind_at};
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::outbox::{Key, Later, Note, Parked, Place};
use crate::serve::webhook::{Failing, Undelivered, Webhook, Webhooks};

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
        tellers.spawn(Teller::new(webhook, &broker, pace).run());
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
    /// All up to here was looked at; none: not asked yet.
    seen: Option<Seq>,
    /// What the store knows of that.
    noted: Seq,
}

/// What is to be told.
struct Message {
    notice: Notice,
    /// It was kept under this key; absent: its turn is in the log.
    kept: Option<Key>,
    /// To be said once more at its time.
    remind: Option<Later>,
}

/// What comes next.
enum Step {
    Tell(Box<Message>),
    /// There is more to look at.
    GoOn,
    /// All that happened is told.
    Rest,
}

impl Teller {
    fn new(webhook: &Arc<Webhook>, broker: &Broker, pace: Pace) -> Self {
        let (webhook, broker) = (Arc::clone(webhook), broker.clone());
        Self { webhook, broker, pace, seen: None, noted: Seq(0) }
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
        let (webhook, broker) = (Arc::clone(&self.webhook), self.broker.clone());
        let (seen, noted) = (self.seen, self.noted);
        let looked = tokio::task::spawn_blocking(move || look(&webhook, &broker, seen, noted));
        let Looked { step, seen, noted } = looked.await.map_err(|_| Fault::Stopping)??;
        (self.seen, self.noted) = (Some(seen), noted);
        Ok(step)
    }

    async fn tell(&mut self, message: Message) {
        let Message { notice, kept, remind } = message;
        let mut note = Note::default();
        note.keep.extend(remind);
        if kept.is_none() {
            note.told = Some(notice.seq);
        }
        match self.deliver(&notice).await {
            None => note.done = kept,
            Some(parked) => {
                let key = kept.unwrap_or_else(|| key(notice.seq, notice.occasion));
                note.keep.push(Later { key, due: notice.at, parked: Some(parked) });
            }
        }
        self.note(note).await;
    }

    /// Notes what became of a message before the next one is looked at: what is not noted is told again.
    async fn note(&mut self, note: Note) {
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
            (self.seen, self.noted) = (Some(told), told);
        }
    }

    /// Tries until it is acknowledged, or given up.
    async fn deliver(&self, notice: &Notice) -> Option<Parked> {
        let (webhook, name) = (&self.webhook, &self.webhook.name);
        let (seq, what) = (notice.seq.0, notice.occasion.as_str());
        let (mut tries, whole) = (0_u32, self.pace.whole);
        loop {
            let now = Time::from(self.broker.clock().unix());
            let Err(bad) = webhook.post(notice, self.broker.issuer(), now, whole).await else {
                webhook.set_failing(None);
                return None;
            };
            tries = tries.saturating_add(1);
            let now = Time::from(self.broker.clock().unix());
            let why = bad.why().to_owned();
            if hopeless(&bad, tries, now.since(notice.at), webhook.give_up) {
                tracing::error!(
                    webhook = %name, seq, what, tries, why,
                    "a message is parked; `protem webhooks` shows it and sends it again"
                );
                webhook.set_failing(None);
                return Some(Parked { at: now, tries, why });
            }
            let pause = self.pace.pause(tries, u32::from_be_bytes(random::bytes()));
            if tries.is_power_of_two() {
                tracing::warn!(webhook = %name, seq, what, tries, why, "a webhook takes no message");
            }
            let (occasion, next) = (notice.occasion, now + pause);
            webhook.set_failing(Some(Failing { occasion, seq, tries, why, next }));
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether a message is given up: its receiver will never want it, or it is too old. A message that waited behind others, or
/// was let go, gets some tries all the same.
fn hopeless(bad: &Undelivered, tries: u32, age: Duration, give_up: Duration) -> bool {
    match bad {
        Undelivered::Unwanted(_) => tries >= TRIES_UNWANTED,
        Undelivered::Failed(_) => tries >= TRIES_LEAST && age >= give_up,
    }
}

struct Looked {
    step: Step,
    seen: Seq,
    noted: Seq,
}

/// What was due first, else the next entry that concerns this webhook. Blocks.
fn look(
    webhook: &Webhook,
    broker: &Broker,
    seen: Option<Seq>,
    noted: Seq,
) -> Result<Looked, Fault> {
    let reader = &**broker.reader();
    let (mut seen, mut noted) = match seen {
        Some(seen) => (seen, noted),
        None => {
            let head = reader.head()?.seq;
            let told = reader.told(&webhook.name)?.unwrap_or(head).min(head);
            (told, told)
        }
    };
    if let Some(step) = kept(webhook, broker)? {
        return Ok(Looked { step, seen, noted });
    }
    if broker.head().seq <= seen {
        return Ok(Looked { step: Step::Rest, seen, noted });
    }
    let bundle = broker.bundle();
    for row in reader.read(seen, READ_MAX)? {
        let remind = reminder(webhook, &row);
        let notice = match Occasion::of(row.what()).filter(|one| webhook.wants(*one)) {
            Some(_) => Notice::of(&row, &bundle, reader)?,
            None => None,
        };
        if let Some(notice) = notice.filter(|notice| webhook.concerns(notice, &bundle)) {
            let message = Message { notice, kept: None, remind };
            return Ok(Looked { step: Step::Tell(Box::new(message)), seen, noted });
        }
        seen = row.seq();
        if remind.is_some() || seen.0.saturating_sub(noted.0) >= NOTE_EVERY {
            let keep = remind.into_iter().collect();
            reader.note(&webhook.name, &Note { told: Some(seen), keep, done: None })?;
            noted = seen;
        }
    }
    Ok(Looked { step: Step::GoOn, seen, noted })
}

/// What is due of that which is told out of the log's order. What became of no use meanwhile is forgotten.
fn kept(webhook: &Webhook, broker: &Broker) -> Result<Option<Step>, Fault> {
    let (reader, bundle) = (&**broker.reader(), broker.bundle());
    let due = reader.later(&webhook.name, Place::Due(broker.now()), 1)?.pop();
    let Some(Later { key, .. }) = due else { return Ok(None) };
    let notice = match (reader.entry(key.seq)?, Occasion::named(&key.kind)) {
        (Some(row), Some(Occasion::Reminder)) => Notice::reminder(&row, &bundle, reader)?,
        (Some(row), Some(_)) => Notice::of(&row, &bundle, reader)?,
        (_, _) => None,
    };
    let Some(notice) = notice.filter(|notice| webhook.concerns(notice, &bundle)) else {
        reader.note(&webhook.name, &Note { done: Some(key), ..Note::default() })?;
        return Ok(Some(Step::GoOn));
    };
    Ok(Some(Step::Tell(Box::new(Message { notice, kept: Some(key), remind: None }))))
}

/// The reminder of a request, if this webhook is told of such; whether it concerns it is looked at when it is due.
fn reminder(webhook: &Webhook, row: &Committed<Event>) -> Option<Later> {
    let due = remind_at(row).filter(|_| webhook.wants(Occasion::Reminder))?;
    Some(Later { key: key(row.seq(), Occasion::Reminder), due, parked: None })
}

fn key(seq: Seq, occasion: Occasion) -> Key {
    Key { seq, kind: occasion.as_str().to_owned() }
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
/// Entries looked at at once.
const READ_MAX: u32 = 64;
/// Entries that are nothing to tell, after which the place is noted: so many are looked at again after a kill, at most.
const NOTE_EVERY: u64 = 1_000;
/// Tries that every message gets, however old it is.
const TRIES_LEAST: u32 = 3;
/// Tries of a message that its receiver calls bad: a minute, in case it was the receiver that was bad.
const TRIES_UNWANTED: u32 = 6;

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
    fn a_message_is_given_up_when_it_is_old_and_was_tried() {
        let hour = Duration::from_secs(3_600);
        let failed = Undelivered::Failed("it answered 500".to_owned());
        let unwanted = Undelivered::Unwanted("it answered 400".to_owned());
        for (bad, tries, age, expect) in [
            (&failed, 100, hour / 2, false),
            (&failed, 2, hour * 9, false),
            (&failed, 3, hour, true),
            (&unwanted, 5, hour * 9, false),
            (&unwanted, 6, Duration::ZERO, true),
        ] {
            assert_eq!(hopeless(bad, tries, age, hour), expect, "{bad:?} {tries} {age:?}");
        }
    }
}
