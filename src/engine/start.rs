//! A start: the store is checked against what others saw of it, gateways can follow, and then the state is loaded.

use std::sync::Arc;

use arc_swap::ArcSwap;
use protem_core::charter::Charter;
use protem_core::event::{Event, KeyPurpose};
use protem_core::limits::{LIFETIME_MAX, STALENESS};
use protem_verify::ids::Seq;
use protem_verify::time::{Staleness, Time};
use tokio::sync::{Semaphore, watch};

use crate::engine::broker::{Broker, Inner, Start};
use crate::engine::bundle::Bundles;
use crate::engine::desk::Desk;
use crate::engine::feed::Feed;
use crate::engine::health::Health;
use crate::engine::keys::{KeyRing, KeySets};
use crate::engine::lane::Lanes;
use crate::engine::loading::{Loading, Rest};
use crate::engine::marks::Marks;
use crate::engine::meters::Meters;
use crate::engine::minder::Minder;
use crate::engine::minting::Minting;
use crate::engine::opening::{self, About};
use crate::engine::proof::Prover;
use crate::engine::receipts::Receipts;
use crate::engine::rotation::Rotation;
use crate::engine::seats::Seats;
use crate::engine::stop::StartError;
use crate::engine::tasks::Leases;
use crate::engine::threads::Threads;
use crate::engine::usual::Mirror;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;
use crate::policy::bundle::Bundle;

/// A bundle at or before this entry may be a journal's first.
const FIRST_BUNDLE: Seq = Seq(16);

/// What the feed is opened from.
struct Ground {
    charter: Charter,
    head: Head,
    bundle: Arc<Bundle>,
    /// Nobody knows the journal yet.
    fresh: bool,
}

impl Broker {
    /// Starts a broker, and waits until it takes turns.
    ///
    /// # Errors
    /// When the store, the keys, the bundle, the anchor or the clock are not fit.
    pub fn start(start: Start) -> Result<Self, StartError> {
        let (broker, loading) = Self::open(start)?;
        loading.wait()?;
        Ok(broker)
    }

    /// Opens a broker: checks the store against the anchor, and makes sure of its keys and bundle. Gateways can follow it from
    /// then on, however large the state is; all else waits until it is loaded.
    ///
    /// # Errors
    /// When the store, the keys, the bundle, the anchor or the clock are not fit.
    pub fn open(start: Start) -> Result<(Self, Loading), StartError> {
        let keys = Arc::new(KeyRing::open(&start.keys)?);
        let about = About {
            issuer: start.issuer.as_str().into(),
            dev: start.dev,
            first: start.bundle,
            anchor: start.anchor.as_deref(),
            keys: &keys,
            reader: &*start.reader,
            clock: &start.clock,
        };
        let (Ground { charter, head, bundle, fresh }, rest) = ground(start.journal, &about)?;
        let issuer: Arc<str> = charter.issuer().into();
        let sets = Arc::new(KeySets::of(charter.keys(), charter.keys_seq()));
        let boot = start.clock.boot();
        let meters = Meters::default();
        let receipts = Arc::new(Receipts::new(boot, fresh, meters.lag.clone()));
        let former = !fresh && former_bundle(&*start.reader, charter.bundle_seq(), &head)?;
        if former {
            receipts.bundle(Staleness(*STALENESS.end()), boot);
        }
        receipts.bundle(bundle.known_max_fresh(), boot);
        let prover = Arc::new(Prover::new(
            Arc::clone(&keys),
            Arc::clone(&start.clock),
            start.anchor.clone(),
        ));
        prover.sign_with(charter.signing(KeyPurpose::Checkpoint).cloned());
        let feed = Feed::new(head, &sets, (Arc::clone(&bundle), charter.bundle_seq()), former);
        let signing = charter.signing(KeyPurpose::Credential).cloned();
        let lanes = Arc::new(Lanes::new(start.limits));
        let seats = Arc::new(Seats::new(Arc::clone(&start.clock)));
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
            seats,
            builds: Arc::default(),
            receipts,
            prover,
            leases: Arc::new(Leases::default()),
            watchers: Arc::default(),
            desk: Arc::new(Desk::default()),
            health: Arc::new(Health::default()),
            signing: Arc::new(ArcSwap::from_pointee(signing)),
            marks: Marks::default(),
            minder: Arc::new(Minder::default()),
            meters,
            usual: Arc::new(Mirror::default()),
            unusual: Arc::default(),
            comparing: Semaphore::new(1),
            loaded: watch::Sender::new(false),
            threads: Threads::default(),
        };
        let broker = Self(Arc::new(inner));
        let loading = broker.load(rest)?;
        Ok((broker, loading))
    }
}

/// What the feed is opened from, and what is left to do.
fn ground(journal: Box<dyn Journal>, about: &About<'_>) -> Result<(Ground, Rest), StartError> {
    let charter = about.reader.charter()?;
    if charter.journal().is_none() || charter.bundle().is_none() {
        let fresh = charter.journal().is_none();
        let (sequencer, bundle) = opening::found(journal, about)?;
        let (charter, head) = (sequencer.state().charter(), *sequencer.head());
        let ground = Ground { charter, head, bundle: Arc::new(bundle), fresh };
        return Ok((ground, Rest::Whole(Box::new(sequencer))));
    }
    let head = about.reader.head()?;
    let bundle = Arc::new(opening::fit(&charter, &head, about)?);
    opening::reconcile(about.keys, &charter)?;
    let expected = Box::new((head, charter.clone()));
    Ok((Ground { charter, head, bundle, fresh: false }, Rest::Stored { journal, expected }))
}

impl Drop for Inner {
    /// A broker that nobody holds any more ends its threads; `stop` waits for them.
    fn drop(&mut self) {
        self.feed.stop();
        self.close();
    }
}

/// Whether credentials of an earlier bundle than the one in force, which `seq` put there, may be alive.
fn former_bundle(reader: &dyn Reader, seq: Seq, head: &Head) -> Result<bool, Fault> {
    if seq <= FIRST_BUNDLE {
        let before = reader.read(Seq(0), FIRST_BUNDLE.0.try_into().unwrap_or(u32::MAX))?;
        let is = |row: &Committed<Event>| matches!(row.what(), Event::BundleActivated { .. });
        let former = before.iter().any(|row| row.seq() < seq && is(row));
        if !former {
            return Ok(false);
        }
    }
    let since = reader.entry(seq)?.map_or(Time::MAX, |row| row.at());
    Ok(head.at.since(since) <= LIFETIME_MAX)
}
