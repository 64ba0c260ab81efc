//! A bundle's policies at work: only those that can apply are looked at, indexed by act, principal and resource.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityUid, PolicySet, Request,
};
use protem_verify::names::{IdentityName, PolicyId, ResourceName, ScopeName};

use crate::policy::entities::{Kind, Store};
use crate::policy::rules::{ACTS, Act, Rule};

/// All policies of a bundle, ready to decide.
pub struct Rulebook {
    /// Every entity of the bundle.
    pub store: Store,
    /// Every policy, by its place in this list.
    pub rules: Vec<Rule>,
    places: HashMap<String, usize>,
    index: HashMap<Key, Vec<usize>>,
    /// What the heads of permits of access name, by whom they are for.
    heads: HashMap<Option<EntityUid>, HashSet<Option<EntityUid>>>,
    /// Whom the heads of permits name, by act; with `None`, anyone.
    permitted: HashSet<(Act, Option<EntityUid>)>,
    actions: HashMap<Act, EntityUid>,
    authorizer: Authorizer,
    cache: RwLock<HashMap<CacheKey, Arc<Slice>>>,
}

type Key = (Act, Option<EntityUid>, Option<EntityUid>);
type CacheKey = (Act, IdentityName, ResourceName, ScopeName);

/// Assembled slices that are kept: about a kilobyte each; when full, all are forgotten and made again.
const CACHE_MAX: usize = 65_536;

impl std::fmt::Debug for Rulebook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rulebook({} policies)", self.rules.len())
    }
}

/// The policies that can apply to one act of one principal on one resource, and the entities that they can look at.
pub struct Slice {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    deciding: PolicySet,
    shadow: Option<PolicySet>,
    entities: Entities,
    /// Some of them could look at the login.
    pub reads_login: bool,
    /// Some of them could look at how many grants the identity holds.
    pub reads_active: bool,
}

/// What policies said to one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Whether a permit applies and no forbid does, without any error.
    pub yes: bool,
    /// The determining policies, by their place.
    pub policies: Vec<usize>,
    /// Whether these forbid.
    pub forbidden: bool,
    /// What went wrong, per policy; any of these is a no.
    pub errors: Vec<String>,
    /// What shadow policies would have said: `would permit: ID`.
    pub shadow: Vec<String>,
}

impl Rulebook {
    /// Indexes rules.
    #[must_use]
    pub fn new(store: Store, rules: Vec<Rule>) -> Self {
        let mut index: HashMap<Key, Vec<usize>> = HashMap::new();
        let (mut places, mut heads) = (HashMap::new(), HashMap::<_, HashSet<_>>::new());
        let mut permitted = HashSet::new();
        for (place, rule) in rules.iter().enumerate() {
            places.insert(rule.id.as_str().to_owned(), place);
            for act in &rule.acts {
                let key = (*act, rule.principal.clone(), rule.resource.clone());
                index.entry(key).or_default().push(place);
            }
            let permits = rule.permits() && !rule.notes.shadow;
            if permits {
                permitted.extend(rule.acts.iter().map(|act| (*act, rule.principal.clone())));
            }
            if permits && rule.acts.iter().any(|act| act.is_access()) {
                heads.entry(rule.principal.clone()).or_default().insert(rule.resource.clone());
            }
        }
        let actions = ACTS.into_iter().map(|act| (act, store.uid(Kind::Action, act.as_str())));
        let actions = actions.collect();
        let authorizer = Authorizer::new();
        Self {
            store,
            rules,
            places,
            index,
            heads,
            permitted,
            actions,
            authorizer,
            cache: RwLock::default(),
        }
    }

    /// The rule at a place.
    #[must_use]
    pub fn rule(&self, place: usize) -> Option<&Rule> {
        self.rules.get(place)
    }

