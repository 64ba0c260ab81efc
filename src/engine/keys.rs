//! Signing keys: a folder that only the broker's user can read, one purpose each, published before use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use protem_core::charter::Charter;
use protem_core::event::{KeyPurpose, PublicKey};
use protem_core::grant::{KeyRecord, KeyState};
use protem_verify::ids::Seq;
use protem_verify::keys::{jwks, thumbprint};
use protem_verify::names::KeyId;
use zeroize::Zeroizing;

use crate::engine::stop::StartError;
use crate::mint::SigningKey;

/// The longest key file: a line of three words.
const FILE_MAX: u64 = 256;
const FILE_ROOM: usize = 512;
/// How a key file begins; a later form says another number.
const FORM: &str = "protem-key-1";

/// The ending of a key file that the journal knows, of one that it may not know yet, and of what is left of a checkpoint
/// key: its public half, so that an old checkpoint can still be told from a forged one.
const ENDING: &str = "key";
const UNPUBLISHED: &str = "new";
const FORMER: &str = "former";
/// Former checkpoint keys that are remembered: with a key a day, the oldest checkpoint that counts is a quarter old.
const FORMER_MAX: usize = 90;

/// The private keys of this broker.
pub struct KeyRing {
    folder: PathBuf,
    keys: RwLock<BTreeMap<KeyId, SigningKey>>,
    former: RwLock<Former>,
}

/// What this broker remembers of keys whose private half is gone.
#[derive(Default)]
struct Former {
    /// Retired checkpoint keys: what they signed still counts.
    counts: BTreeMap<KeyId, [u8; 32]>,
    /// Keys that were cut off: they count nowhere, whatever a file says.
    void: BTreeSet<KeyId>,
}

