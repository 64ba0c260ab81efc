//! The bundles of a world, with real policies, that take turns; who is who in them; and what they mean, in plain words.
//!
//! The second half is written from the bundles' texts by hand: checkers ask it, and never the code that they check.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use protem::policy::bundle::{Bundle, Files, Load};
use protem::policy::login::{Claim, Login, SPIFFE_ISSUER};
use protem_core::request::AccessRequest;
use protem_verify::ids::Hash;
use protem_verify::names::{IdentityName, ResourceName};

/// A human's account: its issuer, the name there, the groups that the issuer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub issuer: &'static str,
    pub name: &'static str,
    pub groups: &'static [&'static str],
}

const fn account(
    issuer: &'static str,
    name: &'static str,
    groups: &'static [&'static str],
) -> Account {
    Account { issuer, name, groups }
}

/// Everybody who decides, or tries to. Ann and Cy have two accounts; Dee's are joined by one bundle only; Eve and Ann also
/// start jobs; Cy and Sue answer for identities, Cy by the groups of one account; Fox is in no group; Gil is asked when nobody else decides.
pub const ACCOUNTS: [Account; 12] = [
    account("corp", "ann", &["desk"]),
    account("partner", "ann-p", &["desk"]),
    account("corp", "bob", &["desk"]),
    account("corp", "cy", &["desk", "ops-leads"]),
    account("partner", "cy-p", &["desk"]),
    account("corp", "dee", &["desk"]),
    account("partner", "dee-p", &["desk"]),
    account("corp", "eve", &["desk"]),
    account("corp", "sue", &["desk", "shop-leads"]),
    account("corp", "fox", &[]),
    account("corp", "gil", &["backup"]),
    account("corp", "hal", &["desk", "operators"]),
];

/// Who starts the jobs of `ops`: accounts of the CI system. Nobody's `[person]` has the last one.
const ACTORS: [&str; 3] = ["eve-ci", "ann-ci", "stray-ci"];

impl Account {
    /// The sign-in of its human.
    pub fn login(&self) -> Login {
        let groups = self.groups.iter().map(|group| (*group).to_owned()).collect();
        let claims = BTreeMap::from([
            ("name".to_owned(), Claim::Text(self.name.to_owned())),
            ("groups".to_owned(), Claim::List(groups)),
        ]);
        Login { issuer: self.issuer.to_owned(), subject: format!("sub-{}", self.name), claims }
    }

    /// As an approval records it.
    pub fn text(&self) -> String {
        format!("{}|{}", self.issuer, self.name)
    }
}

/// The account behind a text.
pub fn account_of(text: &str) -> Option<&'static Account> {
    ACCOUNTS.iter().find(|account| account.text() == text)
}

/// Who started the job of a task.
pub fn actor(task: &str) -> &'static str {
    let sum: usize = task.bytes().map(usize::from).sum();
    match sum % 8 {
        0 => ACTORS[2],
        odd if odd % 2 == 1 => ACTORS[0],
        _ => ACTORS[1],
    }
}

/// The sign-in of a job of an identity, for one task.
pub fn login(identity: &str, task: &str) -> Login {
    if identity.starts_with("shop") {
        let subject = format!("spiffe://sim.test/{identity}");
        return Login { issuer: SPIFFE_ISSUER.to_owned(), subject, claims: BTreeMap::new() };
    }
    let claims = [("repo", identity), ("actor", actor(task))];
    let claims = claims.map(|(name, text)| (name.to_owned(), Claim::Text(text.to_owned())));
    Login { issuer: "ci".to_owned(), subject: format!("repo:{identity}"), claims: claims.into() }
}

/// The bundles in the order of their letters. A is the first in force. B words the rule of `ops/c` anew, lets partners decide
/// nothing, joins Dee's accounts and shortens what writes. C is A but for `ops/d`, and for credentials: those of A live so long
/// that the next, under B or C, may die before them.
static BUNDLES: LazyLock<[Bundle; 3]> = LazyLock::new(|| {
    let all = [('a', "50s", "45s", ""), ('b', "40s", "10s", DEE), ('c', "50s", "10s", "")];
    all.map(|(letter, life, credential, dee)| {
        let life = format!("[class.write]\nrisk = \"high\"\nmax_lifetime = \"{life}\"\n");
        let catalog = CATALOG.replace("CREDENTIAL", credential);
        let files: [(&str, String); 5] = [
            ("catalog.toml", format!("{catalog}{life}")),
            ("identities.toml", IDENTITIES.to_owned()),
            ("issuers.toml", ISSUERS.to_owned()),
            ("people.toml", format!("{PEOPLE}{dee}")),
            ("rules.cedar", format!("{COMMON}{}", own(letter))),
        ];
        let files: Files = files.map(|(name, text)| (name.into(), text.into_bytes().into())).into();
        Bundle::load(files, Load::Activate, false).unwrap()
    })
});

