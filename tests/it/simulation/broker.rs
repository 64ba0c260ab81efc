//! A broker without threads: the real sequencer and feed, turned by hand, that can crash and start again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protem::engine::sequencer::{Answered, Job, Sequencer, Work};
use protem::engine::stop::Stop;
use protem::journal::fault::Fault;
use protem::mint::{SigningKey, mint};
use protem::policy::bundle::Bundle;
use protem_clock::clock::{Clock, ManualClock};
use protem_core::command::Command;
use protem_core::event::{Actor, KeyPurpose, PublicKey};
use protem_core::grant::Grant;
use protem_core::request::AccessRequest;
use protem_core::state::State;
use protem_verify::ids::{Epoch, GrantId, JournalId, Seq};
use protem_verify::time::Time;
use zeroize::Zeroizing;

use super::ask::ISSUER;
use super::chance::Chance;
use super::feed::Feeds;
use super::rules::{self, digests};
use super::store::{Met, Store, Weather};

/// What a command's caller wants to know of a grant once it is durable.
#[derive(Clone, Debug)]
pub enum Look {
    Nothing,
    Request(Box<AccessRequest>),
    Grant(GrantId),
}

/// What came back for one command.
pub struct Reply {
    pub op: u64,
    pub found: Result<Found, Stop>,
}

/// What is durable.
pub struct Found {
    pub rows: Vec<Seq>,
    pub grant: Option<Grant>,
}

/// One broker, up or down.
pub struct Broker {
    pub clock: Arc<ManualClock>,
    pub up: Option<Up>,
    pub weather: Arc<Mutex<(Weather, Met)>>,
    store: Store,
    keys: Arc<Keys>,
    chance: Chance,
}

/// A running broker.
pub struct Up {
    pub sequencer: Sequencer<super::store::Door>,
    pub feeds: Feeds,
    queue: Vec<Job>,
    waiting: Vec<u64>,
    replies: Arc<Mutex<Vec<Reply>>>,
}

/// The private keys of a world.
pub struct Keys {
    pub credentials: Vec<SigningKey>,
    pub checkpoint: SigningKey,
}

impl Keys {
    pub fn new() -> Self {
        let key = |byte, purpose| SigningKey::from_seed(&Zeroizing::new([byte; 32]), purpose);
        let credentials = (1..4).map(|byte| key(byte, KeyPurpose::Credential)).collect();
        Self { credentials, checkpoint: key(9, KeyPurpose::Checkpoint) }
    }
}

pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey { id: key.id().clone(), purpose: key.purpose(), public: key.public() }
}

impl Broker {
    pub fn new(store: Store, keys: Arc<Keys>, unix: Duration, chance: Chance) -> Self {
        let clock = Arc::new(ManualClock::new(unix));
        Self { clock, up: None, weather: Arc::default(), store, keys, chance }
    }

    /// From what the store holds, as a process does that begins anew.
    pub fn start(&mut self) {
        let (mut state, head) = (State::new(), self.store.head());
        for row in self.store.rows(Seq(0)) {
            state.apply(row.at(), row.what());
        }
        let clock: Arc<dyn Clock> = self.clock.clone();
        let door = self.store.door(self.chance.fork(), Arc::clone(&self.weather));
        let dice = Box::new(self.chance.fork());
        let feeds = Feeds::new(&state, &head, &self.keys.checkpoint);
        let fresh = state.journal().is_none();
        let sequencer = Sequencer::new(door, state, head, clock, dice);
        let replies = Arc::default();
        let queue = Vec::new();
        self.up = Some(Up { sequencer, feeds, queue, waiting: Vec::new(), replies });
        if fresh {
            self.open();
        }
    }

    fn open(&mut self) {
        let millis = Time::from(self.clock.unix()).as_millis();
        let [first, second, third] = &self.keys.credentials[..] else { unreachable!() };
        let mut commands = vec![Command::OpenJournal {
            journal: JournalId([7; 16]),
            epoch: Epoch(millis),
            issuer: ISSUER.into(),
            dev: false,
        }];
        for key in [first, second, third, &self.keys.checkpoint] {
            commands.push(Command::PublishKey(public(key)));
        }
        for key in [first, &self.keys.checkpoint] {
            commands.push(Command::ActivateKey { key: key.id().clone() });
        }
        let [digest, ..] = digests();
        commands.push(Command::ActivateBundle { digest, files: Arc::new([]), expect: None });
        for command in commands {
            self.submit(0, "system", command, Look::Nothing);
        }
        self.turn();
    }

