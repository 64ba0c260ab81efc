//! What workloads may type: ask, wait, run, give back, look.

use std::time::Duration;

use clap::Args;

/// What to ask for.
#[derive(Args, Clone, Debug)]
pub struct What {
    /// The task that access is for, unique for its identity [default: from the CI system's variables, else generated]
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// What kind of task it is, a word that policies match on: ci-job, batch, agent, incident
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// The resource to access
    #[arg(long = "on", value_name = "RESOURCE")]
    pub resource: String,
    /// What to be allowed there; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
    pub scopes: Vec<String>,
    /// How long at most [default: as the catalog says]
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    pub lifetime: Option<Duration>,
    /// Why, in words that an approver will read
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub purpose: String,
    /// Break-glass: at once, short, and reviewed afterwards; only where policy says so, and never without `--purpose`
    #[arg(long, requires = "purpose")]
    pub emergency: bool,
}

/// Run a command with access that ends when the command does.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// What to ask for.
    #[command(flatten)]
    pub what: What,
    /// Give the command its first token in this variable too; renewals are only in PROTEM_CREDENTIAL_FILE
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// How long silence of this process is forgiven before the task counts as abandoned
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = span)]
    pub lease: Duration,
    /// What to do with the command when its access ends early
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub on_end: OnEnd,
    /// How long the command may take to stop before it is killed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub grace: Duration,
    /// The command and its arguments; it finds its credential in the file PROTEM_CREDENTIAL_FILE
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<String>,
}

/// What to do with a command whose access ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnEnd {
    /// SIGTERM, then SIGKILL; the exit code is 124.
    Stop,
    /// Let it run on without access.
    Ignore,
}

/// Ask for access and print the credential.
#[derive(Args, Clone, Debug)]
pub struct AskArgs {
    /// What to ask for.
    #[command(flatten)]
    pub what: What,
    /// Wait this long for approval, where approval is needed
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1h", value_parser = span)]
    pub wait: Option<Duration>,
    /// Only explain what policy would say; nothing is recorded or issued
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

/// One grant.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// The grant's id, or the shortest part that only it begins or ends with
    pub grant: String,
    /// Wait this long [default: until it is decided]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub wait: Option<Duration>,
}

/// End a task and all access under it.
#[derive(Args, Clone, Debug)]
pub struct CompleteArgs {
    /// The task's id
    pub task: String,
    /// How it went: success, failure or any word
    #[arg(long, value_name = "WORD", default_value = "success")]
    pub outcome: String,
    /// Wait this long for every gateway to confirm
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub wait: Duration,
}

/// Give one grant back.
#[derive(Args, Clone, Debug)]
pub struct ReturnArgs {
    /// The grant's id, or the shortest part that only it begins or ends with
    pub grant: String,
    /// Why
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub note: String,
}

/// List grants, newest first.
#[derive(Args, Clone, Debug)]
pub struct GrantsArgs {
    /// Only this identity's
    #[arg(long, value_name = "IDENTITY", group = "by")]
    pub identity: Option<String>,
    /// Only under this task, `IDENTITY#TASK`
    #[arg(long, value_name = "IDENTITY#TASK", group = "by")]
    pub task: Option<String>,
    /// Only on this resource
    #[arg(long, value_name = "RESOURCE", group = "by")]
    pub resource: Option<String>,
    /// Only with this scope, `RESOURCE#SCOPE`
    #[arg(long, value_name = "RESOURCE#SCOPE", group = "by")]
    pub scope: Option<String>,
    /// Only in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    pub states: Vec<StateArg>,
    /// Only those asked for in this last stretch of time
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub since: Option<Duration>,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: u32,
}

/// A grant's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StateArg {
    /// Waits for approval.
    Pending,
    /// Credentials may exist.
    Active,
    /// Final.
    Ended,
}

/// Reads `15m`, `1h 30m`.
///
/// # Errors
/// When it is no length of time.
pub fn span(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
