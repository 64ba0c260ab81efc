//! One binary for all integration tests: one link, one run. A file that is not listed here fails `tidy`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    clippy::unreachable,
    unreachable_pub,
    missing_docs,
    reason = "a test may fail loudly, may look at the real clock, and is its own documentation"
)]

mod agent;
mod approvals;
mod approvals_cli;
mod bad_input;
mod big_snapshot;
mod bound;
mod bound_clock;
mod broker;
mod browser;
mod bundle;
mod callers;
mod cancel;
mod ci;
mod cli;
mod cli_operate;
mod cli_run;
mod door_attacks;
mod door_limits;
mod door_strangers;
mod drain;
mod edge;
mod ends;
mod exits;
mod flood;
mod follower;
mod forbidden;
mod foreign;
mod fuzz;
mod fuzz_crates;
mod gate;
mod gate_attacks;
mod gate_faces;
mod gate_operation;
mod gate_regions;
mod gate_secrets;
mod gate_states;
mod gateway_seeds;
mod generated;
mod history;
mod issuer_attacks;
mod issuer_keys;
mod issuer_shapes;
mod issuer_tls;
mod issuers;
mod journal_follow;
mod key_emergencies;
mod key_scope;
mod kill9;
mod login_attacks;
mod memory;
mod metrics;
mod oidc;
mod page;
mod page_attacks;
mod page_estate;
mod page_rush;
mod page_sign_in;
mod page_stop;
mod page_stop_attacks;
mod page_waiting;
mod pki;
mod ports;
mod process;
mod proxies;
mod python;
mod receipts;
mod receipts_true;
mod receiver;
mod refused_svids;
mod restarts;
mod revoke_guesses;
mod roles;
mod rotation;
mod rotation_restarts;
mod rotation_waits;
mod secrets;
mod serve_tls;
mod served;
mod sign_in;
mod simulation;
mod site;
mod slim;
mod stall;
mod streams;
mod svid_rules;
mod svid_tokens;
mod tidy;
mod tls;
mod tokens;
mod units;
mod unusual;
mod usage;
mod usage_gate;
mod verifiers;
mod webhooks;
mod webhooks_aside;
mod webhooks_attacks;
mod webhooks_kill;
mod webhooks_moved;
mod wire_attacks;
mod workload_api;
mod wycheproof;
