//! `protem orders`: the example API as a process of its own, with the gateway library in front, as `dev` starts it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use protem_clock::clock::SystemClock;
use protem_gate::gate::{Gate, GateConfig};
use protem_gate::login::{CallerToken, Login as GateLogin, LoginFailed};
use protem_verify::codes::tool;
use protem_verify::names::{GatewayName, Malformed, ResourceName};
use tokio::net::TcpListener;

use crate::cli::args::{Global, OrdersArgs};
use crate::cli::child::{asked_to_end, stdin_ends};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::orders::{RESOURCE, serve_orders};
use crate::cli::serve::unbound;
use crate::cli::token::Login;

/// Serves until it is told to end, or who started it has gone.
///
/// # Errors
/// When the gateway or the listener cannot be started.
pub async fn orders(global: &Global, args: &OrdersArgs) -> Result<Exit, Failure> {
    let (client, _) = Client::open(global)?;
    let name = |bad: Malformed| Failure::of(Exit::Usage, tool::USAGE, bad.to_string());
    let login = client.login().clone();
    let login: Option<Arc<dyn GateLogin>> =
        if login.is_certificate() { None } else { Some(Arc::new(Signer(login))) };
    let config = GateConfig {
        broker: client.uri().to_string(),
        gateway: GatewayName::try_from(args.gateway.as_str()).map_err(name)?,
        issuer: args.issuer.clone(),
        resources: vec![ResourceName::try_from(RESOURCE).map_err(name)?],
        state: args.state.clone(),
        login,
        tls: client.tls().clone(),
        clock: Arc::new(SystemClock),
    };
    let failed = |why: String| Failure::of(Exit::Failed, tool::STEP, why);
    let gate = Gate::start(config).map_err(|why| failed(why.to_string()))?;
    let listener =
        TcpListener::bind(args.listen).await.map_err(|why| unbound(args.listen, &why))?;
    let ended = async {
        tokio::select! {
            () = stdin_ends() => {}
            Ok(()) = asked_to_end() => {}
        }
    };
    serve_orders(gate, listener, ended).await.map_err(|why| failed(why.to_string()))?;
    Ok(Exit::Done)
}

/// Signs in as the command line does.
pub(super) struct Signer(pub(super) Login);

impl GateLogin for Signer {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        Box::pin(async {
            match self.0.token().await {
                Ok(Some(token)) => Ok(CallerToken::new(token.as_str().to_owned())),
                Ok(None) => Err(LoginFailed("nothing says who it is".to_owned())),
                Err(why) => Err(LoginFailed(why.what)),
            }
        })
    }
}
