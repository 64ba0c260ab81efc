//! `protem bench login`: what a first call with a fresh token costs, alone and while another issuer never answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::{Signer, SigningKey};
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_verify::codes::tool;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Request;

use crate::cli::args_operate::LoginArgs;
use crate::cli::bench::{Figures, Report, cpu_of, now_us};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;
use crate::cli::scene::Scene;
use crate::cli::token::{Login, broker_uri};

/// The broker starts within this, also on a machine that compiles at the same time.
const START: Duration = Duration::from_secs(30);

/// Two issuers with one key: one whose JWKS is a file, one that takes connections and never says a word.
struct Issuers {
    key: SigningKey,
    broker: String,
    silent: String,
}

/// `protem bench login`.
///
/// # Errors
/// When the broker does not start, or a login that must succeed fails.
pub async fn login(screen: &Screen, args: &LoginArgs) -> Result<Report, Failure> {
    let bad = |why: std::io::Error| Failure::of(Exit::Failed, tool::PORTS, why.to_string());
    let scene = Scene::new()?;
    let silent = TcpListener::bind("127.0.0.1:0").await.map_err(bad)?;
    let free = TcpListener::bind("127.0.0.1:0").await.map_err(bad)?;
    let broker = format!("http://{}", free.local_addr().map_err(bad)?);
    drop(free);
    let silent_url = format!("http://{}", silent.local_addr().map_err(bad)?);
    let mut silence = JoinSet::new();
    silence.spawn(keep_silent(silent));
    let key = SigningKey::from_bytes(&random::bytes());
    let issuers = Arc::new(Issuers { key, broker: broker.clone(), silent: silent_url });
    write(&scene, &issuers)?;
    let mut serve = scene.command(&["serve", "--config", "protem.toml"]);
    let mut child = serve.stderr(std::process::Stdio::null()).spawn().map_err(bad)?;
    let client = Client::new(broker_uri(&broker)?, Login::nobody());
    ready(&client, &issuers).await?;
    screen.say(format!("  {} callers log in with fresh tokens", args.callers));
    let alone = log_in("logging in, alone", &client, &issuers, args).await?;
    screen
        .say(format!("  the same while {} callers wait for an issuer that is silent", args.stuck));
    let stop = Arc::new(AtomicBool::new(false));
    let mut stuck = JoinSet::new();
    for _ in 0..args.stuck {
        stuck.spawn(wait_for_silence(client.clone(), Arc::clone(&issuers), Arc::clone(&stop)));
    }
    let before = cpu_of(child.id());
    let beside = log_in("logging in, another issuer silent", &client, &issuers, args).await?;
    let cpu = cpu_of(child.id()).zip(before).map(|(after, before)| after.saturating_sub(before));
    stop.store(true, Ordering::Relaxed);
    stuck.abort_all();
    let _ = child.kill().await;
    scene.clean()?;
    let ratio = beside.p99_ms / alone.p99_ms.max(1e-9);
    let ratios = vec![("p99 while another issuer is silent / alone".to_owned(), ratio)];
    let result = beside.cpu(cpu);
    Ok(Report { bench: "login", concurrency: args.callers, result, probes: vec![alone], ratios })
}

/// Takes every connection and never answers.
async fn keep_silent(listener: TcpListener) {
    let mut held = Vec::new();
    while let Ok((connection, _)) = listener.accept().await {
        held.push(connection);
    }
}

async fn ready(client: &Client, issuers: &Issuers) -> Result<(), Failure> {
    let until = now_us().saturating_add(u64::try_from(START.as_micros()).unwrap_or(u64::MAX));
    loop {
        match who_am_i(client, &issuers.token(WELL)).await {
            Ok(()) => return Ok(()),
            Err(status) if now_us() > until => return Err(client.failure(&status)),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Every caller logs in with one token after the other until time is up.
async fn log_in(
    name: &str,
    client: &Client,
    issuers: &Arc<Issuers>,
    args: &LoginArgs,
) -> Result<Figures, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut work, began) = (JoinSet::new(), now_us());
    for _ in 0..args.callers.max(1) {
        let (client, issuers, stop) = (client.clone(), Arc::clone(issuers), Arc::clone(&stop));
        work.spawn(async move {
            let (mut micros, mut failed) = (Vec::new(), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let token = issuers.token(WELL);
                let began = now_us();
                match who_am_i(&client, &token).await {
                    Ok(()) => micros.push(now_us().saturating_sub(began)),
                    Err(_) => failed = failed.saturating_add(1),
                }
            }
            (micros, failed)
        });
    }
    tokio::time::sleep(args.duration).await;
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut failures) = (Vec::new(), 0_u64);
    while let Some(Ok((micros, failed))) = work.join_next().await {
        all.extend(micros);
        failures = failures.saturating_add(failed);
    }
    if all.is_empty() {
        return Err(Failure::of(Exit::Failed, tool::STEP, "no login succeeded"));
    }
    Ok(Figures::of(name, all, failures, Duration::from_micros(now_us().saturating_sub(began))))
}

