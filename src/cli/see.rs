//! Looking: `grants`, `grant`, `gateways` and `auth`.

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::selector::By;
use protem_verify::codes::tool;

use crate::cli::args::{AuthCommand, Global};
use crate::cli::args_work::{GrantsArgs, StateArg, WaitArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::{Tint, columns};
use crate::cli::{find, show};

/// `protem grants`.
///
/// # Errors
/// When the broker refuses to show them.
pub async fn grants(global: &Global, args: &GrantsArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let by = [
        args.identity.clone().map(By::Identity),
        args.task.clone().map(By::Task),
        args.resource.clone().map(By::Resource),
        args.scope.clone().map(By::Scope),
    ];
    let by = by.into_iter().flatten().next();
    let since = args.since.map(|since| show::to_wire(SystemClock.unix().saturating_sub(since)));
    let mut request = v1::ListGrantsRequest {
        selector: by.map(|by| v1::Selector { by: Some(by) }),
        states: args.states.iter().map(|state| i32::from(to_wire(*state))).collect(),
        since: since.map(|at| prost_types::Timestamp { seconds: at.seconds, nanos: at.nanos }),
        page_size: args.limit.min(PAGE_MAX),
        ..v1::ListGrantsRequest::default()
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut all = v1::ListGrantsResponse::default();
    loop {
        let page = client.governance().list_grants(request.clone()).await;
        let page = page.map_err(|status| client.failure(&status))?.into_inner();
        let empty = page.grants.is_empty();
        all.grants.extend(page.grants);
        if empty || page.next_page_token.is_empty() || all.grants.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    all.grants.truncate(limit);
    if screen.json {
        screen.json("ListGrantsResponse", &all, false)?;
    } else if all.grants.is_empty() {
        screen.say("no grants are like that");
    } else {
        screen.print(show::grants(&all.grants));
    }
    Ok(Exit::Done)
}

/// As many as the broker gives on one page.
const PAGE_MAX: u32 = 1_000;

fn to_wire(state: StateArg) -> GrantState {
    match state {
        StateArg::Pending => GrantState::Pending,
        StateArg::Active => GrantState::Active,
        StateArg::Ended => GrantState::Ended,
    }
}

/// `protem grant ID`.
///
/// # Errors
/// When there is none that the caller may see.
pub async fn grant(global: &Global, args: &WaitArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let grant_id = find::grant(&client, &args.grant).await?;
    let answer = client.governance().get_grant(v1::GetGrantRequest { grant_id }).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("GetGrantResponse", &answer, false)?;
    } else {
        screen.print(show::grant(&answer.grant.unwrap_or_default()));
    }
    Ok(Exit::Done)
}

/// `protem gateways`.
///
/// # Errors
/// When the broker refuses to show them.
pub async fn gateways(global: &Global) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let answer = client.governance().list_gateways(v1::ListGatewaysRequest {}).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("ListGatewaysResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    if answer.gateways.is_empty() {
        screen.say("no gateway has ever connected");
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = answer.gateways.iter().map(gateway).collect();
    let heads =
        ["GATEWAY", "INSTANCE", "CONNECTED", "STATE", "ENTRY", "VIEW AGE", "LAG P50", "LAG P99"];
    screen.print(columns(&heads, &rows));
    Ok(Exit::Done)
}

fn gateway(gateway: &v1::Gateway) -> Vec<String> {
    let length = |of: Option<&prost_types::Duration>| match of {
        Some(of) => show::length(show::duration(Some(of))),
        None => "-".to_owned(),
    };
    vec![
        visible(&gateway.name),
        visible(&gateway.instance).chars().take(8).collect(),
        if gateway.connected { "yes" } else { "no" }.to_owned(),
        visible(&gateway.state),
        gateway.acknowledged.to_string(),
        length(gateway.view_age.as_ref()),
        length(gateway.lag_p50.as_ref()),
        length(gateway.lag_p99.as_ref()),
    ]
}

/// `protem auth status` and `protem auth token`.
///
/// # Errors
/// When nothing says who the caller is, or the broker does not take it.
pub async fn auth(global: &Global, command: &AuthCommand) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    match command {
        AuthCommand::Token => {
            let Some(token) = client.login().token().await? else {
                let what = "there is no token to show";
                return Err(Failure::of(Exit::NotAuthenticated, tool::NO_LOGIN, what));
            };
            screen.print(token.as_str());
            Ok(Exit::Done)
        }
        AuthCommand::Status => {
            screen.say(screen.tint(Tint::Dim, &format!("  by {}", client.login().source())));
            let answer = client.access().who_am_i(v1::WhoAmIRequest {}).await;
            let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
            if screen.json {
                screen.json("WhoAmIResponse", &answer, false)?;
            } else {
                screen.print(who(&answer));
            }
            Ok(if answer.why_not.is_empty() { Exit::Done } else { Exit::NotAuthenticated })
        }
    }
}

fn who(answer: &v1::WhoAmIResponse) -> String {
    let lines = [
        ("subject", answer.subject.clone()),
        ("issuer", answer.issuer.clone()),
        ("identity", answer.identity.clone()),
        ("person", answer.person.clone()),
        ("groups", answer.groups.join(", ")),
        ("gateway", answer.gateway.clone()),
        ("login", answer.login.clone()),
        ("no match", answer.why_not.clone()),
        ("audience", answer.audience.join(", ")),
        ("expires", answer.expires.as_ref().map_or_else(String::new, |at| show::at(Some(at)))),
    ];
    let lines = lines.into_iter().filter(|(_, text)| !text.is_empty());
    let mut lines: Vec<String> =
        lines.map(|(name, text)| format!("{name:<10}{}", visible(&text))).collect();
    let mut claims: Vec<_> = answer.claims.iter().collect();
    claims.sort();
    if !claims.is_empty() {
        lines.push("claims".to_owned());
    }
    lines.extend(
        claims.iter().map(|(name, text)| format!("  {} = {}", visible(name), visible(text))),
    );
    lines.join("\n")
}
