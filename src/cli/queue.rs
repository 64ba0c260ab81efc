//! The queue of requests that wait for people, as an approver sees it.

use protem_proto::wire::v1;
use protem_verify::codes::{law, tool};

use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{find, show};

/// All that wait, those that must be decided first before the others.
///
/// # Errors
/// When the broker refuses to show them.
pub async fn all(client: &Client, mine_only: bool) -> Result<Vec<v1::PendingGrant>, Failure> {
    let mut asked = v1::ListPendingRequest { mine_only, page_size: PAGE, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.approvals().list_pending(asked.clone()).await;
        let page = page.map_err(|status| client.failure(&status))?.into_inner();
        let empty = page.pending.is_empty();
        all.extend(page.pending);
        if empty || page.next_page_token.is_empty() {
            break;
        }
        asked.page_token = page.next_page_token;
    }
    all.sort_by_key(|waiting| {
        let grant = waiting.grant.as_ref();
        let by = grant.and_then(|grant| grant.decide_by);
        (by.map(|by| by.seconds), id(waiting).to_owned())
    });
    Ok(all)
}

/// As many as the broker gives on one page.
const PAGE: u32 = 1_000;

/// The id of one that waits.
#[must_use]
pub fn id(waiting: &v1::PendingGrant) -> &str {
    waiting.grant.as_ref().map(|grant| grant.id.as_str()).unwrap_or_default()
}

/// The one that waits and whose id begins or ends with `part`.
///
/// # Errors
/// When none, or more than one, is like that; one that waits no longer is told as what it is.
pub async fn one(client: &Client, part: &str) -> Result<v1::PendingGrant, Failure> {
    if let Some(whole) = find::whole(part) {
        return match named(client, &whole).await? {
            Some(one) => Ok(one),
            None => Err(no_longer(client, part).await),
        };
    }
    let all = all(client, false).await?;
    let ids = all.iter().map(|waiting| id(waiting).to_owned());
    if let Some(found) = find::among(part, ids)? {
        let one = all.into_iter().find(|waiting| id(waiting) == found);
        return one.ok_or_else(|| missing(part));
    }
    Err(no_longer(client, part).await)
}

/// The one of this id, in one call; a broker that does not know how to look for one shows all.
async fn named(client: &Client, whole: &str) -> Result<Option<v1::PendingGrant>, Failure> {
    let grant_id = whole.to_owned();
    let asked = v1::ListPendingRequest { grant_id, page_size: PAGE, ..Default::default() };
    let page = client.approvals().list_pending(asked).await;
    let page = page.map_err(|status| client.failure(&status))?.into_inner();
    let found = |all: Vec<v1::PendingGrant>| all.into_iter().find(|waiting| id(waiting) == whole);
    match found(page.pending) {
        None if !page.next_page_token.is_empty() => Ok(found(all(client, false).await?)),
        one => Ok(one),
    }
}

/// Decided, perhaps: who may see grants is told how it ended.
async fn no_longer(client: &Client, part: &str) -> Failure {
    let Ok(grant_id) = find::grant(client, part).await else { return missing(part) };
    let answer = client.governance().get_grant(v1::GetGrantRequest { grant_id }).await;
    let Some(grant) = answer.ok().and_then(|answer| answer.into_inner().grant) else {
        return missing(part);
    };
    let what = format!("`{}` no longer waits: it is {}", grant.id, show::state(&grant));
    Failure::of(Exit::Failed, law::NOT_PENDING, what)
}

fn missing(part: &str) -> Failure {
    let what = format!("no request that waits is like `{part}`");
    let why = "it was decided, withdrawn or lapsed, or it is not for you to see";
    Failure::of(Exit::NotFound, tool::NO_MATCH, what).because(why).helps("look at `protem pending`")
}
