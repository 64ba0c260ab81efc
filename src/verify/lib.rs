//! What a credential says and whether it still counts: pure, few dependencies, no IO.

pub mod codes;
pub mod ids;
pub mod merkle;
pub mod names;
pub mod time;
