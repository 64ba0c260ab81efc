//! Who waits for a change of a grant or a task, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use protem_core::event::Event;
use protem_core::request::Workload;
use protem_core::state::State;
use protem_verify::ids::GrantId;
use protem_verify::names::{IdentityName, KeyId, TaskId};
use tokio::sync::Notify;

use crate::engine::broker::Broker;
use crate::engine::granted::Granted;
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;

/// What somebody watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Watched {
    /// One grant.
    Grant(GrantId),
    /// Every grant of a task.
    Task(IdentityName, TaskId),
}

/// Everybody who watches.
#[derive(Default)]
pub(in crate::engine) struct Watchers {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    watched: BTreeMap<Watched, Vec<Weak<Inbox>>>,
    closed: bool,
}

/// Which grants changed and were not looked at yet: a reader that is slow sees the newest of each, never a queue.
#[derive(Default)]
struct Inbox {
    changed: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    /// Whether the change brought a credential.
    grants: BTreeMap<GrantId, bool>,
    closed: bool,
}

/// The changes of a grant, or of a task's grants, from now on.
pub struct Changes {
    what: Watched,
    inbox: Arc<Inbox>,
    broker: Broker,
    /// Credentials go to this holder only.
    holder: Option<Workload>,
    /// The change that is being looked at, until it has been.
    looked_at: Option<(GrantId, bool)>,
}

impl Changes {
    /// The next grant that changed, as it is now; with its newest credential when the change brought one and the watcher
    /// is its holder. `None` when the broker stops.
    pub async fn next(&mut self) -> Option<Result<Granted, Stop>> {
        // INVARIANT(no_change_is_lost_with_its_look): who waits for something else as well may give a look up.
        let (grant, issued) = match self.looked_at {
            Some(change) => change,
            None => match self.changed().await {
                Some(change) => *self.looked_at.insert(change),
                None => return None,
            },
        };
        let holder = self.holder.clone().filter(|_| issued);
        let found = self.broker.granted(grant, holder.as_ref()).await;
        self.looked_at = None;
        Some(found)
    }

    /// Done when a grant has changed, without a look at it. False when the broker stops.
    pub async fn touched(&mut self) -> bool {
        self.looked_at = None;
        self.changed().await.is_some()
    }

    async fn changed(&self) -> Option<(GrantId, bool)> {
        loop {
            let woken = self.inbox.wake.notified();
            {
                let mut pending = lock(&self.inbox.changed);
                if let Some(change) = pending.grants.pop_first() {
                    return Some(change);
                }
                if pending.closed {
                    return None;
                }
            }
            woken.await;
        }
    }
}

impl Drop for Changes {
    /// What nothing touches any more, as an ended task, would else be remembered for ever.
    fn drop(&mut self) {
        self.broker.0.watchers.leave(&self.what, &self.inbox);
    }
}

impl Watchers {
    fn leave(&self, what: &Watched, inbox: &Arc<Inbox>) {
        let mut known = lock(&self.known);
        let Some(inboxes) = known.watched.get_mut(what) else { return };
        inboxes.retain(|one| one.strong_count() > 0 && one.as_ptr() != Arc::as_ptr(inbox));
        if inboxes.is_empty() {
            known.watched.remove(what);
        }
    }

    pub(in crate::engine) fn watch(
        &self,
        what: Watched,
        broker: &Broker,
        holder: Option<Workload>,
    ) -> Changes {
        let inbox = Arc::new(Inbox::default());
        let mut known = lock(&self.known);
        let watched = what.clone();
        if known.closed {
            lock(&inbox.changed).closed = true;
        } else {
            let inboxes = known.watched.entry(what).or_default();
            inboxes.retain(|one| one.strong_count() > 0);
            inboxes.push(Arc::downgrade(&inbox));
        }
        drop(known);
        Changes { what: watched, inbox, broker: broker.clone(), holder, looked_at: None }
    }

    /// Tells everybody whom these entries of one turn concern: of each grant once, so that the last approval and the access
    /// that it brings are one change.
    pub(in crate::engine) fn committed(&self, rows: &[Committed<Event>], tasks: &TaskOf<'_>) {
        let mut known = lock(&self.known);
        if known.watched.is_empty() {
            return;
        }
        let mut gone = BTreeSet::new();
        for (grant, issued) in changed(rows.iter().map(Committed::what)) {
            let task = tasks(&grant);
            let keys = [Some(Watched::Grant(grant)), task.map(|(i, t)| Watched::Task(i, t))];
            for key in keys.into_iter().flatten() {
                let Some(inboxes) = known.watched.get(&key) else { continue };
                let alive = inboxes.iter().filter_map(Weak::upgrade);
                let told = alive.map(|inbox| inbox.tell(grant, issued)).count();
                if told == 0 {
                    gone.insert(key);
                }
            }
        }
        for key in gone {
            known.watched.remove(&key);
        }
    }

