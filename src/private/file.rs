//! A file with a secret: who may read it, who owns it, and how much of it is read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use zeroize::Zeroizing;

/// Who may read a secret beside the user of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody: 0600.
    Nobody,
    /// A group of its own as well, 0640: how orchestrators hand secrets to a process that is not root.
    Group,
}

/// A file that holds no secret, as it is or could be somebody else's, or that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It cannot be read, or is no file that could hold it.
    #[error("{0}")]
    File(#[from] io::Error),
    /// Its mode is too loose.
    #[error("others may read it: its mode is {mode:04o} and must be 0600{}", or_group(*readers))]
    Open {
        /// The mode.
        mode: u32,
        /// Who may read it.
        readers: Readers,
    },
    /// Somebody else's: its owner may write it anew at any time, and give it any mode.
    #[error("it belongs to user {0}, and neither to root nor to the user of this process")]
    Foreign(u32),
}

const fn or_group(readers: Readers) -> &'static str {
    match readers {
        Readers::Nobody => "",
        Readers::Group => ", or 0640 with a group of the gateway's own",
    }
}

impl Readers {
    /// Bits of a mode that make a secret somebody else's: all of others', and a group's, but for its right to read.
    const fn not(self) -> u32 {
        match self {
            Self::Nobody => 0o077,
            Self::Group => 0o037,
        }
    }
}

/// Reads a secret of at most `max` bytes; what is looked at is the open file, not its name.
///
/// # Errors
/// When others may read or change it, it is somebody else's, it is longer, or it cannot be read.
pub fn read(path: &Path, max: u64, readers: Readers) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    // Looked at first: opening a pipe waits for its writer, who may never come.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file").into());
    }
    let file = File::open(path)?;
    let about = file.metadata()?;
    fit(about.mode(), about.uid(), geteuid().as_raw(), readers)?;
    // Room for all of it at once: what grows would leave copies behind.
    let room = usize::try_from(about.len().min(max).saturating_add(1)).unwrap_or_default();
    let mut secret = Zeroizing::new(Vec::with_capacity(room));
    file.take(max.saturating_add(1)).read_to_end(&mut secret)?;
    if u64::try_from(secret.len()).unwrap_or(u64::MAX) > max {
        let why = format!("it is longer than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
    }
    Ok(secret)
}

/// Whether a file of this mode and owner may hold a secret of the user `own`.
fn fit(mode: u32, owner: u32, own: u32, readers: Readers) -> Result<(), Unfit> {
    if mode & readers.not() != 0 {
        return Err(Unfit::Open { mode: mode & 0o7777, readers });
    }
    if ![0, own].contains(&owner) {
        return Err(Unfit::Foreign(owner));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_nobody_elses_to_read_or_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "12345").unwrap();
        let check = |mode: u32, max: u64, readers| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read(&file, max, readers).map(|secret| secret.to_vec()).map_err(|why| why.to_string())
        };
        let (alone, group) = (Readers::Nobody, Readers::Group);
        for (mode, readers) in [
            (0o600, alone),
            (0o400, alone),
            (0o600, group),
            (0o640, group),
            (0o400, group),
            (0o440, group),
        ] {
            assert_eq!(check(mode, 5, readers).unwrap(), b"12345", "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o602, 0o601, 0o620, 0o660, 0o650, 0o666, 0o777] {
            for readers in [alone, group] {
                let why = check(mode, 5, readers).unwrap_err();
                assert!(why.contains(&format!("{mode:04o} and must be 0600")), "{why}");
            }
        }
        for mode in [0o640, 0o440] {
            let why = check(mode, 5, alone).unwrap_err();
            assert!(why.contains("must be 0600") && !why.contains("0640 with"), "{why}");
        }
        assert!(check(0o600, 4, alone).unwrap_err().contains("longer than 4"));
        // Only root can give a file away.
        if std::os::unix::fs::chown(&file, Some(1), None).is_ok() {
            assert!(check(0o600, 5, alone).unwrap_err().contains("belongs to user 1,"));
        }
        assert!(read(folder.path(), 5, alone).unwrap_err().to_string().contains("no file"));
    }

    /// Whoever opens a pipe waits for its writer, who may never come.
    #[test]
    fn a_pipe_in_a_secrets_place_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("secret");
        let (mode, kind) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let reads = pipe.clone();
        std::thread::spawn(move || tell.send(read(&reads, 5, Readers::Nobody).is_err()));
        let refused = told.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(refused, Ok(true), "it waits");
    }

    #[test]
    fn a_secret_is_its_users_or_roots() {
        for readers in [Readers::Nobody, Readers::Group] {
            for (owner, own, expect) in
                [(0, 0, true), (0, 7, true), (7, 7, true), (8, 7, false), (7, 0, false)]
            {
                let fit = fit(0o100_600, owner, own, readers);
                assert_eq!(fit.is_ok(), expect, "{owner}'s, read by {own}: {fit:?}");
            }
        }
    }
}
