//! The file in which a command finds its newest credential.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::exit::Failure;
use crate::cli::private_file::write_private;

/// A file of mode 0600 in a folder of its own; both go when this goes.
pub struct CredentialFile {
    folder: TempDir,
    path: PathBuf,
}

impl fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialFile({})", self.path.display())
    }
}

impl CredentialFile {
    /// In `$XDG_RUNTIME_DIR`, which is memory and its user's alone, else in `$TMPDIR`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(token: &str) -> Result<Self, Failure> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let parent = runtime.filter(|folder| folder.is_dir()).unwrap_or_else(std::env::temp_dir);
        Self::create_in(&parent, token)
    }

    fn create_in(parent: &Path, token: &str) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("protem-run-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(|why| Failure::file(parent, &why))?;
        let path = folder.path().join("credential");
        let file = Self { folder, path };
        file.write(token)?;
        Ok(file)
    }

    /// Replaces the credential; a reader sees the old or the new one, never a part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, token: &str) -> Result<(), Failure> {
        write_private(&self.path, token.as_bytes())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes file and folder away.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove(self) -> Result<(), Failure> {
        let path = self.path;
        self.folder.close().map_err(|why| Failure::file(&path, &why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_replaced_whole_and_goes() {
        let parent = tempfile::tempdir().unwrap();
        let file = CredentialFile::create_in(parent.path(), "a").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(file.folder.path())), (0o600, 0o700));
        file.write("b").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "b");
        file.remove().unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
