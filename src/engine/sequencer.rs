//! One turn: decide, append, publish, answer.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::run::{Run, refuse, refuse_run};
use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::dice::Dice;
use protem_core::event::{Actor, Event};
use protem_core::limits::SWEEP_MAX;
use protem_core::state::State;
use protem_verify::ids::{Seq, TurnId};
use protem_verify::time::Time;

use crate::engine::stop::Stop;
use crate::engine::timekeeper::Timekeeper;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal, Turn};

/// How often one batch is tried again after it was found absent, or after others were ahead: a store that loses every
/// commit is broken, not busy.
pub const TRIES_MAX: u32 = 4;
/// Entries read at once while catching up with other brokers.
const CATCH_UP: u32 = 1_000;
/// How often forgotten things are freed: often enough to stay small, seldom enough to cost nothing.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What waits for a turn.
pub struct Job {
    /// Who is named in the journal for its events.
    pub actor: Actor,
    /// What is wanted.
    pub work: Work,
    /// Told once, from what is committed.
    pub answer: Answer,
}

/// What is wanted of a turn.
pub enum Work {
    /// A decision.
    Command(Box<Command>),
    /// A look at the committed state between turns.
    Look,
    /// Proof that the store can still commit.
    Beat,
}

/// Takes a job's answer, on the sequencer's thread: short work only.
pub type Answer = Box<dyn FnOnce(Result<Answered<'_>, Stop>) + Send>;

/// What a job finds when its turn is durable.
pub struct Answered<'a> {
    /// The entries that the command made.
    pub rows: &'a [Committed<Event>],
    /// The committed state, which later commands of the turn may have changed further.
    pub state: &'a State,
    /// The journal's head.
    pub head: Head,
    /// When the turn was found durable, by the monotonic clock.
    pub committed: Duration,
    /// The time of the turn; of a look, the clock's, never before the last event.
    pub now: Time,
}

/// What follows the committed tail: feeds, replicas, watchers. Called before any job of the turn is answered.
pub trait Tail {
    /// These entries are durable, others' and own, in order; `state` has applied them.
    fn committed(
        &mut self,
        rows: &Arc<[Committed<Event>]>,
        state: &State,
        head: &Head,
        boot: Duration,
    );
}

/// Decides batches of jobs, one turn each. No thread, no runtime: whoever owns it calls `turn`.
pub struct Sequencer<J> {
    journal: J,
    state: State,
    known: Head,
    keeper: Timekeeper,
    clock: Arc<dyn Clock>,
    dice: Box<dyn Dice + Send>,
    doubt: Option<Doubt>,
    broken: Option<Fault>,
    failed: bool,
    swept: Duration,
}

/// A turn that is durable.
struct Durable {
    head: Head,
    rows: Vec<Committed<Event>>,
    /// What others appended after it, before it was found.
    later: Vec<Committed<Event>>,
}

/// A turn of which nobody knows whether it happened. The state has run ahead to where it would be.
struct Doubt {
    id: TurnId,
    others: Vec<Committed<Event>>,
    drafts: usize,
}

impl<J: Journal> Sequencer<J> {
    /// The monotonic clock.
    pub(in crate::engine) fn boot(&self) -> Duration {
        self.clock.boot()
    }

    /// Goes on from `state`, which is the fold of the journal up to `known`.
    pub fn new(
        journal: J,
        state: State,
        known: Head,
        clock: Arc<dyn Clock>,
        dice: Box<dyn Dice + Send>,
    ) -> Self {
        let keeper = Timekeeper::new(Arc::clone(&clock));
        let swept = clock.boot();
        Self {
            journal,
            state,
            known,
            keeper,
            clock,
            dice,
            doubt: None,
            broken: None,
            failed: false,
            swept,
        }
    }

