//! One subscriber's way along the feed: opening, snapshot or resume, then each turn's message and the proofs it asks for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_core::limits::STALENESS;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::reset::Cause;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::Seq;
use tokio::sync::{Notify, watch};

use crate::engine::broker::Broker;
use crate::engine::feed::{Cell, Context};
use crate::engine::filter::{Cursor, duration, encode};
use crate::engine::parts::Part;
use crate::engine::proof;
use crate::engine::receipts::InstanceId;
use crate::engine::ring::{BATCH_MAX, Found, Slot, What, relink};
use crate::engine::seats::Seat;
use crate::engine::stop::Stop;
use crate::engine::subscribe::{Peer, Side, Subscribe, Unsubscribed};
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::policy::feed::To;

/// How often a gateway shall ping: a fifth of the default `fresh`, so that four lost answers in a row do not close it.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// Entries that a resume reads; beyond this a snapshot is smaller.
pub const REPLAY_MAX: u64 = 200_000;
/// Entries read at once.
const READ_MAX: u32 = 1_000;
/// When a subscriber shall come back after a broker stopped.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// A subscriber. `next` gives what to send; its [`Peer`] takes what it says.
pub struct Subscription {
    broker: Broker,
    open: Subscribe,
    cell: Arc<Cell>,
    bell: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    peer: Peer,
    phase: Phase,
    queue: VecDeque<Encoded>,
    /// The last item sent.
    last: Seq,
    /// All up to here was sent.
    sent: Seq,
    keys_seq: Seq,
    catalog_seq: Seq,
    /// Of the catalog what it was sent last, kept for the others who follow the same.
    part: Option<Part>,
    /// The next batch comes from where the ring's own count of predecessors may have begun anew.
    relink: bool,
    opened: bool,
    proving: Option<Proving>,
    _seat: Seat,
}

enum Phase {
    /// Nothing was sent; a reset says why what the subscriber holds does not connect.
    Opening,
    /// A snapshot is due.
    Snapshot(Option<Cause>),
    /// Reading the journal up to a place in the ring.
    Replay { from: Seq, to: Seq, position: u64 },
    /// In the ring.
    Live { position: u64 },
    /// Over.
    Done,
}

struct Proving {
    nonce: Vec<u8>,
    /// The proof must hold all up to here.
    head: Seq,
}

