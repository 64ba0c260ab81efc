//! A gateway's IO: it follows a broker's feed and refuses what no longer counts.

pub mod apply;
pub mod bad_broker;
pub mod body;
pub mod connect;
pub mod follow;
pub mod gate;
pub mod layer;
pub mod login;
pub mod refusal;
pub mod state;
#[cfg(feature = "spiffe")]
pub mod svid;
pub mod tally;
#[cfg(feature = "spiffe")]
pub mod workload;
