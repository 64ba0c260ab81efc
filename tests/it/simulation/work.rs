//! Workloads that ask, retry, renew, hold, lose, complete and return, and an operator who ends things.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protem::engine::again::again;
use protem_core::command::Command;
use protem_core::event::{KeyPurpose, Target};
use protem_core::grant::Newest;
use protem_core::request::{AccessRequest, Scopes};
use protem_core::state::State;
use protem_core::verdict::Verdict;
use protem_verify::ids::{GrantId, HoldId};
use protem_verify::names::{IdentityName, TaskId};

use super::ask::{
    IDENTITIES, RESOURCES, SCOPES, behind, identity, request, resource, scope, verdict, words,
    workload,
};
use super::broker::{Keys, Look};
use super::chance::Chance;
use super::history::Fact;
use super::people::{Decision, Desk};
use super::rules::{active_max, digests};
use super::weak::Weak;
use super::world::World;

/// What a command was for.
pub enum Op {
    Asks(Box<AccessRequest>),
    Renews,
    /// A person decides: what they would do again.
    Decides(Box<Decision>),
    Ends,
    Other,
}

/// A credential as its workload keeps it; also long after it should.
#[derive(Clone)]
pub struct Held {
    pub token: String,
    pub grant: GrantId,
    pub number: u32,
    pub resource: String,
    pub scope: String,
}

/// A piece of work of one identity.
struct Task {
    by: &'static str,
    id: String,
    hold: Option<Hold>,
    over: bool,
}

struct Hold {
    id: HoldId,
    broker: usize,
    lease: u64,
    /// When its stream was lost.
    lost: Option<u64>,
}

pub struct Work {
    pub ops: BTreeMap<u64, Op>,
    next: u64,
    tasks: Vec<Task>,
    tokens: Vec<Held>,
    /// Requests that were sent, to be sent again.
    sent: Vec<AccessRequest>,
    pub desk: Desk,
    keys: Arc<Keys>,
    key: usize,
    chance: Chance,
}

/// The longest a workload's step looks back for something to do again.
const RECENT: usize = 12;

impl Work {
    pub fn new(chance: Chance, keys: Arc<Keys>) -> Self {
        Self {
            ops: BTreeMap::new(),
            next: 1,
            tasks: Vec::new(),
            tokens: Vec::new(),
            sent: Vec::new(),
            desk: Desk::default(),
            keys,
            key: 0,
            chance,
        }
    }

    pub fn next_op(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Nobody will hear of it.
    pub fn lost(&mut self, op: u64) {
        if let Some(op) = self.ops.remove(&op) {
            self.stopped(op);
        }
    }

    /// It was not done, or nobody knows: its workload asks again.
    pub fn stopped(&mut self, op: Op) {
        match op {
            Op::Asks(request) => self.sent.push(*request),
            Op::Decides(decision) => self.desk.again.push(*decision),
            Op::Renews | Op::Ends | Op::Other => {}
        }
    }

    pub fn got(&mut self, _: Op, held: Held) {
        let known = self.tokens.iter().any(|old| old.token == held.token);
        if !known {
            self.tokens.push(held);
        }
    }

    /// Mostly one of the newest, sometimes any that ever was.
    pub fn any_token(&mut self) -> Option<Held> {
        let from = if self.chance.percent(75) { self.tokens.len().saturating_sub(8) } else { 0 };
        self.chance.pick(&self.tokens[from..]).cloned()
    }

    /// How old a view may be for a grant's credentials, as policy said.
    pub fn fresh_ms(&self, requests: &BTreeMap<GrantId, AccessRequest>, grant: &GrantId) -> u64 {
        let shop = requests[grant].by.identity.as_str().starts_with("shop");
        if shop { 2_000 } else { 5_000 }
    }

    pub fn recent<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        self.chance.pick(&from[from.len().saturating_sub(RECENT)..])
    }
}

