//! Codes PT-06xx: who the caller is.

crate::codes! {}
