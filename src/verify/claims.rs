//! What a credential says: a closed set of claims, written and read in this one place.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;

use crate::ids::{Epoch, GrantId, Seq};
use crate::json::Json;
use crate::jws::Flaw;
use crate::names::{IdentityName, ScopeName, Subject, TaskId};
use crate::time::{Staleness, Time};

/// All claims of a credential. Times are whole seconds on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`: the broker's issuer.
    pub issuer: Arc<str>,
    /// `sub`: who authenticated.
    pub subject: Subject,
    /// `client_id`: the identity of the inventory.
    pub identity: IdentityName,
    /// `protem.grant`, and the first part of `jti`.
    pub grant: GrantId,
    /// The second part of `jti`: which credential of the grant, 0 for the first.
    pub number: u32,
    /// `iat`.
    pub issued: Time,
    /// `nbf`.
    pub not_before: Time,
    /// `exp`: from this moment on it is refused, without leeway.
    pub expires: Time,
    /// `scope`: never empty.
    pub scopes: Vec<ScopeName>,
    /// `aud`: exactly one.
    pub audience: Arc<str>,
    /// `cnf`: what it is bound to.
    pub proof: Option<Proof>,
    /// `protem.seq`: where in the journal the grant was activated.
    pub seq: Seq,
    /// `protem.until`: the grant's end, rounded down to seconds.
    pub until: Time,
    /// `protem.task`.
    pub task: TaskId,
    /// `protem.epoch`.
    pub epoch: Epoch,
    /// `protem.fresh`, in seconds: the greatest age of a view that may accept it.
    pub fresh: Staleness,
    /// `status`: its place in a status list.
    pub status: Option<ListEntry>,
    /// Template claims, sorted by name; each name holds a `/`.
    pub template: Vec<(Arc<str>, Arc<str>)>,
}

/// What a credential is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// DPoP: the SHA-256 thumbprint of the holder's JWK (RFC 9449 §6.1).
    Thumbprint([u8; 32]),
    /// mTLS: the SHA-256 of the holder's certificate (RFC 8705 §3.1).
    Certificate([u8; 32]),
}

/// A place in a token status list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Which bit.
    pub index: u64,
    /// Which list.
    pub uri: Arc<str>,
}

/// The last second that has a four-digit year: a time beyond it is an overflow or an attack.
pub const SECONDS_MAX: u64 = 253_402_300_799;
/// The greatest `fresh` in seconds.
pub const FRESH_MAX: u64 = 60;
/// The longest life of a credential in seconds: a day; tiers allow less.
pub const LIFE_MAX: u64 = 86_400;
/// Template claims of one credential: they are read at every call.
pub const TEMPLATE_MAX: usize = 32;

