//! A stage for real processes: a temporary folder, a broker of our own binary, and commands that find nothing else.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http::Uri;
use protem_verify::codes::tool;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::cli::exit::{Exit, Failure};
use crate::cli::token::broker_uri;

/// What a development broker says on stdout when it is ready, with `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where the broker listens.
    pub broker: String,
    /// Where the example orders API listens, if it was started.
    pub orders: Option<String>,
}

/// A temporary folder with nothing of the user's in reach. It goes when this goes.
#[derive(Debug)]
pub struct Scene {
    folder: TempDir,
    program: PathBuf,
}

/// A broker on the stage. It ends when this is dropped, or when this process ends in whatever way: it reads our pipe.
#[derive(Debug)]
pub struct Stage {
    /// What it said.
    pub ready: Ready,
    /// Its address.
    pub uri: Uri,
    child: Child,
    life: Option<ChildStdin>,
}

/// A broker starts within this, also on a machine that compiles at the same time.
const START: Duration = Duration::from_secs(30);
/// A broker that was told to stop has stopped within this, or is ended.
const STOP: Duration = Duration::from_secs(10);

impl Scene {
    /// In `$TMPDIR`.
    ///
    /// # Errors
    /// When no folder can be made there.
    pub fn new() -> Result<Self, Failure> {
        let at = std::env::temp_dir();
        let folder = tempfile::Builder::new().prefix("protem-").tempdir_in(&at);
        let folder = folder.map_err(|why| Failure::file(&at, &why))?;
        let program =
            std::env::current_exe().map_err(|why| Failure::file(Path::new("protem"), &why))?;
        Ok(Self { folder, program })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Our own binary, to be run in the folder with nothing of the user's settings, state or CI variables.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.path()).stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["PROTEM_", "XDG_", "GITHUB_", "GITLAB_", "CI_"];
            if ours.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.env("TMPDIR", self.path()).env("XDG_STATE_HOME", self.path().join("state"));
        command.env("XDG_CONFIG_HOME", self.path().join("config")).env("NO_COLOR", "1");
        command
    }

    /// Runs one of our own commands to its end: exit code, stdout and stderr.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, args: &[&str]) -> Result<Ran, Failure> {
        let ran = self.command(args).output().await;
        let ran = ran.map_err(|why| Failure::file(&self.program, &why))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = ran.status.code().unwrap_or(-1);
        Ok(Ran { code, stdout: text(&ran.stdout), stderr: text(&ran.stderr) })
    }

    /// Starts a development broker here, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn broker(&self, more: &[&str]) -> Result<Stage, Failure> {
        let args = ["dev", "--until-eof", "--data", "data", "-o", "json"];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        self.process(&args).await
    }

    /// Starts one of our own servers, which says on its first line where it listens, and waits until it has.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn process(&self, args: &[&str]) -> Result<Stage, Failure> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|why| Failure::file(&self.program, &why))?;
        let life = child.stdin.take();
        let mut first = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout);
            let read = tokio::time::timeout(START, lines.read_line(&mut first)).await;
            // What it says later is of no interest, but must not fill the pipe.
            tokio::spawn(async move { drain(lines).await });
            if read.is_err() {
                first.clear();
            }
        }
        let Ok(ready) = serde_json::from_str::<Ready>(&first) else {
            let _ = child.start_kill();
            let said = child.wait_with_output().await.map(|out| out.stderr).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let failure = Failure::of(Exit::Failed, tool::STEP, "the broker did not start");
            return Err(failure.because(said));
        };
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move { drain(stderr).await });
        }
        let uri = broker_uri(&ready.broker)?;
        Ok(Stage { ready, uri, child, life })
    }

    /// Takes the folder away.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn clean(self) -> Result<(), Failure> {
        let path = self.path().to_owned();
        self.folder.close().map_err(|why| Failure::file(&path, &why))
    }
}

async fn drain(mut from: impl tokio::io::AsyncRead + Unpin) {
    let mut buffer = [0_u8; 4096];
    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// A command that ran.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; −1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Stage {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Lets it finish and end.
    pub async fn stop(mut self) {
        drop(self.life.take());
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
