//! From a verified login to who it is: claims match exactly, and a login is exactly one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protem_core::request::Workload;
use protem_verify::codes::policy;
use protem_verify::names::{GatewayName, GroupName, IdentityName, PersonName, Subject};

use crate::policy::bundle::Bundle;
use crate::policy::catalog::{LoginRule, People, Subjects};
use crate::policy::finding::{At, Findings, did_you_mean};
use crate::policy::login::{
    DEV_AS, DEV_GROUPS, DEV_ISSUER, DEV_KIND, Login, NoMatch, Person, Principal, SPIFFE_ISSUER,
};
use crate::policy::parse::{Parsed, owner_pins};
use crate::policy::seen::text;

/// Whose a login is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// An identity's.
    Identity(IdentityName),
    /// A gateway's.
    Gateway(GatewayName),
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity(name) => write!(f, "identity `{name}`"),
            Self::Gateway(name) => write!(f, "gateway `{name}`"),
        }
    }
}

/// Every login rule of a bundle, by issuer and by which claims it looks at.
#[derive(Debug, Default)]
pub struct Logins(HashMap<Arc<str>, Vec<Looks>>);

/// The rules of one issuer that look at the same claims.
#[derive(Debug)]
struct Looks {
    claims: Vec<String>,
    rules: HashMap<Vec<String>, Vec<(Whose, LoginRule)>>,
}

/// Different sets of claims that the logins of one issuer look at: each costs every caller a lookup.
const LOOKS_MAX: usize = 32;
/// Combinations of list values that are tried for one login, and rules that are read to explain a mismatch.
const TRIES_MAX: usize = 1_024;

impl Logins {
    /// Indexes the rules of identities and gateways; two that one login could match are an error.
    #[must_use]
    pub fn new(parsed: &Parsed, findings: &mut Findings) -> Self {
        let mut logins = Self::default();
        for identity in parsed.identities.values() {
            for rule in &identity.logins {
                logins.add(Whose::Identity(identity.name.clone()), rule);
            }
        }
        for (name, gateway) in &parsed.catalog.gateways {
            logins.add(Whose::Gateway(name.clone()), &gateway.login);
        }
        for (issuer, looks) in &logins.0 {
            if looks.len() > LOOKS_MAX {
                let message = format!(
                    "logins of `{issuer}` look at more than {LOOKS_MAX} different sets of claims"
                );
                findings.error(&At::bundle(), policy::TOO_LARGE, message);
                continue;
            }
            if &**issuer == DEV_ISSUER {
                continue;
            }
            for (whose, other) in shared(looks) {
                let at = place(parsed, &whose);
                let message = format!(
                    "{whose} and {other} share a login of `{issuer}`; add a claim that tells them apart"
                );
                findings.error(&at, policy::SHARED_LOGIN, message);
            }
        }
        logins
    }

    fn add(&mut self, whose: Whose, rule: &LoginRule) {
        let looks = self.0.entry(rule.issuer.clone()).or_default();
        let claims: Vec<String> = rule.claims.keys().cloned().collect();
        let values: Vec<String> = rule.claims.values().cloned().collect();
        let at = looks.iter().position(|look| look.claims == claims).unwrap_or_else(|| {
            looks.push(Looks { claims, rules: HashMap::new() });
            looks.len().saturating_sub(1)
        });
        if let Some(look) = looks.get_mut(at) {
            look.rules.entry(values).or_default().push((whose, rule.clone()));
        }
    }

    /// The one rule that a login matches; none when it matches none, or rules of two.
    #[must_use]
    pub fn find(&self, login: &Login) -> Option<(&Whose, &LoginRule)> {
        let mut found: Option<(&Whose, &LoginRule)> = None;
        for look in self.0.get(login.issuer.as_str())? {
            for values in look.values(login)? {
                for (whose, rule) in look.rules.get(&values).into_iter().flatten() {
                    if found.is_some_and(|(other, _)| other != whose) {
                        return None;
                    }
                    found = Some((whose, rule));
                }
            }
        }
        found
    }

