//! What a person may type: the command tree, its globals, and one environment variable for every flag.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand};

use crate::cli::args_gate::GateArgs;
use crate::cli::args_operate::{
    AuditArgs, BenchArgs, DevArgs, IdentitiesArgs, KeysArgs, PolicyArgs, QuarantineArgs,
    RevokeArgs, ServeArgs, WebhooksArgs,
};
use crate::cli::args_people::{ApproveArgs, DenyArgs, PendingArgs, ReviewArgs};
use crate::cli::args_work::{AskArgs, CompleteArgs, GrantsArgs, ReturnArgs, RunArgs, WaitArgs};
use crate::cli::exit::TABLE;
use crate::config::Format;

/// Access that dies with its task: a broker, and what its users type.
#[derive(Debug, Parser)]
#[command(name = "protem", version, after_help = TABLE, propagate_version = true)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Protem {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Under which heading that stands which holds for every command.
pub const EVERYWHERE: &str = "Everywhere";

/// What holds for every command. The ways to prove who one is that are set once, and by the environment as a rule, are in the
/// long help alone.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The broker to talk to [default: http://127.0.0.1:7420, or `client.broker` of the user's protem.toml]
    #[arg(long, global = true, value_name = "URL", help_heading = EVERYWHERE)]
    pub broker: Option<String>,
    /// A file with your token, a JWT of an issuer that the bundle trusts; read anew each time
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub token_file: Option<PathBuf>,
    /// Whom a token that is fetched for you is for, an id token of GitHub Actions or a JWT-SVID: the `audience` of the
    /// issuer in the bundle, or of the trust domain [default: as the broker says, if that is its own address]
    #[arg(hide_short_help = true, long, global = true, value_name = "AUDIENCE", help_heading = EVERYWHERE)]
    pub audience: Option<String>,
    /// Against `protem dev` only: act as this identity or gateway of the bundle, or as a person in groups
    /// (`alice:shop-oncall,operators`)
    #[arg(long = "as", global = true, value_name = "NAME", help_heading = EVERYWHERE)]
    pub act_as: Option<String>,
    /// Your certificate with its intermediates, an X.509-SVID in PEM; it says who you are where no token does
    #[arg(hide_short_help = true, long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub cert: Option<PathBuf>,
    /// The key of `--cert`, in PEM; both are read anew at each connection
    #[arg(hide_short_help = true, long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub key: Option<PathBuf>,
    /// Where the SPIFFE Workload API gives you SVIDs, `unix:///PATH` or `tcp://127.0.0.1:PORT` [default:
    /// SPIFFE_ENDPOINT_SOCKET]
    #[arg(hide_short_help = true, long, global = true, value_name = "ADDRESS", help_heading = EVERYWHERE)]
    pub spiffe_socket: Option<String>,
    /// Which SVID to present [default: x509 over https, jwt over http]
    #[arg(hide_short_help = true, long, global = true, value_name = "KIND", help_heading = EVERYWHERE)]
    pub svid: Option<Svid>,
    /// Which of several SVIDs: the one with this hint [default: the first]
    #[arg(hide_short_help = true, long, global = true, value_name = "HINT", help_heading = EVERYWHERE)]
    pub svid_hint: Option<String>,
    /// The SPIFFE ID that the broker's certificate must have, by the roots that come with your X.509-SVID; CAs and the
    /// broker's name count no more then
    #[arg(hide_short_help = true, long, global = true, value_name = "SPIFFE-ID", help_heading = EVERYWHERE)]
    pub broker_id: Option<String>,
    /// CAs in PEM that the broker's certificate must come from [default: the system's]
    #[arg(hide_short_help = true, long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub ca: Option<PathBuf>,
    /// Text for people, or JSON for machines
    #[arg(short, long, global = true, value_name = "FORMAT", help_heading = EVERYWHERE)]
    pub output: Option<Output>,
    /// Which of these were typed.
    #[arg(skip)]
    pub typed: Typed,
}

/// Which of the ways to say who one is were typed, and not taken from the environment: a typed one wins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Typed {
    /// `--token-file`.
    pub token_file: bool,
    /// `--as`.
    pub act_as: bool,
    /// `--cert`.
    pub cert: bool,
    /// `--spiffe-socket`.
    pub spiffe_socket: bool,
}

impl Typed {
    /// As the arguments were read.
    #[must_use]
    pub fn of(matches: &ArgMatches) -> Self {
        Self {
            token_file: typed(matches, "token_file"),
            act_as: typed(matches, "act_as"),
            cert: typed(matches, "cert"),
            spiffe_socket: typed(matches, "spiffe_socket"),
        }
    }
}

