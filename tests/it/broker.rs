//! A whole broker in this process: SQLite in a temporary folder, the repository's own bundle, a free port, callers that sign in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use protem::engine::broker::{Broker, Start};
use protem::engine::lane::LaneLimits;
use protem::engine::plan::Schedule;
use protem::journal::port::Journal;
use protem::journal::reader::Reader;
use protem::journal::sqlite::SqliteJournal;
use protem::policy::bundle::{Files, read_folder};
use protem::serve::issuers::Reach;
use protem::serve::peers::ConnectionLimits;
use protem::serve::places::CallLimits;
use protem::serve::server::{Drain, ServeSettings, serve};
use protem::serve::webhook::Webhooks;
use protem::serve::webhook_run::Pace;
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::access_service_client::AccessServiceClient;
use protem_proto::wire::v1::approval_service_client::ApprovalServiceClient;
use protem_proto::wire::v1::bundle_service_client::BundleServiceClient;
use protem_proto::wire::v1::governance_service_client::GovernanceServiceClient;
use protem_proto::wire::v1::revocation_service_client::RevocationServiceClient;
use protem_proto::wire::v1::usage_service_client::UsageServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use crate::ports::free_port;

/// A running broker and its development key.
pub struct TestBroker {
    pub broker: Broker,
    pub url: String,
    pub port: u16,
    key: SigningKey,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    pub folder: TempDir,
}

/// How a test wants its broker.
#[derive(Default)]
pub struct Wish {
    pub connections: ConnectionLimits,
    pub calls: CallLimits,
    pub drain: Drain,
    pub reach: Reach,
    /// TLS and trust bundles; the URL is then an `https` one.
    pub files: protem::serve::reload::Files,
    pub bundle: Option<Files>,
    /// Another store than SQLite.
    pub journal: Option<(Box<dyn Journal>, Arc<dyn Reader>)>,
    /// Another clock than the machine's.
    pub clock: Option<Arc<dyn Clock>>,
    /// As `protem serve` runs: the development key counts for nobody.
    pub no_dev: bool,
    /// How long signing keys live.
    pub rotation: Schedule,
    /// Who is told what happens, and how fast.
    pub webhooks: Webhooks,
    pub pace: Pace,
    /// Where probes and Prometheus look.
    pub private: Option<TcpListener>,
    /// Where people open the page.
    pub page: String,
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::with(Wish::default()).await
    }

    pub async fn with(wish: Wish) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let scheme = if wish.files.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let (journal, reader) = wish.journal.unwrap_or_else(|| {
            let opened = SqliteJournal::open(&folder.path().join("journal.db"));
            let (journal, reader) = opened.unwrap();
            (Box::new(journal), reader)
        });
        let start = Start {
            journal,
            reader,
            clock: wish.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            issuer: url.clone(),
            dev: true,
            bundle: wish.bundle.unwrap_or_else(policies),
            keys: folder.path().join("keys"),
            anchor: None,
            region: String::new(),
            rotation: wish.rotation,
            limits: LaneLimits::default(),
        };
        let broker = tokio::task::spawn_blocking(|| Broker::start(start)).await.unwrap();
        let broker = broker.unwrap_or_else(|why| panic!("the broker does not start: {why}"));
        let key = SigningKey::from_bytes(&random::bytes());
        let settings = ServeSettings {
            dev_jwks: Some(jwks(&key)).filter(|_| !wish.no_dev),
            private: wish.private,
            connections: wish.connections,
            calls: wish.calls,
            drain: wish.drain,
            reach: wish.reach,
            files: wish.files,
            webhooks: wish.webhooks,
            pace: wish.pace,
            page: wish.page,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = serve(broker.clone(), settings, listener, async {
            let _ = stopped.await;
        });
        let served = tokio::spawn(async { serving.await.unwrap() });
        Self { broker, url, port, key, stop: Some(stop), served: Some(served), folder }
    }

    /// Drains and stops it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
        self.broker.stop().await;
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(self.url.clone()).unwrap().connect_timeout(Duration::from_secs(5))
    }

    pub fn channel(&self) -> Channel {
        self.endpoint().connect_lazy()
    }

    /// A development token for an identity.
    pub fn identity_token(&self, name: &str) -> String {
        self.sign(&self.claims(name, "identity", &[]))
    }

    /// The claims of a good token, to be spoilt by tests.
    pub fn claims(&self, name: &str, kind: &str, groups: &[&str]) -> Value {
        let now = SystemClock.unix().as_secs();
        json!({
            "iss": "protem-dev", "sub": name, "aud": self.url, "iat": now, "nbf": now, "exp": now + 3_600,
            "protem/as": name, "protem/kind": kind, "groups": groups,
        })
    }

    pub fn sign(&self, claims: &Value) -> String {
        sign(&self.key, claims)
    }

    pub fn identity(&self, name: &str) -> Clients {
        self.clients(Some(self.identity_token(name)))
    }

    pub fn person(&self, name: &str, groups: &[&str]) -> Clients {
        self.clients(Some(self.sign(&self.claims(name, "person", groups))))
    }

    pub fn gateway(&self, name: &str) -> Clients {
        self.clients(Some(self.sign(&self.claims(name, "gateway", &[]))))
    }

    pub fn operator(&self) -> Clients {
        self.person("olga", &["operators"])
    }

    /// Typed clients that send this token.
    pub fn clients(&self, token: Option<String>) -> Clients {
        Clients::over(self.channel(), token)
    }

    pub fn head(&self) -> u64 {
        self.broker.reader().head().unwrap().seq.0
    }
}

