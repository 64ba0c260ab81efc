//! The one decision behind every face: what was asked goes in, and what comes out is a refusal or a pass that only this file makes.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use protem_clock::clock::Clock;
use protem_verify::claims::Claims;
use protem_verify::codes::{Code, check};
use protem_verify::jws::{ACCESS_TOKEN, Jws};
use protem_verify::names::{ResourceName, ScopeName};
use protem_verify::operation::Inject;
use protem_verify::time::Time;
use protem_verify::verifier::{Allowed, Call, Class, Noted, Reason, Verdict, Verifier};

use crate::follow::moment;
use crate::headers::{
    IDENTITY, alike, bearer, overrides_operation, passes_for_ours, takes_ours_away,
};
use crate::meters::Meters;
use crate::rate::Rate;
use crate::secrets::{Secret, Secrets};
use crate::usage::{How, Use, Uses};

/// Decides about calls, for every face of a gateway.
#[derive(Clone)]
pub struct Judge {
    /// One for each issuer.
    views: Arc<[Verifier]>,
    /// The resources that each view's credentials open, in the order of the views; none: all.
    opened: Arc<[Option<Vec<ResourceName>>]>,
    clock: Arc<dyn Clock>,
    secrets: Secrets,
    /// Where what each view decided is counted, in the order of the views.
    uses: Arc<[Uses]>,
    ledger: Ledger,
}

/// What is counted of all calls, and how many are let through. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// For whoever watches the gateway.
    pub meters: Meters,
    /// How often one credential may be used; absent: as often as it likes.
    pub rate: Option<Arc<Rate>>,
}

/// A call, as a face heard of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'call> {
    /// The resource, from configuration: never from the call.
    pub resource: &'call ResourceName,
    /// The HTTP method.
    pub method: &'call [u8],
    /// Path and query, as they came.
    pub target: &'call [u8],
    /// Every header, those that came twice twice.
    pub headers: &'call [(&'call str, &'call [u8])],
    /// What can be done about headers that pass for ours.
    pub strips: Strips,
}

/// Whether a face can have headers of the call removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strips {
    /// It names what must go, or removes it itself.
    Any,
    /// Its proxy replaces those that the answer sets, and forwards all others.
    OnlyThoseSet,
}

/// The answer about a call. It has no default, and a [`Pass`] is made in one place.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// Refuse it.
    Refuse(Refusal),
    /// Let it through, changed so.
    Pass(Pass),
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The credential does not count for it.
    Credential(Reason),
    /// The proxy does not say once what was called.
    ProxyHeaders,
    /// A header passes for ours, or means another operation, and would reach the API.
    Forged,
    /// The secret to add is not there.
    NoSecret,
    /// The route names no resource.
    NoRoute,
    /// What was asked cannot be read.
    Unreadable,
    /// The credential is used too often; it may be used again after this long.
    TooMany(Duration),
}

/// A call that may go on, and what becomes of its headers.
#[derive(Debug)]
pub struct Pass {
    allowed: Box<Allowed>,
    verifier: Verifier,
    secret: Option<(Arc<str>, Secret)>,
    remove: Vec<String>,
}

impl Judge {
    /// Decides by these views, each of another issuer.
    #[must_use]
    pub fn new(views: Vec<Verifier>, clock: Arc<dyn Clock>, secrets: Secrets) -> Self {
        let (opened, uses, ledger) = (Arc::new([]), Arc::new([]), Ledger::default());
        Self { views: views.into(), opened, clock, secrets, uses, ledger }
    }

    /// The same, where a view's credentials open these resources and no others: one for each view, in their order; `None`: all.
    /// What its issuer says of a resource that is not among them counts for nothing.
    #[must_use]
    pub fn opening(mut self, opened: Vec<Option<Vec<ResourceName>>>) -> Self {
        self.opened = opened.into();
        self
    }

    /// The same, where calls are counted: `uses` has one for each view, in their order.
    #[must_use]
    pub fn counting(mut self, uses: Vec<Uses>, ledger: Ledger) -> Self {
        self.uses = uses.into();
        self.ledger = ledger;
        self
    }

