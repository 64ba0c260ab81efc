//! One-time URLs of a development broker: what its key signed for the page alone counts once, and for minutes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use protem_verify::codes::caller;
use protem_verify::time::Time;
use serde_json::Value;

use crate::policy::login::{Caller, DEV_ISSUER};
use crate::serve::caller::{Asked, Door, SignedIn, login};
use crate::serve::grounds::{Grounds, KeyPrint};
use crate::serve::jwt::{Rejected, Token, Trusted, Verified, reject, unreadable};
use crate::serve::ui::limits::{SESSION_LIFE, TICKET_LIFE, TICKETS_MAX};

/// The claim that says how long the sign-in lasts, which is longer than its URL counts.
pub const UNTIL: &str = "protem/until";

/// Whom a ticket is for: the page of a broker and nobody else, so that it is no caller token, nor a caller token a ticket.
#[must_use]
pub fn audience(issuer: &str) -> String {
    format!("{}/ui/", issuer.trim_end_matches('/'))
}

/// Those that were used.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<KeyPrint, Time>>);

/// One that may be used.
pub struct Ticket {
    /// Who holds it.
    pub signed_in: Arc<SignedIn>,
    print: KeyPrint,
    expires: Time,
}

impl Tickets {
    /// Reads a ticket. It stays as good as it was.
    ///
    /// # Errors
    /// When the development key did not sign it for this page, it has ended, or it was used.
    pub fn read(&self, door: &Door, text: &str, asked: &Asked<'_>) -> Result<Ticket, Rejected> {
        let Some(dev) = door.dev() else {
            return Err(reject(caller::UNKNOWN_ISSUER, "people sign in at an issuer here"));
        };
        let trusted = Trusted { audience: audience(&dev.audience).into(), ..dev.clone() };
        let token = Token::read(text)?;
        if token.issuer() != Some(&*dev.issuer) {
            return Err(unreadable("is not signed by this broker's development key"));
        }
        let verified = token.verify(&trusted, asked.now)?;
        let print = jti(&verified)?;
        if verified.expires.since(asked.now) > TICKET_LIFE {
            return Err(unreadable("counts for longer than a sign-in URL may"));
        }
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&print) {
            return Err(used());
        }
        let expires = verified.expires;
        Ok(Ticket { signed_in: Arc::new(signed_in(dev, &verified, asked)?), print, expires })
    }

    /// Uses it up.
    ///
    /// # Errors
    /// When somebody else was faster, or too many were used lately.
    pub fn redeem(&self, ticket: &Ticket, now: Time) -> Result<(), Rejected> {
        let mut used_up = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used_up.retain(|_, expires| *expires > now);
        if used_up.len() >= TICKETS_MAX {
            return Err(reject(caller::FAILED_TOO_OFTEN, "too many sign-ins at once"));
        }
        // INVARIANT(a_ticket_counts_once): whoever puts it in first has it.
        match used_up.insert(ticket.print, ticket.expires) {
            None => Ok(()),
            Some(_) => Err(used()),
        }
    }
}

fn used() -> Rejected {
    reject(caller::TOKEN_EXPIRED, "this sign-in URL was used before; it counts once")
}

fn jti(verified: &Verified) -> Result<KeyPrint, Rejected> {
    let id = verified.claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| unreadable("has no `jti`"))?;
    Ok(KeyPrint::of(&[b"ticket", id.as_bytes()]))
}

/// As if the key had signed a caller token: the same grounds, until the ticket says, and no longer than a working day.
fn signed_in(dev: &Trusted, ticket: &Verified, asked: &Asked<'_>) -> Result<SignedIn, Rejected> {
    let until = ticket.claims.get(UNTIL).and_then(Value::as_u64).map(Time::from_secs);
    let until = until.ok_or_else(|| unreadable("does not say until when"))?;
    let login = Arc::new(login(DEV_ISSUER, ticket)?);
    let who =
        asked.bundle.who(&login).map(|principal| Caller { principal, login: Arc::clone(&login) });
    let audience = dev.audience.to_string();
    Ok(SignedIn {
        who,
        login,
        issuer: dev.issuer.to_string(),
        expires: until.min(asked.now + SESSION_LIFE),
        bundle: asked.bundle.digest(),
        grounds: Grounds::Token { issuer: DEV_ISSUER.into(), audience, key: ticket.key },
        generation: asked.generation,
    })
}
