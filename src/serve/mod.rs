//! Bytes to commands and back: gRPC services, OAuth endpoints, caller identity, refusals as statuses.

pub mod jwt;
pub mod limits;
pub mod status;
pub mod strict_json;
