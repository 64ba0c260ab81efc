//! A broker's feeds, stepped by hand on the engine's own filter, ring and encoding.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protem::engine::filter::{Filter, encode, timestamp};
use protem::engine::keys::KeySets;
use protem::engine::ring::{Found, Ring, What, keys_message, relink};
use protem::engine::sequencer::Tail;
use protem::journal::committed::Committed;
use protem::journal::port::Head;
use protem::mint::SigningKey;
use protem_core::event::{Event, Target};
use protem_core::state::State;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::checkpoint::Checkpoint;
use protem_verify::ids::{Hash, Seq};
use protem_verify::time::Time;

use super::ask::{ISSUER, RESOURCES, SCOPES, audience, resource};
use super::store::Store;

/// Messages that a ring keeps here: few, so that slow readers fall out.
const RING: usize = 24;

pub struct Feeds {
    ring: Ring,
    keys: KeySets,
    catalog: Seq,
    head: Head,
    checkpoint: SigningKey,
}

/// One subscriber's place.
pub struct Sub {
    position: u64,
    /// The last item that it was sent.
    last: Seq,
    keys: Seq,
    catalog: Seq,
    first: VecDeque<Encoded>,
}

impl Feeds {
    pub fn new(state: &State, head: &Head, checkpoint: &SigningKey) -> Self {
        let keys = KeySets::of(state.keys(), head.seq);
        let ring = Ring::new(filter(), head.seq, RING);
        Self {
            ring,
            keys,
            catalog: state.bundle_seq(),
            head: *head,
            checkpoint: checkpoint.clone(),
        }
    }

    /// Opens a stream: opened, keys, catalog, then a snapshot or what came after the cursor.
    pub fn open(&self, open: &v1::Open, state: &State, store: &Store, now: Time) -> Sub {
        let mut sub = Sub {
            position: self.ring.position(self.head.seq).unwrap_or_default(),
            last: self.ring.last(),
            keys: self.keys.seq,
            catalog: self.catalog,
            first: VecDeque::new(),
        };
        let resumed = open.after.as_ref().and_then(|cursor| self.resume(cursor, store));
        let opened = v1::Opened {
            journal: self.head.journal.0.to_vec(),
            epoch: self.head.epoch.0,
            issuer: ISSUER.into(),
            head: self.head.seq.0,
            ping_every: None,
            max_staleness: Some(protem::engine::filter::duration(Duration::from_secs(60))),
            last_sent: resumed.as_ref().map_or(sub.last, |(last, _)| *last).0,
        };
        sub.first.push_back(encode(Wire::Opened(opened)));
        sub.first.push_back(keys_message(&self.keys));
        sub.first.push_back(catalog_message(self.catalog));
        match resumed {
            Some((last, missed)) => {
                sub.last = last;
                let items: Vec<_> = missed
                    .iter()
                    .map(|item| item.wire(std::mem::replace(&mut sub.last, item.seq)))
                    .collect();
                if !items.is_empty() {
                    let cursor = Some(filter().cursor(&self.head, self.head.seq, sub.last).wire());
                    sub.first.push_back(encode(Wire::Batch(v1::RevocationBatch { items, cursor })));
                }
            }
            None => {
                if open.after.is_some() {
                    sub.first.push_back(encode(Wire::Reset(v1::Reset { cause: 1 })));
                }
                self.snapshot(&mut sub, state, now);
            }
        }
        sub
    }

    fn snapshot(&self, sub: &mut Sub, state: &State, now: Time) {
        // Part by part, as the engine does; here no turn goes by in between.
        let (mut standing, mut after) = (Vec::new(), Some(Seq(0)));
        while let Some(from) = after {
            let part = state.revocations(now, from, 2);
            standing.extend(part.items);
            after = part.next;
        }
        let items: Vec<_> = standing.iter().filter_map(|one| filter().standing(one)).collect();
        let (at_seq, entries) = (self.head.seq.0, items.len() as u64);
        sub.last = self.ring.last();
        let cursor = filter().cursor(&self.head, self.head.seq, sub.last).wire();
        sub.first.push_back(encode(Wire::SnapshotBegin(v1::SnapshotBegin { at_seq, entries })));
        for part in items.chunks(3) {
            let items = part.iter().map(|item| item.wire(Seq(0))).collect();
            let batch = v1::RevocationBatch { items, cursor: None };
            sub.first.push_back(encode(Wire::Batch(batch)));
        }
        let last_sent = sub.last.0;
        let cursor = Some(cursor);
        let end = v1::SnapshotEnd { at_seq, entries, cursor, last_sent };
        sub.first.push_back(encode(Wire::SnapshotEnd(end)));
    }

