//! One world from one seed: brokers on a store that fails, gateways on a network that fails, workloads and an operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protem::engine::stop::Stop;
use protem_core::event::Event;
use protem_core::request::AccessRequest;
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::time::Time;
use sha2::{Digest, Sha256};

use super::broker::{Broker, Keys, Reply, is_unknown};
use super::chance::Chance;
use super::checks::{Checker, Violation};
use super::counts::Counts;
use super::gateway::{Gateway, Link};
use super::history::{Decided, Fact, Got};
use super::post::Post;
use super::store::{Store, Weather};
use super::weak::Weak;
use super::work::{Held, Op, Work};

/// Unix milliseconds of a world's beginning.
pub const START: u64 = 1_800_000_000_000;
/// Every so many worlds are crowded.
pub const CROWDED_EVERY: u64 = 5;
/// Steps of one seed: about a minute and a half of its time.
const STEPS: u64 = 300;
/// Of these, the last ones are calm: what is slow must arrive.
const CALM: u64 = 40;

pub struct World {
    pub history: Vec<Fact>,
    pub counts: Counts,
    pub(super) chance: Chance,
    /// True milliseconds since the start.
    pub(super) now: u64,
    pub(super) brokers: Vec<Broker>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) work: Work,
    pub(super) weak: Weak,
    /// Whether identities ask until their tier's cap stops them: then others find no room, so not in every world.
    pub(super) crowded: bool,
    pub(super) store: Store,
    pub(super) post: Post,
    checker: Checker,
    checked: usize,
    seen: Seq,
    /// What was asked for each grant, from the journal.
    pub(super) requests: BTreeMap<GrantId, AccessRequest>,
    /// When the last credential of a live grant dies, and when its newest does.
    lives: BTreeMap<GrantId, (Time, Time)>,
    /// When a broker that is down comes up, when a clock that is wrong is set, when bad weather ends.
    repairs: Vec<(u64, usize, Repair)>,
}

#[derive(Clone, Copy)]
enum Repair {
    Start,
    Clock,
    Weather,
}

impl World {
    pub fn new(seed: u64, weak: Weak, brokers: usize) -> Self {
        let mut chance = Chance::new(seed);
        let store = super::memory();
        let keys = Arc::new(Keys::new());
        let unix = Duration::from_millis(START);
        let broker = |chance| Broker::new(store.clone(), Arc::clone(&keys), unix, chance);
        let mut brokers: Vec<Broker> = (0..brokers).map(|_| broker(chance.fork())).collect();
        brokers.iter_mut().for_each(Broker::start);
        let gateways = (0..3).map(|index| Gateway::new(index, weak, chance.fork())).collect();
        Self {
            history: Vec::new(),
            counts: Counts::default(),
            work: Work::new(chance.fork(), keys),
            chance,
            now: 0,
            brokers,
            gateways,
            weak,
            crowded: seed.is_multiple_of(CROWDED_EVERY),
            store,
            post: Post::default(),
            checker: Checker::new(START),
            checked: 0,
            seen: Seq(0),
            requests: BTreeMap::new(),
            lives: BTreeMap::new(),
            repairs: Vec::new(),
        }
    }

    /// Runs to the end, or to the first violation.
    pub fn run(&mut self) -> Result<(), Violation> {
        for step in 0..STEPS {
            let calm = step + CALM >= STEPS;
            self.advance();
            self.repair(calm);
            if !calm {
                self.fail();
                self.act();
                self.people();
            }
            self.connect();
            for broker in 0..self.brokers.len() {
                self.turn(broker);
            }
            self.gateways();
            self.tell(calm);
            self.check()?;
        }
        self.end()
    }

    /// The time of a right clock.
    pub(super) fn time(&self) -> Time {
        Time::from_millis(START + self.now)
    }

    fn advance(&mut self) {
        let by = self.chance.between(5, 600);
        self.now += by;
        self.brokers.iter().for_each(|broker| broker.clock.advance(Duration::from_millis(by)));
        self.gateways.iter_mut().for_each(|gateway| gateway.advance(by));
    }

