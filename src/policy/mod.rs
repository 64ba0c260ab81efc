//! Bundles: parse, check, Cedar evaluation, policy tests.

pub mod ask;
pub mod bench;
pub mod bundle;
pub mod cases;
pub mod catalog;
pub mod context;
pub mod entities;
pub mod evaluate;
pub mod example;
pub mod feed;
pub mod finding;
pub mod input;
pub mod lint;
pub mod login;
pub mod parse;
pub mod parse_catalog;
pub mod person;
pub mod raw;
pub mod read;
pub mod remedy;
pub mod rulebook;
pub mod rules;
pub mod seen;
pub mod template;
#[cfg(test)]
mod warning_tests;
pub mod who;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod evaluate_tests;
#[cfg(test)]
mod slicing_tests;
#[cfg(test)]
mod spiffe_tests;
#[cfg(test)]
mod unusual_tests;
