//! The page's own limits, each with its reason.

use std::time::Duration;

/// Browsers that are signed in: all approvers of a region, several times over; each costs a few KiB.
pub const SESSIONS_MAX: usize = 8_192;
/// Of one person: a laptop, a phone and those that were never signed out.
pub const SESSIONS_OF_ONE_MAX: usize = 16;
/// How long a session stays that nobody uses: an open page alone does not use it.
pub const SESSION_IDLE: Duration = Duration::from_secs(60 * 60);
/// How long a session lasts at most, whatever its issuer says: a working day.
pub const SESSION_LIFE: Duration = Duration::from_secs(10 * 60 * 60);
/// How long a one-time URL counts: finding the browser, not lunch.
pub const TICKET_LIFE: Duration = Duration::from_secs(5 * 60);
/// Used one-time URLs that are remembered until they would have ended anyway; beyond, none is taken for a while.
pub const TICKETS_MAX: usize = 4_096;
/// A form: a note of 1 KiB, percent-encoded, and 32 scopes.
pub const FORM_MAX: usize = 16 * 1024;
/// Requests on a page of each list of what waits: more than anybody looks through at once.
pub const WAITING_SHOWN: u32 = 200;
/// How often an open page is told that its connection lives, so that no proxy takes it for dead.
pub const ALIVE_EVERY: Duration = Duration::from_secs(20);
/// How long an open page is left as it is after a change: many changes at once are one.
pub const LIVE_PAUSE: Duration = Duration::from_millis(250);
/// Operations of one scope on a screen; the rest is counted.
pub const OPERATIONS_SHOWN: usize = 32;
/// How long a sign-in at an issuer may take: finding the phone with the second factor, not lunch.
pub const ATTEMPT_LIFE: Duration = Duration::from_secs(10 * 60);
/// Sign-ins at an issuer that have begun and not ended: all approvers of a region at once, and a few KiB each.
pub const ATTEMPTS_MAX: usize = 4_096;
/// The same of one address (or IPv6 network): an office behind one address, and nobody else's places.
pub const ATTEMPTS_OF_ONE_MAX: usize = 256;
/// How long what an issuer says of itself is remembered: endpoints move once in years, and who tries out a new one waits minutes.
pub const PROVIDER_FRESH: Duration = Duration::from_secs(5 * 60);
/// Codes that are exchanged at the same moment; each is a connection of the broker's own.
pub const EXCHANGES_MAX: usize = 64;
/// The same of one address (or IPv6 network): a quarter, so that one that brings made-up codes leaves room for the others.
pub const EXCHANGES_OF_ONE_MAX: usize = 16;
/// How long one waits for a place to exchange a code: an office that comes in at nine, at an issuer that takes a second each.
pub const EXCHANGE_QUEUE_WITHIN: Duration = Duration::from_secs(10);
/// Emergencies on the page, those that are open first.
pub const REVIEWS_SHOWN: u32 = 100;
/// Grants, identities on one page of a list: what one scrolls through; the rest is a page further.
pub const LISTED: u32 = 50;
/// Grants on the page of one identity; the list has all.
pub const LISTED_OF_ONE: u32 = 10;
/// How long an identity must have done nothing to be called dormant, unless its searcher says otherwise: a month's job has run.
pub const DORMANT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often an open page of what changes without a word of the broker (usage, the age of views) looks for it.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How soon a browser without script looks again at receipts that still come in.
pub const LOOK_AGAIN_SECONDS: u32 = 2;
