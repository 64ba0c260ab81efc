//! Whether a credential counts for a call, right now: the only place that says yes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::claims::Claims;
use crate::codes::{Code, check};
use crate::ids::{GrantId, Seq};
use crate::jws::{ACCESS_TOKEN, Flaw, Jws};
use crate::known::{Known, Moment};
use crate::names::{KeyId, ResourceName, ScopeName};
use crate::operation::{Mapped, Resource, canonical};
use crate::time::Time;

/// Checks credentials against the view that it reads, without a lock.
#[derive(Clone, Debug)]
pub struct Verifier {
    view: Arc<ArcSwap<Known>>,
}

/// What was called.
#[derive(Clone, Copy, Debug)]
pub struct Call<'request> {
    /// The resource, from the gateway's configuration, never from the call.
    pub resource: &'request ResourceName,
    /// The HTTP method.
    pub method: &'request str,
    /// The raw path, with or without a query.
    pub path: &'request str,
}

/// The answer; there is no third.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it through.
    Allow(Box<Allowed>),
    /// Refuse it.
    Deny(Reason),
}

/// A credential that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What it says.
    pub claims: Claims,
    /// Which key signed it.
    pub key: KeyId,
    /// The resource that was called.
    pub resource: ResourceName,
    /// The scope that allowed the call.
    pub scope: ScopeName,
}

/// What was found of a call on the way to a verdict, for whoever counts: of a credential that its key signed, and of nothing
/// that a caller made up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Whose.
    pub grant: Option<GrantId>,
    /// When the credential was issued.
    pub issued: Time,
    /// What was called, as the catalog spells it; `None`: no operation of the catalog.
    pub operation: Option<Arc<str>>,
    /// The issuer's time, as far as it is proven.
    pub now: Time,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// None, or more than one.
    NoCredential,
    /// It cannot be read.
    Malformed(Flaw),
    /// No key of the view has its `kid`.
    UnknownKey,
    /// The key did not sign it.
    BadSignature,
    /// Another issuer.
    WrongIssuer,
    /// Another audience.
    WrongAudience,
    /// `exp` has come.
    Expired,
    /// `nbf` or `iat` lies too far ahead.
    NotYet,
    /// An earlier life of the journal.
    WrongEpoch,
    /// The grant ended, or a cut-off covers it.
    Revoked,
    /// Its key was cut off.
    KeyCutOff,
    /// It is bound to a key, which cannot be checked here yet.
    Bound,
    /// None of its scopes allows the operation; this is the one to ask for.
    MissingScope(ScopeName),
    /// No scope maps the operation.
    Unmapped,
    /// The path has more than one reading.
    NotCanonical,
    /// Nothing was ever proven.
    Unready,
    /// The view is older than the credential allows.
    Stale,
    /// The credential is newer than the view.
    Behind,
    /// The broker went back, or said what nobody here understands.
    Closed,
    /// The wall clock stepped.
    ClockStepped,
    /// The view's catalog does not have the resource.
    UnknownResource,
}

/// The HTTP status that a reason is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 401: this credential is of no use.
    Unauthorized,
    /// 403: not for this call.
    Forbidden,
    /// 429: not so often.
    TooMany,
    /// 503: come back when the gateway knows more.
    Unavailable,
}

/// How far `nbf` and `iat` may lie ahead of the proven time; `exp` has no leeway.
pub const LEEWAY: Duration = Duration::from_secs(5);

impl Verifier {
    /// Reads what a `View` publishes.
    #[must_use]
    pub fn new(view: Arc<ArcSwap<Known>>) -> Self {
        Self { view }
    }

    /// The view as it is now.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        self.view.load_full()
    }

    /// Decides about one call, cheap checks first (RFC 8725 §3; the order matters only for which reason is named).
    #[must_use]
    pub fn check(&self, token: &str, call: &Call<'_>, now: Moment) -> Verdict {
        self.check_noting(token, call, now, &mut Noted::default())
    }

    /// The same, and tells what was found on the way, also of a call that is refused.
    #[must_use]
    pub fn check_noting(
        &self,
        token: &str,
        call: &Call<'_>,
        now: Moment,
        noted: &mut Noted,
    ) -> Verdict {
        let view = self.view.load();
        match allowed(&view, token, call, now, noted) {
            Ok(allowed) => Verdict::Allow(Box::new(allowed)),
            Err(reason) => Verdict::Deny(reason),
        }
    }

    /// Whether a credential that counted still does: for response streams that outlive the check.
    ///
    /// # Errors
    /// The reason why not.
    pub fn still(&self, allowed: &Allowed, now: Moment) -> Result<(), Reason> {
        let view = self.view.load();
        let resource = view.catalog.resource(&allowed.resource).ok_or(Reason::UnknownResource)?;
        if view.fences.voids_key(&allowed.key) {
            return Err(Reason::KeyCutOff);
        }
        if !view.keys.knows(&allowed.key) {
            return Err(Reason::UnknownKey);
        }
        counts(&view, &allowed.claims, &allowed.key, (&allowed.resource, resource), now)
    }
}

