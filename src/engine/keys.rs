//! Signing keys: a folder that only the broker's user can read, one purpose each, published before use.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use protem_core::event::{KeyPurpose, PublicKey};
use protem_core::grant::KeyState;
use protem_core::state::State;
use protem_verify::ids::Seq;
use protem_verify::keys::jwks;
use protem_verify::names::KeyId;
use zeroize::Zeroizing;

use crate::engine::stop::StartError;
use crate::mint::SigningKey;

/// The longest key file: a line of three words.
const FILE_MAX: u64 = 256;
/// How a key file begins; a later form says another number.
const FORM: &str = "protem-key-1";

/// The private keys of this broker.
pub struct KeyRing {
    folder: PathBuf,
    keys: RwLock<BTreeMap<KeyId, SigningKey>>,
}

impl KeyRing {
    /// Reads the folder; makes it when there is none.
    ///
    /// # Errors
    /// When the folder is not 0700, a file in it is not 0600, belongs to somebody else, or is not a key.
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
        let mut keys = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(|error| fail(error.to_string()))? {
            let path = entry.map_err(|error| fail(error.to_string()))?.path();
            if path.extension().is_some_and(|ending| ending == "key") {
                let key = read(&path, meta.uid())
                    .map_err(|why| fail(format!("`{}`: {why}", path.display())))?;
                keys.insert(key.id().clone(), key);
            }
        }
        Ok(Self { folder: folder.to_owned(), keys: RwLock::new(keys) })
    }

    /// The key with this id, if its private half is here.
    #[must_use]
    pub fn find(&self, id: &KeyId) -> Option<SigningKey> {
        self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
    }

    /// Makes a key and keeps it on disk before anybody hears of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn generate(&self, purpose: KeyPurpose) -> Result<SigningKey, StartError> {
        let seed = Zeroizing::new(random::bytes::<32>());
        let key = SigningKey::from_seed(&seed, purpose);
        let path = self.folder.join(format!("{}.key", key.id()));
        write(&path, &seed, purpose).map_err(|error| StartError::KeyFolder {
            folder: self.folder.clone(),
            why: format!("`{}`: {error}", path.display()),
        })?;
        let mut keys = self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.insert(key.id().clone(), key.clone());
        Ok(key)
    }

    /// Every key here of this purpose.
    #[must_use]
    pub fn of(&self, purpose: KeyPurpose) -> Vec<SigningKey> {
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
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
    /// As `state` has them. `seq`: the entry that changed them last.
    #[must_use]
    pub fn of(state: &State, seq: Seq) -> Self {
        let of = |purpose: KeyPurpose| -> Vec<PublicKey> {
            let known = state.keys().filter(|record| record.key.purpose == purpose);
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

fn read(path: &Path, owner: u32) -> Result<SigningKey, String> {
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
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
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
    let seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| bad())?;
    let key = SigningKey::from_seed(&Zeroizing::new(seed), purpose);
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
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    // The name, too, must outlive a power failure: the journal is about to rely on this key.
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_come_back_and_looser_modes_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        let key = KeyRing::open(&folder).unwrap().generate(KeyPurpose::Credential).unwrap();
        let again = KeyRing::open(&folder).unwrap();
        let found = again.find(key.id()).unwrap();
        assert_eq!((found.public(), found.purpose()), (key.public(), KeyPurpose::Credential));
        assert!(!format!("{found:?}").contains(&BASE64URL_NOPAD.encode(&key.public())));

        let file = folder.join(format!("{}.key", key.id()));
        mode(&file, 0o640);
        assert!(KeyRing::open(&folder).is_err(), "a file that a group may read");
        mode(&file, 0o600);
        mode(&folder, 0o750);
        assert!(KeyRing::open(&folder).is_err(), "a folder that a group may enter");
        mode(&folder, 0o700);
        let other = folder.join("other.key");
        fs::rename(&file, &other).unwrap();
        assert!(KeyRing::open(&folder).is_err(), "a key under another key's name");
    }
}
