//! What the broker sees of a login: the claims that the bundle looks at, and the rule that matched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::policy::bundle::Bundle;
use crate::policy::catalog::{LoginRule, Subjects};
use crate::policy::login::{Claim, Login, SPIFFE_ISSUER};

/// For whoever wants to know why a login matched, or did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The login of the bundle that matched, as the bundle writes it; empty when none did.
    pub rule: String,
    /// The claims that count: those that logins of its issuer and groups name, or all of them when nothing matched.
    pub claims: BTreeMap<String, String>,
}

impl Bundle {
    /// What counts of a login.
    #[must_use]
    pub fn seen(&self, login: &Login) -> Seen {
        let matched = self.who(login).is_ok();
        let looked_at = self.looked_at(&login.issuer);
        let counts = |name: &str| !matched || looked_at.contains(name);
        let claims = login.claims.iter().filter(|(name, _)| counts(name)).take(CLAIMS_SHOWN);
        let claims = claims.map(|(name, claim)| (short(name), short(&text(claim)))).collect();
        Seen { rule: self.rule(login).unwrap_or_default(), claims }
    }

    fn rule(&self, login: &Login) -> Option<String> {
        let issuer = self.issuers.get(login.issuer.as_str());
        if let Some(issuer) = issuer.filter(|issuer| issuer.subjects == Subjects::People) {
            let claim = issuer.name_claim.as_deref().unwrap_or("sub");
            let name = login.text(claim)?;
            return Some(format!("issuer = {:?}, name = {name:?}", login.issuer));
        }
        self.logins.find(login).map(|(_, rule)| rule.to_string())
    }

    fn looked_at(&self, issuer: &str) -> BTreeSet<&str> {
        let mut claims: BTreeSet<&str> = self.logins.claims_of(issuer).collect();
        if let Some(known) = self.issuers.get(issuer) {
            claims.extend(known.name_claim.as_deref());
            if known.subjects == Subjects::People {
                claims.insert("email_verified");
                let of = |issued: &Option<_>| issued.as_deref().is_none_or(|name| name == issuer);
                let groups = self.people.groups.values().filter(|group| of(&group.issuer));
                claims.extend(groups.flat_map(|group| group.claims.keys().map(String::as_str)));
            }
        }
        claims
    }
}

impl fmt::Display for LoginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.issuer == SPIFFE_ISSUER {
            let id = self.claims.get("sub").map_or("", String::as_str);
            return write!(f, "spiffe = {id:?}");
        }
        let claims = self.claims.iter().map(|(name, value)| {
            let bare =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            if bare { format!("{name} = {value:?}") } else { format!("{name:?} = {value:?}") }
        });
        let claims: Vec<String> = claims.collect();
        write!(f, "issuer = {:?}, claims = {{ {} }}", &*self.issuer, claims.join(", "))
    }
}

/// A claim as one text.
#[must_use]
pub fn text(claim: &Claim) -> String {
    match claim {
        Claim::Text(text) => text.clone(),
        Claim::List(list) => list.join(", "),
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_SHOWN).collect()
}

/// Claims that are shown: more than any issuer's token has.
const CLAIMS_SHOWN: usize = 64;
/// Characters of each: a person may be in many groups.
const TEXT_SHOWN: usize = 512;
