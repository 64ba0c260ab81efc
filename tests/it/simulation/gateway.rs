//! A gateway: the real view and verifier at the end of a network that delays, cuts and falls silent.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message;
use protem_gate::apply::{Follower, Told};
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::{Epoch, Seq};
use protem_verify::known::Moment;
use protem_verify::time::Time;
use protem_verify::verifier::{Call, Verdict, Verifier};
use protem_verify::view::{Broken, View};

use super::ask::{ISSUER, resource};
use super::chance::Chance;
use super::checks::DRIFT_PPM;
use super::feed::Sub;
use super::history::{Applied, Fact, Item};
use super::weak::Weak;

/// A gateway that hears nothing for this long connects anew.
const SILENCE_MS: u64 = 3_000;
const PING_EVERY_MS: u64 = 1_000;
/// How many percent of the batches are missing.
const LOSS: u64 = 3;

pub struct Gateway {
    pub index: usize,
    pub link: Option<Link>,
    /// Stopped by its machine until then: it neither reads nor decides.
    pub paused_until: u64,
    pub connect_at: u64,
    follower: Follower,
    verifier: Verifier,
    /// Its own monotonic clock, in microseconds, and by how many ppm it is wrong.
    boot: u64,
    drift: i64,
    ping_at: u64,
    /// The last item that was applied.
    last: u64,
    /// The items of a snapshot that is not complete.
    told: Vec<Item>,
    /// Batches that a broker with a defect left out.
    pub lost: u64,
    weak: Weak,
    chance: Chance,
}

/// A connection to one life of one broker.
pub struct Link {
    pub broker: usize,
    pub sub: Sub,
    /// From the gateway to the broker: pings.
    pub up: VecDeque<(u64, Vec<u8>)>,
    /// From the broker to the gateway.
    down: VecDeque<(u64, Encoded)>,
    /// Nothing passes until then; what was sent waits.
    pub clogged_until: u64,
    /// The other end is gone without a word.
    pub silent: bool,
    heard: u64,
}

impl Link {
    pub fn new(broker: usize, sub: Sub, now: u64) -> Self {
        let (up, down) = (VecDeque::new(), VecDeque::new());
        Self { broker, sub, up, down, clogged_until: 0, silent: false, heard: now }
    }

    /// In order, as TCP does.
    pub fn send(&mut self, now: u64, chance: &mut Chance, message: Encoded) {
        let after = self.down.back().map_or(0, |(at, _)| *at);
        let mut at = (now + chance.between(0, 40)).max(after);
        if now < self.clogged_until {
            // What waited comes drop by drop: a gateway decides between an old proof and the news behind it.
            at = self.clogged_until.max(after) + chance.between(0, 200);
        }
        self.down.push_back((at, message));
    }
}

impl Gateway {
    pub fn new(index: usize, weak: Weak, mut chance: Chance) -> Self {
        let view = View::new(ISSUER, None);
        let verifier = Verifier::new(view.reader());
        let drift = chance.below(2 * DRIFT_PPM + 1) as i64 - DRIFT_PPM as i64;
        Self {
            index,
            link: None,
            paused_until: 0,
            connect_at: 0,
            follower: Follower::new(view),
            verifier,
            boot: chance.below(1_000_000_000),
            drift,
            ping_at: 0,
            last: 0,
            told: Vec::new(),
            lost: 0,
            weak,
            chance,
        }
    }

    /// The process begins anew with what it kept on disk: its newest signed checkpoint.
    pub fn restart(&mut self, now: u64) {
        let view = View::new(ISSUER, self.follower.view.newest().copied());
        self.verifier = Verifier::new(view.reader());
        self.follower = Follower::new(view);
        self.disconnect(now);
    }

    pub fn disconnect(&mut self, now: u64) {
        self.link = None;
        self.connect_at = now + self.chance.between(20, 400);
    }

    pub fn advance(&mut self, millis: u64) {
        let micros = millis as i64 * 1_000;
        self.boot += (micros + micros * self.drift / 1_000_000) as u64;
    }

    /// Both clocks; the wall clock runs with the monotonic one.
    fn moment(&self) -> Moment {
        let boot = Duration::from_micros(self.boot);
        Moment { boot, unix: Duration::from_secs(1_800_000_000) + boot }
    }

    pub fn opening(&mut self) -> v1::Open {
        let instance = format!("i{}", self.index);
        self.follower.open("edge", &[], &instance)
    }