fn allowed(
    view: &Known,
    token: &str,
    call: &Call<'_>,
    now: Moment,
    noted: &mut Noted,
) -> Result<Allowed, Reason> {
    let jws = Jws::parse(token, ACCESS_TOKEN).map_err(Reason::Malformed)?;
    if view.closed || view.blind {
        return Err(Reason::Closed);
    }
    if view.proven.is_none() {
        return Err(Reason::Unready);
    }
    if view.fences.voids_key(&jws.kid) {
        // Before all else of the key: it has left the key set, and its holder is helped by another reason than a stranger.
        return Err(Reason::KeyCutOff);
    }
    if !view.keys.knows(&jws.kid) {
        // Nobody vouches for its seq, so a forger may choose between two refusals.
        let seq = Claims::decode(&jws.payload).map_or(Seq(0), |claims| claims.seq);
        return Err(if seq > view.seq { Reason::Behind } else { Reason::UnknownKey });
    }
    if !view.keys.verify(&jws.kid, jws.signed, &jws.signature) {
        return Err(Reason::BadSignature);
    }
    let claims = Claims::decode(&jws.payload).map_err(Reason::Malformed)?;
    noted.grant = Some(claims.grant);
    noted.issued = claims.issued;
    noted.now = view.now(now).unwrap_or(claims.issued);
    let resource = view.catalog.resource(call.resource).ok_or(Reason::UnknownResource)?;
    let path = canonical(call.path);
    let mapped = path.and_then(|path| resource.mapped(call.method, path));
    noted.operation = mapped.map(|mapped| Arc::clone(&mapped.text));
    counts(view, &claims, &jws.kid, (call.resource, resource), now)?;
    if path.is_none() {
        return Err(Reason::NotCanonical);
    }
    let scope = scope(view, &claims, resource, mapped)?;
    Ok(Allowed { claims, key: jws.kid, resource: call.resource.clone(), scope })
}

fn counts(
    view: &Known,
    claims: &Claims,
    key: &KeyId,
    (name, resource): (&ResourceName, &Resource),
    now: Moment,
) -> Result<(), Reason> {
    if claims.issuer != view.issuer {
        return Err(Reason::WrongIssuer);
    }
    if claims.audience != resource.audience {
        return Err(Reason::WrongAudience);
    }
    if view.closed || view.blind {
        return Err(Reason::Closed);
    }
    let proven = view.age(now).zip(view.now(now));
    let Some((age, time)) = proven else { return Err(Reason::Unready) };
    if claims.epoch != view.epoch {
        let newer = claims.epoch > view.epoch;
        return Err(if newer { Reason::Behind } else { Reason::WrongEpoch });
    }
    if view.stepped(now) {
        return Err(Reason::ClockStepped);
    }
    if age > claims.fresh.0 {
        return Err(Reason::Stale);
    }
    in_time(claims, time)?;
    if claims.proof.is_some() {
        return Err(Reason::Bound);
    }
    if view.fences.voids_key(key) {
        return Err(Reason::KeyCutOff);
    }
    if view.fences.voids(claims, name) {
        return Err(Reason::Revoked);
    }
    Ok(())
}

fn in_time(claims: &Claims, now: Time) -> Result<(), Reason> {
    if now >= claims.expires {
        return Err(Reason::Expired);
    }
    if claims.not_before > now + LEEWAY || claims.issued > now + LEEWAY {
        return Err(Reason::NotYet);
    }
    Ok(())
}

fn scope(
    view: &Known,
    claims: &Claims,
    resource: &Resource,
    mapped: Option<&Mapped>,
) -> Result<ScopeName, Reason> {
    let allowing = mapped.map(|mapped| mapped.scopes.as_slice()).unwrap_or_default();
    if let Some(scope) = allowing.iter().find(|scope| claims.scopes.contains(scope)) {
        return Ok(scope.clone());
    }
    if claims.seq > view.seq && claims.scopes.iter().any(|scope| !resource.knows(scope)) {
        return Err(Reason::Behind);
    }
    Err(allowing.first().map_or(Reason::Unmapped, |scope| Reason::MissingScope(scope.clone())))
}

impl Reason {
    /// Its stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NoCredential => check::NO_CREDENTIAL,
            Self::Malformed(_) => check::MALFORMED,
            Self::UnknownKey => check::UNKNOWN_KEY,
            Self::BadSignature => check::BAD_SIGNATURE,
            Self::WrongIssuer => check::WRONG_ISSUER,
            Self::WrongAudience => check::WRONG_AUDIENCE,
            Self::Expired => check::EXPIRED,
            Self::NotYet => check::NOT_YET,
            Self::WrongEpoch => check::WRONG_EPOCH,
            Self::Revoked => check::REVOKED,
            Self::KeyCutOff => check::KEY_CUT_OFF,
            Self::Bound => check::BOUND,
            Self::MissingScope(_) => check::MISSING_SCOPE,
            Self::Unmapped => check::UNMAPPED,
            Self::NotCanonical => check::NOT_CANONICAL,
            Self::Unready => check::UNREADY,
            Self::Stale => check::STALE,
            Self::Behind => check::BEHIND,
            Self::Closed => check::CLOSED,
            Self::ClockStepped => check::CLOCK_STEPPED,
            Self::UnknownResource => check::UNKNOWN_RESOURCE,
        }
    }

    /// What it is answered with.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::NoCredential
            | Self::Malformed(_)
            | Self::UnknownKey
            | Self::BadSignature
            | Self::WrongIssuer
            | Self::WrongAudience
            | Self::Expired
            | Self::NotYet
            | Self::WrongEpoch
            | Self::Revoked
            | Self::KeyCutOff
            | Self::Bound => Class::Unauthorized,
            Self::MissingScope(_) | Self::Unmapped | Self::NotCanonical => Class::Forbidden,
            Self::Unready
            | Self::Stale
            | Self::Behind
            | Self::Closed
            | Self::ClockStepped
            | Self::UnknownResource => Class::Unavailable,
        }
    }
}
