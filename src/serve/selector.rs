//! Selectors: what they name, who may end it, and what a leaked credential proves.

use protem_core::event::Target;
use protem_core::refusal::Refusal;
use protem_proto::wire::v1::selector::By;
use protem_verify::claims::Claims;
use protem_verify::codes::{law, wire};
use protem_verify::ids::GrantId;
use protem_verify::jws::{ACCESS_TOKEN, Jws};
use protem_verify::keys::Keys;
use protem_verify::names::{IdentityName, KeyId, Malformed, ResourceName, ScopeName, TaskId};
use protem_verify::time::Time;
use tonic::Code as Grpc;

use crate::engine::broker::Broker;
use crate::journal::reader::GrantFilter;
use crate::policy::ask::{Action, Object, Unknown};
use crate::policy::finding::did_you_mean;
use crate::policy::login::{Caller, Person};
use crate::serve::inventory;
use crate::serve::parse;
use crate::serve::status::Problem;
use crate::serve::who;

/// What a selector names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Things that policy decides on: all must be permitted.
    Targets(Vec<Target>),
    /// A leaked credential; whoever holds it may end its grant. None: it counts no more, or never did.
    Leaked(Option<GrantId>),
}

/// Whether a caller may say what to end by such a selector: asked before anything of it is looked up, so that the answer tells
/// nobody without a right what there is.
///
/// # Errors
/// PERMISSION_DENIED for all but people whom policy lets end something.
pub fn may_select(broker: &Broker, caller: &Caller, by: &By) -> Result<(), Problem> {
    match by {
        // Whoever has a leaked credential has shown as much.
        By::Token(_) => Ok(()),
        // Who approved a grant may end it by no policy at all; one that they may neither end nor see is not there.
        By::Grant(_) => who::person(caller).map(drop),
        By::Identity(_)
        | By::Task(_)
        | By::Resource(_)
        | By::Scope(_)
        | By::Owner(_)
        | By::KeyId(_)
        | By::Everything(_) => who::permit_something(broker, who::person(caller)?, Action::Revoke),
    }
}

/// Reads a selector that the caller may use ([`may_select`]).
///
/// # Errors
/// When it names nothing, or something misspelled or unknown to the bundle.
pub async fn read(broker: &Broker, caller: &Caller, by: By) -> Result<Selected, Problem> {
    let one = |target| Ok(Selected::Targets(vec![target]));
    match by {
        By::Grant(text) => one(Target::Grant(grant(broker, caller, &text).await?)),
        By::Identity(text) => one(Target::Identity(identity("selector.identity", &text)?)),
        By::Task(text) => {
            let (name, task) = task(&text)?;
            one(Target::Task(name, task))
        }
        By::Resource(text) => one(Target::Resource(known_resource(broker, caller, &text)?)),
        By::Scope(text) => {
            let (resource, scope) = split("selector.scope", &text)?;
            let known = broker.bundle().check_names(resource, &[scope]);
            known.map_err(|it| unknown(broker, caller, it))?;
            one(Target::Scope(ResourceName::try_from(resource)?, ScopeName::try_from(scope)?))
        }
        By::Owner(text) => {
            let owned = broker.bundle().owned_by(&text).to_vec();
            if owned.is_empty() {
                return Err(owns_nothing(broker, caller, &text));
            }
            Ok(Selected::Targets(owned.into_iter().map(Target::Identity).collect()))
        }
        By::KeyId(text) => one(Target::Key(KeyId::try_from(text.as_str())?)),
        By::Token(text) => Ok(Selected::Leaked(leaked(broker, &text))),
        By::Everything(true) => one(Target::Everything),
        By::Everything(false) => Err(parse::missing("selector")),
    }
}

/// An owner's name that is nobody's, with a hint for those who may see all names.
#[must_use]
pub fn owns_nothing(broker: &Broker, caller: &Caller, owner: &str) -> Problem {
    let bundle = broker.bundle();
    let group = format!("group:{owner}");
    let hint = if !sees_all(broker, caller) {
        String::new()
    } else if !bundle.owned_by(&group).is_empty() {
        format!(", did you mean `{group}`?")
    } else {
        did_you_mean(owner, bundle.owners())
    };
    let why = format!("names `{}`, who owns no identity{hint}", parse::plain(owner));
    Problem::field(wire::UNKNOWN_NAME, "selector.owner", &why)
}

