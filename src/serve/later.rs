//! What the contract has and this version does not serve: each answer says what to do instead.

use protem_proto::wire::v1;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_proto::wire::v1::usage_service_server::UsageService;
use protem_verify::codes::wire;
use tonic::{Code as Grpc, Request, Response, Status, Streaming};

use crate::serve::answers::Answers;
use crate::serve::status::Problem;

/// UNIMPLEMENTED, and what to do instead.
#[must_use]
pub fn not_built(what: &str, instead: &str) -> Problem {
    let why = format!("{what} is not served by this version: {instead}");
    Problem::new(Grpc::Unimplemented, wire::NOT_BUILT, why)
}

/// Approvals: requests wait and lapse; nobody decides them yet.
pub struct Approvals;

const APPROVALS: &str = "have the bundle `issue` the scopes, or let the request lapse";

#[tonic::async_trait]
impl ApprovalService for Approvals {
    type WatchPendingStream = Answers<v1::WatchPendingResponse>;

    async fn list_pending(
        &self,
        _: Request<v1::ListPendingRequest>,
    ) -> Result<Response<v1::ListPendingResponse>, Status> {
        Err(not_built("the list of waiting requests", "list grants with the state PENDING").into())
    }

    async fn watch_pending(
        &self,
        _: Request<v1::WatchPendingRequest>,
    ) -> Result<Response<Self::WatchPendingStream>, Status> {
        Err(not_built("watching what waits", "list grants with the state PENDING").into())
    }

    async fn decide(
        &self,
        _: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        Err(not_built("deciding", APPROVALS).into())
    }

    async fn list_reviews(
        &self,
        _: Request<v1::ListReviewsRequest>,
    ) -> Result<Response<v1::ListReviewsResponse>, Status> {
        Err(not_built("the list of reviews", "read the journal").into())
    }

    async fn close_review(
        &self,
        _: Request<v1::CloseReviewRequest>,
    ) -> Result<Response<v1::CloseReviewResponse>, Status> {
        Err(not_built("closing a review", "keep a note of it outside until then").into())
    }
}

/// Usage reports of gateways.
pub struct Usage;

#[tonic::async_trait]
impl UsageService for Usage {
    async fn report_usage(
        &self,
        _: Request<Streaming<v1::ReportUsageRequest>>,
    ) -> Result<Response<v1::ReportUsageResponse>, Status> {
        Err(not_built("usage", "let the gateway keep its counts").into())
    }
}