    /// A key was cut off: whoever watches a grant whose newest credential it signed is told at once, as that is void.
    pub(in crate::engine) fn cut_off(&self, key: &KeyId, state: &State) {
        let known = lock(&self.known);
        for (what, inboxes) in &known.watched {
            let grants = match what {
                Watched::Grant(grant) => vec![*grant],
                Watched::Task(identity, task) => {
                    let live = state.task(identity, task).map(|task| &task.live);
                    live.into_iter().flatten().copied().collect()
                }
            };
            let void = |grant: &GrantId| {
                let newest = state.grant(grant).and_then(|grant| grant.newest.as_ref());
                newest.is_some_and(|newest| newest.key == *key)
            };
            for grant in grants.into_iter().filter(void) {
                for inbox in inboxes.iter().filter_map(Weak::upgrade) {
                    inbox.tell(grant, false);
                }
            }
        }
    }

    /// Ends every watch.
    pub(in crate::engine) fn close(&self) {
        let mut known = lock(&self.known);
        known.closed = true;
        for inbox in known.watched.values().flatten().filter_map(Weak::upgrade) {
            lock(&inbox.changed).closed = true;
            inbox.wake.notify_one();
        }
        known.watched.clear();
    }
}

/// Whose task a grant is under.
pub(in crate::engine) type TaskOf<'a> = dyn Fn(&GrantId) -> Option<(IdentityName, TaskId)> + 'a;

impl Inbox {
    fn tell(&self, grant: GrantId, issued: bool) {
        let mut pending = lock(&self.changed);
        let brought = pending.grants.entry(grant).or_default();
        *brought = *brought || issued;
        drop(pending);
        self.wake.notify_one();
    }
}

/// Every grant that the entries of a turn change, and whether they bring it a credential.
fn changed<'a>(events: impl Iterator<Item = &'a Event>) -> BTreeMap<GrantId, bool> {
    let mut all = BTreeMap::new();
    for (grant, issued) in events.flat_map(touched) {
        let brought = all.entry(grant).or_default();
        *brought = *brought || issued;
    }
    all
}

/// The grants that an entry changes for those who watch them, and whether it brings a credential.
fn touched(event: &Event) -> Vec<(GrantId, bool)> {
    match event {
        Event::GrantRequested(requested) => vec![(requested.grant, false)],
        Event::RequestReevaluated { grant, .. }
        | Event::RequestReminded { grant, .. }
        | Event::ApprovalGiven { grant, .. }
        | Event::ApprovalTakenBack { grant, .. }
        | Event::RequestNarrowed { grant, .. }
        | Event::ReviewClosed { grant, .. } => vec![(*grant, false)],
        Event::GrantActivated(activated) => vec![(activated.credential.grant, true)],
        Event::CredentialIssued(issued) => vec![(issued.grant, true)],
        Event::GrantEnded(ended) => vec![(ended.grant, false)],
        Event::JournalOpened { .. }
        | Event::EpochBegan { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSettled { .. }
        | Event::GrantsConfirmed { .. }
        | Event::RequestRepeated { .. }
        | Event::AccessRefused(_)
        | Event::TaskHeld { .. }
        | Event::TaskEnded { .. }
        | Event::CutOff { .. }
        | Event::IdentityQuarantined { .. }
        | Event::QuarantineLifted { .. }
        | Event::KeyPublished(_)
        | Event::KeyActivated { .. }
        | Event::KeyRetired { .. }
        | Event::KeyRotationAsked { .. }
        | Event::KeyForgotten { .. } => Vec::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broker {
    /// A grant as it is now, with its newest credential for its holder while that lives.
    pub(in crate::engine) async fn granted(
        &self,
        id: GrantId,
        holder: Option<&Workload>,
    ) -> Result<Granted, Stop> {
        let found = self
            .read(move |reader| {
                let record = reader.grant(&id)?;
                record.ok_or(Fault::Store(format!("grant `{id}` cannot be read")))
            })
            .await?;
        let Some(holder) = holder.cloned() else {
            return Ok(Granted { grant: found, credential: None });
        };
        let newest = self
            .ask(move |state| {
                let grant = state.grant(&id).filter(|grant| grant.by == holder)?;
                grant.newest.clone().filter(|_| grant.active_at(state.last_at()))
            })
            .await?;
        let credential = match newest {
            Some(newest) => self.newest(newest.seq).await?,
            None => None,
        };
        Ok(Granted { grant: found, credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_does_to_a_grant_is_one_change() {
        let (one, other) = (GrantId([1; 16]), GrantId([2; 16]));
        let reminded = |grant| Event::RequestReminded { grant, then: None };
        let events = [reminded(one), reminded(other), reminded(one)];
        let changes: Vec<_> = changed(events.iter()).into_iter().collect();
        assert_eq!(changes, [(one, false), (other, false)]);
    }
}
