//! The journal: the port, its adapters, and what its rows hold.

pub mod committed;
pub mod fault;
pub mod port;
pub mod reader;
pub mod records;
