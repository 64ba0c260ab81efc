//! Codes PT-07xx: the command line and its settings.

crate::codes! {}
