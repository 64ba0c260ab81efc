//! What the bundle and the journal know of identities, gateways, keys and leftover secrets.

use protem_proto::wire::v1;
use protem_verify::codes::wire;
use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::journal::fault::Fault;
use crate::journal::reader::{GrantFilter, Reader};
use crate::journal::records::GrantRecord;
use crate::journal::usage::GRANT_KEPT;
use crate::policy::ask::Object;
use crate::policy::catalog::{Identity, Secret};
use crate::policy::finding::nearest;
use crate::policy::login::Caller;
use crate::serve::parse;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::who;

/// A page of the inventory, by name.
///
/// # Errors
/// When a filter is wrong, or the caller may see none of it.
pub async fn identities(
    broker: &Broker,
    caller: &Caller,
    wire: v1::ListIdentitiesRequest,
) -> Result<v1::ListIdentitiesResponse, Problem> {
    let limit = usize::try_from(parse::page_size(wire.page_size)?).unwrap_or(usize::MAX);
    let wanted = Wanted::read(broker, &wire)?;
    if wire.unowned {
        // A bundle with an identity that nobody owns is never put in force.
        who::may_view(broker, caller, &[])?;
        return Ok(v1::ListIdentitiesResponse::default());
    }
    let bundle = broker.bundle();
    let all = who::may_view(broker, caller, &[]);
    let after = wire.page_token;
    let named = |name: &&IdentityName| {
        let whole = wire.name.is_empty() || *wire.name == *name.as_str();
        whole && name.as_str() > after.as_str() && name.as_str().contains(&*wire.part)
    };
    // Who may look at the whole broker may still be forbidden to look at one identity.
    let seen = |name: &&IdentityName| {
        who::may_view(broker, caller, &[Object::Identity((*name).clone())]).is_ok()
    };
    let mut names = bundle.identities().keys().filter(named).filter(seen).cloned().peekable();
    if names.peek().is_none() && after.is_empty() && wire.name.is_empty() && wire.part.is_empty() {
        all?;
    }
    let mut found: Vec<Past> = Vec::new();
    loop {
        // By parts: a filter may pass over many before it finds a page of them.
        let part: Vec<IdentityName> = names.by_ref().take(LOOKED_AT).collect();
        if part.is_empty() || found.len() > limit {
            break;
        }
        let wanted = wanted.clone();
        found.extend(who::read(broker, move |reader| wanted.of(reader, part)).await?);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map_or_else(String::new, |last| last.name.to_string());
    let identities = shown(broker, found).await?;
    Ok(v1::ListIdentitiesResponse { identities, next_page_token: next })
}

/// What is asked of an identity's past.
#[derive(Clone)]
struct Wanted {
    now: Time,
    /// Neither granted anything nor used since.
    dormant_since: Option<Time>,
    granted_on: Option<ResourceName>,
}

/// What the store knows of an identity.
struct Past {
    name: IdentityName,
    last_granted: Option<Time>,
    last_used: Option<Time>,
    unused: Vec<String>,
}

impl Wanted {
    fn read(broker: &Broker, wire: &v1::ListIdentitiesRequest) -> Result<Self, Problem> {
        let now = broker.now();
        let dormant = wire.dormant_for.as_ref();
        let dormant = dormant.map(|span| parse::span("dormant_for", span)).transpose()?;
        let granted_on = match wire.resource.as_str() {
            "" => None,
            text => Some(ResourceName::try_from(text)?),
        };
        Ok(Self { now, dormant_since: dormant.map(|span| now.minus(span)), granted_on })
    }

    fn of(&self, reader: &dyn Reader, names: Vec<IdentityName>) -> Result<Vec<Past>, Fault> {
        let all = names.into_iter().map(|name| self.one(reader, name));
        all.filter_map(Result::transpose).collect()
    }

    fn one(&self, reader: &dyn Reader, name: IdentityName) -> Result<Option<Past>, Fault> {
        if self.granted_on.is_some() {
            let (identity, resource) = (Some(name.clone()), self.granted_on.clone());
            let on = GrantFilter { identity, resource, limit: 1, ..Default::default() };
            if first(reader, on)?.is_none() {
                return Ok(None);
            }
        }
        let last_granted = reader.last_granted(&name)?;
        let uses = reader.usage_of_identity(&name)?;
        let uses: Vec<_> = uses.into_iter().filter(|one| one.scope.is_some()).collect();
        let last_used = uses.iter().map(|one| one.last).max();
        let active = |since: &Time| last_granted.max(last_used).is_some_and(|last| last >= *since);
        if self.dormant_since.as_ref().is_some_and(active) {
            return Ok(None);
        }
        let since = self.now.minus(GRANT_KEPT);
        let granted = reader.granted_scopes(&name, since)?;
        let used = |(resource, scope): &&(ResourceName, ScopeName)| {
            uses.iter().any(|one| {
                let same = one.scope.as_deref() == Some(scope.as_str());
                same && one.resource == *resource && one.last >= since
            })
        };
        let unused = granted.iter().filter(|pair| !used(pair));
        let unused = unused.map(|(resource, scope)| format!("{resource}#{scope}")).collect();
        Ok(Some(Past { name, last_granted, last_used, unused }))
    }
}

/// The newest grant that a filter takes, however far back.
fn first(reader: &dyn Reader, mut filter: GrantFilter) -> Result<Option<GrantRecord>, Fault> {
    loop {
        let page = reader.grants(&filter)?;
        if let Some(found) = page.grants.into_iter().next() {
            return Ok(Some(found));
        }
        let Some(next) = page.next else { return Ok(None) };
        filter.before = Some(next);
    }
}

/// One identity with what the store knows of it.
///
/// # Errors
/// When the store cannot be asked.
pub async fn identity(broker: &Broker, name: &IdentityName) -> Result<v1::Identity, Problem> {
    let wanted = Wanted { now: broker.now(), dormant_since: None, granted_on: None };
    let names = vec![name.clone()];
    let found = who::read(broker, move |reader| wanted.of(reader, names)).await?;
    Ok(shown(broker, found).await?.into_iter().next().unwrap_or_default())
}

async fn shown(broker: &Broker, found: Vec<Past>) -> Result<Vec<v1::Identity>, Problem> {
    let names: Vec<IdentityName> = found.iter().map(|past| past.name.clone()).collect();
    let look = move |state: &protem_core::state::State| {
        let one = |name: &IdentityName| (state.active(name), state.quarantined(name));
        names.iter().map(one).collect::<Vec<_>>()
    };
    let now = broker.ask(look).await.map_err(Problem::from)?;
    let bundle = broker.bundle();
    let one = |(past, (active, quarantined)): (Past, (u32, bool))| {
        let known = bundle.identities().get(&past.name);
        v1::Identity {
            name: past.name.to_string(),
            active_grants: active,
            quarantined,
            last_granted: past.last_granted.map(show::time),
            last_used: past.last_used.map(show::time),
            unused_scopes: past.unused,
            ..known.map_or_else(v1::Identity::default, described)
        }
    };
    Ok(found.into_iter().zip(now).map(one).collect())
}

fn described(identity: &Identity) -> v1::Identity {
    v1::Identity {
        name: identity.name.to_string(),
        purpose: identity.purpose.clone(),
        owner_business: identity.owner.business.to_string(),
        owner_technical: identity.owner.technical.to_string(),
        trust_tier: identity.tier.to_string(),
        review_by: Some(show::time(identity.review_by)),
        ..v1::Identity::default()
    }
}

/// Refuses a name that the bundle does not have, with the nearest that it has.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn must_know(broker: &Broker, name: &IdentityName) -> Result<(), Problem> {
    let bundle = broker.bundle();
    if bundle.identities().contains_key(name) {
        return Ok(());
    }
    let known = bundle.identities().keys().map(IdentityName::as_str);
    let hint = nearest(name.as_str(), known)
        .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    let why = format!("names `{name}`, which the bundle does not have{hint}");
    Err(Problem::field(wire::UNKNOWN_NAME, "identity", &why))
}

