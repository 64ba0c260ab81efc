//! What a webhook is to be told next: the journal in its order, what was set aside, and whom it concerns when a bundle changed.

use std::sync::Arc;

use protem_core::event::Event;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::engine::notify::{About, Notice, Occasion};
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::outbox::{Aside, Key, Later, Note, Place, Waits};
use crate::policy::bundle::{Bundle, Load};
use crate::serve::webhook::{Webhook, Webhooks};

/// Follows the journal for one webhook. Its calls block.
#[derive(Clone)]
pub(in crate::serve) struct Look {
    webhook: Arc<Webhook>,
    all: Webhooks,
    broker: Broker,
    /// All up to here was looked at; none: not asked yet.
    seen: Option<Seq>,
    /// What the store knows of that.
    noted: Seq,
    /// The bundle that an entry put in force, the last one that was asked for.
    former: Option<(Seq, Arc<Bundle>)>,
}

/// What is to be told.
pub(in crate::serve) struct Message {
    pub(in crate::serve) notice: Notice,
    /// Where the outbox has it, or will.
    pub(in crate::serve) key: Key,
    /// Its turn in the log's order has come; else the outbox holds it.
    pub(in crate::serve) in_order: bool,
    /// Tries before it was set aside.
    pub(in crate::serve) tries: u32,
}

/// What comes next.
pub(in crate::serve) enum Step {
    Tell(Box<Message>),
    /// There is more to look at.
    GoOn,
    /// All that happened is told, or set aside.
    Rest,
}

/// Where it is looked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum First {
    /// At what is due.
    Due,
    /// At the log: what was set aside has just failed again, and others must not wait for all of that.
    Log,
}

/// Who is told.
enum Whose {
    Ours(Box<Notice>),
    /// A bundle moved it to these, which have looked at it before.
    Moved(Vec<Arc<Webhook>>),
    Nobodys,
}

impl Look {
    pub(in crate::serve) fn new(webhook: &Arc<Webhook>, all: &Webhooks, broker: &Broker) -> Self {
        let (webhook, all, broker) = (Arc::clone(webhook), all.clone(), broker.clone());
        Self { webhook, all, broker, seen: None, noted: Seq(0), former: None }
    }

    /// All up to here is noted as told.
    pub(in crate::serve) fn told(&mut self, told: Seq) {
        (self.seen, self.noted) = (Some(told), told);
    }