fn own(letter: char) -> String {
    let (partners, of_d, of_c) = match letter {
        'a' => (PARTNERS, D_AT_ONCE, C_NEEDS_TWO),
        'b' => ("", "", C_NEEDS_TWO_SOON),
        _ => (PARTNERS, D_NEEDS_ONE, C_NEEDS_TWO),
    };
    let glass = if letter == 'b' { GLASS_C } else { GLASS_OPS };
    format!("{partners}{of_d}{of_c}{glass}")
}

/// Their digests.
pub fn digests() -> [Hash; 3] {
    BUNDLES.each_ref().map(Bundle::digest)
}

/// A bundle by its digest.
pub fn bundle(digest: Hash) -> Option<&'static Bundle> {
    BUNDLES.iter().find(|bundle| bundle.digest() == digest)
}

const CATALOG: &str = r#"
[tier.near]
max_lifetime = "1h"
default_lifetime = "30s"
credential = "CREDENTIAL"
max_staleness = "2s"
active_max = 8
rate = "1000/s"
pending_max = 5
[tier.far]
max_lifetime = "1h"
default_lifetime = "30s"
credential = "CREDENTIAL"
max_staleness = "5s"
active_max = 3
rate = "1000/s"
pending_max = 5
[resource.orders]
audience = "https://orders.test"
purpose = "Orders"
owner = { business = "group:shop-leads", technical = "group:shop-leads" }
[resource.orders.scope.read]
purpose = "Read"
class = "read"
operations = ["GET /read"]
[resource.orders.scope.write]
purpose = "Write"
class = "write"
operations = ["GET /write"]
[resource.billing]
audience = "https://billing.test"
purpose = "Bills"
owner = { business = "group:shop-leads", technical = "group:shop-leads" }
[resource.billing.scope.read]
purpose = "Read"
class = "read"
operations = ["GET /read"]
[resource.billing.scope.write]
purpose = "Write"
class = "write"
operations = ["GET /write"]
[class.read]
risk = "low"
"#;

const IDENTITIES: &str = r#"
[identity."shop/a"]
purpose = "Sells"
owner = { business = "group:shop-leads", technical = "group:shop-leads" }
tier = "near"
team = "shop"
review_by = 2099-01-01
[[identity."shop/a".login]]
spiffe = "spiffe://sim.test/shop/a"
[identity."shop/b"]
purpose = "Bills"
owner = { business = "group:shop-leads", technical = "group:shop-leads" }
tier = "near"
team = "shop"
review_by = 2099-01-01
[[identity."shop/b".login]]
spiffe = "spiffe://sim.test/shop/b"
[identity."ops/c"]
purpose = "Mends"
owner = { business = "group:ops-leads", technical = "group:ops-leads" }
tier = "far"
team = "ops"
review_by = 2099-01-01
[[identity."ops/c".login]]
issuer = "ci"
claims = { repo = "ops/c" }
person = "actor"
[identity."ops/d"]
purpose = "Deploys"
owner = { business = "group:ops-leads", technical = "group:ops-leads" }
tier = "far"
team = "ops"
review_by = 2099-01-01
[[identity."ops/d".login]]
issuer = "ci"
claims = { repo = "ops/d" }
person = "actor"
"#;

const ISSUERS: &str = r#"
[issuer.ci]
purpose = "CI jobs"
url = "https://ci.sim.test"
audience = "https://protem.test"
for = "workloads"
owner = { business = "group:ops-leads", technical = "group:ops-leads" }
[issuer.corp]
purpose = "Staff"
url = "https://corp.sim.test"
audience = "people"
for = "people"
name = "name"
owner = { business = "group:ops-leads", technical = "group:ops-leads" }
[issuer.partner]
purpose = "Partners"
url = "https://partner.sim.test"
audience = "people"
for = "people"
name = "name"
owner = { business = "group:ops-leads", technical = "group:ops-leads" }
"#;

