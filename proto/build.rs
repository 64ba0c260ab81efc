//! Generates the wire from the contract: pure Rust, no protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "protem/v1/access.proto",
        "protem/v1/approvals.proto",
        "protem/v1/governance.proto",
        "protem/v1/grant.proto",
        "protem/v1/revocations.proto",
        "protem/v1/usage.proto",
        "protem/journal/v1/journal.proto",
    ];
    println!("cargo::rerun-if-changed=protem");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut descriptors = protox::compile(files, ["."])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors.clone())?;

    // Others' contract, so no part of what reflection shows of ours. It has no package, and gets a folder instead.
    println!("cargo::rerun-if-changed=spiffe");
    let spiffe = out.join("spiffe");
    std::fs::create_dir_all(&spiffe)?;
    let workload = protox::compile(["spiffe/workload.proto"], ["."])?;
    tonic_prost_build::configure().out_dir(&spiffe).compile_fds(workload)?;

    // The feed is encoded once for all subscribers: the same service again, server side only, whose answers are bytes.
    let feed = out.join("feed");
    std::fs::create_dir_all(&feed)?;
    for file in
        descriptors.file.iter_mut().filter(|file| !file.name().ends_with("revocations.proto"))
    {
        file.service.clear();
    }
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(&feed)
        .extern_path(".protem.v1", "crate::wire::v1")
        .extern_path(".protem.v1.SubscribeResponse", "crate::encoded::Encoded")
        .compile_fds(descriptors)?;
    ext_authz()
}

/// Envoy's part is no part of our own wire: it has descriptors of its own, which no reflection shows. The client is for tests;
/// the server is written by hand, as what cannot be read must be answered with a refusal and not with a gRPC error.
fn ext_authz() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=envoy");
    println!("cargo::rerun-if-changed=google");
    let descriptors = protox::compile(["envoy/service/auth/v3/external_auth.proto"], ["."])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