    /// The last item before the cursor, and what came after it.
    fn resume(
        &self,
        cursor: &v1::Cursor,
        store: &Store,
    ) -> Option<(Seq, Vec<protem::engine::filter::Item>)> {
        let same = cursor.journal == self.head.journal.0 && cursor.epoch == self.head.epoch.0;
        let (digest, last) = cursor.filter.split_at_checked(32)?;
        let digest: [u8; 32] = digest.try_into().ok()?;
        if !same || Hash(digest) != filter().digest() || cursor.seq > self.head.seq.0 {
            return None;
        }
        let rows = store.rows(Seq(cursor.seq));
        let rows = rows.iter().filter(|row| row.seq() <= self.head.seq);
        let missed = rows.filter_map(|row| filter().item(row)).collect();
        Some((Seq(u64::from_be_bytes(last.try_into().ok()?)), missed))
    }

    /// What a subscriber is to be sent now.
    pub fn next(&self, sub: &mut Sub, state: &State, now: Time) -> Vec<Encoded> {
        let mut out: Vec<Encoded> = sub.first.drain(..).collect();
        loop {
            match self.ring.at(sub.position) {
                Found::End => return out,
                Found::Gone => {
                    out.push(encode(Wire::Reset(v1::Reset { cause: 5 })));
                    out.push(keys_message(&self.keys));
                    out.push(catalog_message(self.catalog));
                    (sub.keys, sub.catalog) = (self.keys.seq, self.catalog);
                    self.snapshot(sub, state, now);
                    out.extend(sub.first.drain(..));
                    sub.position = self.ring.position(self.head.seq).unwrap_or_default();
                }
                Found::Slot(slot) => {
                    sub.position += 1;
                    match slot.what {
                        What::Keys(seq) => sub.keys = seq,
                        What::Catalog(seq) => {
                            sub.catalog = seq.max(self.catalog);
                            out.push(catalog_message(sub.catalog));
                            continue;
                        }
                        What::Items { prev, last, .. } => {
                            let before = std::mem::replace(&mut sub.last, last);
                            if before != prev {
                                out.push(relink(&slot, before));
                                continue;
                            }
                        }
                    }
                    out.push(slot.encoded);
                }
            }
        }
    }

    /// A proof of the head for the ping with this nonce.
    pub fn proof(&self, sub: &Sub, nonce: &[u8], now: Time) -> Encoded {
        let Head { journal, epoch, seq, root, .. } = self.head;
        let checkpoint = Checkpoint { journal, epoch, seq, at: now.end_of_second(), root };
        let signed = checkpoint.sign(self.checkpoint.for_checkpoints().unwrap());
        encode(Wire::Checkpoint(v1::Checkpoint {
            journal: journal.0.to_vec(),
            epoch: epoch.0,
            seq: seq.0,
            last_sent: sub.last.0,
            nonce: nonce.to_vec(),
            at: Some(timestamp(checkpoint.at)),
            audit_root: root.0.to_vec(),
            signature: signed.signature.to_vec(),
            keys_seq: sub.keys.0,
            catalog_seq: sub.catalog.0,
            cursor: Some(filter().cursor(&self.head, seq, sub.last).wire()),
        }))
    }
}

impl Tail for Feeds {
    fn committed(
        &mut self,
        rows: &Arc<[Committed<Event>]>,
        state: &State,
        head: &Head,
        _: Duration,
    ) {
        self.head = *head;
        let changes_keys = |event: &Event| {
            matches!(
                event,
                Event::KeyPublished(_)
                    | Event::KeyActivated { .. }
                    | Event::KeyRetired { .. }
                    | Event::KeyForgotten { .. }
                    | Event::CutOff { target: Target::Key(_), .. }
            )
        };
        let keys = rows.iter().rev().find(|row| changes_keys(row.what())).map(Committed::seq);
        if let Some(seq) = keys {
            self.keys = KeySets::of(state.keys(), seq);
        }
        let catalog = state.bundle_seq() != self.catalog;
        self.catalog = state.bundle_seq();
        let catalog = catalog.then_some(self.catalog);
        let keys = keys.map(|seq| (keys_message(&self.keys), seq));
        self.ring.publish(rows, head, keys.as_ref(), catalog);
    }
}

fn filter() -> Filter {
    Filter { resources: None, identity: None, observed: None, expiries: false }
}

fn catalog_message(seq: Seq) -> Encoded {
    let resources: Vec<String> = RESOURCES
        .iter()
        .map(|name| {
            let scopes: Vec<String> = SCOPES
                .iter()
                .map(|scope| format!(r#""{scope}":{{"risk":"low","operations":["GET /{scope}"]}}"#))
                .collect();
            let audience = audience(&resource(name));
            format!(r#""{name}":{{"audience":"{audience}","scopes":{{{}}}}}"#, scopes.join(","))
        })
        .collect();
    let json = format!(r#"{{"resources":{{{}}}}}"#, resources.join(","));
    encode(Wire::Catalog(v1::Catalog { json, seq: seq.0, ..v1::Catalog::default() }))
}
