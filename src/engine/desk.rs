//! What waits for people, as an approver sees it, and the word that it changed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use protem_core::event::Event;
use protem_core::state::State;
use protem_verify::ids::GrantId;
use protem_verify::names::ScopeName;
use protem_verify::time::Time;
use tokio::sync::watch;

use crate::engine::approvals::{
    IdentityShown, Page, Review, RuleShown, ScopeShown, Similar, Waiting,
};
use crate::engine::broker::Broker;
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::past::Like;
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::bundle::Bundle;
use crate::policy::context::in_use;
use crate::policy::login::Person;

/// Tells when what waits for people has changed.
#[derive(Debug, Default)]
pub(in crate::engine) struct Desk {
    changed: watch::Sender<u64>,
    /// What waited after the last turn: most ends are of grants that nobody waits for.
    waits: Mutex<BTreeSet<GrantId>>,
}

impl Desk {
    /// Learns what waits now.
    pub(in crate::engine) fn learn(&self, state: &State) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        *waits = state.waiting().collect();
        drop(waits);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells of a turn's entries, if they concern what waits or a review.
    pub(in crate::engine) fn committed(&self, rows: &[Committed<Event>], state: &State) {
        let touched = rows.iter().map(|row| touches(row.what())).max().unwrap_or(Touch::Nothing);
        if touched == Touch::Nothing {
            return;
        }
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if touched == Touch::Perhaps && waits.iter().all(|id| state.waits(id)) {
            return;
        }
        drop(waits);
        self.learn(state);
    }
}

/// Whether an entry changes what waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Touch {
    Nothing,
    /// If what it ends waited.
    Perhaps,
    Surely,
}

fn touches(event: &Event) -> Touch {
    match event {
        Event::GrantRequested(_)
        | Event::RequestReevaluated { .. }
        | Event::RequestReminded { .. }
        | Event::ApprovalGiven { .. }
        | Event::ApprovalTakenBack { .. }
        | Event::RequestNarrowed { .. }
        | Event::ReviewClosed { .. }
        | Event::BundleActivated { .. }
        | Event::EpochBegan { .. } => Touch::Surely,
        Event::GrantActivated(activated) => {
            let emergency = activated.asked.as_ref().is_some_and(|asked| asked.request.emergency);
            if activated.asked.is_none() || emergency { Touch::Surely } else { Touch::Nothing }
        }
        Event::GrantEnded(_) | Event::CutOff { .. } => Touch::Perhaps,
        Event::JournalOpened { .. }
        | Event::BundleSettled { .. }
        | Event::GrantsConfirmed { .. }
        | Event::CredentialIssued(_)
        | Event::RequestRepeated { .. }
        | Event::AccessRefused(_)
        | Event::TaskHeld { .. }
        | Event::TaskEnded { .. }
        | Event::IdentityQuarantined { .. }
        | Event::QuarantineLifted { .. }
        | Event::KeyPublished(_)
        | Event::KeyActivated { .. }
        | Event::KeyRetired { .. }
        | Event::KeyRotationAsked { .. }
        | Event::KeyForgotten { .. } => Touch::Nothing,
    }
}

impl Broker {
    /// Changes whenever an answer of [`Self::pending`] or [`Self::reviews`] may have.
    #[must_use]
    pub fn pending_changed(&self) -> watch::Receiver<u64> {
        self.0.desk.changed.subscribe()
    }

    /// Every request that waits and that the person may know of, oldest first, with all that helps to decide it.
    ///
    /// # Errors
    /// When the state or the store cannot be asked.
    pub async fn pending(&self, person: &Person) -> Result<Vec<Waiting>, Stop> {
        Ok(self.pending_page(person, Page::WHOLE).await?.0)
    }

