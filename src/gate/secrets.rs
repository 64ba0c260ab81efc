//! Secrets of APIs that cannot check tokens: read from files, anew when they change, and never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use protem_private::file::{self, Readers, Unfit};

/// The secrets that a gateway holds, by the names that the catalog gives them.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<BTreeMap<String, Kept>>);

/// A secret as a header's value; it never prints.
#[derive(Clone)]
pub struct Secret(HeaderValue);

struct Kept {
    file: PathBuf,
    now: ArcSwap<Option<Secret>>,
    /// What was last said of it, so that the log says it once.
    told: ArcSwap<String>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("file", &self.file).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// The value, to be put on the wire and nowhere else; it is marked as sensitive.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

/// How often the files are looked at: a secret that was rotated is used within two seconds.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest secret: what servers take as one header line.
pub const SECRET_MAX: u64 = 8 * 1024;

impl Secrets {
    /// Holds these, each read from its file now if it can be; those that cannot are tried again by [`Self::look`].
    #[must_use]
    pub fn new(files: BTreeMap<String, PathBuf>) -> Self {
        let kept = files.into_iter().map(|(name, file)| {
            let (now, told) = (ArcSwap::from_pointee(None), ArcSwap::default());
            (name, Kept { file, now, told })
        });
        let secrets = Self(Arc::new(kept.collect()));
        secrets.look();
        secrets
    }

    /// A secret, if the gateway holds one of that name that could be read.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Secret> {
        self.0.get(name)?.now.load().as_ref().clone()
    }

    /// Whether the gateway was told of a secret of that name, whether it can be read or not.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Why a secret's file cannot be used, as of the last look.
    #[must_use]
    pub fn trouble(&self, name: &str) -> Option<String> {
        let told = self.0.get(name)?.told.load();
        (!told.is_empty()).then(|| told.to_string())
    }

    /// Reads all files anew. One that cannot be read keeps its last secret only when it is half written or empty, which is what a
    /// rotation looks like from the outside; one that is gone, or that others may read, is no secret any more.
    pub fn look(&self) {
        for (name, kept) in &*self.0 {
            let had = kept.now.load().is_some();
            let found = read(&kept.file);
            let trouble = found.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let keeps = had && matches!(found, Err(Unusable::NotYet(_)));
            if !keeps {
                kept.now.store(Arc::new(found.ok()));
            }
            if **kept.told.load() == trouble {
                continue;
            }
            let file = kept.file.display();
            match (trouble.is_empty(), keeps) {
                (true, _) => tracing::info!(secret = %name, %file, "the secret can be used again"),
                (false, true) => {
                    tracing::warn!(secret = %name, %file, why = %trouble, "the last secret is used")
                }
                (false, false) => {
                    tracing::error!(secret = %name, %file, why = %trouble, "calls that need the secret are refused");
                }
            }
            kept.told.store(Arc::new(trouble));
        }
    }

    /// Looks again and again, off the runtime's threads, until dropped.
    pub async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let secrets = self.clone();
            let _ = tokio::task::spawn_blocking(move || secrets.look()).await;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    File(#[from] Unfit),
    #[error("{0}")]
    NotYet(&'static str),
}

fn read(path: &Path) -> Result<Secret, Unusable> {
    let text = file::read(path, SECRET_MAX, Readers::Group)?;
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(Unusable::NotYet("it is empty"));
    }
    let visible = text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let value = HeaderValue::from_bytes(text).ok().filter(|_| visible);
    let mut value = value.ok_or(Unusable::NotYet("it is not one line of printable ASCII"))?;
    value.set_sensitive(true);
    Ok(Secret(value))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &[u8], mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_read_anew_and_is_no_secret_when_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let secrets = Secrets::new(BTreeMap::from([("crm".to_owned(), file.clone())]));
        let found = || {
            secrets.look();
            secrets.find("crm").map(|secret| secret.value().clone())
        };
        assert_eq!(found(), None);
        write(&file, b"first\n", 0o600);
        assert_eq!(found().unwrap(), "first");
        assert!(found().unwrap().is_sensitive());
        write(&file, b"second", 0o640);
        assert_eq!(found().unwrap(), "second");
        // What a rotation may look like for a moment.
        for half in [&b""[..], b"two\nlines", b"\xff"] {
            write(&file, half, 0o600);
            assert_eq!(found().unwrap(), "second");
        }
        for mode in [0o604, 0o602, 0o644, 0o620] {
            write(&file, b"third", mode);
            assert_eq!(found(), None, "{mode:o}");
        }
        write(&file, b"third", 0o400);
        assert_eq!(found().unwrap(), "third");
        fs::remove_file(&file).unwrap();
        assert_eq!(found(), None);
        write(&file, &vec![b'x'; 9_000], 0o600);
        assert_eq!(found(), None);
        assert_eq!(secrets.find("other").map(|_| ()), None);
        assert!(!format!("{secrets:?}").contains("third"));
    }
}
