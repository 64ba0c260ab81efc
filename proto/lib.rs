//! The wire: messages and services generated from `protem/`, and their descriptors.

pub mod encoded;
pub mod ext_authz;
pub mod wire;