    /// The committed state; while a turn is in doubt, ahead of it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How far the journal is known.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.known
    }

    /// The journal, for tests that break it on purpose.
    pub fn journal(&mut self) -> &mut J {
        &mut self.journal
    }

    /// Whether something failed since the last commit: then a proof of freshness needs a commit first.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Whether nobody knows yet if an earlier turn happened: a turn, even without jobs, asks again.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether a tick is due.
    #[must_use]
    pub fn is_tick_due(&self) -> bool {
        let now = Time::from(self.clock.unix()).max(self.state.last_at());
        self.state.next_deadline().is_some_and(|due| due <= now)
    }

    /// How long until a tick is due; `None` when nothing is.
    #[must_use]
    pub fn until_tick(&self) -> Option<Duration> {
        let now = Time::from(self.clock.unix()).max(self.state.last_at());
        self.state.next_deadline().map(|due| due.since(now))
    }

    /// Decides and appends a batch, in its order, and answers every job of it. Whatever happens, each is answered once.
    pub fn turn(&mut self, batch: Vec<Job>, tail: &mut dyn Tail) {
        if let Err(fault) = self.ready(tail) {
            return refuse(batch, &fault);
        }
        let now = match self.keeper.now(self.state.last_at()) {
            Ok(now) => now,
            Err(fault) => {
                // A look changes nothing and promises nothing: it is answered on any clock.
                self.failed = true;
                let (looks, rest) =
                    batch.into_iter().partition(|job: &Job| matches!(job.work, Work::Look));
                refuse(rest, &fault);
                return self.answer(Run::looked(looks, self.state.last_at()));
            }
        };
        let mut run = Run::new(batch, now);
        let beats = run.beats();
        if run.needs_journal() {
            if let Err(fault) = self.append(&mut run, tail) {
                self.failed = true;
                return refuse_run(run, &fault);
            }
        } else {
            run.look();
        }
        if beats
            && run.drafts.is_empty()
            && let Err(fault) = self.beat()
        {
            return refuse_run(run, &fault);
        }
        self.answer(run);
        self.sweep(now);
    }

    /// Settles a doubt of an earlier turn, and refuses when the store went back.
    fn ready(&mut self, tail: &mut dyn Tail) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let Some(doubt) = self.doubt.take() else { return Ok(()) };
        match self.look_up(doubt.id) {
            Ok(Some(turn)) => self.done(doubt.others, turn, doubt.drafts, tail).map(drop),
            Ok(None) => {
                self.state.rollback();
                Ok(())
            }
            Err(fault) => {
                self.doubt = Some(doubt);
                self.failed = true;
                Err(Fault::Store(format!("an earlier turn is still in doubt: {fault}")))
            }
        }
    }

    fn append(&mut self, run: &mut Run, tail: &mut dyn Tail) -> Result<(), Fault> {
        let mut last = Fault::Store("the store took no turn".to_owned());
        for _ in 0..TRIES_MAX {
            let id = TurnId(self.dice.bytes());
            self.state.begin();
            let turn = {
                let (state, dice) = (&mut self.state, &mut *self.dice);
                self.journal.turn(&self.known, id, &mut |others| run.decide(state, dice, others))
            };
            match turn {
                Ok(Turn::Done { .. }) if run.spoiled => {
                    self.state.rollback();
                    return Err(Fault::Store("others appended meanwhile".to_owned()));
                }
                Ok(Turn::Done { head, rows }) => {
                    return self.settle(run, Durable { head, rows, later: Vec::new() }, tail);
                }
                Ok(Turn::Behind) => {
                    self.state.rollback();
                    self.catch_up(tail)?;
                    last = Fault::Store("others append faster than this broker reads".to_owned());
                }
                Err(Fault::Unknown(why)) => match self.look_up(id) {
                    Ok(Some(turn)) => return self.settle(run, turn, tail),
                    Ok(None) => {
                        self.state.rollback();
                        last = Fault::Store(why);
                    }
                    Err(_) => {
                        let (others, drafts) = (run.others.clone(), run.drafts.len());
                        self.doubt = Some(Doubt { id, others, drafts });
                        return Err(Fault::Unknown(why));
                    }
                },
                Err(fault) => {
                    self.state.rollback();
                    return Err(self.note(fault));
                }
            }
            if !run.may_try_again() {
                break;
            }
        }
        Err(last)
    }

    fn settle(&mut self, run: &mut Run, turn: Durable, tail: &mut dyn Tail) -> Result<(), Fault> {
        let others = std::mem::take(&mut run.others);
        let skip = others.len();
        run.rows = self.done(others, turn, run.drafts.len(), tail)?;
        run.skip = skip;
        Ok(())
    }

    /// What was decided is durable: the run-ahead becomes the truth, and the tail hears of it.
    fn done(
        &mut self,
        others: Vec<Committed<Event>>,
        turn: Durable,
        drafts: usize,
        tail: &mut dyn Tail,
    ) -> Result<Arc<[Committed<Event>]>, Fault> {
        let Durable { head, rows, later } = turn;
        if rows.len() != drafts {
            self.state.rollback();
            let why = format!("a turn of {drafts} entries came back with {}", rows.len());
            return Err(self.note(Fault::Damaged { seq: head.seq, why }));
        }
        for row in &later {
            self.state.apply(row.at(), row.what());
        }
        self.state.commit();
        self.known = head;
        // Only a commit of our own shows that the store can: a turn without entries makes none.
        if drafts > 0 {
            self.failed = false;
        }
        let mut all = others;
        all.extend(rows);
        all.extend(later);
        let all: Arc<[Committed<Event>]> = all.into();
        if !all.is_empty() {
            tail.committed(&all, &self.state, &self.known, self.clock.boot());
        }
        Ok(all)
    }

    /// Reads what others appended, outside the journal's lock.
    fn catch_up(&mut self, tail: &mut dyn Tail) -> Result<(), Fault> {
        let head = self.journal.head().map_err(|fault| self.note(fault))?;
        if head.seq < self.known.seq {
            let (known, found) = (self.known.seq, head.seq);
            return Err(self.note(Fault::RolledBack { known, found }));
        }
        let rows = self.between(self.known.seq, head.seq)?;
        self.state.begin();
        for row in &rows {
            self.state.apply(row.at(), row.what());
        }
        let turn = Durable { head, rows: Vec::new(), later: Vec::new() };
        self.done(rows, turn, 0, tail).map(drop)
    }

    /// A turn that may have happened, with what others appended after it.
    fn look_up(&mut self, id: TurnId) -> Result<Option<Durable>, Fault> {
        let Some(Turn::Done { head, rows }) = self.journal.find(id)? else { return Ok(None) };
        let later = match rows.last() {
            Some(last) => self.between(last.seq(), head.seq)?,
            None => Vec::new(),
        };
        Ok(Some(Durable { head, rows, later }))
    }

    /// The entries after `after` up to `end`.
    fn between(&self, mut after: Seq, end: Seq) -> Result<Vec<Committed<Event>>, Fault> {
        let mut rows = Vec::new();
        while after < end {
            let part = self.journal.read(after, CATCH_UP)?;
            let Some(last) = part.last().map(Committed::seq) else {
                return Err(Fault::Store(format!("the entry after {after} cannot be read")));
            };
            after = last;
            rows.extend(part.into_iter().filter(|row| row.seq() <= end));
        }
        Ok(rows)
    }

    fn beat(&mut self) -> Result<(), Fault> {
        match self.journal.beat() {
            Ok(()) => {
                self.failed = false;
                Ok(())
            }
            Err(fault) => {
                self.failed = true;
                Err(self.note(fault))
            }
        }
    }

    /// Remembers a fault that no retry heals.
    fn note(&mut self, fault: Fault) -> Fault {
        self.failed = true;
        if matches!(fault, Fault::RolledBack { .. } | Fault::Damaged { .. }) {
            self.broken = Some(fault.clone());
        }
        fault
    }

    fn answer(&self, run: Run) {
        let rows = run.rows.get(run.skip..).unwrap_or_default();
        let mut rest = rows;
        for decided in run.decided {
            let found = match decided.outcome {
                Ok(count) => {
                    let (own, after) = rest.split_at(count.min(rest.len()));
                    rest = after;
                    Ok(Answered {
                        rows: own,
                        state: &self.state,
                        head: self.known,
                        committed: self.clock.boot(),
                        now: run.now,
                    })
                }
                Err(refusal) => Err(Stop::Refused(refusal)),
            };
            (decided.answer)(found);
        }
    }

    fn sweep(&mut self, now: Time) {
        let boot = self.clock.boot();
        if boot.saturating_sub(self.swept) >= SWEEP_EVERY {
            // What is left of a heap is freed after the next turns.
            if self.state.sweep(now, SWEEP_MAX) {
                self.swept = boot;
            }
        }
    }
}
