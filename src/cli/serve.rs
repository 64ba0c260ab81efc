//! The one place where everything is put together: settings, journal, bundle, broker, listener, signals.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protem_clock::clock::SystemClock;
use protem_gate::connect;
use protem_private::memory::keep_to_itself;
use protem_verify::codes::{fault, tool};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::args_operate::ServeArgs;
use crate::cli::bundle;
use crate::cli::child::asked_to_end;
use crate::cli::client::settings;
use crate::cli::exit::{Exit, Failure};
use crate::cli::transport;
use crate::config::{Format, Keys, Log, Settings};
use crate::engine::broker::{Broker, Start};
use crate::engine::lane::LaneLimits;
use crate::engine::loading::Loading;
use crate::engine::plan::Schedule;
use crate::engine::stop::StartError;
use crate::journal::sqlite::SqliteJournal;
use crate::policy::bundle::{Bundle, Files, Load};
use crate::policy::finding::Finding;
use crate::serve::issuers::Reach;
use crate::serve::server::{Drain, ServeSettings, serve as serve_on};
use crate::serve::webhook::Webhooks;

/// What a broker is made of.
#[derive(Debug)]
pub struct Parts {
    /// The journal's file.
    pub store: PathBuf,
    /// The folder of its keys.
    pub keys: PathBuf,
    /// Where the newest checkpoint is kept outside the store.
    pub anchor: Option<PathBuf>,
    /// The `iss` of its credentials.
    pub issuer: String,
    /// An empty journal's first bundle.
    pub bundle: Files,
    /// Whether it is `protem dev`.
    pub dev: bool,
    /// This region's name.
    pub region: String,
    /// How long signing keys live.
    pub rotation: Schedule,
}

/// `protem serve`.
///
/// # Errors
/// When settings, bundle, store or address cannot be used.
pub async fn serve(args: &ServeArgs) -> Result<Exit, Failure> {
    let settings = settings(args.config.as_deref())?;
    let listen = settings.broker.listen;
    let files = transport::files(&settings)?;
    let webhooks = webhooks(&settings)?;
    let parts = parts(&settings)?;
    filter(&settings.log)?;
    check_bundle(&settings.broker.policies, &parts.bundle, false)?;
    if args.check_config {
        eprintln!("settings and bundle are good");
        return Ok(Exit::Done);
    }
    log(&settings.log)?;
    let listener = TcpListener::bind(listen).await.map_err(|why| unbound(listen, &why))?;
    let private = match settings.broker.probes {
        Some(at) => Some(TcpListener::bind(at).await.map_err(|why| unbound(at, &why))?),
        None => None,
    };
    let (broker, loading) = opened(parts)?;
    tracing::info!(%listen, issuer = broker.issuer(), "serving");
    let (tell, told) = oneshot::channel();
    let ended = ended(loading, tell);
    let (drain, page) = (Drain(settings.broker.drain.0), settings.broker.page);
    let audiences = settings.spiffe.into_iter().map(|(domain, of)| (domain, of.audience));
    let svid_audiences = audiences.filter(|(_, audience)| !audience.is_empty()).collect();
    let reach = Reach { fetch: settings.fetch, issuers: settings.issuer, svid_audiences };
    let settings =
        ServeSettings { private, drain, reach, files, webhooks, page, ..ServeSettings::default() };
    let done = run(broker, settings, listener, ended).await;
    tracing::info!("ended");
    told.await.map_or(done, |why| Err(unfit(&why)))
}

