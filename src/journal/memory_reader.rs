//! Reads a journal in memory.

use std::collections::BTreeSet;

use protem_core::charter::Charter;
use protem_core::event::Event;
use protem_core::parts::Parts;
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{IdentityName, ResourceName, ScopeName};
use protem_verify::time::Time;
use protem_verify::{merkle, proof};

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::memory::{MemoryStore, Stored};
use crate::journal::outbox::{Later, Note, Outbox, Place};
use crate::journal::page::gather;
use crate::journal::past::{Like, Past};
use crate::journal::port::Head;
use crate::journal::proofs::Subtrees;
use crate::journal::reader::{GrantFilter, GrantPage, RESOLVED_MAX, Reader, named_by};
use crate::journal::records::GrantRecord;
use crate::journal::rows::GrantRow;
use crate::journal::snapshot;
use crate::journal::usage::{Counted, Hour, IdentityUse, Report, Reporter, Usage, Use};

/// Reads a store.
pub(in crate::journal) struct MemoryReader {
    store: MemoryStore,
}

impl MemoryReader {
    pub(in crate::journal) fn new(store: MemoryStore) -> Self {
        Self { store }
    }

    fn prove<T>(
        &self,
        size: u64,
        path: impl FnOnce(&mut proof::Perfect<'_, Fault>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let stored = self.store.lock();
        if size > stored.tip.head.seq.0 {
            return Err(Fault::Store(format!("the journal has no {size} entries")));
        }
        let leaves = |start: u64, count: u64| {
            let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
            let rows = stored.entries.iter().skip(number(start)).take(number(count));
            Ok(rows.map(|row| row.leaf).collect())
        };
        // A store may be rolled back under this reader, so nothing is remembered.
        let subtrees = Subtrees::default();
        path(&mut |start, level| subtrees.perfect(&leaves, start, level))
    }
}

impl Stored {
    fn compose(&self, row: &GrantRow, cut: Option<Seq>) -> Result<GrantRecord, Fault> {
        let mut entries = Vec::new();
        for seq in self.rows.seqs_of(row) {
            entries.extend(self.entry(seq)?);
        }
        let cut = cut.map(|seq| self.entry(seq)).transpose()?.flatten();
        GrantRecord::from_entries(row.id, &entries, cut.as_ref()).ok_or_else(|| Fault::Damaged {
            seq: row.requested,
            why: "the entry does not begin the grant that its row names".into(),
        })
    }
}

impl Reader for MemoryReader {
    fn head(&self) -> Result<Head, Fault> {
        Ok(self.store.lock().tip.head)
    }

    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault> {
        self.store.lock().read(after, limit)
    }

    fn entry(&self, seq: Seq) -> Result<Option<Committed<Event>>, Fault> {
        self.store.lock().entry(seq)
    }

    fn body(&self, seq: Seq) -> Result<Option<Vec<u8>>, Fault> {
        self.store.lock().body(seq)
    }

    fn grant(&self, id: &GrantId) -> Result<Option<GrantRecord>, Fault> {
        let stored = self.store.lock();
        let row = stored.rows.grants.get(id);
        row.map(|row| stored.compose(row, stored.rows.cut_off(row))).transpose()
    }

    fn grants(&self, filter: &GrantFilter) -> Result<GrantPage, Fault> {
        let stored = self.store.lock();
        let below = filter.below().unwrap_or(GrantId([u8::MAX; 16]));
        let rows = stored.rows.grants.range(..below).rev().map(|(_, row)| Ok(row.clone()));
        let cut = |row: &GrantRow| Ok(stored.rows.cut_off(row));
        gather(filter, rows, cut, |row, cut| stored.compose(row, cut))
    }

    fn resolve(&self, part: &str) -> Result<Vec<GrantId>, Fault> {
        let stored = self.store.lock();
        let ids = stored.rows.grants.keys().rev().filter(|id| named_by(id, part));
        Ok(ids.take(RESOLVED_MAX).copied().collect())
    }

    fn last_granted(&self, identity: &IdentityName) -> Result<Option<Time>, Fault> {
        Ok(self.store.lock().rows.identities.get(identity).copied())
    }

    fn past(&self, like: &Like) -> Result<Past, Fault> {
        let stored = self.store.lock();
        let mut past = Past::default();
        let rows = stored.rows.grants.values().filter(|row| {
            row.identity == like.identity && row.id < like.before && row.asked_at >= like.since
        });
        let rows: Vec<&GrantRow> = rows.filter(|row| row.resource == like.resource).collect();
        for row in rows.iter().filter(|row| row.activated != row.requested) {
            if row.scopes == like.scopes {
                let end = if row.ended.0 > 0 { stored.entry(row.ended)? } else { None };
                past.count(row.asked_at, row.activated.0 > 0, end.as_ref().map(|row| row.what()));
            }
        }
        Ok(past)
    }

