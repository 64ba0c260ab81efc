//! A bundle's TOML as it is written: every value knows its place, every unknown key is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

/// A text and its place.
pub type Text = Spanned<String>;
/// Named tables and where their names stand.
pub type Named<T> = BTreeMap<Text, T>;

/// `catalog.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalog {
    /// `[tier.internal]`
    pub tier: Named<Tier>,
    /// `[class.read]`
    pub class: Named<Class>,
    /// `[resource.orders-api]`
    pub resource: Named<Resource>,
    /// `[secret.crm-key]`
    pub secret: Named<Secret>,
    /// `[gateway.edge-eu-1]`
    pub gateway: Named<Gateway>,
}

/// A tier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Humantime.
    pub max_lifetime: Text,
    /// Humantime.
    pub default_lifetime: Text,
    /// Humantime.
    pub credential: Text,
    /// Humantime.
    pub max_staleness: Option<Text>,
    /// A count.
    pub active_max: Option<Spanned<u32>>,
    /// `50/s`
    pub rate: Option<Text>,
    /// A count.
    pub pending_max: Option<Spanned<u32>>,
    /// Not yet.
    pub bound: Option<Spanned<bool>>,
}

/// A class.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// `low`, `medium` or `high`.
    pub risk: Text,
    /// Humantime.
    pub max_lifetime: Option<Text>,
}

/// `owner = { business = …, technical = … }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Owner {
    /// `group:…` or `person:…`
    pub business: Option<Text>,
    /// `group:…` or `person:…`
    pub technical: Option<Text>,
}

/// A resource.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// The `aud`.
    pub audience: Text,
    /// Required.
    pub purpose: Option<Text>,
    /// Required.
    pub owner: Option<Owner>,
    /// `[resource.NAME.scope."orders:read"]`
    #[serde(default)]
    pub scope: Named<Scope>,
    /// `[resource.NAME.claims]`
    #[serde(default)]
    pub claims: Named<Text>,
    /// `{ header, secret }`
    pub inject: Option<Inject>,
    /// Absent: all.
    pub regions: Option<Vec<Text>>,
    /// Not yet.
    pub alg: Option<Text>,
    /// Not yet.
    pub status_list: Option<Spanned<bool>>,
}

/// A scope.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Required.
    pub purpose: Option<Text>,
    /// Its class's name.
    pub class: Text,
    /// `GET /v1/orders/{id}`
    #[serde(default)]
    pub operations: Vec<Text>,
}

/// A header that the gateway adds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// Its name.
    pub header: Text,
    /// The secret's name.
    pub secret: Text,
}

/// A static secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Required.
    pub purpose: Option<Text>,
    /// What it opens.
    pub resource: Text,
    /// Required.
    pub owner: Option<Owner>,
    /// Required.
    pub created: Option<Spanned<Datetime>>,
    /// Required; humantime.
    pub rotate_every: Option<Text>,
    /// Required.
    pub expires: Option<Spanned<Datetime>>,
    /// How to end it.
    pub revoke: Text,
    /// `managed` or `unmanaged`.
    pub status: Text,
    /// With `unmanaged`.
    pub found_in: Option<Text>,
}

/// A gateway.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// How it proves who it is; absent: only as a dev login.
    pub login: Option<Spanned<Login>>,
    /// What it may follow.
    pub resources: Vec<Text>,
}

/// A login: a SPIFFE ID, or an issuer and claims.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Login {
    /// A SPIFFE ID.
    pub spiffe: Option<Text>,
    /// An issuer's name.
    pub issuer: Option<Text>,
    /// What must match exactly.
    pub claims: Named<Text>,
    /// The claim that names the human behind it.
    pub person: Option<Text>,
}

/// `identities.toml` and `identities/*.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identities {
    /// `[identity."payments/reconciler"]`
    pub identity: Named<Identity>,
}

/// An identity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Required.
    pub purpose: Option<Text>,
    /// Required.
    pub owner: Option<Owner>,
    /// Its tier's name.
    pub tier: Text,
    /// Its team's name.
    pub team: Text,
    /// Required.
    pub review_by: Option<Spanned<Datetime>>,
    /// Absent: all.
    pub regions: Option<Vec<Text>>,
    /// `[[identity.NAME.login]]`
    #[serde(default)]
    pub login: Vec<Spanned<Login>>,
}

/// `people.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct People {
    /// `[group.payments-oncall]`
    pub group: Named<Group>,
    /// `[person.alice]`
    pub person: Named<Person>,
}

/// A group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The name of an issuer for people; absent where there is one only.
    pub issuer: Option<Text>,
    /// What must match exactly.
    pub claims: Named<Text>,
    /// A webhook of the broker's configuration.
    pub notify: Option<Text>,
}

/// A person with several accounts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Its accounts.
    pub logins: Vec<Account>,
}

/// One account of a person.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The issuer's name.
    pub issuer: Text,
    /// The value of the issuer's name claim.
    pub name: Text,
}

/// `issuers.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Issuers {
    /// `[issuer.github]`
    pub issuer: Named<Issuer>,
}

/// An issuer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Required.
    pub purpose: Option<Text>,
    /// Exactly the `iss`.
    pub url: Text,
    /// `file:idp.jwks.json`; absent: discovery.
    pub jwks: Option<Text>,
    /// The `aud` that is ours.
    pub audience: Text,
    /// `workloads` or `people`.
    pub r#for: Text,
    /// Of people: the name claim.
    pub name: Option<Text>,
    /// Required.
    pub owner: Option<Owner>,
}

/// `tests/*.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cases {
    /// `[[case]]`
    pub case: Vec<Spanned<Case>>,
}

/// A test case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// For people.
    pub name: Text,
    /// `emergency`, `approve`, `revoke`, `view`, `review` or `administer`; absent: a request for access.
    pub action: Option<Text>,
    /// Who asks, or whom it is about.
    pub identity: Option<Text>,
    /// On what.
    pub resource: Option<Text>,
    /// Which of its scopes.
    #[serde(default)]
    pub scopes: Vec<Text>,
    /// `{ id, kind }`
    pub task: Option<CaseTask>,
    /// Humantime; absent: the tier's default.
    pub lifetime: Option<Text>,
    /// What is unusual.
    #[serde(default)]
    pub findings: Vec<Text>,
    /// How many grants the identity holds.
    #[serde(default)]
    pub active: u32,
    /// When; absent: noon of 2026-01-01 UTC, and no review is overdue.
    pub now: Option<Spanned<Datetime>>,
    /// The broker's region.
    #[serde(default)]
    pub region: String,
    /// What the requester's token says; absent: the identity's first login.
    pub login: Option<CaseLogin>,
    /// Of a person: its name.
    pub person: Option<Text>,
    /// Of a person: its groups.
    #[serde(default)]
    pub groups: Vec<Text>,
    /// `issue`, `approval`, `permit` or `deny`.
    pub expect: Text,
    /// The policies that must decide it; absent: any.
    pub policies: Option<Vec<Text>>,
}

/// A case's task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseTask {
    /// Its id.
    pub id: Text,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
}

/// A case's login.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseLogin {
    /// The issuer's name.
    pub issuer: Text,
    /// Its claims.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
}