const PEOPLE: &str = r#"
[group.desk]
issuer = "corp"
claims = { groups = "desk" }
[group.desk-p]
issuer = "partner"
claims = { groups = "desk" }
[group.ops-leads]
issuer = "corp"
claims = { groups = "ops-leads" }
[group.shop-leads]
issuer = "corp"
claims = { groups = "shop-leads" }
[group.backup]
issuer = "corp"
claims = { groups = "backup" }
[group.operators]
issuer = "corp"
claims = { groups = "operators" }
[person.ann]
logins = [
    { issuer = "corp", name = "ann" },
    { issuer = "partner", name = "ann-p" },
    { issuer = "ci", name = "ann-ci" },
]
[person.eve]
logins = [{ issuer = "corp", name = "eve" }, { issuer = "ci", name = "eve-ci" }]
[person.cy]
logins = [{ issuer = "corp", name = "cy" }, { issuer = "partner", name = "cy-p" }]
"#;

const DEE: &str = r#"
[person.dee]
logins = [{ issuer = "corp", name = "dee" }, { issuer = "partner", name = "dee-p" }]
"#;

const COMMON: &str = r#"
@id("reads")
permit (principal in Broker::"protem", action == Action::"issue", resource in Class::"read");
@id("a-writes")
permit (principal == Identity::"shop/a", action == Action::"issue", resource in Class::"write")
when { context.active < 30 };
@id("b-writes-orders")
permit (principal == Identity::"shop/b", action == Action::"issue", resource == Scope::"orders#write");
@id("b-writes-bills")
@approvals("2")
@decide_within("20s")
@remind("4s")
@then("backup")
permit (principal == Identity::"shop/b", action == Action::"request", resource == Scope::"billing#write");
@id("would-mind-what-is-new")
@mode("shadow")
forbid (principal, action in [Action::"issue", Action::"request", Action::"emergency"], resource)
when { context.findings.contains("new-resource") || context.findings.contains("new-scope") };
@id("desk-approves")
permit (principal in Group::"desk", action == Action::"approve", resource in Class::"write");
@id("backup-approves-bills")
permit (principal in Group::"backup", action == Action::"approve", resource in Resource::"billing");
@id("leads-approve-bills")
@owners("may")
permit (principal in Group::"ops-leads", action == Action::"approve", resource in Resource::"billing");
@id("desk-reviews")
permit (principal in Group::"desk", action == Action::"review", resource in Broker::"protem");
@id("operators-administer")
permit (principal in Group::"operators", action == Action::"administer", resource == Broker::"protem");
"#;

const PARTNERS: &str = r#"
@id("partners-approve-orders")
permit (principal in Group::"desk-p", action == Action::"approve", resource in Resource::"orders");
"#;
const D_AT_ONCE: &str = r#"
@id("d-writes")
permit (principal == Identity::"ops/d", action == Action::"issue", resource in Class::"write");
"#;
const D_NEEDS_ONE: &str = r#"
@id("d-writes-after-a-look")
@approvals("1")
@decide_within("20s")
permit (principal == Identity::"ops/d", action == Action::"request", resource in Class::"write");
"#;
const C_NEEDS_TWO: &str = r#"
@id("c-writes")
@approvals("2")
@decide_within("20s")
permit (principal == Identity::"ops/c", action == Action::"request", resource in Class::"write");
"#;
const C_NEEDS_TWO_SOON: &str = r#"
@id("c-writes")
@approvals("2")
@decide_within("15s")
permit (principal == Identity::"ops/c", action == Action::"request", resource in Class::"write");
"#;
const GLASS_OPS: &str = r#"
@id("ops-breaks-glass")
@max_lifetime("20s")
permit (principal in Team::"ops", action == Action::"emergency", resource in Class::"write");
"#;
const GLASS_C: &str = r#"
@id("c-breaks-glass")
@max_lifetime("20s")
permit (principal == Identity::"ops/c", action == Action::"emergency", resource in Class::"write");
"#;

// What the texts above mean.

/// What a bundle says to a request that is no emergency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    No,
    AtOnce,
    /// After so many people; the words that they sign off besides the request, and how long they have.
    After(usize, &'static str, Duration),
}

fn letter(bundle: Hash) -> char {
    let place = digests().iter().position(|digest| *digest == bundle);
    place.and_then(|place| ['a', 'b', 'c'].get(place).copied()).unwrap_or('?')
}

fn writes(request: &AccessRequest) -> bool {
    request.scopes.iter().any(|scope| scope.as_str() == "write")
}

