//! What the contract has and this version does not serve: each answer says what to do instead.

use protem_verify::codes::wire;
use tonic::Code as Grpc;

use crate::serve::status::Problem;

/// UNIMPLEMENTED, and what to do instead.
#[must_use]
pub fn not_built(what: &str, instead: &str) -> Problem {
    let why = format!("{what} is not served by this version: {instead}");
    Problem::new(Grpc::Unimplemented, wire::NOT_BUILT, why)
}
