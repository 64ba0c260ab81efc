//! The one door to other people's HTTP servers.

pub mod client;
pub mod error;
pub mod file;
pub mod network;
pub mod target;
pub mod web;