impl World {
    /// One thing that somebody does.
    pub(super) fn act(&mut self) {
        let index = self.chance.below(self.brokers.len() as u64) as usize;
        if self.brokers[index].up.is_none() {
            return;
        }
        match self.chance.below(100) {
            0..=8 if self.crowded => self.crowd(index),
            0..=27 => self.ask(index, false),
            28..=37 => self.ask(index, true),
            38..=52 => self.renew(index),
            53..=58 => self.hold(index),
            59..=62 => self.lose(),
            63..=70 => self.complete(index),
            71..=75 => self.give_back(index),
            76..=85 => self.revoke(index),
            86..=89 => self.quarantine(index),
            90..=92 => self.bundle(index),
            93..=96 => self.settle(index),
            _ => self.key(index),
        }
    }

    pub(super) fn send(
        &mut self,
        broker: usize,
        actor: &str,
        op: Op,
        command: Command,
        look: Look,
    ) {
        let id = self.work.next_op();
        let what: String = format!("{actor} {command:?}").chars().take(160).collect();
        self.history.push(Fact::Asked { op: id, what });
        self.work.ops.insert(id, op);
        self.brokers[broker].submit(id, actor, command, look);
    }

    pub(super) fn state(&self, broker: usize) -> &State {
        self.brokers[broker].state().unwrap()
    }

    fn ask(&mut self, broker: usize, again: bool) {
        let now = self.time();
        let work = &mut self.work;
        let sent = std::mem::take(&mut work.sent);
        let old = if again { work.recent(&sent).cloned() } else { None };
        work.sent = sent;
        let request = match old {
            Some(old) => {
                self.counts.add("retry");
                old
            }
            None => {
                let by = *work.chance.pick(&IDENTITIES).unwrap();
                let mine: Vec<&Task> =
                    work.tasks.iter().filter(|task| task.by == by && !task.over).collect();
                let open = work.chance.percent(50).then(|| work.chance.pick(&mine)).flatten();
                let id = open.map(|task| task.id.clone());
                let id = id.unwrap_or_else(|| {
                    let id = format!("t{}", work.tasks.len());
                    let over = false;
                    work.tasks.push(Task { by, id: id.clone(), hold: None, over });
                    id
                });
                let request = request(by, &id, now, &mut work.chance);
                work.sent.push(request.clone());
                request
            }
        };
        self.put(broker, request);
    }

    /// An identity fills its tier's cap and asks once more, most often one that somebody has still to decide about: what is
    /// approved then finds no room.
    fn crowd(&mut self, broker: usize) {
        let state = self.state(broker);
        let waiting = state.waiting().filter_map(|id| Some(state.grant(&id)?.by.identity.clone()));
        let waiting: Vec<IdentityName> = waiting.collect();
        let work = &mut self.work;
        let one = work.chance.pick(&waiting).filter(|_| work.chance.percent(80));
        let by = one.map_or(*work.chance.pick(&IDENTITIES).unwrap(), |by| {
            *IDENTITIES.iter().find(|name| **name == by.as_str()).unwrap()
        });
        let active = self.state(broker).active(&identity(by)) as usize;
        for _ in active..=active_max(&identity(by)) {
            let now = self.time();
            let work = &mut self.work;
            let id = format!("t{}", work.tasks.len());
            work.tasks.push(Task { by, id: id.clone(), hold: None, over: false });
            let any = request(by, &id, now, &mut work.chance);
            let scopes = Scopes::new(vec![scope("read")]).unwrap();
            let request = AccessRequest { scopes, emergency: false, ..any };
            work.sent.push(request.clone());
            self.put(broker, request);
        }
    }

    /// A request goes to a broker, which puts it to policy.
    fn put(&mut self, broker: usize, request: AccessRequest) {
        let Some(bundle) = self.brokers[broker].bundle() else { return };
        let state = self.state(broker);
        let at = self.time().max(state.last_at());
        let verdict = self.weakened(verdict(&request, bundle, state, at), None);
        let behind = behind(&request, bundle).filter(|_| self.weak != Weak::AsksNobody);
        let actor = format!("identity:{}", request.by.identity);
        let op = Op::Asks(Box::new(request.clone()));
        let look = Look::Request(Box::new(request.clone()));
        let command = Command::RequestAccess { request, verdict, behind };
        self.send(broker, &actor, op, command, look);
    }

