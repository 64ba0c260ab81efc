//! A bundle's files to what they define: order matters only in that people come before those whom they own.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_verify::codes::policy;
use protem_verify::names::{GroupName, IdentityName, PersonName};
use protem_verify::spiffe::SpiffeId;

use crate::policy::bundle::{BUNDLE_MAX, Files, IDENTITIES_MAX};
use crate::policy::catalog::{
    Catalog, Group, Identity, Issuer, IssuerKeys, LoginRule, People, Subjects,
};
use crate::policy::finding::{At, Findings, Source};
use crate::policy::login::{DEV_ISSUER, SPIFFE_ISSUER};
use crate::policy::parse_catalog;
use crate::policy::raw::{self, Named, Text};
use crate::policy::read::Reading;

/// All that a bundle's TOML defines, and its policies and cases as they are written.
#[derive(Debug, Default)]
pub struct Parsed {
    /// What there is to ask for.
    pub catalog: Catalog,
    /// Who may ask.
    pub identities: BTreeMap<IdentityName, Identity>,
    /// Whose tokens count.
    pub issuers: BTreeMap<Arc<str>, Issuer>,
    /// Groups and persons.
    pub people: People,
    /// Policy files.
    pub policies: Vec<Source>,
    /// Test cases.
    pub cases: Vec<(Source, raw::Cases)>,
    /// Where things are written: `identity payments/agent`, `scope orders-api#orders:read`, `secret crm-key`.
    pub places: BTreeMap<String, At>,
    /// Files that `issuers.toml` may name.
    json: BTreeMap<Arc<str>, Arc<[u8]>>,
}

/// Raw files by what they are.
#[derive(Default)]
struct Raw {
    catalog: Option<(Source, raw::Catalog)>,
    people: Option<(Source, raw::People)>,
    issuers: Option<(Source, raw::Issuers)>,
    identities: Vec<(Source, raw::Identities)>,
}

impl Raw {
    /// Notes all that is defined somewhere, so that a mistake in one of them is told once, where it is.
    fn written(&self, findings: &mut Findings) {
        let mut names = |kind: &str, names: &mut dyn Iterator<Item = &Text>| {
            names.for_each(|name| findings.writes(kind, name.get_ref()));
        };
        if let Some((_, people)) = &self.people {
            names("group", &mut people.group.keys());
            names("person", &mut people.person.keys());
        }
        if let Some((_, issuers)) = &self.issuers {
            names("issuer", &mut issuers.issuer.keys());
        }
        for (_, identities) in &self.identities {
            names("identity", &mut identities.identity.keys());
            names("team", &mut identities.identity.values().map(|one| &one.team));
        }
        let Some((_, catalog)) = &self.catalog else { return };
        names("tier", &mut catalog.tier.keys());
        names("class", &mut catalog.class.keys());
        names("secret", &mut catalog.secret.keys());
        names("resource", &mut catalog.resource.keys());
        for (resource, values) in &catalog.resource {
            for scope in values.scope.keys() {
                let name = format!("{}#{}", resource.get_ref(), scope.get_ref());
                findings.writes("scope", &name);
            }
        }
    }
}

/// Parses all files.
pub fn parse(files: &Files, findings: &mut Findings) -> Parsed {
    let mut parsed = Parsed::default();
    let size: usize =
        files.iter().map(|(name, bytes)| name.len().saturating_add(bytes.len())).sum();
    if size > BUNDLE_MAX || files.len() > FILES_MAX {
        let message = format!(
            "the bundle has {size} bytes in {} files, at most {BUNDLE_MAX} in {FILES_MAX}",
            files.len()
        );
        findings.error(&At::bundle(), policy::TOO_LARGE, message);
        return parsed;
    }
    let raw = raw(files, &mut parsed, findings);
    raw.written(findings);
    if let Some((source, people)) = &raw.people {
        parsed.people_of(&mut Reading { source, findings }, people, raw.issuers.as_ref());
    }
    if let Some((source, issuers)) = &raw.issuers {
        parsed.issuers_of(&mut Reading { source, findings }, &issuers.issuer);
    }
    if let Some((source, catalog)) = &raw.catalog {
        parse_catalog::catalog_of(&mut parsed, &mut Reading { source, findings }, catalog);
    }
    for (source, identities) in &raw.identities {
        parsed.identities_of(&mut Reading { source, findings }, &identities.identity);
    }
    if parsed.identities.len() > IDENTITIES_MAX {
        let message = format!("there are more than {IDENTITIES_MAX} identities");
        findings.error(&At::bundle(), policy::TOO_LARGE, message);
    }
    parsed
}