    /// Reads what arrived, pings, and gives up on silence.
    pub fn step(&mut self, now: u64, facts: &mut Vec<Fact>) {
        while let Some(message) = self.arrived(now) {
            if let Err(broken) = self.read(&message, now, facts) {
                facts.push(Fact::Note(format!("gateway {}: {broken}", self.index)));
                return self.disconnect(now);
            }
        }
        let sent = self.moment();
        let Some(link) = &mut self.link else { return };
        if now > link.heard + SILENCE_MS {
            facts.push(Fact::Note(format!("gateway {} hears nothing", self.index)));
            return self.disconnect(now);
        }
        if now >= self.ping_at {
            self.ping_at = now + PING_EVERY_MS;
            let nonce = self.chance.roll().to_be_bytes().to_vec();
            // The weakened gateway takes any checkpoint for a proof of the moment it came.
            if self.weak != Weak::TrustsAnyCheckpoint {
                self.follower.pinged(nonce.clone(), sent);
            }
            if !link.silent {
                let at = (now + self.chance.between(0, 40)).max(link.clogged_until);
                link.up.push_back((at, nonce));
            }
        }
    }

    fn arrived(&mut self, now: u64) -> Option<Encoded> {
        let link = self.link.as_mut().filter(|link| !link.silent)?;
        let due = link.down.front().is_some_and(|(at, _)| *at <= now);
        let (_, message) = due.then(|| link.down.pop_front())??;
        link.heard = now;
        Some(message)
    }

    fn read(&mut self, message: &Encoded, at: u64, facts: &mut Vec<Fact>) -> Result<(), Broken> {
        let mut response = v1::SubscribeResponse::decode(message.0.clone()).unwrap();
        let batch = matches!(&response.message, Some(Wire::Batch(batch)) if batch.cursor.is_some());
        if batch && self.chance.percent(LOSS) {
            self.lost += 1; // a broker with a defect left it out
            return Ok(());
        }
        self.spoil(response.message.as_mut().unwrap());
        let now = self.moment();
        let gateway = self.index;
        let message = response.message.clone().unwrap();
        let told = self.follower.message(response, now)?;
        match message {
            Wire::SnapshotBegin(_) => self.told.clear(),
            Wire::SnapshotEnd(end) => {
                self.last = end.last_sent;
                let told = std::mem::take(&mut self.told);
                let item = Applied::Snapshot { at: Seq(end.at_seq), now: at, told };
                facts.push(Fact::Applied { gateway, item });
            }
            Wire::Batch(batch) if batch.cursor.is_some() => {
                for item in &batch.items {
                    self.last = item.seq;
                    facts.push(Fact::Applied { gateway, item: Applied::Item(item_of(item)) });
                }
            }
            Wire::Batch(batch) => self.told.extend(batch.items.iter().map(item_of)),
            Wire::Checkpoint(checkpoint) => {
                let (epoch, seq) = (Epoch(checkpoint.epoch), Seq(checkpoint.seq));
                facts.push(Fact::Stands { gateway, epoch, seq });
            }
            _ => {}
        }
        if let Told::Applied(seq) = told {
            facts.push(Fact::Acked { gateway, seq });
        }
        Ok(())
    }

    /// What a broker with a defect, or a missing guard, makes of a message.
    fn spoil(&mut self, message: &mut Wire) {
        match message {
            Wire::Batch(batch) => {
                let delta = batch.cursor.is_some();
                let mut last = self.last;
                for item in &mut batch.items {
                    if self.weak == Weak::SkipsPrev && delta {
                        item.prev_seq = std::mem::replace(&mut last, item.seq);
                    }
                    let target = item.target.as_mut().unwrap();
                    let grant = matches!(target, v1::revocation::Target::Grant(_));
                    if self.weak == Weak::IgnoresCutOffs && !grant {
                        *target = v1::revocation::Target::Grant(vec![0; 16]);
                    }
                }
            }
            Wire::Checkpoint(checkpoint) if self.weak == Weak::SkipsPrev => {
                checkpoint.last_sent = self.last;
            }
            Wire::Checkpoint(checkpoint) if self.weak == Weak::TrustsAnyCheckpoint => {
                let now = self.moment();
                self.follower.pinged(checkpoint.nonce.clone(), now);
            }
            _ => {}
        }
    }

    /// Decides about a call with this token: the code of a no.
    pub fn decide(&self, token: &str, on: &str, scope: &str) -> Result<(), &'static str> {
        let (resource, path) = (resource(on), format!("/{scope}"));
        let call = Call { resource: &resource, method: "GET", path: &path };
        match self.verifier.check(token, &call, self.moment()) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny(reason) => Err(reason.code().id),
        }
    }
}

fn item_of(item: &v1::Revocation) -> Item {
    let seconds = |at: &prost_types::Timestamp| Time::from_secs(at.seconds as u64);
    let forget = item.forget_after.as_ref().map(seconds);
    Item { seq: Seq(item.seq), forget }
}
