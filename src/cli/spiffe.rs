//! SVIDs of the SPIFFE agent on this machine: a certificate for a broker behind TLS, a token where TLS ends before it.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use protem_clock::clock::{Clock, SystemClock};
use protem_gate::connect::Dial;
use protem_gate::svid::X509Source;
use protem_gate::workload::{Socket, Trouble, Workload, chosen};
use protem_verify::codes::tool;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::cli::args::Svid;
use crate::cli::broker_id::BrokerId;
use crate::cli::exit::{Exit, Failure};
use crate::cli::id_token::Said;
use crate::cli::token::one_token;
use crate::cli::ways::Agent;
use crate::cli::welcome::Welcome;
use crate::fetch::web::Web;

/// The agent, asked for the kind of SVID that the broker's address wants.
#[derive(Debug)]
pub struct Spiffe(Kind);

#[derive(Debug)]
enum Kind {
    X509(Arc<X509Source>, Option<Arc<BrokerId>>),
    Jwt(Box<Jwt>),
}

impl Spiffe {
    /// As the flags say. A certificate needs TLS up to the broker itself; where there is none, a token does.
    ///
    /// # Errors
    /// When the agent's address is none, or the kind does not fit the broker's address.
    pub fn by(
        agent: Agent,
        broker: &Uri,
        audience: Option<String>,
        web: Web,
    ) -> Result<Self, Failure> {
        let tls = broker.scheme_str() == Some("https");
        let kind = agent.kind.unwrap_or(if tls { Svid::X509 } else { Svid::Jwt });
        let usage = |what: &str| Failure::of(Exit::Usage, tool::USAGE, what);
        let socket = Socket::parse(&agent.socket).map_err(explained)?;
        let workload = Workload::at(socket);
        match kind {
            Svid::X509 if !tls => Err(usage("an X.509-SVID cannot be shown over plain http")
                .helps("give `--svid jwt`, or an https:// address")),
            Svid::X509 => {
                let source = Arc::new(X509Source::new(workload, agent.hint));
                let judge = agent.broker_id.map(|id| BrokerId::new(&id, Arc::clone(&source)));
                Ok(Self(Kind::X509(source, judge.transpose()?)))
            }
            Svid::Jwt if agent.broker_id.is_some() => {
                Err(usage("`--broker-id` goes with an X.509-SVID, whose roots it is judged by"))
            }
            Svid::Jwt => {
                let now = Mutex::new(Now { audience, ..Now::default() });
                let (hint, broker) = (agent.hint, broker.clone());
                Ok(Self(Kind::Jwt(Box::new(Jwt { workload, hint, broker, web, now }))))
            }
        }
    }

    /// The token to present now; none where the certificate says it, which is at hand then.
    ///
    /// # Errors
    /// When the agent gives none.
    pub async fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        match &self.0 {
            Kind::X509(source, _) => source.ready().await.map(|_| None).map_err(explained),
            Kind::Jwt(jwt) => jwt.token().await.map(Some),
        }
    }

    /// Whether it is a certificate.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        matches!(&self.0, Kind::X509(..))
    }

    /// The same way, shown the newest certificate.
    #[must_use]
    pub fn dial(&self, dial: Dial) -> Dial {
        match &self.0 {
            Kind::X509(source, None) => dial.showing(source.clone()),
            Kind::X509(source, Some(judge)) => {
                dial.showing(source.clone()).judged_by(judge.clone())
            }
            Kind::Jwt(_) => dial,
        }
    }

    /// What is wrong with the agent, though its last SVID is still at hand.
    #[must_use]
    pub fn ails(&self) -> Option<String> {
        match &self.0 {
            Kind::X509(source, _) => source.trouble().map(|why| why.to_string()),
            Kind::Jwt(_) => None,
        }
    }

    /// Where it comes from, in words.
    #[must_use]
    pub fn source(&self) -> String {
        match &self.0 {
            Kind::X509(source, _) => {
                let id = source.newest().map(|svid| format!(" `{}`", svid.id)).unwrap_or_default();
                format!("the X.509-SVID{id} of the agent at {}", source.workload().socket())
            }
            Kind::Jwt(jwt) => format!("a JWT-SVID of the agent at {}", jwt.workload.socket()),
        }
    }
}

/// An agent's trouble, for a person.
fn explained(why: Trouble) -> Failure {
    let (exit, code) = match &why {
        Trouble::Address { .. } => (Exit::Usage, tool::USAGE),
        Trouble::Unreachable(..) | Trouble::Late(_) | Trouble::Failed(..) => {
            (Exit::NotAuthenticated, tool::SPIFFE_AGENT)
        }
        Trouble::Denied(..) | Trouble::Empty(_) | Trouble::NoHint { .. } => {
            (Exit::NotAuthenticated, tool::NO_SVID)
        }
        Trouble::Unfit(..) => (Exit::NotAuthenticated, tool::BAD_SVID),
    };
    let failure = Failure::of(exit, code, why.to_string());
    if exit == Exit::Usage {
        let example = "write it like unix:///run/spire/agent/public/api.sock";
        return failure
            .because("so `--spiffe-socket` or SPIFFE_ENDPOINT_SOCKET says")
            .helps(example);
    }
    failure
}

