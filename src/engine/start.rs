//! A start: the store is checked against what others saw of it, then the threads run.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_clock::random;
use protem_core::event::{Event, KeyPurpose};
use protem_core::limits::{LIFETIME_MAX, STALENESS};
use protem_core::state::State;
use protem_verify::ids::Seq;
use protem_verify::time::{Staleness, Time};

use crate::engine::broker::{Broker, Inner, Start};
use crate::engine::bundle::Bundles;
use crate::engine::desk::Desk;
use crate::engine::feed::{Feed, News};
use crate::engine::health::Health;
use crate::engine::keys::{KeyRing, KeySets};
use crate::engine::lane::Lanes;
use crate::engine::marks::Marks;
use crate::engine::meters::Meters;
use crate::engine::minder::{Minded, Minder};
use crate::engine::minting::Minting;
use crate::engine::opening::{self, Opened};
use crate::engine::proof::Prover;
use crate::engine::receipts::Receipts;
use crate::engine::rotation::Rotation;
use crate::engine::sequencer::Sequencer;
use crate::engine::stop::StartError;
use crate::engine::tail::BrokerTail;
use crate::engine::tasks::Leases;
use crate::engine::threads::{Threads, lower_priority};
use crate::engine::unusual::Unusual;
use crate::engine::{dice::SystemDice, thread};
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;

/// Turns on their way to the feed; a feed that is this far behind makes the sequencer wait, so memory is bounded.
const NEWS_MAX: usize = 1_024;
/// Entries read at once.
const READ_MAX: u32 = 1_000;
/// A bundle at or before this entry may be a journal's first.
const FIRST_BUNDLE: Seq = Seq(16);

/// What a store holds at a start.
pub(in crate::engine) struct Loaded {
    pub(in crate::engine) state: State,
    pub(in crate::engine) head: Head,
    /// The entry that changed the keys last, or a later one.
    pub(in crate::engine) keys_seq: Seq,
}

impl Broker {
    /// Starts a broker: reads the store, checks it against the anchor, makes sure of its keys and bundle, and runs.
    ///
    /// # Errors
    /// When the store, the keys, the bundle, the anchor or the clock are not fit.
    pub fn start(start: Start) -> Result<Self, StartError> {
        let keys = Arc::new(KeyRing::open(&start.keys)?);
        let loaded = load(&*start.reader)?;
        let dice = Box::new(SystemDice);
        let clock = Arc::clone(&start.clock);
        let fresh = loaded.state.journal().is_none();
        let sequencer = Sequencer::new(start.journal, loaded.state, loaded.head, clock, dice);
        let about = opening::About {
            issuer: start.issuer.as_str().into(),
            dev: start.dev,
            first: start.bundle,
            anchor: start.anchor.as_deref(),
            keys: &keys,
            reader: &*start.reader,
            clock: &*start.clock,
            keys_seq: loaded.keys_seq,
        };
        let Opened { sequencer, bundle, keys_seq } = opening::open(sequencer, &about)?;
        let issuer: Arc<str> = sequencer.state().issuer().into();

        let (state, head) = (sequencer.state(), *sequencer.head());
        let sets = Arc::new(KeySets::of(state, keys_seq));
        let boot = start.clock.boot();
        let meters = Meters::default();
        let receipts = Arc::new(Receipts::new(boot, fresh, meters.lag.clone()));
        if !fresh && former_bundle(&*start.reader, state)? {
            receipts.bundle(Staleness(*STALENESS.end()), boot);
        }
        receipts.bundle(bundle.known_max_fresh(), boot);
        let prover = Arc::new(Prover::new(
            Arc::clone(&keys),
            Arc::clone(&start.clock),
            start.anchor.clone(),
        ));
        prover.sign_with(state.signing(KeyPurpose::Checkpoint).cloned());
        let feed = Feed::new(head, Arc::clone(&sets), Arc::clone(&bundle), state.bundle_seq());
        let leases = Arc::new(held(state, boot));
        let signing = state.signing(KeyPurpose::Credential).cloned();
        let lanes = Arc::new(Lanes::new(start.limits));
        let (ring, told) = (Arc::clone(&keys), Arc::clone(&receipts));
        let (now, every) = (Arc::clone(&start.clock), start.rotation);
        let rotation = Rotation::new(ring, Arc::clone(&lanes), now, told, every);
        let inner = Inner {
            lanes,
            rotation: Arc::new(rotation),
            minting: Arc::new(Minting::new(Arc::clone(&keys), Arc::clone(&issuer))),
            reader: start.reader,
            clock: start.clock,
            issuer,
            dev: start.dev,
            region: start.region,
            head: Arc::new(ArcSwap::from_pointee(head)),
            bundles: Arc::new(Bundles::new(bundle, start.dev)),
            keys,
            sets: Arc::new(ArcSwap::new(sets)),
            feed: Arc::new(feed),
            receipts,
            prover,
            leases,
            watchers: Arc::default(),
            desk: Arc::new(Desk::of(state)),
            health: Arc::new(Health::default()),
            signing: Arc::new(ArcSwap::from_pointee(signing)),
            marks: Marks::default(),
            minder: Arc::new(Minder::default()),
            meters,
            unusual: Unusual::default(),
            threads: Threads::default(),
        };
        let broker = Self(Arc::new(inner));
        broker.run(sequencer)?;
        Ok(broker)
    }

