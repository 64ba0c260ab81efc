//! What somebody may type who puts a gate in front of an API.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use protem_gate::listener::Place;

/// Stand beside a proxy and refuse what no longer counts.
#[derive(Args, Clone, Debug)]
pub struct GateArgs {
    /// The settings, like examples/gate.toml. Against `protem dev`, `--as GATEWAY` is enough
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only check the settings, and the files that they name
    #[arg(long, requires = "config")]
    pub check_config: bool,
    /// With `--check-config`: not the files, which may be on their way
    #[arg(long, requires = "check_config")]
    pub no_files: bool,
    /// With `--as`: the proxy that asks by forward-auth; Envoy may ask in any case
    #[arg(long, value_name = "PROXY", default_value = "nginx", conflicts_with = "config",
        value_parser = ["nginx", "caddy", "traefik", "haproxy"])]
    pub proxy: String,
    /// With `--as`: where to listen for the proxy, an address or `unix:` and a path
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:7431", conflicts_with = "config")]
    pub listen: Place,
    /// With `--as`: where `/livez` and `/readyz` are served
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub metrics: Option<SocketAddr>,
    /// With `--as`: where instance id and last checkpoint are kept [default: in the folder of your own state]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub state: Option<PathBuf>,
}
