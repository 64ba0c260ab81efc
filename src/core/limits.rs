//! The law's named limits, each with its reason.

use std::time::Duration;

/// A verdict older than this is evaluated again: what policy saw must be what is.
pub const VERDICT_AGE_MAX: Duration = Duration::from_secs(5);
/// Keys and tasks are remembered this long after their last grant ended, so that a late retry finds its answer.
pub const REMEMBER: Duration = Duration::from_secs(15 * 60);
/// An unknown idempotency key older than this is refused: its first use may already be forgotten.
pub const KEY_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// An idempotency key further ahead than this is refused: the caller's clock is wrong.
pub const KEY_AHEAD_MAX: Duration = Duration::from_secs(4 * 60);
/// How long silence of a held task's stream is forgiven when the workload does not say.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);
/// The shortest lease: below it an ordinary network hiccup ends a job's access.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest lease: silence longer than this is the end of the task.
pub const LEASE_MAX: Duration = Duration::from_secs(5 * 60);
/// The shortest lifetime that may be asked for.
pub const LIFETIME_MIN: Duration = Duration::from_secs(10);
/// The longest lifetime of any grant, whatever a bundle says.
pub const LIFETIME_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// How long a request waits for approvers when policy does not say.
pub const DECIDE_WITHIN_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// The longest that a request may wait.
pub const DECIDE_WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Scopes in one request.
pub const SCOPES_MAX: usize = 32;
/// What a tick, a janitor's or a settling step may end in one turn, so that no turn is long.
pub const STEP_MAX: usize = 1_000;
/// What a sweep frees at once: after a mass revocation a million things are due in the same moment.
pub const SWEEP_MAX: usize = 10_000;
/// Live grants in one journal: about a gigabyte of state.
pub const LIVE_MAX: usize = 2_000_000;
/// Requests that wait for approvers, over all identities.
pub const PENDING_MAX: usize = 10_000;
/// The least and the most that a tier or policy may set as `max_staleness`.
pub const STALENESS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(60);
/// Tasks that one identity may hold open: a fleet's worth, so that holds without grants cannot fill the memory.
pub const TASKS_MAX: u32 = 10_000;
/// Idempotency keys that one grant answers: retries use one, a few runs of one ask a few; more is a client that makes a new
/// key for each try.
pub const GRANT_KEYS_MAX: usize = 64;
/// Signing keys of one purpose that are known at once: rotation waits for the oldest to be forgotten, so that the key set
/// stays below what a gateway holds, also while two sets of one journal meet.
pub const SIGNING_KEYS_MAX: usize = 48;
/// How long a retired checkpoint key still counts: a checkpoint that takes longer to arrive proves nothing to anybody.
pub const CHECKPOINT_GRACE: Duration = Duration::from_secs(60);
