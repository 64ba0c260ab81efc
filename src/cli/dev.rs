//! `protem dev`: a broker for trying out, with its own issuer and the example orders API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use protem_verify::codes::{fault, tool};
use protem_verify::names::{GatewayName, ResourceName};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin};

use crate::cli::args::{Global, Output};
use crate::cli::args_operate::DevArgs;
use crate::cli::auth::dev_url;
use crate::cli::bundle;
use crate::cli::child::{asked_to_end, stdin_ends};
use crate::cli::client::settings;
use crate::cli::dev_key::{self, DevKey, Names};
use crate::cli::dev_log;
use crate::cli::exit::{Exit, Failure};
use crate::cli::orders::RESOURCE;
use crate::cli::output::{Screen, Tint};
use crate::cli::scene::Ready;
use crate::cli::serve::{self, Parts};
use crate::config::{Keys, Log, Span};
use crate::engine::broker::Broker;
use crate::policy::bundle::{Bundle, Files, Load};
use crate::policy::example::example;
use crate::serve::server::ServeSettings;

/// Runs until it is told to stop.
///
/// # Errors
/// When folder, bundle or ports cannot be used.
pub async fn dev(global: &Global, args: &DevArgs) -> Result<Exit, Failure> {
    let screen = Screen::new(global.output.unwrap_or(Output::Text));
    if !args.listen.ip().is_loopback() {
        let what =
            format!("`protem dev` trusts this machine's user and never listens on {}", args.listen);
        return Err(Failure::of(Exit::Usage, tool::LOOPBACK_ONLY, what));
    }
    // The example's issuers are no real ones: that their tokens are refused is no news here.
    serve::log(&Log { filter: "warn,protem::serve::caller=off".to_owned(), ..Log::default() })?;
    let webhooks = serve::webhooks(&settings(None)?)?;
    let listener = free(args.listen).await?;
    let at = listener.local_addr().map_err(|why| serve::unbound(args.listen, &why))?;
    let url = format!("http://{at}");
    private_data(&args.data)?;
    let (files, whence) = files(args)?;
    serve::check_bundle(Path::new(&whence), &files, true)?;
    let issuer = sticky_issuer(&args.data, &url)?;
    let broker = serve::start(Parts {
        store: args.data.join("journal.db"),
        keys: args.data.join("keys"),
        anchor: None,
        issuer: issuer.clone(),
        bundle: Arc::clone(&files),
        dev: true,
        region: String::new(),
        rotation: serve::schedule(&Keys {
            rotate_every: Span(args.rotate_every),
            jwks_wait: Span(args.jwks_wait),
        }),
    })?;
    renew_bundle(&broker, files).await?;
    let names = names(&broker.bundle(), issuer);
    let key = dev_key::make(at.port(), &names)?;
    let dev_jwks = Some(key.jwks());
    let settings = ServeSettings { dev_jwks, webhooks, ..ServeSettings::default() };
    let ended = ended(args.until_eof);
    let serving = tokio::spawn(serve::run(broker.clone(), settings, listener, ended));
    let orders = match args.no_orders {
        true => None,
        false => orders(args, at, &broker).await?,
    };
    let ready = Ready { broker: url, orders: orders.as_ref().map(|orders| orders.url.clone()) };
    if screen.json {
        screen.print(serde_json::to_string(&ready).unwrap_or_default());
    } else {
        banner(&screen, args, &ready, &whence, &key);
        tokio::spawn(dev_log::follow(screen, broker));
    }
    let ran = serving.await;
    dev_key::remove(at.port());
    drop(orders);
    ran.map_err(|why| Failure::of(Exit::Failed, tool::STEP, why.to_string()))?
}

