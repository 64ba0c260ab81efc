//! Lists of grants: filtered, by pages, and only what the caller may see.

use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::names::{IdentityName, Malformed, ResourceName, ScopeName};

use crate::engine::broker::Broker;
use crate::journal::reader::{GrantFilter, GrantPage, Stage};
use crate::journal::records::GrantRecord;
use crate::journal::several::of_several;
use crate::policy::ask::Object;
use crate::policy::login::{Caller, Principal};
use crate::serve::later::not_built;
use crate::serve::limits::RESOURCES_MAX;
use crate::serve::parse;
use crate::serve::selector;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::used;
use crate::serve::who;

/// A page of grants, newest first.
///
/// # Errors
/// When a filter is wrong, or the caller may not see what it selects.
pub async fn grants(
    broker: &Broker,
    caller: &Caller,
    wire: v1::ListGrantsRequest,
) -> Result<v1::ListGrantsResponse, Problem> {
    if !wire.approver.is_empty() {
        return Err(not_built("listing by approver", "list all and look at their approvals"));
    }
    let Some(selection) = selected(broker, caller, wire.selector)? else {
        return Ok(v1::ListGrantsResponse::default());
    };
    let Selection { mut filter, owned, objects } = selection;
    filter.states = states(&wire.states)?;
    filter.since = wire.since.map(|at| parse::moment("since", &at)).transpose()?;
    filter.until = wire.until.map(|at| parse::moment("until", &at)).transpose()?;
    filter.limit = parse::page_size(wire.page_size)?;
    if !wire.page_token.is_empty() {
        filter.before = Some(parse::grant_id("page_token", &wire.page_token)?);
    }
    page(broker, caller, Selection { filter, owned, objects }).await
}

/// What is listed, and what its viewer must be permitted to see, all of it; nothing named: the whole broker.
pub struct Selection {
    /// Which grants, at most how many.
    pub filter: GrantFilter,
    /// Of these identities; none: of all that the filter takes.
    pub owned: Vec<IdentityName>,
    /// What is selected by.
    pub objects: Vec<Object>,
}

/// A page of a selection, newest first.
///
/// # Errors
/// When the caller may not see what it selects.
pub async fn page(
    broker: &Broker,
    caller: &Caller,
    selection: Selection,
) -> Result<v1::ListGrantsResponse, Problem> {
    let Selection { mut filter, owned: identities, objects } = selection;
    match &caller.principal {
        // Whatever it selects, a workload sees its own: somebody else's looks like nothing at all.
        Principal::Workload { by, .. } => {
            let own = Object::Identity(by.identity.clone());
            let foreign = |object: &Object| matches!(object, Object::Identity(_)) && *object != own;
            if objects.iter().any(foreign) {
                return Ok(v1::ListGrantsResponse::default());
            }
            filter.identity = Some(by.identity.clone());
        }
        Principal::Person(_) | Principal::Gateway { .. } => {
            if objects.is_empty() {
                who::may_view(broker, caller, &[])?;
            }
            for object in &objects {
                who::may_view(broker, caller, std::slice::from_ref(object))?;
            }
        }
    }
    let mut found = GrantPage::default();
    for _ in 0..SEARCHES {
        found = search(broker, filter.clone(), identities.clone()).await?;
        if !found.grants.is_empty() || found.next.is_none() {
            break;
        }
        filter.before = found.next;
    }
    // The selection was permitted as a whole; policy may still forbid a grant of it.
    let may = |grant: &&GrantRecord| who::may_view(broker, caller, &who::objects(grant)).is_ok();
    let shown = found.grants.iter().filter(may).map(show::grant);
    Ok(v1::ListGrantsResponse {
        grants: used::listed(broker, shown.collect()).await?,
        next_page_token: found.next.map(|next| next.text()).unwrap_or_default(),
    })
}

