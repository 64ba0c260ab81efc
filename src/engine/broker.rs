//! The broker: what `serve` talks to. Cheap to clone; all clones are one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::{Actor, CredentialIssued};
use protem_core::state::State;
use protem_verify::ids::Seq;
use protem_verify::names::KeyId;
use protem_verify::time::Time;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::engine::builds::Builds;
use crate::engine::bundle::Bundles;
use crate::engine::changes::Watchers;
use crate::engine::desk::Desk;
use crate::engine::feed::Feed;
use crate::engine::health::Health;
use crate::engine::instance::GatewayState;
use crate::engine::keys::{KeyRing, KeySets};
use crate::engine::lane::{Lane, LaneLimits, Lanes};
use crate::engine::marks::Marks;
use crate::engine::meters::Meters;
use crate::engine::minder::Minder;
use crate::engine::minting::Minting;
use crate::engine::plan::Schedule;
use crate::engine::proof::Prover;
use crate::engine::receipts::{Enforcement, InstanceId, Mark, Receipts};
use crate::engine::rotation::{Halted, Replaced, Replacement, Rotation, ShownKey};
use crate::engine::seats::Seats;
use crate::engine::sequencer::{Answered, Job, Work};
use crate::engine::stop::Stop;
use crate::engine::tasks::Leases;
use crate::engine::threads::Threads;
use crate::engine::unusual::Unusual;
use crate::engine::usual::Mirror;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;
use crate::mint::Token;
use crate::policy::bundle::{Bundle, Files};

/// What a broker is started with.
pub struct Start {
    /// The one writer's side of the store.
    pub journal: Box<dyn Journal>,
    /// The readers' side of the same store.
    pub reader: Arc<dyn Reader>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// The `iss` of its credentials.
    pub issuer: String,
    /// `protem dev` or `demo`: its own logins count, and the journal says so for ever.
    pub dev: bool,
    /// An empty journal's first bundle.
    pub bundle: Files,
    /// The key folder, 0700; made at first start.
    pub keys: PathBuf,
    /// Where the newest signed checkpoint is kept, outside the store; absent: a rolled-back store is found out by gateways
    /// alone.
    pub anchor: Option<PathBuf>,
    /// This broker's region, for policies.
    pub region: String,
    /// How long signing keys live.
    pub rotation: Schedule,
    /// How much may wait.
    pub limits: LaneLimits,
}

/// A running broker.
#[derive(Clone)]
pub struct Broker(pub(in crate::engine) Arc<Inner>);

pub(in crate::engine) struct Inner {
    pub(in crate::engine) lanes: Arc<Lanes>,
    pub(in crate::engine) reader: Arc<dyn Reader>,
    pub(in crate::engine) clock: Arc<dyn Clock>,
    pub(in crate::engine) issuer: Arc<str>,
    pub(in crate::engine) dev: bool,
    pub(in crate::engine) region: String,
    pub(in crate::engine) head: Arc<ArcSwap<Head>>,
    pub(in crate::engine) bundles: Arc<Bundles>,
    pub(in crate::engine) keys: Arc<KeyRing>,
    pub(in crate::engine) sets: Arc<ArcSwap<KeySets>>,
    pub(in crate::engine) minting: Arc<Minting>,
    pub(in crate::engine) feed: Arc<Feed>,
    pub(in crate::engine) seats: Arc<Seats>,
    pub(in crate::engine) builds: Arc<Builds>,
    pub(in crate::engine) receipts: Arc<Receipts>,
    pub(in crate::engine) marks: Marks,
    pub(in crate::engine) prover: Arc<Prover>,
    pub(in crate::engine) leases: Arc<Leases>,
    pub(in crate::engine) watchers: Arc<Watchers>,
    pub(in crate::engine) desk: Arc<Desk>,
    pub(in crate::engine) health: Arc<Health>,
    /// The key that the journal says signs credentials.
    pub(in crate::engine) signing: Arc<ArcSwap<Option<KeyId>>>,
    pub(in crate::engine) minder: Arc<Minder>,
    pub(in crate::engine) rotation: Arc<Rotation>,
    pub(in crate::engine) meters: Meters,
    pub(in crate::engine) usual: Arc<Mirror>,
    pub(in crate::engine) unusual: Arc<Unusual>,
    /// Whose shown checkpoint is looked at.
    pub(in crate::engine) comparing: Semaphore,
    /// Whether the state is here: turns are taken from then on.
    pub(in crate::engine) loaded: watch::Sender<bool>,
    pub(in crate::engine) threads: Threads,
}

