//! Proving what happened: exports of one grant, and the whole journal, each checked without trusting the broker.

use std::io::Write;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use prost::Message;
use protem_proto::wire::{journal, v1};
use protem_verify::checkpoint::{Checkpoint, Signed};
use protem_verify::codes::tool;
use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::keys::Keys;
use protem_verify::merkle::{self, Frontier};
use protem_verify::proof;
use protem_verify::time::Time;
use serde::{Deserialize, Serialize};

use crate::cli::args::Global;
use crate::cli::args_operate::PinArgs;
use crate::cli::client::{Client, broker, screen};
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::find;
use crate::cli::proven::{By, Pin, Proven, show, unproven};
use crate::cli::welcome::Welcome;
use crate::journal::verify::verify_store;
use crate::serve::audit::json;

/// What an export holds: all that is needed to check it, and nothing that has to be believed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    format: String,
    grant: String,
    issuer: String,
    /// The checkpoint keys; compare their ids with what you know of the broker.
    checkpoint_jwks: String,
    entries: Vec<Exported>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    seq: u64,
    /// For people; what counts is the body.
    kind: String,
    said: serde_json::Value,
    /// Base 64 of the entry; its leaf is SHA-256(0x00 ‖ body).
    body: String,
    /// Base 64 of each hash on the way to the root (RFC 6962), leaf index = seq − 1.
    inclusion: Vec<String>,
    checkpoint: Marked,
}

/// A signed checkpoint, in hex.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked {
    journal: String,
    epoch: u64,
    seq: u64,
    at_ms: u64,
    root: String,
    signature: String,
}

/// The format's name and version.
const FORMAT: &str = "protem-audit-1";
/// Entries asked for at once.
const PAGE: u64 = 1_000;

/// `protem audit export GRANT`.
///
/// # Errors
/// When the grant cannot be read, or the file not written.
pub async fn export(global: &Global, part: &str, to: Option<&Path>) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let grant = find::grant(&client, part).await?;
    let read = v1::ReadJournalRequest {
        limit: PAGE,
        grant: grant.clone(),
        ..v1::ReadJournalRequest::default()
    };
    let mut rows = stream(&client, read).await?;
    let (uri, web) = broker(global)?;
    let issuer = Welcome::of(&uri, &web).await?.issuer;
    let checkpoint_jwks = checkpoint_keys(&client).await?;
    let mut export =
        Export { format: FORMAT.to_owned(), grant, issuer, checkpoint_jwks, entries: Vec::new() };
    while let Some(row) = rows.message().await.map_err(|status| client.failure(&status))? {
        let entry = row.entry.unwrap_or_default();
        let proof = prove(&client, entry.seq).await?;
        export.entries.push(exported(entry, proof)?);
    }
    // What is handed out has been checked.
    check_export(&export, &Pin::default())?;
    let text = serde_json::to_string_pretty(&export).unwrap_or_default();
    match to {
        None => {
            // Evidence that a full disk cut short is none.
            let mut out = std::io::stdout().lock();
            let written = writeln!(out, "{text}").and_then(|()| out.flush());
            written.map_err(|why| Failure::file(Path::new("/dev/stdout"), &why))?;
        }
        Some(path) => {
            std::fs::write(path, text + "\n").map_err(|why| Failure::file(path, &why))?;
            screen.say(format!("  {} entries in {}", export.entries.len(), path.display()));
        }
    }
    Ok(Exit::Done)
}

async fn stream(
    client: &Client,
    read: v1::ReadJournalRequest,
) -> Result<tonic::Streaming<v1::ReadJournalResponse>, Failure> {
    let rows = client.governance().read_journal(read).await;
    rows.map(tonic::Response::into_inner).map_err(|status| client.failure(&status))
}

async fn prove(client: &Client, seq: u64) -> Result<v1::GetProofResponse, Failure> {
    let asked = v1::GetProofRequest { seq, ..v1::GetProofRequest::default() };
    let proof = client.governance().get_proof(asked).await;
    proof.map(tonic::Response::into_inner).map_err(|status| client.failure(&status))
}

/// The keys that sign the broker's checkpoints.
async fn checkpoint_keys(client: &Client) -> Result<String, Failure> {
    let head = client.feed().head(v1::HeadRequest::default()).await;
    let head = head.map_err(|status| client.failure(&status))?.into_inner();
    let keys = head.keys.unwrap_or_default();
    Ok(keys.checkpoint_jwks)
}