fn raw(files: &Files, parsed: &mut Parsed, findings: &mut Findings) -> Raw {
    let mut raw = Raw::default();
    for (name, bytes) in files.iter() {
        if name.ends_with(".json") {
            parsed.json.insert(name.clone(), bytes.clone());
            continue;
        }
        let Ok(text) = str::from_utf8(bytes) else {
            findings.error(&At::file(name), policy::BAD_FILE, "the file is not UTF-8");
            continue;
        };
        let source = Source::new(name, text);
        let reading = &mut Reading { source: &source, findings };
        match &**name {
            "catalog.toml" => raw.catalog = reading.toml().map(|value| (source, value)),
            "people.toml" => raw.people = reading.toml().map(|value| (source, value)),
            "issuers.toml" => raw.issuers = reading.toml().map(|value| (source, value)),
            _ if under(name, "tests/") => {
                if let Some(value) = reading.toml() {
                    parsed.cases.push((source, value));
                }
            }
            _ if &**name == "identities.toml" || under(name, "identities/") => {
                if let Some(value) = reading.toml() {
                    raw.identities.push((source, value));
                }
            }
            _ if name.ends_with(".cedar") => parsed.policies.push(source),
            _ => findings.error(
                &At::file(name),
                policy::STRAY_FILE,
                "this file has no place in a bundle; it is none of `catalog.toml`, `identities.toml`, `people.toml`, `issuers.toml`, `identities/*.toml`, `tests/*.toml`, `*.cedar`",
            ),
        }
    }
    raw
}

fn under(name: &str, folder: &str) -> bool {
    name.starts_with(folder) && name.ends_with(".toml")
}

/// Files in one bundle: one per team and subject, not a payload.
const FILES_MAX: usize = 10_000;

impl Parsed {
    fn people_of(
        &mut self,
        reading: &mut Reading<'_>,
        raw: &raw::People,
        issuers: Option<&(Source, raw::Issuers)>,
    ) {
        for (key, group) in &raw.group {
            let name: Option<GroupName> = reading.name(key);
            if group.claims.is_empty() {
                let message = format!("group `{}` needs a claim", key.get_ref());
                reading.error(&key.span(), policy::EMPTY_LOGIN, message);
            }
            let notify = group.notify.as_ref().map(|text| text.get_ref().clone());
            let issuer = issuer_of_group(reading, key, group, issuers);
            if let Some(name) = name {
                let claims = plain(&group.claims);
                self.people.groups.insert(name, Group { issuer, claims, notify });
            }
        }
        for (key, person) in &raw.person {
            let Some(name) = reading.name::<PersonName>(key) else { continue };
            let mut accounts = Vec::new();
            // A name with a bar could be read as one account of an issuer.
            if key.get_ref().contains('|') {
                let message = "a person's name has no `|`";
                reading.error(&key.span(), policy::BAD_NAME, message);
            }
            for account in &person.logins {
                let issuer = account.issuer.get_ref();
                let known =
                    issuers.is_some_and(|(_, known)| known.issuer.contains_key(issuer.as_str()));
                if !known {
                    let names = issuers.iter().flat_map(|(_, known)| known.issuer.keys());
                    reading.unknown(
                        &account.issuer,
                        "issuer",
                        names.map(|name| name.get_ref().as_str()),
                    );
                }
                let key = (Arc::from(issuer.as_str()), account.name.get_ref().clone());
                accounts.push(key.clone());
                if self.people.accounts.insert(key, name.clone()).is_some() {
                    let message = format!(
                        "the account `{}` of `{issuer}` is two persons'",
                        account.name.get_ref()
                    );
                    reading.error(&account.name.span(), policy::SHARED_LOGIN, message);
                }
            }
            self.people.persons.insert(name, accounts);
        }
    }

