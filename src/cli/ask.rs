//! Asking for access: the request, its explanation, and waiting until it is decided.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::verdict::Effect;
use protem_verify::codes::tool;
use protem_verify::ids::RequestId;
use tonic::Code;

use crate::cli::args::Global;
use crate::cli::args_work::{AskArgs, WaitArgs, What};
use crate::cli::client::{Client, repeat, wait_before};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, Tint};
use crate::cli::watch::TOKEN_LATE;
use crate::cli::{find, show, task_id};

/// A grant and, when it is active, its credential.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The grant.
    pub grant: v1::Grant,
    /// The credential, while the grant is active.
    pub credential: Option<v1::Credential>,
}

/// `protem request`.
///
/// # Errors
/// When nothing was granted.
pub async fn request(global: &Global, args: &AskArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let request = to_request(&args.what);
    if args.dry_run {
        return explain(&client, &screen, request, String::new()).await;
    }
    let answer = ask(&client, request).await?;
    let answer = match (answer.grant.state(), args.wait) {
        (GrantState::Pending, Some(patience)) => {
            say_pending(&screen, &client, &answer.grant);
            wait_decided(&client, &screen, &answer.grant, Some(patience)).await?
        }
        (GrantState::Pending, None)
        | (GrantState::Unspecified | GrantState::Active | GrantState::Ended, _) => answer,
    };
    finish(&screen, answer)
}

/// `protem wait GRANT`.
///
/// # Errors
/// When it was not granted.
pub async fn wait(global: &Global, args: &WaitArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let id = find::grant(&client, &args.grant).await?;
    let grant = v1::Grant { id, ..v1::Grant::default() };
    let answer = wait_decided(&client, &screen, &grant, None).await?;
    finish(&screen, answer)
}

/// Prints what was got; a request that still waits has an exit code of its own.
fn finish(screen: &Screen, answer: Answer) -> Result<Exit, Failure> {
    let (state, id) = (answer.grant.state(), answer.grant.id.clone());
    if state == GrantState::Ended {
        return Err(not_granted(&answer.grant));
    }
    let token = answer.credential.as_ref().map(|credential| credential.token.clone());
    if screen.json {
        let Answer { grant, credential } = answer;
        let response = v1::RequestAccessResponse { grant: Some(grant), credential };
        screen.json("RequestAccessResponse", &response, false)?;
    } else if let Some(token) = token {
        screen.say(format!("  {}", granted(&answer.grant)));
        screen.print(token);
    } else {
        screen.print(&answer.grant.id);
    }
    if state == GrantState::Pending {
        return Err(waits(&id));
    }
    Ok(Exit::Done)
}

fn waits(id: &str) -> Failure {
    Failure::of(Exit::Pending, tool::STILL_PENDING, "the request waits for approval")
        .helps(format!("go on waiting with `protem wait {id}`"))
}

/// One line about what was granted.
#[must_use]
pub fn granted(grant: &v1::Grant) -> String {
    let until = show::at(grant.active_until.as_ref());
    let scopes = grant.scopes.join(" ");
    format!("{scopes} on {}, at the latest until {until}  ({})", grant.resource, grant.id)
}

/// The request that arguments describe, under a fresh idempotency key.
#[must_use]
pub fn to_request(what: &What) -> v1::RequestAccessRequest {
    v1::RequestAccessRequest {
        task: Some(task_id::task(what, &task_id::process_env)),
        resource: what.resource.clone(),
        scopes: what.scopes.clone(),
        lifetime: what.lifetime.map(show::to_wire),
        purpose: what.purpose.clone(),
        request_id: fresh_key().to_string(),
        emergency: what.emergency,
        proof_key: None,
    }
}

/// A fresh UUIDv7 (RFC 9562 §5.7).
#[must_use]
pub fn fresh_key() -> RequestId {
    let millis = u64::try_from(SystemClock.unix().as_millis()).unwrap_or(u64::MAX);
    let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &random::bytes::<10>());
    RequestId(uuid.into_uuid().into_bytes())
}

/// Asks, again where the broker could not answer for the moment: one key makes it one request.
///
/// # Errors
/// When it was refused, or nobody answered in time.
pub async fn ask(client: &Client, request: v1::RequestAccessRequest) -> Result<Answer, Failure> {
    let mut pause = RETRY_FIRST;
    for _ in 0..RETRIES {
        match client.access().request_access(request.clone()).await {
            Ok(answer) => return Ok(answered(answer.into_inner())),
            Err(status) => match wait_before(&status, pause).filter(|_| repeat(&status)) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(client.failure(&status)),
            },
        }
        pause = pause.saturating_mul(2);
    }
    let answer = client.access().request_access(request).await;
    answer.map(|answer| answered(answer.into_inner())).map_err(|status| client.failure(&status))
}

/// Tries to ask again while a broker restarts; the last failure is told.
const RETRIES: u32 = 4;
const RETRY_FIRST: Duration = Duration::from_millis(100);

fn answered(response: v1::RequestAccessResponse) -> Answer {
    Answer { grant: response.grant.unwrap_or_default(), credential: response.credential }
}

/// Follows a grant until it is decided, through lost connections.
///
/// # Errors
/// When it ended instead, patience ran out, or the broker no longer knows the caller.
pub async fn wait_decided(
    client: &Client,
    screen: &Screen,
    grant: &v1::Grant,
    patience: Option<Duration>,
) -> Result<Answer, Failure> {
    let began = SystemClock.boot();
    let decided = follow(client, screen, grant, began);
    let Some(patience) = patience else { return decided.await };
    let ended = tokio::time::timeout(patience, decided).await;
    screen.clear();
    ended.unwrap_or_else(|_| {
        let what = format!("`{}` still waits after {}", grant.id, show::length(patience));
        let help = format!("go on waiting with `protem wait {}`", grant.id);
        Err(Failure::of(Exit::Pending, tool::STILL_PENDING, what).helps(help))
    })
}

