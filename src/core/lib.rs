//! The law: requests, approvals, grants, tasks, revocations, deadlines. No clock, no randomness, no IO.

pub mod command;
pub mod event;
pub mod limits;
pub mod refusal;
pub mod request;
pub mod verdict;
