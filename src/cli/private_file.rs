//! Files that only their own user can read: keys, tokens.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use protem_clock::random;
use protem_private::file::{self, Readers, Unfit};
use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};

/// Makes a folder that only its own user can enter, and those above it.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|why| Failure::file(folder, &why))
}

/// Writes a file that only its own user can read, as a whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fresh = path.with_extension(format!("new-{}", HEXLOWER.encode(&random::bytes::<4>())));
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(|why| {
        let _ = std::fs::remove_file(&fresh);
        Failure::file(path, &why)
    })
}

/// Reads a file that nobody else can have read or written; none when there is none.
///
/// # Errors
/// When somebody else could, or it is larger than `max` bytes.
pub fn read_private(path: &Path, max: u64) -> Result<Option<Zeroizing<String>>, Failure> {
    let mut bytes = match file::read(path, max, Readers::Nobody) {
        Ok(bytes) => bytes,
        Err(Unfit::File(why)) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(Unfit::File(why)) => return Err(Failure::file(path, &why)),
        Err(Unfit::Open { .. } | Unfit::Foreign(_)) => {
            let what = format!("`{}` is not a file that only you can read", path.display());
            return Err(Failure::of(Exit::NotAuthenticated, tool::LOCAL_FILE, what)
                .helps("remove it, and sign in again"));
        }
    };
    // Moved, not copied: nothing of it stays behind.
    let text = String::from_utf8(std::mem::take(&mut *bytes));
    let text = text.map_err(|_| Failure::file(path, &ErrorKind::InvalidData.into()))?;
    Ok(Some(Zeroizing::new(text)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_private_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(read_private(&path, 9).unwrap(), None);
        write_private(&path, b"a").unwrap();
        write_private(&path, b"b").unwrap();
        assert_eq!(read_private(&path, 9).unwrap().unwrap().as_str(), "b");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_private(&path, 9).is_err(), "somebody else could have read it");
    }
}
