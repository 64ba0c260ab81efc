//! What webhooks were told, what they do not take, what is parked, and letting go of that.

use std::sync::Arc;

use protem_proto::wire::v1;
use protem_verify::codes::wire;

use crate::config::WebhookFormat;
use crate::engine::broker::Broker;
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::journal::outbox::{Aside, Later, Parked, Place, Waits};
use crate::journal::reader::Reader;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::webhook::{Failing, Webhook, Webhooks};

/// All webhooks, in the order of their names.
///
/// # Errors
/// When the store cannot be asked.
pub async fn list(webhooks: &Webhooks, broker: &Broker) -> Result<Vec<v1::Webhook>, Problem> {
    let (webhooks, head) = (webhooks.clone(), broker.head().seq.0);
    let read = move |reader: &dyn Reader| {
        webhooks.iter().map(|webhook| shown(webhook, reader, head)).collect()
    };
    blocking(broker, read).await
}

fn shown(webhook: &Webhook, reader: &dyn Reader, head: u64) -> Result<v1::Webhook, Fault> {
    let told = reader.told(&webhook.name)?.map_or(head, |told| told.0);
    let parked = reader.later(&webhook.name, Place::Parked, SHOWN)?;
    let aside = reader.later(&webhook.name, Place::Aside, SHOWN)?;
    let failing = webhook.failing().map(|failing| {
        let Failing { occasion, seq, tries, why, next } = failing;
        let (what, next_try) = (occasion.as_str().to_owned(), Some(show::time(next)));
        v1::FailingMessage { what, seq, tries, why, next_try }
    });
    let format = match webhook.format {
        WebhookFormat::CloudEvents => "cloudevents",
        WebhookFormat::Slack => "slack",
    };
    Ok(v1::Webhook {
        name: webhook.name.clone(),
        format: format.to_owned(),
        looked_at: told,
        failing,
        parked_count: reader.count(&webhook.name, Place::Parked)?,
        parked: parked.into_iter().filter_map(parked_one).collect(),
        aside_count: reader.count(&webhook.name, Place::Aside)?,
        aside: aside.into_iter().filter_map(aside_one).collect(),
    })
}

fn parked_one(later: Later) -> Option<v1::ParkedMessage> {
    let Waits::Parked(Parked { at, tries, why }) = later.waits else { return None };
    let (what, seq, since) = (later.key.kind, later.key.seq.0, Some(show::time(at)));
    Some(v1::ParkedMessage { what, seq, since, tries, why })
}

fn aside_one(later: Later) -> Option<v1::FailingMessage> {
    let Waits::Aside(Aside { tries, why }) = later.waits else { return None };
    let (what, seq, next_try) = (later.key.kind, later.key.seq.0, Some(show::time(later.due)));
    Some(v1::FailingMessage { what, seq, tries, why, next_try })
}

/// Sends all that is parked of one webhook again. Whether the caller may was decided before. Returns how many that are.
///
/// # Errors
/// When there is no such webhook, or the store cannot be asked.
pub async fn retry(webhooks: &Webhooks, broker: &Broker, name: &str) -> Result<u64, Problem> {
    if !webhooks.iter().any(|webhook| webhook.name == name) {
        return Err(Problem::field(wire::MALFORMED, "name", "is no webhook of the settings"));
    }
    let name = name.to_owned();
    blocking(broker, move |reader| reader.let_go(&name)).await
}

/// What somebody should look at.
pub async fn problems_of(webhooks: &Webhooks, broker: &Broker) -> Vec<String> {
    let mut problems = webhooks.problems(&broker.bundle());
    let all = webhooks.clone();
    let count = move |reader: &dyn Reader| {
        let mut said = Vec::new();
        for name in all.iter().map(|webhook| &webhook.name) {
            for (place, what) in [(Place::Aside, "set aside"), (Place::Parked, "parked")] {
                let count = reader.count(name, place)?;
                if count > 0 {
                    said.push(format!("webhook `{name}`: {count} messages are {what}"));
                }
            }
        }
        Ok(said)
    };
    problems.extend(blocking(broker, count).await.unwrap_or_default());
    problems
}

async fn blocking<T: Send + 'static>(
    broker: &Broker,
    work: impl FnOnce(&dyn Reader) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Problem> {
    let reader = Arc::clone(broker.reader());
    let done = tokio::task::spawn_blocking(move || work(&*reader)).await;
    done.unwrap_or(Err(Fault::Stopping)).map_err(|fault| Stop::Faulted(fault).into())
}

/// Messages at one place that one answer shows of a webhook: the oldest parked ones, and those that are tried next.
const SHOWN: u32 = 100;
