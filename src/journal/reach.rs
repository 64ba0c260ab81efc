//! What a cut-off covers, as one word that a table can be searched by.

use protem_core::event::Target;

use crate::journal::rows::GrantRow;

/// An axis and a name on it, such as `task:payments/agent#nightly-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach(pub String);

impl Reach {
    /// What a cut-off of this target covers. A cut-off of a key ends no grant, which renews under the new key: no grant
    /// is within it.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self(match target {
            Target::Grant(id) => format!("grant:{id}"),
            Target::Task(identity, task) => format!("task:{identity}#{task}"),
            Target::Identity(identity) => format!("identity:{identity}"),
            Target::Resource(resource) => format!("resource:{resource}"),
            Target::Scope(resource, scope) => format!("scope:{resource}#{scope}"),
            Target::Key(key) => format!("key:{key}"),
            Target::Everything => "everything".to_owned(),
        })
    }

    /// All that a grant is within: a cut-off of any of these covers it.
    #[must_use]
    pub fn around(row: &GrantRow) -> Vec<Self> {
        let (identity, resource) = (&row.identity, &row.resource);
        let mut all: Vec<Target> = vec![
            Target::Grant(row.id),
            Target::Task(identity.clone(), row.task.clone()),
            Target::Identity(identity.clone()),
            Target::Resource(resource.clone()),
            Target::Everything,
        ];
        all.extend(row.scopes.iter().map(|scope| Target::Scope(resource.clone(), scope.clone())));
        all.iter().map(Self::of).collect()
    }
}
