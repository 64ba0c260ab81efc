//! What a broker tells before anybody signs in: where people sign in, and for whom a job's token must be.

use http::Uri;
use protem_verify::codes::tool;
use serde::Deserialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::token::base;
use crate::fetch::web::Web;
use crate::serve::oidc::PeopleIssuer;

/// The broker's `/.well-known/protem`.
#[derive(Clone, Debug, Deserialize)]
pub struct Welcome {
    /// The issuer of its credentials, which is also whom JWT-SVIDs are for unless its settings say another audience.
    #[serde(default)]
    pub issuer: String,
    /// Where people sign in.
    pub people: Vec<PeopleIssuer>,
    /// The audiences of the issuers for workloads.
    pub audiences: Vec<String>,
}

impl Welcome {
    /// Asks the broker.
    ///
    /// # Errors
    /// When it cannot be reached, or does not say it.
    pub async fn of(broker: &Uri, web: &Web) -> Result<Self, Failure> {
        let url = format!("{}/.well-known/protem", base(broker));
        let unreachable = |why: String| {
            let what = format!("{broker} does not tell where to sign in");
            Failure::of(Exit::Unreachable, tool::UNREACHABLE, what).because(why)
        };
        let said = web.get(&url, None).await.map_err(unreachable)?;
        serde_json::from_value(said).map_err(|why| unreachable(why.to_string()))
    }

    /// The issuer for people that is called so, or the only one.
    ///
    /// # Errors
    /// When there is none, or several and none is named.
    pub fn issuer(self, named: Option<&str>) -> Result<PeopleIssuer, Failure> {
        let all: Vec<String> = self.people.iter().map(|one| format!("`{}`", one.name)).collect();
        let (some, all) = (self.people.len(), all.join(", "));
        let mut fitting =
            self.people.into_iter().filter(|one| named.is_none_or(|name| one.name == name));
        let why = match (fitting.next(), named) {
            (Some(one), Some(_)) => return Ok(one),
            (Some(one), None) if some == 1 => return Ok(one),
            (Some(_), None) => format!("people sign in at any of {all}"),
            (None, Some(name)) if some > 0 => {
                format!("the broker has no issuer `{name}`, but {all}")
            }
            (None, _) => "the broker's bundle has no issuer for people".to_owned(),
        };
        Err(Failure::of(Exit::Usage, tool::NO_ISSUER, why))
    }

    /// The audience that a job's token must be for: one that is the broker's own address. A broker that could name any
    /// audience would get tokens that are good elsewhere.
    ///
    /// # Errors
    /// When the broker names none of its own.
    pub fn audience(&self, broker: &Uri) -> Result<&str, Failure> {
        own(self.audiences.iter().map(String::as_str), broker)
    }

    /// The same for a JWT-SVID.
    ///
    /// # Errors
    /// When the broker's issuer is not its own address.
    pub fn svid_audience(&self, broker: &Uri) -> Result<&str, Failure> {
        own([self.issuer.as_str()].into_iter().filter(|issuer| !issuer.is_empty()), broker)
    }
}

fn own<'a>(named: impl Iterator<Item = &'a str> + Clone, broker: &Uri) -> Result<&'a str, Failure> {
    let is_own = |named: &&str| {
        let uri: Option<Uri> = named.parse().ok();
        uri.is_some_and(|uri| uri.host().is_some() && uri.host() == broker.host())
    };
    named.clone().find(is_own).ok_or_else(|| {
        let what = match named.clone().next() {
            Some(other) => format!(
                "the broker at {broker} wants a token for `{other}`, which is not its own address"
            ),
            None => format!("the broker at {broker} names no audience"),
        };
        Failure::of(Exit::NotAuthenticated, tool::AUDIENCE, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(people: &[&str], audiences: &[&str]) -> Welcome {
        let issuer = |name: &&str| PeopleIssuer {
            name: (*name).to_owned(),
            issuer: String::new(),
            client_id: String::new(),
            claims: Vec::new(),
        };
        Welcome {
            issuer: String::new(),
            people: people.iter().map(issuer).collect(),
            audiences: audiences.iter().map(|one| (*one).to_owned()).collect(),
        }
    }

    #[track_caller]
    fn check(people: &[&str], named: Option<&str>, expect: Option<&str>) {
        let found = welcome(people, &[]).issuer(named);
        assert_eq!(found.map(|one| one.name).ok().as_deref(), expect);
    }

    #[test]
    fn people_sign_in_at_the_only_issuer_or_the_one_they_name() {
        check(&["corp"], None, Some("corp"));
        check(&["corp", "partner"], None, None);
        check(&["corp", "partner"], Some("partner"), Some("partner"));
        check(&["corp"], Some("other"), None);
        check(&[], None, None);
    }

    #[test]
    fn attack_broker_names_an_audience_that_is_not_its_own() {
        let broker = Uri::from_static("https://protem.example:7420");
        for (named, expect) in [
            (vec!["https://protem.example"], Some("https://protem.example")),
            (
                vec!["sts.amazonaws.com", "https://protem.example/x"],
                Some("https://protem.example/x"),
            ),
            (vec!["sts.amazonaws.com"], None),
            (vec!["https://protem.example.evil"], None),
            (vec!["protem"], None),
            (vec![], None),
        ] {
            assert_eq!(welcome(&[], &named).audience(&broker).ok(), expect, "{named:?}");
            let issuer = named.first().copied().unwrap_or_default().to_owned();
            let welcome = Welcome { issuer, ..welcome(&[], &[]) };
            let expect = expect.filter(|expect| *expect == welcome.issuer);
            assert_eq!(welcome.svid_audience(&broker).ok(), expect, "{named:?}");
        }
    }
}
