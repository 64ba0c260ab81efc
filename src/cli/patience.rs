//! Whether, when and for how long to ask a broker again.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How long a command goes on asking, from when it began.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    began: Duration,
    whole: Option<Duration>,
}

/// That of a command which does not wait for people: longer than a restart, shorter than a person looks at a silent line.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest single pause that a broker may ask of a command which waits for as long as it takes: twice the longest that ours
/// asks for, which is until it may fetch an issuer's keys again.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Patience {
    /// Of a command that waits this long.
    #[must_use]
    pub fn of(whole: Duration) -> Self {
        Self { began: SystemClock.boot(), whole: Some(whole) }
    }

    /// Of a command that wants an answer now.
    #[must_use]
    pub fn short() -> Self {
        Self::of(ANSWER_WITHIN)
    }

    /// Of a command that waits for as long as it takes.
    #[must_use]
    pub fn endless() -> Self {
        Self { began: SystemClock.boot(), whole: None }
    }

    /// All of it.
    #[must_use]
    pub fn whole(&self) -> Option<Duration> {
        self.whole
    }

    /// What is left of it now.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let spent = SystemClock.boot().saturating_sub(self.began);
        self.whole.map(|whole| whole.saturating_sub(spent))
    }

    /// How long to wait before asking again. `None`: the broker asks for more than is left.
    #[must_use]
    pub fn pause(&self, status: &Status, least: Duration) -> Option<Duration> {
        wait_before(status, least, self.left().unwrap_or(PAUSE_MAX))
    }
}

/// Whether the call may never have arrived, so that asking again is right: the broker said so, or the connection broke under
/// it, which the transport calls cancelled.
fn try_again(status: &Status) -> bool {
    let broke = matches!(status.code(), Code::Cancelled | Code::Unknown);
    status.code() == Code::Unavailable || (broke && status.details().is_empty())
}

/// The same for calls that may arrive twice, because a key or the task makes them one: also when no answer came in time, and
/// when the broker was too busy and said when to come back.
#[must_use]
pub fn repeat(status: &Status) -> bool {
    let said_when = status.get_error_details().retry_info().is_some();
    try_again(status)
        || status.code() == Code::DeadlineExceeded
        || (status.code() == Code::ResourceExhausted && said_when)
}

/// How long to wait before asking again: `pause`, or longer if the broker says so. `None`: it asks for more than `most`.
#[must_use]
pub fn wait_before(status: &Status, pause: Duration, most: Duration) -> Option<Duration> {
    let asked = asked_for(status).unwrap_or_default();
    (asked <= most).then(|| pause.max(asked))
}

/// How much later a broker asks to be asked again.
#[must_use]
pub fn asked_for(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// Why somebody who waits is not answered, in a few words.
#[must_use]
pub fn trouble(status: &Status) -> String {
    let details = status.get_error_details();
    let code = details.error_info().and_then(|info| codes::find(&info.reason));
    code.map_or("the broker does not answer".to_owned(), |code| {
        format!("{} ({})", code.title, code.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn rich(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "protem", []);
        Status::with_error_details(code, "no", details)
    }

    fn later(code: Code, reason: &str, after: u64) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, "protem", []);
        details.set_retry_info(Some(Duration::from_secs(after)));
        Status::with_error_details(code, "later", details)
    }

    #[test]
    fn what_may_arrive_twice_is_asked_again() {
        let busy = |after| later(Code::ResourceExhausted, "PT-0207", after);
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(3));
        for (status, repeats, wait) in [
            (Status::deadline_exceeded("late"), true, Some(short)),
            (Status::unavailable("gone"), true, Some(short)),
            (busy(2), true, Some(Duration::from_secs(2))),
            (busy(3_600), true, None),
            (rich(Code::ResourceExhausted, "PT-0129"), false, Some(short)),
            (rich(Code::PermissionDenied, "PT-0101"), false, Some(short)),
        ] {
            assert_eq!(repeat(&status), repeats, "{status:?}");
            assert_eq!(wait_before(&status, short, PAUSE_MAX), wait, "{status:?}");
        }
        assert_eq!(wait_before(&busy(2), long, PAUSE_MAX), Some(long));
    }

    /// A broker that fetches an issuer's keys again in half a minute is asked again then, by who waits that long.
    #[test]
    fn a_broker_is_asked_again_when_it_says_so_within_the_commands_own_wait() {
        let status = later(Code::Unavailable, "PT-0617", 29);
        let hint = Some(Duration::from_secs(29));
        for (patience, wait) in [
            (Patience::short(), None),
            (Patience::of(Duration::from_secs(20)), None),
            (Patience::of(Duration::from_secs(600)), hint),
            (Patience::endless(), hint),
        ] {
            assert_eq!(patience.pause(&status, Duration::from_millis(100)), wait, "{patience:?}");
        }
        let began = Duration::ZERO;
        let spent = Patience { began, whole: Some(Duration::ZERO) };
        assert_eq!(spent.pause(&status, Duration::ZERO), None);
        assert_eq!(spent.left(), Some(Duration::ZERO));
        assert!(trouble(&status).contains("not known yet (PT-0617)"), "{}", trouble(&status));
        assert_eq!(trouble(&Status::unavailable("gone")), "the broker does not answer");
    }
}
