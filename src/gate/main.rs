//! The slim gateway: read a settings file, follow its brokers, answer its proxy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protem_gate::settings::{LogFormat, LogLevel, LogSettings, Settings};
use protem_gate::sidecar::{Sidecar, missing};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

const HELP: &str = "\
A gateway beside a proxy: it follows the revocations of its brokers, and answers whether a call may pass.

Usage: protem-gate --config FILE [--check-config [--no-files]]

      --config FILE   the settings [env: PROTEM_GATE_CONFIG]
      --check-config  only check the settings, and the files that they name
      --no-files      with --check-config: not the files, which may be on their way
      --version       print the version
      --help          print this
";

/// What was typed.
enum Typed {
    Run { config: PathBuf, check: Option<Check> },
    Help,
    Version,
}

/// What is only checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Settings,
    SettingsAndFiles,
}

fn main() -> ExitCode {
    let typed = typed(std::env::args().skip(1));
    let (config, check) = match typed {
        Ok(Typed::Run { config, check }) => (config, check),
        Ok(Typed::Help) => return said(HELP),
        Ok(Typed::Version) => {
            return said(concat!("protem-gate ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Err(why) => return failed(USAGE, &format!("{why}\n\n{HELP}")),
    };
    let settings = match Settings::read(&config) {
        Ok(settings) => settings,
        Err(why) => return failed(FAILED, &why.to_string()),
    };
    if let Some(check) = check {
        return checked(&config, &settings, check);
    }
    log(settings.log);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(why) => return failed(FAILED, &why.to_string()),
    };
    runtime.block_on(run(settings))
}

async fn run(settings: Settings) -> ExitCode {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return failed(FAILED, "signals cannot be heard");
    };
    let sidecar = match Sidecar::start(settings, None).await {
        Ok(sidecar) => sidecar,
        Err(why) => return failed(FAILED, &why.to_string()),
    };
    if let Some(place) = sidecar.place() {
        tracing::info!(%place, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    let asked = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    sidecar.serve(asked).await;
    ExitCode::SUCCESS
}

fn typed(mut words: impl Iterator<Item = String>) -> Result<Typed, String> {
    let (mut config, mut check, mut files) = (None, false, true);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Typed::Help),
            "--version" | "-V" => return Ok(Typed::Version),
            "--check-config" => check = true,
            "--no-files" => files = false,
            "--config" => config = Some(words.next().ok_or("`--config` is followed by a file")?),
            other => match other.strip_prefix("--config=") {
                Some(file) => config = Some(file.to_owned()),
                None => return Err(format!("`{other}` means nothing here")),
            },
        }
    }
    let config = config.or_else(|| std::env::var("PROTEM_GATE_CONFIG").ok());
    let config = config.filter(|file| !file.is_empty()).ok_or("`--config FILE` is missing")?;
    let check = match (check, files) {
        (true, true) => Some(Check::SettingsAndFiles),
        (true, false) => Some(Check::Settings),
        (false, true) => None,
        (false, false) => return Err("`--no-files` is for `--check-config`".into()),
    };
    Ok(Typed::Run { config: config.into(), check })
}

fn checked(config: &Path, settings: &Settings, check: Check) -> ExitCode {
    let missing = match check {
        Check::Settings => Vec::new(),
        Check::SettingsAndFiles => missing(settings),
    };
    if missing.is_empty() {
        return said(&format!("{}: ok\n", config.display()));
    }
    failed(FAILED, &format!("{}:\n  {}", config.display(), missing.join("\n  ")))
}

fn log(settings: LogSettings) {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn said(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn failed(code: u8, why: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "protem-gate: {why}");
    ExitCode::from(code)
}

/// As `protem` ends: failed, and wrong usage.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
