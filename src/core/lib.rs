//! The law: requests, approvals, grants, tasks, revocations, deadlines. No clock, no randomness, no IO.

pub mod access;
pub mod apply;
pub mod approval;
pub mod charter;
pub mod command;
pub mod covered;
pub mod decide;
pub mod dice;
pub mod ending;
pub mod event;
pub mod grant;
pub mod limits;
pub mod parts;
pub mod refusal;
pub mod request;
pub mod rules;
pub mod standing;
pub mod state;
pub mod tick;
pub mod tracked;
pub mod usual;
pub mod verdict;

mod approval_tests;
mod key_tests;
mod law_tests;
mod mass_tests;
mod random_tests;
mod settle_tests;
mod testbed;
mod usual_tests;