/// Whether an argument was typed, at this command or one below it.
fn typed(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, below)| typed(below, id))
}

/// A kind of SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Svid {
    /// A certificate, shown when the connection is opened.
    X509,
    /// A token, sent with each call: where TLS ends before the broker.
    Jwt,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For machines: protobuf's canonical JSON.
    Json,
}

impl From<Format> for Output {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See the whole story on this machine in under a minute, with real processes, then all is cleaned up
    Demo,
    /// Try it out: a broker for this machine, with its own issuer and an example API to call
    Dev(DevArgs),
    /// Start a settings file and a bundle of your own
    Init,
    /// Run a broker for real
    Serve(ServeArgs),
    /// Put a gate in front of an API: answer nginx, Caddy, Traefik, HAProxy or Envoy whether a call may pass
    Gate(GateArgs),
    /// Run a command with access that ends when the command does
    Run(RunArgs),
    /// Ask for access and print the credential
    Request(AskArgs),
    /// Go on waiting for a request to be decided
    Wait(WaitArgs),
    /// End a task and all access under it
    Complete(CompleteArgs),
    /// Give one grant back
    Return(ReturnArgs),
    /// See which requests wait for people
    Pending(PendingArgs),
    /// Approve a request, or walk through all that wait for you
    Approve(ApproveArgs),
    /// Deny a request
    Deny(DenyArgs),
    /// See emergencies that nobody has looked at yet, and close one
    Review(ReviewArgs),
    /// End access now, and see each gateway confirm it
    Revoke(RevokeArgs),
    /// Stop an identity: no new access, and all it has ends
    Quarantine(QuarantineArgs),
    /// List grants, newest first
    Grants(GrantsArgs),
    /// See one grant in full
    Grant(WaitArgs),
    /// See the inventory: who answers for an identity, when it was last used, what it never uses
    Identities(IdentitiesArgs),
    /// See how far every gateway is
    Gateways,
    /// See which static secrets still exist, whose they are, and which are overdue
    Secrets,
    /// Follow the revocation stream
    Watch(WatchArgs),
    /// Check, test, explain and apply a bundle
    Policy(PolicyArgs),
    /// Prove what happened
    Audit(AuditArgs),
    /// See and replace the broker's signing keys
    Keys(KeysArgs),
    /// See whom the broker tells what happens, and send again what they did not take
    Webhooks(WebhooksArgs),
    /// Sign in, and see who the broker takes you for
    Auth(AuthArgs),
    /// Read what an error code means and what to do
    ExplainError {
        /// The code, `PT-0101`; without it, all of them
        code: Option<String>,
    },
    /// Print a complete commented settings file
    Config(ConfigArgs),
    /// Print completions for your shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Measure a broker
    Bench(BenchArgs),
    /// The example API, as `dev` and `demo` start it
    #[command(hide = true)]
    Orders(OrdersArgs),
    /// A job of the demo, as `demo` starts it
    #[command(hide = true)]
    DemoJob {
        /// The example API
        api: String,
        /// Go on calling until it is refused
        #[arg(long)]
        linger: bool,
    },
    /// The raw fan-out probe of `bench`, as `bench` starts it
    #[command(hide = true)]
    FanoutProbe,
}

/// Follow the revocation stream.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Only what concerns this resource; may be repeated
    #[arg(long = "resource", value_name = "RESOURCE", value_delimiter = ',')]
    pub resources: Vec<String>,
    /// Go on after this cursor, as an earlier line showed it
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// Also show grants that merely expired
    #[arg(long)]
    pub expiries: bool,
}

/// Sign in, and see who the broker takes you for.
#[derive(Args, Debug)]
pub struct AuthArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuthCommand,
}

/// What to do about the own login.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Sign in as a person, in your browser; the sign-in is kept in a file that only you can read
    Login {
        /// Where, if people sign in to this broker at more than one issuer: its name in the bundle
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
    },
    /// Open the broker's page in your browser; against `protem dev`, print an address that signs you in once, as `--as` says
    Web {
        /// Only the request with this id, rather than all that waits
        #[arg(long, value_name = "GRANT")]
        request: Option<String>,
    },
    /// Forget the sign-in that `auth login` keeps
    Logout,
    /// See what the broker sees of you and what matched, or why nothing did
    Status,
    /// Print the token that this command line would present, for other clients
    Token,
}

/// Print settings.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do about settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a complete commented settings file
    Sample,
}

