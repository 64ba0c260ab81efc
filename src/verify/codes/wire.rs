//! Codes PT-02xx: what came over the wire cannot be read.

crate::codes! {}
