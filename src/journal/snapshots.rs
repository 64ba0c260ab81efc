//! Where snapshots are kept: files beside the journal, so that writing one holds no lock that a turn needs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protem_core::parts::Parts;
use protem_verify::ids::{Hash, Seq};
use protem_verify::merkle::Frontier;
use sha2::{Digest, Sha256};

use crate::journal::fault::Fault;
use crate::journal::port::Head;
use crate::journal::snapshot;

/// Snapshots kept: the newest, and one more in case that one cannot be read.
const KEPT: usize = 2;

/// Gives the leaves after `seq`, at most so many.
pub(in crate::journal) type LeavesAfter<'a> = dyn Fn(Seq, u64) -> Result<Vec<Hash>, Fault> + 'a;

/// Keeps a snapshot, and drops all but the newest two. The tree that stands before the body ties it to its journal:
/// beside a restored one, snapshots of the life that was given up are passed over.
pub(in crate::journal) fn keep(
    path: &Path,
    head: &Head,
    parts: &Parts,
    leaves: &LeavesAfter<'_>,
) -> Result<(), Fault> {
    let mut before = whole(path)?.map(|kept| kept.tree).filter(|tree| tree.size() <= head.seq.0);
    let mut tree = grow(before.next().unwrap_or_default(), head.seq, leaves)?;
    if tree.root() != head.root {
        tree = grow(Frontier::default(), head.seq, leaves)?;
    }
    if tree.root() != head.root || parts.facts.seq != head.seq {
        let why = "the snapshot is not of this journal".to_owned();
        return Err(Fault::Damaged { seq: head.seq, why });
    }
    let mut bytes = head.seq.0.to_be_bytes().to_vec();
    bytes.push(u8::try_from(tree.peaks().len()).unwrap_or(u8::MAX));
    bytes.extend(tree.peaks().iter().flat_map(|peak| peak.0));
    bytes.extend(snapshot::encode(parts));
    let write = || -> io::Result<()> {
        let to = file(path, head.seq);
        let draft = to.with_extension("draft");
        let mut options = OpenOptions::new();
        let mut out = options.create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        out.write_all(&Sha256::digest(&bytes))?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        fs::rename(&draft, &to)?;
        if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        for old in list(path)?.into_iter().skip(KEPT) {
            fs::remove_file(old)?;
        }
        Ok(())
    };
    write().map_err(|why| Fault::Store(format!("a snapshot: {why}")))
}

/// The newest snapshot that is whole and of this journal's past; another is passed over.
pub(in crate::journal) fn newest(
    path: &Path,
    head: &Head,
    leaves: &LeavesAfter<'_>,
) -> Result<Option<(Head, Parts)>, Fault> {
    for Kept { tree, body } in whole(path)? {
        let Some(parts) = snapshot::decode(&body) else { continue };
        let facts = &parts.facts;
        let (epoch, seq, root, at) = (facts.epoch, facts.seq, tree.root(), facts.last_at);
        let Some(journal) = facts.journal.filter(|journal| *journal == head.journal) else {
            continue;
        };
        if seq.0 != tree.size() || seq > head.seq {
            continue;
        }
        if grow(tree, head.seq, leaves)?.root() == head.root {
            return Ok(Some((Head { journal, epoch, seq, root, at }, parts)));
        }
    }
    Ok(None)
}

/// A snapshot that is whole, of whatever life of the journal.
struct Kept {
    tree: Frontier,
    body: Vec<u8>,
}

/// Every snapshot that is whole, newest first; each is read when it is asked for.
fn whole(path: &Path) -> Result<impl Iterator<Item = Kept>, Fault> {
    let all = list(path).map_err(|why| Fault::Store(format!("the snapshots: {why}")))?;
    Ok(all.into_iter().filter_map(|file| read(&fs::read(file).ok()?)))
}

/// The form is: digest of the rest, the place, the number of peaks, the peaks, the body.
fn read(bytes: &[u8]) -> Option<Kept> {
    let (digest, rest) = bytes.split_first_chunk::<32>()?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first()?;
    let (peaks, body) = rest.split_at_checked(usize::from(*count).saturating_mul(32))?;
    let peaks = peaks.as_chunks::<32>().0.iter().map(|peak| Hash(*peak)).collect();
    Some(Kept { tree: Frontier::new(u64::from_be_bytes(*seq), peaks)?, body: body.to_vec() })
}

/// Leaves read at once.
const STEP: u64 = 10_000;

fn grow(mut tree: Frontier, to: Seq, leaves: &LeavesAfter<'_>) -> Result<Frontier, Fault> {
    while tree.size() < to.0 {
        let count = to.0.saturating_sub(tree.size()).min(STEP);
        leaves(Seq(tree.size()), count)?.into_iter().for_each(|leaf| tree.push(leaf));
    }
    Ok(tree)
}

fn file(path: &Path, seq: Seq) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".snapshot-{:020}", seq.0));
    PathBuf::from(name)
}

/// The snapshots of a journal, newest first.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
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
    Ok(all.into_iter().map(|(_, path)| path).collect())
}
