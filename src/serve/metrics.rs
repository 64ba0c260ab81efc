//! The page for Prometheus: what the broker counts, what its calls met, and how things stand when somebody looks.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use protem_clock::clock::Clock;
use protem_core::event::KeyPurpose;
use protem_metrics::count::{Counts, Label, Levels};
use protem_metrics::page::{In, Page};
use protem_metrics::spread::Spread;
use protem_verify::codes;
use protem_verify::time::Time;
use tonic::Status;
use tonic_types::StatusExt;

use crate::engine::broker::Broker;
use crate::engine::meters::TIMES;
use crate::journal::fault::Fault;
use crate::journal::outbox::Place;
use crate::journal::reader::Reader;
use crate::policy::bundle::Bundle;
use crate::serve::draining::Draining;
use crate::serve::webhook::Webhooks;

/// What calls met. Clones are one.
#[derive(Clone, Debug)]
pub struct Calls {
    took: Spread,
    refusals: Counts,
    clock: Clocked,
}

#[derive(Clone)]
struct Clocked(Arc<dyn Clock>);

impl std::fmt::Debug for Clocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clocked")
    }
}

/// Every stable code: nothing else becomes a label.
static CODES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| codes::all().iter().map(|code| code.id).collect());

impl Calls {
    /// Nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let refusals = Counts::new(Label { name: "code", values: &CODES });
        Self { took: Spread::new(TIMES), refusals, clock: Clocked(clock) }
    }
}

/// Around all gRPC services: how long until the first answer, and why not.
pub async fn count(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    let began = calls.clock.0.boot();
    let response = next.run(request).await;
    calls.took.took(calls.clock.0.boot().saturating_sub(began));
    let headers = response.headers();
    if headers.get("grpc-status").is_some_and(|status| status.as_bytes() != b"0")
        && let Some(status) = Status::from_header_map(headers)
        && let Some(info) = status.get_error_details().error_info()
    {
        calls.refusals.count(&info.reason);
    }
    response
}

/// What is shown, and where it is looked up.
#[derive(Debug)]
pub struct Exposition {
    broker: Source,
    page: Page,
    levels: Shown,
}

/// Where levels are looked up.
struct Source {
    broker: Broker,
    webhooks: Webhooks,
    draining: Draining,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// What is looked up when the page is asked for.
#[derive(Debug)]
struct Shown {
    ready: Levels,
    waiting: Levels,
    subscribers: Levels,
    rings: Levels,
    gateways: Levels,
    view_age: Levels,
    pending: Levels,
    live: Levels,
    key_age: Levels,
    parked: Levels,
    aside: Levels,
    failing: Levels,
    entries: Levels,
    size: Levels,
    secrets: Levels,
}

const LANE: Label = Label { name: "lane", values: &["ending", "ordinary"] };
const GATEWAY: Label = Label {
    name: "state",
    values: &["unready", "syncing", "fresh", "stale", "unknown", "silent", "never"],
};
const PURPOSE: Label = Label { name: "purpose", values: &["credential", "checkpoint"] };
const SECRET: Label = Label { name: "state", values: &["good", "overdue", "expired", "unmanaged"] };

/// How long a page waits for the sequencer: a store that hangs shows as levels that are unknown, not as a page that never comes.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

impl Exposition {
    /// Shows `broker`, `webhooks` and `calls`.
    #[must_use]
    pub fn new(broker: Broker, webhooks: Webhooks, calls: &Calls, draining: Draining) -> Self {
        let mut page = Page::new("protem");
        broker.meters().show(&mut page);
        let took = "Calls until their first answer, refused ones too";
        page.times("call_duration", took, &calls.took);
        page.counts("refusals", "Calls that were not done, by stable code", &calls.refusals);
        let levels = Shown::on(&mut page);
        Self { broker: Source { broker, webhooks, draining }, page, levels }
    }

    /// The page as it is now.
    pub async fn text(&self) -> String {
        self.levels.look(&self.broker).await;
        self.page.text()
    }
}

impl Shown {
    #[rustfmt::skip]
    fn on(page: &mut Page) -> Self {
        let mut level = |name: &str, unit, help: &str, label| {
            let levels = Levels::new(label);
            page.levels(name, unit, help, &levels);
            levels
        };
        let (things, none) = (In::Things, Label::NONE);
        Self {
            ready: level("ready", things, "1 while the store commits and the broker is not draining, else 0", none),
            waiting: level("commands_waiting", things, "Commands that wait for a turn", LANE),
            subscribers: level("feed_subscribers", things, "Streams that follow the feed", none),
            rings: level("feed_rings", things, "Different parts of the feed that are followed, or were lately", none),
            gateways: level("gateways", things, "Gateway instances, by their own last word; silent: not connected for up to an hour; never: of the catalog, and not heard of by this broker", GATEWAY),
            view_age: level("gateway_view_age_max", In::Seconds, "The oldest view of a connected gateway, by its own word", none),
            pending: level("requests_pending", things, "Requests that wait for people", none),
            live: level("grants_live", things, "Grants that have not ended", none),
            key_age: level("signing_key_age", In::Seconds, "Since the key that signs began to", PURPOSE),
            parked: level("webhook_messages_parked", things, "Messages that no receiver took, until somebody sends them again", none),
            aside: level("webhook_messages_aside", things, "Messages that failed so often that others went past them; they are tried again", none),
            failing: level("webhooks_failing", things, "Webhooks that do not take the message they are told", none),
            entries: level("journal_entries", things, "Entries of the journal", none),
            size: level("journal_size", In::Bytes, "The store on disk", none),
            secrets: level("secrets", things, "Static secrets that the catalog still knows of", SECRET),
        }
    }