impl Broker {
    /// What is known of a mark's enforcement.
    #[must_use]
    pub fn enforcement(&self, mark: &Mark) -> Enforcement {
        self.0.receipts.watch(mark);
        self.0.receipts.enforcement(mark, self.0.clock.boot())
    }

    /// Whether a mark is enforced everywhere, and else whom it waits for: as long as that one says nothing, this is a glance.
    #[must_use]
    pub fn enforced_everywhere(&self, mark: &Mark, waits_for: &mut Option<InstanceId>) -> bool {
        self.0.receipts.everywhere(mark, self.0.clock.boot(), waits_for)
    }

    /// Changes whenever an answer of [`Self::enforcement`] may have, also when a bound passes.
    #[must_use]
    pub fn enforcement_changed(&self) -> watch::Receiver<u64> {
        self.0.receipts.changed()
    }

    /// After this long since its commit, a mark is in force at every enforcing gateway, whatever fails.
    #[must_use]
    pub fn bound(&self, mark: &Mark) -> Duration {
        self.0.receipts.bound(mark)
    }

    /// The mark of a revocation or quarantine that this broker answered lately, by its entry.
    #[must_use]
    pub fn mark(&self, seq: Seq) -> Option<Mark> {
        self.0.marks.find(seq)
    }

    /// Every enforcing gateway process that this broker knows.
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayState> {
        self.0.receipts.gateways(self.0.clock.boot())
    }

    /// The bundle in force.
    #[must_use]
    pub fn bundle(&self) -> Arc<Bundle> {
        self.0.bundles.in_force()
    }

    /// The credential keys as a JWK set, for `/jwks.json`.
    #[must_use]
    pub fn jwks(&self) -> Arc<str> {
        Arc::clone(&self.0.sets.load().credential)
    }

    /// The ids of the credential keys that count.
    #[must_use]
    pub fn key_ids(&self) -> Arc<[KeyId]> {
        Arc::clone(&self.0.sets.load().ids)
    }

    /// The journal, for reading. Its calls block.
    #[must_use]
    pub fn reader(&self) -> &Arc<dyn Reader> {
        &self.0.reader
    }

    /// Wall and monotonic time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// The `iss` of its credentials.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// Whether it is a trial's.
    #[must_use]
    pub fn dev(&self) -> bool {
        self.0.dev
    }

    /// The journal's head as of the last turn.
    #[must_use]
    pub fn head(&self) -> Head {
        **self.0.head.load()
    }

    /// Waits until turns are taken, at most for `patience`; whether they are. The feed needs none.
    pub async fn takes_turns(&self, patience: Duration) -> bool {
        let mut loaded = self.0.loaded.subscribe();
        if *loaded.borrow_and_update() {
            return true;
        }
        tokio::time::timeout(patience, loaded.wait_for(|loaded| *loaded)).await.is_ok()
    }