    /// What the bundle in force says again of a grant, as a broker asks it.
    fn again(&self, broker: usize, grant: &GrantId) -> Option<Verdict> {
        let (bundle, state) = (self.brokers[broker].bundle()?, self.state(broker));
        let record = self.store.grant(grant)?;
        let active = state.active(&record.request.by.identity);
        let at = self.time().max(state.last_at());
        let verdict = again(bundle, &record, &record.request, at, (active, &[]));
        Some(self.weakened(verdict, Some(&record)))
    }

    /// A workload renews when two thirds of a credential's life are over; some do at any time.
    fn renew(&mut self, broker: usize) {
        let now = self.time();
        let due = |_: &Held, newest: &Newest| newest.renew_at() <= now;
        let Some(held) = self.token(broker, due) else { return };
        let Some(verdict) = self.again(broker, &held.grant) else { return };
        let (by, grant) = (self.requests[&held.grant].by.clone(), held.grant);
        let actor = format!("identity:{}", by.identity);
        let command = Command::RenewCredential { by, grant, verdict };
        self.send(broker, &actor, Op::Renews, command, Look::Grant(grant));
    }

    /// Mostly a token of a live grant that `is` what is looked for, as its newest credential tells; else any.
    fn token(&mut self, broker: usize, is: impl Fn(&Held, &Newest) -> bool) -> Option<Held> {
        let (now, state) = (self.time(), self.state(broker));
        let fits = |held: &&Held| {
            let grant = state.grant(&held.grant).filter(|grant| grant.active_at(now));
            grant.and_then(|grant| grant.newest.as_ref()).is_some_and(|newest| is(held, newest))
        };
        let some: Vec<Held> = self.work.tokens.iter().filter(fits).cloned().collect();
        let work = &mut self.work;
        if some.is_empty() || work.chance.percent(25) {
            return work.any_token();
        }
        work.chance.pick(&some).cloned()
    }

    fn open_task(&mut self) -> Option<usize> {
        let open = |(at, task): (usize, &Task)| (!task.over).then_some(at);
        let open: Vec<usize> = self.work.tasks.iter().enumerate().filter_map(open).collect();
        let mut chance = self.work.chance.fork();
        let from = open.len().saturating_sub(RECENT);
        chance.pick(&open[from..]).copied()
    }

    fn hold(&mut self, broker: usize) {
        let Some(at) = self.open_task() else { return };
        let id = HoldId(protem_core::dice::Dice::bytes(&mut self.work.chance));
        let lease = self.work.chance.between(1_000, 5_000);
        let task = &mut self.work.tasks[at];
        task.hold = Some(Hold { id, broker, lease, lost: None });
        let command = Command::HoldTask {
            by: workload(task.by, &task.id),
            task: TaskId::try_from(task.id.as_str()).unwrap(),
            hold: id,
            lease: Duration::from_millis(lease),
        };
        let actor = format!("identity:{}", task.by);
        self.send(broker, &actor, Op::Other, command, Look::Nothing);
    }

    fn lose(&mut self) {
        let now = self.now;
        let mut held = self.work.tasks.iter_mut().filter_map(|task| task.hold.as_mut());
        if let Some(hold) = held.find(|hold| hold.lost.is_none()) {
            hold.lost = Some(now);
            self.counts.add("hold lost");
        }
    }

    /// A broker's leases that have run out.
    pub(super) fn abandon(&mut self, broker: usize) {
        let now = self.now;
        let mut due = Vec::new();
        for task in &mut self.work.tasks {
            let over = |hold: &Hold| {
                hold.broker == broker && hold.lost.is_some_and(|lost| now >= lost + hold.lease)
            };
            if task.hold.as_ref().is_some_and(over) {
                let hold = task.hold.take().unwrap();
                task.over = true;
                due.push((task.by, task.id.clone(), hold.id));
            }
        }
        for (by, task, hold) in due {
            let task = TaskId::try_from(task.as_str()).unwrap();
            let command = Command::AbandonTask { identity: identity(by), task, hold };
            self.send(broker, "system", Op::Ends, command, Look::Nothing);
        }
    }