    fn repair(&mut self, all: bool) {
        let now = self.now;
        let (due, rest) = self.repairs.drain(..).partition(|(at, ..)| all || *at <= now);
        self.repairs = rest;
        let due: Vec<(u64, usize, Repair)> = due;
        for (_, index, repair) in due {
            let broker = &mut self.brokers[index];
            match repair {
                Repair::Clock => broker.clock.set_unix(Duration::from_millis(START + now)),
                Repair::Weather => broker.weather.lock().unwrap().0 = Weather::default(),
                Repair::Start => {
                    // A machine comes up with a right clock.
                    broker.clock.set_unix(Duration::from_millis(START + now));
                    broker.start();
                    self.note(format!("broker {index} is up"));
                }
            }
        }
    }

    /// Lets something go wrong, now and then.
    fn fail(&mut self) {
        let index = self.chance.below(self.brokers.len() as u64) as usize;
        let until = self.now + self.chance.between(200, 3_000);
        match self.chance.below(100) {
            0..=2 if self.brokers[index].up.is_some() => {
                for op in self.brokers[index].crash() {
                    let why = "the broker died".to_owned();
                    self.history.push(Fact::Stopped { op, unknown: true, why });
                    self.work.lost(op);
                }
                self.cut_all(index);
                self.counts.add("broker crashed");
                self.repairs.push((until, index, Repair::Start));
                self.note(format!("broker {index} died"));
            }
            3..=9 => {
                let share = self.chance.between(20, 90);
                let mut weather = Weather::default();
                *match self.chance.below(4) {
                    0 => &mut weather.before,
                    1 => &mut weather.unknown_done,
                    2 => &mut weather.unknown_lost,
                    _ => &mut weather.deaf,
                } = share;
                if self.chance.percent(40) {
                    weather.deaf = share;
                }
                self.brokers[index].weather.lock().unwrap().0 = weather;
                self.repairs.push((until, index, Repair::Weather));
                self.note(format!("broker {index} has {weather:?}"));
            }
            10..=11 => {
                let most = if self.chance.percent(50) { 1_900 } else { 20_000 };
                let step = self.chance.below(2 * most) as i64 - most as i64;
                let unix = (START + self.now).saturating_add_signed(step);
                self.brokers[index].clock.set_unix(Duration::from_millis(unix));
                self.repairs.push((until, index, Repair::Clock));
                self.counts.add("clock stepped");
                self.note(format!("broker {index}'s clock steps by {step} ms"));
            }
            12..=24 => self.fail_gateway(),
            _ => {}
        }
    }

    fn fail_gateway(&mut self) {
        let index = self.chance.below(self.gateways.len() as u64) as usize;
        let now = self.now;
        let long = self.chance.between(300, 9_000);
        let gateway = &mut self.gateways[index];
        let what = match (self.chance.below(5), &mut gateway.link) {
            (0, Some(link)) => {
                link.clogged_until = now + long;
                "network clogged"
            }
            (1, Some(link)) => {
                link.silent = true;
                "network silent"
            }
            (2, _) => {
                gateway.paused_until = now + long;
                "gateway paused"
            }
            (3, _) => {
                gateway.restart(now);
                "gateway restarted"
            }
            _ => {
                gateway.disconnect(now);
                "network cut"
            }
        };
        self.counts.add(what);
        self.note(format!("gateway {index}: {what}, {long} ms"));
    }

    fn cut_all(&mut self, broker: usize) {
        for gateway in &mut self.gateways {
            if gateway.link.as_ref().is_some_and(|link| link.broker == broker) {
                gateway.disconnect(self.now);
            }
        }
    }

