//! The invariants, as one fold over a history: each fact is held against all that came before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protem_core::event::{Asked, CredentialIssued, EndReason, Event, Target};
use protem_core::limits::LIFETIME_MAX;
use protem_verify::ids::{Epoch, GrantId, Hash, RequestId, Seq};
use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use protem_verify::time::Time;

use super::history::{Applied, Decided, Fact, Got, Item, Record};
use super::quorum::Quorum;
use super::rules::active_max;

/// A broker may work on a wall clock that is wrong by this much; credentials may live on by as much.
pub const CLOCK_BOUND: Duration = Duration::from_secs(2);
/// The rate error of a gateway's monotonic clock.
pub const DRIFT_PPM: u64 = 500;

/// An invariant that did not hold: which, and how.
pub type Violation = String;

/// The first violation in a history.
pub fn violation(history: &[Fact], start: u64) -> Option<Violation> {
    let mut checker = Checker::new(start);
    history.iter().find_map(|fact| checker.see(fact).err()).or_else(|| checker.finish().err())
}

/// What is known from the facts so far.
pub struct Checker {
    /// Unix milliseconds of true time zero.
    start: u64,
    seq: Seq,
    at: Time,
    grants: BTreeMap<GrantId, Grant>,
    credentials: BTreeMap<(GrantId, u32), Record>,
    ends: BTreeMap<Seq, End>,
    tokens: BTreeMap<(GrantId, u32), Hash>,
    keys: BTreeMap<(IdentityName, RequestId), GrantId>,
    /// When the end at this place was first answered, in true milliseconds.
    answered: BTreeMap<Seq, u64>,
    gateways: BTreeMap<usize, View>,
    /// All that was ever granted.
    granted: BTreeSet<(IdentityName, ResourceName, ScopeName)>,
    quorum: Quorum,
}

#[derive(Clone, Debug)]
struct Grant {
    until: Time,
    activated: Option<Seq>,
    ended: Option<Seq>,
}

/// An entry that voids credentials.
#[derive(Clone, Debug)]
struct End {
    target: Target,
    /// Whether the feed carries it.
    told: bool,
}

#[derive(Clone, Debug, Default)]
struct View {
    applied: Option<Seq>,
    stands: (Epoch, Seq),
}

impl Checker {
    pub fn new(start: u64) -> Self {
        Self {
            start,
            seq: Seq(0),
            at: Time::ZERO,
            grants: BTreeMap::new(),
            credentials: BTreeMap::new(),
            ends: BTreeMap::new(),
            tokens: BTreeMap::new(),
            keys: BTreeMap::new(),
            answered: BTreeMap::new(),
            gateways: BTreeMap::new(),
            granted: BTreeSet::new(),
            quorum: Quorum::default(),
        }
    }

    /// Holds one more fact against what came before.
    pub fn see(&mut self, fact: &Fact) -> Result<(), Violation> {
        self.quorum.see(fact)?;
        match fact {
            Fact::Row { seq, at, event } => self.row(*seq, *at, event),
            Fact::Done { answered, rows, .. } => self.done(*answered, rows),
            Fact::Got(got) => self.got(got),
            Fact::Applied { gateway, item } => self.applied(*gateway, item),
            Fact::Stands { gateway, epoch, seq } => self.stands(*gateway, *epoch, *seq),
            Fact::Acked { gateway, seq } => self.whole(*gateway, *seq, "acknowledged"),
            Fact::Decided(decided) if decided.accepted => self.accepted(decided),
            Fact::Decided(decided) if decided.reason == UNKNOWN_KEY => self.unknown_key(decided),
            Fact::Decided(_)
            | Fact::Clicked(_)
            | Fact::Told(_)
            | Fact::Asked { .. }
            | Fact::Stopped { .. }
            | Fact::Note(_) => Ok(()),
        }
    }

    /// What must be true after the calm.
    pub fn finish(&self) -> Result<(), Violation> {
        self.quorum.finish()
    }