    fn issuers_of(&mut self, reading: &mut Reading<'_>, raw: &Named<raw::Issuer>) {
        let mut urls: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, issuer) in raw {
            if let Some(other) = urls.insert(issuer.url.get_ref(), key.get_ref()) {
                let message = format!("issuers `{other}` and `{}` have one `url`", key.get_ref());
                reading.error(&issuer.url.span(), policy::BAD_ISSUER, message);
            }
            let Some(made) = self.issuer_of(reading, key, issuer) else { continue };
            self.issuers.insert(made.name.clone(), made);
        }
    }

    fn issuer_of(
        &self,
        reading: &mut Reading<'_>,
        key: &Text,
        raw: &raw::Issuer,
    ) -> Option<Issuer> {
        let name = reading.plain(key);
        let purpose = reading.purpose(raw.purpose.as_ref(), "issuer", key);
        let owner = reading.owners(raw.owner.as_ref(), "issuer", key, &self.people);
        if [DEV_ISSUER, SPIFFE_ISSUER].contains(&key.get_ref().as_str()) {
            let message = format!("`{}` is protem's own word, choose another name", key.get_ref());
            reading.error(&key.span(), policy::BAD_ISSUER, message);
        }
        let subjects = match raw.r#for.get_ref().as_str() {
            "workloads" => Some(Subjects::Workloads),
            "people" => Some(Subjects::People),
            _ => None,
        };
        if subjects.is_none() {
            reading.error(&raw.r#for.span(), policy::BAD_VALUE, "write `workloads` or `people`");
        }
        if subjects == Some(Subjects::People) && raw.name.is_none() {
            let message = "an issuer for people needs `name`, the claim that is the person's name";
            reading.error(&key.span(), policy::BAD_ISSUER, message);
        }
        let url = raw.url.get_ref();
        if !is_issuer_url(url) {
            let message = format!("`{url}` is no https URL; it must be exactly the `iss`");
            reading.error(&raw.url.span(), policy::BAD_ISSUER, message);
        }
        if raw.audience.get_ref().is_empty() {
            let message = "write the `aud` that only tokens for this broker have";
            reading.error(&raw.audience.span(), policy::BAD_ISSUER, message);
        }
        let keys = self.keys_of(reading, raw.jwks.as_ref());
        Some(Issuer {
            name: name?,
            purpose: purpose?,
            url: url.clone(),
            keys: keys?,
            audience: raw.audience.get_ref().clone(),
            subjects: subjects?,
            name_claim: raw.name.as_ref().map(|name| name.get_ref().clone()),
            owner: owner?,
        })
    }

    fn keys_of(&self, reading: &mut Reading<'_>, jwks: Option<&Text>) -> Option<IssuerKeys> {
        let Some(jwks) = jwks else { return Some(IssuerKeys::Discovery) };
        let file = jwks.get_ref().strip_prefix("file:").and_then(|name| self.json.get(name));
        let keys = file.filter(|bytes| {
            let set: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
            set.is_ok_and(|set| set.get("keys").is_some_and(serde_json::Value::is_array))
        });
        if keys.is_none() {
            let message = format!(
                "`{}` names no JWKS of the bundle; write `file:NAME.json` and put that file into the bundle's folder",
                jwks.get_ref()
            );
            reading.error(&jwks.span(), policy::BAD_ISSUER, message);
        }
        keys.map(|bytes| IssuerKeys::File(bytes.clone()))
    }

    fn identities_of(&mut self, reading: &mut Reading<'_>, raw: &Named<raw::Identity>) {
        for (key, identity) in raw {
            let at = reading.at(key);
            if self.places.insert(format!("identity {}", key.get_ref()), at).is_some() {
                let message = format!("identity `{}` is written twice", key.get_ref());
                reading.error(&key.span(), policy::BAD_VALUE, message);
            }
            if let Some(made) = self.identity_of(reading, key, identity) {
                self.identities.insert(made.name.clone(), made);
            }
        }
    }

    fn identity_of(
        &self,
        reading: &mut Reading<'_>,
        key: &Text,
        raw: &raw::Identity,
    ) -> Option<Identity> {
        let name: Option<IdentityName> = reading.name(key);
        let purpose = reading.purpose(raw.purpose.as_ref(), "identity", key);
        let owner = reading.owners(raw.owner.as_ref(), "identity", key, &self.people);
        let team = reading.plain(&raw.team);
        let tier = self.catalog.tiers.get_key_value(raw.tier.get_ref().as_str());
        if tier.is_none() {
            let known = self.catalog.tiers.keys().map(|name| &**name);
            reading.unknown(&raw.tier, "tier", known);
        }
        if raw.review_by.is_none() {
            let message = format!("identity `{}` needs `review_by = 2027-03-01`", key.get_ref());
            reading.error(&key.span(), policy::NO_END, message);
        }
        let review_by = raw.review_by.as_ref().and_then(|day| reading.day(day));
        let logins = raw
            .login
            .iter()
            .filter_map(|login| self.login_of(reading, login.get_ref(), login.span()));
        let logins = logins.collect();
        Some(Identity {
            name: name?,
            purpose: purpose?,
            owner: owner?,
            tier: tier?.0.clone(),
            team: team?,
            review_by: review_by?.1,
            regions: regions(raw.regions.as_ref()),
            logins,
        })
    }

    /// A login, of an issuer that exists and with claims that pin it.
    pub fn login_of(
        &self,
        reading: &mut Reading<'_>,
        raw: &raw::Login,
        span: std::ops::Range<usize>,
    ) -> Option<LoginRule> {
        let person = raw.person.as_ref().map(|claim| claim.get_ref().clone());
        let issuer = match (&raw.spiffe, &raw.issuer) {
            (Some(id), None) if raw.claims.is_empty() => {
                if let Err(why) = SpiffeId::parse(id.get_ref()) {
                    let message = format!(
                        "`{}`: {why}; a login names one workload by its whole ID, without patterns",
                        id.get_ref()
                    );
                    reading.error(&id.span(), policy::BAD_VALUE, message);
                }
                let claims = BTreeMap::from([("sub".to_owned(), id.get_ref().clone())]);
                return Some(LoginRule { issuer: SPIFFE_ISSUER.into(), claims, person });
            }
            (None, Some(issuer)) => issuer,
            _ => {
                let message = "a login is `spiffe = \"spiffe://…\"`, or `issuer` and `claims`";
                reading.error(&span, policy::BAD_VALUE, message);
                return None;
            }
        };
        let Some(known) = self.issuers.get(issuer.get_ref().as_str()) else {
            let names = self.issuers.keys().map(|name| &**name);
            reading.unknown(issuer, "issuer", names);
            return None;
        };
        if known.subjects == Subjects::People {
            let message = format!("issuer `{}` is for people, not workloads", known.name);
            reading.error(&issuer.span(), policy::BAD_ISSUER, message);
        }
        if raw.claims.is_empty() {
            reading.error(&span, policy::EMPTY_LOGIN, "a login needs `claims`");
        }
        let claims = plain(&raw.claims);
        let pins = owner_pins(&known.url);
        if let Some(pins) = pins.filter(|pins| !pins.iter().any(|pin| claims.contains_key(*pin))) {
            let (issuer, pins) = (&known.url, pins.join("`, `"));
            let message = format!("anybody can get a token of `{issuer}`: pin `{pins}`");
            reading.error(&span, policy::WIDE_LOGIN, message);
        }
        Some(LoginRule { issuer: known.name.clone(), claims, person })
    }
}

