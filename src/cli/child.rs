//! A child process: how it is started, told to stop, and passed the signals that its parent gets.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use protem_verify::codes::tool;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::exit::{Exit, Failure, NO_COMMAND, NOT_EXECUTABLE};

/// A started command.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: Child,
    pid: Option<Pid>,
    own_group: bool,
}

/// Whether a command is there and may be executed, as far as can be told without starting it.
///
/// # Errors
/// 127 when there is no such program, 126 when it cannot be executed.
pub fn startable(command: &[String]) -> Result<(), Failure> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let bad = |code, why: std::io::Error| {
        Failure::of(Exit::Command(code), tool::COMMAND, format!("`{program}`: {why}"))
    };
    let path = std::env::var_os("PATH");
    let places: Vec<PathBuf> = match (program.contains('/'), &path) {
        (true, _) => vec![PathBuf::from(program)],
        (false, Some(path)) => std::env::split_paths(path).map(|at| at.join(program)).collect(),
        // The system has a path of its own then.
        (false, None) => return Ok(()),
    };
    let there: Vec<&PathBuf> = places.iter().filter(|place| place.exists()).collect();
    let executable = |place: &&&PathBuf| {
        place.is_file() && rustix::fs::access(place.as_path(), rustix::fs::Access::EXEC_OK).is_ok()
    };
    match (there.is_empty(), there.iter().find(executable)) {
        (_, Some(_)) => Ok(()),
        (true, None) => Err(bad(NO_COMMAND, std::io::Error::from_raw_os_error(2))),
        (false, None) => Err(bad(NOT_EXECUTABLE, std::io::Error::from_raw_os_error(13))),
    }
}

/// Starts a command with its credential's file, and perhaps its first token in a variable.
///
/// On a terminal it stays in our process group, so that it may read the keyboard and gets Ctrl-C itself; otherwise it
/// gets a group of its own, so that a signal for it reaches what it starts, too.
///
/// # Errors
/// 127 when there is no such program, 126 when it cannot be executed.
pub fn spawn(
    command: &[String],
    credential: &Path,
    env: Option<(&str, &str)>,
) -> Result<Started, Failure> {
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::of(Exit::Command(NO_COMMAND), tool::COMMAND, "no command is given"));
    };
    let own_group = !std::io::stdin().is_terminal();
    let mut start = Command::new(program);
    start.args(args).env("PROTEM_CREDENTIAL_FILE", credential).stdin(Stdio::inherit());
    if let Some((name, token)) = env {
        start.env(name, token);
    }
    if own_group {
        start.process_group(0);
    }
    let process = start.spawn().map_err(|why| {
        let missing = why.kind() == std::io::ErrorKind::NotFound;
        let code = if missing { NO_COMMAND } else { NOT_EXECUTABLE };
        Failure::of(Exit::Command(code), tool::COMMAND, format!("`{program}`: {why}"))
    })?;
    let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok(Started { process, pid, own_group })
}

impl Started {
    /// Passes on a signal that we got. What a terminal sends it sends to the whole group, the child included.
    pub fn forward(&self, number: i32) {
        let from_terminal = matches!(number, INT | QUIT);
        if !self.own_group && from_terminal {
            return;
        }
        if let Some(signal) = Signal::from_named_raw(number) {
            self.send(signal);
        }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.send(Signal::TERM);
    }

    /// Ends it.
    pub fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn send(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        // A child that has just ended is past all signals.
        let _ = if self.own_group {
            kill_process_group(pid, signal)
        } else {
            kill_process(pid, signal)
        };
    }
}

const INT: i32 = SignalKind::interrupt().as_raw_value();
const QUIT: i32 = SignalKind::quit().as_raw_value();

/// The signals that a parent passes on.
#[derive(Debug)]
pub struct Signals(mpsc::Receiver<i32>);

impl Signals {
    /// Takes SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn listen() -> Result<Self, Failure> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let (tell, heard) = mpsc::channel(8);
        for kind in kinds {
            let mut stream = signal(kind).map_err(|why| {
                Failure::of(Exit::Failed, tool::COMMAND, format!("signals cannot be taken: {why}"))
            })?;
            let tell = tell.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if tell.send(kind.as_raw_value()).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(heard))
    }

    /// One that came already.
    pub fn waiting(&mut self) -> Option<i32> {
        self.0.try_recv().ok()
    }

    /// The next one.
    pub async fn next(&mut self) -> i32 {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Done when standard input ends: a child whose parent reads nothing else of it ends with its parent, however that ends.
pub async fn stdin_ends() {
    let mut buffer = [0_u8; 64];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// Done when this process is asked to end, by SIGINT or SIGTERM.
///
/// # Errors
/// When the system does not allow to take signals.
pub async fn asked_to_end() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The exit code of a command that a signal ended: 128 and the signal.
#[must_use]
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(0).saturating_add(128)
}
