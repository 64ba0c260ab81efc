//! Looking: `grants`, `grant` and `gateways`.

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_proto::wire::v1::selector::By;

use crate::cli::args::Global;
use crate::cli::args_work::{GrantsArgs, StateArg, WaitArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::columns;
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
        all.grants.extend(page.grants);
        // A page may be empty and still have a next: it looks through a limited number of grants.
        if page.next_page_token.is_empty() || all.grants.len() >= limit {
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
        let usage = show::usage(&answer.usage.unwrap_or_default());
        if !usage.is_empty() {
            screen.print(usage);
        }
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
    let heads = [
        "GATEWAY",
        "INSTANCE",
        "CONNECTED",
        "STATE",
        "ENTRY",
        "VIEW AGE",
        "LAG P50",
        "LAG P99",
        "REPORTED",
    ];
    screen.print(columns(&heads, &rows));
    if answer.gateways.iter().any(|gateway| gateway.twin) {
        screen.say(
            "several live processes hold one instance id (twin): give each a state folder of its own",
        );
    }
    Ok(Exit::Done)
}

fn gateway(gateway: &v1::Gateway) -> Vec<String> {
    let length = |of: Option<&prost_types::Duration>| match of {
        Some(of) => show::length(show::duration(Some(of))),
        None => "-".to_owned(),
    };
    vec![
        visible(&gateway.name),
        match gateway.instance.as_str() {
            "" => "-".to_owned(),
            instance => visible(instance).chars().take(8).collect(),
        },
        if gateway.connected { "yes" } else { "no" }.to_owned(),
        match (visible(&gateway.state), gateway.twin) {
            (state, true) => format!("{state} (twin)"),
            (state, false) => state,
        },
        match gateway.acknowledged {
            0 => "-".to_owned(),
            seq => seq.to_string(),
        },
        length(gateway.view_age.as_ref()),
        length(gateway.lag_p50.as_ref()),
        length(gateway.lag_p99.as_ref()),
        match (show::at(gateway.last_report.as_ref()), gateway.usage_dropped) {
            (at, 0) => at,
            (at, dropped) => format!("{at}, {dropped} calls not counted"),
        },
    ]
}
