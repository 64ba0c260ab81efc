//! What a gateway knows of a broker's journal: applied in order, proven by checkpoints, never taken back.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::checkpoint::Signed;
use crate::fences::{Fences, Revocation, Target};
use crate::ids::{Epoch, JournalId, Seq};
use crate::keys::Keys;
use crate::known::{Known, Moment, Proven};
use crate::operation::Catalog;

/// The one writer of a view. Readers hold [`View::reader`] and never wait for it.
#[derive(Debug)]
pub struct View {
    reader: Arc<ArcSwap<Known>>,
    known: Known,
    /// A proof that no longer holds: what it said of the time still does.
    lapsed: Option<Proven>,
    building: Option<Building>,
    checkpoint_keys: Keys,
    journal: Option<JournalId>,
    last_item: Seq,
    /// Everything up to here is enforced. Keys and catalog say nothing of what is revoked below them.
    enforced: Seq,
    keys_seq: Seq,
    catalog_seq: Seq,
    needs_snapshot: bool,
    newest: Option<Signed>,
    /// What was published before and somebody may still read. It is let go here, so that no reader pays for it.
    read: Vec<Arc<Known>>,
}

/// A snapshot that is being built beside the view that serves.
#[derive(Debug)]
struct Building {
    at: Seq,
    entries: u64,
    count: u64,
    fences: Fences,
}

/// How a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which journal.
    pub journal: JournalId,
    /// Which life of it.
    pub epoch: Epoch,
    /// Whose credentials it covers.
    pub issuer: Arc<str>,
    /// The greatest age at which any credential may be accepted.
    pub max_staleness: Duration,
}

/// What a checkpoint claims about the stream it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The last item that was sent.
    pub last_sent: Seq,
    /// Where the newest keys stand.
    pub keys_seq: Seq,
    /// Where the newest catalog stands.
    pub catalog_seq: Seq,
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Something is missing or out of order: only a snapshot helps.
    #[error("the feed has a gap")]
    Gap,
    /// A signature that no checkpoint key made.
    #[error("a checkpoint is not signed by a key of the broker")]
    Forged,
    /// Another broker than the configured one.
    #[error("the feed is another issuer's")]
    WrongIssuer,
    /// The same epoch with a lower seq, another root or another journal, or an earlier epoch: closed for good.
    #[error("the broker's journal went back")]
    RolledBack,
}

/// Former views that somebody may hold at once: a check holds one for some microseconds; who holds one longer lets it go himself.
const READ_MAX: usize = 64;

impl View {
    /// An empty view of the journal of `issuer`. `newest` is what an earlier run of this gateway saw last.
    #[must_use]
    pub fn new(issuer: &str, newest: Option<Signed>) -> Self {
        let known = Known::empty(issuer);
        Self {
            reader: Arc::new(ArcSwap::from_pointee(known.clone())),
            known,
            lapsed: None,
            building: None,
            checkpoint_keys: Keys::default(),
            journal: None,
            last_item: Seq(0),
            enforced: Seq(0),
            keys_seq: Seq(0),
            catalog_seq: Seq(0),
            needs_snapshot: true,
            newest,
            read: Vec::new(),
        }
    }

    /// What verifiers read.
    #[must_use]
    pub fn reader(&self) -> Arc<ArcSwap<Known>> {
        Arc::clone(&self.reader)
    }

    /// What is being enforced.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Everything up to here is enforced: what may be acknowledged.
    #[must_use]
    pub fn enforced(&self) -> Seq {
        self.enforced
    }

    /// The newest signed checkpoint, to be shown to the broker at the next connect.
    #[must_use]
    pub fn newest(&self) -> Option<&Signed> {
        self.newest.as_ref()
    }

    /// Journal, epoch and the last item, if a stream may go on from there instead of beginning with a snapshot.
    #[must_use]
    pub fn resume(&self) -> Option<(JournalId, Epoch, Seq)> {
        let journal = self.journal.filter(|_| !self.needs_snapshot)?;
        Some((journal, self.known.epoch, self.known.seq))
    }

