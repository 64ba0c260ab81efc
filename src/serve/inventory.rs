//! What the bundle and the journal know of identities, gateways, keys and leftover secrets.

use std::time::Duration;

use protem_proto::wire::v1;
use protem_verify::codes::wire;
use protem_verify::names::IdentityName;

use crate::engine::broker::Broker;
use crate::journal::reader::GrantFilter;
use crate::policy::ask::Object;
use crate::policy::catalog::{Identity, Secret};
use crate::policy::finding::nearest;
use crate::policy::login::Caller;
use crate::serve::later::not_built;
use crate::serve::parse;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::who;

/// A page of the inventory, by name.
///
/// # Errors
/// When a filter is wrong or not served, or the caller may see none of it.
pub async fn identities(
    broker: &Broker,
    caller: &Caller,
    wire: v1::ListIdentitiesRequest,
) -> Result<v1::ListIdentitiesResponse, Problem> {
    if !wire.resource.is_empty() || wire.dormant_for.is_some() {
        return Err(not_built("filtering by use", "list grants by resource instead"));
    }
    let limit = usize::try_from(parse::page_size(wire.page_size)?).unwrap_or(usize::MAX);
    if wire.unowned {
        // A bundle with an identity that nobody owns is never put in force.
        who::may_view(broker, caller, &[])?;
        return Ok(v1::ListIdentitiesResponse::default());
    }
    let bundle = broker.bundle();
    let all = who::may_view(broker, caller, &[]);
    let after = wire.page_token;
    let mut names = Vec::new();
    for name in bundle.identities().keys() {
        let wanted = name.as_str() > after.as_str()
            && (wire.name.is_empty() || *wire.name == *name.as_str());
        // Who may look at the whole broker may still be forbidden to look at one identity.
        let seen = || who::may_view(broker, caller, &[Object::Identity(name.clone())]).is_ok();
        if wanted && seen() {
            names.push(name.clone());
        }
        if names.len() > limit {
            break;
        }
    }
    if names.is_empty() && after.is_empty() && wire.name.is_empty() {
        all?;
    }
    let more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| more).map_or_else(String::new, ToString::to_string);
    let mut identities = Vec::with_capacity(names.len());
    for name in &names {
        identities.push(identity(broker, name).await?);
    }
    Ok(v1::ListIdentitiesResponse { identities, next_page_token: next })
}

/// One identity with what the journal knows of it.
///
/// # Errors
/// When the journal cannot be asked.
pub async fn identity(broker: &Broker, name: &IdentityName) -> Result<v1::Identity, Problem> {
    let asked = name.clone();
    let look =
        move |state: &protem_core::state::State| (state.active(&asked), state.quarantined(&asked));
    let (active, quarantined) = broker.ask(look).await.map_err(Problem::from)?;
    let filter = GrantFilter { identity: Some(name.clone()), limit: 1, ..GrantFilter::default() };
    let newest = who::read(broker, move |reader| reader.grants(&filter)).await?;
    let bundle = broker.bundle();
    let mut shown = bundle.identities().get(name).map_or_else(v1::Identity::default, described);
    shown.name = name.to_string();
    shown.active_grants = active;
    shown.quarantined = quarantined;
    shown.last_granted = newest.first().map(|grant| show::time(grant.requested_at));
    Ok(shown)
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
#[must_use]
pub fn gateways(broker: &Broker) -> Vec<v1::Gateway> {
    let mut found: Vec<_> = broker.gateways().iter().map(show::gateway).collect();
    let bundle = broker.bundle();
    for name in bundle.gateways().keys() {
        if !found.iter().any(|known| known.name == name.as_str()) {
            found.push(v1::Gateway { name: name.to_string(), ..v1::Gateway::default() });
        }
    }
    found.sort_by(|one, other| (&one.name, &one.instance).cmp(&(&other.name, &other.instance)));
    found
}

/// Static secrets that the catalog still knows of.
#[must_use]
pub fn secrets(broker: &Broker) -> Vec<v1::Secret> {
    let bundle = broker.bundle();
    bundle.catalog().secrets.iter().map(|(name, secret)| leftover(name, secret)).collect()
}

fn leftover(name: &str, secret: &Secret) -> v1::Secret {
    let status = if secret.found_in.is_some() { "unmanaged" } else { "managed" };
    let rotate_by: Duration = secret.rotate_every;
    v1::Secret {
        name: name.to_owned(),
        resource: secret.resource.to_string(),
        purpose: secret.purpose.clone(),
        owner_business: secret.owner.business.to_string(),
        owner_technical: secret.owner.technical.to_string(),
        created: Some(show::time(secret.created)),
        rotate_by: Some(show::time(secret.created + rotate_by)),
        expires: Some(show::time(secret.expires)),
        status: status.to_owned(),
    }
}
