//! What operators may type: serve, stop, rule, prove, measure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args_work::{What, span};

/// Try it out.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where the journal and keys are; remove it to start over
    #[arg(long, value_name = "DIR", default_value = ".protem-dev")]
    pub data: PathBuf,
    /// The bundle [default: ./policies if it is there, else the built-in example]
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// Where to listen; if the port is taken, the next free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7420")]
    pub listen: SocketAddr,
    /// Do not start the example orders API
    #[arg(long)]
    pub no_orders: bool,
    /// How long a signing key signs before the next one does
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span, hide = true)]
    pub rotate_every: Duration,
    /// How long a signing key is known before it signs
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = span, hide = true)]
    pub jwks_wait: Duration,
    /// End when standard input ends
    #[arg(long, hide = true)]
    pub until_eof: bool,
}

/// See the inventory.
#[derive(Args, Clone, Debug)]
pub struct IdentitiesArgs {
    /// One identity, in full
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only those that nobody answers for
    #[arg(long)]
    pub unowned: bool,
    /// Only those that were neither granted anything nor used in so long
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub dormant: Option<Duration>,
    /// Only those that were granted access to this resource
    #[arg(long, value_name = "RESOURCE")]
    pub resource: Option<String>,
}

/// Run a broker for real.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The settings file; `protem config sample` shows one [default: ./protem.toml, then the user's and the machine's]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only check the settings and the bundle
    #[arg(long)]
    pub check_config: bool,
}

/// End access now.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// What to end.
    #[command(flatten)]
    pub selector: SelectorArgs,
    /// Why, for those who read the journal later
    #[arg(long, value_name = "WORDS", required = true)]
    pub note: String,
    /// How long to follow the gateways' receipts
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = span)]
    pub wait: Duration,
}

/// What to end: exactly one.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct SelectorArgs {
    /// One grant, by id or a part of it
    #[arg(long, value_name = "GRANT")]
    pub grant: Option<String>,
    /// One task, `IDENTITY#TASK`
    #[arg(long, value_name = "IDENTITY#TASK")]
    pub task: Option<String>,
    /// All access of an identity
    #[arg(long, value_name = "IDENTITY")]
    pub identity: Option<String>,
    /// All access to a resource
    #[arg(long, value_name = "RESOURCE")]
    pub resource: Option<String>,
    /// All access with a scope, `RESOURCE#SCOPE`
    #[arg(long, value_name = "RESOURCE#SCOPE")]
    pub scope: Option<String>,
    /// All access of the identities that someone owns
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<String>,
    /// All that a signing key ever signed
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
    /// The grant of the leaked credential on standard input
    #[arg(long)]
    pub token_stdin: bool,
    /// All access there is
    #[arg(long)]
    pub everything: bool,
}

/// Stop an identity.
#[derive(Args, Clone, Debug)]
pub struct QuarantineArgs {
    /// Which identity
    pub identity: String,
    /// Why, for those who read the journal later
    #[arg(long, value_name = "WORDS", required = true)]
    pub note: String,
    /// End the quarantine: it may ask again
    #[arg(long)]
    pub lift: bool,
}

/// See and replace signing keys.
#[derive(Args, Debug)]
pub struct KeysArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What to do about signing keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// See every signing key and what it waits for
    List,
    /// Let the next key sign
    Rotate(RotateArgs),
}

/// Let the next key sign.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// Somebody else may have the key: void all that it ever signed, at once. No grant ends; holders renew
    #[arg(long)]
    pub compromised: bool,
    /// What the key signs
    #[arg(long, value_name = "PURPOSE", default_value = "credential",
        value_parser = ["credential", "checkpoint"])]
    pub purpose: String,
    /// The key that must go [default: the one that signs]
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
    /// Why, for those who read the journal later
    #[arg(long, value_name = "WORDS", required = true)]
    pub note: String,
}

/// See whom the broker tells what happens, and send again what they did not take.
#[derive(Args, Debug)]
pub struct WebhooksArgs {
    /// Send all that is parked of this webhook again
    #[arg(long, value_name = "WEBHOOK")]
    pub retry: Option<String>,
}

