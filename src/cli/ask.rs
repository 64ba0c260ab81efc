//! Asking for access: the request, its explanation, and what came of it.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::verdict::Effect;
use protem_verify::codes::tool;
use protem_verify::ids::RequestId;

use crate::cli::args::Global;
use crate::cli::args_work::{AskArgs, What};
use crate::cli::child::Signals;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, Tint};
use crate::cli::patience::{Patience, repeat, trouble};
use crate::cli::{show, task_id, wait};

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
    let patience = args.wait.map_or_else(Patience::short, Patience::of);
    let answer = ask(&client, &screen, request, &patience).await?;
    shortened(args.what.lifetime, &answer.grant).iter().for_each(|line| screen.say(line));
    let answer = match (answer.grant.state(), args.wait) {
        (GrantState::Pending, Some(_)) => {
            let mut signals = Signals::listen()?;
            tokio::select! {
                decided = wait::decided(&client, &screen, &answer.grant, patience) => decided?,
                _ = signals.next() => {
                    screen.clear();
                    return Err(withdrawn(&client, &answer.grant.id).await);
                }
            }
        }
        (GrantState::Pending, None)
        | (GrantState::Unspecified | GrantState::Active | GrantState::Ended, _) => answer,
    };
    finish(&client, &screen, answer)
}

/// Takes back a request whose requester was stopped while it waited.
async fn withdrawn(client: &Client, grant: &str) -> Failure {
    let note = "the command that asked was stopped".to_owned();
    let back = v1::ReturnGrantRequest { grant_id: grant.to_owned(), note };
    let what = match client.access().return_grant(back).await {
        Ok(_) => format!("stopped; `{grant}` is withdrawn"),
        Err(status) => {
            let why = client.failure(&status).what;
            format!("stopped; `{grant}` could not be withdrawn ({why}) and lapses by itself")
        }
    };
    Failure::of(Exit::Denied, tool::NOT_GRANTED, what)
}

/// Prints what was got; a request that still waits has an exit code of its own.
///
/// # Errors
/// When nothing was got, or not yet.
pub fn finish(client: &Client, screen: &Screen, answer: Answer) -> Result<Exit, Failure> {
    let (state, id) = (answer.grant.state(), answer.grant.id.clone());
    if state == GrantState::Ended {
        return Err(wait::not_granted(&client.again(), &answer.grant));
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
        return Err(waits(client, &id));
    }
    Ok(Exit::Done)
}

fn waits(client: &Client, id: &str) -> Failure {
    Failure::of(Exit::Pending, tool::STILL_PENDING, "the request waits for approval")
        .helps(format!("go on waiting with `protem wait {id}{}`", client.again()))
}

/// What of the time that was wished for was not granted, and by which rule.
#[must_use]
pub fn shortened(wish: Option<Duration>, grant: &v1::Grant) -> Option<String> {
    let (wish, most) = (wish?, show::duration(grant.lifetime.as_ref()));
    let limits = grant.verdict.as_ref().map(|verdict| verdict.limits.as_slice());
    let rule = limits.unwrap_or_default().iter().find(|limit| limit.starts_with("lifetime "));
    let rule = rule.map(|rule| format!("  ({rule})")).unwrap_or_default();
    (most < wish)
        .then(|| format!("  for {} at most, not {}{rule}", show::length(most), show::length(wish)))
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

/// Asks, again where the broker could not answer for the moment and when it says so: one key makes it one request.
///
/// # Errors
/// When it was refused, or nobody answered in time.
pub async fn ask(
    client: &Client,
    screen: &Screen,
    request: v1::RequestAccessRequest,
    patience: &Patience,
) -> Result<Answer, Failure> {
    let mut pause = RETRY_FIRST;
    for _ in 0..RETRIES {
        match client.access().request_access(request.clone()).await {
            Ok(answer) => return Ok(answered(answer.into_inner())),
            Err(status) => match patience.pause(&status, pause).filter(|_| repeat(&status)) {
                Some(wait) => {
                    if wait > SILENT_MAX {
                        let (why, wait) = (trouble(&status), show::length(wait));
                        screen.say(format!("  {why}; asking again in {wait}, as the broker says"));
                    }
                    tokio::time::sleep(wait).await;
                }
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
/// The longest pause of which nobody is told.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// The first pause before asking again.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);

fn answered(response: v1::RequestAccessResponse) -> Answer {
    Answer { grant: response.grant.unwrap_or_default(), credential: response.credential }
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
            let count = show::count(answer.approvals_required, "approval");
            format!("granted after {count} by {groups}, for up to {lifetime}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_time_than_was_wished_for_is_told_with_the_rule() {
        let limits = ["lifetime 30m, from scope `orders:refund`", "freshness 10s, from tier `a`"];
        let grant = v1::Grant {
            lifetime: Some(show::to_wire(Duration::from_secs(1_800))),
            verdict: Some(v1::Verdict {
                limits: limits.map(str::to_owned).to_vec(),
                ..v1::Verdict::default()
            }),
            ..v1::Grant::default()
        };
        let told = |secs| shortened(Some(Duration::from_secs(secs)), &grant);
        let line = "  for 30m at most, not 5h  (lifetime 30m, from scope `orders:refund`)";
        assert_eq!(told(18_000).as_deref(), Some(line));
        assert_eq!(told(1_800), None);
        assert_eq!(shortened(None, &grant), None);
    }
}