    fn row(&mut self, seq: Seq, at: Time, event: &Event) -> Result<(), Violation> {
        hold(seq == self.seq.next(), "I9", || format!("{seq} follows {}", self.seq))?;
        hold(at >= self.at, "I14", || format!("{seq} is at {at}, before {}", self.at))?;
        (self.seq, self.at) = (seq, at);
        match event {
            Event::GrantActivated(activated) => {
                let credential = &activated.credential;
                let life = credential.terms.lifetime.0.min(LIFETIME_MAX);
                hold(activated.until <= at + life, "I3", || format!("{seq} lasts too long"))?;
                let id = credential.grant;
                let grant = Grant { until: activated.until, activated: Some(seq), ended: None };
                let before = self.grants.insert(id, grant);
                let twice = before.is_some_and(|grant| grant.activated.is_some());
                hold(!twice, "I8", || format!("{seq} activates {id} again"))?;
                if let Some(asked) = &activated.asked {
                    self.saw_the_past(asked, seq)?;
                }
                let (by, on) = (&credential.by.identity, &credential.resource);
                let granted = credential.scopes.iter();
                let granted = granted.map(|scope| (by.clone(), on.clone(), scope.clone()));
                self.granted.extend(granted);
                let request = activated.asked.as_ref().map(|asked| &asked.request);
                if let Some(key) = request.and_then(|request| request.key) {
                    self.one_grant_a_key(&credential.by.identity, key, id, seq)?;
                }
                self.credential(credential, seq, at)?;
                self.within_its_cap(&credential.by.identity, seq)
            }
            Event::GrantRequested(requested) => {
                let request = &requested.asked.request;
                let grant = Grant { until: Time::MAX, activated: None, ended: None };
                let twice = self.grants.insert(requested.grant, grant).is_some();
                hold(!twice, "I8", || format!("{seq} requests {} again", requested.grant))?;
                self.saw_the_past(&requested.asked, seq)?;
                let Some(key) = request.key else { return Ok(()) };
                self.one_grant_a_key(&request.by.identity, key, requested.grant, seq)
            }
            Event::AccessRefused(asked) => self.saw_the_past(asked, seq),
            Event::CredentialIssued(credential) => self.credential(credential, seq, at),
            Event::RequestRepeated { identity, key, grant, .. } => {
                self.one_grant_a_key(identity, *key, *grant, seq)
            }
            Event::GrantEnded(ended) => {
                let covered = self.cut_off(&ended.grant);
                hold(ended.told_by.is_some() || covered.is_none(), "I7", || {
                    format!("{seq} ends {} on its own after cut-off {covered:?}", ended.grant)
                })?;
                let told = ended.told_by.is_none() && ended.last_exp.is_some();
                let told = told && ended.reason != EndReason::Expired;
                let Some(grant) = self.grants.get_mut(&ended.grant) else { return Ok(()) };
                let before = grant.ended.replace(seq);
                hold(before.is_none(), "I7", || format!("{seq} ends {} again", ended.grant))?;
                self.ends.insert(seq, End { target: Target::Grant(ended.grant), told });
                Ok(())
            }
            Event::CutOff { target, .. } => {
                self.ends.insert(seq, End { target: target.clone(), told: true });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// I4: what the rules saw as new is what the journal does not have yet.
    fn saw_the_past(&self, asked: &Asked, seq: Seq) -> Result<(), Violation> {
        let (request, findings) = (&asked.request, &asked.ruling.findings);
        let had = |scope: Option<&ScopeName>| {
            self.granted.iter().any(|(by, on, known)| {
                *by == request.by.identity
                    && *on == request.resource
                    && scope.is_none_or(|scope| scope == known)
            })
        };
        let said = |word: &str| findings.iter().any(|finding| finding.starts_with(word));
        let same = said("new-resource: ") != had(None)
            && said("new-scope: ") == request.scopes.iter().any(|scope| !had(Some(scope)));
        hold(same, "I4", || format!("{seq} was looked at with {findings:?}, which is not so"))
    }

    /// I2: while a grant is live, its key answers no other.
    fn one_grant_a_key(
        &mut self,
        identity: &IdentityName,
        key: RequestId,
        id: GrantId,
        seq: Seq,
    ) -> Result<(), Violation> {
        let before = self.keys.insert((identity.clone(), key), id).filter(|before| *before != id);
        let live = before.filter(|before| {
            self.grants.get(before).is_some_and(|grant| grant.ended.is_none())
                && self.cut_off(before).is_none()
        });
        hold(live.is_none(), "I2", || format!("{seq}: key {key} also answers {live:?}"))
    }

    /// I4: no identity has more active grants than its tier allows, whichever way they became active.
    fn within_its_cap(&self, identity: &IdentityName, seq: Seq) -> Result<(), Violation> {
        let active = self.grants.iter().filter(|(id, grant)| {
            let own = self.credentials.get(&(**id, 0)).map(|record| &record.identity);
            own == Some(identity) && grant.ended.is_none() && self.cut_off(id).is_none()
        });
        let (active, max) = (active.count(), active_max(identity));
        hold(active <= max, "I4", || {
            format!("too many: {seq} makes {active} of {identity}, not {max}")
        })
    }

    /// I3 and I8 for a credential that the journal records.
    fn credential(
        &mut self,
        issued: &CredentialIssued,
        seq: Seq,
        at: Time,
    ) -> Result<(), Violation> {
        let id = issued.grant;
        let what = || format!("{seq}: credential {} of {id}", issued.number);
        let Some(grant) = self.grants.get(&id).cloned() else {
            return Err(format!("I1: {} has no grant", what()));
        };
        hold(issued.exp <= grant.until && issued.until == grant.until, "I3", what)?;
        hold(issued.exp <= at + issued.terms.credential.0 && issued.iat <= at, "I3", what)?;
        hold(grant.ended.is_none() && self.cut_off(&id).is_none(), "I8", what)?;
        hold(at < grant.until, "I8", what)?;
        let record = Record {
            identity: issued.by.identity.clone(),
            task: issued.task.clone(),
            resource: issued.resource.clone(),
            scopes: issued.scopes.clone(),
            key: issued.key.clone(),
            activated: grant.activated.unwrap_or(seq),
            exp: issued.exp,
        };
        let twice = self.credentials.insert((id, issued.number), record);
        hold(twice.is_none(), "I1", || format!("{} is recorded twice", what()))
    }

    /// The cut-off, of any axis but a key, that already ended a grant.
    fn cut_off(&self, id: &GrantId) -> Option<Seq> {
        let record = self.credentials.get(&(*id, 0))?;
        let cut =
            |(_, end): &(&Seq, &End)| !matches!(end.target, Target::Grant(_) | Target::Key(_));
        let covers = |(seq, end): &(&Seq, &End)| covers(&end.target, **seq, id, record);
        self.ends.iter().filter(cut).find(covers).map(|(seq, _)| *seq)
    }

    /// I5: what was answered is in the store.
    fn done(&mut self, answered: u64, rows: &[Seq]) -> Result<(), Violation> {
        for seq in rows {
            hold(*seq <= self.seq, "I5", || format!("{seq} was answered and is not stored"))?;
            if self.ends.contains_key(seq) {
                self.answered.entry(*seq).or_insert(answered);
            }
        }
        Ok(())
    }

    /// I1 and I2 for a credential that somebody holds.
    fn got(&mut self, got: &Got) -> Result<(), Violation> {
        let what = || format!("credential {} of {}", got.number, got.grant);
        let Some(record) = self.credentials.get(&(got.grant, got.number)) else {
            return Err(format!("I1: {} is not in the journal", what()));
        };
        hold(record.exp == got.exp, "I1", || format!("{} says another end", what()))?;
        let before = self.tokens.insert((got.grant, got.number), got.token);
        hold(before.is_none_or(|token| token == got.token), "I2", || {
            format!("{} was given with other bytes", what())
        })
    }

    /// I9: item by item, a view follows the journal.
    fn applied(&mut self, gateway: usize, item: &Applied) -> Result<(), Violation> {
        let view = self.gateways.entry(gateway).or_default();
        match item {
            Applied::Snapshot { at, now, told } => {
                view.applied = Some(*at);
                told.iter().try_for_each(|item| self.remembered(item))?;
                self.snapshot(*at, *now, told)
            }
            Applied::Item(item) => {
                let seq = item.seq;
                let next = view.applied.and_then(|after| next_told(&self.ends, after));
                view.applied = Some(seq);
                hold(next == Some(seq), "I9", || {
                    format!("gateway {gateway} applied {seq}, and {next:?} was next")
                })?;
                self.remembered(item)
            }
        }
    }

    /// I10: no gateway may forget an end while a credential that it voids is alive.
    fn remembered(&self, item: &Item) -> Result<(), Violation> {
        let Item { seq, forget: Some(forget) } = item else { return Ok(()) };
        let last = self.last_exp(*seq);
        hold(last <= *forget, "I10", || {
            format!("{seq} may be forgotten at {forget}, and voids what lives until {last}")
        })
    }

    /// I10: a snapshot tells every end that voids what may be alive.
    fn snapshot(&self, at: Seq, now: u64, told: &[Item]) -> Result<(), Violation> {
        let told: BTreeSet<Seq> = told.iter().map(|item| item.seq).collect();
        let ends = self.ends.range(..=at).filter(|(seq, end)| end.told && !told.contains(seq));
        let now = Time::from_millis(self.start + now);
        for (seq, _) in ends {
            let last = self.last_exp(*seq);
            hold(last <= now + CLOCK_BOUND, "I10", || {
                format!(
                    "a snapshot at {at} is silent on {seq}, which voids what lives until {last}"
                )
            })?;
        }
        Ok(())
    }

    /// When the last credential dies that an end voids.
    fn last_exp(&self, seq: Seq) -> Time {
        let Some(end) = self.ends.get(&seq) else { return Time::ZERO };
        let covered = self
            .credentials
            .iter()
            .filter(|((grant, _), record)| covers(&end.target, seq, grant, record));
        covered.map(|(_, record)| record.exp).max().unwrap_or_default()
    }

    /// I25: a view does not go back.
    fn stands(&mut self, gateway: usize, epoch: Epoch, seq: Seq) -> Result<(), Violation> {
        let view = self.gateways.entry(gateway).or_default();
        let (was, now) = (view.stands, (epoch, seq));
        hold(now >= was, "I25", || format!("gateway {gateway} went from {was:?} to {now:?}"))?;
        view.stands = now;
        self.whole(gateway, seq, "proved")
    }

    /// I9 for a view that claims to hold all up to a place.
    fn whole(&self, gateway: usize, seq: Seq, how: &str) -> Result<(), Violation> {
        let applied = self.gateways.get(&gateway).and_then(|view| view.applied);
        let missed = next_told(&self.ends, applied.unwrap_or_default());
        let missed = missed.filter(|missed| *missed <= seq);
        hold(missed.is_none(), "I9", || format!("gateway {gateway} {how} {seq} without {missed:?}"))
    }

    /// I16: no gateway loses the key of a live token, unless the key itself was cut off.
    fn unknown_key(&self, decided: &Decided) -> Result<(), Violation> {
        let Some(record) = self.credentials.get(&(decided.grant, decided.number)) else {
            return Ok(());
        };
        let end = record.exp.as_millis().saturating_sub(self.start);
        let dead = decided.now + CLOCK_BOUND.as_millis() as u64 >= end;
        let of_key = |end: &End| matches!(&end.target, Target::Key(key) if *key == record.key);
        let void = self.ends.values().any(of_key);
        let (gateway, grant, now) = (decided.gateway, decided.grant, decided.now);
        hold(dead || void, "I16", || {
            format!("gateway {gateway} lost the key of {grant} at {now}, which lives until {end}")
        })
    }

    /// I10, I11 and I12.
    fn accepted(&self, decided: &Decided) -> Result<(), Violation> {
        let (id, now) = (decided.grant, decided.now);
        let what = || format!("gateway {} accepted {id} at {now}", decided.gateway);
        let Some(record) = self.credentials.get(&(id, decided.number)) else {
            return Err(format!("I1: {}, which nobody issued", what()));
        };
        let end = record.exp.as_millis().saturating_sub(self.start);
        let bound = CLOCK_BOUND.as_millis() as u64;
        hold(now < end + bound, "I12", || format!("{}, dead since {end}", what()))?;
        let known = self.gateways.get(&decided.gateway).and_then(|view| view.applied);
        for (seq, voids) in &self.ends {
            if !covers(&voids.target, *seq, &id, record) || !voids.told {
                continue;
            }
            let knew = Some(*seq) <= known;
            hold(!knew, "I10", || format!("{}, its view knew {seq}", what()))?;
            let drift = decided.fresh_ms * DRIFT_PPM / 1_000_000 + 1;
            let late = |answered: &u64| now > answered + decided.fresh_ms + drift;
            let answered = self.answered.get(seq).filter(|answered| late(answered));
            hold(answered.is_none(), "I11", || {
                format!("{}, whose end {seq} was answered at {answered:?}", what())
            })?;
        }
        Ok(())
    }
}

/// What a gateway says of a key that it does not know.
const UNKNOWN_KEY: &str = "PT-0403";

/// The first item after `after` that the feed carries.
fn next_told(ends: &BTreeMap<Seq, End>, after: Seq) -> Option<Seq> {
    ends.range(after.next()..).find(|(_, end)| end.told).map(|(seq, _)| *seq)
}

/// Whether an entry at `seq` with this target voids the credential: written from the design, not from the code it tests.
fn covers(target: &Target, seq: Seq, id: &GrantId, record: &Record) -> bool {
    let matches = match target {
        Target::Key(key) => return *key == record.key,
        Target::Grant(grant) => grant == id,
        Target::Task(identity, task) => *identity == record.identity && *task == record.task,
        Target::Identity(identity) => *identity == record.identity,
        Target::Resource(resource) => *resource == record.resource,
        Target::Scope(resource, scope) => {
            *resource == record.resource && record.scopes.contains(scope)
        }
        Target::Everything => true,
    };
    matches && record.activated <= seq
}

pub fn hold(holds: bool, which: &str, how: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(format!("{which}: {}", how())) }
}
