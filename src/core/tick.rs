//! A tick records what is due; the deadlines themselves are checked wherever they matter.

use protem_verify::names::Words;
use protem_verify::time::Time;

use crate::ending::{due as reason_due, ended, owed};
use crate::event::Event;
use crate::limits::STEP_MAX;
use crate::state::State;

/// At most a thousand ends: deadlines that passed, rows that a cut-off still owes.
pub(crate) fn due(state: &State, now: Time) -> Vec<Event> {
    let passed = state.deadlines.set().iter().take_while(|(time, _)| *time <= now);
    let passed = passed.filter_map(|(time, id)| {
        let grant = state.grant(id)?;
        match (reason_due(grant, now), grant.remind_at() == Some(*time)) {
            // A reminder that comes with the end comes too late; the end has a deadline of its own.
            (Some(_), true) | (None, false) => None,
            (Some(reason), false) => Some(ended(grant, reason, Words::default(), now)),
            (None, true) => {
                let then = grant.waiting.as_ref().and_then(|waiting| waiting.rule.then.clone());
                Some(Event::RequestReminded { grant: *id, then })
            }
        }
    });
    let owed = state.unrecorded.set().iter().filter_map(|id| owed(state.grant(id)?));
    passed.chain(owed).take(STEP_MAX).collect()
}
