//! protem: a just-in-time access broker for workloads. Access dies with its task.

pub mod cli;
pub mod config;
pub mod engine;
pub mod fetch;
pub mod journal;
pub mod mint;
pub mod policy;
pub mod serve;