impl Broker {
    /// Follows the feed.
    ///
    /// # Errors
    /// When all places are taken, what is asked does not fit together, or the subscriber shows that the journal went back.
    pub async fn subscribe(&self, open: Subscribe) -> Result<Subscription, Unsubscribed> {
        if open.enforcing && (open.gateway.is_none() || open.history) {
            return Err(Unsubscribed::Unfit);
        }
        self.0.prover.intact()?;
        if let Some(shown) = open.last {
            self.compare(shown).await?;
        }
        let to = if open.gateway.is_some() { To::Gateway } else { To::Observer };
        let seat = self.0.seats.seat(&open.who, to, open.filter.digest())?;
        let cell = self.0.feed.cell(to, &open.filter).ok_or(Unsubscribed::TooMany)?;
        let gateway = open.gateway.clone().filter(|_| open.enforcing);
        let (instance, process) = (open.instance.clone(), open.process.clone());
        let instance = gateway.map(|gateway| InstanceId { gateway, instance, process });
        if let Some(id) = &instance {
            self.0.receipts.connected(id, open.filter.covers(), self.0.clock.boot());
        }
        let side = Side {
            broker: self.clone(),
            instance,
            ping: Mutex::new(None),
            wake: Notify::new(),
            sent: AtomicU64::new(0),
        };
        let mut bell = cell.bell.subscribe();
        bell.mark_unchanged();
        Ok(Subscription {
            broker: self.clone(),
            cell,
            bell,
            stopping: self.0.feed.stopping(),
            peer: Peer(Arc::new(side)),
            phase: Phase::Opening,
            queue: VecDeque::new(),
            last: Seq(0),
            sent: Seq(0),
            keys_seq: Seq(0),
            catalog_seq: Seq(0),
            part: None,
            relink: false,
            opened: false,
            proving: None,
            open,
            _seat: seat,
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(id) = &self.peer.0.instance {
            let now = self.broker.0.clock.boot();
            self.broker.0.receipts.disconnected(id, now);
        }
    }
}

impl Subscription {
    /// Where to put what the subscriber says.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// The next message; `None` when it is over. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Encoded> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Some(message);
            }
            if matches!(self.phase, Phase::Done) {
                return None;
            }
            if *self.stopping.borrow() {
                self.phase = Phase::Done;
                return Some(go_away("the broker is stopping"));
            }
            if let Err(stop) = self.step().await {
                tracing::warn!(%stop, "a subscription ends");
                self.phase = Phase::Done;
                return Some(go_away("the broker cannot go on with this stream"));
            }
        }
    }

    async fn step(&mut self) -> Result<(), Stop> {
        match self.phase {
            Phase::Opening => self.opening().await,
            Phase::Snapshot(cause) => self.snapshot(cause).await,
            Phase::Replay { from, to, position } => self.replay(from, to, position).await,
            Phase::Live { position } => self.live(position).await,
            Phase::Done => Ok(()),
        }
    }

    /// Opened, and then keys and catalog with whatever connects to what the subscriber holds.
    async fn opening(&mut self) -> Result<(), Stop> {
        // What was acknowledged before this call is in the rings before anything is said of them.
        let head = self.reached(self.broker.head().seq).await?;
        let cause = match (&self.open.after, self.open.history) {
            (None, true) => Ok((Seq(0), Seq(0))),
            (None, false) => Err(None),
            (Some(cursor), _) => self.connects(cursor, &head).map_err(Some),
        };
        let (from, last) = match cause {
            Ok(place) => place,
            Err(cause) => {
                self.phase = Phase::Snapshot(cause);
                return Ok(());
            }
        };
        // Before its place in the ring is looked for: what changes from here on comes after that place.
        let context = self.broker.0.feed.context();
        let part = self.part(&context).await?;
        let ring = self.cell.ring.read().unwrap_or_else(PoisonError::into_inner);
        let direct = ring.position(from);
        let tail = ring.position(head.seq);
        drop(ring);
        self.phase = match (direct, tail) {
            (Some(position), _) => Phase::Live { position },
            (None, Some(position)) => Phase::Replay { from, to: head.seq, position },
            // The ring moved on between two looks: it begins again with the next one.
            (None, None) => return Ok(()),
        };
        self.last = last;
        self.note_sent(from);
        self.relink = true;
        self.context(context, part, Some(last));
        self.opened = true;
        self.prove_soon();
        Ok(())
    }

    /// The place that a cursor names, or why it names none.
    fn connects(&self, cursor: &Cursor, head: &Head) -> Result<(Seq, Seq), Cause> {
        if cursor.journal != head.journal {
            return Err(Cause::UnknownJournal);
        }
        if cursor.epoch != head.epoch {
            return Err(Cause::NewEpoch);
        }
        let Some((digest, last)) = cursor.parts() else { return Err(Cause::FilterChanged) };
        if digest != self.open.filter.digest() || last > cursor.seq || cursor.seq > head.seq {
            return Err(Cause::FilterChanged);
        }
        if !self.open.history && head.seq.0.saturating_sub(cursor.seq.0) > REPLAY_MAX {
            return Err(Cause::Compacted);
        }
        Ok((cursor.seq, last))
    }

    async fn snapshot(&mut self, cause: Option<Cause>) -> Result<(), Stop> {
        let snapshot = self.broker.snapshot(&self.cell).await?;
        // Keys and catalog as they are after the snapshot was taken: nothing above them is in it.
        let context = self.broker.0.feed.context();
        let part = self.part(&context).await?;
        let ring = self.cell.ring.read().unwrap_or_else(PoisonError::into_inner);
        let position = ring.position(snapshot.seq);
        drop(ring);
        let Some(position) = position else { return Ok(()) }; // it aged out already: the next is newer
        let reset = cause.map(|cause| encode(Wire::Reset(v1::Reset { cause: i32::from(cause) })));
        if self.opened {
            self.queue.extend(reset);
            self.context(context, part, None);
        } else {
            self.context(context, part, Some(snapshot.last));
            self.queue.extend(reset);
        }
        self.opened = true;
        self.queue.extend(snapshot.messages.iter().cloned());
        self.last = snapshot.last;
        self.relink = false;
        self.note_sent(snapshot.seq);
        self.phase = Phase::Live { position };
        self.prove_soon();
        Ok(())
    }

    async fn replay(&mut self, from: Seq, to: Seq, position: u64) -> Result<(), Stop> {
        if from >= to {
            self.phase = Phase::Live { position };
            return Ok(());
        }
        let rows = self.broker.read(move |reader| reader.read(from, READ_MAX)).await?;
        let rows: Vec<_> = rows.into_iter().take_while(|row| row.seq() <= to).collect();
        let Some(end) = rows.last().map(Committed::seq) else {
            return Err(
                Fault::Damaged { seq: from.next(), why: "it is not there".to_owned() }.into()
            );
        };
        let items: Vec<_> = rows.iter().filter_map(|row| self.open.filter.item(row)).collect();
        let head = self.broker.0.feed.processed();
        for part in items.chunks(BATCH_MAX) {
            let mut wires = Vec::with_capacity(part.len());
            for item in part {
                wires.push(item.wire(self.last));
                self.last = item.seq;
            }
            // The cursor of the last part stands after all that was read.
            let seq = if part.last() == items.last() { end } else { self.last };
            let cursor = Some(self.open.filter.cursor(&head, seq, self.last).wire());
            let batch = v1::RevocationBatch { items: wires, cursor };
            self.queue.push_back(encode(Wire::Batch(batch)));
        }
        self.note_sent(end);
        self.phase = Phase::Replay { from: end, to, position };
        Ok(())
    }

    async fn live(&mut self, position: u64) -> Result<(), Stop> {
        self.take_ping().await;
        let found = self.cell.ring.read().unwrap_or_else(PoisonError::into_inner).at(position);
        match found {
            Found::Gone if self.open.history => {
                self.rejoin();
                Ok(())
            }
            Found::Gone => {
                self.proving = None;
                self.phase = Phase::Snapshot(Some(Cause::SlowConsumer));
                Ok(())
            }
            Found::Slot(slot) => {
                // A proof of something below goes first: it must name the last item before it.
                if self.proving.as_ref().is_some_and(|asked| asked.head < slot.seq) {
                    self.prove().await?;
                    if !self.queue.is_empty() {
                        return Ok(());
                    }
                }
                self.deliver(&slot).await?;
                self.phase = Phase::Live { position: position.saturating_add(1) };
                Ok(())
            }
            Found::End if self.proving.is_some() => self.prove().await,
            Found::End => {
                let side = Arc::clone(&self.peer.0);
                tokio::select! {
                    rung = self.bell.changed() => rung.map_err(|_| Stop::from(Fault::Stopping)),
                    () = side.wake.notified() => Ok(()),
                    _ = self.stopping.changed() => Ok(()),
                }
            }
        }
    }

    async fn deliver(&mut self, slot: &Slot) -> Result<(), Stop> {
        let encoded = match slot.what {
            // The opening said what they are now: an older one would take that back until the next comes.
            What::Keys(seq) if seq <= self.keys_seq => return Ok(()),
            What::Catalog(seq) if seq <= self.catalog_seq => return Ok(()),
            What::Keys(seq) => {
                self.keys_seq = self.keys_seq.max(seq);
                slot.encoded.clone()
            }
            What::Catalog(_) => {
                // The newest: those in between need not be known.
                let context = self.broker.0.feed.context();
                let part = self.part(&context).await?;
                self.catalog_seq = self.catalog_seq.max(context.parts.seq);
                let encoded = part.get().cloned().unwrap_or_default();
                self.part = Some(part);
                encoded
            }
            What::Items { prev, last, .. } => {
                let joined = std::mem::take(&mut self.relink) && prev != self.last;
                let message = if joined { relink(slot, self.last) } else { slot.encoded.clone() };
                self.last = last;
                self.note_sent(slot.seq);
                message
            }
        };
        self.queue.push_back(encoded);
        Ok(())
    }

    /// Its part of the catalog. Nothing has changed when this is given up.
    async fn part(&self, context: &Context) -> Result<Part, Stop> {
        Ok(context.parts.of(self.cell.to, &self.open.filter).await?)
    }

    /// Turns a ping into a proof to be made: the head is read after the ping arrived.
    async fn take_ping(&mut self) {
        let Some(nonce) = self.peer.pending().take() else { return };
        // Before the head is read: a mark that is asked about from here on either waits for this instance or is in the proof.
        if let Some(id) = &self.peer.0.instance {
            self.broker.0.receipts.proven(id, self.sent, self.broker.0.clock.boot());
        }
        match self.broker.fresh_head().await {
            Ok(head) => self.proving = Some(Proving { nonce, head: head.seq.max(self.sent) }),
            // Nothing is sent: the view ages until it refuses, as it must.
            Err(fault) => tracing::warn!(%fault, "a ping is not answered"),
        }
    }

    /// Sends the proof that is asked for, once the ring has given all that it must name.
    async fn prove(&mut self) -> Result<(), Stop> {
        let Some(Proving { head: needed, .. }) = self.proving else { return Ok(()) };
        let head = self.reached(needed).await?;
        let Phase::Live { position } = self.phase else { return Ok(()) };
        let found = self.cell.ring.read().unwrap_or_else(PoisonError::into_inner).at(position);
        match found {
            // It holds what the proof must name: that goes first.
            Found::Slot(slot) if slot.seq <= head.seq => {
                if let Some(asked) = &mut self.proving {
                    asked.head = asked.head.max(slot.seq);
                }
                self.deliver(&slot).await?;
                self.phase = Phase::Live { position: position.saturating_add(1) };
                Ok(())
            }
            Found::Gone => Ok(()),
            Found::Slot(_) | Found::End => {
                let Some(Proving { nonce, .. }) = self.proving.take() else { return Ok(()) };
                self.checkpoint(&head, nonce)
            }
        }
    }

    /// Sends a checkpoint of `head`, up to which everything was sent.
    fn checkpoint(&mut self, head: &Head, nonce: Vec<u8>) -> Result<(), Stop> {
        let signed = match self.broker.0.prover.checkpoint(head) {
            Ok(signed) => signed,
            Err(fault) => {
                // Without a proof the view ages; without a stream it would age too, and know less.
                tracing::warn!(%fault, "a checkpoint is not signed");
                return Ok(());
            }
        };
        if let Some(id) = self.peer.0.instance.as_ref().filter(|_| !nonce.is_empty()) {
            self.broker.0.receipts.proven(id, head.seq, self.broker.0.clock.boot());
        }
        self.note_sent(head.seq);
        let cursor = Some(self.open.filter.cursor(head, head.seq, self.last).wire());
        self.queue.push_back(encode(Wire::Checkpoint(v1::Checkpoint {
            last_sent: self.last.0,
            nonce,
            keys_seq: self.keys_seq.0,
            catalog_seq: self.catalog_seq.0,
            cursor,
            ..proof::wire(&signed)
        })));
        Ok(())
    }

    /// Keys and catalog, after `Opened` when the stream begins: then `opened` is the item before the first delta.
    fn context(&mut self, context: Context, part: Part, opened: Option<Seq>) {
        let (keys, keys_seq) = context.keys;
        if let Some(last) = opened {
            self.queue.push_back(encode(Wire::Opened(v1::Opened {
                journal: context.head.journal.0.to_vec(),
                epoch: context.head.epoch.0,
                issuer: self.broker.issuer().to_owned(),
                head: context.head.seq.0,
                ping_every: Some(duration(PING_EVERY)),
                max_staleness: Some(duration(*STALENESS.end())),
                last_sent: last.0,
            })));
        }
        self.keys_seq = self.keys_seq.max(keys_seq);
        self.catalog_seq = self.catalog_seq.max(context.parts.seq);
        self.queue.push_back(keys);
        self.queue.extend(part.get().cloned());
        self.part = Some(part);
    }

    /// The opening ends with a checkpoint; without a nonce it proves where the stream stands, not that it is fresh.
    fn prove_soon(&mut self) {
        if self.proving.is_none() {
            self.proving = Some(Proving { nonce: Vec::new(), head: self.sent });
        }
    }

    /// A reader of history who fell out of the ring reads on in the journal.
    fn rejoin(&mut self) {
        let head = self.broker.0.feed.processed();
        let ring = self.cell.ring.read().unwrap_or_else(PoisonError::into_inner);
        let position = ring.position(head.seq);
        drop(ring);
        if let Some(position) = position {
            self.relink = true;
            self.phase = Phase::Replay { from: self.sent, to: head.seq, position };
        }
    }

    fn note_sent(&mut self, seq: Seq) {
        self.sent = self.sent.max(seq);
        self.peer.0.sent.store(self.sent.0, Ordering::Release);
    }

    async fn reached(&self, seq: Seq) -> Result<Head, Stop> {
        self.broker.0.feed.reached(seq).await.ok_or(Stop::Faulted(Fault::Stopping))
    }
}

fn go_away(reason: &str) -> Encoded {
    let reconnect_after = Some(duration(RECONNECT_AFTER));
    encode(Wire::GoAway(v1::GoAway { reconnect_after, reason: reason.to_owned() }))
}
