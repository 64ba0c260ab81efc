//! What approvers and reviewers may type: see what waits, approve, deny, look at emergencies.

use std::time::Duration;

use clap::Args;

use crate::cli::args_work::span;

/// See which requests wait for people.
#[derive(Args, Clone, Debug)]
pub struct PendingArgs {
    /// Only those that you may decide
    #[arg(long)]
    pub mine: bool,
    /// Go on: show each arrival, change and decision as it comes
    #[arg(long)]
    pub watch: bool,
}

/// Approve a request, or walk through all that wait for you.
#[derive(Args, Clone, Debug)]
pub struct ApproveArgs {
    /// The grant's id, or the shortest part that only it begins or ends with; without it, each that you may decide is
    /// shown in turn. At a terminal the id alone shows the request and asks. With one of the flags below or `-o json`, and where
    /// there is no terminal, nobody is asked: the request is shown on stderr and approved as it is at that moment, which may be
    /// other than what you saw, unless you give its `--digest`
    pub grant: Option<String>,
    /// A note for the requester and those who read the journal later
    #[arg(long, value_name = "WORDS", requires = "grant")]
    pub note: Option<String>,
    /// Approve it for this long only
    #[arg(long = "for", value_name = "TIME", value_parser = span, requires = "grant")]
    pub lifetime: Option<Duration>,
    /// Approve only this scope; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', requires = "grant")]
    pub scopes: Vec<String>,
    /// Only if the request is still the one with this digest, as `protem pending -o json` shows it: a script approves exactly
    /// what it saw
    #[arg(long, value_name = "DIGEST", requires = "grant")]
    pub digest: Option<String>,
    /// Take your own approval back, while the request still waits
    #[arg(long, requires = "grant", conflicts_with_all = ["note", "lifetime", "scopes"])]
    pub undo: bool,
}

/// Deny a request.
#[derive(Args, Clone, Debug)]
pub struct DenyArgs {
    /// The grant's id, or the shortest part that only it begins or ends with
    pub grant: String,
    /// Why, for the requester and those who read the journal later
    #[arg(long, value_name = "WORDS", required = true)]
    pub reason: String,
    /// Only if the request is still the one with this digest, as `protem pending -o json` shows it
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
}

/// See emergencies that nobody has looked at yet, and close one.
#[derive(Args, Clone, Debug)]
pub struct ReviewArgs {
    /// The grant's id, or the shortest part that only it begins or ends with; without it, all of them are listed
    pub grant: Option<String>,
    /// What you found: closes its review
    #[arg(long, value_name = "WORDS", requires = "grant")]
    pub note: Option<String>,
    /// List those that are closed, too
    #[arg(long, conflicts_with = "note")]
    pub all: bool,
}