    /// Lets a command wait for a turn; a broker that is down takes none.
    pub fn submit(&mut self, op: u64, actor: &str, command: Command, look: Look) -> bool {
        let Some(up) = &mut self.up else { return false };
        let replies = Arc::clone(&up.replies);
        let answer = Box::new(move |answered: Result<Answered<'_>, Stop>| {
            let found = answered.map(|answered| found(&answered, &look));
            replies.lock().unwrap().push(Reply { op, found });
        });
        let work = Work::Command(Box::new(command));
        up.waiting.push(op);
        up.queue.push(Job { actor: Actor(actor.into()), work, answer });
        true
    }

    /// Asks for proof that the store still commits. Beside other brokers that means to look at what they did, under the lock.
    pub fn prove(&mut self, op: u64, alone: bool) -> bool {
        if !alone {
            return self.submit(op, "system", Command::Tick, Look::Nothing);
        }
        let Some(up) = &mut self.up else { return false };
        let replies = Arc::clone(&up.replies);
        let answer = Box::new(move |answered: Result<Answered<'_>, Stop>| {
            let found = answered.map(|answered| found(&answered, &Look::Nothing));
            replies.lock().unwrap().push(Reply { op, found });
        });
        up.waiting.push(op);
        up.queue.push(Job { actor: Actor("system".into()), work: Work::Beat, answer });
        true
    }

    /// One turn over all that waits, with what is due.
    pub fn turn(&mut self) -> Vec<Reply> {
        let due = self.up.as_ref().is_some_and(|up| up.sequencer.is_tick_due());
        if due {
            self.submit(0, "system", Command::Tick, Look::Nothing);
        }
        let Some(up) = &mut self.up else { return Vec::new() };
        let batch = std::mem::take(&mut up.queue);
        if !batch.is_empty() {
            up.sequencer.turn(batch, &mut up.feeds);
        }
        up.waiting.clear();
        std::mem::take(&mut *up.replies.lock().unwrap())
    }

    /// The process dies: what waits is never answered. The ops nobody will hear of.
    pub fn crash(&mut self) -> Vec<u64> {
        self.up.take().map(|up| up.waiting).unwrap_or_default()
    }

    /// The token of a grant's newest credential, made from its committed record.
    pub fn token(&self, grant: &Grant) -> Option<(u32, Time, String)> {
        let newest = grant.newest.as_ref()?;
        let issued = self.store.row(newest.seq)?.credential()?;
        let key = self.keys.credentials.iter().find(|key| *key.id() == issued.what().key)?;
        let token = mint(&issued, &ISSUER.into(), key).ok()?;
        Some((newest.number, issued.what().exp, token.reveal().to_owned()))
    }

    /// The bundle in force, as far as this broker knows.
    pub fn bundle(&self) -> Option<&'static Bundle> {
        rules::bundle(self.state()?.bundle()?)
    }

    pub fn state(&self) -> Option<&State> {
        self.up.as_ref().map(|up| up.sequencer.state())
    }
}

fn found(answered: &Answered<'_>, look: &Look) -> Found {
    let state = answered.state;
    let id = match look {
        Look::Nothing => None,
        Look::Grant(id) => Some(*id),
        Look::Request(request) => request
            .key
            .and_then(|key| state.by_key(&request.by.identity, &key))
            .or_else(|| state.standing(request)),
    };
    let grant = id.and_then(|id| state.grant(&id)).filter(|grant| grant.active_at(answered.now));
    let rows = answered.rows.iter().map(|row| row.seq()).collect();
    Found { rows, grant: grant.cloned() }
}

/// Whether a fault leaves it open what happened.
pub fn is_unknown(stop: &Stop) -> bool {
    matches!(stop, Stop::Faulted(Fault::Unknown(_)))
}
