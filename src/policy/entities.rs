//! What policies can name, as Cedar's entities: built once per bundle, handed out in the small sets that a decision needs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use protem_verify::names::IdentityName;

use crate::policy::catalog::{Catalog, Identity, People};
use crate::policy::context::Literals;

/// The kinds of entities of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An act.
    Action,
    /// The one broker.
    Broker,
    /// A kind of scope.
    Class,
    /// A group of people.
    Group,
    /// A registered non-human identity.
    Identity,
    /// How a requester proved who it is.
    Login,
    /// A human.
    Person,
    /// What access is to.
    Resource,
    /// What may be asked for.
    Scope,
    /// A team of identities.
    Team,
}

const KINDS: [Kind; 10] = [
    Kind::Action,
    Kind::Broker,
    Kind::Class,
    Kind::Group,
    Kind::Identity,
    Kind::Login,
    Kind::Person,
    Kind::Resource,
    Kind::Scope,
    Kind::Team,
];

impl Kind {
    /// Its name in the schema.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Action => "Action",
            Self::Broker => "Broker",
            Self::Class => "Class",
            Self::Group => "Group",
            Self::Identity => "Identity",
            Self::Login => "Login",
            Self::Person => "Person",
            Self::Resource => "Resource",
            Self::Scope => "Scope",
            Self::Team => "Team",
        }
    }

    /// The kind of an entity.
    #[must_use]
    pub fn of(uid: &EntityUid) -> Option<Self> {
        let name = uid.type_name().to_string();
        KINDS.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The id of the one broker.
pub const BROKER: &str = "protem";

/// Every entity that a bundle defines, with its parents.
#[derive(Debug)]
pub struct Store {
    types: BTreeMap<Kind, EntityTypeName>,
    broker: EntityUid,
    nodes: HashMap<EntityUid, Node>,
    /// What was written for Cedar before.
    pub literals: Literals,
}

#[derive(Debug)]
struct Node {
    entity: Entity,
    parents: Vec<EntityUid>,
}

impl Store {
    /// Builds them.
    ///
    /// # Errors
    /// When Cedar takes one of our own names or attributes for malformed, which is a defect.
    pub fn new(
        catalog: &Catalog,
        identities: &BTreeMap<IdentityName, Identity>,
        people: &People,
    ) -> Result<Self, String> {
        let mut types = BTreeMap::new();
        for kind in KINDS {
            let name =
                EntityTypeName::from_str(kind.as_str()).map_err(|error| error.to_string())?;
            types.insert(kind, name);
        }
        let broker = "Broker::\"protem\"".parse().map_err(|error| format!("{error}"))?;
        let mut store =
            Self { types, broker, nodes: HashMap::new(), literals: Literals::default() };
        let broker = store.broker.clone();
        store.add(broker.clone(), &[], Vec::new())?;
        for class in catalog.classes.keys() {
            store.add(store.uid(Kind::Class, class), &[], Vec::new())?;
        }
        for (name, resource) in &catalog.resources {
            let uid = store.uid(Kind::Resource, name.as_str());
            store.add(uid.clone(), &[], vec![broker.clone()])?;
            for (scope, values) in &resource.scopes {
                let class = store.uid(Kind::Class, &values.class);
                let scope = store.uid(Kind::Scope, &format!("{name}#{scope}"));
                store.add(scope, &[("risk", values.risk.as_str())], vec![uid.clone(), class])?;
            }
        }
        let teams: HashSet<&Arc<str>> =
            identities.values().map(|identity| &identity.team).collect();
        for team in teams {
            store.add(store.uid(Kind::Team, team), &[], vec![broker.clone()])?;
        }
        for identity in identities.values() {
            let attributes = [
                ("tier", &*identity.tier),
                ("team", &*identity.team),
                ("purpose", identity.purpose.as_str()),
            ];
            let uid = store.uid(Kind::Identity, identity.name.as_str());
            let parents = vec![store.uid(Kind::Team, &identity.team), broker.clone()];
            store.add(uid, &attributes, parents)?;
        }
        for group in people.groups.keys() {
            store.add(store.uid(Kind::Group, group.as_str()), &[], Vec::new())?;
        }
        Ok(store)
    }

    /// The uid of something, whether the bundle defines it or not.
    #[must_use]
    pub fn uid(&self, kind: Kind, name: &str) -> EntityUid {
        let Some(kind) = self.types.get(&kind) else { return self.broker.clone() };
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name))
    }

    /// The one broker.
    #[must_use]
    pub fn broker(&self) -> &EntityUid {
        &self.broker
    }

    /// Whether the bundle defines it.
    #[must_use]
    pub fn knows(&self, uid: &EntityUid) -> bool {
        self.nodes.contains_key(uid)
    }

    /// The names of a kind, for a suggestion.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let of_kind = self.nodes.keys().filter(|uid| Kind::of(uid) == Some(kind));
        of_kind.map(|uid| uid.id().unescaped().to_owned()).collect()
    }

    /// It and all above it.
    #[must_use]
    pub fn lineage(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let mut line = vec![uid.clone()];
        let mut next = 0;
        while let Some(uid) = line.get(next).cloned() {
            for parent in self.nodes.get(&uid).iter().flat_map(|node| &node.parents) {
                if !line.contains(parent) {
                    line.push(parent.clone());
                }
            }
            next = next.saturating_add(1);
        }
        line
    }

    /// These and all above them, as Cedar wants them; what the bundle does not define is left out.
    #[must_use]
    pub fn closure<'a>(&self, roots: impl Iterator<Item = &'a EntityUid>) -> Vec<Entity> {
        let mut seen: HashSet<EntityUid> = HashSet::new();
        let mut entities = Vec::new();
        for root in roots {
            for uid in self.lineage(root) {
                if let Some(node) = self.nodes.get(&uid)
                    && seen.insert(uid)
                {
                    entities.push(node.entity.clone());
                }
            }
        }
        entities
    }

    /// Every entity, for the flat set that tests compare with.
    pub fn all(&self) -> impl Iterator<Item = Entity> {
        self.nodes.values().map(|node| node.entity.clone())
    }

    fn add(
        &mut self,
        uid: EntityUid,
        attributes: &[(&str, &str)],
        parents: Vec<EntityUid>,
    ) -> Result<(), String> {
        let text = |(key, value): &(&str, &str)| {
            ((*key).to_owned(), RestrictedExpression::new_string((*value).to_owned()))
        };
        let entity = Entity::new(
            uid.clone(),
            attributes.iter().map(text).collect(),
            parents.iter().cloned().collect(),
        )
        .map_err(|error| error.to_string())?;
        self.nodes.insert(uid, Node { entity, parents });
        Ok(())
    }
}
