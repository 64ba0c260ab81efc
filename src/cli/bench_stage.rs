//! What a measurement runs against: a broker of our own binary with room for load, or one that is named.

use http::Uri;

use crate::cli::args::Global;
use crate::cli::bundle::files;
use crate::cli::client::Client;
use crate::cli::dev_key;
use crate::cli::exit::Failure;
use crate::cli::scene::{Scene, Stage};
use crate::cli::token::Login;
use crate::policy::bundle::Files;

/// A broker to measure.
#[derive(Debug)]
pub struct BenchStage {
    kind: Kind,
    /// The broker's process, if it is ours.
    pub pid: Option<u32>,
}

#[derive(Debug)]
enum Kind {
    /// Declared in the order in which they must end: the broker before its folder.
    Own {
        stage: Box<Stage>,
        scene: Scene,
    },
    Named(Box<Client>),
}

/// Identities of the measuring bundle: as many as there are callers at most.
pub const IDENTITIES: usize = 256;
/// Identities of the measuring bundle that may not ask often.
const HASTY: usize = 8;
/// Gateways of the measuring bundle; each may have 64 subscriptions.
pub const GATEWAYS: usize = 32;

impl BenchStage {
    /// The broker of `--broker`, else one of our own in a temporary folder.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn open(global: &Global) -> Result<Self, Failure> {
        if global.broker.is_some() {
            let (client, _) = Client::open(global)?;
            return Ok(Self { kind: Kind::Named(Box::new(client)), pid: None });
        }
        let scene = Scene::new()?;
        bundle(&scene)?;
        let more = ["--policies", "bundle", "--no-orders", "--listen", "127.0.0.1:7520"];
        let stage = scene.broker(&more).await?;
        let pid = stage.pid();
        Ok(Self { kind: Kind::Own { stage: Box::new(stage), scene }, pid })
    }

    /// A connection of its own as `name`; against a named broker always as the one that the flags name.
    ///
    /// # Errors
    /// When the development key cannot be read.
    pub fn client(&self, name: &str) -> Result<Client, Failure> {
        match &self.kind {
            Kind::Named(client) => {
                let (uri, login) = (client.uri().clone(), client.login().clone());
                Ok(Client::over(uri, login, client.tls().clone()))
            }
            Kind::Own { stage, .. } => {
                Ok(Client::new(stage.uri.clone(), self.login(&stage.uri, name)?))
            }
        }
    }

    /// The same connection as another.
    ///
    /// # Errors
    /// When the development key cannot be read.
    pub fn same_line(&self, client: &Client, name: &str) -> Result<Client, Failure> {
        match &self.kind {
            Kind::Named(_) => Ok(client.clone()),
            Kind::Own { stage, .. } => Ok(client.as_another(self.login(&stage.uri, name)?)),
        }
    }

    fn login(&self, uri: &Uri, name: &str) -> Result<Login, Failure> {
        match &self.kind {
            Kind::Named(client) => Ok(client.login().clone()),
            Kind::Own { scene, .. } => {
                let state = scene.path().join("state");
                let key = dev_key::read(&state, uri.port_u16().unwrap_or(80))?;
                Ok(Login::dev(key, name))
            }
        }
    }

    /// Where probes may write: the same disk as the broker's.
    #[must_use]
    pub fn folder(&self) -> std::path::PathBuf {
        match &self.kind {
            Kind::Named(_) => std::env::temp_dir(),
            Kind::Own { scene, .. } => scene.path().to_owned(),
        }
    }

    /// Ends the broker and takes its folder away.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub async fn close(self) -> Result<(), Failure> {
        match self.kind {
            Kind::Named(_) => Ok(()),
            Kind::Own { stage, scene } => {
                stage.stop().await;
                scene.clean()
            }
        }
    }
}

/// The name of caller `at`.
#[must_use]
pub fn identity(at: usize) -> String {
    format!("bench/caller-{:03}", at % IDENTITIES)
}

/// The name of caller `at` whose rate is limited.
#[must_use]
pub fn hasty(at: usize) -> String {
    format!("bench/hasty-{}", at % HASTY)
}

/// The gateway of subscriber `at`.
#[must_use]
pub fn gateway(at: usize) -> String {
    format!("bench-gateway-{:02}", at % GATEWAYS)
}

/// Who revokes.
pub const OPERATOR: &str = "bench:operators";

/// A bundle whose limits are out of the way, written into the scene.
///
/// # Errors
/// When it cannot be written.
pub fn bundle(scene: &Scene) -> Result<Files, Failure> {
    let folder = scene.path().join("bundle");
    std::fs::create_dir(&folder).map_err(|why| Failure::file(&folder, &why))?;
    let texts = [
        ("catalog.toml", catalog()),
        ("identities.toml", identities()),
        ("people.toml", PEOPLE.to_owned()),
        ("bench.cedar", POLICIES.to_owned()),
    ];
    for (name, text) in texts {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|why| Failure::file(&path, &why))?;
    }
    files(&folder)
}

fn catalog() -> String {
    let mut text = CATALOG.to_owned();
    for at in 0..GATEWAYS {
        let name = gateway(at);
        text.push_str(&format!(
            "[gateway.{name}]\nlogin = {{ spiffe = \"spiffe://bench.example/{name}\" }}\nresources = [\"orders-api\"]\n"
        ));
    }
    text
}

fn identities() -> String {
    let wide = (0..IDENTITIES).map(|at| (identity(at), "bench"));
    let all = wide.chain((0..HASTY).map(|at| (hasty(at), "hasty")));
    all.map(|(name, tier)| {
            format!(
                "[identity.\"{name}\"]\npurpose = \"Measures\"\nowner = {OWNER}\ntier = \"{tier}\"\nteam = \"bench\"\n\
                 review_by = 2099-01-01\n[[identity.\"{name}\".login]]\nspiffe = \"spiffe://bench.example/{name}\"\n"
            )
        })
        .collect()
}

const OWNER: &str = r#"{ business = "group:operators", technical = "group:operators" }"#;

const CATALOG: &str = r#"[tier.bench]
max_lifetime     = "8h"
default_lifetime = "15m"
credential       = "15m"
max_staleness    = "10s"
active_max       = 1000000
rate             = "1000000/s"
pending_max      = 20
[tier.hasty]
max_lifetime     = "8h"
default_lifetime = "15m"
credential       = "15m"
max_staleness    = "10s"
active_max       = 1000
rate             = "50/s"
pending_max      = 20
[class.read]
risk = "low"
max_lifetime = "8h"
[resource.orders-api]
audience = "https://orders.example"
purpose  = "Measures"
owner    = { business = "group:operators", technical = "group:operators" }
[resource.orders-api.scope."orders:read"]
purpose    = "Read orders"
class      = "read"
operations = ["GET /v1/orders"]
"#;

const PEOPLE: &str = r#"[group.operators]
claims = { groups = "operators" }
"#;

const POLICIES: &str = r#"@id("bench-reads")
permit (principal in Team::"bench", action == Action::"issue", resource in Resource::"orders-api");
@id("operators-revoke")
permit (principal in Group::"operators", action == Action::"revoke", resource in Broker::"protem");
@id("operators-view")
permit (principal in Group::"operators", action == Action::"view", resource in Broker::"protem");
@id("operators-administer")
permit (principal in Group::"operators", action == Action::"administer", resource == Broker::"protem");
"#;