/// Sends a caller token with each call.
#[derive(Clone)]
pub struct SignIn(pub Option<String>);

impl Interceptor for SignIn {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type Signed = InterceptedService<Channel, SignIn>;

/// All services for one caller.
#[derive(Clone)]
pub struct Clients {
    pub access: AccessServiceClient<Signed>,
    pub approvals: ApprovalServiceClient<Signed>,
    pub governance: GovernanceServiceClient<Signed>,
    pub revocations: RevocationServiceClient<Signed>,
    pub bundles: BundleServiceClient<Signed>,
    pub usage: UsageServiceClient<Signed>,
}

impl Clients {
    pub fn over(channel: Channel, token: Option<String>) -> Self {
        let signed = SignIn(token);
        Self {
            access: AccessServiceClient::with_interceptor(channel.clone(), signed.clone()),
            approvals: ApprovalServiceClient::with_interceptor(channel.clone(), signed.clone()),
            governance: GovernanceServiceClient::with_interceptor(channel.clone(), signed.clone()),
            revocations: RevocationServiceClient::with_interceptor(channel.clone(), signed.clone()),
            bundles: BundleServiceClient::with_interceptor(channel.clone(), signed.clone()),
            usage: UsageServiceClient::with_interceptor(channel, signed),
        }
    }

    /// Reads orders for an agent's task.
    pub async fn ask(&mut self, task: &str) -> Result<v1::RequestAccessResponse, Status> {
        self.access.request_access(ask(task)).await.map(tonic::Response::into_inner)
    }

    pub async fn complete(&mut self, task: &str) -> Result<v1::CompleteTaskResponse, Status> {
        let request =
            v1::CompleteTaskRequest { task_id: task.into(), ..v1::CompleteTaskRequest::default() };
        self.access.complete_task(request).await.map(tonic::Response::into_inner)
    }

    /// Revokes and answers the first message.
    pub async fn revoke(&mut self, by: v1::selector::By) -> Result<v1::RevokeResponse, Status> {
        let request = v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(by) }),
            note: "a test says so".into(),
            wait: None,
        };
        let mut answers = self.governance.revoke(request).await?.into_inner();
        Ok(answers.message().await?.expect("an answer"))
    }
}

/// A request that the repository's bundle grants to `payments/agent` at once.
pub fn ask(task: &str) -> v1::RequestAccessRequest {
    v1::RequestAccessRequest {
        task: Some(v1::Task { id: task.into(), kind: "agent".into(), url: String::new() }),
        resource: "orders-api".into(),
        scopes: vec!["orders:read".into()],
        purpose: "a test".into(),
        ..v1::RequestAccessRequest::default()
    }
}

/// A task id that no other test uses.
pub fn fresh_task() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("task-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The stable code of a status: every answer of ours has one.
#[track_caller]
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "protem");
    info.reason.clone()
}
/// The repository's bundle, but for its rates: how often a test may ask must not hang on how fast the machine is.
pub fn policies() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let wide = |name: &str, text: &[u8]| -> Arc<[u8]> {
        if name != "catalog.toml" {
            return text.into();
        }
        let lines = std::str::from_utf8(text).unwrap().lines();
        let wide = lines.map(|line| if line.starts_with("rate ") { WIDE_RATE } else { line });
        let text: Vec<_> = wide.collect();
        assert!(text.contains(&WIDE_RATE));
        (text.join("\n") + "\n").into_bytes().into()
    };
    read_folder(&folder)
        .unwrap()
        .iter()
        .map(|(name, text)| (name.clone(), wide(name, text)))
        .collect()
}

/// The rate of each tier in [`policies`].
pub const WIDE_RATE: &str = "rate = \"100000/s\"";

fn jwks(key: &SigningKey) -> String {
    let x = BASE64URL_NOPAD.encode(key.verifying_key().as_bytes());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "dev", "alg": "EdDSA"}]})
        .to_string()
}

fn sign(key: &SigningKey, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = json!({"alg": "EdDSA", "typ": "JWT", "kid": "dev"});
    let signed = format!("{}.{}", part(&head), part(claims));
    let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}