/// Every gateway of the catalog: the instances that this broker heard of, and those of which it never did.
///
/// # Errors
/// When the store cannot be asked who reported usage.
pub async fn gateways(broker: &Broker) -> Result<Vec<v1::Gateway>, Problem> {
    let mut found: Vec<_> = broker.gateways().iter().map(show::gateway).collect();
    let bundle = broker.bundle();
    for name in bundle.gateways().keys() {
        if !found.iter().any(|known| known.name == name.as_str()) {
            found.push(v1::Gateway { name: name.to_string(), ..v1::Gateway::default() });
        }
    }
    found.sort_by(|one, other| (&one.name, &one.instance).cmp(&(&other.name, &other.instance)));
    let reporters = who::read(broker, |reader| reader.usage_reporters()).await?;
    for gateway in &mut found {
        // An instance reports under a name that begins with its own, and ends with its process's.
        let own = reporters.iter().filter(|by| {
            by.gateway == gateway.name && by.instance.starts_with(gateway.instance.as_str())
        });
        gateway.last_report = own.clone().map(|by| by.at).max().map(show::time);
        gateway.usage_dropped = own.fold(0, |sum, by| sum.saturating_add(by.dropped));
    }
    Ok(found)
}

/// Static secrets that the catalog still knows of.
#[must_use]
pub fn secrets(broker: &Broker) -> Vec<v1::Secret> {
    let (bundle, now) = (broker.bundle(), broker.now());
    let catalog = bundle.catalog();
    let all = catalog.secrets.iter().map(|(name, secret)| {
        let mut shown = leftover(name, secret, now);
        let injected = |resource: &&ResourceName| {
            let inject = catalog.resources.get(*resource).and_then(|of| of.inject.as_ref());
            inject.filter(|inject| inject.secret == *name).is_some()
        };
        let adding: Vec<&ResourceName> = catalog.resources.keys().filter(injected).collect();
        let header = adding.iter().find_map(|name| catalog.resources.get(*name)?.inject.as_ref());
        shown.injected_as = header.map_or_else(String::new, |inject| inject.header.clone());
        let gateways = catalog
            .gateways
            .iter()
            .filter(|(_, gateway)| gateway.resources.iter().any(|name| adding.contains(&name)));
        shown.gateways = gateways.map(|(name, _)| name.to_string()).collect();
        shown
    });
    all.collect()
}

fn leftover(name: &str, secret: &Secret, now: Time) -> v1::Secret {
    let status = if secret.found_in.is_some() { "unmanaged" } else { "managed" };
    let rotate_by = secret.created + secret.rotate_every;
    v1::Secret {
        name: name.to_owned(),
        resource: secret.resource.to_string(),
        purpose: secret.purpose.clone(),
        owner_business: secret.owner.business.to_string(),
        owner_technical: secret.owner.technical.to_string(),
        created: Some(show::time(secret.created)),
        rotate_by: Some(show::time(rotate_by)),
        expires: Some(show::time(secret.expires)),
        status: status.to_owned(),
        found_in: secret.found_in.clone().unwrap_or_default(),
        overdue: rotate_by <= now,
        expired: secret.expires <= now,
        revoke: secret.revoke.clone(),
        ..v1::Secret::default()
    }
}

/// Identities whose past is looked up at once.
const LOOKED_AT: usize = 256;
