//! The journal as facts: read, followed, and proven.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use protem_core::event::Event;
use protem_proto::wire::journal::Entry;
use protem_proto::wire::{DESCRIPTORS, v1};
use protem_verify::ids::{GrantId, Seq};
use protem_verify::merkle;
use protem_verify::names::Malformed;

use crate::engine::broker::Broker;
use crate::engine::changes::Changes;
use crate::engine::proof;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::reader::Reader;
use crate::policy::ask::Object;
use crate::policy::login::Caller;
use crate::serve::answers::{Answers, Gone, Sink};
use crate::serve::caller::SignedIn;
use crate::serve::limits::{GRANT_LOOK_EVERY, JOURNAL_CHUNK};
use crate::serve::selector;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::watch::Watch;
use crate::serve::who;

/// Entries after a place, oldest first; `follow` keeps the stream open. With `grant`, only what concerns it.
///
/// # Errors
/// When the caller may not see it.
pub async fn read(
    broker: &Broker,
    watch: &Watch,
    signed_in: Arc<SignedIn>,
    wire: v1::ReadJournalRequest,
) -> Result<Answers<v1::ReadJournalResponse>, Problem> {
    let caller = signed_in.caller()?;
    let (grant, objects) = if wire.grant.is_empty() {
        who::may_view(broker, caller, &[Object::Broker])?;
        (None, vec![Object::Broker])
    } else {
        let id = selector::grant(broker, caller, &wire.grant).await?;
        let grant = who::visible(broker, caller, id).await?;
        (Some(id), who::objects(&grant).to_vec())
    };
    // It begins before the first look, so that no change falls between them.
    let changes = grant.map(|id| broker.watch_grant(caller, id));
    let (sink, answers) = Sink::new();
    let left = if wire.limit == 0 { u64::MAX } else { wire.limit };
    let reading = Reading { broker: broker.clone(), grant, sink, follow: wire.follow };
    let (watch, asked) = (watch.clone(), broker.clone());
    let may = move |signed_in: &SignedIn| {
        let caller = signed_in.caller();
        caller.is_ok_and(|caller| who::may_view(&asked, caller, &objects).is_ok())
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = reading.run(Seq(wire.after), left, changes) => {}
            problem = watch.over_unless(signed_in, may) => { reading.sink.fail(problem); }
            () = reading.sink.closed() => {}
        }
    });
    Ok(answers)
}

struct Reading {
    broker: Broker,
    grant: Option<GrantId>,
    sink: Sink<v1::ReadJournalResponse>,
    follow: bool,
}

impl Reading {
    async fn run(
        &self,
        mut after: Seq,
        mut left: u64,
        mut changes: Option<Changes>,
    ) -> Result<(), Gone> {
        loop {
            let grant = self.grant;
            let found = who::read(&self.broker, move |reader| chunk(reader, after, grant)).await;
            let Chunk { entries, end, over } = match found {
                Ok(found) => found,
                Err(problem) => return Err(self.sink.fail(problem)),
            };
            for entry in entries {
                if left == 0 {
                    return Ok(());
                }
                left = left.saturating_sub(1);
                self.sink.send(v1::ReadJournalResponse { entry: Some(entry) }).await?;
            }
            // A chunk of a grant's entries is all of them.
            let more = grant.is_none() && end > after;
            after = end.max(after);
            if more {
                continue;
            }
            if !self.follow || left == 0 || over {
                return Ok(());
            }
            self.news(after, changes.as_mut()).await;
        }
    }