impl KeyRing {
    /// Reads the folder; makes it when there is none.
    ///
    /// # Errors
    /// When the folder is not 0700, a file in it is not 0600, belongs to somebody else, or is not a key, or the folder
    /// belongs to somebody else.
    pub fn open(folder: &Path) -> Result<Self, StartError> {
        let fail = |why: String| StartError::KeyFolder { folder: folder.to_owned(), why };
        if !folder.exists() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(folder).map_err(|error| fail(error.to_string()))?;
        }
        let meta = fs::symlink_metadata(folder).map_err(|error| fail(error.to_string()))?;
        if !meta.is_dir() {
            return Err(fail("it is not a folder".to_owned()));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(fail("others may enter it; its mode must be 0700".to_owned()));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(fail("it belongs to another user than the one who runs this".to_owned()));
        }
        let mut keys = BTreeMap::new();
        let mut former = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| fail(error.to_string()))? {
            let path = entry.map_err(|error| fail(error.to_string()))?.path();
            let named = |why: String| fail(format!("`{}`: {why}", path.display()));
            match path.extension().and_then(|ending| ending.to_str()) {
                Some(ENDING | UNPUBLISHED) => {
                    let key = read(&path, meta.uid()).map_err(named)?;
                    keys.insert(key.id().clone(), key);
                }
                Some(FORMER) => former.push(read_former(&path, meta.uid()).map_err(named)?),
                Some(_) | None => {}
            }
        }
        former.sort_unstable_by_key(|(made, _)| std::cmp::Reverse(*made));
        let newest = former.into_iter().take(FORMER_MAX);
        let counts = newest.map(|(_, public)| (thumbprint(&public), public)).collect();
        let former = Former { counts, ..Former::default() };
        let (keys, former) = (RwLock::new(keys), RwLock::new(former));
        Ok(Self { folder: folder.to_owned(), keys, former })
    }

    /// The key with this id, if its private half is here.
    #[must_use]
    pub fn find(&self, id: &KeyId) -> Option<SigningKey> {
        self.read().get(id).cloned()
    }

    /// Makes a key and keeps it on disk before anybody hears of it. Say [`Self::published`] when the journal knows it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn generate(&self, purpose: KeyPurpose) -> Result<SigningKey, Unkept> {
        let seed = Zeroizing::new(random::bytes::<32>());
        let key = SigningKey::from_seed(&seed, purpose);
        let path = self.path(key.id(), UNPUBLISHED);
        write(&path, &seed, purpose).map_err(|why| unkept(&path, &why))?;
        self.write().insert(key.id().clone(), key.clone());
        Ok(key)
    }

    /// The journal knows this key: from here on its file stays until [`Self::remove`].
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn published(&self, id: &KeyId) -> Result<(), Unkept> {
        let (from, to) = (self.path(id, UNPUBLISHED), self.path(id, ENDING));
        if !from.exists() {
            return Ok(());
        }
        fs::rename(&from, &to).and_then(|()| self.sync()).map_err(|why| unkept(&to, &why))
    }

    /// At a start: a key that was written but never published is nobody's, and goes; so does all that is left of one that
    /// was cut off, as an earlier process may have been killed before it did that.
    ///
    /// # Errors
    /// When the folder cannot be changed.
    pub fn reconcile(&self, charter: &Charter) -> Result<(), Unkept> {
        let ids: BTreeSet<KeyId> = self.read().keys().cloned().collect();
        let former: BTreeSet<KeyId> = self.past().counts.keys().cloned().collect();
        // INVARIANT(a_cut_off_key_vouches_for_nothing): the cut-off is asked, as a key's record is forgotten.
        for id in ids.union(&former).filter(|id| charter.is_cut_off(id)) {
            self.lock_away(id);
            self.remove(id)?;
        }
        let ids: Vec<KeyId> = self.read().keys().cloned().collect();
        for id in ids {
            if charter.key(&id).is_some() {
                self.published(&id)?;
            } else if self.path(&id, UNPUBLISHED).exists() {
                self.remove(&id)?;
            } else {
                // Perhaps another journal's, or a later state's of this one: not ours to remove.
                tracing::warn!(key = %id, folder = %self.folder.display(), "the journal knows nothing of a key file");
            }
        }
        Ok(())
    }

    /// From now on this key signs nothing and vouches for nothing, whatever becomes of its files: it was cut off.
    pub fn lock_away(&self, id: &KeyId) {
        self.write().remove(id);
        let mut past = self.past();
        past.counts.remove(id);
        past.void.insert(id.clone());
    }

    /// The keys that were cut off while this process ran, or before it with something left of them.
    #[must_use]
    pub fn locked_away(&self) -> Vec<KeyId> {
        self.past().void.iter().cloned().collect()
    }

    /// Removes the private half of a checkpoint key that signs no more, and keeps the public one: an old checkpoint can
    /// then still be told from a forged one.
    ///
    /// # Errors
    /// When a file cannot be written or removed.
    pub fn retire(&self, id: &KeyId) -> Result<(), Unkept> {
        let key = self.find(id).filter(|key| key.purpose() == KeyPurpose::Checkpoint);
        // One that was cut off is not here any more, and leaves nothing.
        if let Some(key) = key {
            let former = self.path(id, FORMER);
            let line = format!("{FORM} former {}\n", BASE64URL_NOPAD.encode(&key.public()));
            keep(&former, line.as_bytes()).map_err(|why| unkept(&former, &why))?;
            let mut past = self.past();
            if !past.void.contains(id) {
                past.counts.insert(id.clone(), key.public());
            }
        }
        self.write().remove(id);
        self.unlink(id, &[ENDING, UNPUBLISHED])
    }

    /// Removes a key that can never be asked to sign again and whose word counts no more: nothing is left in the folder.
    /// What a journaling disk or a backup keeps of a removed file, no overwriting here would reach, so none is tried.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self, id: &KeyId) -> Result<(), Unkept> {
        self.write().remove(id);
        self.past().counts.remove(id);
        self.unlink(id, &[ENDING, UNPUBLISHED, FORMER])
    }

    fn unlink(&self, id: &KeyId, endings: &[&str]) -> Result<(), Unkept> {
        for path in endings.iter().map(|ending| self.path(id, ending)) {
            match fs::remove_file(&path) {
                Ok(()) => self.sync().map_err(|why| unkept(&path, &why))?,
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
                Err(why) => return Err(unkept(&path, &why)),
            }
        }
        Ok(())
    }

    /// A key that was made and never published: its turn failed.
    #[must_use]
    pub fn spare(&self, purpose: KeyPurpose) -> Option<SigningKey> {
        let spare = self.of(purpose);
        spare.into_iter().find(|key| self.path(key.id(), UNPUBLISHED).exists())
    }

    /// The public halves of this broker's checkpoint keys of before.
    #[must_use]
    pub fn former(&self) -> Vec<[u8; 32]> {
        self.past().counts.values().copied().collect()
    }

    /// Whether this is a checkpoint key of before whose word counts.
    #[must_use]
    pub fn is_former(&self, id: &KeyId) -> bool {
        self.past().counts.contains_key(id)
    }

    fn past(&self) -> RwLockWriteGuard<'_, Former> {
        self.former.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a start cannot use the folder.
    #[must_use]
    pub fn unusable(&self, why: &Unkept) -> StartError {
        StartError::KeyFolder { folder: self.folder.clone(), why: why.to_string() }
    }

    fn path(&self, id: &KeyId, ending: &str) -> PathBuf {
        self.folder.join(format!("{id}.{ending}"))
    }

    /// Names, too, must outlive a power failure.
    fn sync(&self) -> std::io::Result<()> {
        fs::File::open(&self.folder)?.sync_all()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<KeyId, SigningKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<KeyId, SigningKey>> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key here of this purpose.
    #[must_use]
    pub fn of(&self, purpose: KeyPurpose) -> Vec<SigningKey> {
        let keys = self.read();
        keys.values().filter(|key| key.purpose() == purpose).cloned().collect()
    }
}

