//! Snapshots of the state as bytes. One that cannot be read is passed over: the journal can make it again.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message;
use protem_core::grant::{
    CutOff, Grant, Hold, KeyRecord, KeyState, Newest, Status, TaskState, Waiting,
};
use protem_core::parts::Parts;
use protem_core::state::{Facts, Tally, Use};
use protem_proto::wire::journal as wire;
use protem_verify::ids::{Epoch, GrantId, HoldId, JournalId, RequestId, Seq};
use protem_verify::names::{IdentityName, Malformed, TaskId};
use protem_verify::time::{Lifetime, Time};

use crate::journal::decode::{self, bytes, hash, name, optional, seq};
use crate::journal::{encode, snapshot_usual};

/// The form of snapshots that this version writes and reads.
const VERSION: u32 = 4;

/// The parts as bytes.
#[must_use]
pub fn encode(parts: &Parts) -> Vec<u8> {
    let Parts { facts, grants, tasks, uses, tallies, usual, cut_offs, keys } = parts;
    let snapshot = wire::Snapshot {
        version: VERSION,
        seq: facts.seq.0,
        last_at_ms: facts.last_at.as_millis(),
        journal: facts.journal.map(|id| id.0.to_vec()).unwrap_or_default(),
        epoch: facts.epoch.0,
        issuer: facts.issuer.to_string(),
        dev: facts.dev,
        bundle: facts.bundle.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        bundle_seq: facts.bundle_seq.0,
        settled: facts.settled,
        grants: grants.iter().map(grant).collect(),
        tasks: tasks.iter().map(task).collect(),
        uses: uses.iter().map(used).collect(),
        tallies: tallies.iter().map(tally).collect(),
        cut_offs: cut_offs.iter().map(cut_off).collect(),
        keys: keys.iter().map(key).collect(),
        usual: usual.iter().map(snapshot_usual::write).collect(),
    };
    snapshot.encode_to_vec()
}

/// The parts behind bytes; `None` when they are of another version or damaged.
#[must_use]
pub fn decode(body: &[u8]) -> Option<Parts> {
    let it = wire::Snapshot::decode(body).ok().filter(|it| it.version == VERSION)?;
    read(it).ok()
}

fn read(it: wire::Snapshot) -> Result<Parts, Malformed> {
    let facts = Facts {
        seq: Seq(it.seq),
        last_at: Time::from_millis(it.last_at_ms),
        journal: if it.journal.is_empty() {
            None
        } else {
            Some(JournalId(bytes("journal", &it.journal)?))
        },
        epoch: Epoch(it.epoch),
        issuer: it.issuer.into(),
        dev: it.dev,
        bundle: if it.bundle.is_empty() { None } else { Some(hash(&it.bundle)?) },
        bundle_seq: Seq(it.bundle_seq),
        settled: it.settled,
        pending: 0,
        live: 0,
    };
    Ok(Parts {
        facts,
        grants: it.grants.into_iter().map(read_grant).collect::<Result<_, _>>()?,
        tasks: it.tasks.into_iter().map(read_task).collect::<Result<_, _>>()?,
        uses: it.uses.iter().map(read_use).collect::<Result<_, _>>()?,
        tallies: it.tallies.iter().map(read_tally).collect::<Result<_, _>>()?,
        usual: it.usual.iter().map(snapshot_usual::read).collect::<Result<_, _>>()?,
        cut_offs: it.cut_offs.into_iter().map(read_cut_off).collect::<Result<_, _>>()?,
        keys: it.keys.iter().map(read_key).collect::<Result<_, _>>()?,
    })
}