/// The example API.
#[derive(Args, Debug)]
pub struct OrdersArgs {
    /// Where to listen
    #[arg(long)]
    pub listen: std::net::SocketAddr,
    /// The gateway's name in the bundle
    #[arg(long)]
    pub gateway: String,
    /// Where the gateway keeps its instance id and last checkpoint
    #[arg(long)]
    pub state: PathBuf,
    /// The issuer of credentials
    #[arg(long)]
    pub issuer: String,
}

/// The whole tree, each flag with its environment variable.
#[must_use]
pub fn tree() -> clap::Command {
    let mut tree = Protem::command();
    tree = tree.mut_args(|arg| env(arg, "PROTEM"));
    tree.mut_subcommands(|command| with_env(command, "PROTEM"))
}

fn with_env(command: clap::Command, before: &str) -> clap::Command {
    let prefix = format!("{before}_{}", shout(command.get_name()));
    let command = command.mut_args(|arg| env(arg, &prefix));
    command.mut_subcommands(|inner| with_env(inner, &prefix))
}

/// `PROTEM_BROKER` for what holds everywhere, `PROTEM_RUN_SCOPE` for a command's own flag: an exported variable of one
/// command never widens another.
fn env(arg: clap::Arg, prefix: &str) -> clap::Arg {
    match arg.get_long() {
        None | Some("help" | "version") => arg,
        Some(long) => {
            let name: &'static str = Box::leak(format!("{prefix}_{}", shout(long)).into());
            arg.env(name).hide_env_values(true)
        }
    }
}

fn shout(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    #[test]
    fn the_tree_is_sound() {
        tree().debug_assert();
    }

    #[track_caller]
    fn check(line: &str, expect: bool) {
        let read = tree()
            .try_get_matches_from(line.split(' '))
            .and_then(|found| Protem::from_arg_matches(&found));
        assert_eq!(read.is_ok(), expect, "{line}: {:?}", read.err());
    }

    #[test]
    fn what_may_be_typed() {
        check("protem run --on orders-api --scope orders:read -- true", true);
        check("protem run --on orders-api --scope a,b --for 15m -- sh -c x", true);
        check("protem run --on orders-api -- true", false);
        check("protem run --on orders-api --scope a --emergency --purpose fire -- true", true);
        check("protem run --on orders-api --scope a --emergency -- true", false);
        check("protem run --on orders-api --scope a --for soon -- true", false);
        check("protem revoke --identity payments/agent --note leak", true);
        check("protem revoke --identity payments/agent", false);
        check("protem revoke --note leak", false);
        check("protem revoke --identity a --everything --note leak", false);
        check("protem grants -o json --as alice:operators", true);
        check("protem keys rotate --compromised --purpose checkpoint --note leak", true);
        check("protem keys rotate", false);
        check("protem keys rotate --purpose other --note leak", false);
        check("protem approve", true);
        check("protem approve gr_1 --note ok --for 5m --scope a,b", true);
        check("protem approve --note ok", false);
        check("protem approve gr_1 --undo", true);
        check("protem approve gr_1 --undo --for 5m", false);
        check("protem deny gr_1", false);
        check("protem deny gr_1 --reason no", true);
        check("protem review --note seen", false);
        check("protem identities", true);
        check("protem identities payments/agent", true);
        check("protem identities --dormant 30d --resource orders-api", true);
        check("protem identities --dormant soon", false);
        check("protem secrets", true);
        check("protem gate --as edge-eu-1 --proxy caddy --listen unix:/run/gate.sock", true);
        check("protem gate --config gate.toml --check-config", true);
        check("protem gate --config gate.toml --listen 127.0.0.1:1", false);
        check("protem gate --check-config", false);
        check("protem gate --as edge-eu-1 --listen nowhere", false);
        check("protem nothing", false);
    }

    #[test]
    fn what_is_typed_is_known_wherever_it_stands() {
        for (line, expect) in [
            ("protem --as a grants", (false, true)),
            ("protem auth status --as a", (false, true)),
            ("protem grants --token-file f", (true, false)),
            ("protem grants", (false, false)),
        ] {
            let found = Typed::of(&tree().try_get_matches_from(line.split(' ')).unwrap());
            assert_eq!((found.token_file, found.act_as), expect, "{line}");
        }
    }

    #[test]
    fn every_flag_has_a_variable() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                if !matches!(arg.get_long(), Some("help" | "version")) {
                    let name = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
                    assert!(name.starts_with("PROTEM_"), "{} {arg:?}", command.get_name());
                }
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&tree());
    }
}
