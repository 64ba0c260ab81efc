//! Codes PT-03xx: bundles, and what policy refuses.

crate::codes! {}
