//! Proofs of freshness: the head as it was read after the question, signed once per head and second; and the anchor, by
//! which a store that went back is found out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prost::Message;
use protem_clock::clock::Clock;
use protem_core::event::KeyPurpose;
use protem_proto::wire::v1;
use protem_verify::checkpoint::{Checkpoint, Signed};
use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::keys::Keys;
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::engine::filter::timestamp;
use crate::engine::keys::KeyRing;
use crate::engine::lane::Lane;
use crate::engine::sequencer::{Job, Work};
use crate::engine::stop::{StartError, Stop};
use crate::engine::thread::system;
use crate::engine::timekeeper::Timekeeper;
use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::reader::Reader;
use tokio::sync::oneshot;

/// How often the anchor file is rewritten at most.
pub const ANCHOR_EVERY: Duration = Duration::from_secs(1);

/// A signed checkpoint that answers one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The head as it was read after the question arrived.
    pub signed: Signed,
    /// The question's nonce.
    pub nonce: Vec<u8>,
}

/// Signs checkpoints, and knows whether the journal is still the one that was shown to others.
pub struct Prover {
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    /// The checkpoint key in force.
    key: ArcSwap<Option<protem_verify::names::KeyId>>,
    newest: Mutex<Newest>,
    /// Set when somebody showed a later state than the journal's: nothing is issued or proven from then on.
    ahead: ArcSwapOption<Fault>,
    anchor: Option<PathBuf>,
}

struct Newest {
    keeper: Timekeeper,
    signed: Option<Signed>,
    anchored: Option<(Seq, Duration)>,
}