/// The issuer whose word puts people into a group. Where there are several for people, the group must name one: what one
/// provider calls `operators` is no other's.
fn issuer_of_group(
    reading: &mut Reading<'_>,
    key: &Text,
    group: &raw::Group,
    issuers: Option<&(Source, raw::Issuers)>,
) -> Option<Arc<str>> {
    let of_people = || {
        let all = issuers.iter().flat_map(|(_, known)| &known.issuer);
        let people = all.filter(|(_, issuer)| issuer.r#for.get_ref() == "people");
        people.map(|(name, _)| name.get_ref().as_str())
    };
    let Some(issuer) = &group.issuer else {
        if of_people().count() > 1 {
            let (name, known) = (key.get_ref(), of_people().collect::<Vec<_>>().join("`, `"));
            let message = format!("group `{name}` needs `issuer`, one of `{known}`");
            reading.error(&key.span(), policy::GROUP_ISSUER, message);
        }
        return None;
    };
    if !of_people().any(|known| known == issuer.get_ref()) {
        reading.unknown(issuer, "issuer for people", of_people());
    }
    Some(issuer.get_ref().as_str().into())
}

/// The claims that pin an owner, of an issuer whose tokens anybody can get.
#[must_use]
pub fn owner_pins(url: &str) -> Option<&'static [&'static str]> {
    let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next())?;
    PUBLIC_ISSUERS.iter().find(|(public, _)| *public == host).map(|(_, pins)| *pins)
}

/// An https URL with a host and without user, query and fragment (OpenID Connect Discovery §2); plain http names this machine only.
fn is_issuer_url(url: &str) -> bool {
    let (rest, plain) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return false,
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let known = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    let clean = url.bytes().all(|b| b.is_ascii_graphic()) && !url.contains(['?', '#', '@', '\\']);
    clean && !host.is_empty() && (known || !plain)
}

/// Issuers whose tokens anybody can get, and the claims that pin an owner by a number that is never given again.
const PUBLIC_ISSUERS: &[(&str, &[&str])] = &[
    (
        "token.actions.githubusercontent.com",
        &["repository_id", "repository_owner_id", "enterprise_id"],
    ),
    ("gitlab.com", &["project_id", "namespace_id"]),
];

/// Claims without their places.
fn plain(raw: &Named<Text>) -> BTreeMap<String, String> {
    raw.iter().map(|(key, value)| (key.get_ref().clone(), value.get_ref().clone())).collect()
}

/// Regions without their places.
pub fn regions(raw: Option<&Vec<Text>>) -> Option<Vec<String>> {
    raw.map(|regions| regions.iter().map(|region| region.get_ref().clone()).collect())
}
