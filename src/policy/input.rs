//! The whole Cedar input of a ruling as JSON, so that it can be evaluated again under another bundle.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_core::request::AccessRequest;
use serde::{Deserialize, Serialize};

use crate::policy::ask::Ask;
use crate::policy::login::{Claim, Login};
use crate::policy::rules::Act;

/// What was put to policy, as it is journaled. A field may be added, none taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The identity.
    pub principal: String,
    /// What decided: `issue`, `request` or `emergency`.
    pub action: String,
    /// The resource.
    pub resource: String,
    /// The scopes that were asked for.
    pub scopes: Vec<String>,
    /// Those of them that need approval.
    pub needs: Vec<String>,
    /// The unit of work.
    pub task: RecordedTask,
    /// After the limits of scopes and tier.
    pub lifetime_ms: u64,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// The broker's.
    pub region: String,
    /// How the requester proved who it is.
    pub login: RecordedLogin,
    /// Whether the credential would be bound to a key.
    pub bound: bool,
    /// How many grants the identity held.
    pub active: u32,
    /// What was unusual, with numbers.
    pub findings: Vec<String>,
    /// What shadow policies would have said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedTask {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
}

/// A login. It holds claims that were verified, and never a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedLogin {
    /// The issuer's name.
    pub issuer: String,
    /// Its `sub`.
    pub subject: String,
    /// The rest.
    pub claims: BTreeMap<String, RecordedClaim>,
}

/// A claim: a text or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordedClaim {
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

impl Recorded {
    /// What `ask` puts to policy; `act`, `needs`, `lifetime_ms` and `shadow` come from the answer.
    #[must_use]
    pub fn new(
        ask: &Ask<'_>,
        act: Act,
        needs: Vec<String>,
        lifetime_ms: u64,
        shadow: Vec<String>,
    ) -> Self {
        let request: &AccessRequest = ask.request;
        let claims = ask.login.claims.iter().map(|(name, claim)| {
            let claim = match claim {
                Claim::Text(text) => RecordedClaim::Text(text.clone()),
                Claim::List(list) => RecordedClaim::List(list.clone()),
            };
            (name.clone(), claim)
        });
        Self {
            principal: request.by.identity.as_str().to_owned(),
            action: act.as_str().to_owned(),
            resource: request.resource.as_str().to_owned(),
            scopes: request.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            needs,
            task: RecordedTask {
                id: request.task.id.as_str().to_owned(),
                kind: request.task.kind.as_str().to_owned(),
            },
            lifetime_ms,
            now_ms: ask.now.as_millis(),
            region: ask.region.to_owned(),
            login: RecordedLogin {
                issuer: ask.login.issuer.clone(),
                subject: ask.login.subject.clone(),
                claims: claims.collect(),
            },
            bound: false,
            active: ask.active,
            findings: ask.findings.to_vec(),
            shadow,
        }
    }

    /// As it is journaled.
    #[must_use]
    pub fn to_json(&self) -> Arc<[u8]> {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is not what this version knows.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// The recorded login.
    #[must_use]
    pub fn login(&self) -> Login {
        let claims = self.login.claims.iter().map(|(name, claim)| {
            let claim = match claim {
                RecordedClaim::Text(text) => Claim::Text(text.clone()),
                RecordedClaim::List(list) => Claim::List(list.clone()),
            };
            (name.clone(), claim)
        });
        Login {
            issuer: self.login.issuer.clone(),
            subject: self.login.subject.clone(),
            claims: claims.collect(),
        }
    }
}
