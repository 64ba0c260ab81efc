//! The journal: the port, its adapters, and what its rows hold.

pub mod codec;
pub mod committed;
pub mod decode;
pub mod encode;
pub mod fault;
pub mod memory;
pub mod memory_reader;
pub mod migrate;
pub mod outbox;
pub mod page;
pub mod past;
pub mod port;
pub mod projection;
pub mod proofs;
pub mod reach;
pub mod reader;
pub mod records;
pub mod rows;
pub mod several;
pub mod snapshot;
pub mod snapshot_usual;
pub mod snapshots;
pub mod sqlite;
pub mod sqlite_error;
pub mod sqlite_grants;
pub mod sqlite_outbox;
pub mod sqlite_past;
pub mod sqlite_reader;
pub mod sqlite_rows;
pub mod sqlite_usage;
pub mod sqlite_wal;
pub mod tip;
pub mod usage;
pub mod verify;

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod grants_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod sqlite_tests;
#[cfg(test)]
mod testbed;
#[cfg(test)]
mod usage_tests;