impl Prover {
    /// Signs nothing until it is told its key.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>, clock: Arc<dyn Clock>, anchor: Option<PathBuf>) -> Self {
        let keeper = Timekeeper::new(Arc::clone(&clock));
        Self {
            keys,
            clock,
            key: ArcSwap::from_pointee(None),
            newest: Mutex::new(Newest { keeper, signed: None, anchored: None }),
            ahead: ArcSwapOption::empty(),
            anchor,
        }
    }

    /// From now on this key signs.
    pub fn sign_with(&self, key: Option<protem_verify::names::KeyId>) {
        self.key.store(Arc::new(key));
    }

    /// # Errors
    /// When somebody showed a later state than the journal's.
    pub fn intact(&self) -> Result<(), Fault> {
        self.ahead.load().as_deref().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// The checkpoint of `head` in this second, signed once however many ask.
    ///
    /// # Errors
    /// When the clock cannot be trusted, the key is not here, or the journal went back.
    pub fn checkpoint(&self, head: &Head) -> Result<Signed, Fault> {
        self.intact()?;
        let mut newest = self.lock();
        let at = newest.keeper.now(head.at)?.end_of_second();
        if let Some(signed) = newest.signed
            && signed.checkpoint.seq == head.seq
            && signed.checkpoint.at >= at
        {
            return Ok(signed);
        }
        // A clock that was set back a little must not make an earlier checkpoint's time look wrong.
        let at = newest.signed.map_or(at, |signed| signed.checkpoint.at.max(at));
        let checkpoint = Checkpoint {
            journal: head.journal,
            epoch: head.epoch,
            seq: head.seq,
            at,
            root: head.root,
        };
        let id = (**self.key.load()).clone();
        let key = id.as_ref().and_then(|id| self.keys.find(id));
        let Some(key) = key else {
            return Err(id.map_or(Fault::Stopping, Fault::NoPrivateKey));
        };
        let Some(dalek) = key.for_checkpoints() else {
            return Err(Fault::NoPrivateKey(key.id().clone()));
        };
        let signed = checkpoint.sign(dalek);
        if newest.signed.is_none_or(|last| last.checkpoint.seq <= head.seq) {
            newest.signed = Some(signed);
        }
        Ok(signed)
    }

    /// A gateway's newest checkpoint, by our own key: if it shows more than the journal holds, or something else, the
    /// journal went back, and nothing is issued or proven until a restore is declared.
    ///
    /// # Errors
    /// When it did.
    pub fn compare(
        &self,
        shown: &Signed,
        known: &Keys,
        head: &Head,
        reader: &dyn Reader,
    ) -> Result<(), Fault> {
        // Whose word it is not proves nothing: anybody could stop a broker with it.
        if !shown.verify(known) {
            return Ok(());
        }
        let went_back = is_ahead(&shown.checkpoint, head, reader)?;
        if went_back {
            let fault = Fault::RolledBack { known: shown.checkpoint.seq, found: head.seq };
            tracing::error!(%fault, "a signed checkpoint shows a later state of this journal");
            self.ahead.store(Some(Arc::new(fault.clone())));
            return Err(fault);
        }
        Ok(())
    }

    /// Rewrites the anchor file when the head moved, at most once a second; `last`: at a stop, at once.
    pub fn anchor(&self, head: &Head, last: bool) {
        let Some(path) = &self.anchor else { return };
        let now = self.clock.boot();
        let due = self.lock().anchored.is_none_or(|(seq, at)| {
            seq != head.seq && (last || now.saturating_sub(at) >= ANCHOR_EVERY)
        });
        if !due {
            return;
        }
        let kept = self
            .checkpoint(head)
            .map_err(|fault| fault.to_string())
            .and_then(|signed| write(path, &signed).map_err(|error| error.to_string()));
        match kept {
            Ok(()) => self.lock().anchored = Some((head.seq, now)),
            Err(why) => tracing::warn!(why, "the anchor file was not rewritten"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Proof of the head as it is read after this call: nothing that was acknowledged before is missing in it.
    ///
    /// # Errors
    /// When the store, the clock or the key fails, or the journal went back.
    pub async fn prove(&self, nonce: Vec<u8>) -> Result<Proof, Fault> {
        let head = self.fresh_head().await?;
        Ok(Proof { signed: self.0.prover.checkpoint(&head)?, nonce })
    }

    /// The head, read now; with a commit first when something failed since the last one.
    pub(in crate::engine) async fn fresh_head(&self) -> Result<Head, Fault> {
        self.0.prover.intact()?;
        if !self.0.health.failed() {
            return Ok(self.head());
        }
        let (tell, told) = oneshot::channel();
        let job = Job {
            actor: system(),
            work: Work::Beat,
            answer: Box::new(move |answered| {
                drop(tell.send(answered.map(|answered| answered.head)));
            }),
        };
        self.0.lanes.push(Lane::Ending, job);
        match told.await {
            Ok(Ok(head)) => Ok(head),
            Ok(Err(Stop::Faulted(fault))) => Err(fault),
            Ok(Err(_)) | Err(_) => Err(Fault::Stopping),
        }
    }
}

/// What the anchor file shows, if there is one.
///
/// # Errors
/// When it cannot be read.
pub fn read_anchor(path: &Path) -> Result<Option<Signed>, StartError> {
    let fail = |why: String| StartError::Anchor { path: path.to_owned(), why };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let wire = v1::Checkpoint::decode(bytes.as_slice()).map_err(|error| fail(error.to_string()))?;
    signed(&wire).map(Some).ok_or_else(|| fail("it is not a signed checkpoint".to_owned()))
}

/// At a start: whether the anchor shows more than the journal holds, or something else.
///
/// # Errors
/// When it does, or its signature is none of the journal's or of this broker's keys.
pub fn check_anchor(
    path: &Path,
    shown: &Signed,
    keys: &Keys,
    head: &Head,
    reader: &dyn Reader,
) -> Result<(), StartError> {
    if shown.checkpoint.journal != head.journal && shown.checkpoint.epoch < head.epoch {
        return Ok(()); // another journal's, from before this one
    }
    if !shown.verify(keys) {
        let why = "no key of this broker signed it".to_owned();
        return Err(StartError::Anchor { path: path.to_owned(), why });
    }
    if is_ahead(&shown.checkpoint, head, reader)? {
        let (known, found) = (shown.checkpoint.seq, head.seq);
        return Err(Fault::RolledBack { known, found }.into());
    }
    Ok(())
}

fn is_ahead(shown: &Checkpoint, head: &Head, reader: &dyn Reader) -> Result<bool, Fault> {
    if shown.epoch != head.epoch || shown.journal != head.journal {
        return Ok(shown.epoch > head.epoch);
    }
    if shown.seq > head.seq {
        return Ok(true);
    }
    if shown.seq == head.seq {
        return Ok(head.root != shown.root); // without a look at every leaf
    }
    Ok(reader.root_at(shown.seq.0)? != shown.root)
}

/// A signed checkpoint from the wire; `None` when it has not the form.
#[must_use]
pub fn signed(wire: &v1::Checkpoint) -> Option<Signed> {
    let at = wire.at.as_ref()?;
    let millis = u64::try_from(at.seconds).ok()?.checked_mul(1_000)?;
    let millis = millis.checked_add(u64::try_from(at.nanos).ok()? / 1_000_000)?;
    Some(Signed {
        checkpoint: Checkpoint {
            journal: JournalId(wire.journal.as_slice().try_into().ok()?),
            epoch: Epoch(wire.epoch),
            seq: Seq(wire.seq),
            at: Time::from_millis(millis),
            root: Hash(wire.audit_root.as_slice().try_into().ok()?),
        },
        signature: wire.signature.as_slice().try_into().ok()?,
    })
}

/// A signed checkpoint on the wire; what a stream adds to it is left empty.
#[must_use]
pub fn wire(signed: &Signed) -> v1::Checkpoint {
    let checkpoint = &signed.checkpoint;
    v1::Checkpoint {
        journal: checkpoint.journal.0.to_vec(),
        epoch: checkpoint.epoch.0,
        seq: checkpoint.seq.0,
        at: Some(timestamp(checkpoint.at)),
        audit_root: checkpoint.root.0.to_vec(),
        signature: signed.signature.to_vec(),
        ..v1::Checkpoint::default()
    }
}

/// The keys whose word about this journal counts: the journal's checkpoint keys and this broker's own, which a restored
/// journal may not know. Of its own, none that was cut off: [`KeyRing::lock_away`] saw to that.
#[must_use]
pub fn own_keys(ring: &KeyRing, journal: &[[u8; 32]]) -> Keys {
    let own = ring.of(KeyPurpose::Checkpoint);
    let own = own.iter().map(crate::mint::SigningKey::public).chain(ring.former());
    let publics: Vec<[u8; 32]> = own.chain(journal.iter().copied()).collect();
    Keys::of(&publics).unwrap_or_default()
}

/// The same, where the journal's checkpoint keys are a JWK set.
#[must_use]
pub fn journal_keys(ring: &KeyRing, jwks: &str) -> Keys {
    own_keys(ring, &[]).and(Keys::parse(jwks).unwrap_or_default())
}

fn write(path: &Path, signed: &Signed) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&wire(signed).encode_to_vec())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