fn grant(it: &Grant) -> wire::SnapGrant {
    use wire::snap_grant::Status as Wire;
    let status = match &it.status {
        Status::Pending { decide_by } => Wire::PendingUntilMs(decide_by.as_millis()),
        Status::Active { from, until, activated } => Wire::Active(wire::SnapActive {
            from_ms: from.as_millis(),
            until_ms: until.as_millis(),
            activated: activated.0,
        }),
        Status::Ended { reason, at, seq, told_by, recorded } => Wire::Ended(wire::SnapEnded {
            reason: encode::reason(*reason).into(),
            at_ms: at.as_millis(),
            seq: seq.0,
            told_by: told_by.map_or(0, |seq| seq.0),
            recorded: *recorded,
        }),
    };
    wire::SnapGrant {
        grant: it.id.to_string(),
        by: Some(encode::workload(&it.by)),
        task: it.task.to_string(),
        resource: it.resource.to_string(),
        scopes: encode::scopes(&it.scopes),
        emergency: it.emergency,
        proof: it.proof.as_ref().map(encode::proof),
        content: encode::hash(&it.content),
        requested: it.requested.0.0,
        requested_at_ms: it.requested.1.as_millis(),
        bundle: encode::hash(&it.bundle),
        newest: it.newest.as_ref().map(|newest| wire::SnapNewest {
            number: newest.number,
            iat_ms: newest.iat.as_millis(),
            exp_ms: newest.exp.as_millis(),
            last_exp_ms: newest.last_exp.as_millis(),
            seq: newest.seq.0,
            key: newest.key.to_string(),
        }),
        waiting: it.waiting.as_deref().map(waiting),
        approvers: it.approvers.iter().map(ToString::to_string).collect(),
        keys: it.keys.iter().map(|key| key.0.to_vec()).collect(),
        status: Some(status),
    }
}

fn read_grant(it: wire::SnapGrant) -> Result<Grant, Malformed> {
    use wire::snap_grant::Status as Wire;
    let status = match it.status.ok_or(gone("status"))? {
        Wire::PendingUntilMs(until) => Status::Pending { decide_by: Time::from_millis(until) },
        Wire::Active(it) => Status::Active {
            from: Time::from_millis(it.from_ms),
            until: Time::from_millis(it.until_ms),
            activated: Seq(it.activated),
        },
        Wire::Ended(it) => Status::Ended {
            reason: decode::reason(it.reason)?,
            at: Time::from_millis(it.at_ms),
            seq: Seq(it.seq),
            told_by: seq(it.told_by),
            recorded: it.recorded,
        },
    };
    let newest = |it: wire::SnapNewest| {
        Ok(Newest {
            number: it.number,
            iat: Time::from_millis(it.iat_ms),
            exp: Time::from_millis(it.exp_ms),
            last_exp: Time::from_millis(it.last_exp_ms),
            seq: Seq(it.seq),
            key: name(&it.key)?,
        })
    };
    let request_id = |key: &Vec<u8>| bytes("key", key).map(RequestId);
    Ok(Grant {
        id: decode::grant(&it.grant)?,
        by: decode::workload(&it.by.ok_or(gone("by"))?)?,
        task: name(&it.task)?,
        resource: name(&it.resource)?,
        scopes: decode::scopes(&it.scopes)?,
        emergency: it.emergency,
        proof: decode::proof(it.proof)?,
        content: hash(&it.content)?,
        status,
        requested: (Seq(it.requested), Time::from_millis(it.requested_at_ms)),
        bundle: hash(&it.bundle)?,
        newest: it.newest.map(newest).transpose()?,
        waiting: it.waiting.map(read_waiting).transpose()?.map(Box::new),
        approvers: it.approvers.iter().map(|person| name(person)).collect::<Result<_, _>>()?,
        keys: it.keys.iter().map(request_id).collect::<Result<_, _>>()?,
    })
}

fn waiting(it: &Waiting) -> wire::SnapWaiting {
    wire::SnapWaiting {
        request: Some(encode::request(&it.request)),
        lifetime_ms: encode::millis(it.lifetime.0),
        rule: Some(encode::rule(&it.rule)),
        digest: encode::hash(&it.digest),
        approved: it.approved.iter().map(ToString::to_string).collect(),
        behind: encode::text(it.behind.as_ref()),
        reminded: it.reminded,
    }
}

fn read_waiting(it: wire::SnapWaiting) -> Result<Waiting, Malformed> {
    let approved = it.approved.iter().map(|person| name(person));
    Ok(Waiting {
        request: decode::request(it.request)?,
        lifetime: Lifetime(Duration::from_millis(it.lifetime_ms)),
        rule: decode::rule(it.rule)?,
        digest: hash(&it.digest)?,
        approved: approved.collect::<Result<_, _>>()?,
        behind: optional(&it.behind)?,
        reminded: it.reminded,
    })
}

fn task((identity, id, it): &(IdentityName, TaskId, TaskState)) -> wire::SnapTask {
    wire::SnapTask {
        identity: identity.to_string(),
        task: id.to_string(),
        kind: it.kind.to_string(),
        url: it.url.to_string(),
        hold: it.hold.map(|hold| hold.hold.0.to_vec()).unwrap_or_default(),
        lease_ms: it.hold.map_or(0, |hold| encode::millis(hold.lease)),
        ended_ms: it.ended.map_or(0, |(at, _)| at.as_millis()),
        ended_reason: it.ended.map_or(0, |(_, reason)| encode::reason(reason).into()),
        last_ms: it.last.as_millis(),
    }
}

