//! The addresses under `/ui/`, and what holds for each of them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::StatusCode;

use crate::serve::ui::entered::Entered;
use crate::serve::ui::limits::FORM_MAX;
use crate::serve::ui::site::Site;
use crate::serve::ui::{
    assets, decide, gateways, grant, grants, headers, identity, inventory, issuer, live, problem,
    quarantine, receipts, request, resources, reviews, secrets, sign_in, stop, waiting,
};

/// All of them. What changes anything is a `POST`: no link and no prefetch decides.
pub fn routes(site: &Arc<Site>) -> Router {
    let pages = Router::new()
        .route("/ui/", get(waiting::list))
        .route("/ui/requests/{id}", get(request::show))
        .route("/ui/requests/{id}/approve", post(decide::approve))
        .route("/ui/requests/{id}/deny", post(decide::deny))
        .route("/ui/requests/{id}/take-back", post(decide::take_back))
        .route("/ui/reviews", get(reviews::list))
        .route("/ui/reviews/{id}/close", post(reviews::close))
        .route("/ui/grants", get(grants::list))
        .route("/ui/grants/{id}", get(grant::show))
        .route("/ui/revoke", get(stop::ask).post(stop::revoke))
        .route("/ui/revocations/{seq}", get(receipts::show))
        .route("/ui/inventory", get(inventory::list))
        .route("/ui/inventory/identities/{*name}", get(identity::show))
        .route("/ui/inventory/resources", get(resources::list))
        .route("/ui/inventory/secrets", get(secrets::list))
        .route("/ui/quarantine", get(quarantine::ask).post(quarantine::set))
        .route("/ui/gateways", get(gateways::list))
        .route("/ui/events/{topic}", get(live::events))
        .route("/ui/sign-in", get(sign_in::ask).post(sign_in::take))
        .route("/ui/sign-in/at", post(issuer::start))
        .route("/ui/sign-in/back", get(issuer::back))
        .route("/ui/sign-out", post(sign_in::leave))
        .route("/ui/{*rest}", get(nothing))
        .method_not_allowed_fallback(async || problem::wrong_method())
        .layer(DefaultBodyLimit::max(FORM_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(site), own_host))
        .with_state(Arc::clone(site));
    Router::new()
        .route("/", get(async || Redirect::to("/ui/")))
        .route("/ui", get(async || Redirect::permanent("/ui/")))
        .route("/ui/assets/{name}", get(assets::serve))
        .merge(pages)
        .layer(middleware::from_fn(headers::strict))
}

async fn nothing(_: State<Arc<Site>>, entered: Entered) -> Response {
    problem::nothing(Some(&entered))
}

/// By another name than its own the page shows nothing but its own.
async fn own_host(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if site.origin.own_host(&request).is_some() {
        return next.run(request).await;
    }
    let text = format!("this page is at {}/ui/\n", site.origin.url());
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}