    fn connect(&mut self) {
        for index in 0..self.gateways.len() {
            let gateway = &mut self.gateways[index];
            let ready = gateway.connect_at <= self.now && gateway.paused_until <= self.now;
            if gateway.link.is_some() || !ready {
                continue;
            }
            let broker = self.chance.below(self.brokers.len() as u64) as usize;
            // A broker that does not know what its store holds opens no stream.
            let up = self.brokers[broker].up.as_ref();
            let Some(up) = up.filter(|up| !up.sequencer.failed()) else { continue };
            let open = gateway.opening();
            self.counts.add(if open.after.is_some() { "resumed" } else { "snapshot" });
            let state = up.sequencer.state();
            let sub = up.feeds.open(&open, state, &self.store, state.last_at().max(self.time()));
            self.gateways[index].link = Some(Link::new(broker, sub, self.now));
        }
    }

    /// One turn of a broker, then what follows from it.
    fn turn(&mut self, index: usize) {
        if self.brokers[index].up.is_none() || self.chance.percent(10) {
            return; // slow today
        }
        let pings = self.pings(index);
        let alone = self.brokers.len() == 1;
        let proof = self.work.next_op();
        if !pings.is_empty() {
            self.brokers[index].prove(proof, alone);
        }
        self.abandon(index);
        let replies = self.brokers[index].turn();
        self.observe();
        let mut proven = false;
        for reply in replies {
            proven |= reply.op == proof && reply.found.is_ok();
            self.answer(index, reply);
        }
        self.publish(index, if proven { &pings } else { &[] });
    }

