//! What a view without history begins with: made part by part between turns, once for all who begin at about the same time.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use protem_core::standing::Revocation;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::Seq;

use crate::engine::broker::Broker;
use crate::engine::builds::Place;
use crate::engine::feed::Cell;
use crate::engine::filter::{Filter, encode};
use crate::engine::lane::Lane;
use crate::engine::ring::BATCH_MAX;
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::policy::feed::To;

/// A snapshot younger than this is shared by everybody who begins: a herd that reconnects asks for one.
const SHARED: Duration = Duration::from_secs(2);
/// The same in shares of the time that it took to make: whoever gave up waiting finds it when he comes back.
const SHARED_SHARE: u32 = 5;
/// What one look at the state takes along: the sequencer makes no turn meanwhile, and this takes it a millisecond or two.
const PART: usize = 2_000;

/// A snapshot, as it goes out.
pub(in crate::engine) struct Snapshot {
    /// Everything up to here is in it.
    pub(in crate::engine) seq: Seq,
    /// The item before the first that comes after it.
    pub(in crate::engine) last: Seq,
    /// All of its messages, from its begin to its end.
    pub(in crate::engine) messages: Vec<Encoded>,
    /// Until when it is given to others.
    until: Duration,
}

/// One that is being made.
struct Making {
    filter: Filter,
    items: Vec<v1::Revocation>,
    entries: u64,
    messages: Vec<Encoded>,
}

impl Broker {
    /// The snapshot of a filter: one that was made just now, or a new one.
    pub(in crate::engine) async fn snapshot(
        &self,
        cell: &Arc<Cell>,
    ) -> Result<Arc<Snapshot>, Stop> {
        let (broker, cell) = (self.clone(), Arc::clone(cell));
        let asks = Arc::new(());
        let asked = Arc::downgrade(&asks);
        // Once begun it is made to its end although who asked may have gone: a long one would else never be ready.
        let making = tokio::spawn(async move {
            let mut shared = cell.snapshot.lock().await;
            if let Some(snapshot) = &*shared
                && broker.0.clock.boot() < snapshot.until
                && position(&cell, snapshot.seq).is_some()
            {
                return Ok(Arc::clone(snapshot));
            }
            let place = broker.0.builds.place(cell.to).await?;
            if asked.strong_count() == 0 {
                return Err(Stop::Faulted(Fault::Stopping));
            }
            // The former one is let go first: two of a million entries are more than one.
            *shared = None;
            let snapshot = Arc::new(make(&broker, &cell, place).await?);
            *shared = Some(Arc::clone(&snapshot));
            Ok(snapshot)
        });
        let made = making.await;
        drop(asks);
        made.unwrap_or(Err(Stop::Faulted(Fault::Stopping)))
    }
}

fn position(cell: &Cell, seq: Seq) -> Option<u64> {
    cell.ring.read().unwrap_or_else(PoisonError::into_inner).position(seq)
}

async fn make(broker: &Broker, cell: &Cell, place: Place) -> Result<Snapshot, Stop> {
    let (now, began) = (broker.now(), broker.0.clock.boot());
    let filter = cell.ring.read().unwrap_or_else(PoisonError::into_inner).filter().clone();
    let mut making = Making { filter, items: Vec::new(), entries: 0, messages: Vec::new() };
    let mut after = Seq(0);
    let lane = match cell.to {
        // Without a view it lets nothing through: no flood of requests may keep it waiting.
        To::Gateway => Lane::Ending,
        // Nor may those who only look keep anybody waiting who ends access.
        To::Observer => Lane::Ordinary,
    };
    let seq = loop {
        place.give_way().await?;
        let look =
            broker.ask_in(lane, move |state| (state.revocations(now, after, PART), state.seq()));
        let (standing, seq) = look.await?;
        // Encoding takes its time, which the runtime's threads have not.
        let encoding = tokio::task::spawn_blocking(move || {
            making.add(&standing.items);
            making
        });
        making = encoding.await.map_err(|_| Stop::from(Fault::Stopping))?;
        match standing.next {
            Some(next) => after = next,
            None => break seq,
        }
    };
    let head = broker.0.feed.reached(seq).await.ok_or(Stop::Faulted(Fault::Stopping))?;
    let last = cell.ring.read().unwrap_or_else(PoisonError::into_inner).before(seq);
    let now = broker.0.clock.boot();
    let shared = SHARED.max(now.saturating_sub(began).saturating_mul(SHARED_SHARE));
    Ok(making.finish(&head, seq, last, now.saturating_add(shared)))
}

impl Making {
    fn add(&mut self, standing: &[Revocation]) {
        for one in standing {
            let Some(item) = self.filter.standing(one) else { continue };
            self.items.push(item.wire(Seq(0)));
            self.entries = self.entries.saturating_add(1);
            if self.items.len() >= BATCH_MAX {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let items = std::mem::take(&mut self.items);
        if !items.is_empty() {
            self.messages.push(encode(Wire::Batch(v1::RevocationBatch { items, cursor: None })));
        }
    }

    fn finish(mut self, head: &Head, seq: Seq, last: Seq, until: Duration) -> Snapshot {
        self.flush();
        let (at_seq, entries) = (seq.0, self.entries);
        let begin = encode(Wire::SnapshotBegin(v1::SnapshotBegin { at_seq, entries }));
        self.messages.insert(0, begin);
        let cursor = Some(self.filter.cursor(head, seq, last).wire());
        let end = v1::SnapshotEnd { at_seq, entries, cursor, last_sent: last.0 };
        self.messages.push(encode(Wire::SnapshotEnd(end)));
        Snapshot { seq, last, messages: self.messages, until }
    }
}
