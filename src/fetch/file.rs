//! A small file that somebody else writes anew under our hands: never more of it is read than it may hold.

use std::io::{self, Read};
use std::path::Path;

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// When it cannot be read, is larger, or is no plain file: a pipe would wait for a writer who may never come.
pub fn read_small(file: &Path, max: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut content = Vec::new();
    // Counted while it is read: what its metadata says may be old by then.
    std::fs::File::open(file)?.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_small(&file, 5).unwrap(), b"12345");
        assert!(read_small(&file, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        assert!(read_small(&folder.path().join("none"), 5).is_err());
        // One that never ends says a size of zero.
        for endless in [Path::new("/dev/zero"), folder.path()] {
            assert!(read_small(endless, 5).unwrap_err().to_string().contains("no plain file"));
        }
    }
}
