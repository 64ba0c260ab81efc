//! Questions that are put to policy, and the short answers.

use std::fmt;

use protem_core::request::AccessRequest;
use protem_verify::names::{IdentityName, PolicyId, ResourceName};
use protem_verify::time::Time;

use crate::policy::login::Login;

/// A request for access with all that policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What is asked.
    pub request: &'a AccessRequest,
    /// How the requester proved who it is.
    pub login: &'a Login,
    /// When.
    pub now: Time,
    /// How many live grants the identity holds.
    pub active: u32,
    /// What is unusual: a word of Cedar's `findings`, then `: ` and numbers for people.
    pub findings: &'a [String],
    /// The broker's region; empty when it has none.
    pub region: &'a str,
}

/// What a person may be allowed to do, beside deciding requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// End access.
    Revoke,
    /// Look.
    View,
    /// Close the review of an emergency.
    Review,
    /// Bundles, keys, quarantine, backup.
    Administer,
}

impl Action {
    /// Its name in policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::View => "view",
            Self::Review => "review",
            Self::Administer => "administer",
        }
    }
}

/// What an action is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// One identity and its grants.
    Identity(IdentityName),
    /// One resource and the grants on it.
    Resource(ResourceName),
    /// The broker as a whole.
    Broker,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(name) => write!(f, "identity `{name}`"),
            Self::Resource(name) => write!(f, "resource `{name}`"),
            Self::Broker => f.write_str("the broker"),
        }
    }
}

/// Whether a person may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The answer.
    pub yes: bool,
    /// Of a no: a policy forbids it, or failed, so that a yes on something wider must not stand in for it.
    pub forbidden: bool,
    /// The determining policies.
    pub policies: Vec<PolicyId>,
    /// Of a no: why, for people; else empty.
    pub why_not: String,
}

/// A name that the bundle does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {field} `{name}`")]
pub struct Unknown {
    /// The request's field: `resource` or `scopes`.
    pub field: &'static str,
    /// What was given.
    pub name: String,
    /// The nearest name that exists.
    pub did_you_mean: Option<String>,
}
