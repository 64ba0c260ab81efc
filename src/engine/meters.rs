//! What the broker counts of itself while it works: atomic additions, no lock, no names of anybody.

use std::time::Duration;

use protem_core::event::{EndReason, Event};
use protem_metrics::count::{Counts, Label};
use protem_metrics::page::Page;
use protem_metrics::spread::Spread;

use crate::engine::broker::Broker;
use crate::journal::committed::Committed;
use crate::journal::usage::Counted;

/// All of it. Clones are one.
#[derive(Clone, Debug)]
pub struct Meters {
    turns: Spread,
    commands: Spread,
    entries: Counts,
    requests: Counts,
    credentials: Counts,
    ended: Counts,
    /// From a commit to a gateway's acknowledgement of it.
    pub(in crate::engine) lag: Spread,
    lines: Counts,
    dropped: Counts,
}

/// Turns and calls: from a tenth of a millisecond, which is a turn without a sync, to the ten seconds after which nobody waits.
pub const TIMES: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
/// Commands of a turn, in millionths: powers of two up to the most that one turn takes.
const SIZES: &[u64] = &[
    1_000_000,
    2_000_000,
    4_000_000,
    8_000_000,
    16_000_000,
    32_000_000,
    64_000_000,
    128_000_000,
    256_000_000,
];

const OUTCOME: Label = Label { name: "outcome", values: &["issued", "waiting", "denied"] };
const REASON: Label = Label {
    name: "reason",
    values: &[
        "completed",
        "expired",
        "abandoned",
        "revoked",
        "denied",
        "lapsed",
        "withdrawn",
        "policy",
        "quarantined",
        "fenced",
        "cut_off",
    ],
};
const CUT_OFF: usize = 10;
const LINES: Label = Label { name: "outcome", values: &["counted", "repeated", "unknown"] };

impl Default for Meters {
    fn default() -> Self {
        Self {
            turns: Spread::new(TIMES),
            commands: Spread::new(SIZES),
            entries: Counts::one(),
            requests: Counts::new(OUTCOME),
            credentials: Counts::one(),
            ended: Counts::new(REASON),
            lag: Spread::new(TIMES),
            lines: Counts::new(LINES),
            dropped: Counts::one(),
        }
    }
}

impl Meters {
    /// Puts all of it on a page.
    pub fn show(&self, page: &mut Page) {
        let turns = "Turns of the sequencer: from taking what waits to the last answer";
        page.times("turn_duration", turns, &self.turns);
        page.sizes("turn_commands", "Commands that shared a turn, and so a sync", &self.commands);
        page.counts("journal_entries_written", "Entries that this broker committed", &self.entries);
        let requests = "Requests for access that policy decided, by what became of them at once";
        page.counts("requests", requests, &self.requests);
        page.counts(
            "credentials_issued",
            "Credentials, first ones and renewals",
            &self.credentials,
        );
        let ended = "Ends of grants, by reason; one cut-off may end many grants";
        page.counts("ends", ended, &self.ended);
        let lag = "From a commit to a gateway instance's word that it enforces it";
        page.times("revocation_latency", lag, &self.lag);
        page.counts("usage_lines", "Lines of usage reports, by what became of them", &self.lines);
        let dropped = "Calls that gateways had no room to count";
        page.counts("usage_dropped", dropped, &self.dropped);
    }

    /// A turn was taken.
    pub(in crate::engine) fn turn(&self, commands: usize, took: Duration) {
        self.turns.took(took);
        self.commands.counted(commands);
    }

    /// These entries are durable.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of entry are not counted apart")]
    pub(in crate::engine) fn committed(&self, rows: &[Committed<Event>]) {
        self.entries.rise(u64::try_from(rows.len()).unwrap_or(u64::MAX));
        for row in rows {
            match row.what() {
                Event::GrantActivated(activated) => {
                    self.credentials.rise(1);
                    if activated.asked.is_some() {
                        self.requests.add(0, 1);
                    }
                }
                Event::GrantRequested(_) => self.requests.add(1, 1),
                Event::AccessRefused(_) => self.requests.add(2, 1),
                Event::CredentialIssued(_) => self.credentials.rise(1),
                Event::GrantEnded(ended) => self.ended.add(place(ended.reason), 1),
                Event::CutOff { .. } => self.ended.add(CUT_OFF, 1),
                _ => {}
            }
        }
    }

    /// A gateway's report was counted.
    pub(in crate::engine) fn usage(&self, counted: &Counted) {
        for (at, lines) in [counted.counted, counted.repeated, counted.unknown].iter().enumerate() {
            self.lines.add(at, *lines);
        }
        self.dropped.rise(counted.dropped);
    }
}

/// The place of a reason in [`REASON`].
fn place(reason: EndReason) -> usize {
    match reason {
        EndReason::Completed => 0,
        EndReason::Expired => 1,
        EndReason::Abandoned => 2,
        EndReason::Revoked => 3,
        EndReason::Denied => 4,
        EndReason::Lapsed => 5,
        EndReason::Withdrawn => 6,
        EndReason::Policy => 7,
        EndReason::Quarantined => 8,
        EndReason::Fenced => 9,
    }
}

impl Broker {
    /// What it counts of itself.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// How many commands wait for a turn: those that end access, and the others.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        self.0.lanes.waiting()
    }

    /// How many follow the feed.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.0.seats.total()
    }

    /// How many rings of the feed they share.
    #[must_use]
    pub fn rings(&self) -> usize {
        self.0.feed.rings()
    }

    /// Whether something failed since the last commit.
    #[must_use]
    pub fn failing(&self) -> bool {
        self.0.health.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_of_its_own() {
        for (reason, word) in [
            (EndReason::Completed, "completed"),
            (EndReason::Expired, "expired"),
            (EndReason::Abandoned, "abandoned"),
            (EndReason::Revoked, "revoked"),
            (EndReason::Denied, "denied"),
            (EndReason::Lapsed, "lapsed"),
            (EndReason::Withdrawn, "withdrawn"),
            (EndReason::Policy, "policy"),
            (EndReason::Quarantined, "quarantined"),
            (EndReason::Fenced, "fenced"),
        ] {
            assert_eq!(REASON.values[place(reason)], word);
        }
        assert_eq!(REASON.values[CUT_OFF], "cut_off");
    }
}
