//! The one door to the system's clocks and randomness.

pub mod clock;
pub mod random;