    /// Whether there is any rule of this issuer.
    fn has(&self, issuer: &str) -> bool {
        self.0.contains_key(issuer)
    }

    /// The claims that the logins of an issuer look at, also those that name the person behind it.
    pub(in crate::policy) fn claims_of(&self, issuer: &str) -> impl Iterator<Item = &str> {
        let looks = self.0.get(issuer).into_iter().flatten();
        looks.flat_map(|look| {
            let rules = look.rules.values().flatten();
            let persons = rules.filter_map(|(_, rule)| rule.person.as_deref());
            look.claims.iter().map(String::as_str).chain(persons)
        })
    }

    /// Why a login is nobody's. Where anybody can get a token, one that is not of the owner whom a rule pins learns nothing
    /// of that rule: by asking again and again it would learn all of them.
    fn nobody(&self, login: &Login, pins: Option<&[&str]>) -> NoMatch {
        let issuer = &login.issuer;
        let near = |pins: &[&str]| {
            let (whose, differs) = self.nearest(login, pins)?;
            Some(format!("the nearest is {whose}, but {differs}"))
        };
        let nearest = near(&[]);
        let own = match pins {
            None => nearest.clone(),
            Some(pins) => near(pins),
        };
        let why_not = match (own, &nearest) {
            (Some(own), _) => own,
            (None, Some(_)) => {
                let pins = pins.into_iter().flatten().copied();
                let said = ["sub"].into_iter().chain(pins).filter_map(|claim| said(login, claim));
                format!(
                    "no login of `{issuer}` matches it: {}",
                    said.collect::<Vec<_>>().join(", ")
                )
            }
            (None, None) if self.has(issuer) => {
                format!("logins of two identities or gateways match it, all by `{issuer}`")
            }
            (None, None) => format!("no identity or gateway has a login of `{issuer}`"),
        };
        let untold = nearest.filter(|nearest| *nearest != why_not);
        NoMatch { why_not, untold }
    }

    /// The rule of this issuer that comes nearest, of those whose `pins` match, and the first claim of it that differs.
    fn nearest(&self, login: &Login, pins: &[&str]) -> Option<(&Whose, String)> {
        let looks = self.0.get(login.issuer.as_str())?;
        let rules = looks.iter().flat_map(|look| look.rules.values().flatten()).take(TRIES_MAX);
        let pinned = |(_, rule): &&(Whose, LoginRule)| {
            let mut pins = rule.claims.iter().filter(|(claim, _)| pins.contains(&claim.as_str()));
            pins.all(|(claim, value)| login.says(claim, value))
        };
        let rules = rules.filter(pinned);
        let scored = rules.map(|(whose, rule)| {
            let says = |(claim, value): &(&String, &String)| login.says(claim, value);
            let matching = rule.claims.iter().filter(says).count();
            (matching, whose, rule)
        });
        let best = scored.max_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)))?;
        let (claim, wanted) =
            best.2.claims.iter().find(|(claim, value)| !login.says(claim, value))?;
        let found = match claim.as_str() {
            "sub" => Some(format!("`{}`", login.subject)),
            claim => login.claims.get(claim).map(|found| format!("`{}`", text(found))),
        };
        let differs = match found {
            Some(found) => format!("its claim `{claim}` is {found}, not `{wanted}`"),
            None => {
                let known = login.claims.keys().map(String::as_str);
                let hint = did_you_mean(claim, known);
                format!("it has no claim `{claim}`{hint}; `{wanted}` is wanted")
            }
        };
        Some((best.1, differs))
    }
}