fn read_task(it: wire::SnapTask) -> Result<(IdentityName, TaskId, TaskState), Malformed> {
    let hold = if it.hold.is_empty() {
        None
    } else {
        let hold = HoldId(bytes("hold", &it.hold)?);
        Some(Hold { hold, lease: Duration::from_millis(it.lease_ms) })
    };
    let ended = (it.ended_ms != 0).then(|| decode::reason(it.ended_reason)).transpose()?;
    let state = TaskState {
        kind: name(&it.kind)?,
        url: decode::words(&it.url)?,
        live: BTreeSet::new(),
        hold,
        ended: ended.map(|reason| (Time::from_millis(it.ended_ms), reason)),
        last: Time::from_millis(it.last_ms),
    };
    Ok((name(&it.identity)?, name(&it.task)?, state))
}

fn used((identity, key, it): &(IdentityName, RequestId, Use)) -> wire::SnapUse {
    wire::SnapUse {
        identity: identity.to_string(),
        key: key.0.to_vec(),
        grant: it.grant.to_string(),
        content: encode::hash(&it.content),
    }
}

fn read_use(it: &wire::SnapUse) -> Result<(IdentityName, RequestId, Use), Malformed> {
    let used = Use { grant: decode::grant(&it.grant)?, content: hash(&it.content)? };
    Ok((name(&it.identity)?, RequestId(bytes("key", &it.key)?), used))
}

fn tally((identity, it): &(IdentityName, Tally)) -> wire::SnapTally {
    wire::SnapTally {
        identity: identity.to_string(),
        quarantined: it.quarantined,
        review: encode::text(it.review.as_ref()),
    }
}

fn read_tally(it: &wire::SnapTally) -> Result<(IdentityName, Tally), Malformed> {
    let review: Option<GrantId> =
        if it.review.is_empty() { None } else { Some(decode::grant(&it.review)?) };
    Ok((name(&it.identity)?, Tally { quarantined: it.quarantined, review, ..Tally::default() }))
}

fn cut_off((seq, it): &(Seq, CutOff)) -> wire::SnapCutOff {
    wire::SnapCutOff {
        seq: seq.0,
        target: Some(encode::target(&it.target)),
        reason: encode::reason(it.reason).into(),
        at_ms: it.at.as_millis(),
        forget_after_ms: it.forget_after.map(|time| time.as_millis()),
    }
}

fn read_cut_off(it: wire::SnapCutOff) -> Result<(Seq, CutOff), Malformed> {
    let cut = CutOff {
        target: decode::target(it.target)?,
        reason: decode::reason(it.reason)?,
        at: Time::from_millis(it.at_ms),
        forget_after: it.forget_after_ms.map(Time::from_millis),
    };
    Ok((Seq(it.seq), cut))
}

fn key(it: &KeyRecord) -> wire::SnapKey {
    let state = match it.state {
        KeyState::Published => 1,
        KeyState::Signing => 2,
        KeyState::Retired => 3,
        KeyState::CutOff => 4,
    };
    wire::SnapKey {
        key: Some(encode::public_key(&it.key)),
        state,
        created_ms: it.created.as_millis(),
        activated: it.activated.0,
        last_exp_ms: it.last_exp.as_millis(),
        published: it.published.0,
        since_ms: it.since.as_millis(),
        leaving: it.leaving,
    }
}

fn read_key(it: &wire::SnapKey) -> Result<KeyRecord, Malformed> {
    let state = match it.state {
        1 => KeyState::Published,
        2 => KeyState::Signing,
        3 => KeyState::Retired,
        4 => KeyState::CutOff,
        _ => return Err(gone("state")),
    };
    Ok(KeyRecord {
        key: decode::public_key(it.key.as_ref().ok_or(gone("key"))?)?,
        state,
        created: Time::from_millis(it.created_ms),
        activated: Seq(it.activated),
        last_exp: Time::from_millis(it.last_exp_ms),
        published: Seq(it.published),
        since: Time::from_millis(it.since_ms),
        leaving: it.leaving,
    })
}

pub(in crate::journal) fn gone(field: &'static str) -> Malformed {
    Malformed { field, why: "is missing or unknown" }
}
