//! `protem gate`: a gateway beside a proxy, by its settings file, or at once against a development broker.

use std::path::Path;
use std::sync::Arc;

use protem_gate::connect::TlsFiles;
use protem_gate::forward::Proxy;
use protem_gate::login::Login as GateLogin;
use protem_gate::rate::RATE;
use protem_gate::settings::{
    BrokerSettings, LogFormat, LogLevel, LogSettings, SOCKET_MODE, Settings,
};
use protem_gate::sidecar::{CannotStart, Sidecar, missing};
use protem_verify::codes::tool;
use protem_verify::names::GatewayName;
use serde_json::json;

use crate::cli::args::{Global, Output};
use crate::cli::args_gate::GateArgs;
use crate::cli::child::asked_to_end;
use crate::cli::client::Client;
use crate::cli::dev_key;
use crate::cli::exit::{Exit, Failure};
use crate::cli::gateway::Signer;
use crate::cli::output::{Screen, Tint};
use crate::cli::serve;
use crate::config::{Format, Log};

/// Runs until it is told to end.
///
/// # Errors
/// When settings, places or folders cannot be used.
pub async fn gate(global: &Global, args: &GateArgs) -> Result<Exit, Failure> {
    let Some(file) = &args.config else { return against_dev(global, args).await };
    if global.act_as.is_some() {
        let what = "`--as` is for development brokers, and `--config` says who the gateway is";
        return Err(Failure::of(Exit::Usage, tool::USAGE, what));
    }
    let screen = Screen::new(global.output.unwrap_or(Output::Text));
    let settings = Settings::read(file)
        .map_err(|why| Failure::of(Exit::Failed, tool::SETTINGS, why.to_string()).helps(SAMPLE))?;
    if args.check_config {
        let missing = if args.no_files { Vec::new() } else { missing(&settings) };
        return checked(&screen, file, &missing);
    }
    log(settings.log)?;
    let sidecar = Sidecar::start(settings, None).await.map_err(unstarted)?;
    ready(&screen, &sidecar);
    sidecar.serve(ended()).await;
    Ok(Exit::Done)
}

/// Where somebody looks whose settings are refused.
const SAMPLE: &str = "compare with examples/gate.toml, which has every key";

fn checked(screen: &Screen, file: &Path, missing: &[String]) -> Result<Exit, Failure> {
    if missing.is_empty() {
        screen.say(format!("{}: ok", file.display()));
        return Ok(Exit::Done);
    }
    let what = format!("`{}` names what cannot be used", file.display());
    Err(Failure::of(Exit::Failed, tool::SETTINGS, what).because(missing.join("; ")))
}

/// With the key that a development broker trusts, so that nothing has to be written first.
async fn against_dev(global: &Global, args: &GateArgs) -> Result<Exit, Failure> {
    let usage = |what: String| Failure::of(Exit::Usage, tool::USAGE, what);
    let Some(name) = &global.act_as else {
        let what =
            "`protem gate` needs `--config gate.toml`, or `--as GATEWAY` against `protem dev`";
        return Err(usage(what.to_owned()));
    };
    let (client, screen) = Client::open(global)?;
    let port = client.uri().port_u16().unwrap_or(80);
    let key = dev_key::read(&dev_key::state(), port)?;
    let names = key.names();
    if !names.gateways.contains(name) {
        let known = names.gateways.join("`, `");
        return Err(usage(format!("`{name}` is no gateway of the bundle; it has `{known}`")));
    }
    let state = dev_key::state().join("protem/gate").join(format!("{port}-{name}"));
    log(LogSettings { level: LogLevel::Warn, ..LogSettings::default() })?;
    let settings = Settings {
        name: GatewayName::try_from(name.as_str()).map_err(|why| usage(why.to_string()))?,
        proxy: Some(proxy(&args.proxy)),
        listen: args.listen.clone(),
        socket_mode: SOCKET_MODE,
        state: args.state.clone().unwrap_or(state),
        rate: Some(RATE),
        metrics: args.metrics,
        resources: Vec::new(),
        brokers: vec![BrokerSettings {
            url: client.uri().to_string(),
            issuer: names.issuer.clone(),
            tls: TlsFiles::default(),
            token_file: None,
            resources: None,
        }],
        secrets: Default::default(),
        log: LogSettings::default(),
    };
    let login: Arc<dyn GateLogin> = Arc::new(Signer(client.login().clone()));
    let sidecar = Sidecar::start(settings, Some(login)).await.map_err(unstarted)?;
    ready(&screen, &sidecar);
    if !screen.json {
        try_it(&screen, &sidecar, &args.proxy);
    }
    sidecar.serve(ended()).await;
    Ok(Exit::Done)
}

async fn ended() {
    // Where no signal can be heard, it ends as the process does.
    if asked_to_end().await.is_err() {
        std::future::pending().await
    }
}

fn proxy(name: &str) -> Proxy {
    match name {
        "caddy" => Proxy::Caddy,
        "traefik" => Proxy::Traefik,
        "haproxy" => Proxy::Haproxy,
        _ => Proxy::Nginx,
    }
}

fn unstarted(why: CannotStart) -> Failure {
    let code = match &why {
        CannotStart::Broker { .. } => tool::SETTINGS,
        CannotStart::Listen { .. } => tool::PORTS,
        CannotStart::Memory(_) => tool::STEP,
    };
    Failure::of(Exit::Failed, code, why.to_string())
}

fn log(settings: LogSettings) -> Result<(), Failure> {
    let format = match settings.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let filter = match settings.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    serve::log(&Log { format, filter: filter.to_owned() })
}

fn ready(screen: &Screen, sidecar: &Sidecar) {
    let place = sidecar.place().map(|place| place.to_string()).unwrap_or_default();
    if screen.json {
        let ready =
            json!({ "listen": place, "metrics": sidecar.private().map(|at| at.to_string()) });
        return screen.print(ready.to_string());
    }
    let version = env!("CARGO_PKG_VERSION");
    let head = screen.tint(Tint::Bold, &format!("protem gate {version}"));
    screen.say(format!("{head}  answers its proxy on {place}"));
}

fn try_it(screen: &Screen, sidecar: &Sidecar, proxy: &str) {
    let Some(place) = sidecar.place().map(|place| place.to_string()) else { return };
    let (method, uri) = match proxy {
        "nginx" => ("X-Original-Method", "X-Original-URI"),
        _ => ("X-Forwarded-Method", "X-Forwarded-Uri"),
    };
    let at = match place.strip_prefix("unix:") {
        Some(path) => format!("--unix-socket {path} http://gate"),
        None => format!("http://{place}"),
    };
    screen.say(format!("\n  {proxy} asks at /authz/RESOURCE"));
    screen.say("  Envoy asks by ext_authz, with `context_extensions: {resource: RESOURCE}`");
    screen.say("  configurations for both are in examples/\n");
    screen.say(format!("Try what {proxy} would ask, with $TOKEN from `protem request`:"));
    screen.say(format!(
        "  curl -i {at}/authz/orders-api -H '{method}: GET' -H '{uri}: /v1/orders' -H \"Authorization: Bearer $TOKEN\"\n"
    ));
}
