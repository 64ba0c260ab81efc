//! Who may what: workloads their own, people by the bundle's policies, gateways what the catalog gives them.

use std::sync::Arc;

use protem_core::refusal::Refusal;
use protem_core::request::Workload;
use protem_verify::codes::caller;
use protem_verify::ids::GrantId;
use protem_verify::names::IdentityName;
use tonic::{Code as Grpc, Request};

use crate::engine::broker::Broker;
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::journal::reader::Reader;
use crate::journal::records::GrantRecord;
use crate::policy::ask::{Action, Object};
use crate::policy::login::{Caller, Person, Principal};
use crate::serve::caller::SignedIn;
use crate::serve::status::Problem;

/// Who the entrance let in. Nothing else of the request tells who calls.
///
/// # Errors
/// When the entrance let nobody in, which no route of ours does.
pub fn signed_in<T>(request: &Request<T>) -> Result<Arc<SignedIn>, Problem> {
    let found = request.extensions().get::<Arc<SignedIn>>().cloned();
    found.ok_or_else(|| Problem::new(Grpc::Unauthenticated, caller::NO_TOKEN, "nobody signed in"))
}

/// The workload that calls.
///
/// # Errors
/// When the caller is something else.
pub fn workload(caller: &Caller) -> Result<&Workload, Problem> {
    match &caller.principal {
        Principal::Workload { by, .. } => Ok(by),
        Principal::Person(_) | Principal::Gateway { .. } => Err(wrong_kind("workloads")),
    }
}

/// The person who calls.
///
/// # Errors
/// When the caller is something else.
pub fn person(caller: &Caller) -> Result<&Person, Problem> {
    match &caller.principal {
        Principal::Person(person) => Ok(person),
        Principal::Workload { .. } | Principal::Gateway { .. } => Err(wrong_kind("people")),
    }
}

/// This call is for others.
#[must_use]
pub fn wrong_kind(whom: &str) -> Problem {
    let why = format!("this call is for {whom}");
    Problem::new(Grpc::PermissionDenied, caller::WRONG_KIND, why)
}

/// Asks policy whether a person may do something to one of these objects: any one yes is enough, unless policy forbids it
/// for an identity or resource among them. What is forbidden of one thing no yes on another gives back.
///
/// # Errors
/// PERMISSION_DENIED, with policy's reason for the first of them.
pub fn permit(
    broker: &Broker,
    person: &Person,
    action: Action,
    objects: &[Object],
) -> Result<(), Problem> {
    broker.bundle().permits(person, action, objects, broker.now()).map_err(not_permitted)
}

/// Asks policy whether a person may do this to anything at all.
///
/// # Errors
/// PERMISSION_DENIED when no policy names them.
pub fn permit_something(broker: &Broker, person: &Person, action: Action) -> Result<(), Problem> {
    if broker.bundle().may_something(person, action) {
        return Ok(());
    }
    let (name, verb) = (&person.name, action.as_str());
    Err(not_permitted(format!("`{name}` may not {verb} anything: no policy permits it")))
}

fn not_permitted(why: String) -> Problem {
    Problem::new(Grpc::PermissionDenied, caller::NOT_PERMITTED, why)
}

/// Whether a caller may see what an identity does: its own, or by `view` on it or on the broker.
///
/// # Errors
/// PERMISSION_DENIED otherwise.
pub fn may_view(broker: &Broker, caller: &Caller, objects: &[Object]) -> Result<(), Problem> {
    match &caller.principal {
        Principal::Workload { by, .. } => {
            let own = objects.iter().any(|object| is_identity(object, &by.identity));
            if own { Ok(()) } else { Err(wrong_kind("people; workloads see their own")) }
        }
        Principal::Person(person) => {
            let mut objects = objects.to_vec();
            objects.push(Object::Broker);
            permit(broker, person, Action::View, &objects)
        }
        Principal::Gateway { .. } => Err(wrong_kind("people and workloads")),
    }
}

/// Whether a caller may do something to the broker as a whole.
///
/// # Errors
/// PERMISSION_DENIED otherwise.
pub fn on_broker(broker: &Broker, caller: &Caller, action: Action) -> Result<(), Problem> {
    match action {
        Action::View => may_view(broker, caller, &[Object::Broker]),
        Action::Revoke | Action::Review | Action::Administer => {
            permit(broker, person(caller)?, action, &[Object::Broker])
        }
    }
}

/// What a grant is about: its identity, then its resource.
#[must_use]
pub fn objects(grant: &GrantRecord) -> [Object; 2] {
    let request = &grant.request;
    [Object::Identity(request.by.identity.clone()), Object::Resource(request.resource.clone())]
}

/// A grant that the caller may see. One that it may not see looks exactly like one that is not there.
///
/// # Errors
/// NOT_FOUND, or a fault of the store.
pub async fn visible(
    broker: &Broker,
    caller: &Caller,
    id: GrantId,
) -> Result<GrantRecord, Problem> {
    let found = read(broker, move |reader| reader.grant(&id)).await?;
    let seen = found.filter(|grant| may_view(broker, caller, &objects(grant)).is_ok());
    seen.ok_or_else(|| Refusal::UnknownGrant(id).into())
}

/// A grant of the calling workload's own identity.
///
/// # Errors
/// NOT_FOUND, also for somebody else's.
pub async fn own(broker: &Broker, by: &Workload, id: GrantId) -> Result<GrantRecord, Problem> {
    let found = read(broker, move |reader| reader.grant(&id)).await?;
    let own = found.filter(|grant| grant.request.by.identity == by.identity);
    own.ok_or_else(|| Refusal::UnknownGrant(id).into())
}

/// Reads the journal where that may block.
///
/// # Errors
/// A fault of the store.
pub async fn read<T: Send + 'static>(
    broker: &Broker,
    read: impl FnOnce(&dyn Reader) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Problem> {
    let reader = Arc::clone(broker.reader());
    match tokio::task::spawn_blocking(move || read(&*reader)).await {
        Ok(found) => Ok(found?),
        Err(_) => Err(Problem::from(Stop::Faulted(Fault::Stopping))),
    }
}

fn is_identity(object: &Object, identity: &IdentityName) -> bool {
    match object {
        Object::Identity(name) => name == identity,
        Object::Resource(_) | Object::Broker => false,
    }
}