    /// The ids of rules, in order.
    #[must_use]
    pub fn ids(&self, places: &[usize]) -> Vec<PolicyId> {
        let mut ids: Vec<PolicyId> = places
            .iter()
            .filter_map(|place| self.rule(*place))
            .map(|rule| rule.id.clone())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The slice of an identity's act on a scope; kept for the next time.
    #[must_use]
    pub fn access(
        &self,
        act: Act,
        identity: &IdentityName,
        resource: &ResourceName,
        scope: &ScopeName,
    ) -> Arc<Slice> {
        let key = (act, identity.clone(), resource.clone(), scope.clone());
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = cache.get(&key) {
            return slice.clone();
        }
        drop(cache);
        let principal = self.store.uid(Kind::Identity, identity.as_str());
        let object = self.store.uid(Kind::Scope, &format!("{resource}#{scope}"));
        let line = self.store.lineage(&principal);
        let slice = Arc::new(self.slice(act, principal, &line, object, &[]));
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(key, slice.clone());
        slice
    }

    /// The slice of a person's act on something. `with` are further entities that the context names.
    #[must_use]
    pub fn person(
        &self,
        act: Act,
        person: &Entity,
        groups: &[EntityUid],
        resource: EntityUid,
        with: &[EntityUid],
    ) -> Slice {
        let mut line = vec![person.uid()];
        line.extend_from_slice(groups);
        let mut more = groups.to_vec();
        more.extend_from_slice(with);
        self.slice(act, person.uid(), &line, resource, &more)
    }

    /// The places of the policies that can apply: {principal, its ancestors, any} × {resource, its ancestors, any}.
    #[must_use]
    pub fn candidates(
        &self,
        act: Act,
        principals: &[EntityUid],
        resource: &EntityUid,
    ) -> Vec<usize> {
        let above = self.store.lineage(resource);
        let some_or_any = |line: &[EntityUid]| -> Vec<Option<EntityUid>> {
            line.iter().cloned().map(Some).chain([None]).collect()
        };
        let mut places = Vec::new();
        for principal in some_or_any(principals) {
            for resource in some_or_any(&above) {
                let found = self.index.get(&(act, principal.clone(), resource));
                places.extend(found.into_iter().flatten());
            }
        }
        places.sort_unstable();
        places
    }

    /// What the heads of permits name that could let an identity ask for something; `None` is anything.
    pub fn heads(&self, identity: &IdentityName) -> impl Iterator<Item = &Option<EntityUid>> {
        let line = self.store.lineage(&self.store.uid(Kind::Identity, identity.as_str()));
        let principals = line.into_iter().map(Some).chain([None]);
        principals.filter_map(|principal| self.heads.get(&principal)).flatten()
    }

    /// Whether some permit of an act names this person or group, or with `None` anyone.
    #[must_use]
    pub fn permits_something(&self, act: Act, whom: Option<EntityUid>) -> bool {
        self.permitted.contains(&(act, whom))
    }

    fn slice(
        &self,
        act: Act,
        principal: EntityUid,
        line: &[EntityUid],
        resource: EntityUid,
        with: &[EntityUid],
    ) -> Slice {
        let places = self.candidates(act, line, &resource);
        let rules: Vec<&Rule> = places.iter().filter_map(|place| self.rule(*place)).collect();
        let literals: Vec<EntityUid> =
            rules.iter().flat_map(|rule| rule.cedar.entity_literals()).collect();
        let roots = [&principal, &resource].into_iter().chain(with).chain(&literals);
        let entities = Entities::from_entities(self.store.closure(roots), None);
        self.assemble(
            act,
            principal,
            resource,
            &rules,
            entities.unwrap_or_else(|_| Entities::empty()),
        )
    }

    fn assemble(
        &self,
        act: Act,
        principal: EntityUid,
        resource: EntityUid,
        rules: &[&Rule],
        entities: Entities,
    ) -> Slice {
        let set = |shadow: bool| {
            let chosen = rules.iter().filter(|rule| rule.notes.shadow == shadow);
            // Ids are unique, so no policy is left out here; one that were would be missing in every test too.
            PolicySet::from_policies(chosen.map(|rule| rule.cedar.clone())).unwrap_or_default()
        };
        let shadowed = rules.iter().any(|rule| rule.notes.shadow);
        let action = self.actions.get(&act).unwrap_or(self.store.broker()).clone();
        Slice {
            principal,
            action,
            resource,
            deciding: set(false),
            shadow: shadowed.then(|| set(true)),
            entities,
            reads_login: rules.iter().any(|rule| rule.mentions("login")),
            reads_active: rules.iter().any(|rule| rule.mentions("active")),
        }
    }

    /// Puts one question. `more` are entities of this request alone: its login, its person.
    #[must_use]
    pub fn judge(&self, slice: &Slice, context: Context, more: &[Entity]) -> Judged {
        let (principal, resource) = (slice.principal.clone(), slice.resource.clone());
        let request = Request::new(principal, slice.action.clone(), resource, context, None);
        let request = match request {
            Ok(request) => request,
            Err(error) => return broken(error.to_string()),
        };
        let added;
        let entities = if more.is_empty() {
            &slice.entities
        } else {
            match slice.entities.clone().add_entities(more.iter().cloned(), None) {
                Ok(entities) => added = entities,
                Err(error) => return broken(error.to_string()),
            }
            &added
        };
        let mut judged = self.put(&request, &slice.deciding, entities);
        if let Some(shadow) = &slice.shadow {
            let would = self.put(&request, shadow, entities);
            let word = if would.forbidden { "forbid" } else { "permit" };
            let ids = self.ids(&would.policies);
            judged.shadow = ids.iter().map(|id| format!("would {word}: {id}")).collect();
            judged.shadow.extend(would.errors.iter().map(|error| format!("would fail: {error}")));
        }
        judged
    }

    /// A slice's question with every policy and entity of the bundle: what slices are compared with.
    #[must_use]
    pub fn flat(&self, slice: &Slice) -> Slice {
        let act = self.actions.iter().find(|(_, uid)| **uid == slice.action);
        let rules: Vec<&Rule> = self.rules.iter().collect();
        let entities = Entities::from_entities(self.store.all(), None);
        self.assemble(
            act.map_or(Act::Issue, |(act, _)| *act),
            slice.principal.clone(),
            slice.resource.clone(),
            &rules,
            entities.unwrap_or_else(|_| Entities::empty()),
        )
    }

    fn put(&self, request: &Request, set: &PolicySet, entities: &Entities) -> Judged {
        let response = self.authorizer.is_authorized(request, set, entities);
        let found = response.diagnostics();
        let mut policies: Vec<usize> =
            found.reason().filter_map(|id| self.places.get::<str>(id.as_ref()).copied()).collect();
        policies.sort_unstable();
        // INVARIANT(an_erring_policy_denies): Cedar skips a policy that errs, which could be the forbid that matters.
        let errors: Vec<String> = found.errors().map(ToString::to_string).collect();
        let forbidden = policies.iter().filter_map(|place| self.rule(*place));
        let forbidden = forbidden.take(1).any(|rule| rule.cedar.effect() == Effect::Forbid);
        let yes = response.decision() == Decision::Allow && errors.is_empty();
        Judged { yes, policies, forbidden, errors, shadow: Vec::new() }
    }
}

fn broken(error: String) -> Judged {
    Judged { errors: vec![error], ..Judged::default() }
}
