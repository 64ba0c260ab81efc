//! What the page is made of: the same services that answer gRPC, and the people who are signed in.

use std::io;
use std::sync::Arc;

use crate::engine::broker::Broker;
use crate::serve::approvals::Approvals;
use crate::serve::caller::Door;
use crate::serve::entrance::Entrance;
use crate::serve::governance::Governance;
use crate::serve::grounds::CallerTime;
use crate::serve::ui::attempts::Attempts;
use crate::serve::ui::cookie::Cookie;
use crate::serve::ui::origin::Origin;
use crate::serve::ui::providers::Providers;
use crate::serve::ui::sessions::Sessions;
use crate::serve::ui::ticket::Tickets;
use crate::serve::watch::Watch;
use crate::serve::webhook::Webhooks;

/// The page, for all who look at it.
pub struct Site {
    /// What answers.
    pub broker: Broker,
    /// What counts calls and streams.
    pub entrance: Arc<Entrance>,
    /// What believes tokens.
    pub door: Arc<Door>,
    /// What ends sessions and streams.
    pub watch: Watch,
    /// The time that sign-ins are judged by.
    pub time: CallerTime,
    /// What waits, and deciding it.
    pub approvals: Approvals,
    /// What there is, and stopping it.
    pub governance: Governance,
    /// Who is signed in.
    pub sessions: Sessions,
    /// One-time URLs that were used.
    pub tickets: Tickets,
    /// Where the page is.
    pub origin: Origin,
    /// The cookie of a session.
    pub cookie: Cookie,
    /// Sign-ins at an issuer that have begun.
    pub attempts: Attempts,
    /// What issuers say of themselves.
    pub providers: Providers,
    /// The cookie of one of them.
    pub attempt_cookie: Cookie,
}

/// The parts that the doors share with the page.
pub struct Shared {
    /// What answers.
    pub broker: Broker,
    /// What counts calls and streams.
    pub entrance: Arc<Entrance>,
    /// What believes tokens.
    pub door: Arc<Door>,
    /// What ends sessions and streams.
    pub watch: Watch,
    /// The time that sign-ins are judged by.
    pub time: CallerTime,
    /// Who is told what happens.
    pub webhooks: Webhooks,
}

impl Site {
    /// A page at the URL of the settings, else on loopback at the port of a development broker, else at the broker's issuer.
    ///
    /// # Errors
    /// When there can be no page at that URL.
    pub fn at(shared: Shared, url: &str, dev: Option<u16>) -> io::Result<Arc<Self>> {
        let origin = match (url, dev) {
            ("", Some(port)) => Origin::loopback(port),
            // An issuer need not be where people come: a broker that only workloads reach still serves those.
            ("", None) => Origin::of(shared.broker.issuer()).unwrap_or_else(|why| {
                tracing::warn!(%why, "the page is not served: `broker.page` says where it is");
                Origin::nowhere()
            }),
            (url, _) => Origin::of(url).map_err(io::Error::other)?,
        };
        Ok(Self::new(shared, origin))
    }

    /// A page at `origin`, at which nobody is signed in yet.
    #[must_use]
    pub fn new(shared: Shared, origin: Origin) -> Arc<Self> {
        let Shared { broker, entrance, door, watch, time, webhooks } = shared;
        let cookie = |name: &str| match origin.is_secure() {
            true => Cookie::of_host(name),
            false => Cookie::of_port(name, origin.port()),
        };
        let (cookie, attempt_cookie) = (cookie("protem"), cookie("protem-sign-in"));
        let rates = entrance.rates();
        let approvals = Approvals { broker: broker.clone(), watch: watch.clone(), rates };
        let governance = Governance { broker: broker.clone(), watch: watch.clone(), webhooks };
        Arc::new(Self {
            broker,
            entrance,
            door,
            watch,
            time,
            approvals,
            governance,
            sessions: Sessions::default(),
            tickets: Tickets::default(),
            origin,
            cookie,
            attempts: Attempts::default(),
            providers: Providers::default(),
            attempt_cookie,
        })
    }
}