fn exported(entry: v1::JournalEntry, proof: v1::GetProofResponse) -> Result<Exported, Failure> {
    let checkpoint = proof.checkpoint.unwrap_or_default();
    let at = checkpoint.at.unwrap_or_default();
    let millis = u64::try_from(at.seconds).unwrap_or(0).saturating_mul(1_000);
    Ok(Exported {
        seq: entry.seq,
        kind: entry.kind,
        said: said(&entry.body),
        body: BASE64.encode(&entry.body),
        inclusion: proof.inclusion.iter().map(|hash| BASE64.encode(hash)).collect(),
        checkpoint: Marked {
            journal: HEXLOWER.encode(&checkpoint.journal),
            epoch: checkpoint.epoch,
            seq: checkpoint.seq,
            at_ms: millis.saturating_add(u64::try_from(at.nanos).unwrap_or(0) / 1_000_000),
            root: HEXLOWER.encode(&checkpoint.audit_root),
            signature: HEXLOWER.encode(&checkpoint.signature),
        },
    })
}

/// What an entry's body says, for people.
fn said(body: &[u8]) -> serde_json::Value {
    let text = json(body).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Whether a text is anywhere in it.
fn names(said: &serde_json::Value, wanted: &str) -> bool {
    match said {
        serde_json::Value::String(text) => text == wanted,
        serde_json::Value::Array(items) => items.iter().any(|item| names(item, wanted)),
        serde_json::Value::Object(members) => members.values().any(|item| names(item, wanted)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            false
        }
    }
}

/// `protem audit verify [FILE]`.
///
/// # Errors
/// When anything is not as it must be.
pub async fn verify(global: &Global, file: Option<&Path>, pin: &PinArgs) -> Result<Exit, Failure> {
    let pin = Pin::of(global, pin).await?;
    let (said, screen) = match file {
        None => {
            let (client, screen) = Client::open(global)?;
            (over_the_wire(&client, &pin).await?, screen)
        }
        Some(file) => (of_file(file, &pin)?, screen(global)?),
    };
    show(&screen, &said);
    Ok(Exit::Done)
}

fn of_file(file: &Path, pin: &Pin) -> Result<Proven, Failure> {
    let bytes = std::fs::read(file).map_err(|why| Failure::file(file, &why))?;
    if bytes.starts_with(b"SQLite format 3\0") {
        if pin.is_any() {
            let what = "a journal file holds no signature that a key could be compared with";
            return Err(Failure::of(Exit::Usage, tool::USAGE, what)
                .helps("verify an export of it, or the journal over the wire"));
        }
        return of_store(file);
    }
    let export = serde_json::from_slice(&bytes).map_err(|why| {
        unproven(format!("`{}` is neither an export nor a journal", file.display()))
            .because(format!("as an export it cannot be read: {why}"))
            .helps("give what `protem audit export` wrote, or the file of a journal")
    })?;
    check_export(&export, pin)
}

/// Verifies the bytes of an export, and tells how many entries it proves.
///
/// # Errors
/// When it is no export, or proves nothing.
pub fn verify_export(bytes: &[u8]) -> Result<u64, Failure> {
    let export = serde_json::from_slice(bytes).map_err(|why| unproven(why.to_string()))?;
    check_export(&export, &Pin::default()).map(|proven| proven.entries)
}

fn check_export(export: &Export, pin: &Pin) -> Result<Proven, Failure> {
    if export.format != FORMAT {
        return Err(unproven(format!("the format is `{}`, not {FORMAT}", visible(&export.format))));
    }
    let told = Keys::parse(&export.checkpoint_jwks).map_err(|why| unproven(why.to_string()))?;
    let keys = pin.counts(told)?;
    let mut root = Hash::default();
    if export.entries.is_empty() {
        return Err(unproven("the export holds no entry"));
    }
    for entry in &export.entries {
        root = check_entry(entry, &keys)?;
    }
    // A key that signs for two journals would mix what happened in one with what happened in the other.
    let mut journals = export.entries.iter().map(|entry| &entry.checkpoint.journal);
    let first = journals.next();
    if journals.any(|journal| Some(journal) != first) {
        return Err(unproven("its entries are of more than one journal"));
    }
    if !export.entries.iter().any(|entry| names(&entry.said, &export.grant)) {
        return Err(unproven(format!("no entry is of grant `{}`", visible(&export.grant))));
    }
    Ok(Proven {
        entries: u64::try_from(export.entries.len()).unwrap_or(u64::MAX),
        of: format!("grant {}", visible(&export.grant)),
        root,
        keys: keys.ids().map(ToString::to_string).collect(),
        by: if pin.is_any() { By::Pinned } else { By::Itself },
    })
}

/// Signature, inclusion, and that the body says the seq it is shown under.
fn check_entry(entry: &Exported, keys: &Keys) -> Result<Hash, Failure> {
    let bad = |what: &str| unproven(format!("entry {}: {what}", entry.seq));
    let signed = signed(&entry.checkpoint).ok_or_else(|| bad("the checkpoint cannot be read"))?;
    if !signed.verify(keys) {
        return Err(bad("the checkpoint's signature is not of its keys"));
    }
    let body = BASE64.decode(entry.body.as_bytes()).map_err(|_| bad("the body cannot be read"))?;
    let inner = journal::Entry::decode(body.as_slice()).map_err(|_| bad("the body is no entry"))?;
    if inner.seq != entry.seq || inner.kind != entry.kind {
        return Err(bad("the body says another seq or kind"));
    }
    // People read this and not the body.
    if entry.said != said(&body) {
        return Err(bad("what is shown is not what the body says"));
    }
    let path: Option<Vec<Hash>> = entry.inclusion.iter().map(|hash| hash_of_base64(hash)).collect();
    let path = path.ok_or_else(|| bad("the proof cannot be read"))?;
    let root = signed.checkpoint.root;
    let index = entry.seq.checked_sub(1).ok_or_else(|| bad("there is no entry 0"))?;
    let size = signed.checkpoint.seq.0;
    if !proof::included(merkle::leaf(&body), index, size, &path, &root) {
        return Err(bad("it is not in the tree that the checkpoint signs"));
    }
    Ok(root)
}

fn hash_of_base64(text: &str) -> Option<Hash> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok().map(Hash)
}

