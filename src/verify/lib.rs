//! What a credential says and whether it still counts: pure, few dependencies, no IO.

pub mod attacks;
pub mod bench;
pub mod checkpoint;
pub mod claims;
pub mod codes;
pub mod fences;
pub mod ids;
pub mod json;
pub mod jws;
pub mod keys;
pub mod known;
pub mod merkle;
pub mod names;
pub mod operation;
pub mod proof;
pub mod random_tests;
pub mod spiffe;
pub mod spread;
pub mod time;
pub mod vectors;
pub mod verifier;
pub mod view;
pub mod view_tests;
