//! Bytes to commands and back: gRPC services, OAuth endpoints, caller identity, refusals as statuses.

pub mod access;
pub mod answers;
pub mod audit;
pub mod bundles;
pub mod caller;
pub mod connection;
pub mod entrance;
pub mod fetched;
pub mod governance;
pub mod grounds;
pub mod guarded;
pub mod handshakes;
pub mod hold;
pub mod http;
pub mod incoming;
pub mod inventory;
pub mod issuers;
pub mod jwt;
#[cfg(test)]
mod jwt_tests;
pub mod later;
pub mod limits;
pub mod listing;
pub mod methods;
pub mod parse;
pub mod private;
pub mod rates;
pub mod reload;
pub mod revocations;
pub mod routes;
pub mod seats;
pub mod selector;
pub mod server;
pub mod show;
pub mod signing_keys;
pub mod status;
pub mod strict_json;
pub mod svid;
pub mod tls;
pub mod trust;
pub mod watch;
pub mod welcome;
pub mod who;
pub mod whole;
pub mod work;
#[cfg(test)]
mod wycheproof_tests;