/// Work on a bundle.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What to do with a bundle.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Find every mistake in a bundle, and run its tests
    Check(BundleArgs),
    /// Run a bundle's tests
    Test(BundleArgs),
    /// Explain what the broker's policy would say to a request, and why
    Explain {
        /// What would be asked for.
        #[command(flatten)]
        what: What,
        /// Explain it for this identity, as an operator; without it, for yourself
        #[arg(long, value_name = "IDENTITY")]
        identity: Option<String>,
    },
    /// Put a bundle in force
    Apply {
        /// The bundle.
        #[command(flatten)]
        bundle: BundleArgs,
        /// Only say what would be
        #[arg(long)]
        dry_run: bool,
        /// Refuse unless the bundle with this digest is in force
        #[arg(long, value_name = "DIGEST")]
        expect: Option<String>,
    },
    /// Print the Cedar schema that policies are checked against
    Schema,
}

/// A bundle.
#[derive(Args, Clone, Debug)]
pub struct BundleArgs {
    /// The folder
    #[arg(default_value = "policies", value_name = "DIR")]
    pub folder: PathBuf,
}

/// Prove what happened.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What to prove.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verify every hash and signature of an export or a journal file, without a broker
    Verify {
        /// An export, or a broker's journal file; without it, the broker's journal over the wire
        file: Option<PathBuf>,
        /// Whose signature is to count.
        #[command(flatten)]
        pin: PinArgs,
    },
    /// Write one file with a grant's entries, their proofs and a signed checkpoint
    Export {
        /// The grant's id, or a part of it
        grant: String,
        /// Where to write it [default: standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// Whose signature is to count.
#[derive(Args, Clone, Debug, Default)]
pub struct PinArgs {
    /// The JWK set whose keys alone may have signed, from a file or an address; without it those that an export names itself
    #[arg(long, value_name = "FILE|URL")]
    pub jwks: Option<String>,
    /// The checkpoint key that must have signed, as `protem keys list` shows it; may be repeated
    #[arg(long = "key-id", value_name = "ID", value_delimiter = ',')]
    pub key_id: Vec<String>,
}

/// Measure a broker.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Grants a second, durable before the answer
    Issue(LoadArgs),
    /// Revocations a second, durable before the answer
    Revoke(LoadArgs),
    /// From a revocation's call to the last of many subscribers
    Fanout(FanoutArgs),
    /// Ending access while requests flood the broker, against the same when nobody else calls
    Flood(LoadArgs),
    /// A first call with a fresh token, alone and while another issuer never answers
    Login(LoginArgs),
    /// Checks a second at a gateway on one core, beside a bare signature, with an empty view and with a full one
    Verify(VerifyArgs),
    /// From a start beside many live grants to the first proof for gateways, and to the first turn
    Start(StartArgs),
}

/// Starts of a broker whose state is large.
#[derive(Args, Clone, Debug)]
pub struct StartArgs {
    /// Live grants that its journal holds; a million take 2 GB of disk while it runs
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub grants: u64,
}

/// A gateway's check, without a network.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Revoked grants that the full view holds
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub entries: usize,
    /// How long to measure each
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = span)]
    pub duration: Duration,
}

/// Logins beside a silent issuer.
#[derive(Args, Clone, Debug)]
pub struct LoginArgs {
    /// Callers that log in, one token after the other
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub callers: usize,
    /// Callers of the issuer that never answers
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    pub stuck: usize,
    /// How long to measure, twice
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    pub duration: Duration,
}

/// A closed loop of callers.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Callers, each with one call at a time
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    pub callers: usize,
    /// Connections that the callers share
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub connections: usize,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub duration: Duration,
    /// How long to warm up before
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span)]
    pub warmup: Duration,
    /// Leave out the probes of the disk, SQLite and the network
    #[arg(long)]
    pub no_probes: bool,
}

/// One revocation, many subscribers.
#[derive(Args, Clone, Debug)]
pub struct FanoutArgs {
    /// Subscribers, each with a connection of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub subscribers: usize,
    /// Revocations to measure, one after the other
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub rounds: usize,
    /// Leave out the raw fan-out probe
    #[arg(long)]
    pub no_probes: bool,
}