    /// A stream begins.
    ///
    /// # Errors
    /// [`Broken::WrongIssuer`], and [`Broken::RolledBack`] when the journal is earlier than what was already proven.
    pub fn opened(&mut self, opened: &Opened) -> Result<(), Broken> {
        self.building = None;
        if *opened.issuer != *self.known.issuer {
            return Err(Broken::WrongIssuer);
        }
        if let Some(Signed { checkpoint: seen, .. }) = self.newest {
            let same = opened.epoch == seen.epoch;
            let closed = self.known.closed && same;
            if opened.epoch < seen.epoch || (same && opened.journal != seen.journal) || closed {
                return Err(self.close());
            }
        }
        if self.journal != Some(opened.journal) || self.known.epoch != opened.epoch {
            // Another life: nothing proven of the earlier one says anything about it.
            self.known = Known { epoch: opened.epoch, ..Known::empty(&opened.issuer) };
            self.lapsed = None;
            self.journal = Some(opened.journal);
            self.needs_snapshot = true;
            (self.last_item, self.enforced) = (Seq(0), Seq(0));
        }
        // Every stream begins with the keys and the catalog of its broker, wherever that counts them from.
        (self.keys_seq, self.catalog_seq) = (Seq(0), Seq(0));
        self.known.max_staleness = opened.max_staleness;
        self.publish();
        Ok(())
    }

    /// The full key sets, whenever they change. Sets that cannot be read count as `everything`; those of before the newest
    /// that came on this stream change nothing.
    pub fn keys(&mut self, credential: &str, checkpoint: &str, seq: Seq) {
        if seq < self.keys_seq {
            return;
        }
        let sets = Keys::parse(credential).ok().zip(Keys::parse(checkpoint).ok());
        let Some((keys, checkpoint_keys)) = sets.filter(|(keys, others)| !keys.overlap(others))
        else {
            return self.not_understood();
        };
        self.known.keys = Arc::new(keys);
        self.checkpoint_keys = checkpoint_keys;
        self.keys_seq = seq;
        self.known.seq = self.known.seq.max(seq);
        self.publish();
    }

    /// The greatest `fresh` that may be alive from here on; told with the catalog of this seq, and published with it.
    pub fn ceiling(&mut self, max_staleness: Duration, seq: Seq) {
        if seq >= self.catalog_seq {
            self.known.max_staleness = max_staleness;
        }
    }

    /// The catalog's part, whenever it changes. One that cannot be read counts as `everything`; one of before the newest that
    /// came on this stream changes nothing: what a scope no longer maps would be let through again.
    pub fn catalog(&mut self, json: &str, seq: Seq) {
        if seq < self.catalog_seq {
            return;
        }
        let Ok(catalog) = Catalog::parse(json) else { return self.not_understood() };
        self.known.catalog = Arc::new(catalog);
        self.catalog_seq = seq;
        self.known.seq = self.known.seq.max(seq);
        self.publish();
    }

    /// A snapshot begins; the view that serves goes on serving.
    pub fn snapshot_begin(&mut self, at: Seq, entries: u64) {
        self.building = Some(Building { at, entries, count: 0, fences: Fences::default() });
    }

    /// A snapshot is complete and takes over.
    ///
    /// # Errors
    /// [`Broken::Gap`] when it is not the one that began, or has other than the announced number of entries.
    pub fn snapshot_end(&mut self, at: Seq, entries: u64, last_sent: Seq) -> Result<(), Broken> {
        let built = self.building.take().ok_or(Broken::Gap)?;
        if built.at != at || built.entries != entries || built.count != entries {
            return Err(Broken::Gap);
        }
        if at < self.enforced {
            // It shows less than was proven or acknowledged; a proof of its own must say that it counts.
            self.lapsed = self.known.proven.take().or(self.lapsed);
        }
        self.known.fences = built.fences;
        self.known.seq = at;
        self.enforced = at;
        self.last_item = last_sent;
        self.needs_snapshot = false;
        self.publish();
        Ok(())
    }

    /// Items of a batch, in order.
    ///
    /// # Errors
    /// [`Broken::Gap`] when one before an item is missing; everything up to it is applied.
    pub fn revoked(&mut self, items: &[Revocation]) -> Result<(), Broken> {
        let done = items.iter().try_for_each(|item| self.item(item));
        if self.building.is_none() {
            self.publish();
        }
        done
    }