    /// The time that policy is asked with: the clock's, never before the last event.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from(self.0.clock.unix()).max(self.head().at)
    }

    /// Lets another key sign; a compromised one's tokens are void when this answers.
    ///
    /// # Errors
    /// When there is no such key, or the world broke.
    pub async fn replace_key(&self, actor: Actor, asked: Replacement) -> Result<Replaced, Halted> {
        self.rotating(move |rotation| rotation.replace(&actor, &asked)).await
    }

    /// Every signing key that is not forgotten.
    ///
    /// # Errors
    /// When the state cannot be asked.
    pub async fn keys(&self) -> Result<Vec<ShownKey>, Halted> {
        self.rotating(Rotation::shown).await
    }

    async fn rotating<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rotation) -> Result<T, Halted> + Send + 'static,
    ) -> Result<T, Halted> {
        let rotation = Arc::clone(&self.0.rotation);
        // One at a time: each of them holds a thread of the pool while it waits.
        let seat = tokio::time::timeout(ASKING_WITHIN, self.0.rotation.asking.acquire()).await;
        let Ok(Ok(_seat)) = seat else { return Err(Halted::Stop(Stop::busy())) };
        let done = tokio::task::spawn_blocking(move || work(&rotation)).await;
        done.unwrap_or(Err(Halted::Stop(Stop::Faulted(Fault::Stopping))))
    }

    /// A look at the committed state, between turns. It runs on the sequencer's thread: short work only.
    ///
    /// # Errors
    /// When the broker is busy, in doubt about its last turn, or stopping.
    pub async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Stop> {
        self.ask_in(Lane::Ordinary, look).await
    }

    /// The same on a lane of choice.
    pub(in crate::engine) async fn ask_in<T: Send + 'static>(
        &self,
        lane: Lane,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Stop> {
        let (tell, told) = oneshot::channel();
        let job = Job {
            actor: crate::engine::thread::system(),
            work: Work::Look,
            answer: Box::new(move |answered| {
                drop(tell.send(answered.map(|answered| look(answered.state))));
            }),
        };
        self.0.lanes.push(lane, job);
        told.await.unwrap_or(Err(Stop::Faulted(Fault::Stopping)))
    }

    /// Finishes what waits, takes nothing new, tells every subscriber to come back elsewhere.
    pub async fn stop(&self) {
        self.0.feed.stop();
        self.0.lanes.close();
        let broker = self.clone();
        // Joining blocks; a runtime that is going away need not wait for it.
        drop(tokio::task::spawn_blocking(move || broker.0.shut()).await);
    }

    /// Lets a command join a turn; `read` takes from the committed state what the caller needs.
    pub(in crate::engine) async fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        actor: Actor,
        command: Command,
        read: impl FnOnce(&Answered<'_>) -> T + Send + 'static,
    ) -> Result<T, Stop> {
        let (tell, told) = oneshot::channel();
        let job = Job {
            actor,
            work: Work::Command(Box::new(command)),
            // A caller that left changes nothing: the command has run.
            answer: Box::new(move |answered| {
                drop(tell.send(answered.map(|answered| read(&answered))));
            }),
        };
        self.0.lanes.push(lane, job);
        told.await.unwrap_or(Err(Stop::Faulted(Fault::Stopping)))
    }

    /// The same, where the turn may record a credential: it goes from the turn straight to those who sign, together with the
    /// turn's others, and the caller is woken once, when its token is there.
    pub(in crate::engine) async fn submit_and_sign<T: Send + 'static>(
        &self,
        lane: Lane,
        actor: Actor,
        command: Command,
        read: impl FnOnce(&Answered<'_>) -> (T, Option<Committed<CredentialIssued>>) + Send + 'static,
    ) -> Result<(T, Option<Token>), Stop> {
        let (tell, told) = oneshot::channel();
        let minting = Arc::clone(&self.0.minting);
        let job = Job {
            actor,
            work: Work::Command(Box::new(command)),
            answer: Box::new(move |answered| match answered.map(|answered| read(&answered)) {
                Err(stop) => drop(tell.send(Err(stop))),
                Ok((found, None)) => drop(tell.send(Ok((found, None)))),
                Ok((found, Some(issued))) => minting.order(
                    issued,
                    Box::new(move |token| {
                        drop(tell.send(token.map(|token| (found, Some(token)))));
                    }),
                ),
            }),
        };
        self.0.lanes.push(lane, job);
        told.await.unwrap_or(Err(Stop::Faulted(Fault::Stopping)))
    }

    /// Reads the journal on a thread that may block.
    pub(in crate::engine) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Stop> {
        let reader = Arc::clone(&self.0.reader);
        let done = tokio::task::spawn_blocking(move || read(&*reader)).await;
        match done {
            Ok(found) => found.map_err(Stop::Faulted),
            Err(_) => Err(Stop::Faulted(Fault::Stopping)),
        }
    }
}

/// How long a question about keys waits for another one's answer.
const ASKING_WITHIN: Duration = Duration::from_secs(2);

impl Inner {
    /// Ends every thread, the sequencer's first: what follows the tail ends when the tail does.
    pub(in crate::engine) fn shut(&self) {
        self.close();
        self.threads.join();
    }

    /// Takes nothing new and tells every thread to end.
    pub(in crate::engine) fn close(&self) {
        self.lanes.close();
        self.leases.close();
        self.bundles.close();
        self.minder.close();
        self.minting.close();
        self.watchers.close();
    }
}
