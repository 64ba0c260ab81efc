//! The journal: the port, its adapters, and what its rows hold.

pub mod codec;
pub mod committed;
pub mod decode;
pub mod encode;
pub mod fault;
pub mod port;
pub mod reader;
pub mod records;
pub mod snapshot;