/// JWT-SVIDs for one broker, fetched anew before they end.
#[derive(Debug)]
struct Jwt {
    workload: Workload,
    hint: Option<String>,
    broker: Uri,
    web: Web,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    audience: Option<String>,
    kept: Option<Kept>,
    /// The last question that failed, and when on the boot clock.
    failed: Option<(Duration, Failure)>,
}

impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Now").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// A token, by the boot clock.
struct Kept {
    token: Zeroizing<String>,
    /// When another one is asked for.
    renew: Duration,
    /// When it counts no more.
    dies: Duration,
}

impl Jwt {
    /// A token that lives: at half of its life the agent, which is near, is asked for the next; the one at hand serves on
    /// while there is none.
    async fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let called = SystemClock.boot();
        let mut now = self.now.lock().await;
        let at = SystemClock.boot();
        let alive = now.kept.as_ref().filter(|kept| kept.dies > at);
        let alive = alive.map(|kept| (kept.token.clone(), kept.renew));
        if let Some((token, renew)) = &alive
            && *renew > at
        {
            return Ok(token.clone());
        }
        if let Some((failed, why)) = &now.failed {
            // Who waited for a question that failed has waited enough; and an agent that is away is asked now and then.
            match &alive {
                Some((token, _)) if at.saturating_sub(*failed) < AGAIN => return Ok(token.clone()),
                None if *failed > called => return Err(why.clone()),
                Some(_) | None => {}
            }
        }
        let patience = if alive.is_some() { Duration::ZERO } else { FIRST_WITHIN };
        match self.fetch(&mut now, patience).await {
            Ok(kept) => {
                let token = kept.token.clone();
                (now.kept, now.failed) = (Some(kept), None);
                Ok(token)
            }
            Err(why) => {
                now.failed = Some((SystemClock.boot(), why.clone()));
                alive.map(|(token, _)| token).ok_or(why)
            }
        }
    }

    async fn fetch(&self, now: &mut Now, patience: Duration) -> Result<Kept, Failure> {
        let audience = match &now.audience {
            Some(audience) => audience.clone(),
            None => {
                let welcome = Welcome::of(&self.broker, &self.web).await?;
                let audience = welcome.svid_audience(&self.broker)?.to_owned();
                now.audience.insert(audience).clone()
            }
        };
        let begun = SystemClock.boot();
        loop {
            let asked = SystemClock.boot();
            match self.ask(&audience).await {
                Ok(token) => return Ok(kept(token, asked)),
                Err(why) if why.may_pass() && asked.saturating_sub(begun) < patience => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(why) => return Err(explained(why)),
            }
        }
    }

    async fn ask(&self, audience: &str) -> Result<Zeroizing<String>, Trouble> {
        let answer = self.workload.jwt_svids(audience).await?;
        let socket = self.workload.socket();
        let one = chosen(answer.svids, self.hint.as_deref(), |svid| &svid.hint, socket)?;
        let unfit = |why: &str| Trouble::Unfit(socket.clone(), why.to_owned());
        let token = Zeroizing::new(one.svid);
        if token.len() > TOKEN_MAX {
            return Err(unfit("its JWT-SVID is longer than 16 KiB"));
        }
        match Said::by(&token) {
            Some(said) if said.is_for(audience) => one_token(&token).map_err(unfit),
            Some(_) => Err(unfit("its JWT-SVID is for another audience than was asked")),
            None => Err(unfit("its JWT-SVID is no token with an end")),
        }
    }
}

/// Its own times tell how long it lives, whatever this machine's clock says; without a beginning, the clock must do.
fn kept(token: Zeroizing<String>, asked: Duration) -> Kept {
    let said = Said::by(&token).unwrap_or_default();
    let life = if said.iat == 0 {
        Duration::from_secs(said.exp).saturating_sub(SystemClock.unix())
    } else {
        said.life()
    };
    let life = life.min(LIFE_MAX);
    Kept { token, renew: asked.saturating_add(life / 2), dies: asked.saturating_add(life) }
}

/// How long the first token is waited for: agents hear of a new workload some seconds after it starts.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions meanwhile.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two questions of an agent that failed, while a token lives.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest JWT-SVID: what a broker reads of a header.
const TOKEN_MAX: usize = 16 * 1024;
/// How long a token is used at most, whatever it says: JWT-SVIDs live minutes.
const LIFE_MAX: Duration = Duration::from_secs(60 * 60);
