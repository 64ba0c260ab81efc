//! The sequencer's thread: loops turns over what waits, and records what is due.

use std::sync::Arc;
use std::time::Duration;

use protem_core::command::Command;
use protem_core::event::Actor;

use crate::engine::lane::{Drained, Lanes};
use crate::engine::sequencer::{Job, Sequencer, Tail, Work};
use crate::journal::port::Journal;

/// The longest sleep without work: a wall clock that was set forward must not leave deadlines lying.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long a tick that recorded nothing is not repeated: its reason may lie outside this broker's clock.
const TICK_PAUSE: Duration = Duration::from_millis(50);

/// Runs turns until the lanes are closed and empty.
pub fn run<J: Journal>(mut sequencer: Sequencer<J>, lanes: &Lanes, tail: &mut dyn Tail) {
    let mut idle_tick = false;
    loop {
        let wait = match sequencer.until_tick() {
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
        if batch.is_empty() {
            continue;
        }
        let before = sequencer.head().seq;
        let span = tracing::debug_span!("turn", jobs = batch.len(), tick = ticks);
        span.in_scope(|| sequencer.turn(batch, tail));
        idle_tick = ticks && sequencer.head().seq == before;
    }
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
