//! What a gate holds is its own: files that nobody else may read, and memory that no dump shows.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use zeroize::Zeroizing;

/// A file that holds no secret, as somebody else may read it, or that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It cannot be read, or is no file that could hold it.
    #[error("{0}")]
    File(#[from] io::Error),
    /// Its mode is too loose.
    #[error(
        "others may read it: its mode is {0:04o} and must be 0600, or 0640 with a group of the gateway's own"
    )]
    Open(u32),
}

/// Bits of a mode that make a secret somebody else's: all of others', and a group's right to write or run. A group that may
/// read it is how orchestrators hand secrets to a process that is not root.
const NOT_OTHERS: u32 = 0o037;

/// Reads a secret of at most `max` bytes; what is looked at is the open file, not its name.
///
/// # Errors
/// When others may read or change it, it is longer, or it cannot be read.
pub fn read(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    // Looked at first: opening a pipe in the file's place would hold us up.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file").into());
    }
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    if about.mode() & NOT_OTHERS != 0 {
        return Err(Unfit::Open(about.mode() & 0o7777));
    }
    // Room for all of it at once: what grows would leave copies behind.
    let room = usize::try_from(about.len().min(max).saturating_add(1)).unwrap_or_default();
    let mut secret = Zeroizing::new(Vec::with_capacity(room));
    file.by_ref().take(max.saturating_add(1)).read_to_end(&mut secret)?;
    if u64::try_from(secret.len()).unwrap_or(u64::MAX) > max {
        let why = format!("it is longer than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
    }
    Ok(secret)
}

/// From here on no core dump, and no debugger of the same user, shows what is in this process's memory: keys, secrets, tokens on
/// their way. The limit holds where a handler of dumps is told to write them all the same, and for programs that this one starts.
///
/// # Errors
/// When the system does not let it.
pub fn keep_to_itself() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn a_secret_is_nobody_elses_to_read_or_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "12345").unwrap();
        let check = |mode: u32, max: u64| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read(&file, max).map(|secret| secret.to_vec()).map_err(|why| why.to_string())
        };
        for mode in [0o600, 0o640, 0o400, 0o440] {
            assert_eq!(check(mode, 5).unwrap(), b"12345", "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o602, 0o601, 0o620, 0o660, 0o650, 0o666, 0o777] {
            let why = check(mode, 5).unwrap_err();
            assert!(why.contains(&format!("{mode:04o} and must be 0600")), "{why}");
        }
        assert!(check(0o600, 4).unwrap_err().contains("longer than 4"));
        assert!(read(folder.path(), 5).unwrap_err().to_string().contains("no file"));
    }

    #[test]
    fn what_a_process_has_in_memory_is_in_no_dump() {
        keep_to_itself().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
