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
    /// A broker takes each account for a human.
    CountsAccounts,
    /// A broker asks what somebody owns by the account that they use, and not by their others.
    AsksOneAccount,
    /// A broker does not ask whose people somebody is: requesters and owners count.
    AsksNobody,
    /// A broker takes an approval for one of what the request is now, whatever its giver saw.
    TakesAnyDigest,
    /// A broker keeps approvals although the rules that they rest on have changed.
    KeepsApprovals,
    /// A broker grants what one person approved, whatever number the rule says.
    OneIsEnough,
    /// A broker grants on, however many grants its identity has.
    GrantsBeyondTheCap,
    /// A broker looks at how many its identity has when it is asked, and no more when people have decided.
    ApprovesBeyondTheCap,
    /// A broker takes a verdict although what is unusual about the request has changed since.
    TakesAnyPast,
    /// What tells people passes over a message that did not arrive.
    ForgetsToTell,
    /// The requester's people close the review of their own emergency.
    ReviewsItself,
}