    /// What is counted of its calls.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.ledger.meters
    }

    /// The views it decides by.
    #[must_use]
    pub fn views(&self) -> &[Verifier] {
        &self.views
    }

    /// The clocks it decides by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Decides about one call.
    pub fn decide(&self, asked: &Asked<'_>) -> Decision {
        let mut seen = Seen::default();
        let found = self.pass(asked, &mut seen);
        self.count(&found, seen);
        match found {
            Ok(pass) => Decision::Pass(pass),
            Err(refusal) => Decision::Refuse(refusal),
        }
    }

    fn count(&self, found: &Result<Pass, Refusal>, Seen { view, noted }: Seen) {
        let how = match found {
            Ok(pass) => {
                self.ledger.meters.allowed(noted.now.since(noted.issued));
                How::Allowed(pass.allowed.scope.clone())
            }
            Err(refusal) => {
                self.ledger.meters.refused(refusal.code().id);
                How::Refused(refusal.code().id)
            }
        };
        if let (Some(grant), Some(uses)) = (noted.grant, self.uses.get(view)) {
            let at = noted.now.since(Time::ZERO);
            uses.note(Use { grant, operation: noted.operation, how, at });
        }
    }

    fn pass(&self, asked: &Asked<'_>, seen: &mut Seen) -> Result<Pass, Refusal> {
        let named = |(name, value): &(&str, _)| {
            name.eq_ignore_ascii_case("authorization").then_some(*value)
        };
        let token = bearer(asked.headers.iter().filter_map(named)).ok_or(Reason::NoCredential)?;
        let (view, verifier) = self.view_of(token)?;
        if let Some(Some(opened)) = self.opened.get(view)
            && !opened.contains(asked.resource)
        {
            return Err(Reason::WrongIssuer.into());
        }
        seen.view = view;
        // What is not ASCII is no canonical path and no method of the catalog.
        let path = std::str::from_utf8(asked.target).map_err(|_| Reason::NotCanonical)?;
        let method = std::str::from_utf8(asked.method).map_err(|_| Reason::Unmapped)?;
        let call = Call { resource: asked.resource, method, path };
        let now = moment(&*self.clock);
        let verdict = verifier.check_noting(token, &call, now, &mut seen.noted);
        // Whatever the verdict: a refusal costs a gateway as much as a yes.
        if let (Some(rate), Some(grant)) = (&self.ledger.rate, &seen.noted.grant) {
            rate.count(grant).map_err(Refusal::TooMany)?;
        }
        let allowed = match verdict {
            Verdict::Allow(allowed) => allowed,
            Verdict::Deny(reason) => return Err(Refusal::Credential(reason)),
        };
        let known = verifier.known();
        let inject =
            known.catalog.resource(asked.resource).and_then(|resource| resource.inject.as_ref());
        let remove = strip(asked, inject)?;
        let secret = match inject {
            None => None,
            Some(Inject { header, secret }) => {
                let secret = self.secrets.find(secret).ok_or(Refusal::NoSecret)?;
                Some((Arc::clone(header), secret))
            }
        };
        Ok(Pass { allowed, verifier: verifier.clone(), secret, remove })
    }

    /// The token's issuer chooses the view that it is checked by, and there is no other choice: a wrong word about the issuer
    /// chooses a view whose keys did not sign it.
    fn view_of(&self, token: &str) -> Result<(usize, &Verifier), Reason> {
        if let [only] = &*self.views {
            return Ok((0, only));
        }
        let jws = Jws::parse(token, ACCESS_TOKEN).map_err(Reason::Malformed)?;
        let issuer = Claims::decode(&jws.payload).map_err(Reason::Malformed)?.issuer;
        let mut views = self.views.iter().enumerate();
        views.find(|(_, view)| view.known().issuer == issuer).ok_or(Reason::WrongIssuer)
    }
}

/// What was seen of a call on the way to its decision.
#[derive(Default)]
struct Seen {
    /// Which view decided.
    view: usize,
    noted: Noted,
}