/// What the bundle says to a request. Reading is free; of writing it depends who, on what.
pub fn says(bundle: Hash, request: &AccessRequest) -> Says {
    let by = request.by.identity.as_str();
    if !writes(request) {
        return Says::AtOnce;
    }
    let after = |count, words, secs| Says::After(count, words, Duration::from_secs(secs));
    let stray = by.starts_with("ops") && actor(request.task.id.as_str()) == ACTORS[2];
    match (by, request.resource.as_str(), letter(bundle)) {
        ("shop/a", ..) | ("shop/b", "orders", _) | ("ops/d", _, 'a') => Says::AtOnce,
        ("shop/b", "billing", _) => after(2, "b-writes-bills", 20),
        ("ops/c" | "ops/d", ..) if stray => Says::No,
        ("ops/c", _, 'b') => after(2, "c-writes, soon", 15),
        ("ops/c", ..) => after(2, "c-writes", 20),
        ("ops/d", _, 'c') => after(1, "d-writes-after-a-look", 20),
        _ => Says::No,
    }
}

/// The longest that a bundle lets a request last.
pub fn longest(bundle: Hash, request: &AccessRequest) -> Duration {
    let secs = if !writes(request) { 3_600 } else { 50 };
    let secs = if writes(request) && letter(bundle) == 'b' { 40 } else { secs };
    Duration::from_secs(secs)
}

/// How many grants an identity may have active at once: those of `ops` are trusted less far.
pub fn active_max(identity: &IdentityName) -> usize {
    if identity.as_str().starts_with("shop") { 8 } else { 3 }
}

/// Whether the bundle lets this emergency happen.
pub fn glass(bundle: Hash, request: &AccessRequest) -> bool {
    let by = request.by.identity.as_str();
    let all_write = request.scopes.iter().all(|scope| scope.as_str() == "write");
    let who = by == "ops/c" || (by == "ops/d" && letter(bundle) != 'b');
    who && all_write && !request.purpose.as_str().is_empty()
}

/// The human whom an account is taken for under a bundle.
pub fn human(bundle: Hash, account: &Account) -> String {
    match (account.name, letter(bundle)) {
        ("ann" | "ann-p", _) => "ann".to_owned(),
        ("cy" | "cy-p", _) => "cy".to_owned(),
        ("eve", _) => "eve".to_owned(),
        ("dee" | "dee-p", 'b') => "dee".to_owned(),
        _ => account.text(),
    }
}

/// The human who started the job of a request, where anybody knows.
pub fn behind(request: &AccessRequest) -> Option<&'static str> {
    let ops = request.by.identity.as_str().starts_with("ops");
    match actor(request.task.id.as_str()) {
        "eve-ci" if ops => Some("eve"),
        "ann-ci" if ops => Some("ann"),
        _ => None,
    }
}

/// The groups whose word counts for writing on a resource.
pub fn deciders(bundle: Hash, resource: &ResourceName) -> Vec<&'static str> {
    match (resource.as_str(), letter(bundle)) {
        ("billing", _) => vec!["desk", "backup", "ops-leads"],
        (_, 'b') => vec!["desk"],
        _ => vec!["desk", "desk-p"],
    }
}

/// The groups that an account is in, as the bundles name them.
fn groups(account: &Account) -> impl Iterator<Item = &'static str> {
    let partner = account.issuer == "partner";
    let named = move |group: &&'static str| if partner { "desk-p" } else { *group };
    account.groups.iter().map(named)
}

/// Whether an account's human is, by this account or another one, among those who answer for an identity.
pub fn owns(bundle: Hash, account: &Account, identity: &IdentityName) -> bool {
    let leads = if identity.as_str().starts_with("shop") { "shop-leads" } else { "ops-leads" };
    let human = human(bundle, account);
    let mut theirs = ACCOUNTS.iter().filter(|other| self::human(bundle, other) == human);
    theirs.any(|other| groups(other).any(|group| group == leads))
}

/// Whether a rule lets this account decide about writing, be it whose it may.
pub fn decides(bundle: Hash, account: &Account, resource: &ResourceName) -> bool {
    let deciders = deciders(bundle, resource);
    groups(account).any(|group| deciders.contains(&group))
}

/// Whether owners of the identity count: of bills the leads of `ops` do, as the rule for them says.
pub fn owners_count(account: &Account, resource: &ResourceName) -> bool {
    resource.as_str() == "billing" && groups(account).any(|group| group == "ops-leads")
}

/// Whether an account may look at emergencies afterwards.
pub fn reviews(account: &Account) -> bool {
    groups(account).any(|group| group == "desk")
}
