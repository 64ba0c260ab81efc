//! What a bundle says exists: tiers, classes, resources, identities, people, issuers. Parsed; nothing in it is left to validate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use protem_verify::names::{
    GatewayName, GroupName, IdentityName, PersonName, ResourceName, ScopeName,
};
use protem_verify::time::{Lifetime, Staleness, Time};

use crate::policy::template::Template;

/// What there is to ask for.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Trust tiers, by name.
    pub tiers: BTreeMap<Arc<str>, Tier>,
    /// Kinds of scope, by name.
    pub classes: BTreeMap<Arc<str>, Class>,
    /// What access is to, by name.
    pub resources: BTreeMap<ResourceName, Resource>,
    /// Who enforces, by name.
    pub gateways: BTreeMap<GatewayName, Gateway>,
    /// Static secrets that still exist, by name.
    pub secrets: BTreeMap<Arc<str>, Secret>,
}

/// How far an identity is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The longest lifetime of a grant.
    pub max_lifetime: Lifetime,
    /// The lifetime of a grant that asked for none.
    pub default_lifetime: Lifetime,
    /// The life of one credential.
    pub credential: Lifetime,
    /// How old a gateway's view may be.
    pub max_staleness: Staleness,
    /// Live grants at once, per identity.
    pub active_max: u32,
    /// Requests, per identity.
    pub rate: Rate,
    /// Requests that wait, per identity.
    pub pending_max: u32,
}

/// So many in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; never zero.
    pub count: u32,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

/// A kind of scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// How much a misuse hurts.
    pub risk: Risk,
    /// The longest lifetime of a grant with such a scope; absent: the tier's.
    pub max_lifetime: Option<Lifetime>,
}

/// How much a misuse hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

impl Risk {
    /// Its name in bundles, policies and the catalog on the feed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Who answers for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// Who answers for why it exists.
    pub business: Owner,
    /// Who answers for how it works.
    pub technical: Owner,
}

impl Owners {
    /// The groups among them.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupName> {
        let group = |owner: &Owner| match owner {
            Owner::Group(name) => Some(name.clone()),
            Owner::Person(_) => None,
        };
        [&self.business, &self.technical].into_iter().filter_map(group).collect()
    }
}

/// A group or person that owns something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// `group:payments-leads`.
    Group(GroupName),
    /// `person:alice`.
    Person(PersonName),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Person(name) => write!(f, "person:{name}"),
        }
    }
}

/// What access is to.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The `aud`; no other resource has it.
    pub audience: Arc<str>,
    /// What it is for.
    pub purpose: String,
    /// Who answers for it.
    pub owner: Owners,
    /// What may be asked for on it, by name; never empty of operations.
    pub scopes: BTreeMap<ScopeName, Scope>,
    /// Extra claims of its credentials; their names hold a `/`.
    pub claims: Vec<(Arc<str>, Template)>,
    /// A header that the gateway adds after the check.
    pub inject: Option<Inject>,
    /// Where it is; absent: everywhere.
    pub regions: Option<Vec<String>>,
}

/// One thing that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it is for.
    pub purpose: String,
    /// Its class's name.
    pub class: Arc<str>,
    /// Its class's risk.
    pub risk: Risk,
    /// What it allows: `GET /v1/orders/{id}`.
    pub operations: Vec<Arc<str>>,
}

/// A header that a gateway adds, with a secret that the workload never sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// The header's name.
    pub header: String,
    /// The secret's name; its value is the gateway's.
    pub secret: Arc<str>,
}

/// A static secret that still exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What it is for.
    pub purpose: String,
    /// What it opens.
    pub resource: ResourceName,
    /// Who answers for it.
    pub owner: Owners,
    /// When it was made, or last rotated.
    pub created: Time,
    /// How often it must be rotated.
    pub rotate_every: Duration,
    /// When it ends.
    pub expires: Time,
    /// How to end it.
    pub revoke: String,
    /// Where it was found, when it is not yet under control.
    pub found_in: Option<String>,
}

/// Who enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// How it proves who it is.
    pub login: LoginRule,
    /// What it may follow and report.
    pub resources: Vec<ResourceName>,
}

/// A registered non-human identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: IdentityName,
    /// What it is for.
    pub purpose: String,
    /// Who answers for it.
    pub owner: Owners,
    /// Its tier's name.
    pub tier: Arc<str>,
    /// Its team's name.
    pub team: Arc<str>,
    /// The first moment at which it gets no new grants: the end of its `review_by` day, UTC.
    pub review_by: Time,
    /// Where it may ask; absent: everywhere.
    pub regions: Option<Vec<String>>,
    /// How it proves who it is.
    pub logins: Vec<LoginRule>,
}

/// How a caller proves who it is: all of it must match exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRule {
    /// The issuer's name, or `spiffe`.
    pub issuer: Arc<str>,
    /// Claims and their values; a list claim matches when it contains the value. `sub` is the SPIFFE ID, for `spiffe`.
    pub claims: BTreeMap<String, String>,
    /// The claim that names the human behind it.
    pub person: Option<String>,
}

/// Whose tokens are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in the bundle.
    pub name: Arc<str>,
    /// What it is for.
    pub purpose: String,
    /// Exactly the `iss`.
    pub url: String,
    /// Its keys.
    pub keys: IssuerKeys,
    /// The `aud` that its tokens must have.
    pub audience: String,
    /// Whose tokens these are.
    pub subjects: Subjects,
    /// Of people: the claim that is the person's name.
    pub name_claim: Option<String>,
    /// Who answers for it.
    pub owner: Owners,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKeys {
    /// A JWKS file of the bundle: its content.
    File(Arc<[u8]>),
    /// OpenID Connect discovery at its URL.
    Discovery,
}

/// Whose tokens an issuer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Workloads and gateways.
    Workloads,
    /// Humans.
    People,
}

/// A group of people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The issuer whose word counts for it; absent: that of every issuer for people, of which there is then at most one.
    pub issuer: Option<Arc<str>>,
    /// All of these claims of a login put its person in the group; never empty.
    pub claims: BTreeMap<String, String>,
    /// The webhook of the broker's configuration that reaches it.
    pub notify: Option<String>,
}

impl Group {
    /// Whether this issuer for people can put anybody in.
    // INVARIANT(a_group_is_of_its_issuer): another provider's word for it puts nobody in.
    #[must_use]
    pub fn is_of(&self, issuer: &str) -> bool {
        self.issuer.as_deref().is_none_or(|named| named == issuer)
    }
}

/// Everyone whom a bundle names.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// Groups, by name.
    pub groups: BTreeMap<GroupName, Group>,
    /// Accounts (issuer, name claim) of the persons that join several.
    pub accounts: BTreeMap<(Arc<str>, String), PersonName>,
    /// The persons that have an entry, each with its accounts.
    pub persons: BTreeMap<PersonName, Vec<(Arc<str>, String)>>,
}
