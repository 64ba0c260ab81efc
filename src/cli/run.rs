//! `protem run`: a command with access that ends when the command does.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_verify::codes::{law, tool};

use crate::cli::args::Global;
use crate::cli::args_work::{OnEnd, RunArgs};
use crate::cli::ask::{self, Answer};
use crate::cli::child::{self, Signals};
use crate::cli::client::Client;
use crate::cli::credential_file::CredentialFile;
use crate::cli::exit::{ENDED_EARLY, Exit, Failure, NO_ACCESS};
use crate::cli::holder::{Holder, News};
use crate::cli::output::{Screen, Tint};
use crate::cli::patience::{Patience, repeat};
use crate::cli::{show, wait};

/// Asks, waits, runs, completes.
///
/// # Errors
/// When no access was got (125), or the command cannot be started (126, 127).
pub async fn run(global: &Global, args: &RunArgs) -> Result<Exit, Failure> {
    let no_access = |failure: Failure| failure.exits(Exit::Command(NO_ACCESS));
    // Nobody is asked to approve what cannot begin.
    child::startable(&args.command)?;
    let (client, screen) = Client::open(global).map_err(no_access)?;
    let mut signals = Signals::listen().map_err(no_access)?;
    let answer = ask_first(&client, &screen, args, &mut signals).await?;
    // From here on the terminal is the wait's, and then the command's.
    let client = client.silent();
    ask::shortened(args.what.lifetime, &answer.grant).iter().for_each(|line| screen.say(line));
    let task = answer.grant.task.clone().unwrap_or_default().id;
    let mut holder = Holder::start(&client, &task, args.lease, &answer.grant.id).await;
    let answer = match answer.grant.state() {
        GrantState::Pending => {
            let decided = decided(&client, &screen, &answer, &mut signals).await;
            decided.map_err(|why| match why {
                Undecided::Failed(failure) => no_access(failure),
                Undecided::Stopped(failure) => failure,
            })?
        }
        GrantState::Active | GrantState::Ended | GrantState::Unspecified => answer,
    };
    if let Some(signal) = signals.waiting() {
        return Err(withdraw(&client, &answer.grant.id, signal).await);
    }
    let Some(credential) = &answer.credential else {
        let what = format!("`{}` is {}", answer.grant.id, show::state(&answer.grant));
        return Err(no_access(Failure::of(Exit::Denied, tool::NOT_GRANTED, what)));
    };
    holder.renew(credential);
    holder.forget_waiting();
    screen.say(screen.tint(Tint::Dim, &format!("  {}", begins(&answer.grant))));
    let file = CredentialFile::create(&credential.token).map_err(no_access)?;
    let began = SystemClock.boot();
    let ran = execute(args, &screen, &file, &credential.token, &mut holder, &mut signals).await;
    let removed = file.remove();
    let took = SystemClock.boot().saturating_sub(began);
    complete(&client, &screen, &task, &ran, took).await;
    drop(holder);
    if let Err(failure) = removed {
        // Access has ended, so what is left is void; the command's own code is worth more.
        screen.say(failure.to_string());
    }
    ran.map(|ran| Exit::Command(ran.code()))
}

/// What a command is told that begins: what it got, or who approved it.
fn begins(grant: &v1::Grant) -> String {
    let Some(by) = wait::approved_by(grant) else { return ask::granted(grant) };
    let until = show::at(grant.active_until.as_ref());
    format!("approved by {by}; ends with this command, at {until} at the latest")
}

/// How many commands of one CI job may each be a task of their own.
const TASKS_OF_A_JOB: u32 = 100;

/// Asks. Where the CI system names the task, and an earlier command of the same job was that task and has ended, this one
/// is the job's next: `…/2`.
async fn ask_fresh(client: &Client, screen: &Screen, args: &RunArgs) -> Result<Answer, Failure> {
    let patience = Patience::endless();
    let mut request = ask::to_request(&args.what);
    let first = request.task.clone().unwrap_or_default().id;
    for more in 2..=TASKS_OF_A_JOB {
        match ask::ask(client, screen, request.clone(), &patience).await {
            Err(failure) if args.what.task.is_none() && failure.code == law::TASK_ENDED.id => {
                if let Some(task) = &mut request.task {
                    task.id = format!("{first}/{more}");
                }
                request.request_id = ask::fresh_key().to_string();
            }
            answer => return answer,
        }
    }
    ask::ask(client, screen, request, &patience).await
}

/// The same, until a signal: an answer that is on its way is waited for a little, so that what it grants is given back.
async fn ask_first(
    client: &Client,
    screen: &Screen,
    args: &RunArgs,
    signals: &mut Signals,
) -> Result<Answer, Failure> {
    let no_access = |failure: Failure| failure.exits(Exit::Command(NO_ACCESS));
    let asking = ask_fresh(client, screen, args);
    tokio::pin!(asking);
    let signal = tokio::select! {
        answer = &mut asking => return answer.map_err(no_access),
        signal = signals.next() => signal,
    };
    match tokio::time::timeout(STOP_WITHIN, asking).await {
        Ok(Ok(answer)) => Err(withdraw(client, &answer.grant.id, signal).await),
        Ok(Err(_)) | Err(_) => Err(stopped(signal)),
    }
}

/// How long an answer that is on its way is waited for after a signal.
const STOP_WITHIN: Duration = Duration::from_secs(2);

enum Undecided {
    Failed(Failure),
    Stopped(Failure),
}