    fn complete(&mut self, broker: usize) {
        let Some(at) = self.open_task() else { return };
        let task = &mut self.work.tasks[at];
        task.over = true;
        let command = Command::CompleteTask {
            by: workload(task.by, &task.id),
            task: TaskId::try_from(task.id.as_str()).unwrap(),
            hold: None,
            outcome: words("success"),
        };
        let actor = format!("identity:{}", task.by);
        self.send(broker, &actor, Op::Ends, command, Look::Nothing);
    }

    fn give_back(&mut self, broker: usize) {
        let Some(held) = self.work.any_token() else { return };
        let by = self.requests[&held.grant].by.clone();
        let actor = format!("identity:{}", by.identity);
        let command = Command::ReturnGrant { by, grant: held.grant, note: words("done") };
        self.send(broker, &actor, Op::Ends, command, Look::Nothing);
    }

    /// What leaks is often a token that has been renewed since.
    fn revoke(&mut self, broker: usize) {
        let renewed = |held: &Held, newest: &Newest| held.number < newest.number;
        let Some(held) = self.token(broker, renewed) else { return };
        let request = self.requests[&held.grant].clone();
        let on = resource(self.chance.pick(&RESOURCES).unwrap());
        let target = match self.chance.below(20) {
            0..=8 => Target::Grant(held.grant),
            9..=11 => Target::Task(request.by.identity, request.task.id),
            12..=14 => Target::Identity(request.by.identity),
            15..=16 => Target::Resource(on),
            17..=18 => Target::Scope(on, scope(self.chance.pick(&SCOPES).unwrap())),
            _ => Target::Everything,
        };
        let command = Command::Revoke { targets: vec![target], note: words("ended") };
        self.send(broker, "person:ada", Op::Ends, command, Look::Nothing);
    }

    fn quarantine(&mut self, broker: usize) {
        let name = *self.chance.pick(&IDENTITIES).unwrap();
        let on = !self.state(broker).quarantined(&identity(name));
        let command =
            Command::SetQuarantine { identity: identity(name), on, note: words("looked odd") };
        self.send(broker, "person:ada", Op::Ends, command, Look::Nothing);
    }

    fn bundle(&mut self, broker: usize) {
        let now = self.state(broker).bundle();
        let mut others = digests().to_vec();
        others.retain(|digest| now != Some(*digest));
        let digest = *self.chance.pick(&others).unwrap();
        let command = Command::ActivateBundle { digest, files: Arc::new([]), expect: now };
        self.send(broker, "person:ada", Op::Other, command, Look::Nothing);
    }

    fn settle(&mut self, broker: usize) {
        let state = self.state(broker);
        let Some(digest) = state.bundle().filter(|_| !state.settled()) else { return };
        let again = |id: GrantId| Some((id, self.again(broker, &id)?));
        let grants = state.unsettled(5).into_iter().filter_map(again).collect();
        let command = Command::Settle { digest, grants };
        self.send(broker, "system", Op::Other, command, Look::Nothing);
    }

    /// The next key takes over; sometimes since the one before it leaked. One whose last token is dead is forgotten.
    fn key(&mut self, broker: usize) {
        let now = self.time().max(self.state(broker).last_at());
        let dead = self.state(broker).keys().find(|record| record.dead(now));
        if let Some(key) = dead.map(|record| record.key.id.clone()) {
            return self.send(
                broker,
                "system",
                Op::Other,
                Command::ForgetKey { key },
                Look::Nothing,
            );
        }
        let keys = Arc::clone(&self.work.keys);
        let signing = self.state(broker).signing(KeyPurpose::Credential).cloned();
        let Some(next) = keys.credentials.get(self.work.key + 1) else { return };
        let command = if signing.as_ref() == Some(next.id()) {
            let old = keys.credentials[self.work.key].id().clone();
            self.work.key += 1;
            let compromised = self.chance.percent(50);
            Command::RetireKey { key: old, compromised, note: words("rotated") }
        } else {
            Command::ActivateKey { key: next.id().clone() }
        };
        self.send(broker, "person:ada", Op::Other, command, Look::Nothing);
    }
}
