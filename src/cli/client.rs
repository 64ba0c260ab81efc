//! Talking to a broker: one channel, the caller's token on each call, and answers that people can act on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use protem_gate::connect::{Dial, TlsFiles, is_loopback};
use protem_proto::wire::v1::access_service_client::AccessServiceClient;
use protem_proto::wire::v1::approval_service_client::ApprovalServiceClient;
use protem_proto::wire::v1::bundle_service_client::BundleServiceClient;
use protem_proto::wire::v1::governance_service_client::GovernanceServiceClient;
use protem_proto::wire::v1::revocation_service_client::RevocationServiceClient;
use protem_verify::codes::tool;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cli::args::{Global, Output};
use crate::cli::dev_key;
use crate::cli::exit::{Exit, Failure};
use crate::cli::keeper::Keeper;
use crate::cli::line::Line;
use crate::cli::output::Screen;
use crate::cli::refused::explain;
use crate::cli::task_id::process_env;
use crate::cli::token::{Login, base, broker_uri};
use crate::cli::ways::{Agent, From, Given};
use crate::config::{self, Settings};
use crate::fetch::web::Web;

/// A broker to talk to, as one caller.
#[derive(Clone, Debug)]
pub struct Client {
    uri: Uri,
    channel: Channel,
    login: Login,
    tls: TlsFiles,
    /// Where a call that takes long is told of.
    told: Option<Screen>,
}

/// How long to wait for a connection: longer than a slow network, shorter than patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer: a bundle may have 16 MiB, and a page of grants some.
const ANSWER_MAX: usize = 32 << 20;

impl Client {
    /// As flags, environment and settings say.
    ///
    /// # Errors
    /// When the address or login cannot be used.
    pub fn open(global: &Global) -> Result<(Self, Screen), Failure> {
        let settings = settings(None)?;
        warn_of_checkout(global, &settings);
        let output = global.output.unwrap_or(settings.client.output.into());
        let uri = broker_uri(global.broker.as_ref().unwrap_or(&settings.client.broker))?;
        let web = web(global, &settings);
        let signed_in = Keeper::of(&uri, web.clone()).holds();
        let given = Given { signed_in, ..given(global, &settings)? };
        // A certificate is shown also beside a token, which then says who calls.
        let identity = given.cert.as_ref().map(|(files, _)| files.clone());
        let tls = TlsFiles { ca: ca(global, &settings), identity };
        let login = Login::by(given.way()?, &uri, global.audience.clone(), web)?;
        let screen = Screen::new(output);
        let told = Some(screen).filter(|screen| screen.live);
        Ok((Self { told, ..Self::over(uri, login, tls) }, screen))
    }

    /// The same, which keeps silent however long a call takes: for who calls beside a command that has the terminal.
    #[must_use]
    pub fn silent(&self) -> Self {
        Self { told: None, ..self.clone() }
    }

    /// To one broker, as one caller, trusting the system's CAs. Connects with the first call.
    #[must_use]
    pub fn new(uri: Uri, login: Login) -> Self {
        Self::over(uri, login, TlsFiles::default())
    }

    /// The same, with the files that say whom to believe and what to show.
    #[must_use]
    pub fn over(uri: Uri, login: Login, tls: TlsFiles) -> Self {
        let dial = login.dial(Dial::new(uri.clone(), tls.clone(), CONNECT_TIMEOUT));
        Self { uri, channel: dial.connect_lazy(), login, tls, told: None }
    }

    /// Whom it believes, and what it shows.
    #[must_use]
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// The same connection for another caller.
    #[must_use]
    pub fn as_another(&self, login: Login) -> Self {
        Self { login, ..self.clone() }
    }

