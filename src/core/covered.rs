//! What a cut-off covers.

use protem_verify::ids::GrantId;
use protem_verify::names::{IdentityName, TaskId};

use crate::event::Target;
use crate::state::State;

impl State {
    /// The live grants that a cut-off would end. A cut-off of a key ends none: they renew under the new key.
    #[must_use]
    pub fn covered(&self, target: &Target) -> Vec<GrantId> {
        match target {
            Target::Grant(id) => self
                .grants
                .get(id)
                .filter(|grant| !grant.ended())
                .map(|grant| grant.id)
                .into_iter()
                .collect(),
            Target::Task(identity, task) => self
                .task(identity, task)
                .map(|task| task.live.iter().copied().collect())
                .unwrap_or_default(),
            Target::Identity(identity) => self.of_identity(identity),
            Target::Resource(resource) => {
                let first = (resource.clone(), GrantId([0; 16]));
                let last = (resource.clone(), GrantId([u8::MAX; 16]));
                self.by_resource.set().range(first..=last).map(|(_, id)| *id).collect()
            }
            Target::Scope(resource, scope) => {
                let mut on = self.covered(&Target::Resource(resource.clone()));
                on.retain(|id| {
                    self.grants.get(id).is_some_and(|grant| grant.scopes.contains(scope))
                });
                on
            }
            Target::Key(_) => Vec::new(),
            Target::Everything => self.by_resource.set().iter().map(|(_, id)| *id).collect(),
        }
    }

    fn of_identity(&self, identity: &IdentityName) -> Vec<GrantId> {
        let Ok(first) = TaskId::try_from("-") else { return Vec::new() }; // the least character a task id may have
        let from = (identity.clone(), first, GrantId([0; 16]));
        let of = self.by_task.set().range(from..).take_while(|(name, ..)| name == identity);
        of.map(|(.., id)| *id).collect()
    }
}