    fn run(&self, sequencer: Sequencer<Box<dyn Journal>>) -> Result<(), StartError> {
        let inner = &self.0;
        let (send, news) = sync_channel::<News>(NEWS_MAX);
        let mut tail = BrokerTail::new(inner, send);
        let (lanes, health) = (Arc::clone(&inner.lanes), Arc::clone(&inner.health));
        let meters = inner.meters.clone();
        inner.threads.start("sequencer", move || {
            thread::run(sequencer, &lanes, &mut tail, (&health, &meters));
        })?;
        let (feed, receipts) = (Arc::clone(&inner.feed), Arc::clone(&inner.receipts));
        inner.threads.start("feed", move || publish(&news, &feed, &receipts))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for at in 0..cores {
            let minting = Arc::clone(&inner.minting);
            inner.threads.start(&format!("mint-{at}"), move || {
                lower_priority();
                minting.run();
            })?;
        }
        let (leases, lanes) = (Arc::clone(&inner.leases), Arc::clone(&inner.lanes));
        let clock = Arc::clone(&inner.clock);
        inner.threads.start("leases", move || leases.run(&lanes, &*clock))?;
        let (bundles, lanes) = (Arc::clone(&inner.bundles), Arc::clone(&inner.lanes));
        let (reader, clock) = (Arc::clone(&inner.reader), Arc::clone(&inner.clock));
        inner.threads.start("settle", move || bundles.settle(&lanes, &*reader, &*clock))?;
        let (minder, minded) = (Arc::clone(&inner.minder), minded(inner));
        inner.threads.start("minder", move || minder.run(&minded))?;
        let (minder, reader) = (Arc::clone(&inner.minder), Arc::clone(&inner.reader));
        let head = Arc::clone(&inner.head);
        inner.threads.start("snapshots", move || minder.snapshots(&*reader, &head))
    }
}

/// The leases of held tasks. Their streams died with the process that held them: each has one full lease to come back.
fn held(state: &State, boot: Duration) -> Leases {
    let leases = Leases::default();
    for (identity, task, hold) in state.held() {
        leases.hold((identity.clone(), task.clone()), hold.hold, hold.lease, boot);
    }
    leases
}

impl Drop for Inner {
    /// A broker that nobody holds any more ends its threads; `stop` waits for them.
    fn drop(&mut self) {
        self.feed.stop();
        self.close();
    }
}

fn minded(inner: &Inner) -> Minded {
    Minded {
        clock: Arc::clone(&inner.clock),
        head: Arc::clone(&inner.head),
        rotation: Arc::clone(&inner.rotation),
        receipts: Arc::clone(&inner.receipts),
        prover: Arc::clone(&inner.prover),
    }
}

fn publish(news: &Receiver<News>, feed: &Feed, receipts: &Receipts) {
    while let Ok(one) = news.recv() {
        feed.publish(&one, receipts);
    }
}

/// The newest snapshot and what came after it.
fn load(reader: &dyn Reader) -> Result<Loaded, Fault> {
    let head = reader.head()?;
    let (mut state, mut keys_seq) = match reader.snapshot()? {
        Some((at, parts)) => (State::from_parts(parts), at.seq),
        None => (State::new(), Seq(0)),
    };
    while state.seq() < head.seq {
        let rows = reader.read(state.seq(), READ_MAX)?;
        if rows.is_empty() {
            let seq = state.seq().next();
            return Err(Fault::Damaged { seq, why: "it is not there".to_owned() });
        }
        for row in rows.iter().filter(|row| row.seq() <= head.seq) {
            state.apply(row.at(), row.what());
            if changes_keys(row.what()) {
                keys_seq = row.seq();
            }
        }
    }
    if state.seq() != head.seq {
        let (known, found) = (state.seq(), head.seq);
        return Err(Fault::RolledBack { known, found });
    }
    Ok(Loaded { state, head, keys_seq })
}

/// Whether credentials of an earlier bundle than the one in force may be alive.
fn former_bundle(reader: &dyn Reader, state: &State) -> Result<bool, Fault> {
    let seq = state.bundle_seq();
    if seq <= FIRST_BUNDLE {
        let before = reader.read(Seq(0), FIRST_BUNDLE.0.try_into().unwrap_or(u32::MAX))?;
        let is = |row: &Committed<Event>| matches!(row.what(), Event::BundleActivated { .. });
        let former = before.iter().any(|row| row.seq() < seq && is(row));
        if !former {
            return Ok(false);
        }
    }
    let since = reader.entry(seq)?.map_or(Time::MAX, |row| row.at());
    Ok(state.last_at().since(since) <= LIFETIME_MAX)
}

/// Whether an entry changes what gateways must know of the keys.
pub(in crate::engine) fn changes_keys(event: &Event) -> bool {
    match event {
        Event::KeyPublished(_)
        | Event::KeyActivated { .. }
        | Event::KeyRetired { .. }
        | Event::KeyForgotten { .. } => true,
        Event::CutOff { target, .. } => {
            matches!(target, protem_core::event::Target::Key(_))
        }
        Event::JournalOpened { .. }
        | Event::EpochBegan { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSettled { .. }
        | Event::GrantsConfirmed { .. }
        | Event::KeyRotationAsked { .. }
        | Event::GrantRequested(_)
        | Event::RequestReevaluated { .. }
        | Event::GrantActivated(_)
        | Event::CredentialIssued(_)
        | Event::RequestRepeated { .. }
        | Event::AccessRefused(_)
        | Event::GrantEnded(_)
        | Event::RequestReminded { .. }
        | Event::ApprovalGiven { .. }
        | Event::ApprovalTakenBack { .. }
        | Event::RequestNarrowed { .. }
        | Event::ReviewClosed { .. }
        | Event::TaskHeld { .. }
        | Event::TaskEnded { .. }
        | Event::IdentityQuarantined { .. }
        | Event::QuarantineLifted { .. } => false,
    }
}

/// A fresh journal id.
pub(in crate::engine) fn journal_id() -> protem_verify::ids::JournalId {
    protem_verify::ids::JournalId(random::bytes())
}
