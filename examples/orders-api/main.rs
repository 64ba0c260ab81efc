//! An API behind protem's layer: the five lines in `main` between the router and the listener are all that it takes.
//!
//! `PROTEM_TOKEN_FILE=token cargo run -p example-orders-api`, with a broker on port 7420 and, in the file, a token that its
//! bundle maps to the gateway `edge-eu-1` (`protem auth token --as edge-eu-1 > token` against `protem dev`).

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use protem_clock::clock::SystemClock;
use protem_gate::connect::TlsFiles;
use protem_gate::gate::{Gate, GateConfig};
use protem_gate::login::{CallerToken, Login, LoginFailed};
use protem_gate::report::LAST_WITHIN;
use protem_verify::names::{GatewayName, ResourceName};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let broker = setting("PROTEM_BROKER", "http://127.0.0.1:7420");
    // With a certificate (an X.509-SVID) that says who it is; else with a token.
    let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let identity = file("PROTEM_CERT").zip(file("PROTEM_KEY"));
    let token = TokenFile(setting("PROTEM_TOKEN_FILE", "token").into());
    let login: Option<Arc<dyn Login>> = match identity {
        Some(_) => None,
        None => Some(Arc::new(token)),
    };
    let gate = Gate::start(GateConfig {
        issuer: setting("PROTEM_ISSUER", &broker),
        broker,
        gateway: GatewayName::try_from("edge-eu-1")?,
        resources: vec![ResourceName::try_from("orders-api")?],
        state: setting("PROTEM_STATE", "gate-state").into(),
        login,
        tls: TlsFiles { ca: file("PROTEM_CA"), identity },
        clock: Arc::new(SystemClock),
    })?;
    let app = Router::new()
        .route("/v1/orders", get(orders))
        .layer(gate.layer(ResourceName::try_from("orders-api")?));
    let listener = tokio::net::TcpListener::bind(setting("LISTEN", "127.0.0.1:7430")).await?;
    let ended = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(ended).await?;
    // What was counted since the last report would end with the process.
    gate.tell_uses(LAST_WITHIN).await;
    Ok(())
}

/// The layer let the call through, so these headers are the gateway's word.
async fn orders(headers: HeaderMap) -> String {
    let identity = headers.get("x-protem-identity").and_then(|name| name.to_str().ok());
    format!("orders 1001, 1002 and 1003, for {}\n", identity.unwrap_or("nobody"))
}

/// A token that someone else keeps fresh: a projected Kubernetes token, or what `protem auth token` wrote.
struct TokenFile(PathBuf);

impl Login for TokenFile {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        Box::pin(async {
            let text = tokio::fs::read_to_string(&self.0).await;
            let text = text.map_err(|error| LoginFailed(error.to_string()))?;
            Ok(CallerToken::new(text.trim().to_owned()))
        })
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
