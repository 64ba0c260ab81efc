//! The catalog as its followers get it: each part is encoded once, for all who follow the same, and beside the feed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use protem_core::request::field;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::{Hash, Seq};
use protem_verify::names::ResourceName;
use protem_verify::time::Staleness;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::engine::filter::{Filter, duration, encode};
use crate::journal::fault::Fault;
use crate::policy::bundle::Bundle;
use crate::policy::feed::To;

/// The catalog of the bundle in force, by parts.
pub(in crate::engine) struct Parts {
    pub(in crate::engine) bundle: Arc<Bundle>,
    /// The entry that put it in force.
    pub(in crate::engine) seq: Seq,
    /// The greatest `fresh` that a live credential may have: of this bundle or an earlier one.
    pub(in crate::engine) ceiling: Staleness,
    made: Mutex<Made>,
}

/// A part as it goes out, once somebody has asked for it. It is kept as long as somebody who was sent it follows.
pub(in crate::engine) type Part = Arc<OnceCell<Encoded>>;

#[derive(Default)]
struct Made {
    parts: HashMap<Hash, Weak<OnceCell<Encoded>>>,
    /// Parts beyond which those that nobody keeps are looked for.
    many: usize,
}

/// Parts that are remembered before the first look for those that nobody keeps.
const MANY: usize = 256;

impl Parts {
    pub(in crate::engine) fn new(bundle: Arc<Bundle>, seq: Seq, ceiling: Staleness) -> Self {
        Self { bundle, seq, ceiling, made: Mutex::default() }
    }

    /// The part of a filter, encoded by whoever asks first while the others wait for it.
    pub(in crate::engine) async fn of(
        self: &Arc<Self>,
        to: To,
        filter: &Filter,
    ) -> Result<Part, Fault> {
        let (parts, filter) = (Arc::clone(self), filter.clone());
        // Neither is for the threads that answer everybody.
        let found = tokio::task::spawn_blocking(move || {
            let resources = parts.resources(filter);
            (parts.part(to, resources.as_ref()), resources)
        });
        let (part, resources) = found.await.map_err(|_| Fault::Stopping)?;
        let encoded = part.get_or_try_init(|| async {
            let parts = Arc::clone(self);
            let encoding =
                tokio::task::spawn_blocking(move || parts.encode(to, resources.as_ref()));
            encoding.await.map_err(|_| Fault::Stopping)
        });
        encoded.await?;
        Ok(part)
    }

    /// The resources that a filter is told of; absent: all.
    fn resources(&self, filter: Filter) -> Option<BTreeSet<ResourceName>> {
        let askable = filter.identity.and_then(|identity| self.bundle.askable(&identity));
        match (askable, filter.resources) {
            (Some(askable), Some(named)) => Some(&askable & &named),
            (askable, named) => askable.or(named),
        }
    }

    fn part(&self, to: To, resources: Option<&BTreeSet<ResourceName>>) -> Part {
        let digest = digest(to, resources);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = made.parts.get(&digest).and_then(Weak::upgrade) {
            return part;
        }
        if made.parts.len() >= made.many.max(MANY) {
            made.parts.retain(|_, part| part.strong_count() > 0);
            made.many = made.parts.len().saturating_mul(2);
        }
        let part = Part::default();
        made.parts.insert(digest, Arc::downgrade(&part));
        part
    }

    fn encode(&self, to: To, resources: Option<&BTreeSet<ResourceName>>) -> Encoded {
        let json = self.bundle.catalog_json(to, resources);
        let bundle = self.bundle.digest().to_string();
        let max_staleness = Some(duration(self.ceiling.0));
        encode(Wire::Catalog(v1::Catalog { json, bundle, seq: self.seq.0, max_staleness }))
    }
}

/// Tells parts of one bundle apart.
fn digest(to: To, resources: Option<&BTreeSet<ResourceName>>) -> Hash {
    let mut hash = Sha256::new();
    field(&mut hash, &[u8::from(to == To::Gateway), u8::from(resources.is_some())]);
    for resource in resources.into_iter().flatten() {
        field(&mut hash, resource.as_str().as_bytes());
    }
    Hash(hash.finalize().into())
}