    fn item(&mut self, item: &Revocation) -> Result<(), Broken> {
        if let Some(building) = &mut self.building {
            if building.count >= building.entries {
                // More than announced: it is no snapshot, and must not fill the memory until somebody says so.
                self.reset();
                return Err(Broken::Gap);
            }
            building.count = building.count.saturating_add(1);
            building.fences.add(item);
            return Ok(());
        }
        // Applied even if the chain is broken: to refuse more is never wrong.
        self.known.fences.add(item);
        if item.seq <= self.last_item {
            return Ok(());
        }
        if self.needs_snapshot || item.prev != self.last_item {
            self.needs_snapshot = true;
            return Err(Broken::Gap);
        }
        self.last_item = item.seq;
        self.enforced = self.enforced.max(item.seq);
        self.known.seq = self.known.seq.max(item.seq);
        Ok(())
    }

    /// A checkpoint; `ping` is the moment at which the ping whose nonce it echoes was sent. Answers whether it proved the view fresh.
    ///
    /// # Errors
    /// [`Broken::Forged`]; [`Broken::RolledBack`] when it shows less, or other, than was already proven; [`Broken::Gap`] when
    /// the view has not applied exactly what it names.
    pub fn checkpoint(
        &mut self,
        signed: &Signed,
        claimed: Claimed,
        ping: Option<Moment>,
        now: Moment,
    ) -> Result<bool, Broken> {
        let new = &signed.checkpoint;
        if !signed.verify(&self.checkpoint_keys) {
            return Err(Broken::Forged);
        }
        if self.journal != Some(new.journal) || self.known.epoch != new.epoch {
            return Err(Broken::Gap);
        }
        if let Some(Signed { checkpoint: seen, .. }) = self.newest {
            let back = new.seq < seen.seq || (new.seq == seen.seq && new.root != seen.root);
            if new.epoch < seen.epoch || (new.epoch == seen.epoch && back) {
                return Err(self.close());
            }
        }
        self.newest = Some(*signed);
        let applied = (self.last_item, self.keys_seq, self.catalog_seq);
        let named = (claimed.last_sent, claimed.keys_seq, claimed.catalog_seq);
        let whole = self.building.is_none() && !self.needs_snapshot;
        if !whole || applied != named || new.seq < self.last_item {
            self.needs_snapshot = true;
            return Err(Broken::Gap);
        }
        self.enforced = self.enforced.max(new.seq);
        self.known.seq = self.known.seq.max(new.seq);
        if std::mem::take(&mut self.known.blind) {
            // What was not understood came before this checkpoint, so it covers nothing younger.
            let (target, seq) = (Target::Everything, new.seq);
            self.known.fences.add(&Revocation { seq, prev: Seq(0), target, forget_after: None });
        }
        let sent =
            ping.filter(|sent| self.known.proven.is_none_or(|proven| proven.sent.boot < sent.boot));
        if let Some(sent) = sent {
            let before = self.known.proven.or_else(|| self.lapsed.take());
            let floor = before.map(|before| before.now(now)).unwrap_or_default();
            self.known.proven = Some(Proven { sent, at: new.at, floor, seq: new.seq });
            let time = self.known.now(now).unwrap_or_default();
            self.known.fences.forget(time);
        }
        self.publish();
        Ok(sent.is_some())
    }

    /// What is held no longer connects; a snapshot follows. The old view serves until then.
    pub fn reset(&mut self) {
        self.needs_snapshot = true;
        self.building = None;
    }

    /// A message came that nobody here understands: nothing is let through until a checkpoint says what it can cover at most.
    pub fn not_understood(&mut self) {
        self.known.blind = true;
        self.publish();
    }

    /// INVARIANT(I25): a broker cannot make a gateway go back; only a greater epoch opens it again.
    fn close(&mut self) -> Broken {
        self.known.closed = true;
        self.needs_snapshot = true;
        self.publish();
        Broken::RolledBack
    }

    fn publish(&mut self) {
        self.read.push(self.reader.swap(Arc::new(self.known.clone())));
        // After a swap nobody finds the former one any more: whoever has it is counted.
        self.read.retain(|known| Arc::strong_count(known) > 1);
        let more = self.read.len().saturating_sub(READ_MAX);
        self.read.drain(..more);
    }
}