/// The public half, as the journal records it.
#[must_use]
pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey { id: key.id().clone(), purpose: key.purpose(), public: key.public() }
}

/// The key sets that gateways and JWKS pollers read, and where in the journal they are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySets {
    /// Credential keys that count, as a JWK set.
    pub credential: Arc<str>,
    /// Checkpoint keys that count, as a JWK set.
    pub checkpoint: Arc<str>,
    /// The ids of the credential keys.
    pub ids: Arc<[KeyId]>,
    /// The entry that changed them last.
    pub seq: Seq,
}

impl KeySets {
    /// Of all these. `seq`: the entry that changed them last, or a later one.
    #[must_use]
    pub fn of<'a>(keys: impl Iterator<Item = &'a KeyRecord> + Clone, seq: Seq) -> Self {
        let of = |purpose: KeyPurpose| -> Vec<PublicKey> {
            let known = keys.clone().filter(|record| record.key.purpose == purpose);
            // A key that was cut off verifies nothing; a retired one verifies what it signed before.
            let known = known.filter(|record| counts(record.state));
            known.map(|record| record.key.clone()).collect()
        };
        let text = |keys: &[PublicKey]| -> Arc<str> {
            jwks(&keys.iter().map(|key| key.public).collect::<Vec<_>>()).into()
        };
        let credential = of(KeyPurpose::Credential);
        Self {
            credential: text(&credential),
            checkpoint: text(&of(KeyPurpose::Checkpoint)),
            ids: credential.iter().map(|key| key.id.clone()).collect(),
            seq,
        }
    }
}

fn counts(state: KeyState) -> bool {
    match state {
        KeyState::Published | KeyState::Signing | KeyState::Retired => true,
        KeyState::CutOff => false,
    }
}

/// A key file that could not be written, renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {why}")]
pub struct Unkept {
    path: String,
    why: String,
}

fn unkept(path: &Path, why: &std::io::Error) -> Unkept {
    Unkept { path: path.display().to_string(), why: why.to_string() }
}

/// The text of a file that is ours alone, and when it was written.
fn open(path: &Path, owner: u32) -> Result<(Zeroizing<String>, SystemTime), String> {
    let mut options = fs::OpenOptions::new();
    // A link could point at a file that others may change.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let flags = i32::try_from(flags).map_err(|error| error.to_string())?;
    let file = options.read(true).custom_flags(flags).open(path).map_err(|e| e.to_string())?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err("others may read it; its mode must be 0600".to_owned());
    }
    if meta.uid() != owner || !meta.is_file() {
        return Err("it is not a file of the folder's owner".to_owned());
    }
    // Room for all of it at once: a text that grows would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_ROOM));
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok((text, meta.modified().map_err(|error| error.to_string())?))
}

fn read_former(path: &Path, owner: u32) -> Result<(SystemTime, [u8; 32]), String> {
    let (text, made) = open(path, owner)?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [FORM, FORMER, public] = words.as_slice() else {
        return Err("it is not what is left of a checkpoint key".to_owned());
    };
    let bytes = BASE64URL_NOPAD.decode(public.as_bytes()).ok();
    let public = bytes.and_then(|bytes| bytes.try_into().ok());
    public.map(|public| (made, public)).ok_or("it holds no public key".to_owned())
}

fn read(path: &Path, owner: u32) -> Result<SigningKey, String> {
    let (text, _) = open(path, owner)?;
    let bad = || "it is not a protem key".to_owned();
    let mut words = text.split_ascii_whitespace();
    let (Some(FORM), Some(purpose), Some(seed), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let purpose = match purpose {
        "credential" => KeyPurpose::Credential,
        "checkpoint" => KeyPurpose::Checkpoint,
        _ => return Err(bad()),
    };
    let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(seed.as_bytes()).map_err(|_| bad())?);
    // Filled in place: an array by value would leave a copy that nobody clears.
    let mut seed = Zeroizing::new([0; 32]);
    if bytes.len() != seed.len() {
        return Err(bad());
    }
    seed.copy_from_slice(&bytes);
    let key = SigningKey::from_seed(&seed, purpose);
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(key.id().as_str()) {
        return Err("its name is not the id of the key in it".to_owned());
    }
    Ok(key)
}

fn write(path: &Path, seed: &[u8; 32], purpose: KeyPurpose) -> std::io::Result<()> {
    let text = Zeroizing::new(BASE64URL_NOPAD.encode(seed));
    let purpose = match purpose {
        KeyPurpose::Credential => "credential",
        KeyPurpose::Checkpoint => "checkpoint",
    };
    let line = Zeroizing::new(format!("{FORM} {purpose} {}\n", *text));
    keep(path, line.as_bytes())
}

/// Writes a file for its owner alone, so that it outlives a power failure: the journal is about to rely on it.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