/// Until somebody asks for the end, or there is nothing to serve: what cannot be loaded is told.
async fn ended(loading: Loading, tell: oneshot::Sender<StartError>) {
    let asked = async {
        // Without signals it is ended some other way.
        if asked_to_end().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let failed = async {
        match tokio::task::spawn_blocking(move || loading.wait()).await {
            Ok(Err(why)) => why,
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = asked => tracing::info!("asked to end: what has begun is finished"),
        why = failed => drop(tell.send(why)),
    }
}

/// Serves until `ended`, then lets everybody finish.
///
/// # Errors
/// When the listener cannot be used.
pub async fn run(
    broker: Broker,
    settings: ServeSettings,
    listener: TcpListener,
    ended: impl Future<Output = ()> + Send,
) -> Result<Exit, Failure> {
    let served = serve_on(broker.clone(), settings, listener, ended).await;
    broker.stop().await;
    let bad = |why: std::io::Error| Failure::of(Exit::Failed, tool::STEP, why.to_string());
    served.map(|()| Exit::Done).map_err(bad)
}

/// The webhooks of the settings.
///
/// # Errors
/// When one of them cannot be used.
pub fn webhooks(settings: &Settings) -> Result<Webhooks, Failure> {
    let made = Webhooks::new(&settings.webhook, &settings.fetch);
    made.map_err(|why| Failure::of(Exit::Usage, tool::SETTINGS, why))
}

fn parts(settings: &Settings) -> Result<Parts, Failure> {
    let broker = &settings.broker;
    let issuer = match broker.issuer.as_str() {
        "" if settings.tls.cert.as_os_str().is_empty() => format!("http://{}", broker.listen),
        "" if broker.listen.ip().is_unspecified() => {
            let what = "`broker.issuer` is empty, and `broker.listen` is no address to find it at";
            return Err(Failure::of(Exit::Usage, tool::SETTINGS, what));
        }
        "" => format!("https://{}", broker.listen),
        issuer => issuer_url(issuer.trim_end_matches('/'))?.to_owned(),
    };
    Ok(Parts {
        store: settings.store.path.clone(),
        keys: broker.keys.clone(),
        anchor: Some(settings.store.anchor.clone()).filter(|path| !path.as_os_str().is_empty()),
        issuer,
        bundle: bundle::files(&broker.policies)?,
        dev: false,
        region: broker.region.clone(),
        rotation: schedule(&settings.keys),
    })
}

/// An issuer is where verifiers find the key set (RFC 8414 §2), and a journal keeps its first for ever.
fn issuer_url(issuer: &str) -> Result<&str, Failure> {
    let url: Option<http::Uri> = issuer.parse().ok();
    let good = url.is_some_and(|url| connect::check(&url).is_ok() && url.query().is_none());
    good.then_some(issuer).ok_or_else(|| {
        let what = format!(
            "`broker.issuer` is `{issuer}`, which is no https URL (plain http is for this machine)"
        );
        Failure::of(Exit::Usage, tool::SETTINGS, what)
            .helps("write the address that callers and gateways use, `https://protem.example:7420`")
    })
}

/// How long keys live, as the settings say it.
#[must_use]
pub fn schedule(keys: &Keys) -> Schedule {
    let every = keys.rotate_every.0;
    Schedule { rotate_every: (!every.is_zero()).then_some(every), jwks_wait: keys.jwks_wait.0 }
}

/// Refuses a bundle that no broker starts with.
///
/// # Errors
/// All that is wrong with it.
pub fn check_bundle(folder: &Path, files: &Files, dev: bool) -> Result<(), Failure> {
    let refused = Bundle::load(Arc::clone(files), Load::Activate, dev).map(drop);
    refused.map_err(|findings| bad_bundle(folder, &findings))
}

fn bad_bundle(folder: &Path, findings: &[Finding]) -> Failure {
    let lines = findings.iter().map(|one| bundle::in_folder(folder, &one.to_string()));
    let lines: Vec<String> = lines.collect();
    Failure::of(Exit::Failed, fault::BUNDLE, "the bundle has errors")
        .because(lines.join("\n        "))
}

/// Opens the store and starts the broker on it. What blocks is over when it returns: nothing else runs yet.
///
/// # Errors
/// When the store, its keys or the bundle cannot be used.
pub fn start(parts: Parts) -> Result<Broker, Failure> {
    let (broker, loading) = opened(parts)?;
    loading.wait().map_err(|why| unfit(&why))?;
    Ok(broker)
}

fn unfit(why: &StartError) -> Failure {
    Failure::of(Exit::Failed, why.code(), why.to_string())
}

/// Opens the store: gateways can follow the broker, and its state is on its way.
fn opened(parts: Parts) -> Result<(Broker, Loading), Failure> {
    keep_to_itself().map_err(|why| {
        let what = format!("the process cannot be kept from dumping its memory: {why}");
        Failure::of(Exit::Failed, tool::STEP, what)
    })?;
    private_folder(parts.store.parent())?;
    private_folder(Some(&parts.keys))?;
    let (journal, reader) = SqliteJournal::open(&parts.store).map_err(|why| unfit(&why.into()))?;
    let start = Start {
        journal: Box::new(journal),
        reader,
        clock: Arc::new(SystemClock),
        issuer: parts.issuer,
        dev: parts.dev,
        bundle: parts.bundle,
        keys: parts.keys,
        anchor: parts.anchor,
        region: parts.region,
        rotation: parts.rotation,
        limits: LaneLimits::default(),
    };
    Broker::open(start).map_err(|why| unfit(&why))
}

/// Makes a folder that only its own user can enter; one that is there stays as it is.
fn private_folder(path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty() && !path.exists()) else {
        return Ok(());
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|why| Failure::file(path, &why))
}

/// An address that cannot be listened on.
#[must_use]
pub fn unbound(at: SocketAddr, why: &std::io::Error) -> Failure {
    Failure::of(Exit::Failed, tool::PORTS, format!("cannot listen on {at}: {why}"))
}

/// Begins to log, on stderr.
///
/// # Errors
/// When the filter cannot be read.
pub fn log(settings: &Log) -> Result<(), Failure> {
    let to =
        tracing_subscriber::fmt().with_env_filter(filter(settings)?).with_writer(std::io::stderr);
    let set = match settings.format {
        Format::Json => to.json().try_init(),
        Format::Text => {
            to.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
        }
    };
    set.map_err(|why| Failure::of(Exit::Failed, tool::SETTINGS, why.to_string()))
}

/// The filter of the settings. One word that is no level would name a part of the program, and silence all of it.
fn filter(settings: &Log) -> Result<EnvFilter, Failure> {
    let bad = |why: String| {
        Failure::of(Exit::Usage, tool::SETTINGS, format!("`log.filter`: {why}"))
            .helps("write `error`, `warn`, `info` or `debug`, or one of them for a part: `info,protem::engine=debug`")
    };
    let words = settings.filter.split(',').map(str::trim);
    for word in words.filter(|word| !word.contains(['=', '[', ':'])) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(bad(format!("`{word}` is no level")));
        }
    }
    EnvFilter::try_new(&settings.filter).map_err(|why| bad(why.to_string()))
}