    fn closed_reviews(&self, limit: u32) -> Result<Vec<GrantId>, Fault> {
        let stored = self.store.lock();
        let closed = stored.entries.iter().enumerate().rev().filter_map(|(at, _)| {
            let seq = Seq(u64::try_from(at).ok()?).next();
            let row = stored.entry(seq).ok()??;
            if let Event::ReviewClosed { grant, .. } = row.what() { Some(*grant) } else { None }
        });
        Ok(closed.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn bundle_before(&self, seq: Seq) -> Result<Option<Seq>, Fault> {
        let stored = self.store.lock();
        let before = usize::try_from(seq.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let rows = stored.entries.iter().enumerate().take(before).rev();
        for (at, _) in rows.filter(|(_, row)| row.chartered) {
            let seq = Seq(u64::try_from(at).unwrap_or(u64::MAX)).next();
            let row = stored.entry(seq)?;
            if row.is_some_and(|row| matches!(row.what(), Event::BundleActivated { .. })) {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }

    fn grant_entries(&self, id: &GrantId) -> Result<Vec<Seq>, Fault> {
        self.store.history_asked();
        let stored = self.store.lock();
        let row = stored.rows.grants.get(id);
        Ok(row.map(|row| stored.rows.seqs_of(row)).unwrap_or_default())
    }

    fn inclusion(&self, seq: Seq, size: u64) -> Result<Vec<Hash>, Fault> {
        self.prove(size, |perfect| proof::inclusion(seq.0.saturating_sub(1), size, perfect))
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, Fault> {
        self.prove(new, |perfect| proof::consistency(old, new, perfect))
    }

    fn root_at(&self, size: u64) -> Result<Hash, Fault> {
        if size == 0 {
            return Ok(merkle::Frontier::default().root());
        }
        self.prove(size, |perfect| proof::range(0, size, perfect))
    }

    fn charter(&self) -> Result<Charter, Fault> {
        let stored = self.store.lock();
        let kept = stored.snapshot.as_ref();
        let kept = kept.and_then(|(head, body)| Some((head.seq, snapshot::decode(body)?)));
        let (after, mut charter) =
            kept.map_or((Seq(0), Charter::default()), |(seq, parts)| (seq, parts.charter().into()));
        let mut seq = Seq(0);
        for row in &stored.entries {
            seq = seq.next();
            if row.chartered
                && seq > after
                && let Some(row) = stored.entry(seq)?
            {
                charter.apply(seq, row.at(), row.what());
            }
        }
        Ok(charter)
    }

    fn snapshot(&self) -> Result<Option<(Head, Parts)>, Fault> {
        let stored = self.store.when_given();
        Ok(stored.snapshot.as_ref().and_then(|(head, body)| Some((*head, snapshot::decode(body)?))))
    }

    fn size(&self) -> Result<u64, Fault> {
        let stored = self.store.lock();
        let sizes = stored.entries.iter().map(|row| u64::try_from(row.body.len()).unwrap_or(0));
        Ok(sizes.fold(0, u64::saturating_add))
    }

    fn keep_snapshot(&self, head: &Head, parts: &Parts) -> Result<(), Fault> {
        self.store.lock().snapshot = Some((*head, snapshot::encode(parts)));
        Ok(())
    }
}

impl Outbox for MemoryReader {
    fn told(&self, webhook: &str) -> Result<Option<Seq>, Fault> {
        Ok(self.store.lock().outbox.told(webhook))
    }

    fn note(&self, webhook: &str, note: &Note) -> Result<(), Fault> {
        self.store.lock().outbox.note(webhook, note);
        Ok(())
    }

    fn later(&self, webhook: &str, place: Place, limit: u32) -> Result<Vec<Later>, Fault> {
        Ok(self.store.lock().outbox.later(webhook, place, limit))
    }

    fn count(&self, webhook: &str, place: Place) -> Result<u64, Fault> {
        Ok(self.store.lock().outbox.count(webhook, place))
    }

    fn let_go(&self, webhook: &str) -> Result<u64, Fault> {
        Ok(self.store.lock().outbox.let_go(webhook))
    }
}

impl Usage for MemoryReader {
    fn count_usage(&self, report: &Report) -> Result<Counted, Fault> {
        let stored = &mut *self.store.lock();
        Ok(stored.used.count(&stored.rows, report))
    }

    fn usage_of_grant(&self, grant: &GrantId) -> Result<Vec<Use>, Fault> {
        Ok(self.store.lock().used.of_grant(grant))
    }

    fn usage_of_identity(&self, identity: &IdentityName) -> Result<Vec<IdentityUse>, Fault> {
        Ok(self.store.lock().used.of_identity(identity))
    }

    fn usage_by_hour(&self, identity: &IdentityName, since: u64) -> Result<Vec<Hour>, Fault> {
        Ok(self.store.lock().used.by_hour(identity, since))
    }

    fn granted_scopes(
        &self,
        identity: &IdentityName,
        since: Time,
    ) -> Result<BTreeSet<(ResourceName, ScopeName)>, Fault> {
        let stored = self.store.lock();
        let granted = stored.rows.grants.values().filter(|row| {
            row.identity == *identity && row.activated.0 > 0 && row.asked_at >= since
        });
        let scopes = granted
            .flat_map(|row| row.scopes.iter().map(|scope| (row.resource.clone(), scope.clone())));
        Ok(scopes.collect())
    }

    fn usage_reporters(&self) -> Result<Vec<Reporter>, Fault> {
        Ok(self.store.lock().used.reporters())
    }

    fn forget_usage(&self, now: Time, _: u32) -> Result<u64, Fault> {
        Ok(self.store.lock().used.forget(now))
    }
}