impl Looks {
    /// Every combination of values that a login has for these claims; none when there are too many to try.
    fn values(&self, login: &Login) -> Option<Vec<Vec<String>>> {
        let mut all: Vec<Vec<String>> = vec![Vec::new()];
        for claim in &self.claims {
            let values: Vec<String> = match (claim.as_str(), login.claims.get(claim)) {
                ("sub", _) => vec![login.subject.clone()],
                (_, Some(crate::policy::login::Claim::Text(text))) => vec![text.clone()],
                (_, Some(crate::policy::login::Claim::List(list))) => list.clone(),
                (_, None) => Vec::new(),
            };
            if values.len().saturating_mul(all.len()) > TRIES_MAX {
                return None;
            }
            let longer = |head: &Vec<String>, value: &String| {
                head.iter().chain([value]).cloned().collect::<Vec<String>>()
            };
            all = all
                .iter()
                .flat_map(|head| values.iter().map(|value| longer(head, value)).collect::<Vec<_>>())
                .collect();
        }
        Some(all)
    }
}

/// A claim as the caller itself wrote it.
fn said(login: &Login, claim: &str) -> Option<String> {
    let value: String = login.text(claim)?.chars().take(SAID_MAX).collect();
    Some(format!("its `{claim}` is `{value}`"))
}

/// Characters of a claim that its caller is shown again.
const SAID_MAX: usize = 128;

/// Pairs of different holders whose rules do not contradict each other: one login could match both.
fn shared(looks: &[Looks]) -> Vec<(Whose, Whose)> {
    let mut pairs = Vec::new();
    for (at, look) in looks.iter().enumerate() {
        for other in looks.iter().skip(at) {
            let common: Vec<&String> =
                look.claims.iter().filter(|claim| other.claims.contains(claim)).collect();
            let key = |look: &Looks, values: &[String]| -> Vec<String> {
                let zipped = look.claims.iter().zip(values);
                zipped
                    .filter(|(claim, _)| common.contains(claim))
                    .map(|(_, value)| value.clone())
                    .collect()
            };
            let mut joined: HashMap<Vec<String>, Whose> = HashMap::new();
            for (values, holders) in &look.rules {
                for (whose, _) in holders {
                    joined.entry(key(look, values)).or_insert_with(|| whose.clone());
                }
            }
            for (values, holders) in &other.rules {
                for (whose, _) in holders {
                    let first = joined.get(&key(other, values));
                    if let Some(first) = first.filter(|first| *first != whose) {
                        pairs.push((whose.clone(), first.clone()));
                    }
                }
            }
        }
    }
    pairs.sort();
    pairs.truncate(TRIES_MAX);
    pairs
}

fn place(parsed: &Parsed, whose: &Whose) -> At {
    let key = match whose {
        Whose::Identity(name) => format!("identity {name}"),
        Whose::Gateway(name) => format!("gateway {name}"),
    };
    parsed.places.get(&key).cloned().unwrap_or_else(At::bundle)
}

