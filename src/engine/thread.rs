//! The sequencer's thread: loops turns over what waits, and records what is due.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use protem_core::command::Command;
use protem_core::event::Actor;

use crate::engine::health::Health;
use crate::engine::lane::{Drained, Lane, Lanes};
use crate::engine::meters::Meters;
use crate::engine::sequencer::{Answered, Job, Sequencer, Tail, Work};
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::journal::port::Journal;

/// The longest sleep without work: a wall clock that was set forward must not leave deadlines lying.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long a tick that recorded nothing is not repeated: its reason may lie outside this broker's clock.
const TICK_PAUSE: Duration = Duration::from_millis(50);

/// How long a thread of the broker waits for a turn: a store that hangs must not hold up what else it has to do.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Runs turns until the lanes are closed and empty. Health hears after each whether the store and the clock work.
pub fn run<J: Journal>(
    mut sequencer: Sequencer<J>,
    lanes: &Lanes,
    tail: &mut dyn Tail,
    (health, meters): (&Health, &Meters),
) {
    let _ending = Ending::of(lanes, health);
    let mut idle_tick = false;
    loop {
        let wait = match sequencer.until_tick() {
            _ if sequencer.is_in_doubt() => TICK_PAUSE,
            Some(_) if idle_tick => TICK_PAUSE,
            Some(due) => due.min(SLEEP_MAX),
            None => SLEEP_MAX,
        };
        let mut batch = match lanes.drain(wait) {
            Drained::Batch(batch) => batch,
            Drained::Closed => return,
        };
        let ticks = sequencer.is_tick_due();
        if ticks {
            batch.push(tick());
        }
        if batch.is_empty() && !sequencer.is_in_doubt() {
            continue;
        }
        let (before, began, jobs) = (sequencer.head().seq, sequencer.boot(), batch.len());
        let span = tracing::debug_span!("turn", jobs = batch.len(), tick = ticks);
        span.in_scope(|| sequencer.turn(batch, tail));
        meters.turn(jobs, sequencer.boot().saturating_sub(began));
        health.set(sequencer.failed());
        idle_tick = ticks && sequencer.head().seq == before;
    }
}

/// However the loop ends, also by a panic: no proof without it, and nobody waits for an answer that cannot come.
pub(in crate::engine) struct Ending<'a> {
    lanes: &'a Lanes,
    health: &'a Health,
}

impl<'a> Ending<'a> {
    pub(in crate::engine) fn of(lanes: &'a Lanes, health: &'a Health) -> Self {
        Self { lanes, health }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.health.set(true);
        self.lanes.close();
        while let Drained::Batch(left) = self.lanes.drain(Duration::ZERO) {
            drop(left); // whoever waits finds its answer gone
        }
    }
}

/// Lets a thread of the broker wait for a turn; `read` takes from the committed state what it needs.
///
/// # Errors
/// When the turn refused or failed, or the broker stops.
pub fn wait<T: Send + 'static>(
    lanes: &Lanes,
    lane: Lane,
    work: Work,
    read: impl FnOnce(&Answered<'_>) -> T + Send + 'static,
) -> Result<T, Stop> {
    wait_as(lanes, lane, system(), work, read)
}

/// The same in somebody's name.
///
/// # Errors
/// When the turn refused or failed, none came in time, or the broker stops.
pub fn wait_as<T: Send + 'static>(
    lanes: &Lanes,
    lane: Lane,
    actor: Actor,
    work: Work,
    read: impl FnOnce(&Answered<'_>) -> T + Send + 'static,
) -> Result<T, Stop> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let answer = move |answered: Result<Answered<'_>, Stop>| {
        drop(tell.send(answered.map(|answered| read(&answered))));
    };
    let looks = matches!(work, Work::Look);
    lanes.push(lane, Job { actor, work, answer: Box::new(answer) });
    told.recv_timeout(TURN_WITHIN).unwrap_or_else(|why| match why {
        RecvTimeoutError::Disconnected => Err(Stop::Faulted(Fault::Stopping)),
        RecvTimeoutError::Timeout if looks => Err(Stop::busy()),
        RecvTimeoutError::Timeout => {
            Err(Stop::Faulted(Fault::Unknown(format!("no turn answered within {TURN_WITHIN:?}"))))
        }
    })
}

/// Records what is due.
#[must_use]
pub fn tick() -> Job {
    Job {
        actor: system(),
        work: Work::Command(Box::new(Command::Tick)),
        answer: Box::new(|answer| {
            if let Err(stop) = answer {
                tracing::warn!(%stop, "what is due was not recorded");
            }
        }),
    }
}

/// The broker itself, as the journal names it.
#[must_use]
pub fn system() -> Actor {
    Actor(Arc::from("system"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lane::LaneLimits;

    /// Nobody takes turns here, as when the store hangs.
    #[test]
    fn nobody_waits_without_end_for_a_turn() {
        let lanes = Lanes::new(LaneLimits::default());
        let looked = wait(&lanes, Lane::Ordinary, Work::Look, |_| ());
        assert!(matches!(looked, Err(Stop::Busy { .. })), "{looked:?}");
        // Of a command nobody knows whether it will yet be recorded.
        let tick = Work::Command(Box::new(Command::Tick));
        let ticked = wait(&lanes, Lane::Ordinary, tick, |_| ());
        assert!(matches!(ticked, Err(Stop::Faulted(Fault::Unknown(_)))), "{ticked:?}");
    }
}