async fn ended(until_eof: bool) {
    let eof = async {
        match until_eof {
            true => stdin_ends().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = eof => {}
        Ok(()) = asked_to_end() => {}
    }
}

/// How many ports above the wanted one are tried.
const PORTS: u16 = 50;

/// A listener on the wanted port, or the next free one.
async fn free(wanted: SocketAddr) -> Result<TcpListener, Failure> {
    let mut last = None;
    for more in 0..PORTS {
        let mut at = wanted;
        at.set_port(wanted.port().saturating_add(more));
        match TcpListener::bind(at).await {
            Ok(listener) => return Ok(listener),
            Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => last = Some(why),
            Err(why) => return Err(serve::unbound(at, &why)),
        }
    }
    let why = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(serve::unbound(wanted, &why))
}

/// The data folder, for its own user alone, and never for a repository.
fn private_data(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let bad = |why: std::io::Error| Failure::file(folder, &why);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(bad)?;
    std::fs::write(folder.join(".gitignore"), "*\n").map_err(bad)
}

/// A journal keeps the issuer that it began with, also when the port is another one today.
fn sticky_issuer(folder: &Path, url: &str) -> Result<String, Failure> {
    let path = folder.join("issuer");
    if let Ok(issuer) = std::fs::read_to_string(&path)
        && !issuer.trim().is_empty()
    {
        return Ok(issuer.trim().to_owned());
    }
    std::fs::write(&path, format!("{url}\n")).map_err(|why| Failure::file(&path, &why))?;
    Ok(url.to_owned())
}

fn files(args: &DevArgs) -> Result<(Files, String), Failure> {
    let here = Path::new("policies");
    let folder = args.policies.as_deref().or_else(|| here.is_dir().then_some(here));
    match folder {
        Some(folder) => Ok((bundle::files(folder)?, folder.display().to_string())),
        None => Ok((example(), "built-in example".to_owned())),
    }
}

/// Puts today's files in force where the journal began with others.
async fn renew_bundle(broker: &Broker, files: Files) -> Result<(), Failure> {
    if crate::policy::bundle::digest(&files) == broker.bundle().digest() {
        return Ok(());
    }
    let bundle = Bundle::load(files, Load::Activate, true)
        .map_err(|_| Failure::of(Exit::Failed, fault::BUNDLE, "the bundle has errors"))?;
    let system = protem_core::event::Actor("system".into());
    let applied = broker.apply_bundle(system, bundle, None).await;
    applied.map(drop).map_err(|_| {
        Failure::of(Exit::Failed, tool::STEP, "the bundle cannot be put in force")
            .helps("remove the data folder to start over")
    })
}

fn names(bundle: &Bundle, issuer: String) -> Names {
    Names {
        issuer,
        gateways: bundle.gateways().keys().map(ToString::to_string).collect(),
        people: bundle.people().persons.keys().map(ToString::to_string).collect(),
    }
}

/// The example orders API, a process of its own. It ends when we do: it reads our pipe.
struct Orders {
    url: String,
    _child: Child,
    _life: Option<ChildStdin>,
}

/// Starts it where the bundle has its resource and a gateway for that.
async fn orders(
    args: &DevArgs,
    at: SocketAddr,
    broker: &Broker,
) -> Result<Option<Orders>, Failure> {
    let Some(gateway) = gateway_of(&broker.bundle()) else { return Ok(None) };
    let mut wanted = at;
    wanted.set_port(at.port().saturating_add(10));
    // The port is found here and taken there; another process in between makes the child fail, and that is told.
    let found = free(wanted).await?;
    let listen = found.local_addr().map_err(|why| serve::unbound(wanted, &why))?;
    drop(found);
    let program =
        std::env::current_exe().map_err(|why| Failure::file(Path::new("protem"), &why))?;
    let mut command = tokio::process::Command::new(&program);
    command.args(["orders", "--broker", &format!("http://{at}"), "--as", gateway.as_str()]);
    command.args(["--listen", &listen.to_string(), "--gateway", gateway.as_str()]);
    command.args(["--issuer", broker.issuer()]).arg("--state").arg(args.data.join("gateway"));
    command.env_remove("PROTEM_TOKEN_FILE").env_remove("PROTEM_OUTPUT");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|why| Failure::file(&program, &why))?;
    let life = child.stdin.take();
    let url = format!("http://{listen}");
    ready(listen, &mut child).await?;
    Ok(Some(Orders { url, _child: child, _life: life }))
}