/// What a selector filters by, the identities of an owner, and what its viewer must be permitted to see, all of it. `None`:
/// nothing of it is the caller's.
fn selected(
    broker: &Broker,
    caller: &Caller,
    selector: Option<v1::Selector>,
) -> Result<Option<Selection>, Problem> {
    let mut filter = GrantFilter::default();
    let Some(by) = selector.and_then(|selector| selector.by) else {
        return Ok(Some(Selection { filter, owned: vec![], objects: vec![] }));
    };
    let objects = match by {
        By::Grant(_) => {
            let why = "selects one grant; get it instead";
            return Err(Malformed { field: "selector.grant", why }.into());
        }
        By::Identity(text) => {
            let identity = selector::identity("selector.identity", &text)?;
            filter.identity = Some(identity.clone());
            vec![Object::Identity(identity)]
        }
        By::Task(text) => {
            let (identity, task) = selector::task(&text)?;
            filter.identity = Some(identity.clone());
            filter.task = Some(task);
            vec![Object::Identity(identity)]
        }
        By::Resource(text) => {
            let resource = ResourceName::try_from(text.as_str())?;
            filter.resource = Some(resource.clone());
            vec![Object::Resource(resource)]
        }
        By::Scope(text) => {
            let (resource, scope) = selector::split("selector.scope", &text)?;
            let resource = ResourceName::try_from(resource)?;
            filter.resource = Some(resource.clone());
            filter.scope = Some(ScopeName::try_from(scope)?);
            vec![Object::Resource(resource)]
        }
        By::Owner(text) => {
            return owned_by(broker, caller, &text);
        }
        By::Everything(true) => vec![],
        By::Everything(false) => return Err(parse::missing("selector")),
        By::KeyId(_) | By::Token(_) => {
            let why = "can be revoked by, not listed by";
            return Err(Malformed { field: "selector", why }.into());
        }
    };
    Ok(Some(Selection { filter, owned: vec![], objects }))
}

/// The identities of an owner. Who may not see all of them gets the same answer as for an owner that there is not.
fn owned_by(broker: &Broker, caller: &Caller, owner: &str) -> Result<Option<Selection>, Problem> {
    let bundle = broker.bundle();
    let owned = bundle.owned_by(owner);
    let objects = owned.iter().cloned().map(Object::Identity);
    let objects: Vec<Object> = objects.take(RESOURCES_MAX.saturating_add(1)).collect();
    let sees = |one: &Object| who::may_view(broker, caller, std::slice::from_ref(one)).is_ok();
    match &caller.principal {
        Principal::Workload { .. } if owned.is_empty() => return Ok(None),
        Principal::Workload { .. } => {}
        Principal::Person(_) | Principal::Gateway { .. } => {
            if let Err(no) = who::may_view(broker, caller, &[Object::Broker])
                && (owned.is_empty() || !objects.iter().all(sees))
            {
                return Err(no);
            }
        }
    }
    if owned.is_empty() {
        // Without this, what filters by nobody would filter by nothing.
        return Err(selector::owns_nothing(broker, caller, owner));
    }
    if owned.len() > RESOURCES_MAX {
        let why = "owns more than 1,000 identities; list by identity";
        return Err(Malformed { field: "selector.owner", why }.into());
    }
    Ok(Some(Selection { filter: GrantFilter::default(), owned: owned.to_vec(), objects }))
}

/// Looks through as many grants as one page may, of all or of these identities.
async fn search(
    broker: &Broker,
    filter: GrantFilter,
    identities: Vec<IdentityName>,
) -> Result<GrantPage, Problem> {
    who::read(broker, move |reader| match identities.as_slice() {
        [] => reader.grants(&filter),
        identities => of_several(reader, &filter, identities),
    })
    .await
}

fn states(wire: &[i32]) -> Result<Vec<Stage>, Problem> {
    let bad = || Problem::from(Malformed { field: "states", why: "holds an unknown state" });
    if wire.len() > STATES_MAX {
        return Err(bad());
    }
    let one = |state: &i32| match v1::GrantState::try_from(*state) {
        Ok(v1::GrantState::Pending) => Ok(Stage::Pending),
        Ok(v1::GrantState::Active) => Ok(Stage::Active),
        Ok(v1::GrantState::Ended) => Ok(Stage::Ended),
        Ok(v1::GrantState::Unspecified) | Err(_) => Err(bad()),
    };
    wire.iter().map(one).collect()
}

/// There are three states; some repetition does no harm.
const STATES_MAX: usize = 16;
/// How often one call looks on when it has found nothing yet: a person then sees what is rare at once, and no call outlives
/// its deadline by more than one search.
const SEARCHES: u32 = 8;
