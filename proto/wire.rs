//! The generated code.

/// `protem.v1`: what workloads, approvers, gateways and operators speak.
pub mod v1 {
    tonic::include_proto!("protem.v1");
}

/// The feed's server side, whose answers are bytes that were encoded once.
pub mod feed {
    include!(concat!(env!("OUT_DIR"), "/feed/protem.v1.rs"));
}

/// `protem.journal.v1`: what a journal's rows hold.
pub mod journal {
    tonic::include_proto!("protem.journal.v1");
}

/// SPIFFE's Workload API, as far as its clients here need it.
pub mod spiffe {
    include!(concat!(env!("OUT_DIR"), "/spiffe/_.rs"));
}

/// The descriptors of our own contract, as `FileDescriptorSet` bytes: for reflection and for canonical JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