/// Whether a person may end all of these.
///
/// # Errors
/// PERMISSION_DENIED with policy's reason; NOT_FOUND for a grant that it may not even see.
pub async fn may_revoke(
    broker: &Broker,
    person: &Person,
    targets: &[Target],
) -> Result<(), Problem> {
    for target in targets {
        let objects = match target {
            Target::Grant(id) => {
                let id = *id;
                let found = who::read(broker, move |reader| reader.grant(&id)).await?;
                let unknown = || Problem::from(Refusal::UnknownGrant(id));
                let found = found.ok_or_else(unknown)?;
                // Who approved a grant may end it.
                if found.approvals.iter().any(|one| one.by == person.name) {
                    continue;
                }
                let objects = who::objects(&found).to_vec();
                // Who may neither end nor see it learns nothing, not even that it is there.
                let wider = [objects.as_slice(), &[Object::Broker]].concat();
                let hidden = who::permit(broker, person, Action::View, &wider).is_err()
                    && who::permit(broker, person, Action::Revoke, &objects).is_err();
                if hidden {
                    return Err(unknown());
                }
                objects
            }
            Target::Task(identity, _) | Target::Identity(identity) => {
                let known = broker.bundle().identities().contains_key(identity);
                // Of an identity that was removed policy knows nothing: whoever may end everything ends what is left of it.
                let other = (!known).then_some(Object::Broker);
                [Object::Identity(identity.clone())].into_iter().chain(other).collect()
            }
            Target::Resource(resource) | Target::Scope(resource, _) => {
                vec![Object::Resource(resource.clone())]
            }
            Target::Key(_) | Target::Everything => vec![Object::Broker],
        };
        who::permit(broker, person, Action::Revoke, &objects)?;
        if let Target::Task(identity, _) | Target::Identity(identity) = target {
            known_or_granted(broker, identity).await?;
        }
    }
    Ok(())
}

/// Refuses an identity that the bundle does not have and the journal never heard of: a slip, and not one that was removed.
async fn known_or_granted(broker: &Broker, identity: &IdentityName) -> Result<(), Problem> {
    let Err(unknown) = inventory::must_know(broker, identity) else { return Ok(()) };
    let filter =
        GrantFilter { identity: Some(identity.clone()), limit: 1, ..GrantFilter::default() };
    let granted = who::read(broker, move |reader| reader.grants(&filter)).await?;
    if granted.grants.is_empty() { Err(unknown) } else { Ok(()) }
}

/// A grant by its id, or by the shortest unique part of one, for people who read it off a screen. Only those who may see
/// every grant get a part looked up: to others the answer would tell what others hold, and the search reads all of them.
///
/// # Errors
/// When no grant, or more than one, has that part.
pub async fn grant(broker: &Broker, caller: &Caller, text: &str) -> Result<GrantId, Problem> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let whole = || parse::grant_id("grant_id", text);
    let nowhere = || {
        let what = format!("no grant begins or ends with `{}`", parse::plain(text));
        Problem::new(Grpc::NotFound, law::UNKNOWN_GRANT, what)
    };
    let part = text.trim_start_matches("gr_").to_owned();
    let plain = part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let looked_up = part.len() >= PART_MIN && part.len() <= 26 && plain;
    if !looked_up || !sees_all(broker, caller) {
        return whole();
    }
    let found = who::read(broker, move |reader| reader.resolve(&part)).await?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(nowhere()),
        _ => {
            Err(Malformed { field: "grant_id", why: "is part of more than one grant's id" }.into())
        }
    }
}

/// `<identity>#<task id>`.
///
/// # Errors
/// When it is something else.
pub fn task(text: &str) -> Result<(IdentityName, TaskId), Problem> {
    let (name, task) = split("selector.task", text)?;
    Ok((identity("selector.task", name)?, parse::task_id("selector.task", task)?))
}

/// An identity's name. It need not be the bundle's: one that was removed may still have grants to end.
///
/// # Errors
/// When it is no name.
pub fn identity(field: &'static str, text: &str) -> Result<IdentityName, Problem> {
    IdentityName::try_from(text).map_err(|bad| Malformed { field, why: bad.why }.into())
}

fn known_resource(broker: &Broker, caller: &Caller, text: &str) -> Result<ResourceName, Problem> {
    let name = ResourceName::try_from(text)?;
    let known = broker.bundle().check_names(text, &[]);
    known.map_err(|it| unknown(broker, caller, it))?;
    Ok(name)
}

/// A name that the bundle does not have, with a hint for those who may see all names.
fn unknown(broker: &Broker, caller: &Caller, it: Unknown) -> Problem {
    let did_you_mean = it.did_you_mean.filter(|_| sees_all(broker, caller));
    parse::unknown(Unknown { did_you_mean, ..it })
}

fn sees_all(broker: &Broker, caller: &Caller) -> bool {
    who::may_view(broker, caller, &[Object::Broker]).is_ok()
}

/// `a#b`; names hold no `#`, so there is one way to read it.
pub(in crate::serve) fn split<'t>(
    field: &'static str,
    text: &'t str,
) -> Result<(&'t str, &'t str), Problem> {
    let parts = text.split_once('#');
    parts.ok_or(Malformed { field, why: "is not two names joined by `#`" }.into())
}

/// The grant of a credential that our own key signed and that has not expired; anything else is nobody's business.
fn leaked(broker: &Broker, token: &str) -> Option<GrantId> {
    let jws = Jws::parse(token.trim(), ACCESS_TOKEN).ok()?;
    let keys = Keys::parse(&broker.jwks()).ok()?;
    if !keys.verify(&jws.kid, jws.signed, &jws.signature) {
        return None;
    }
    let claims = Claims::decode(&jws.payload).ok()?;
    let now = Time::from(broker.clock().unix());
    let ours = &*claims.issuer == broker.issuer() && claims.epoch == broker.head().epoch;
    (ours && claims.expires > now).then_some(claims.grant)
}

/// The shortest part of an id that is looked up: below it, too many grants share one.
const PART_MIN: usize = 4;