    /// The pings that have arrived at a broker.
    fn pings(&mut self, broker: usize) -> Vec<(usize, Vec<u8>)> {
        let mut pings = Vec::new();
        for gateway in &mut self.gateways {
            let Some(link) = gateway.link.as_mut().filter(|link| link.broker == broker) else {
                continue;
            };
            while link.up.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, nonce) = link.up.pop_front().unwrap();
                pings.push((gateway.index, nonce));
            }
        }
        pings
    }

    fn publish(&mut self, broker: usize, pings: &[(usize, Vec<u8>)]) {
        let now = self.time();
        let Some(up) = &self.brokers[broker].up else { return };
        if up.sequencer.failed() {
            return; // its state may be ahead of the store
        }
        let wall = Time::from(protem_clock::clock::Clock::unix(&*self.brokers[broker].clock));
        for gateway in &mut self.gateways {
            let index = gateway.index;
            let Some(link) = gateway.link.as_mut().filter(|link| link.broker == broker) else {
                continue;
            };
            let state = up.sequencer.state();
            for message in up.feeds.next(&mut link.sub, state, now.max(state.last_at())) {
                link.send(self.now, &mut self.chance, message);
            }
            for (_, nonce) in pings.iter().filter(|(to, _)| *to == index) {
                let proof = up.feeds.proof(&link.sub, nonce, wall.max(state.last_at()));
                link.send(self.now, &mut self.chance, proof);
            }
        }
    }

    /// What the store holds now, whoever knows.
    fn observe(&mut self) {
        for row in self.store.rows(self.seen) {
            self.seen = row.seq();
            let asked = match row.what() {
                Event::GrantActivated(activated) => {
                    activated.asked.as_ref().map(|asked| (activated.credential.grant, asked))
                }
                Event::GrantRequested(requested) => Some((requested.grant, &requested.asked)),
                _ => None,
            };
            if let Some((grant, asked)) = asked {
                self.requests.insert(grant, asked.request.clone());
            }
            self.outlived(row.what());
            self.counts.add(protem::journal::codec::kind(row.what()));
            let event = Box::new(row.what().clone());
            self.history.push(Fact::Row { seq: row.seq(), at: row.at(), event });
        }
    }

    /// Counts renewals that die before an older credential does, and ends of such grants meanwhile.
    fn outlived(&mut self, event: &Event) {
        match event {
            Event::GrantActivated(activated) => {
                let exp = activated.credential.exp;
                self.lives.insert(activated.credential.grant, (exp, exp));
            }
            Event::CredentialIssued(issued) => {
                let (last, newest) = self.lives.entry(issued.grant).or_default();
                (*last, *newest) = (issued.exp.max(*last), issued.exp);
                if newest < last {
                    self.counts.add("outlived");
                }
            }
            Event::GrantEnded(ended) => {
                let outlived = |(last, newest): (Time, Time)| newest < last && ended.ended < last;
                if self.lives.remove(&ended.grant).is_some_and(outlived) {
                    self.counts.add("outlived its end");
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, broker: usize, reply: Reply) {
        let Some(op) = self.work.ops.remove(&reply.op) else { return };
        let found = match reply.found {
            Err(stop) => {
                let unknown = is_unknown(&stop);
                let ends = matches!(op, Op::Ends);
                self.counts.add(stop.code().map_or("no code", |code| code.id));
                let why = stop.to_string();
                self.history.push(Fact::Stopped { op: reply.op, unknown, why });
                if self.weak == Weak::AnswersEarly && ends && matches!(stop, Stop::Faulted(_)) {
                    let rows = vec![self.store.head().seq.next()];
                    self.history.push(Fact::Done { op: reply.op, answered: self.now, rows });
                }
                return self.work.stopped(op);
            }
            Ok(found) => found,
        };
        let rows = found.rows;
        self.history.push(Fact::Done { op: reply.op, answered: self.now, rows });
        let Some(grant) = found.grant else { return };
        let key = match &op {
            Op::Asks(request) => request.key,
            _ => None,
        };
        if let Some((number, exp, token)) = self.brokers[broker].token(&grant) {
            let mut digest = Hash(Sha256::digest(&token).into());
            if self.weak == Weak::MintsAnew {
                digest.0[0] = reply.op as u8;
            }
            let grant = grant.id;
            self.history.push(Fact::Got(Got { grant, number, token: digest, exp, key }));
            self.counts.add("credential");
            let request = &self.requests[&grant];
            let resource = request.resource.to_string();
            let scope = request.scopes.iter().next().unwrap().to_string();
            self.work.got(op, Held { token, grant, number, resource, scope });
        }
    }

    /// Each gateway reads, and decides about some credentials, old ones too.
    fn gateways(&mut self) {
        for index in 0..self.gateways.len() {
            let gateway = &mut self.gateways[index];
            if gateway.paused_until > self.now {
                continue;
            }
            // One that wakes up decides before it reads: the worst order.
            for _ in 0..2 {
                let Some(held) = self.work.any_token() else { break };
                let said = gateway.decide(&held.token, &held.resource, &held.scope);
                self.counts.add(said.err().unwrap_or("accepted"));
                self.history.push(Fact::Decided(Decided {
                    gateway: index,
                    now: self.now,
                    grant: held.grant,
                    number: held.number,
                    fresh_ms: self.work.fresh_ms(&self.requests, &held.grant),
                    accepted: said.is_ok(),
                    reason: said.err().unwrap_or_default(),
                }));
            }
            gateway.step(self.now, &mut self.history);
        }
    }

    fn check(&mut self) -> Result<(), Violation> {
        let facts = &self.history[self.checked..];
        facts.iter().try_for_each(|fact| self.checker.see(fact))?;
        self.checked = self.history.len();
        Ok(())
    }

    /// After the calm: the journal is what was seen of it, and what was broken works again.
    fn end(&mut self) -> Result<(), Violation> {
        let rows = self.store.rows(Seq(0));
        let seen = self.history.iter().filter_map(|fact| match fact {
            Fact::Row { seq, event, .. } => Some((*seq, event)),
            _ => None,
        });
        let same =
            seen.zip(&rows).all(|((seq, event), row)| seq == row.seq() && **event == *row.what());
        if !same {
            return Err("I5: the journal is not what it was".to_owned());
        }
        self.checker.finish()?;
        for broker in &self.brokers {
            let met = broker.weather.lock().unwrap().1;
            self.counts.many("store failed before the commit", met.before);
            self.counts.many("commit unknown, done", met.unknown_done);
            self.counts.many("commit unknown, lost", met.unknown_lost);
            self.counts.many("store deaf", met.deaf);
        }
        let lost = self.gateways.iter().map(|gateway| gateway.lost).sum();
        self.counts.many("batch lost", lost);
        Ok(())
    }

    pub(super) fn note(&mut self, text: String) {
        self.history.push(Fact::Note(text));
    }
}