fn signed(marked: &Marked) -> Option<Signed> {
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
    let checkpoint = Checkpoint {
        journal: JournalId(hex(&marked.journal)?.try_into().ok()?),
        epoch: Epoch(marked.epoch),
        seq: Seq(marked.seq),
        at: Time::from_millis(marked.at_ms),
        root: Hash(hex(&marked.root)?.try_into().ok()?),
    };
    Some(Signed { checkpoint, signature: hex(&marked.signature)?.try_into().ok()? })
}

/// Every entry of a store, hashed anew, against the root and the tables that the store says it has; it may be in use.
fn of_store(file: &Path) -> Result<Proven, Failure> {
    let head =
        verify_store(file).map_err(|why| Failure::of(Exit::Failed, why.code(), why.to_string()))?;
    let of = format!("journal {}", HEXLOWER.encode(&head.journal.0));
    Ok(Proven { entries: head.seq.0, of, root: head.root, keys: Vec::new(), by: By::Nobody })
}

/// Every entry that the broker shows, hashed anew, against a checkpoint that it signs.
async fn over_the_wire(client: &Client, pin: &Pin) -> Result<Proven, Failure> {
    let jwks = checkpoint_keys(client).await?;
    let keys = pin.counts(Keys::parse(&jwks).map_err(|why| unproven(why.to_string()))?)?;
    let proof = prove(client, 1).await?;
    let entry = exported(v1::JournalEntry::default(), proof)?;
    let signed =
        signed(&entry.checkpoint).ok_or_else(|| unproven("the checkpoint cannot be read"))?;
    if !signed.verify(&keys) {
        return Err(unproven("the checkpoint's signature is not of its keys"));
    }
    let mut tree = Frontier::default();
    while tree.size() < signed.checkpoint.seq.0 {
        let before = tree.size();
        let limit = PAGE.min(signed.checkpoint.seq.0.saturating_sub(before));
        let read =
            v1::ReadJournalRequest { after: before, limit, ..v1::ReadJournalRequest::default() };
        let mut rows = stream(client, read).await?;
        while let Some(row) = rows.message().await.map_err(|status| client.failure(&status))? {
            let entry = row.entry.unwrap_or_default();
            if entry.seq != tree.size().saturating_add(1) {
                return Err(unproven(format!("entry {} comes after {}", entry.seq, tree.size())));
            }
            tree.push(merkle::leaf(&entry.body));
        }
        if tree.size() == before {
            return Err(unproven(format!("the broker shows no entry after {before}")));
        }
    }
    if tree.root() != signed.checkpoint.root {
        return Err(unproven("the entries are not those that the checkpoint signs"));
    }
    let of = format!("journal {}", HEXLOWER.encode(&signed.checkpoint.journal.0));
    let keys = keys.ids().map(ToString::to_string).collect();
    let by = if pin.is_any() { By::Pinned } else { By::Broker };
    Ok(Proven { entries: tree.size(), of, root: tree.root(), keys, by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    /// An export of the middle one of three entries.
    fn export() -> Export {
        let key = SigningKey::from_bytes(&[9; 32]);
        let body = |seq| {
            let kind = "grant.activated".to_owned();
            let ended = journal::GrantEnded { grant: "gr_x".into(), ..Default::default() };
            let event = Some(journal::entry::Event::GrantEnded(ended));
            journal::Entry { seq, kind, event, ..journal::Entry::default() }.encode_to_vec()
        };
        let leaves = [1, 2, 3].map(|seq| merkle::leaf(&body(seq)));
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        let checkpoint = Checkpoint {
            journal: JournalId([1; 16]),
            epoch: Epoch(2),
            seq: Seq(3),
            at: Time::from_secs(4),
            root: tree.root(),
        };
        let signed = checkpoint.sign(&key);
        let entry = Exported {
            seq: 2,
            kind: "grant.activated".into(),
            said: said(&body(2)),
            body: BASE64.encode(&body(2)),
            inclusion: [leaves[0], leaves[2]].iter().map(|hash| BASE64.encode(&hash.0)).collect(),
            checkpoint: Marked {
                journal: HEXLOWER.encode(&[1; 16]),
                epoch: 2,
                seq: 3,
                at_ms: 4_000,
                root: HEXLOWER.encode(&tree.root().0),
                signature: HEXLOWER.encode(&signed.signature),
            },
        };
        Export {
            format: FORMAT.into(),
            grant: "gr_x".into(),
            issuer: String::new(),
            checkpoint_jwks: protem_verify::keys::jwks(&[key.verifying_key().to_bytes()]),
            entries: vec![entry],
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Export), expect: bool) {
        let mut export = export();
        change(&mut export);
        let proven = check_export(&export, &Pin::default());
        assert_eq!(proven.is_ok(), expect, "{:?}", proven.err());
    }

    #[test]
    fn attack_an_export_that_somebody_else_signed() {
        let keys = |byte| {
            let public = SigningKey::from_bytes(&[byte; 32]).verifying_key().to_bytes();
            Keys::of(&[public]).unwrap()
        };
        let ids = |byte| keys(byte).ids().cloned().collect::<Vec<_>>();
        let check = |pin: Pin, expect: Option<By>| {
            assert!(check_export(&export(), &pin).ok().map(|proven| proven.by) == expect);
        };
        check(Pin::default(), Some(By::Itself));
        check(Pin { keys: Some(keys(9)), ids: vec![] }, Some(By::Pinned));
        check(Pin { keys: None, ids: ids(9) }, Some(By::Pinned));
        check(Pin { keys: Some(keys(9)), ids: ids(9) }, Some(By::Pinned));
        // Another's keys, whatever the file says of its own.
        check(Pin { keys: Some(keys(8)), ids: vec![] }, None);
        check(Pin { keys: None, ids: ids(8) }, None);
        check(Pin { keys: Some(keys(8)), ids: ids(9) }, None);
        check(Pin { keys: Some(Keys::default()), ids: vec![] }, None);
    }

    #[test]
    fn an_export_is_of_one_journal() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let mut two = export();
        let mut other = export().entries.remove(0);
        let mut marked = signed(&other.checkpoint).unwrap().checkpoint;
        marked.journal = JournalId([2; 16]);
        other.checkpoint.journal = HEXLOWER.encode(&[2; 16]);
        other.checkpoint.signature = HEXLOWER.encode(&marked.sign(&key).signature);
        two.entries.push(other);
        // Each is proven by itself.
        let alone = Export { entries: two.entries.split_off(1), ..export() };
        assert!(check_export(&alone, &Pin::default()).is_ok());
        two.entries.extend(alone.entries);
        let why = check_export(&two, &Pin::default()).err().unwrap();
        assert!(why.what.contains("more than one journal"), "{why:?}");
    }

    #[test]
    fn an_export_proves_itself_and_nothing_else() {
        check(|_| {}, true);
        check(|export| export.entries.clear(), false);
        check(|export| export.format = "other".into(), false);
        check(|export| export.checkpoint_jwks = "{\"keys\":[]}".into(), false);
        check(|export| export.grant = "gr_y".into(), false);
        check(|export| export.entries[0].said["kind"] = "grant.denied".into(), false);
        check(|export| export.entries[0].said = serde_json::Value::Null, false);
        check(|export| export.entries[0].seq = 1, false);
        check(|export| export.entries[0].kind = "grant.ended".into(), false);
        check(|export| export.entries[0].checkpoint.seq = 2, false);
        check(|export| export.entries[0].checkpoint.at_ms = 5, false);
        check(|export| export.entries[0].inclusion.reverse(), false);
        let other = journal::Entry {
            seq: 2,
            kind: "grant.activated".into(),
            at_ms: 5,
            ..journal::Entry::default()
        };
        check(|export| export.entries[0].body = BASE64.encode(&other.encode_to_vec()), false);
    }
}