async fn follow(
    client: &Client,
    screen: &Screen,
    grant: &v1::Grant,
    began: Duration,
) -> Result<Answer, Failure> {
    let mut until = show::at(grant.decide_by.as_ref());
    // When the broker last knew us: a stream ends with its token, and a fresh one may come a little late.
    let mut seen: Option<Duration> = None;
    loop {
        let watched = v1::WatchGrantRequest { grant_id: grant.id.clone() };
        let mut changes = match client.access().watch_grant(watched).await {
            Ok(changes) => changes.into_inner(),
            Err(status) => {
                let now = SystemClock.boot();
                let lately = seen.is_some_and(|seen| now.saturating_sub(seen) < TOKEN_LATE);
                let late = status.code() == Code::Unauthenticated && lately;
                let wait = wait_before(&status, Duration::from_secs(1));
                let Some(wait) = wait.filter(|_| late || repeat(&status)) else {
                    return Err(client.failure(&status));
                };
                if !late {
                    screen.draw("  the broker does not answer; trying again");
                }
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            let message = tokio::select! {
                message = changes.message() => message,
                _ = second.tick() => {
                    let waited = SystemClock.boot().saturating_sub(began).as_secs();
                    screen.draw(&format!("  waiting {}:{:02}, until {until}", waited / 60, waited % 60));
                    continue;
                }
            };
            // A stream that ends without a decision was cut; it is safe to open it again.
            let Ok(Some(change)) = message else { break };
            let now = change.grant.unwrap_or_default();
            match now.state() {
                GrantState::Active => {
                    screen.clear();
                    return Ok(Answer { grant: now, credential: change.credential });
                }
                GrantState::Ended => {
                    screen.clear();
                    return Err(not_granted(&now));
                }
                GrantState::Pending | GrantState::Unspecified => {
                    until = show::at(now.decide_by.as_ref());
                }
            }
        }
        seen = Some(SystemClock.boot());
        tokio::time::sleep(RETRY_FIRST).await;
    }
}

fn not_granted(grant: &v1::Grant) -> Failure {
    let said =
        if grant.end_note.is_empty() { String::new() } else { format!(": {}", grant.end_note) };
    let what = format!("`{}` was {}{said}", grant.id, show::state(grant));
    Failure::of(Exit::Denied, tool::NOT_GRANTED, what)
        .helps(format!("`protem grant {}` says by whom and why", grant.id))
}

/// Tells a person what a request waits for.
pub fn say_pending(screen: &Screen, _client: &Client, grant: &v1::Grant) {
    let count = grant.approvals_required;
    let word = if count == 1 { "approval" } else { "approvals" };
    let policies = grant.verdict.as_ref().map(|verdict| verdict.policies.join(", "));
    let lifetime = show::length(show::duration(grant.lifetime.as_ref()));
    screen.say(format!(
        "  {} on {} for up to {lifetime} needs {count} {word}  {}",
        grant.scopes.join(" "),
        grant.resource,
        screen.tint(Tint::Dim, &format!("(policy {})", policies.unwrap_or_default())),
    ));
    screen.say(format!("  {}, until {}", grant.id, show::at(grant.decide_by.as_ref())));
}

/// Explains what policy would say; nothing is recorded.
///
/// # Errors
/// When policy would refuse: its exit code says so too.
pub async fn explain(
    client: &Client,
    screen: &Screen,
    mut request: v1::RequestAccessRequest,
    as_identity: String,
) -> Result<Exit, Failure> {
    request.request_id = String::new();
    let asked = v1::ExplainAccessRequest { request: Some(request), as_identity };
    let answer = client.access().explain_access(asked).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    let verdict = answer.verdict.clone().unwrap_or_default();
    if screen.json {
        screen.json("ExplainAccessResponse", &answer, false)?;
    } else {
        screen.print(explained(screen, &answer, &verdict));
    }
    Ok(if verdict.effect() == Effect::Deny { Exit::Denied } else { Exit::Done })
}

fn explained(screen: &Screen, answer: &v1::ExplainAccessResponse, verdict: &v1::Verdict) -> String {
    let lifetime = show::length(show::duration(answer.lifetime.as_ref()));
    let head = match verdict.effect() {
        Effect::Issue => screen.tint(Tint::Good, &format!("granted at once, for up to {lifetime}")),
        Effect::NeedsApproval => {
            let groups = answer.approver_groups.join(", ");
            let count = answer.approvals_required;
            format!("granted after {count} approval(s) by {groups}, for up to {lifetime}")
        }
        Effect::Deny => screen.tint(Tint::Bad, "denied"),
        Effect::Unspecified => "unknown".to_owned(),
    };
    let mut lines = vec![head];
    let lists = [
        ("policies", &verdict.policies),
        ("limits", &verdict.limits),
        ("findings", &verdict.findings),
    ];
    for (name, list) in lists {
        if !list.is_empty() {
            lines.push(format!("  {name:<10}{}", list.join("; ")));
        }
    }
    if !verdict.remedy.is_empty() {
        lines.push(format!("  {:<10}{}", "help", verdict.remedy));
    }
    lines.push(format!("  {:<10}{}", "bundle", short_digest(&verdict.bundle)));
    lines.join("\n")
}

/// The beginning of a digest, enough to tell bundles apart.
fn short_digest(digest: &str) -> String {
    digest.chars().take(16).collect()
}
