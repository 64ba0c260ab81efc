//! The inventory: `identities` and `secrets`, whose they are, and what nobody uses or rotates.

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_verify::codes::tool;

use crate::cli::args::Global;
use crate::cli::args_operate::IdentitiesArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::columns;
use crate::cli::show;
use crate::policy::finding::did_you_mean;

/// `protem identities`.
///
/// # Errors
/// When the broker refuses to show them, or there is none of the name.
pub async fn identities(global: &Global, args: &IdentitiesArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let mut request = v1::ListIdentitiesRequest {
        unowned: args.unowned,
        dormant_for: args.dormant.map(show::to_wire),
        resource: args.resource.clone().unwrap_or_default(),
        page_size: PAGE,
        page_token: String::new(),
        name: args.name.clone().unwrap_or_default(),
        ..v1::ListIdentitiesRequest::default()
    };
    let mut all = v1::ListIdentitiesResponse::default();
    loop {
        let page = client.governance().list_identities(request.clone()).await;
        let page = page.map_err(|status| client.failure(&status))?.into_inner();
        all.identities.extend(page.identities);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let filtered = args.unowned || args.dormant.is_some() || args.resource.is_some();
    if screen.json {
        screen.json("ListIdentitiesResponse", &all, false)?;
    } else if let (Some(_), [one]) = (&args.name, all.identities.as_slice()) {
        screen.print(identity(one));
    } else if all.identities.is_empty() && args.name.is_some() && !filtered {
        return Err(unknown(&client, &request.name).await);
    } else if all.identities.is_empty() {
        screen.say("no identities are like that");
    } else {
        let rows: Vec<Vec<String>> = all.identities.iter().map(row).collect();
        let heads =
            ["IDENTITY", "TIER", "OWNER", "ACTIVE", "GRANTED", "USED", "UNUSED", "REVIEW BY"];
        screen.print(columns(&heads, &rows));
    }
    Ok(Exit::Done)
}

/// No identity is called so, but perhaps one that is spelled nearly so.
async fn unknown(client: &Client, name: &str) -> Failure {
    let asked = v1::ListIdentitiesRequest { page_size: PAGE, ..Default::default() };
    let near = client.governance().list_identities(asked).await;
    let near = near.map(|page| page.into_inner().identities).unwrap_or_default();
    let hint = did_you_mean(name, near.iter().map(|one| one.name.as_str()));
    let name = visible(name);
    let none = format!("the bundle has no identity `{name}` that you may see{hint}");
    Failure::of(Exit::NotFound, tool::NO_IDENTITY, none)
}

fn row(identity: &v1::Identity) -> Vec<String> {
    let name = visible(&identity.name);
    let stopped = if identity.quarantined { " (quarantined)" } else { "" };
    vec![
        format!("{name}{stopped}"),
        visible(&identity.trust_tier),
        visible(&identity.owner_technical),
        identity.active_grants.to_string(),
        show::at(identity.last_granted.as_ref()),
        show::at(identity.last_used.as_ref()),
        match identity.unused_scopes.len() {
            0 => "-".to_owned(),
            count => count.to_string(),
        },
        last_day(identity.review_by.as_ref()),
    ]
}

/// All that is known of one identity.
fn identity(identity: &v1::Identity) -> String {
    let mut lines = vec![
        ("identity", identity.name.clone()),
        ("purpose", identity.purpose.clone()),
        ("tier", identity.trust_tier.clone()),
        (
            "owners",
            format!(
                "{} (business), {} (technical)",
                identity.owner_business, identity.owner_technical
            ),
        ),
        ("review by", last_day(identity.review_by.as_ref())),
        ("active", show::count(identity.active_grants, "grant")),
        ("granted", show::at(identity.last_granted.as_ref())),
        ("used", show::at(identity.last_used.as_ref())),
    ];
    if identity.quarantined {
        lines.push(("state", "quarantined: it gets no grants".to_owned()));
    }
    for scope in &identity.unused_scopes {
        lines.push(("unused", format!("{scope}, granted and never used in 90 days")));
    }
    let lines = lines.into_iter().map(|(name, text)| format!("{name:<12}{}", visible(&text)));
    lines.collect::<Vec<_>>().join("\n")
}

/// `protem secrets`.
///
/// # Errors
/// When the broker refuses to show them.
pub async fn secrets(global: &Global) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let answer = client.governance().list_secrets(v1::ListSecretsRequest {}).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("ListSecretsResponse", &answer, false)?;
    } else if answer.secrets.is_empty() {
        screen.say("the catalog knows of no static secret");
    } else {
        let now = i64::try_from(SystemClock.unix().as_secs()).unwrap_or(i64::MAX);
        let rows: Vec<Vec<String>> =
            answer.secrets.iter().map(|secret| secret_row(secret, now)).collect();
        let heads = ["SECRET", "STATE", "OPENS", "OWNER", "AGE", "ROTATE BY", "EXPIRES", "WHERE"];
        screen.print(columns(&heads, &rows));
    }
    Ok(Exit::Done)
}

fn secret_row(secret: &v1::Secret, now: i64) -> Vec<String> {
    let state = match (secret.expired, secret.overdue) {
        (true, _) => format!("{}, expired", secret.status),
        (false, true) => format!("{}, overdue", secret.status),
        (false, false) => secret.status.clone(),
    };
    let days = secret.created.as_ref().map(|created| now.saturating_sub(created.seconds) / 86_400);
    let place = if !secret.found_in.is_empty() {
        format!("found in {}", secret.found_in)
    } else if secret.injected_as.is_empty() {
        "-".to_owned()
    } else {
        format!("{} by {}", secret.injected_as, secret.gateways.join(", "))
    };
    vec![
        visible(&secret.name),
        state,
        visible(&secret.resource),
        visible(&secret.owner_technical),
        days.map_or("-".to_owned(), |days| format!("{days} d")),
        day(secret.rotate_by.as_ref()),
        last_day(secret.expires.as_ref()),
        visible(&place),
    ]
}

/// A day in UTC.
fn day(at: Option<&prost_types::Timestamp>) -> String {
    let moment = at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    moment.map_or("-".to_owned(), |moment| moment.to_string().chars().take(10).collect())
}

/// The last day before a moment that ends it, as the bundle writes that day.
fn last_day(end: Option<&prost_types::Timestamp>) -> String {
    let last = end.map(|end| end.seconds.saturating_sub(1));
    day(last.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }).as_ref())
}

/// As many as the broker gives on one page in well under its time.
const PAGE: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secrets_row_says_what_is_wrong_with_it() {
        let stamp = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let secret = v1::Secret {
            name: "crm-key".into(),
            created: stamp(0),
            rotate_by: stamp(86_400),
            expires: stamp(864_000),
            status: "managed".into(),
            overdue: true,
            injected_as: "X-Api-Key".into(),
            gateways: vec!["edge".into(), "edge-2".into()],
            ..v1::Secret::default()
        };
        let row = secret_row(&secret, 3 * 86_400 + 5);
        assert_eq!(row[6], "1970-01-10", "the last day on which it is good, as the bundle says it");
        assert_eq!((&*row[1], &*row[4], &*row[5]), ("managed, overdue", "3 d", "1970-01-02"));
        assert_eq!(row[7], "X-Api-Key by edge, edge-2");
        let found = v1::Secret {
            status: "unmanaged".into(),
            expired: true,
            found_in: "legacy/deploy.sh".into(),
            ..secret
        };
        let row = secret_row(&found, 0);
        assert_eq!((&*row[1], &*row[7]), ("unmanaged, expired", "found in legacy/deploy.sh"));
    }
}
