//! From arguments to an exit code: the runtime, the right command, and its failure in three lines.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue};
use protem_verify::codes::tool;

use crate::cli::args::{AuthArgs, Command, ConfigCommand, Global, Protem, Typed, tree};
use crate::cli::args_operate::{AuditCommand, BenchArgs};
use crate::cli::client::screen;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::lost;
use crate::cli::{
    approve, ask, audit, auth, bench, bench_raw, bundle, demo, demo_job, dev, estate, gate,
    gateway, give_back, init, keys, pending, reference, review, run, see, serve, stop, wait, watch,
    webhooks,
};
use crate::config;

/// Does what the arguments say.
#[must_use]
pub fn enter() -> ExitCode {
    let asked = asked(std::env::args_os().collect());
    let matches = match tree().try_get_matches_from(asked) {
        Ok(matches) => matches,
        Err(wrong) => without_hidden(wrong).exit(),
    };
    let mut read = match Protem::from_arg_matches(&matches) {
        Ok(read) => read,
        Err(wrong) => wrong.exit(),
    };
    read.global.typed = Typed::of(&matches);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(command(read));
            // A read of stdin that nobody waits for any more must not hold the process.
            runtime.shutdown_background();
            ended
        }
        Err(why) => Err(Failure {
            exit: Exit::Failed,
            what: format!("the runtime cannot start: {why}"),
            why: String::new(),
            code: String::new(),
            help: String::new(),
        }),
    };
    let ended = match (ended, lost()) {
        (Ok(Exit::Done), Some(why)) => {
            let what = format!("the output could not be written: {why}");
            Err(Failure::of(Exit::Failed, tool::LOCAL_FILE, what))
        }
        (ended, _) => ended,
    };
    let exit = ended.unwrap_or_else(|failure| {
        // A closed stderr leaves the exit code to tell.
        let _ = writeln!(std::io::stderr(), "{failure}");
        failure.exit
    });
    ExitCode::from(exit.code())
}

/// What was typed; `protem help run` is `protem run --help`.
fn asked(mut typed: Vec<OsString>) -> Vec<OsString> {
    if typed.get(1).is_some_and(|word| word == "help") {
        typed.remove(1);
        typed.push("--help".into());
    }
    typed
}

/// A mistake at the parser, that suggests no command which nobody types.
fn without_hidden(mut wrong: clap::Error) -> clap::Error {
    let suggested = wrong.get(ContextKind::SuggestedSubcommand).cloned();
    if let Some(ContextValue::Strings(names)) = suggested {
        let tree = tree();
        let hidden =
            |name: &String| tree.find_subcommand(name).is_some_and(clap::Command::is_hide_set);
        let names: Vec<String> = names.into_iter().filter(|name| !hidden(name)).collect();
        let rest = if names.is_empty() { ContextValue::None } else { ContextValue::Strings(names) };
        wrong.insert(ContextKind::SuggestedSubcommand, rest);
    }
    wrong
}

async fn command(read: Protem) -> Result<Exit, Failure> {
    let global = &read.global;
    match read.command {
        Command::Demo => demo::demo(&screen(global)?).await,
        Command::Run(args) => run::run(global, &args).await,
        Command::Request(args) => ask::request(global, &args).await,
        Command::Wait(args) => wait::wait(global, &args).await,
        Command::Complete(args) => give_back::complete(global, &args).await,
        Command::Return(args) => give_back::give_back(global, &args).await,
        Command::Pending(args) => pending::pending(global, &args).await,
        Command::Approve(args) => approve::approve(global, &args).await,
        Command::Deny(args) => approve::deny(global, &args).await,
        Command::Review(args) => review::review(global, &args).await,
        Command::Revoke(args) => stop::revoke(global, &args).await,
        Command::Quarantine(args) => stop::quarantine(global, &args).await,
        Command::Grants(args) => see::grants(global, &args).await,
        Command::Grant(args) => see::grant(global, &args).await,
        Command::Identities(args) => estate::identities(global, &args).await,
        Command::Secrets => estate::secrets(global).await,
        Command::Gateways => see::gateways(global).await,
        Command::Watch(args) => watch::watch(global, &args).await,
        Command::Audit(args) => audit_command(global, args.command).await,
        Command::Keys(args) => keys::keys(global, &args.command).await,
        Command::Webhooks(args) => webhooks::webhooks(global, &args).await,
        Command::Auth(AuthArgs { command }) => auth::auth(global, &command).await,
        Command::ExplainError { code } => {
            let screen = screen(global)?;
            screen.print(reference::explain_error(code.as_deref(), screen.json)?);
            Ok(Exit::Done)
        }
        Command::Config(args) => match args.command {
            ConfigCommand::Sample => print(config::sample().as_bytes()),
        },
        Command::Completions { shell } => print(&reference::completions(shell)),
        Command::Man => print(&reference::man()),
        Command::Bench(BenchArgs { command }) => bench::bench(global, &command).await,
        Command::DemoJob { api, linger } => demo_job::run(&api, linger).await,
        Command::FanoutProbe => bench_raw::serve().await,
        Command::Dev(args) => dev::dev(global, &args).await,
        Command::Init => init::init(&screen(global)?),
        Command::Serve(args) => serve::serve(&args).await,
        Command::Gate(args) => gate::gate(global, &args).await,
        Command::Policy(args) => bundle::policy(global, &args.command).await,
        Command::Orders(args) => gateway::orders(global, &args).await,
    }
}

async fn audit_command(global: &Global, command: AuditCommand) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Verify { file, pin } => audit::verify(global, file.as_deref(), &pin).await,
        AuditCommand::Export { grant, to } => audit::export(global, &grant, to.as_deref()).await,
    }
}

/// Prints a text as it is.
fn print(text: &[u8]) -> Result<Exit, Failure> {
    // A reader that has gone (`| head`) has read enough.
    let _ = std::io::stdout().write_all(text);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_asked_for_in_either_way() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(asked(words("protem help keys rotate")), words("protem keys rotate --help"));
        assert_eq!(asked(words("protem run help")), words("protem run help"));
    }

    #[test]
    fn a_slip_suggests_no_command_that_nobody_types() {
        for (slip, suggests) in [("dem", "'demo'"), ("grnts", "'grants'"), ("ordrs", "")] {
            let wrong = tree().try_get_matches_from(["protem", slip]).unwrap_err();
            let told = without_hidden(wrong).to_string();
            assert!(told.contains(suggests), "{told}");
            assert!(!told.contains("demo-job") && !told.contains("'orders'"), "{told}");
        }
    }
}