    /// One page of them, and whether there are more. Of those that are on another page nothing is looked up; of those behind it
    /// not even whose they are is asked.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub async fn pending_page(
        &self,
        person: &Person,
        page: Page,
    ) -> Result<(Vec<Waiting>, bool), Stop> {
        let after = page.after;
        let ids = self.ask(move |state| {
            let ids = state.waiting().filter(|id| after.is_none_or(|after| *id > after));
            ids.collect::<Vec<_>>()
        });
        let mut shown = Vec::new();
        for ids in ids.await?.chunks(READ_AT_ONCE) {
            for record in self.records(ids.to_vec()).await? {
                let Some(may) = self.judged(person, &record) else { continue };
                if !page.whose.is(&may) {
                    continue;
                }
                if shown.len() >= page.size {
                    return Ok((shown, true));
                }
                shown.extend(self.show(person, record, may).await?);
            }
        }
        Ok((shown, false))
    }

    /// One of them; `None` when it no longer waits or the person may not know of it.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub async fn pending_one(&self, person: &Person, id: GrantId) -> Result<Option<Waiting>, Stop> {
        let Some(record) = self.records(vec![id]).await?.pop() else { return Ok(None) };
        match self.judged(person, &record) {
            Some(may) => self.show(person, record, may).await,
            None => Ok(None),
        }
    }

    /// Emergencies that the person may know of, those first that nobody has looked at; with `closed`, also the others, newest
    /// first.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub async fn reviews(&self, person: &Person, closed: bool) -> Result<Vec<Review>, Stop> {
        let mut ids = self.ask(|state| state.open_reviews().collect::<Vec<_>>()).await?;
        ids.sort();
        if closed {
            ids.extend(self.read(|reader| reader.closed_reviews(CLOSED_MAX)).await?);
        }
        let found = self.records(ids).await?.into_iter();
        let found = found.filter(|record| self.may_see_review(person, record));
        let review = |grant: GrantRecord| {
            let may = self.may_review(person, &grant);
            Review { grant, may }
        };
        Ok(found.map(review).collect())
    }

    async fn records(&self, ids: Vec<GrantId>) -> Result<Vec<GrantRecord>, Stop> {
        self.read(move |reader| {
            let found = ids.iter().map(|id| reader.grant(id));
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Whether a person may decide a request, else why not; `None` when it does not wait, or they may not know of it.
    fn judged(&self, person: &Person, grant: &GrantRecord) -> Option<Result<(), String>> {
        let Shown::Pending { decide_by } = &grant.status else { return None };
        if *decide_by <= self.now() {
            return None;
        }
        let may = self.may_decide(person, grant);
        (may.is_ok() || self.may_know(person, grant)).then_some(may)
    }

    /// What a person sees of a request that they may know of.
    async fn show(
        &self,
        person: &Person,
        grant: GrantRecord,
        may: Result<(), String>,
    ) -> Result<Option<Waiting>, Stop> {
        let (Shown::Pending { decide_by }, Some(digest)) = (&grant.status, grant.digest) else {
            return Ok(None);
        };
        let decide_by = *decide_by;
        let like = Like {
            identity: grant.request.by.identity.clone(),
            resource: grant.request.resource.clone(),
            scopes: grant.request.scopes.clone(),
            before: grant.id,
            since: Time::from_millis(grant.requested_at.as_millis().saturating_sub(SIMILAR_MS)),
        };
        let past = self.read(move |reader| reader.past(&like)).await?;
        let of_use = self.usage_findings(&grant.request.by.identity, self.now());
        let bundle = self.bundle();
        let rule = grant.ruling.rule.as_ref();
        let rule = RuleShown {
            needed: rule.map_or(0, |rule| rule.required),
            by: grant.approvals.iter().map(|one| one.by.clone()).collect(),
            groups: rule.map(|rule| rule.groups.clone()).unwrap_or_default(),
            decide_by,
            remind_at: rule.and_then(|rule| rule.remind).map(|after| grant.requested_at + after),
            then: rule.and_then(|rule| rule.then.clone()),
        };
        let scopes: Vec<ScopeShown> =
            grant.request.scopes.iter().map(|name| scope(&bundle, &grant, name)).collect();
        let known = bundle.identities().get(&grant.request.by.identity);
        Ok(Some(Waiting {
            digest,
            risk: scopes.iter().filter_map(|scope| scope.risk).max(),
            scopes,
            identity: known.map(|known| IdentityShown {
                purpose: known.purpose.clone(),
                owner_business: known.owner.business.to_string(),
                owner_technical: known.owner.technical.to_string(),
                tier: known.tier.to_string(),
                team: known.team.to_string(),
            }),
            resource_purpose: bundle
                .catalog()
                .resources
                .get(&grant.request.resource)
                .map(|resource| resource.purpose.clone())
                .unwrap_or_default(),
            rule,
            // What policy sees if this person decides now.
            findings: in_use(&grant.ruling.findings, &of_use),
            similar: Similar { granted: past.granted, denied: past.denied, last: past.decided },
            may,
            approved: grant.approvals.iter().any(|one| one.by == person.name),
            grant,
        }))
    }
}

/// Requests that are read at once: a page's worth, so that a long queue is not read for a short page.
const READ_AT_ONCE: usize = 128;
/// How far back decisions are similar: 90 days.
const SIMILAR_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// Closed reviews that are listed: more than anybody reads.
const CLOSED_MAX: u32 = 1_000;

/// A scope with what the approver signs off: the operations of the ruling, not those that the catalog may have by now.
fn scope(bundle: &Bundle, grant: &GrantRecord, name: &ScopeName) -> ScopeShown {
    let resource = bundle.catalog().resources.get(&grant.request.resource);
    let known = resource.and_then(|resource| resource.scopes.get(name));
    let operations = grant.ruling.terms.operations.iter().filter_map(|operation| {
        let (scope, rest) = operation.split_once(' ')?;
        (scope == name.as_str()).then(|| rest.to_owned())
    });
    ScopeShown {
        name: name.clone(),
        purpose: known.map(|known| known.purpose.clone()).unwrap_or_default(),
        risk: known.map(|known| known.risk),
        operations: operations.collect(),
    }
}
