//! The second listener, for whoever runs the broker: is it alive, is it ready, what does it do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use protem_metrics::page::MEDIA_TYPE;
use tokio::net::TcpListener;

use crate::engine::broker::Broker;
use crate::serve::draining::Draining;
use crate::serve::metrics::{Calls, Exposition};
use crate::serve::reload::Files;
use crate::serve::webhook::Webhooks;
use crate::serve::webhook_list::problems_of;

#[derive(Clone)]
struct Private {
    broker: Broker,
    draining: Draining,
    files: Files,
    webhooks: Webhooks,
    page: Arc<Exposition>,
}

/// Serves `/livez`, `/readyz` and `/metrics` until the task is dropped.
pub async fn serve(
    broker: Broker,
    listener: TcpListener,
    draining: Draining,
    files: Files,
    webhooks: Webhooks,
    calls: Calls,
) {
    let page = Exposition::new(broker.clone(), webhooks.clone(), &calls, draining.clone());
    let page = Arc::new(page);
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Private { broker, draining, files, webhooks, page });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the private listener ended");
    }
}

async fn metrics(State(private): State<Private>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, MEDIA_TYPE)], private.page.text().await)
}

/// Ready: not draining, and the store can still prove its head, as gateways need it to. A file that cannot be read anew is
/// told of and takes nobody out of service: all brokers would go at once.
async fn ready(State(private): State<Private>) -> (StatusCode, String) {
    if private.draining.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    match private.broker.prove(Vec::new()).await {
        Ok(_) => {
            let mut problems = private.files.problems();
            if !private.broker.takes_turns(Duration::ZERO).await {
                problems.push("the state is being loaded: all but gateways must wait".to_owned());
            }
            problems.extend(problems_of(&private.webhooks, &private.broker).await);
            let told = problems.into_iter().map(|why| format!("warning: {why}\n"));
            (StatusCode::OK, format!("ready\n{}", told.collect::<String>()))
        }
        Err(fault) => {
            let code = fault.code();
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {}\n", code.id, code.title))
        }
    }
}
