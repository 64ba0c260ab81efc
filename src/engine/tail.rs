//! What the broker does with each turn's entries before anybody is answered.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_core::charter::changes_keys;
use protem_core::event::{Event, KeyPurpose, Target};
use protem_core::state::State;
use protem_verify::names::KeyId;

use crate::engine::broker::Inner;
use crate::engine::bundle::Bundles;
use crate::engine::changes::Watchers;
use crate::engine::desk::Desk;
use crate::engine::feed::News;
use crate::engine::keys::{KeyRing, KeySets};
use crate::engine::meters::Meters;
use crate::engine::proof::Prover;
use crate::engine::receipts::Receipts;
use crate::engine::rotation::Rotation;
use crate::engine::sequencer::Tail;
use crate::engine::tasks::Leases;
use crate::engine::usual::Mirror;
use crate::journal::committed::Committed;
use crate::journal::port::Head;

/// The broker's own tail, on the sequencer's thread: what must hold before an answer, and the rest handed on.
pub(in crate::engine) struct BrokerTail {
    head: Arc<ArcSwap<Head>>,
    bundles: Arc<Bundles>,
    sets: Arc<ArcSwap<KeySets>>,
    signing: Arc<ArcSwap<Option<KeyId>>>,
    prover: Arc<Prover>,
    receipts: Arc<Receipts>,
    leases: Arc<Leases>,
    watchers: Arc<Watchers>,
    desk: Arc<Desk>,
    usual: Arc<Mirror>,
    ring: Arc<KeyRing>,
    rotation: Arc<Rotation>,
    meters: Meters,
    news: SyncSender<News>,
}

impl BrokerTail {
    pub(in crate::engine) fn new(inner: &Inner, news: SyncSender<News>) -> Self {
        Self {
            head: Arc::clone(&inner.head),
            bundles: Arc::clone(&inner.bundles),
            sets: Arc::clone(&inner.sets),
            signing: Arc::clone(&inner.signing),
            prover: Arc::clone(&inner.prover),
            receipts: Arc::clone(&inner.receipts),
            leases: Arc::clone(&inner.leases),
            watchers: Arc::clone(&inner.watchers),
            desk: Arc::clone(&inner.desk),
            usual: Arc::clone(&inner.usual),
            ring: Arc::clone(&inner.keys),
            rotation: Arc::clone(&inner.rotation),
            meters: inner.meters.clone(),
            news,
        }
    }

    fn keys(&self, rows: &[Committed<Event>], state: &State) -> Option<Arc<KeySets>> {
        let last = rows.iter().rfind(|row| changes_keys(row.what()))?;
        for row in rows {
            if let Event::CutOff { target: Target::Key(key), .. } = row.what() {
                // INVARIANT(nothing_is_signed_with_a_cut_off_key): also not what was recorded before and waits to be signed.
                self.ring.lock_away(key);
                self.watchers.cut_off(key, state);
            }
        }
        self.rotation.wake();
        let sets = Arc::new(KeySets::of(state.keys(), last.seq()));
        self.sets.store(Arc::clone(&sets));
        self.signing.store(Arc::new(state.signing(KeyPurpose::Credential).cloned()));
        self.prover.sign_with(state.signing(KeyPurpose::Checkpoint).cloned());
        Some(sets)
    }
}

impl Tail for BrokerTail {
    fn committed(
        &mut self,
        rows: &Arc<[Committed<Event>]>,
        state: &State,
        head: &Head,
        boot: Duration,
    ) {
        self.meters.committed(rows);
        let keys = self.keys(rows, state);
        let mut bundle = None;
        for row in rows.iter() {
            if let Event::BundleActivated { digest, files } = row.what() {
                let activated = self.bundles.activated(*digest, files);
                bundle = activated.map(|bundle| (bundle, row.seq())).or(bundle);
            }
            if let Event::TaskHeld { identity, task, hold, lease } = row.what() {
                self.leases.hold((identity.clone(), task.clone()), *hold, *lease, boot);
            }
            if let Event::TaskEnded { identity, task, .. } = row.what() {
                self.leases.ended(&(identity.clone(), task.clone()));
            }
        }
        if let Some((bundle, _)) = &bundle {
            self.receipts.bundle(bundle.known_max_fresh(), boot);
        }
        self.head.store(Arc::new(*head));
        let task = |id: &protem_verify::ids::GrantId| {
            let grant = state.grant(id)?;
            Some((grant.by.identity.clone(), grant.task.clone()))
        };
        self.watchers.committed(rows, &task);
        self.desk.committed(rows, state);
        self.usual.committed(rows, state);
        let news = News { rows: Arc::clone(rows), head: *head, boot, keys, bundle };
        if self.news.send(news).is_err() {
            tracing::error!("the feed has ended before the sequencer");
        }
    }
}
