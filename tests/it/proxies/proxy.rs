//! A real proxy, configured by the files of `examples/` with nothing changed but ports, paths, and how long it waits for a slow gate.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::pki::Pki;
use crate::ports::free_port;
use crate::process::{Kept, PATIENCE};
use crate::proxies::tools::Tools;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `auth_request`.
    Nginx,
    /// `forward_auth`.
    Caddy,
    /// `ext_authz`.
    Envoy,
}

/// All of them.
pub const ALL: [Kind; 3] = [Kind::Nginx, Kind::Caddy, Kind::Envoy];

/// Who stands behind a proxy.
pub struct Behind<'a> {
    /// The gate's socket.
    pub gate: &'a Path,
    /// The API.
    pub upstream: &'a str,
    /// The gRPC API.
    pub grpc: &'a str,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    kind: Kind,
    process: Kept,
    folder: tempfile::TempDir,
    port: u16,
    grpc: u16,
}

impl Kind {
    /// Its name in `gate.toml`; Envoy needs none.
    pub fn told(self) -> Option<&'static str> {
        match self {
            Self::Nginx => Some("nginx"),
            Self::Caddy => Some("caddy"),
            Self::Envoy => None,
        }
    }

    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }

    /// Its example, and the name that the file has.
    pub fn example(self) -> PathBuf {
        let file = match self {
            Self::Nginx => "examples/nginx/nginx.conf",
            Self::Caddy => "examples/caddy/Caddyfile",
            Self::Envoy => "examples/envoy/envoy.yaml",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
    }

    fn command(self, tools: &Tools, file: &Path, folder: &Path) -> Command {
        let mut command = Command::new(tools.program(self.program()));
        match self {
            // One process, so that its end is the end of all of it.
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file).args([
                "-e",
                "stderr",
                "-g",
                "daemon off; master_process off;",
            ]),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file)
                .env("HOME", folder)
                .env("XDG_DATA_HOME", folder)
                .env("XDG_CONFIG_HOME", folder),
            Self::Envoy => command.arg("-c").arg(file).args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--log-level",
                "warning",
            ]),
        };
        command
    }
}

/// What the examples name, and the tests fill in.
const GATE: &str = "/run/protem-gate/gate.sock";
const PID: &str = "/run/nginx-protem.pid";
/// How long the examples wait for a gate that is there, and how long the tests do.
const WAITS: [(&str, &str); 3] = [
    ("timeout: 0.5s", "timeout: 30s"),
    ("proxy_connect_timeout 1s", "proxy_connect_timeout 30s"),
    ("proxy_read_timeout 2s", "proxy_read_timeout 30s"),
];
/// Where the proxy listens, for HTTP and, where that is another port, for gRPC; the API, the gRPC API, and another API.
const PORTS: [&str; 5] = ["8000", "8001", "8080", "8090", "8081"];

/// The example with TLS as its comments have it, on the ports that it had without.
pub fn with_tls(text: &str, pki: &Pki) -> String {
    let plain = [
        "listen 127.0.0.1:8000;",
        "listen 127.0.0.1:8001 http2;",
        "http://:8000 {",
        "http://:8001 {",
    ];
    let lines = text.lines().filter(|line| !plain.contains(&line.trim()));
    let text: String = lines.map(|line| line.replace("#tls ", "") + "\n").collect();
    [
        ("/etc/protem/tls/cert.pem", pki.path("tls.pem").to_str().unwrap()),
        ("/etc/protem/tls/key.pem", pki.path("tls.key").to_str().unwrap()),
        ("listen 8443 ", "listen 127.0.0.1:8000 "),
        ("listen 8444 ", "listen 127.0.0.1:8001 "),
        ("https://:8443", "https://:8000"),
        ("https://:8444", "https://:8001"),
    ]
    .iter()
    .fold(text, |text, (from, to)| text.replace(from, to))
}

impl Proxy {
    /// Starts it, with TLS if there are certificates, and waits until it listens.
    pub fn start(kind: Kind, tools: &Tools, behind: &Behind<'_>, tls: Option<&Pki>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, grpc) = (free_port(), free_port());
        let of = |address: &str| address.rsplit(':').next().unwrap().to_owned();
        let own = [port, grpc].map(|port| port.to_string());
        let [http_api, grpc_api] = [of(behind.upstream), of(behind.grpc)];
        let ports = [&own[0], &own[1], &http_api, &grpc_api, &http_api];
        let example = kind.example();
        for file in std::fs::read_dir(example.parent().unwrap()).unwrap() {
            let file = file.unwrap().path();
            let mut text = std::fs::read_to_string(&file).unwrap();
            if let Some(pki) = tls {
                text = with_tls(&text, pki);
            }
            text = text.replace(GATE, behind.gate.to_str().unwrap());
            text = text.replace(PID, folder.path().join("pid").to_str().unwrap());
            // A loaded machine is no dead gate; one that is dead is noticed at once.
            for (waits, longer) in WAITS {
                text = text.replace(waits, longer);
            }
            // In two steps, so that no new port is taken for one of the examples'.
            for (at, old) in PORTS.iter().enumerate() {
                text = text.replace(&format!("{old};"), &format!("@{at}@;"));
                text = text.replace(&format!(":{old}"), &format!(":@{at}@"));
                text =
                    text.replace(&format!("port_value: {old} "), &format!("port_value: @{at}@ "));
            }
            for (at, new) in ports.iter().enumerate() {
                text = text.replace(&format!("@{at}@"), new);
            }
            std::fs::write(folder.path().join(file.file_name().unwrap()), text).unwrap();
        }
        let file = folder.path().join(example.file_name().unwrap());
        let log = std::fs::File::create(folder.path().join("proxy.log")).unwrap();
        let mut command = kind.command(tools, &file, folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Kept(command.current_dir(folder.path()).spawn().unwrap());
        let mut proxy = Self { kind, process, folder, port, grpc };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(proxy.address()).is_err() {
            let ended = proxy.process.0.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no {kind:?}: {}", proxy.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        proxy
    }

    /// Where callers find it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where gRPC callers find it.
    pub fn grpc(&self) -> String {
        match self.kind {
            Kind::Nginx | Kind::Caddy => format!("127.0.0.1:{}", self.grpc),
            Kind::Envoy => self.address(),
        }
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("proxy.log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "{:?} said:\n{}", self.kind, tail.join("\n"));
        }
    }
}