/// A gateway of the bundle that may stand before the orders API.
fn gateway_of(bundle: &Bundle) -> Option<GatewayName> {
    let resource = ResourceName::try_from(RESOURCE).ok()?;
    bundle.catalog().resources.contains_key(&resource).then_some(())?;
    let mut gateways = bundle.gateways().iter();
    gateways
        .find(|(_, gateway)| gateway.resources.contains(&resource))
        .map(|(name, _)| name.clone())
}

/// Waits until the API has a proven view: before that it refuses everything.
async fn ready(listen: SocketAddr, child: &mut Child) -> Result<(), Failure> {
    let failed = || Failure::of(Exit::Failed, tool::STEP, "the example orders API did not start");
    for _ in 0..400 {
        if child.try_wait().ok().flatten().is_some() {
            return Err(failed());
        }
        let health = crate::cli::http::call(listen, "GET", "/healthz", None).await;
        if health.is_ok_and(|reply| reply.body.contains("FRESH")) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    Err(failed())
}

fn banner(screen: &Screen, args: &DevArgs, ready: &Ready, whence: &str, key: &DevKey) {
    let version = env!("CARGO_PKG_VERSION");
    let head = screen.tint(Tint::Bold, &format!("protem {version}"));
    let data = args.data.display().to_string();
    screen.say(format!(
        "{head}  development broker: loopback only, no TLS, own issuer. Not for production.\n"
    ));
    let line =
        |name: &str, value: &str, more: &str| screen.say(format!("  {name:<13}{value:<25}{more}"));
    line("API and web", &ready.broker, "gRPC (reflection on), approvals at /ui/");
    if let Some(orders) = &ready.orders {
        line("Orders API", orders, "behind a protem gateway, to try credentials on");
    }
    line("Data", &data, "embedded SQLite; remove it to start over");
    let builtin = whence == "built-in example";
    let more = if builtin { "orders:read at once, orders:refund after one approval" } else { "" };
    line("Bundle", whence, more);
    if !builtin {
        return screen.say("\nTry, in another terminal:\n  protem grants --as you:operators");
    }
    let broker = match ready.broker.ends_with(&format!(":{}", crate::config::PORT)) {
        true => String::new(),
        false => format!(" --broker {}", ready.broker),
    };
    screen.say("\nTry, in another terminal:");
    screen.say(format!(
        "  protem run{broker} --as payments/agent --on orders-api --scope orders:refund --purpose \"INC-42\" \
         -- sh -c 'echo working; sleep 5'"
    ));
    screen.say("It waits until somebody approves it, in a third:");
    screen.say(format!("  protem approve{broker} --as alice:shop-oncall"));
    screen.say("or in a browser, where this address signs alice in once, within 5 minutes:");
    screen.say(format!("  {}", dev_url(&ready.broker, key, "alice:shop-oncall", "/ui/")));
    screen.say(format!("(a fresh one: protem auth web{broker} --as alice:shop-oncall)\n"));
    let api = ready.orders.as_deref().unwrap_or("http://127.0.0.1:7430");
    screen.say(
        "What needs no approval begins at once, and ends with its command or when you say so:",
    );
    screen.say(format!(
        "  protem run{broker} --as payments/agent --kind agent --on orders-api --scope orders:read \\\n    \
         -- sh -c 'curl -s {api}/v1/orders -H \"Authorization: Bearer $(cat $PROTEM_CREDENTIAL_FILE)\"; sleep 20'"
    ));
    screen.say(format!("  protem grants{broker} --as olga:operators"));
    screen.say(format!("  protem revoke{broker} --as olga:operators --identity payments/agent --note 'trying it out'\n"));
}
