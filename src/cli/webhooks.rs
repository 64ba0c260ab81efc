//! `protem webhooks`: whom the broker tells what happens, what they do not take, and sending that again.

use protem_proto::wire::v1;

use crate::cli::args::Global;
use crate::cli::args_operate::WebhooksArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, columns};
use crate::cli::show;

/// `protem webhooks`.
///
/// # Errors
/// When the broker refuses.
pub async fn webhooks(global: &Global, args: &WebhooksArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    match &args.retry {
        Some(name) => retry(&client, &screen, name).await,
        None => list(&client, &screen).await,
    }
}

async fn list(client: &Client, screen: &Screen) -> Result<Exit, Failure> {
    let answer = client.governance().list_webhooks(v1::ListWebhooksRequest {}).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("ListWebhooksResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    if answer.webhooks.is_empty() {
        screen.say("the broker's settings name no webhook");
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = answer.webhooks.iter().flat_map(rows).collect();
    let heads = ["WEBHOOK", "STATE", "MESSAGE", "ENTRY", "TRIES", "SINCE OR NEXT TRY", "WHY"];
    screen.print(columns(&heads, &rows));
    Ok(Exit::Done)
}

/// The webhook itself, then what is set aside and what is parked.
fn rows(webhook: &v1::Webhook) -> Vec<Vec<String>> {
    let row = |state: &str, what: &str, seq: u64, tries: u32, at: String, why: &str| {
        let count = if tries == 0 { String::new() } else { tries.to_string() };
        let (name, state, what, why) = (webhook.name.clone(), state, what, why);
        vec![name, state.to_owned(), what.to_owned(), seq.to_string(), count, at, why.to_owned()]
    };
    let mut rows = vec![match &webhook.failing {
        None => row("told", "", webhook.looked_at, 0, String::new(), ""),
        Some(failing) => {
            let at = show::at(failing.next_try.as_ref());
            row("failing", &failing.what, failing.seq, failing.tries, at, &failing.why)
        }
    }];
    for aside in &webhook.aside {
        let at = show::at(aside.next_try.as_ref());
        rows.push(row("set aside", &aside.what, aside.seq, aside.tries, at, &aside.why));
    }
    for parked in &webhook.parked {
        let at = show::at(parked.since.as_ref());
        rows.push(row("parked", &parked.what, parked.seq, parked.tries, at, &parked.why));
    }
    let more = |count: u64, shown: usize| {
        let shown = u64::try_from(shown).unwrap_or(u64::MAX);
        count.saturating_sub(shown)
    };
    for (state, more) in [
        ("set aside", more(webhook.aside_count, webhook.aside.len())),
        ("parked", more(webhook.parked_count, webhook.parked.len())),
    ] {
        if more > 0 {
            rows.push(row(&format!("{state}, {more} more"), "", 0, 0, String::new(), ""));
        }
    }
    rows
}

async fn retry(client: &Client, screen: &Screen, name: &str) -> Result<Exit, Failure> {
    let request = v1::RetryWebhookRequest { name: name.to_owned() };
    let answer = client.governance().retry_webhook(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("RetryWebhookResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    screen.print(format!("{name}: {} sent again", show::count(answer.messages, "message")));
    Ok(Exit::Done)
}