/// Brings tokens of the silent issuer, whose keys nobody can get.
async fn wait_for_silence(client: Client, issuers: Arc<Issuers>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        // Refused, sooner or later: how soon is for the others to see.
        let _ = who_am_i(&client, &issuers.token(&issuers.silent)).await;
    }
}

async fn who_am_i(client: &Client, token: &str) -> Result<(), tonic::Status> {
    let mut request = Request::new(v1::WhoAmIRequest {});
    let header = format!("Bearer {token}").parse();
    let header = header.map_err(|_| tonic::Status::internal("a token is plain characters"))?;
    request.metadata_mut().insert("authorization", header);
    client.access().who_am_i(request).await.map(drop)
}

impl Issuers {
    fn token(&self, issuer: &str) -> String {
        let now = SystemClock.unix().as_secs();
        let head = json!({"alg": "EdDSA", "typ": "JWT", "kid": KID});
        let claims = json!({
            "iss": issuer, "sub": "caller", "aud": self.broker, "iat": now,
            "exp": now.saturating_add(600), "jti": HEXLOWER.encode(&random::bytes::<16>()),
        });
        let part = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = BASE64URL_NOPAD.encode(&self.key.sign(signed.as_bytes()).to_bytes());
        format!("{signed}.{signature}")
    }

    fn jwks(&self) -> String {
        let x = BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": KID, "use": "sig"});
        json!({ "keys": [key] }).to_string()
    }
}

fn write(scene: &Scene, issuers: &Issuers) -> Result<(), Failure> {
    let put = |name: &str, text: &str| {
        let path = scene.path().join(name);
        std::fs::write(&path, text).map_err(|why| Failure::file(&path, &why))
    };
    let bundle = scene.path().join("policies");
    std::fs::create_dir(&bundle).map_err(|why| Failure::file(&bundle, &why))?;
    let listen = issuers.broker.trim_start_matches("http://");
    let at = |name: &str| format!("{:?}", scene.path().join(Path::new(name)));
    put(
        "protem.toml",
        &format!(
            "[broker]\nlisten = \"{listen}\"\nissuer = \"{}\"\npolicies = \"policies\"\nkeys = {}\n\
             [store]\npath = {}\nanchor = \"\"\n[fetch]\nallow_private = [\"127.0.0.0/8\"]\n",
            issuers.broker,
            at("keys"),
            at("store/journal.db"),
        ),
    )?;
    put("policies/well.jwks.json", &issuers.jwks())?;
    put("policies/catalog.toml", CATALOG)?;
    put("policies/people.toml", "[group.operators]\nclaims = { groups = \"operators\" }\n")?;
    put("policies/bench.cedar", POLICIES)?;
    let issuer = |name: &str, url: &str, jwks: &str| {
        format!(
            "[issuer.{name}]\npurpose = \"Measures\"\nurl = \"{url}\"\n{jwks}audience = \"{}\"\nfor = \"workloads\"\nowner = {OWNER}\n",
            issuers.broker
        )
    };
    let well = issuer("well", WELL, "jwks = \"file:well.jwks.json\"\n");
    put("policies/issuers.toml", &format!("{well}{}", issuer("silent", &issuers.silent, "")))?;
    let identity = |name: &str| {
        format!(
            "[identity.\"bench/{name}\"]\npurpose = \"Measures\"\nowner = {OWNER}\ntier = \"bench\"\nteam = \"bench\"\n\
             review_by = 2099-01-01\n[[identity.\"bench/{name}\".login]]\nissuer = \"{name}\"\nclaims = {{ sub = \"caller\" }}\n"
        )
    };
    put("policies/identities.toml", &format!("{}{}", identity("well"), identity("silent")))
}

const WELL: &str = "https://well.bench.example";
const KID: &str = "bench";
const OWNER: &str = r#"{ business = "group:operators", technical = "group:operators" }"#;

const CATALOG: &str = r#"[tier.bench]
max_lifetime     = "1h"
default_lifetime = "15m"
credential       = "5m"
max_staleness    = "10s"
active_max       = 10
rate             = "1000000/s"
pending_max      = 1
[class.read]
risk = "low"
max_lifetime = "1h"
[resource.orders-api]
audience = "https://orders.example"
purpose  = "Measures"
owner    = { business = "group:operators", technical = "group:operators" }
[resource.orders-api.scope."orders:read"]
purpose    = "Read orders"
class      = "read"
operations = ["GET /v1/orders"]
"#;

const POLICIES: &str = r#"@id("bench-reads")
permit (principal in Team::"bench", action == Action::"issue", resource in Resource::"orders-api");
@id("operators-administer")
permit (principal in Group::"operators", action == Action::"administer", resource == Broker::"protem");
"#;