impl Bundle {
    /// Who a verified login is.
    ///
    /// # Errors
    /// When it is nobody's, with the nearest login and the claim that differs, as far as the caller may know them.
    pub fn who(&self, login: &Login) -> Result<Principal, NoMatch> {
        let no = |why_not: String| NoMatch { why_not, untold: None };
        if login.issuer == DEV_ISSUER {
            if !self.dev {
                return Err(no(format!("`{DEV_ISSUER}` signs for `protem dev` only")));
            }
            return self.who_dev(login).map_err(no);
        }
        let issuer = self.issuers.get(login.issuer.as_str());
        if let Some(issuer) = issuer.filter(|issuer| issuer.subjects == Subjects::People) {
            let claim = issuer.name_claim.as_deref().unwrap_or("sub");
            let name = login.text(claim).ok_or_else(|| no(format!("it has no claim `{claim}`")))?;
            // INVARIANT(an_unproven_address_names_nobody): at many issuers anybody may type one (OpenID Connect Core §5.7).
            if claim == EMAIL && login.text(EMAIL_VERIFIED) != Some("true") {
                let why = "its issuer does not say that the address is verified (`email_verified`)";
                return Err(no(format!("its `{EMAIL}` names nobody: {why}")));
            }
            let name = self.people.person(&login.issuer, name).map_err(no)?;
            let elsewhere = self.elsewhere(&name, &self.account(login));
            let groups = self.people.groups_of(login);
            return Ok(Principal::Person(Person { name, groups, elsewhere }));
        }
        if issuer.is_none() && login.issuer != SPIFFE_ISSUER {
            let hint = did_you_mean(&login.issuer, self.issuers.keys().map(|name| &**name));
            return Err(no(format!("the bundle has no issuer `{}`{hint}", login.issuer)));
        }
        let Some((whose, rule)) = self.logins.find(login) else {
            let pins = issuer.and_then(|issuer| owner_pins(&issuer.url));
            return Err(self.logins.nobody(login, pins));
        };
        match whose {
            Whose::Identity(name) => Ok(Principal::Workload {
                by: Workload {
                    identity: name.clone(),
                    subject: subject(login, Some(rule)).map_err(no)?,
                },
                behind: self.behind(rule, login).unwrap_or_default(),
            }),
            Whose::Gateway(name) => self.gateway(name.as_str()).map_err(no),
        }
    }

    /// The account that a person's login is of: its issuer, and the name that the issuer gives them.
    #[must_use]
    pub fn account(&self, login: &Login) -> String {
        let claim = self.issuers.get(login.issuer.as_str());
        let claim = claim.and_then(|issuer| issuer.name_claim.as_deref()).unwrap_or("sub");
        format!("{}|{}", login.issuer, login.text(claim).unwrap_or_default())
    }

