//! Entries as bytes: what a row holds, and what its leaf is the hash of.

use prost::Message;
use protem_core::event::{Actor, Event};
use protem_proto::wire::journal as wire;
use protem_verify::ids::Seq;
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::decode;
use crate::journal::encode;
use crate::journal::fault::Fault;

/// The body of an entry.
#[must_use]
pub fn encode(seq: Seq, at: Time, actor: &Actor, event: &Event) -> Vec<u8> {
    let entry = wire::Entry {
        seq: seq.0,
        at_ms: at.as_millis(),
        actor: actor.0.to_string(),
        kind: kind(event).to_owned(),
        event: Some(encode::event(event)),
    };
    entry.encode_to_vec()
}

/// The entry behind a body that this room read or wrote at `seq`.
pub(in crate::journal) fn decode(seq: Seq, body: &[u8]) -> Result<Committed<Event>, Fault> {
    let damaged = |why: &str| Fault::Damaged { seq, why: why.to_owned() };
    let entry = wire::Entry::decode(body).map_err(|_| damaged("the body is no entry"))?;
    if entry.seq != seq.0 {
        return Err(damaged("the body says another place"));
    }
    let event =
        entry.event.ok_or_else(|| damaged("the body says nothing that this version knows"))?;
    let event = decode::event(event).map_err(|why| Fault::Damaged { seq, why: why.to_string() })?;
    if entry.kind != kind(&event) {
        return Err(damaged("the body says another kind"));
    }
    let (at, actor) = (Time::from_millis(entry.at_ms), Actor(entry.actor.into()));
    Ok(Committed::new(seq, at, actor, event))
}

/// The kinds among which is every entry that a charter is folded from, and others that change nothing in it.
pub(in crate::journal) const CHARTER_KINDS: [&str; 9] = [
    "journal.opened",
    "epoch.began",
    "bundle.activated",
    "cut_off.made",
    "key.published",
    "key.activated",
    "key.retired",
    "key.rotation_asked",
    "key.forgotten",
];

/// The kind of an event as a word: `grant.activated`.
#[must_use]
pub fn kind(event: &Event) -> &'static str {
    match event {
        Event::JournalOpened { .. } => "journal.opened",
        Event::EpochBegan { .. } => "epoch.began",
        Event::BundleActivated { .. } => "bundle.activated",
        Event::BundleSettled { .. } => "bundle.settled",
        Event::GrantsConfirmed { .. } => "grants.confirmed",
        Event::GrantRequested(_) => "grant.requested",
        Event::RequestReevaluated { .. } => "request.reevaluated",
        Event::GrantActivated(_) => "grant.activated",
        Event::CredentialIssued(_) => "credential.issued",
        Event::RequestRepeated { .. } => "request.repeated",
        Event::AccessRefused(_) => "access.refused",
        Event::GrantEnded(_) => "grant.ended",
        Event::RequestReminded { .. } => "request.reminded",
        Event::ApprovalGiven { .. } => "approval.given",
        Event::ApprovalTakenBack { .. } => "approval.taken_back",
        Event::RequestNarrowed { .. } => "request.narrowed",
        Event::ReviewClosed { .. } => "review.closed",
        Event::TaskHeld { .. } => "task.held",
        Event::TaskEnded { .. } => "task.ended",
        Event::CutOff { .. } => "cut_off.made",
        Event::IdentityQuarantined { .. } => "identity.quarantined",
        Event::QuarantineLifted { .. } => "quarantine.lifted",
        Event::KeyPublished(_) => "key.published",
        Event::KeyActivated { .. } => "key.activated",
        Event::KeyRetired { .. } => "key.retired",
        Event::KeyRotationAsked { .. } => "key.rotation_asked",
        Event::KeyForgotten { .. } => "key.forgotten",
    }
}
