//! All services on one router: gRPC behind the entrance, documents beside it.

use std::sync::Arc;

use axum::{Router, middleware};
use protem_proto::wire::feed::revocation_service_server::RevocationServiceServer;
use protem_proto::wire::v1::access_service_server::AccessServiceServer;
use protem_proto::wire::v1::approval_service_server::ApprovalServiceServer;
use protem_proto::wire::v1::bundle_service_server::BundleServiceServer;
use protem_proto::wire::v1::governance_service_server::GovernanceServiceServer;
use protem_proto::wire::v1::usage_service_server::UsageServiceServer;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::health_reporter;
use tonic_reflection::server::Builder;

use crate::engine::broker::Broker;
use crate::serve::access::Access;
use crate::serve::approvals::Approvals;
use crate::serve::bundles::Bundles;
use crate::serve::entrance::enter;
use crate::serve::governance::Governance;
use crate::serve::http;
use crate::serve::limits::{BUNDLE_MESSAGE_MAX, MESSAGE_MAX};
use crate::serve::metrics::{self, Calls};
use crate::serve::revocations::Revocations;
use crate::serve::ui::pages;
use crate::serve::ui::site::Site;
use crate::serve::usage::Usage;
use crate::serve::watch::Watch;
use crate::serve::webhook::Webhooks;
use crate::serve::work::Work;

/// Everything on the broker's port; `dev`: its port, to check `Host` and `Origin` by.
pub fn all(
    site: &Arc<Site>,
    webhooks: &Webhooks,
    work: Work,
    calls: Calls,
    dev: Option<u16>,
) -> Router {
    let broker = &site.broker;
    let entered = middleware::from_fn_with_state(Arc::clone(&site.entrance), enter);
    let approvals = site.approvals.clone();
    let grpc = services(broker, &site.watch, webhooks, work, approvals)
        .into_axum_router()
        .reset_fallback();
    let grpc = grpc.layer(entered).layer(middleware::from_fn_with_state(calls, metrics::count));
    let router = Router::new().merge(grpc).merge(http::routes(broker)).merge(pages::routes(site));
    let router = router.fallback(http::nothing);
    match dev {
        Some(port) => http::only_own_host(router, port),
        None => router,
    }
}

fn services(
    broker: &Broker,
    watch: &Watch,
    webhooks: &Webhooks,
    work: Work,
    approvals: Approvals,
) -> Routes {
    let (broker, watch) = (|| broker.clone(), || watch.clone());
    let access = Access { broker: broker(), watch: watch(), work };
    let webhooks = webhooks.clone();
    let governance = Governance { broker: broker(), watch: watch(), webhooks };
    let revocations = Revocations { broker: broker(), watch: watch() };
    let bundles = Bundles { broker: broker() };
    let mut routes = Routes::builder();
    routes
        .add_service(AccessServiceServer::new(access).max_decoding_message_size(MESSAGE_MAX))
        .add_service(
            GovernanceServiceServer::new(governance).max_decoding_message_size(MESSAGE_MAX),
        )
        .add_service(
            RevocationServiceServer::new(revocations).max_decoding_message_size(MESSAGE_MAX),
        )
        .add_service(
            BundleServiceServer::new(bundles).max_decoding_message_size(BUNDLE_MESSAGE_MAX),
        )
        .add_service(ApprovalServiceServer::new(approvals).max_decoding_message_size(MESSAGE_MAX))
        .add_service(
            UsageServiceServer::new(Usage::new(broker())).max_decoding_message_size(MESSAGE_MAX),
        )
        .add_service(health(watch()));
    // Both versions: widespread tools still ask for v1alpha alone.
    if let Ok(v1) = reflection().build_v1() {
        routes.add_service(v1);
    }
    if let Ok(v1alpha) = reflection().build_v1alpha() {
        routes.add_service(v1alpha);
    }
    routes.routes()
}

/// Health of the whole server, until it drains; whether the store answers is `/readyz`.
fn health(watch: Watch) -> HealthServer<impl Health> {
    let (mut reporter, health) = health_reporter();
    tokio::spawn(async move {
        watch.draining().begun().await;
        reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
        // Watchers have heard it, and their streams end: no probe keeps a draining connection open.
        reporter.clear_service_status(WHOLE).await;
        reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
    });
    health
}

/// Our services, health, and the messages of rich errors, so that tools can show all of them.
fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(protem_proto::wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// How the health protocol names the server as a whole.
const WHOLE: &str = "";