/// The headers of a call that must not reach the API, beside those that the pass sets.
fn strip(asked: &Asked<'_>, inject: Option<&Inject>) -> Result<Vec<String>, Refusal> {
    let secret = inject.map(|inject| &*inject.header);
    let set = |name: &str| {
        IDENTITY.contains(&name) || secret.is_some_and(|set| set.eq_ignore_ascii_case(name))
    };
    let mut remove = Vec::new();
    for (name, value) in asked.headers {
        let forged = passes_for_ours(name)
            || overrides_operation(name)
            || secret.is_some_and(|secret| alike(name, secret));
        let takes = name.eq_ignore_ascii_case("connection") && takes_ours_away(value, secret);
        if !(forged || takes) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        match asked.strips {
            // Also those that are set: there may be two of them.
            Strips::Any => {}
            // The caller's copy is replaced; were it ours to choose, the proxy's configuration would be all that stands in between.
            Strips::OnlyThoseSet
                if secret.is_some_and(|secret| secret.eq_ignore_ascii_case(&name)) => {}
            Strips::OnlyThoseSet => return Err(Refusal::Forged),
        }
        if !set(&name) && !remove.contains(&name) {
            remove.push(name);
        }
    }
    Ok(remove)
}

impl Pass {
    /// Who calls: what each header of [`IDENTITY`] is set to.
    #[must_use]
    pub fn identity(&self) -> [(&'static str, String); 4] {
        let claims = &self.allowed.claims;
        let values = [
            claims.identity.as_str().to_owned(),
            claims.grant.text().as_str().to_owned(),
            claims.task.as_str().to_owned(),
            self.allowed.scope.as_str().to_owned(),
        ];
        let mut values = values.into_iter();
        IDENTITY.map(|name| (name, values.next().unwrap_or_default()))
    }

    /// The secret to add, and the header it belongs in.
    #[must_use]
    pub fn secret(&self) -> Option<(&str, &HeaderValue)> {
        self.secret.as_ref().map(|(header, secret)| (&**header, secret.value()))
    }

    /// Headers of the call that must go, in lower case: `authorization`, unless the secret takes its place, and whatever else
    /// passes for ours, or means another operation, and is not set.
    #[must_use]
    pub fn remove(&self) -> Vec<&str> {
        let replaced = self.secret().is_some_and(|(name, _)| name.eq_ignore_ascii_case(TOKEN));
        let token = (!replaced).then_some(TOKEN);
        token.into_iter().chain(self.remove.iter().map(String::as_str)).collect()
    }

    /// The credential that counted.
    #[must_use]
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// What can say later whether it still does.
    pub(crate) fn into_watched(self) -> (Box<Allowed>, Verifier) {
        (self.allowed, self.verifier)
    }
}

const TOKEN: &str = "authorization";

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Credential(reason)
    }
}

impl Refusal {
    /// Its stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Credential(reason) => reason.code(),
            Self::ProxyHeaders => check::PROXY_HEADERS,
            Self::Forged => check::FORGED,
            Self::NoSecret => check::NO_SECRET,
            Self::NoRoute => check::NO_ROUTE,
            Self::Unreadable => check::UNREADABLE,
            Self::TooMany(_) => check::TOO_MANY,
        }
    }

    /// What it is answered with.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Credential(reason) => reason.class(),
            Self::ProxyHeaders | Self::Forged => Class::Forbidden,
            Self::NoSecret | Self::NoRoute | Self::Unreadable => Class::Unavailable,
            Self::TooMany(_) => Class::TooMany,
        }
    }

    /// The scope that is missing.
    #[must_use]
    pub const fn missing(&self) -> Option<&ScopeName> {
        match self {
            Self::Credential(Reason::MissingScope(scope)) => Some(scope),
            Self::Credential(_)
            | Self::ProxyHeaders
            | Self::Forged
            | Self::NoSecret
            | Self::NoRoute
            | Self::Unreadable
            | Self::TooMany(_) => None,
        }
    }
}
