//! `protem auth`: sign in, sign out, and see who the broker takes one for.

use protem_proto::wire::v1;
use protem_verify::codes::tool;

use crate::cli::args::{AuthCommand, Global};
use crate::cli::browse::browse;
use crate::cli::client::{Client, broker, screen};
use crate::cli::dev_key::{self, DevKey};
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::keeper::Keeper;
use crate::cli::loopback::Loopback;
use crate::cli::oidc::exchange;
use crate::cli::output::{Screen, Tint};
use crate::cli::token::{Login, base};
use crate::cli::welcome::Welcome;
use crate::cli::{find, show};
use crate::serve::oidc::{Attempt, Provider};

/// Does what is asked about the own login.
///
/// # Errors
/// When nothing says who the caller is, the sign-in fails, or the broker does not take it.
pub async fn auth(global: &Global, command: &AuthCommand) -> Result<Exit, Failure> {
    match command {
        AuthCommand::Login { issuer } => login(global, issuer.as_deref()).await,
        AuthCommand::Web { request } => web(global, request.as_deref()).await,
        AuthCommand::Logout => logout(global).await,
        AuthCommand::Token => token(global).await,
        AuthCommand::Status => {
            let (client, screen) = Client::open(global)?;
            status(&client, &screen).await
        }
    }
}

async fn login(global: &Global, named: Option<&str>) -> Result<Exit, Failure> {
    let (uri, web) = broker(global)?;
    let issuer = Welcome::of(&uri, &web).await?.issuer(named)?;
    let provider = Provider::discover(&web, &issuer.issuer).await?;
    let (loopback, screen) = (Loopback::listen().await?, screen(global)?);
    let attempt = Attempt::new(loopback.redirect());
    let url = attempt.url(&provider, &issuer);
    screen.say(format!(
        "Sign in to {uri} at {} ({}), as its client `{}`:\n\n  {}\n",
        visible(&issuer.name),
        visible(&issuer.issuer),
        visible(&issuer.client_id),
        visible(&url)
    ));
    let opened = browse(&url);
    if opened.is_some() {
        screen.say(screen.tint(Tint::Dim, "  your browser opens it; if not, open it yourself"));
    }
    let code = loopback.code(&provider, &attempt).await?;
    drop(opened);
    let tokens = exchange(&provider, &web, &issuer.client_id, &attempt, &code).await?;
    let keeper = Keeper::of(&uri, web.clone());
    keeper.keep(&uri, &issuer, &tokens)?;
    if tokens.refresh_token.is_none() {
        let short = "  the issuer gave nothing to renew it with: sign in again when it has expired";
        screen.say(screen.tint(Tint::Dim, short));
    }
    let client = Client::open(global)?.0.as_another(Login::kept(keeper));
    status(&client, &screen).await
}

async fn web(global: &Global, request: Option<&str>) -> Result<Exit, Failure> {
    let (uri, _) = broker(global)?;
    let screen = screen(global)?;
    let way = match request {
        None => "/ui/".to_owned(),
        Some(text) => {
            let (client, _) = Client::open(global)?;
            format!("/ui/requests/{}", find::grant(&client, text).await?)
        }
    };
    let url = match &global.act_as {
        None => format!("{}{way}", base(&uri)),
        Some(name) => {
            let key = dev_key::read(&dev_key::state(), uri.port_u16().unwrap_or(80))?;
            if !key.is_person(name) {
                let what = format!("the page is for people, and `{name}` is none");
                return Err(Failure::of(Exit::Usage, tool::USAGE, what)
                    .helps("say a name and its groups, as in `--as alice:shop-oncall`"));
            }
            dev_url(&base(&uri), &key, name, &way)
        }
    };
    screen.print(&url);
    if global.act_as.is_some() {
        screen.say(screen.tint(Tint::Dim, "  it signs in once, within 5 minutes"));
    }
    if let Some(opened) = browse(&url) {
        screen.say(screen.tint(Tint::Dim, "  your browser opens it; if not, open it yourself"));
        opened.left();
    }
    Ok(Exit::Done)
}

/// An address at which a development broker signs somebody in, once.
#[must_use]
pub fn dev_url(broker: &str, key: &DevKey, name: &str, way: &str) -> String {
    let to = if way == "/ui/" { String::new() } else { format!("to={way}&") };
    format!("{broker}/ui/sign-in?{to}ticket={}", key.ticket(name).as_str())
}

async fn logout(global: &Global) -> Result<Exit, Failure> {
    let (uri, web) = broker(global)?;
    let screen = screen(global)?;
    let was = Keeper::of(&uri, web).forget().await?;
    screen.say(if was { "signed out" } else { "nobody was signed in" });
    Ok(Exit::Done)
}

async fn token(global: &Global) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let Some(token) = client.login().token().await? else {
        let what = "there is no token to show";
        return Err(Failure::of(Exit::NotAuthenticated, tool::NO_LOGIN, what));
    };
    screen.print(token.as_str());
    Ok(Exit::Done)
}

async fn status(client: &Client, screen: &Screen) -> Result<Exit, Failure> {
    // What is presented is known by name only once it is there; why it is not, the call below says.
    let _ = client.login().token().await;
    let source = visible(&client.login().source());
    let by = if client.login().is_somebody() { "by " } else { "" };
    screen.say(screen.tint(Tint::Dim, &format!("  {by}{source}")));
    let answer = client.access().who_am_i(v1::WhoAmIRequest {}).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("WhoAmIResponse", &answer, false)?;
    } else {
        screen.print(who(&answer));
    }
    Ok(if answer.why_not.is_empty() { Exit::Done } else { Exit::NotAuthenticated })
}

fn who(answer: &v1::WhoAmIResponse) -> String {
    let lines = [
        ("subject", answer.subject.clone()),
        ("issuer", answer.issuer.clone()),
        ("identity", answer.identity.clone()),
        ("person", answer.person.clone()),
        ("groups", answer.groups.join(", ")),
        ("gateway", answer.gateway.clone()),
        ("login", answer.login.clone()),
        ("no match", answer.why_not.clone()),
        ("audience", answer.audience.join(", ")),
        ("expires", answer.expires.as_ref().map_or_else(String::new, |at| show::at(Some(at)))),
    ];
    let lines = lines.into_iter().filter(|(_, text)| !text.is_empty());
    let mut lines: Vec<String> =
        lines.map(|(name, text)| format!("{name:<10}{}", visible(&text))).collect();
    let mut claims: Vec<_> = answer.claims.iter().collect();
    claims.sort();
    if !claims.is_empty() {
        lines.push("claims".to_owned());
    }
    lines.extend(
        claims.iter().map(|(name, text)| format!("  {} = {}", visible(name), visible(text))),
    );
    lines.join("\n")
}
