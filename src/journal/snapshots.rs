//! Where snapshots are kept: files beside the journal, so that writing one holds no lock that a turn needs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protem_core::charter::Charter;
use protem_core::parts::Parts;
use protem_core::state::Facts;
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
    let mut before = fronts(path)?.map(|kept| kept.tree).filter(|tree| tree.size() <= head.seq.0);
    let mut tree = grow(before.next().unwrap_or_default(), head.seq, leaves)?;
    if tree.root() != head.root {
        tree = grow(Frontier::default(), head.seq, leaves)?;
    }
    if tree.root() != head.root || parts.facts.seq != head.seq {
        let why = "the snapshot is not of this journal".to_owned();
        return Err(Fault::Damaged { seq: head.seq, why });
    }
    let body = snapshot::encode(parts);
    let mut front = head.seq.0.to_be_bytes().to_vec();
    front.push(u8::try_from(tree.peaks().len()).unwrap_or(u8::MAX));
    front.extend(tree.peaks().iter().flat_map(|peak| peak.0));
    front.extend(Sha256::digest(&body));
    front.extend(snapshot::encode(&parts.charter()));
    let long = |_| Fault::Store("a snapshot: the front is too long".to_owned());
    let length = u32::try_from(front.len()).map_err(long)?;
    let write = || -> io::Result<()> {
        let to = file(path, head.seq);
        let draft = to.with_extension("draft");
        let mut options = OpenOptions::new();
        let mut out = options.create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        out.write_all(&Sha256::digest(&front))?;
        out.write_all(&length.to_be_bytes())?;
        out.write_all(&front)?;
        out.write_all(&body)?;
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
    for front in fronts(path)? {
        let Some(parts) = front.body().and_then(|body| snapshot::decode(&body)) else { continue };
        if let Some(at) = front.place(&parts.facts, head, leaves)? {
            return Ok(Some((at, parts)));
        }
    }
    Ok(None)
}

/// The front of the newest snapshot of this journal's past: its tree, and what it says of the journal itself.
pub(in crate::journal) fn front(
    path: &Path,
    head: &Head,
    leaves: &LeavesAfter<'_>,
) -> Result<Option<(Frontier, Charter)>, Fault> {
    for front in fronts(path)? {
        let Some(few) = snapshot::decode(&front.charter) else { continue };
        if front.place(&few.facts, head, leaves)?.is_some() {
            return Ok(Some((front.tree, few.into())));
        }
    }
    Ok(None)
}

/// What stands before a snapshot's body, of whatever life of the journal; read without the body.
struct Front {
    file: File,
    tree: Frontier,
    digest: [u8; 32],
    charter: Vec<u8>,
}

impl Front {
    /// The body, if it is whole.
    fn body(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        (&self.file).read_to_end(&mut body).ok()?;
        (Sha256::digest(&body).as_slice() == self.digest).then_some(body)
    }

    /// Where in this journal's past it was taken; none: nowhere.
    fn place(
        &self,
        facts: &Facts,
        head: &Head,
        leaves: &LeavesAfter<'_>,
    ) -> Result<Option<Head>, Fault> {
        let (epoch, seq, root, at) = (facts.epoch, facts.seq, self.tree.root(), facts.last_at);
        let Some(journal) = facts.journal.filter(|journal| *journal == head.journal) else {
            return Ok(None);
        };
        if seq.0 != self.tree.size() || seq > head.seq {
            return Ok(None);
        }
        let ours = grow(self.tree.clone(), head.seq, leaves)?.root() == head.root;
        Ok(ours.then_some(Head { journal, epoch, seq, root, at }))
    }
}

/// The front of every snapshot whose front is whole, newest first; each is read when it is asked for.
fn fronts(path: &Path) -> Result<impl Iterator<Item = Front>, Fault> {
    let all = list(path).map_err(|why| Fault::Store(format!("the snapshots: {why}")))?;
    Ok(all.into_iter().filter_map(|file| read(File::open(file).ok()?)))
}

/// The form is: digest of the front, its length, the front, the body. The front is: the place, the number of peaks, the
/// peaks, the digest of the body, the charter.
fn read(mut file: File) -> Option<Front> {
    let (mut digest, mut length) = ([0; 32], [0; 4]);
    file.read_exact(&mut digest).ok()?;
    file.read_exact(&mut length).ok()?;
    let length = u64::from(u32::from_be_bytes(length));
    if length > file.metadata().ok()?.len() {
        return None;
    }
    let mut front = Vec::new();
    (&file).take(length).read_to_end(&mut front).ok()?;
    if Sha256::digest(&front).as_slice() != digest {
        return None;
    }
    let (seq, rest) = front.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first()?;
    let (peaks, rest) = rest.split_at_checked(usize::from(*count).saturating_mul(32))?;
    let peaks = peaks.as_chunks::<32>().0.iter().map(|peak| Hash(*peak)).collect();
    let tree = Frontier::new(u64::from_be_bytes(*seq), peaks)?;
    let (digest, charter) = rest.split_first_chunk::<32>()?;
    Some(Front { file, tree, digest: *digest, charter: charter.to_vec() })
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
