//! Room policy.