impl Claims {
    /// The payload as JSON, members always in the same order, so that the same record gives the same token.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut json = String::from("{");
        let mut member = |name: &str, value: &str| {
            let comma = if json.len() > 1 { "," } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(json, "{comma}{}:{value}", quoted(name));
        };
        member("iss", &quoted(&self.issuer));
        member("sub", &quoted(self.subject.as_str()));
        member("client_id", &quoted(self.identity.as_str()));
        member("jti", &quoted(&format!("{}.{}", self.grant, self.number)));
        member("iat", &self.issued.as_secs().to_string());
        member("nbf", &self.not_before.as_secs().to_string());
        member("exp", &self.expires.as_secs().to_string());
        let scopes: Vec<&str> = self.scopes.iter().map(ScopeName::as_str).collect();
        member("scope", &quoted(&scopes.join(" ")));
        member("aud", &quoted(&self.audience));
        if let Some(proof) = &self.proof {
            let (name, bytes) = match proof {
                Proof::Thumbprint(bytes) => ("jkt", bytes),
                Proof::Certificate(bytes) => ("x5t#S256", bytes),
            };
            member("cnf", &format!(r#"{{"{name}":"{}"}}"#, BASE64URL_NOPAD.encode(bytes)));
        }
        member(
            "protem",
            &format!(
                r#"{{"grant":"{}","seq":{},"until":{},"task":{},"epoch":{},"fresh":{}}}"#,
                self.grant,
                self.seq,
                self.until.as_secs(),
                quoted(self.task.as_str()),
                self.epoch.0,
                self.fresh.0.as_secs(),
            ),
        );
        if let Some(ListEntry { index, uri }) = &self.status {
            member(
                "status",
                &format!(r#"{{"status_list":{{"idx":{index},"uri":{}}}}}"#, quoted(uri)),
            );
        }
        for (name, value) in &self.template {
            member(name, &quoted(value));
        }
        json.push('}');
        json
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`Flaw::Claim`] when a claim is missing, of another type, out of range, contradicts another one, or is none of ours.
    pub fn decode(payload: &[u8]) -> Result<Self, Flaw> {
        let members = Json::parse(payload).ok().and_then(Json::into_members);
        let mut open = Open { members: members.ok_or(Flaw::Claim("payload"))? };
        let about = open.members.remove("protem").and_then(Json::into_members);
        let mut about = Open { members: about.ok_or(Flaw::Claim("protem"))? };
        let (grant, number) = token_id(&open.text("jti")?)?;
        let claims = Self {
            issuer: open.text("iss")?.into(),
            subject: named(&open.text("sub")?, "sub")?,
            identity: named(&open.text("client_id")?, "client_id")?,
            grant,
            number,
            issued: open.seconds("iat")?,
            not_before: open.seconds("nbf")?,
            expires: open.seconds("exp")?,
            scopes: scopes(&open.text("scope")?)?,
            audience: open.text("aud")?.into(),
            proof: open.members.remove("cnf").map(proof).transpose()?,
            seq: Seq(about.number("seq")?),
            until: about.seconds("until")?,
            task: named(&about.text("task")?, "task")?,
            epoch: Epoch(about.number("epoch")?),
            fresh: fresh(about.number("fresh")?)?,
            status: open.members.remove("status").map(status).transpose()?,
            template: Vec::new(),
        };
        if GrantId::from_str(&about.text("grant")?) != Ok(claims.grant) {
            return Err(Flaw::Claim("grant"));
        }
        about.nothing_left()?;
        claims.with_template(open.members)?.consistent()
    }

    fn with_template(mut self, rest: BTreeMap<String, Json>) -> Result<Self, Flaw> {
        if rest.len() > TEMPLATE_MAX {
            return Err(Flaw::Claim("template"));
        }
        for (name, value) in rest {
            let value = value.text().filter(|_| name.contains('/'));
            let value = value.ok_or(Flaw::Claim("unknown"))?.into();
            self.template.push((name.into(), value));
        }
        Ok(self)
    }

    /// INVARIANT(no_credential_outlives_its_grant), and a life that is empty, negative or endless is none.
    fn consistent(self) -> Result<Self, Flaw> {
        let life = self.expires.since(self.issued).as_secs();
        if life == 0 || life > LIFE_MAX || self.not_before >= self.expires {
            return Err(Flaw::Claim("exp"));
        }
        if self.expires > self.until {
            return Err(Flaw::Claim("until"));
        }
        if self.issuer.is_empty() || self.audience.is_empty() {
            return Err(Flaw::Claim("aud"));
        }
        Ok(self)
    }
}

/// An object's members that nobody has taken yet.
struct Open {
    members: BTreeMap<String, Json>,
}

impl Open {
    fn text(&mut self, name: &'static str) -> Result<String, Flaw> {
        let Some(Json::Text(text)) = self.members.remove(name) else {
            return Err(Flaw::Claim(name));
        };
        Ok(text)
    }

    fn number(&mut self, name: &'static str) -> Result<u64, Flaw> {
        let Some(Json::Number(number)) = self.members.remove(name) else {
            return Err(Flaw::Claim(name));
        };
        Ok(number)
    }

    fn seconds(&mut self, name: &'static str) -> Result<Time, Flaw> {
        let seconds = self.number(name)?;
        if seconds == 0 || seconds > SECONDS_MAX {
            return Err(Flaw::Claim(name));
        }
        Ok(Time::from_secs(seconds))
    }

    fn nothing_left(self) -> Result<(), Flaw> {
        if self.members.is_empty() { Ok(()) } else { Err(Flaw::Claim("unknown")) }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn named<'text, T: TryFrom<&'text str>>(text: &'text str, claim: &'static str) -> Result<T, Flaw> {
    T::try_from(text).map_err(|_| Flaw::Claim(claim))
}

fn token_id(text: &str) -> Result<(GrantId, u32), Flaw> {
    let bad = Flaw::Claim("jti");
    let (grant, number) = text.split_once('.').ok_or(bad)?;
    let parsed: u32 = number.parse().map_err(|_| bad)?;
    if parsed.to_string() != number {
        return Err(bad);
    }
    Ok((grant.parse().map_err(|_| bad)?, parsed))
}

fn scopes(text: &str) -> Result<Vec<ScopeName>, Flaw> {
    let scopes: Vec<ScopeName> =
        text.split(' ').map(|scope| named(scope, "scope")).collect::<Result<_, _>>()?;
    let mut distinct = scopes.clone();
    distinct.sort();
    distinct.dedup();
    if distinct.len() != scopes.len() {
        return Err(Flaw::Claim("scope"));
    }
    Ok(scopes)
}

fn fresh(seconds: u64) -> Result<Staleness, Flaw> {
    if seconds == 0 || seconds > FRESH_MAX {
        return Err(Flaw::Claim("fresh"));
    }
    Ok(Staleness(Duration::from_secs(seconds)))
}

fn proof(cnf: Json) -> Result<Proof, Flaw> {
    let bad = Flaw::Claim("cnf");
    let members = cnf.into_members().ok_or(bad)?;
    let (name, value) = members.first_key_value().filter(|_| members.len() == 1).ok_or(bad)?;
    let text = value.text().ok_or(bad)?;
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| bad)?;
    let bytes = bytes.try_into().map_err(|_| bad)?;
    match name.as_str() {
        "jkt" => Ok(Proof::Thumbprint(bytes)),
        "x5t#S256" => Ok(Proof::Certificate(bytes)),
        _ => Err(bad),
    }
}

fn status(status: Json) -> Result<ListEntry, Flaw> {
    let bad = Flaw::Claim("status");
    let mut outer = Open { members: status.into_members().ok_or(bad)? };
    let list = outer.members.remove("status_list").and_then(Json::into_members).ok_or(bad)?;
    outer.nothing_left()?;
    let mut list = Open { members: list };
    let entry = ListEntry { index: list.number("idx")?, uri: list.text("uri")?.into() };
    list.nothing_left()?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn claims() -> Claims {
        Claims {
            issuer: "https://broker.example".into(),
            subject: Subject::try_from("protem-dev|x").unwrap(),
            identity: IdentityName::try_from("payments/agent").unwrap(),
            grant: GrantId([1; 16]),
            number: 3,
            issued: Time::from_secs(1_000),
            not_before: Time::from_secs(1_000),
            expires: Time::from_secs(1_300),
            scopes: vec![ScopeName::try_from("orders:read").unwrap()],
            audience: "https://orders.example".into(),
            proof: None,
            seq: Seq(7),
            until: Time::from_secs(1_900),
            task: TaskId::try_from("t-1").unwrap(),
            epoch: Epoch(5),
            fresh: Staleness(Duration::from_secs(5)),
            status: None,
            template: Vec::new(),
        }
    }

    #[test]
    fn claims_read_back() {
        let plain = claims();
        let full = Claims {
            proof: Some(Proof::Certificate([4; 32])),
            status: Some(ListEntry { index: 9, uri: "https://b/9".into() }),
            template: vec![("shop/team".into(), "pay \"ments\"".into())],
            ..claims()
        };
        for claims in [plain, full] {
            assert_eq!(Claims::decode(claims.encode().as_bytes()), Ok(claims));
        }
    }

    #[test]
    fn every_claim_but_the_optional_ones_is_needed_and_typed() {
        let good = Json::parse(claims().encode().as_bytes()).unwrap().into_members().unwrap();
        let text = |members: &BTreeMap<String, Json>| write(&Json::Members(members.clone()));
        assert!(Claims::decode(text(&good).as_bytes()).is_ok());
        for name in good.keys() {
            let mut without = good.clone();
            without.remove(name);
            assert!(Claims::decode(text(&without).as_bytes()).is_err(), "without {name}");
            for value in [Json::Null, Json::Flag(true), Json::List(vec![])] {
                let mut other = good.clone();
                other.insert(name.clone(), value);
                assert!(Claims::decode(text(&other).as_bytes()).is_err(), "{name} of other type");
            }
        }
        let mut more = good.clone();
        more.insert("admin".into(), Json::Text("yes".into()));
        assert_eq!(Claims::decode(text(&more).as_bytes()), Err(Flaw::Claim("unknown")));
    }

    fn write(json: &Json) -> String {
        match json {
            Json::Null => "null".into(),
            Json::Flag(flag) => flag.to_string(),
            Json::Number(number) => number.to_string(),
            Json::Text(text) => quoted(text),
            Json::List(list) => {
                format!("[{}]", list.iter().map(write).collect::<Vec<_>>().join(","))
            }
            Json::Members(members) => {
                let member =
                    |(name, value): (&String, &Json)| format!("{}:{}", quoted(name), write(value));
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
            }
        }
    }
}
