//! Where snapshots are kept: files beside the journal, so that writing one holds no lock that a turn needs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protem_core::parts::Parts;
use protem_verify::ids::Seq;
use sha2::{Digest, Sha256};

use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::snapshot;

/// Snapshots kept: the newest, and one more in case that one cannot be read.
const KEPT: usize = 2;

/// Keeps a snapshot, and drops all but the newest two.
pub(in crate::journal) fn keep(path: &Path, head: &Head, parts: &Parts) -> Result<(), Fault> {
    let body = snapshot::encode(parts);
    let write = || -> io::Result<()> {
        let to = file(path, head.seq);
        let draft = to.with_extension("draft");
        let mut options = OpenOptions::new();
        let mut out = options.create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        out.write_all(&sealed(head, &body))?;
        out.write_all(&body)?;
        out.sync_all()?;
        fs::rename(&draft, &to)?;
        if let Some(folder) = to.parent() {
            File::open(folder)?.sync_all()?;
        }
        for (_, old) in list(path)?.into_iter().skip(KEPT) {
            fs::remove_file(old)?;
        }
        Ok(())
    };
    write().map_err(|why| Fault::Store(format!("a snapshot: {why}")))
}

/// The newest snapshot that is whole and of this journal's past; another is passed over.
pub(in crate::journal) fn newest(path: &Path, head: &Head) -> Result<Option<(Head, Parts)>, Fault> {
    let all = list(path).map_err(|why| Fault::Store(format!("the snapshots: {why}")))?;
    let read = |file: &PathBuf| {
        let bytes = fs::read(file).ok()?;
        let (seal, body) = bytes.split_first_chunk::<SEAL>()?;
        let parts = snapshot::decode(body)?;
        let facts = &parts.facts;
        let (_, root) = seal.split_last_chunk::<32>()?;
        let then = Head {
            journal: facts.journal?,
            epoch: facts.epoch,
            seq: facts.seq,
            root: protem_verify::ids::Hash(*root),
            at: facts.last_at,
        };
        let ours = then.journal == head.journal && then.seq <= head.seq;
        (ours && *seal == sealed(&then, body)).then_some((then, parts))
    };
    Ok(all.iter().find_map(|(_, file)| read(file)))
}

/// A digest of the head and the body, then the head's root.
fn sealed(head: &Head, body: &[u8]) -> [u8; SEAL] {
    let digest = Sha256::new()
        .chain_update(head.journal.0)
        .chain_update(head.epoch.0.to_be_bytes())
        .chain_update(head.seq.0.to_be_bytes())
        .chain_update(head.root.0)
        .chain_update(body)
        .finalize();
    let mut seal = [0; SEAL];
    let bytes = digest.into_iter().chain(head.root.0);
    seal.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    seal
}

/// Bytes before a snapshot's body.
const SEAL: usize = 64;

fn file(path: &Path, seq: Seq) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".snapshot-{:020}", seq.0));
    PathBuf::from(name)
}

/// The snapshots of a journal, newest first.
fn list(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().map(|name| format!("{}.snapshot-", name.to_string_lossy()));
    let Some(name) = name else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for found in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let found = found?;
        let text = found.file_name().to_string_lossy().into_owned();
        if text.strip_prefix(&name).is_some_and(|seq| seq.bytes().all(|b| b.is_ascii_digit())) {
            all.push((text, found.path()));
        }
    }
    all.sort();
    all.reverse();
    Ok(all)
}
