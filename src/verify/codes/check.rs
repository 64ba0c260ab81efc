//! Codes PT-04xx: why a gateway refuses a credential.

crate::codes! {}
