//! Counts, levels and spreads that cost no lock, and the page on which Prometheus finds them.

pub mod count;
pub mod page;
pub mod spread;
