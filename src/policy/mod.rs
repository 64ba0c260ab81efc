//! Bundles: parse, check, Cedar evaluation, policy tests.

pub mod ask;
pub mod bundle;
pub mod catalog;
pub mod finding;
pub mod login;
pub mod template;
