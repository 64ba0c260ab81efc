//! A gateway's IO: it follows a broker's feed and refuses what no longer counts.

pub mod apply;
pub mod bad_broker;
pub mod body;
pub mod connect;
pub mod decision;
pub mod door;
pub mod ext_authz;
pub mod follow;
pub mod forward;
pub mod gate;
pub mod headers;
pub mod layer;
pub mod listener;
pub mod login;
pub mod probes;
pub mod refusal;
pub mod secrets;
pub mod settings;
pub mod sidecar;
pub mod state;
#[cfg(feature = "spiffe")]
pub mod svid;
pub mod tally;
#[cfg(feature = "spiffe")]
pub mod workload;