    /// Done when there may be something new.
    async fn news(&self, after: Seq, changes: Option<&mut Changes>) {
        let Some(changes) = changes else {
            while self.broker.head().seq <= after {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
            return;
        };
        // What others do wakes nobody who follows one grant.
        let told = async {
            if !changes.touched().await {
                // The broker stops, and the stream with it.
                std::future::pending::<()>().await;
            }
        };
        // Not all that concerns a grant is a change of it.
        let _ = tokio::time::timeout(GRANT_LOOK_EVERY, told).await;
    }
}

/// Some entries, and how far that looked.
struct Chunk {
    entries: Vec<v1::JournalEntry>,
    end: Seq,
    /// Nothing more will come: the one grant that was asked for has ended.
    over: bool,
}

fn chunk(reader: &dyn Reader, after: Seq, grant: Option<GrantId>) -> Result<Chunk, Fault> {
    let Some(grant) = grant else {
        let rows = reader.read(after, JOURNAL_CHUNK)?;
        let end = rows.last().map_or(after, Committed::seq);
        let entries: Result<_, Fault> = rows.iter().map(|row| entry(reader, row)).collect();
        return Ok(Chunk { entries: entries?, end, over: false });
    };
    let head = reader.head()?.seq;
    let (mut entries, mut over) = (Vec::new(), false);
    let seqs = reader.grant_entries(&grant)?;
    let last = seqs.last().copied();
    // The last one tells those who have read it before, too.
    for seq in seqs.into_iter().filter(|seq| *seq > after || Some(*seq) == last) {
        let row = reader.entry(seq)?.ok_or_else(|| damaged(seq))?;
        // Not what a cut-off says of it: the entry that ends it may still have to come.
        over |= matches!(row.what(), Event::GrantEnded(_));
        if seq > after {
            entries.push(entry(reader, &row)?);
        }
    }
    Ok(Chunk { entries, end: head.max(after), over })
}

fn entry(reader: &dyn Reader, row: &Committed<Event>) -> Result<v1::JournalEntry, Fault> {
    let body = reader.body(row.seq())?.ok_or_else(|| damaged(row.seq()))?;
    let kind = Entry::decode(body.as_slice()).map_or_else(|_| String::new(), |entry| entry.kind);
    Ok(v1::JournalEntry {
        seq: row.seq().0,
        at: Some(show::time(row.at())),
        kind,
        actor: row.actor().0.to_string(),
        json: json(&body).unwrap_or_default(),
        leaf_hash: merkle::leaf(&body).0.to_vec(),
        body,
    })
}

fn damaged(seq: Seq) -> Fault {
    Fault::Damaged { seq, why: "the entry is not there".to_owned() }
}

/// An entry in protobuf's canonical JSON, names as in the proto file; none when it is no entry.
#[must_use]
pub fn json(body: &[u8]) -> Option<String> {
    static ENTRY: OnceLock<Option<MessageDescriptor>> = OnceLock::new();
    let found = ENTRY.get_or_init(|| {
        let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
        pool.get_message_by_name("protem.journal.v1.Entry")
    });
    let message = DynamicMessage::decode(found.clone()?, body).ok()?;
    let options = SerializeOptions::new().use_proto_field_name(false);
    let mut text = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut text, &options).ok()?;
    String::from_utf8(text.into_inner()).ok()
}

/// Inclusion of an entry and consistency with an older tree (RFC 6962 §2.1), with a signed checkpoint of the newest one.
///
/// # Errors
/// When the caller may not see the journal, or the sizes do not fit together.
pub async fn prove(
    broker: &Broker,
    caller: &Caller,
    wire: &v1::GetProofRequest,
) -> Result<v1::GetProofResponse, Problem> {
    who::may_view(broker, caller, &[Object::Broker])?;
    let proven = broker.prove(Vec::new()).await?;
    let head = proven.signed.checkpoint.seq.0;
    let size = if wire.tree_size == 0 { head } else { wire.tree_size };
    let bad = |field, why| Problem::from(Malformed { field, why });
    if size > head {
        return Err(bad("tree_size", "is larger than the journal"));
    }
    if wire.seq > size {
        return Err(bad("seq", "is not in a tree of that size"));
    }
    if wire.older_size > size {
        return Err(bad("older_size", "is larger than the tree"));
    }
    let (seq, older) = (wire.seq, wire.older_size);
    let (inclusion, consistency) = who::read(broker, move |reader| {
        let inclusion = if seq == 0 { vec![] } else { reader.inclusion(Seq(seq), size)? };
        let consistency = if older == 0 { vec![] } else { reader.consistency(older, size)? };
        Ok((inclusion, consistency))
    })
    .await?;
    Ok(v1::GetProofResponse {
        inclusion: inclusion.iter().map(|hash| hash.0.to_vec()).collect(),
        consistency: consistency.iter().map(|hash| hash.0.to_vec()).collect(),
        checkpoint: Some(proof::wire(&proven.signed)),
    })
}

/// How soon a follower hears of a new entry.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
