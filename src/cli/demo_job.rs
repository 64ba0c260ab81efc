//! The demo's job: reads its credential, calls the example API, and tells what it was answered.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::http;
use crate::cli::task_id::process_env;

/// One line of what a job tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What it did: `GET /v1/orders`, or `end`.
    pub what: String,
    /// What it was answered.
    pub status: u16,
    /// When, in microseconds since the machine started.
    pub at_us: u64,
}

/// Something that the job's scope allows.
pub const ALLOWED: (&str, &str) = ("GET", "/v1/orders");
/// Something that it does not allow.
pub const OUTSIDE: (&str, &str) = ("POST", "/v1/orders/1001/refund");
/// How long a job that does not linger works: long enough for a thief to copy its credential.
const WORK: Duration = Duration::from_millis(700);
/// A job that lingers ends by itself after this.
const LINGER_MAX: Duration = Duration::from_secs(40);

/// Calls what is allowed and what is not; with `linger`, goes on until it is refused.
///
/// # Errors
/// When there is no credential, or the API does not answer.
pub async fn run(api: &str, linger: bool) -> Result<Exit, Failure> {
    let bad = |what: String| Failure::of(Exit::Failed, tool::STEP, what);
    let to: SocketAddr = api
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .map_err(|_| bad(format!("`{api}` is no address")))?;
    let file = process_env("PROTEM_CREDENTIAL_FILE");
    let file = file.ok_or_else(|| bad("there is no PROTEM_CREDENTIAL_FILE".to_owned()))?;
    let token = read(Path::new(&file))?;
    let call = async |(method, path): (&str, &str)| {
        let reply = http::call(to, method, path, Some(&token)).await;
        let reply = reply.map_err(|why| bad(format!("the orders API: {why}")))?;
        tell(&format!("{method} {path}"), reply.status);
        Ok::<_, Failure>(reply.status)
    };
    let mut status = call(ALLOWED).await?;
    call(OUTSIDE).await?;
    if !linger {
        tokio::time::sleep(WORK).await;
    }
    let began = SystemClock.boot();
    let parent = rustix::process::getppid();
    while linger && status == 200 && SystemClock.boot().saturating_sub(began) < LINGER_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reply = http::call(to, ALLOWED.0, ALLOWED.1, Some(&token)).await;
        status = reply.map(|reply| reply.status).unwrap_or(0);
    }
    tell("end", status);
    // Its `protem run` is about to stop it: a job that ended by itself first would end as if nothing had happened.
    while linger
        && rustix::process::getppid() == parent
        && SystemClock.boot().saturating_sub(began) < LINGER_MAX
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Exit::Done)
}

/// The credential that a file holds.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let token = std::fs::read_to_string(file).map(Zeroizing::new);
    token.map_err(|why| Failure::file(file, &why))
}

/// Now, in microseconds since the machine started: comparable between processes.
#[must_use]
pub fn now_us() -> u64 {
    u64::try_from(SystemClock.boot().as_micros()).unwrap_or(u64::MAX)
}

fn tell(what: &str, status: u16) {
    let told = Told { what: what.to_owned(), status, at_us: now_us() };
    println!("{}", serde_json::to_string(&told).unwrap_or_default());
}
