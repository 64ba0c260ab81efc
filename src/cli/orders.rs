//! The example orders API that `dev` and `demo` put behind a gateway: three operations and a health check.

use std::future::Future;
use std::io;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protem_gate::gate::Gate;
use protem_gate::report::LAST_WITHIN;
use protem_verify::names::ResourceName;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The resource of the example bundle that it is.
pub const RESOURCE: &str = "orders-api";

/// Serves until `shutdown`; then finishes what it began, and tells the broker of the last calls. Everything but `/healthz` needs a credential for [`RESOURCE`].
///
/// # Errors
/// What the listener says.
pub async fn serve_orders(
    gate: Gate,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let resource = ResourceName::try_from(RESOURCE).map_err(io::Error::other)?;
    let orders = Router::new()
        .route("/v1/orders", get(list))
        .route("/v1/orders/{id}", get(one))
        .route("/v1/orders/{id}/refund", post(refund))
        .layer(gate.layer(resource));
    let shown = gate.clone();
    let healthz = move || async move { health(&shown) };
    let app = Router::new().route("/healthz", get(healthz)).merge(orders);
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await?;
    gate.tell_uses(LAST_WITHIN).await;
    Ok(())
}

fn health(gate: &Gate) -> Response {
    axum::Json(json!({ "gateway": gate.state().word() })).into_response()
}

async fn list(headers: HeaderMap) -> Response {
    let orders: Vec<Value> =
        ORDERS.iter().map(|(id, total)| json!({ "id": id, "total": total })).collect();
    axum::Json(json!({ "orders": orders, "asked_by": asked_by(&headers) })).into_response()
}

async fn one(Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Some((id, total)) = ORDERS.iter().find(|(known, _)| *known == id) else {
        return no_such(&id);
    };
    axum::Json(json!({ "id": id, "total": total, "asked_by": asked_by(&headers) })).into_response()
}

async fn refund(Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Some((id, total)) = ORDERS.iter().find(|(known, _)| *known == id) else {
        return no_such(&id);
    };
    let by = asked_by(&headers);
    axum::Json(json!({ "id": id, "refunded": total, "asked_by": by })).into_response()
}

fn no_such(id: &str) -> Response {
    let error = json!({ "error": "not_found", "message": format!("there is no order `{id}`") });
    (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
}

/// Who the gateway says is calling; it removed what the caller may have claimed.
fn asked_by(headers: &HeaderMap) -> Value {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    json!({
        "identity": header("x-protem-identity"),
        "task": header("x-protem-task"),
        "grant": header("x-protem-grant"),
        "scope": header("x-protem-scope"),
    })
}

/// What the shop sold, with totals in cents.
const ORDERS: [(&str, u32); 3] = [("1001", 4_200), ("1002", 1_350), ("1003", 9_999)];
