//! Who a verified caller is: what its token says, and what the bundle makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_core::event::Actor;
use protem_core::request::Workload;
use protem_verify::names::{GatewayName, GroupName, PersonName, ResourceName};

/// The issuer of the logins that `protem dev` and `protem demo` sign for their own user.
pub const DEV_ISSUER: &str = "protem-dev";
/// The issuer of a login by an X.509-SVID; its subject is the SPIFFE ID.
pub const SPIFFE_ISSUER: &str = "spiffe";
/// The claim of a dev login that says which name it is for.
pub const DEV_AS: &str = "protem/as";
/// The claim of a dev login that says what the name is: `identity`, `gateway` or `person`.
pub const DEV_KIND: &str = "protem/kind";
/// The claim of a dev login that lists a person's groups.
pub const DEV_GROUPS: &str = "groups";

/// One claim of a verified token. Numbers and flags are kept as their text: claims match exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A text, number or flag.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

impl Claim {
    /// Whether it is `wanted`, or a list that holds it.
    #[must_use]
    pub fn matches(&self, wanted: &str) -> bool {
        match self {
            Self::Text(text) => text == wanted,
            Self::List(list) => list.iter().any(|text| text == wanted),
        }
    }
}

/// What a caller proved: whose word it is, and what that word says. Everything in it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The issuer's name in the bundle, or [`DEV_ISSUER`], or [`SPIFFE_ISSUER`].
    pub issuer: String,
    /// The issuer's `sub`, or the SPIFFE ID.
    pub subject: String,
    /// The rest.
    pub claims: BTreeMap<String, Claim>,
}

impl Login {
    /// A dev login of an identity of the bundle.
    #[must_use]
    pub fn dev_identity(name: &str) -> Self {
        Self::dev(name, "identity", None)
    }

    /// A dev login of a gateway of the bundle.
    #[must_use]
    pub fn dev_gateway(name: &str) -> Self {
        Self::dev(name, "gateway", None)
    }

    /// A dev login of a person in these groups.
    #[must_use]
    pub fn dev_person(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Self::dev(name, "person", Some(groups))
    }

    /// The text of a claim, `sub` included; a list has none.
    #[must_use]
    pub fn text(&self, claim: &str) -> Option<&str> {
        if claim == "sub" {
            return Some(&self.subject);
        }
        match self.claims.get(claim)? {
            Claim::Text(text) => Some(text),
            Claim::List(_) => None,
        }
    }

    /// Whether a claim is, or as a list holds, `wanted`.
    #[must_use]
    pub fn says(&self, claim: &str, wanted: &str) -> bool {
        if claim == "sub" {
            return self.subject == wanted;
        }
        self.claims.get(claim).is_some_and(|claim| claim.matches(wanted))
    }

    fn dev(name: &str, kind: &str, groups: Option<Vec<String>>) -> Self {
        let mut claims = BTreeMap::from([
            (DEV_AS.to_owned(), Claim::Text(name.to_owned())),
            (DEV_KIND.to_owned(), Claim::Text(kind.to_owned())),
        ]);
        if let Some(groups) = groups {
            claims.insert(DEV_GROUPS.to_owned(), Claim::List(groups));
        }
        Self { issuer: DEV_ISSUER.to_owned(), subject: name.to_owned(), claims }
    }
}

/// A person: one issuer and name claim, or a `[person]` entry that joins several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Person {
    /// The stable name.
    pub name: PersonName,
    /// The bundle's groups that the login puts it in.
    pub groups: Vec<GroupName>,
    /// Those that another account of theirs may put them in: this login cannot tell.
    pub elsewhere: Vec<GroupName>,
}

impl Person {
    /// Somebody with one account.
    #[must_use]
    pub fn new(name: PersonName, groups: Vec<GroupName>) -> Self {
        Self { name, groups, elsewhere: Vec::new() }
    }
}

/// Who a login is, by the bundle in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A registered non-human identity.
    Workload {
        /// The identity and who authenticated.
        by: Workload,
        /// The human behind it, when its login names a claim that tells and a `[person]` has that account.
        behind: Option<PersonName>,
    },
    /// A human.
    Person(Person),
    /// A gateway of the catalog.
    Gateway {
        /// Its name.
        name: GatewayName,
        /// What it may follow and report.
        resources: Vec<ResourceName>,
    },
}

/// A caller: who it is, and the login that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// What it proved.
    pub login: Arc<Login>,
}

impl Caller {
    /// The caller as the journal names it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor(match &self.principal {
            Principal::Workload { by, .. } => format!("identity:{}", by.identity).into(),
            Principal::Person(person) => format!("person:{}", person.name).into(),
            Principal::Gateway { name, .. } => format!("gateway:{name}").into(),
        })
    }
}

/// A verified login that is nobody's in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no identity, person or gateway has this login: {why_not}")]
pub struct NoMatch {
    /// The nearest login of the bundle and the claim that differs, as far as the caller may know.
    pub why_not: String,
    /// The nearest login, where only those who keep the bundle may know it.
    pub untold: Option<String>,
}
