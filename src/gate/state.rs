//! What outlives a gateway's process: its instance id, and the newest signed checkpoint, so that a broker's rollback is noticed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use protem_verify::checkpoint::{Checkpoint, Signed};
use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::time::Time;

/// A gateway's folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    /// Tells apart the replicas of one gateway: random at the first start.
    pub instance: String,
}

/// The folder cannot be used. A gateway that forgot what it saw could be taken back, so it does not start without.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's state in `{}` cannot be used: {source}", path.display())]
pub struct StateError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What went wrong.
    pub source: io::Error,
}

impl Store {
    /// Opens the folder, or makes it (0700, files 0600), and reads what an earlier run kept.
    ///
    /// # Errors
    /// When it cannot be read or written, or holds what this gateway never wrote.
    pub fn open(folder: &Path) -> Result<(Self, Option<Signed>), StateError> {
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail(folder))?;
        let named = folder.join(INSTANCE);
        let instance = match read(&named).map_err(fail(&named))? {
            Some(text) => text,
            None => {
                let fresh = HEXLOWER.encode(&protem_clock::random::bytes::<16>());
                write(&named, &fresh).map_err(fail(&named))?;
                fresh
            }
        };
        let kept = folder.join(CHECKPOINT);
        let newest = read(&kept).map_err(fail(&kept))?;
        let newest = newest.map(|text| {
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
            parse(&text).ok_or_else(damaged).map_err(fail(&kept))
        });
        Ok((Self { folder: folder.into(), instance }, newest.transpose()?))
    }

    /// Keeps a checkpoint: written beside the old one, made durable, then renamed over it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, signed: &Signed) -> io::Result<()> {
        write(&self.folder.join(CHECKPOINT), &text(signed))
    }
}

const INSTANCE: &str = "instance";
const CHECKPOINT: &str = "checkpoint";

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file: File =
        options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// `journal epoch seq at root signature`, bytes in hex.
fn text(signed: &Signed) -> String {
    let Signed { checkpoint, signature } = signed;
    format!(
        "{} {} {} {} {} {}\n",
        HEXLOWER.encode(&checkpoint.journal.0),
        checkpoint.epoch.0,
        checkpoint.seq,
        checkpoint.at.as_millis(),
        checkpoint.root,
        HEXLOWER.encode(signature),
    )
}

fn parse(text: &str) -> Option<Signed> {
    let mut words = text.split(' ');
    let checkpoint = Checkpoint {
        journal: JournalId(bytes(words.next()?)?),
        epoch: Epoch(words.next()?.parse().ok()?),
        seq: Seq(words.next()?.parse().ok()?),
        at: Time::from_millis(words.next()?.parse().ok()?),
        root: Hash(bytes(words.next()?)?),
    };
    let signed = Signed { checkpoint, signature: bytes(words.next()?)? };
    words.next().is_none().then_some(signed)
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_kept_is_read_back_and_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge");
        let (store, newest) = Store::open(&path).unwrap();
        assert_eq!(newest, None);
        let checkpoint = Checkpoint {
            journal: JournalId([1; 16]),
            epoch: Epoch(2),
            seq: Seq(3),
            at: Time::from_millis(4_001),
            root: Hash([5; 32]),
        };
        let signed = Signed { checkpoint, signature: [6; 64] };
        store.keep(&signed).unwrap();
        let (again, newest) = Store::open(&path).unwrap();
        assert_eq!((again.instance, newest), (store.instance, Some(signed)));
        let file = path.join(CHECKPOINT);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "what?").unwrap();
        assert!(Store::open(&path).is_err());
    }
}
