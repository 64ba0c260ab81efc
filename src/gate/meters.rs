//! What a gateway counts of itself: atomic additions in the way of a call, and a page for Prometheus beside it.

use std::sync::LazyLock;
use std::time::Duration;

use protem_metrics::count::{Counts, Label, Levels};
use protem_metrics::page::{In, Page};
use protem_metrics::spread::Spread;
use protem_verify::codes::check;

/// All of it. Clones are one.
#[derive(Clone, Debug)]
pub struct Meters {
    checks: Counts,
    refusals: Counts,
    age: Spread,
    /// Calls that there was no room to count.
    dropped: Counts,
    reported: Counts,
}

const VERDICT: Label = Label { name: "verdict", values: &["allowed", "refused"] };
const STATE: Label = Label { name: "state", values: &["unready", "syncing", "fresh", "stale"] };
/// The codes of a gateway's reasons: nothing else becomes a label.
static CODES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| check::ALL.iter().map(|code| code.id).collect());
/// Ages of credentials: seconds, up to the longest that a tier may give.
const AGES: &[u64] = &[
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
    14_400_000_000,
    43_200_000_000,
];

impl Default for Meters {
    fn default() -> Self {
        Self {
            checks: Counts::new(VERDICT),
            refusals: Counts::new(Label { name: "code", values: &CODES }),
            age: Spread::new(AGES),
            dropped: Counts::one(),
            reported: Counts::one(),
        }
    }
}

impl Meters {
    /// A call was let through with a credential of this age.
    pub(crate) fn allowed(&self, age: Duration) {
        self.checks.add(0, 1);
        self.age.took(age);
    }

    /// A call was refused, with this code.
    pub(crate) fn refused(&self, code: &str) {
        self.checks.add(1, 1);
        self.refusals.count(code);
    }

    /// So many lines of usage were told to a broker.
    pub(crate) fn reported(&self, lines: u64) {
        self.reported.rise(lines);
    }

    /// Where calls are counted that there was no room to count.
    pub(crate) fn dropped_here(&self) -> Counts {
        self.dropped.clone()
    }
}

/// The page, with what is looked up when it is asked for.
#[derive(Debug)]
pub struct Exposition {
    page: Page,
    states: Levels,
    view_age: Levels,
}

impl Exposition {
    /// Shows `meters`.
    #[must_use]
    pub fn new(meters: &Meters) -> Self {
        let mut page = Page::new("protem_gate");
        page.counts("checks", "Calls that were decided", &meters.checks);
        page.counts("refusals", "Calls that were refused, by stable code", &meters.refusals);
        let age = "Age of credentials when a call was let through";
        page.times("credential_age", age, &meters.age);
        let dropped = "Calls that there was no room to count";
        page.counts("usage_dropped", dropped, &meters.dropped);
        page.counts("usage_lines", "Lines of usage that a broker took", &meters.reported);
        let (states, view_age) = (Levels::new(STATE), Levels::one());
        page.levels("views", In::Things, "Views, one for each issuer, by state", &states);
        let age = "Of the oldest view that was proven: since the ping was sent that was proven last; NaN while none was";
        page.levels("view_age", In::Seconds, age, &view_age);
        Self { page, states, view_age }
    }

    /// The page as it is now. `views`: each one's state as a word, and its age.
    pub fn text<'v>(&self, views: impl Iterator<Item = (&'v str, Option<Duration>)>) -> String {
        let mut counts = [0_u32; STATE.values.len()];
        let mut oldest: Option<Duration> = None;
        for (state, age) in views {
            let place = STATE.place(&state.to_ascii_lowercase());
            if let Some(count) = place.and_then(|at| counts.get_mut(at)) {
                *count = count.saturating_add(1);
            }
            oldest = oldest.max(age);
        }
        for (at, count) in counts.iter().enumerate() {
            self.states.set(at, f64::from(*count));
        }
        self.view_age.put(oldest.map(|age| age.as_secs_f64()));
        self.page.text()
    }
}