/// Waits until the request is decided; a signal takes the request back.
async fn decided(
    client: &Client,
    screen: &Screen,
    answer: &Answer,
    signals: &mut Signals,
) -> Result<Answer, Undecided> {
    tokio::select! {
        decided = wait::decided(client, screen, &answer.grant, Patience::endless()) => {
            decided.map_err(Undecided::Failed)
        }
        signal = signals.next() => {
            screen.clear();
            Err(Undecided::Stopped(withdraw(client, &answer.grant.id, signal).await))
        }
    }
}

/// Gives back what was asked for, as nobody will use it.
async fn withdraw(client: &Client, grant: &str, signal: i32) -> Failure {
    let note = "the command that asked was stopped".to_owned();
    let back = v1::ReturnGrantRequest { grant_id: grant.to_owned(), note };
    // If this is lost too, the task's lease ends it.
    let _ = client.access().return_grant(back).await;
    stopped(signal)
}

fn stopped(signal: i32) -> Failure {
    let what = "stopped before the command began; what was asked for is given back";
    Failure::of(Exit::Command(child::of_signal(signal)), tool::NOT_GRANTED, what)
        .because(format!("signal {signal} came while it waited"))
        .helps("run it again")
}

/// How a command ended.
struct Ran {
    status: Option<ExitStatus>,
    early: bool,
}

impl Ran {
    fn code(&self) -> u8 {
        let Some(status) = self.status else { return ENDED_EARLY };
        if self.early {
            return ENDED_EARLY;
        }
        match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(1),
            (None, Some(signal)) => child::of_signal(signal),
            (None, None) => 1,
        }
    }
}

/// Runs the command to its end, and everything around it.
async fn execute(
    args: &RunArgs,
    screen: &Screen,
    file: &CredentialFile,
    token: &str,
    holder: &mut Holder,
    signals: &mut Signals,
) -> Result<Ran, Failure> {
    let env = args.env.as_deref().map(|name| (name, token));
    let mut child = child::spawn(&args.command, file.path(), env)?;
    let mut ran = Ran { status: None, early: false };
    let mut kill_at: Option<tokio::time::Instant> = None;
    let mut deaf = false;
    loop {
        let killing = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = child.process.wait() => {
                ran.status = ended.ok();
                return Ok(ran);
            }
            signal = signals.next() => child.forward(signal),
            () = killing => {
                child.kill();
                kill_at = None;
            }
            news = holder.news.recv(), if !deaf => match news {
                // The command goes on with what it has: left alone, nobody would stop it in time.
                Some(News::Fresh(token)) => if let Err(failure) = file.write(&token) {
                    screen.say(format!("  the fresh credential cannot be written: {}", failure.what));
                },
                Some(News::Lost(why)) => {
                    let lease = show::length(args.lease);
                    screen.say(format!("  {why}; trying again, access ends after {lease} without it"));
                }
                Some(News::GaveUp(why)) => {
                    let lease = show::length(args.lease);
                    screen.say(format!("  {why}; access ends in {lease} at most"));
                }
                Some(News::Back) => screen.say("  the broker is back"),
                Some(News::Ended(grant)) => {
                    screen.say(screen.tint(Tint::Bad, &format!("  access {}", ended_early(&grant))));
                    // More than one may tell of the end; the grace counts from the first.
                    if args.on_end == OnEnd::Stop && !ran.early {
                        ran.early = true;
                        child.stop();
                        kill_at = Some(tokio::time::Instant::now() + args.grace);
                    }
                }
                None => deaf = true,
            },
        }
    }
}

fn ended_early(grant: &v1::Grant) -> String {
    let note = &grant.end_note;
    let note = if note.is_empty() { String::new() } else { format!(": {note}") };
    format!("{}{note}  ({} {})", show::state(grant), tool::ENDED_EARLY.id, grant.id)
}

/// How long to wait for the gateways' receipts: a command's caller waits for this.
const RECEIPTS: Duration = Duration::from_secs(2);

/// Ends the task, and says how far that is enforced.
async fn complete(
    client: &Client,
    screen: &Screen,
    task: &str,
    ran: &Result<Ran, Failure>,
    took: Duration,
) {
    let good = ran.as_ref().is_ok_and(|ran| ran.code() == 0);
    let request = v1::CompleteTaskRequest {
        task_id: task.to_owned(),
        outcome: if good { "success" } else { "failure" }.to_owned(),
        wait: Some(show::to_wire(RECEIPTS)),
    };
    let (mut tries, patience) = (0_u32, Patience::short());
    let ended = loop {
        let ended = client.access().complete_task(request.clone()).await;
        tries += 1;
        match ended {
            Err(status) if repeat(&status) && tries < 4 => {
                match patience.pause(&status, Duration::from_millis(250)) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => break Err(status),
                }
            }
            ended => break ended,
        }
    };
    match ended {
        Ok(answer) => {
            let receipts = show::receipts(&answer.into_inner().enforcement);
            let done = format!("  done after {}; access revoked, {receipts}", show::length(took));
            screen.say(screen.tint(Tint::Dim, &done));
        }
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {}
        Err(status) => {
            let why = client.failure(&status).what;
            screen.say(format!("  the task's end could not be told ({why}); its lease ends it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: i32, early: bool, expect: u8) {
        let ran = Ran { status: Some(ExitStatus::from_raw(raw)), early };
        assert_eq!(ran.code(), expect);
    }

    #[test]
    fn the_commands_own_code_is_ours() {
        check(0, false, 0);
        check(3 << 8, false, 3);
        check(15, false, 143);
        check(9, false, 137);
        check(15, true, 124);
    }
}