    /// The groups that a person's accounts beside this one may put them in: those of its issuers. Who is in a group is known of
    /// an account only while somebody signs in by it. A dev login names all groups itself.
    pub(in crate::policy) fn elsewhere(&self, name: &PersonName, account: &str) -> Vec<GroupName> {
        if account.split_once('|').is_some_and(|(issuer, _)| issuer == DEV_ISSUER) {
            return Vec::new();
        }
        let accounts = self.people.persons.get(name).into_iter().flatten();
        let others = accounts.filter(|(issuer, name)| format!("{issuer}|{name}") != account);
        let mut groups: Vec<GroupName> =
            others.flat_map(|(issuer, _)| self.groups_by(issuer)).cloned().collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The groups that an issuer's word can put people in.
    pub(in crate::policy) fn groups_by(&self, issuer: &str) -> impl Iterator<Item = &GroupName> {
        let of_people =
            self.issuers.get(issuer).is_some_and(|known| known.subjects == Subjects::People);
        let groups = self.people.groups.iter();
        groups.filter(move |(_, group)| of_people && group.is_of(issuer)).map(|(name, _)| name)
    }

    /// The identity whose login this is, and the rule that says so; a dev login has none.
    pub(in crate::policy) fn whose(
        &self,
        login: &Login,
    ) -> Option<(IdentityName, Option<&LoginRule>)> {
        if login.issuer == DEV_ISSUER {
            let Principal::Workload { by, .. } = self.who(login).ok()? else { return None };
            return Some((by.identity, None));
        }
        match self.logins.find(login)? {
            (Whose::Identity(name), rule) => Some((name.clone(), Some(rule))),
            (Whose::Gateway(_), _) => None,
        }
    }

    /// The person behind a login: none when its rule names no claim, an error when it does and nobody has that account.
    pub(in crate::policy) fn behind(
        &self,
        rule: &LoginRule,
        login: &Login,
    ) -> Result<Option<PersonName>, String> {
        let Some(claim) = &rule.person else { return Ok(None) };
        let name = login.text(claim).ok_or_else(|| format!("the login has no claim `{claim}`"))?;
        let known = self.people.accounts.get(&(Arc::from(login.issuer.as_str()), name.to_owned()));
        known
            .cloned()
            .map(Some)
            .ok_or_else(|| format!("no `[person]` has the {} account `{name}`", login.issuer))
    }

    fn who_dev(&self, login: &Login) -> Result<Principal, String> {
        let name = login.text(DEV_AS).ok_or("the dev login names nobody")?;
        match login.text(DEV_KIND) {
            Some("identity") => {
                let known = IdentityName::try_from(name)
                    .ok()
                    .filter(|name| self.identities.contains_key(name));
                let Some(identity) = known else {
                    let names = self.identities.keys().map(IdentityName::as_str);
                    return Err(format!(
                        "the bundle has no identity `{name}`{}",
                        did_you_mean(name, names)
                    ));
                };
                Ok(Principal::Workload {
                    by: Workload { identity, subject: subject(login, None)? },
                    behind: None,
                })
            }
            Some("gateway") => self.gateway(name),
            Some("person") => {
                let name = PersonName::try_from(name).map_err(|bad| bad.to_string())?;
                let in_dev = |group: &&GroupName| login.says(DEV_GROUPS, group.as_str());
                let mut groups = self.people.groups_of(login);
                groups.extend(self.people.groups.keys().filter(in_dev).cloned());
                groups.sort();
                groups.dedup();
                Ok(Principal::Person(Person::new(name, groups)))
            }
            _ => Err(format!("`{DEV_KIND}` is none of identity, gateway and person")),
        }
    }

    fn gateway(&self, name: &str) -> Result<Principal, String> {
        let name = GatewayName::try_from(name).map_err(|bad| bad.to_string())?;
        match self.catalog.gateways.get(&name) {
            Some(gateway) => Ok(Principal::Gateway { resources: gateway.resources.clone(), name }),
            None => {
                let hint = did_you_mean(
                    name.as_str(),
                    self.catalog.gateways.keys().map(GatewayName::as_str),
                );
                Err(format!("the bundle has no gateway `{name}`{hint}"))
            }
        }
    }
}

impl People {
    /// A person's stable name: of a `[person]` with this account, else the account itself.
    pub(in crate::policy) fn person(&self, issuer: &str, name: &str) -> Result<PersonName, String> {
        if let Some(person) = self.accounts.get(&(Arc::from(issuer), name.to_owned())) {
            return Ok(person.clone());
        }
        PersonName::try_from(format!("{issuer}|{name}").as_str()).map_err(|bad| bad.to_string())
    }

    fn groups_of(&self, login: &Login) -> Vec<GroupName> {
        let all = |claims: &BTreeMap<String, String>| {
            claims.iter().all(|(claim, value)| login.says(claim, value))
        };
        let of = self.groups.iter().filter(|(_, group)| {
            group.is_of(&login.issuer) && !group.claims.is_empty() && all(&group.claims)
        });
        of.map(|(name, _)| name.clone()).collect()
    }
}

/// The claims of OpenID Connect Core §5.1 that are an address, and whether it was proven.
const EMAIL: &str = "email";
const EMAIL_VERIFIED: &str = "email_verified";

/// Who authenticated. Where the rule names the claim of the human behind a login, that is part of it: all runs of a CI job
/// have the issuer's one `sub`, whoever started them.
// INVARIANT(a_grant_is_of_one_human): nobody takes up, renews or holds what another one's run was given.
fn subject(login: &Login, rule: Option<&LoginRule>) -> Result<Subject, String> {
    let mut text = if login.issuer == SPIFFE_ISSUER {
        login.subject.clone()
    } else {
        format!("{}|{}", login.issuer, login.subject)
    };
    if let Some(claim) = rule.and_then(|rule| rule.person.as_deref())
        && let Some(human) = login.text(claim)
    {
        text = format!("{text}|{claim}={human}");
    }
    Subject::try_from(text.as_str()).map_err(|bad| bad.to_string())
}