    async fn look(&self, source: &Source) {
        let broker = &source.broker;
        let ready = !source.draining.has_begun() && !broker.failing();
        self.ready.put(Some(if ready { 1.0 } else { 0.0 }));
        let (ending, ordinary) = broker.waiting();
        self.waiting.set(0, number(ending));
        self.waiting.set(1, number(ordinary));
        self.subscribers.put(Some(number(broker.subscribers())));
        self.rings.put(Some(number(broker.rings())));
        self.entries.put(Some(whole(broker.head().seq.0)));
        self.gateways(broker);
        self.secrets(&broker.bundle(), broker.now());
        self.state(broker).await;
        self.store(source).await;
    }

    fn gateways(&self, broker: &Broker) {
        let (known, bundle) = (broker.gateways(), broker.bundle());
        let mut counts = [0_u32; GATEWAY.values.len()];
        let mut count = |word: &str| {
            let place = GATEWAY.place(word).or_else(|| GATEWAY.place("unknown"));
            if let Some(count) = place.and_then(|at| counts.get_mut(at)) {
                *count = count.saturating_add(1);
            }
        };
        for one in &known {
            count(
                if one.connected { one.state.to_lowercase() } else { "silent".to_owned() }.as_str(),
            );
        }
        let heard = |name: &&_| known.iter().any(|one| one.name == **name);
        bundle.gateways().keys().filter(|name| !heard(name)).for_each(|_| count("never"));
        for (at, count) in counts.iter().enumerate() {
            self.gateways.set(at, f64::from(*count));
        }
        let connected = known.iter().filter(|one| one.connected);
        let oldest = connected.filter_map(|one| one.view_age).max();
        self.view_age.put(oldest.map(|age| age.as_secs_f64()));
    }

    fn secrets(&self, bundle: &Bundle, now: Time) {
        let mut counts = [0_u32; SECRET.values.len()];
        for secret in bundle.catalog().secrets.values() {
            let place = if secret.expires <= now {
                2
            } else if secret.created + secret.rotate_every <= now {
                1
            } else if secret.found_in.is_some() {
                3
            } else {
                0
            };
            if let Some(count) = counts.get_mut(place) {
                *count = count.saturating_add(1);
            }
        }
        for (at, count) in counts.iter().enumerate() {
            self.secrets.set(at, f64::from(*count));
        }
    }

    /// What the law's state knows; unknown while the sequencer does not answer.
    async fn state(&self, broker: &Broker) {
        let look = broker.ask(|state| {
            let since = |purpose| {
                let key = state.signing(purpose).and_then(|id| state.key(id));
                key.map(|key| key.since)
            };
            let since = [KeyPurpose::Credential, KeyPurpose::Checkpoint].map(since);
            (state.waiting().count(), state.live(), since)
        });
        let found = tokio::time::timeout(LOOK_WITHIN, look).await.ok().and_then(Result::ok);
        self.pending.put(found.map(|(pending, ..)| number(pending)));
        self.live.put(found.map(|(_, live, _)| number(live)));
        for at in 0..PURPOSE.values.len() {
            let since = found.and_then(|(.., since)| since.get(at).copied().flatten());
            let age = since.map(|since| broker.now().since(since).as_secs_f64());
            self.key_age.set(at, age.unwrap_or(f64::NAN));
        }
    }

    async fn store(&self, source: &Source) {
        let (reader, webhooks) = (Arc::clone(source.broker.reader()), source.webhooks.clone());
        let failing = webhooks.iter().filter(|webhook| webhook.failing().is_some()).count();
        self.failing.put(Some(number(failing)));
        let read = move || {
            let reader: &dyn Reader = &*reader;
            let count = |place| {
                let all = webhooks.iter().try_fold(0_u64, |sum, webhook| {
                    Ok::<_, Fault>(sum.saturating_add(reader.count(&webhook.name, place)?))
                });
                all.ok()
            };
            (count(Place::Parked), count(Place::Aside), reader.size().ok())
        };
        let found = tokio::task::spawn_blocking(read);
        let found = tokio::time::timeout(LOOK_WITHIN, found).await.ok().and_then(Result::ok);
        let (parked, aside, size) = found.unwrap_or_default();
        self.parked.put(parked.map(whole));
        self.aside.put(aside.map(whole));
        self.size.put(size.map(whole));
    }
}

fn number(things: usize) -> f64 {
    whole(u64::try_from(things).unwrap_or(u64::MAX))
}

/// Exact up to 2^53, as the text format's numbers are.
fn whole(things: u64) -> f64 {
    let (high, low) = (things >> 32, things & u64::from(u32::MAX));
    let half = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    half(high) * 4_294_967_296.0 + half(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_what_they_are() {
        for (things, expect) in [(0, 0.0), (7, 7.0), (4_294_967_297, 4_294_967_297.0)] {
            assert!((whole(things) - expect).abs() < 0.5, "{things}");
        }
    }
}
