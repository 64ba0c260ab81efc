//! What the contract has and this version does not serve: each answer says what to do instead.

use protem_proto::wire::v1;
use protem_proto::wire::v1::usage_service_server::UsageService;
use protem_verify::codes::wire;
use tonic::{Code as Grpc, Request, Response, Status, Streaming};

use crate::serve::status::Problem;

/// UNIMPLEMENTED, and what to do instead.
#[must_use]
pub fn not_built(what: &str, instead: &str) -> Problem {
    let why = format!("{what} is not served by this version: {instead}");
    Problem::new(Grpc::Unimplemented, wire::NOT_BUILT, why)
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