    /// What comes next.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(in crate::serve) fn next(&mut self, first: First) -> Result<Step, Fault> {
        let due_first = match first {
            First::Due => [true, false],
            First::Log => [false, true],
        };
        for due in due_first {
            let step = if due { self.due()? } else { self.log()? };
            if !matches!(step, Step::Rest) {
                return Ok(step);
            }
        }
        Ok(Step::Rest)
    }

    /// The next entry that concerns this webhook.
    fn log(&mut self) -> Result<Step, Fault> {
        let reader = Arc::clone(self.broker.reader());
        // Before the bundle is asked for: it is the one of the newest of these entries, or a newer one.
        let head = self.broker.head().seq;
        let mut seen = match self.seen {
            Some(seen) => seen,
            None => {
                let told = reader.told(&self.webhook.name)?.unwrap_or(head).min(head);
                self.told(told);
                told
            }
        };
        if head <= seen {
            return Ok(Step::Rest);
        }
        for row in reader.read(seen, READ_MAX)?.into_iter().filter(|row| row.seq() <= head) {
            let occasion = Occasion::of(row.what()).filter(|one| self.webhook.wants(*one));
            let whose = match occasion {
                Some(_) => self.whose(&row, false)?,
                None => Whose::Nobodys,
            };
            let mut keep: Vec<Later> = Vec::new();
            match (whose, occasion) {
                (Whose::Ours(notice), Some(occasion)) => {
                    let key = key(row.seq(), occasion);
                    let Some(follows) = self.follows(&notice, &key)? else {
                        let message = Message { notice: *notice, key, in_order: true, tries: 0 };
                        return Ok(Step::Tell(Box::new(message)));
                    };
                    keep.push(behind(key, 0, &follows));
                }
                (Whose::Moved(to), Some(occasion)) => {
                    self.hand_over(&to, &key(row.seq(), occasion))?;
                }
                (_, _) => {}
            }
            seen = row.seq();
            if !keep.is_empty() || seen.0.saturating_sub(self.noted.0) >= NOTE_EVERY {
                let note = Note { told: Some(seen), keep, done: None };
                reader.note(&self.webhook.name, &note)?;
                self.noted = seen;
            }
            self.seen = Some(seen);
        }
        Ok(Step::GoOn)
    }

    /// What is due of that which is told out of the log's order. What became of no use meanwhile is forgotten.
    fn due(&mut self) -> Result<Step, Fault> {
        let reader = Arc::clone(self.broker.reader());
        let place = Place::Due(self.broker.now());
        let due = reader.later(&self.webhook.name, place, 1)?.pop();
        let Some(Later { key, due, waits }) = due else { return Ok(Step::Rest) };
        let aside = match &waits {
            Waits::Aside(aside) => Some(aside),
            Waits::Due | Waits::Parked(_) => None,
        };
        let whose = match (reader.entry(key.seq)?, Occasion::named(&key.kind)) {
            (Some(row), Some(occasion)) => {
                match (row.what(), occasion == Occasion::Reminder) {
                    // An earlier version kept the reminder beside the request, for its time.
                    (Event::GrantRequested(requested), true) => {
                        self.reminded(&requested.grant, due, waits.clone())?;
                        Whose::Nobodys
                    }
                    (_, _) => self.whose(&row, true)?,
                }
            }
            (_, _) => Whose::Nobodys,
        };
        match whose {
            Whose::Ours(notice) => {
                let tries = aside.map_or(0, |aside| aside.tries);
                if let Some(follows) = self.follows(&notice, &key)? {
                    let keep = vec![behind(key, tries, &follows)];
                    reader.note(&self.webhook.name, &Note { keep, ..Note::default() })?;
                    return Ok(Step::GoOn);
                }
                let message = Message { notice: *notice, key, in_order: false, tries };
                return Ok(Step::Tell(Box::new(message)));
            }
            Whose::Moved(to) => self.hand_over(&to, &key)?,
            Whose::Nobodys => {}
        }
        reader.note(&self.webhook.name, &Note { done: Some(key), ..Note::default() })?;
        Ok(Step::GoOn)
    }

    /// Keeps under its own entry a reminder that is there already; one that is not comes in the log's order.
    fn reminded(&self, grant: &GrantId, due: Time, waits: Waits) -> Result<(), Fault> {
        let reader = self.broker.reader();
        for seq in reader.grant_entries(grant)? {
            let row = reader.entry(seq)?;
            let is = |row: &Committed<Event>| matches!(row.what(), Event::RequestReminded { .. });
            if row.as_ref().is_some_and(is) {
                let keep = vec![Later { key: key(seq, Occasion::Reminder), due, waits }];
                return reader.note(&self.webhook.name, &Note { keep, ..Note::default() });
            }
        }
        Ok(())
    }

    /// An earlier message about the same request that is set aside: what came of a request is told after the request, so that
    /// nobody is asked to decide what others have decided. A reminder does not count: it is of no use once there is news.
    fn follows(&self, notice: &Notice, key: &Key) -> Result<Option<Later>, Fault> {
        let About::Grant(news) = &notice.about else { return Ok(None) };
        let reader = self.broker.reader();
        let aside = reader.later(&self.webhook.name, Place::Aside, u32::MAX)?;
        if aside.is_empty() {
            return Ok(None);
        }
        let same = reader.grant_entries(&news.grant)?;
        let reminder = Occasion::Reminder.as_str();
        let before = |later: &Later| later.key < *key && later.key.kind != reminder;
        Ok(aside.into_iter().find(|later| before(later) && same.contains(&later.key.seq)))
    }

    /// Who is told of an entry. Those whom it concerned when it happened are told; but if a bundle has moved it to other
    /// webhooks since, which have passed it by, then these, since nobody may be left who hears the former one. `kept`: the
    /// outbox holds it, so it is this webhook's, whatever bundle said so.
    fn whose(&mut self, row: &Committed<Event>, kept: bool) -> Result<Whose, Fault> {
        let reader = Arc::clone(self.broker.reader());
        let now = self.broker.bundle();
        let made = |bundle: &Bundle| Notice::of(row, bundle, &*reader);
        let Some(notice) = made(&now)? else { return Ok(Whose::Nobodys) };
        if !self.webhook.wants(notice.occasion) {
            return Ok(Whose::Nobodys);
        }
        if self.webhook.concerns(&notice, &now) {
            return Ok(Whose::Ours(Box::new(notice)));
        }
        let then = self.in_force(row.seq())?;
        let Some(former) = made(&then)? else { return Ok(Whose::Nobodys) };
        if !kept && !self.webhook.concerns(&former, &then) {
            return Ok(Whose::Nobodys);
        }
        let new =
            |one: &&Arc<Webhook>| one.concerns(&notice, &now) && !one.concerns(&former, &then);
        let to: Vec<Arc<Webhook>> = self.all.iter().filter(new).cloned().collect();
        if to.is_empty() { Ok(Whose::Ours(Box::new(notice))) } else { Ok(Whose::Moved(to)) }
    }

    /// The bundle that was in force at an entry. One that can be read no more counts as the one that is.
    fn in_force(&mut self, then: Seq) -> Result<Arc<Bundle>, Fault> {
        let reader = Arc::clone(self.broker.reader());
        let now = self.broker.bundle();
        let seq = reader.bundle_before(then)?;
        let Some(seq) = seq else { return Ok(now) };
        if let Some((_, former)) = self.former.as_ref().filter(|(at, _)| *at == seq) {
            return Ok(Arc::clone(former));
        }
        let row = reader.entry(seq)?;
        let Some(Event::BundleActivated { digest, files }) = row.as_ref().map(Committed::what)
        else {
            return Ok(now);
        };
        let former = if *digest == now.digest() {
            now
        } else {
            match Bundle::load(Arc::clone(files), Load::Activate, now.dev()) {
                Ok(bundle) => Arc::new(bundle),
                Err(_) => now,
            }
        };
        self.former = Some((seq, Arc::clone(&former)));
        Ok(former)
    }

    /// Gives a message to others, before it is forgotten here: what is noted twice is told twice, under one id.
    fn hand_over(&self, to: &[Arc<Webhook>], key: &Key) -> Result<(), Fault> {
        let reader = self.broker.reader();
        for other in to {
            let why = format!("a bundle moved it here from webhook `{}`", self.webhook.name);
            let waits = Waits::Aside(Aside { tries: 0, why });
            let keep = vec![Later { key: key.clone(), due: self.broker.now(), waits }];
            reader.note(&other.name, &Note { keep, ..Note::default() })?;
            let (from, to, seq) = (&self.webhook.name, &other.name, key.seq.0);
            tracing::info!(%from, %to, seq, what = key.kind, "a message is another webhook's now");
        }
        Ok(())
    }
}

/// A message that comes after another one of its request, at its time.
fn behind(key: Key, tries: u32, first: &Later) -> Later {
    let Key { seq, kind } = &first.key;
    let why = format!("it follows `{kind}` of entry {seq}, which is set aside");
    Later { key, due: first.due, waits: Waits::Aside(Aside { tries, why }) }
}

fn key(seq: Seq, occasion: Occasion) -> Key {
    Key { seq, kind: occasion.as_str().to_owned() }
}

/// Entries looked at at once.
const READ_MAX: u32 = 64;
/// Entries that are nothing to tell, after which the place is noted: so many are looked at again after a kill, at most.
const NOTE_EVERY: u64 = 1_000;