    /// The broker's address.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Who calls.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.login
    }

    fn line(&self) -> Line {
        let told = self.told.map(|screen| (screen, base(&self.uri).into()));
        Line::new(self.channel.clone(), self.login.clone(), told)
    }

    /// What workloads call.
    #[must_use]
    pub fn access(&self) -> AccessServiceClient<Line> {
        AccessServiceClient::new(self.line())
    }

    /// What approvers and reviewers call.
    #[must_use]
    pub fn approvals(&self) -> ApprovalServiceClient<Line> {
        ApprovalServiceClient::new(self.line()).max_decoding_message_size(ANSWER_MAX)
    }

    /// What operators call.
    #[must_use]
    pub fn governance(&self) -> GovernanceServiceClient<Line> {
        GovernanceServiceClient::new(self.line()).max_decoding_message_size(ANSWER_MAX)
    }

    /// The feed.
    #[must_use]
    pub fn feed(&self) -> RevocationServiceClient<Line> {
        RevocationServiceClient::new(self.line()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Bundles.
    #[must_use]
    pub fn bundles(&self) -> BundleServiceClient<Line> {
        BundleServiceClient::new(self.line())
            .max_decoding_message_size(ANSWER_MAX)
            .max_encoding_message_size(ANSWER_MAX)
    }

    /// A refused or failed call, for a person.
    #[must_use]
    pub fn failure(&self, status: &Status) -> Failure {
        if status.code() == Code::Unauthenticated && !self.login.is_somebody() {
            let what = "the broker asks who you are";
            let failure = Failure::of(Exit::NotAuthenticated, tool::NO_LOGIN, what);
            return match dev_key::read(&dev_key::state(), self.uri.port_u16().unwrap_or(80)) {
                Ok(_) if is_loopback(self.uri.host().unwrap_or_default()) => {
                    failure.helps("say as whom: `--as payments/agent`, `--as alice:shop-oncall`")
                }
                Ok(_) | Err(_) => failure,
            };
        }
        // A token that could not be had never reached the broker: the reason is ours.
        if status.code() == Code::Unauthenticated
            && let Some(why) = self.login.trouble()
        {
            return why;
        }
        let failure = explain(status, &self.uri);
        if failure.code == tool::UNREACHABLE.id
            && let Some(why) = self.unusable_files()
        {
            return why;
        }
        let may_be_why = matches!(failure.exit, Exit::NotAuthenticated | Exit::Unreachable);
        match self.login.ails().filter(|_| may_be_why) {
            Some(more) => failure.beside(&more),
            None => failure,
        }
    }
}

impl Client {
    /// What is wrong with a certificate, key or CA file that no connection can be opened with.
    fn unusable_files(&self) -> Option<Failure> {
        if self.uri.scheme_str() != Some("https") || self.tls == TlsFiles::default() {
            return None;
        }
        let dial = Dial::new(self.uri.clone(), self.tls.clone(), CONNECT_TIMEOUT);
        let why = self.login.dial(dial).usable().err()?;
        Some(Failure::of(Exit::NotAuthenticated, tool::TLS_FILES, why.to_string()))
    }

    /// What a command must say so that it is the same caller at the same broker, where flags said it: ` --as alice:operators`.
    #[must_use]
    pub fn again(&self) -> String {
        let Some(name) = self.login.dev_name() else { return String::new() };
        let broker = match self.uri.port_u16() == Some(config::PORT) {
            true => String::new(),
            false => format!(" --broker {}", base(&self.uri)),
        };
        format!(" --as {name}{broker}")
    }
}

/// The broker's address, and a client for its web pages and those of its issuers.
///
/// # Errors
/// When the address cannot be used.
pub fn broker(global: &Global) -> Result<(Uri, Web), Failure> {
    let settings = settings(None)?;
    warn_of_checkout(global, &settings);
    let uri = broker_uri(global.broker.as_ref().unwrap_or(&settings.client.broker))?;
    Ok((uri, web(global, &settings)))
}

/// Says once what the working directory's file wanted and did not get, unless a flag or variable says it anyway.
fn warn_of_checkout(global: &Global, settings: &Settings) {
    static SAID: std::sync::Once = std::sync::Once::new();
    let said = |key: &str| match key {
        "broker" => global.broker.is_some(),
        "token_file" => global.token_file.is_some(),
        "ca" => global.ca.is_some(),
        _ => global.cert.is_some(),
    };
    let keys: Vec<String> =
        settings.not_taken.iter().filter(|key| !said(key)).map(quoted).collect();
    if keys.is_empty() {
        return;
    }
    SAID.call_once(|| {
        let keys = keys.join(", ");
        let screen = Screen::new(Output::Text);
        screen.say(format!("  not taken from ./{}, which may be anybody's: {keys}", config::FILE));
        screen.say(
            "  say it by flag, by PROTEM_… variable, or in $XDG_CONFIG_HOME/protem/protem.toml",
        );
    });
}

fn quoted(key: &&'static str) -> String {
    format!("`client.{key}`")
}

fn web(global: &Global, settings: &Settings) -> Web {
    Web::new(ca(global, settings))
}

fn ca(global: &Global, settings: &Settings) -> Option<PathBuf> {
    global.ca.clone().or_else(|| named(&settings.client.ca))
}

/// What flags, environment and settings say about who the caller is.
fn given(global: &Global, settings: &Settings) -> Result<Given, Failure> {
    let from = |typed| if typed { From::Flag } else { From::Environment };
    let token = global.token_file.clone().map(|file| (file, from(global.typed.token_file)));
    let kept = named(&settings.client.token_file).map(|file| (file, From::Settings));
    let act_as = global.act_as.clone().map(|name| (name, from(global.typed.act_as)));
    let kept_cert = (named(&settings.client.cert), named(&settings.client.key), From::Settings);
    let (cert, key, how) = match (&global.cert, &global.key) {
        (None, None) => kept_cert,
        (cert, key) => (cert.clone(), key.clone(), from(global.typed.cert)),
    };
    let cert = match (cert, key) {
        (Some(cert), Some(key)) => Some(((cert, key), how)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let what = "a certificate and its key go together";
            return Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("give --cert and --key"));
        }
    };
    let spiffe = Agent::given(global, &process_env);
    Ok(Given { file: token.or(kept), act_as, cert, spiffe, ..Given::of_ci(&process_env) })
}

fn named(file: &Path) -> Option<PathBuf> {
    Some(file.to_owned()).filter(|file| !file.as_os_str().is_empty())
}

/// Settings of the usual places, or of one file.
///
/// # Errors
/// When a file cannot be used.
pub fn settings(named: Option<&Path>) -> Result<Settings, Failure> {
    config::read(named).map_err(|why| Failure::of(Exit::Usage, tool::SETTINGS, why.to_string()))
}

/// How to print when no broker is involved.
///
/// # Errors
/// When a settings file cannot be used.
pub fn screen(global: &Global) -> Result<Screen, Failure> {
    let output = match global.output {
        Some(output) => output,
        None => Output::from(settings(None)?.client.output),
    };
    Ok(Screen::new(output))
}
