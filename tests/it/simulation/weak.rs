//! Guards that are taken out on purpose, to see that a checker misses them.

/// Which guard is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weak {
    /// None.
    #[default]
    Nothing,
    /// A gateway takes what comes, whatever `prev_seq` and `last_sent` say.
    SkipsPrev,
    /// A gateway knows ended grants, and passes over cut-offs.
    IgnoresCutOffs,
    /// A gateway takes any checkpoint for proof of the moment it came.
    TrustsAnyCheckpoint,
    /// A broker answers that access is over before it is durable.
    AnswersEarly,
    /// A broker gives a second token to a retry.
    MintsAnew,
}
