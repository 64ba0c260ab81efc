//! What callers get: grants, credentials, and marks to follow.

use protem_verify::time::Time;

use crate::engine::receipts::Mark;
use crate::journal::records::GrantRecord;
use crate::mint::Token;

/// A grant, with its newest credential where there is one.
#[derive(Clone, Debug)]
pub struct Granted {
    /// As it is in the journal.
    pub grant: GrantRecord,
    /// Only with an active grant, and only for its holder.
    pub credential: Option<Credential>,
}

/// A credential as its holder gets it.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Secret.
    pub token: Token,
    /// From here on nobody accepts it.
    pub expires_at: Time,
    /// From here on a renewal brings a new one.
    pub renew_at: Time,
}

/// An end that the workload asked for.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What ended, now or by an earlier call that this one repeats.
    pub ended: Vec<GrantRecord>,
    /// What gateways must have applied.
    pub mark: Mark,
}

/// An end that an operator asked for.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// How many grants it ended.
    pub grants_ended: u64,
    /// What gateways must have applied.
    pub mark: Mark,
}
