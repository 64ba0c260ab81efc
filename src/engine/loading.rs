//! Loading: what a start leaves for later. The state is read, and turns are taken, while gateways follow already.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use protem_core::charter::Charter;
use protem_core::state::State;
use protem_verify::ids::Seq;

use crate::engine::broker::{Broker, Inner};
use crate::engine::dice::SystemDice;
use crate::engine::feed::{Feed, News};
use crate::engine::lane::Lanes;
use crate::engine::minder::Minded;
use crate::engine::opening;
use crate::engine::receipts::Receipts;
use crate::engine::sequencer::Sequencer;
use crate::engine::stop::StartError;
use crate::engine::tail::BrokerTail;
use crate::engine::thread::{self, Ending};
use crate::engine::threads::lower_priority;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;

/// Turns on their way to the feed; a feed that is this far behind makes the sequencer wait, so memory is bounded.
const NEWS_MAX: usize = 1_024;
/// Entries read at once.
const READ_MAX: u32 = 1_000;

/// What is left to do before turns are taken.
pub(in crate::engine) enum Rest {
    /// Nothing: the journal is as good as empty.
    Whole(Box<Sequencer<Box<dyn Journal>>>),
    /// To read the state; it must say of itself what the feed was opened from.
    Stored { journal: Box<dyn Journal>, expected: Box<(Head, Charter)> },
}

/// A broker's state on its way.
#[derive(Debug)]
pub struct Loading(Receiver<Result<(), StartError>>);

impl Loading {
    /// Blocks until turns are taken.
    ///
    /// # Errors
    /// When the store or the keys are not fit, or the broker was stopped; then it never takes any.
    pub fn wait(self) -> Result<(), StartError> {
        self.0.recv().unwrap_or(Err(StartError::Fault(Fault::Stopping)))
    }
}

impl Broker {
    /// Lets the sequencer's thread load the state, start all others, and take turns.
    pub(in crate::engine) fn load(&self, rest: Rest) -> Result<Loading, StartError> {
        let (tell, told) = sync_channel(1);
        let broker = self.clone();
        self.0.threads.start("sequencer", move || broker.sequence(rest, &tell))?;
        Ok(Loading(told))
    }

    fn sequence(self, rest: Rest, tell: &SyncSender<Result<(), StartError>>) {
        let inner = &self.0;
        let (lanes, health) = (Arc::clone(&inner.lanes), Arc::clone(&inner.health));
        let (send, news) = sync_channel::<News>(NEWS_MAX);
        let mut tail = BrokerTail::new(inner, send);
        let begun = self.begin(rest, &mut tail, news);
        let meters = inner.meters.clone();
        match begun {
            Ok(sequencer) => {
                inner.loaded.send_replace(true);
                drop(self); // whoever holds the broker ends this thread by letting go of it
                drop(tell.send(Ok(())));
                thread::run(sequencer, &lanes, &mut tail, (&health, &meters));
            }
            Err(why) => {
                drop(Ending::of(&lanes, &health));
                drop(tell.send(Err(why)));
            }
        }
    }

    fn begin(
        &self,
        rest: Rest,
        tail: &mut BrokerTail,
        news: Receiver<News>,
    ) -> Result<Sequencer<Box<dyn Journal>>, StartError> {
        let inner = &self.0;
        let (feed, receipts) = (Arc::clone(&inner.feed), Arc::clone(&inner.receipts));
        inner.threads.start("feed", move || publish(&news, &feed, &receipts))?;
        let sequencer = match rest {
            Rest::Whole(sequencer) => *sequencer,
            Rest::Stored { journal, expected } => {
                let began = inner.clock.boot();
                let (head, charter) = *expected;
                let state = load(&*inner.reader, head.seq, &inner.lanes)?;
                if !state.charter().agrees(&charter) {
                    let why = "keys or bundle are not what the feed was opened from".to_owned();
                    return Err(Fault::Damaged { seq: head.seq, why }.into());
                }
                let took = inner.clock.boot().saturating_sub(began);
                tracing::info!(
                    grants = state.live(),
                    seq = head.seq.0,
                    ?took,
                    "the state is loaded"
                );
                let (clock, dice) = (Arc::clone(&inner.clock), Box::new(SystemDice));
                let mut sequencer = Sequencer::new(journal, state, head, clock, dice);
                opening::complete_keys(&mut sequencer, tail, &inner.keys)?;
                sequencer
            }
        };
        let state = sequencer.state();
        inner.desk.learn(state);
        inner.usual.learn(state);
        // Their streams died with the process that held them: each has one full lease to come back.
        let boot = inner.clock.boot();
        for (identity, task, hold) in state.held() {
            inner.leases.hold((identity.clone(), task.clone()), hold.hold, hold.lease, boot);
        }
        self.start_others()?;
        Ok(sequencer)
    }

    fn start_others(&self) -> Result<(), StartError> {
        let inner = &self.0;
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
        let unusual = Arc::clone(&inner.unusual);
        inner.threads.start("settle", move || {
            bundles.settle(&lanes, &*reader, &*clock, &unusual);
        })?;
        let (minder, minded) = (Arc::clone(&inner.minder), minded(inner));
        inner.threads.start("minder", move || minder.run(&minded))?;
        let (minder, reader) = (Arc::clone(&inner.minder), Arc::clone(&inner.reader));
        let head = Arc::clone(&inner.head);
        inner.threads.start("snapshots", move || minder.snapshots(&*reader, &head))
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

/// The fold of all up to `head`, from the newest snapshot on, unless the broker is stopped meanwhile. What others append
/// later is the first turn's to find.
fn load(reader: &dyn Reader, head: Seq, lanes: &Lanes) -> Result<State, Fault> {
    let kept = reader.snapshot()?.filter(|(at, _)| at.seq <= head);
    let mut state = kept.map_or_else(State::new, |(_, parts)| State::from_parts(parts));
    while state.seq() < head {
        if lanes.is_closed() {
            return Err(Fault::Stopping);
        }
        let rows = reader.read(state.seq(), READ_MAX)?;
        if rows.is_empty() {
            let seq = state.seq().next();
            return Err(Fault::Damaged { seq, why: "it is not there".to_owned() });
        }
        for row in rows.iter().filter(|row| row.seq() <= head) {
            state.apply(row.at(), row.what());
        }
    }
    Ok(state)
}
