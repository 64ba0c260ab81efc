//! One batch on its way through a turn: decided once, appended as decided.

use std::collections::VecDeque;
use std::sync::Arc;

use protem_core::command::Command;
use protem_core::decide::decide;
use protem_core::dice::Dice;
use protem_core::event::{Actor, Draft, Event};
use protem_core::refusal::Refusal;
use protem_core::state::State;
use protem_verify::time::Time;

use crate::engine::sequencer::{Answer, Job, Work};
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;

pub(in crate::engine) fn refuse(batch: Vec<Job>, fault: &Fault) {
    for job in batch {
        (job.answer)(Err(Stop::Faulted(fault.clone())));
    }
}

pub(in crate::engine) fn refuse_run(run: Run, fault: &Fault) {
    for decided in run.decided {
        (decided.answer)(Err(Stop::Faulted(fault.clone())));
    }
    refuse(run.waiting.into(), fault);
}

/// One batch on its way through a turn.
pub(in crate::engine) struct Run {
    pub(in crate::engine) now: Time,
    pub(in crate::engine) waiting: VecDeque<Job>,
    pub(in crate::engine) decided: Vec<Decided>,
    pub(in crate::engine) drafts: Vec<Draft>,
    pub(in crate::engine) others: Vec<Committed<Event>>,
    /// Drafts were decided on a state that others have not changed.
    pub(in crate::engine) alone: bool,
    pub(in crate::engine) called: bool,
    /// Others appended between two tries: what was decided must not be appended.
    pub(in crate::engine) spoiled: bool,
    pub(in crate::engine) rows: Arc<[Committed<Event>]>,
    pub(in crate::engine) skip: usize,
}

pub(in crate::engine) struct Decided {
    pub(in crate::engine) answer: Answer,
    /// How many entries it makes, or why it makes none.
    pub(in crate::engine) outcome: Result<usize, Refusal>,
}

impl Run {
    pub(in crate::engine) fn new(batch: Vec<Job>, now: Time) -> Self {
        Self {
            now,
            waiting: batch.into(),
            decided: Vec::new(),
            drafts: Vec::new(),
            others: Vec::new(),
            alone: true,
            called: false,
            spoiled: false,
            rows: Arc::new([]),
            skip: 0,
        }
    }

    pub(in crate::engine) fn looked(batch: Vec<Job>, now: Time) -> Self {
        let mut run = Self::new(batch, now);
        run.look();
        run
    }

    /// Nothing is to be decided: everyone just looks.
    pub(in crate::engine) fn look(&mut self) {
        let waiting = self.waiting.drain(..);
        self.decided.extend(waiting.map(|job| Decided { answer: job.answer, outcome: Ok(0) }));
    }

    pub(in crate::engine) fn needs_journal(&self) -> bool {
        self.waiting.iter().any(|job| matches!(job.work, Work::Command(_)))
    }

    pub(in crate::engine) fn beats(&self) -> bool {
        self.waiting.iter().any(|job| matches!(job.work, Work::Beat))
    }

    /// A command is decided once: it carries proofs that are taken, not copied. So a second try on the same state appends
    /// what was decided, and one on another state is the caller's to make.
    pub(in crate::engine) fn may_try_again(&self) -> bool {
        !self.called || self.alone
    }

    pub(in crate::engine) fn decide(
        &mut self,
        state: &mut State,
        dice: &mut dyn Dice,
        others: &[Committed<Event>],
    ) -> Vec<Draft> {
        if self.called && !others.is_empty() {
            self.spoiled = true;
            return Vec::new();
        }
        for row in others {
            state.apply(row.at(), row.what());
        }
        if self.called {
            for draft in &self.drafts {
                state.apply(draft.at, &draft.event);
            }
            return self.drafts.clone();
        }
        self.called = true;
        self.alone = others.is_empty();
        self.others = others.to_vec();
        self.now = self.now.max(state.last_at());
        while let Some(job) = self.waiting.pop_front() {
            let outcome = match job.work {
                Work::Command(command) => {
                    decide_one(state, *command, &job.actor, self.now, dice, &mut self.drafts)
                }
                Work::Look | Work::Beat => Ok(0),
            };
            self.decided.push(Decided { answer: job.answer, outcome });
        }
        self.drafts.clone()
    }
}

fn decide_one(
    state: &mut State,
    command: Command,
    actor: &Actor,
    at: Time,
    dice: &mut dyn Dice,
    drafts: &mut Vec<Draft>,
) -> Result<usize, Refusal> {
    let events = decide(state, command, at, dice)?;
    let count = events.len();
    for event in events {
        state.apply(at, &event);
        drafts.push(Draft { actor: actor.clone(), at, event });
    }
    Ok(count)
}
