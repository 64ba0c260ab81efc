//! Events as messages.

use std::sync::Arc;
use std::time::Duration;

use protem_core::event::{
    Activated, Asked, CredentialIssued, EndReason, Ended, Event, KeyPurpose, PublicKey, Requested,
    Target,
};
use protem_core::request::{AccessRequest, ProofKey, Scopes, Workload};
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Terms};
use protem_proto::wire::journal as wire;
use protem_verify::ids::Hash;
use wire::entry::Event as Wire;

/// The message of an event.
#[expect(clippy::too_many_lines, reason = "one arm an event: a reader finds them all in one list")]
pub(in crate::journal) fn event(event: &Event) -> Wire {
    match event {
        Event::JournalOpened { journal, epoch, issuer, dev } => {
            Wire::JournalOpened(wire::JournalOpened {
                journal: journal.0.to_vec(),
                epoch: epoch.0,
                issuer: issuer.to_string(),
                dev: *dev,
            })
        }
        Event::EpochBegan { epoch, note } => {
            Wire::EpochBegan(wire::EpochBegan { epoch: epoch.0, note: note.to_string() })
        }
        Event::BundleActivated { digest, files } => Wire::BundleActivated(wire::BundleActivated {
            digest: hash(digest),
            files: files.iter().map(file).collect(),
        }),
        Event::BundleSettled { digest } => {
            Wire::BundleSettled(wire::BundleSettled { digest: hash(digest) })
        }
        Event::GrantsConfirmed { digest, grants } => Wire::GrantsConfirmed(wire::GrantsConfirmed {
            digest: hash(digest),
            grants: grants.iter().map(ToString::to_string).collect(),
        }),
        Event::GrantRequested(it) => Wire::GrantRequested(requested(it)),
        Event::RequestReevaluated { grant, ruling: said, digest } => {
            let (grant, digest) = (grant.to_string(), hash(digest));
            Wire::RequestReevaluated(wire::RequestReevaluated {
                grant,
                ruling: Some(ruling(said)),
                digest,
            })
        }
        Event::GrantActivated(it) => Wire::GrantActivated(activated(it)),
        Event::CredentialIssued(it) => Wire::CredentialIssued(credential(it)),
        Event::RequestRepeated { identity, key, content, grant } => {
            Wire::RequestRepeated(wire::RequestRepeated {
                identity: identity.to_string(),
                key: key.0.to_vec(),
                content: hash(content),
                grant: grant.to_string(),
            })
        }
        Event::AccessRefused(it) => Wire::AccessRefused(asked(it)),
        Event::GrantEnded(it) => Wire::GrantEnded(ended(it)),
        Event::RequestReminded { grant, then } => Wire::RequestReminded(wire::RequestReminded {
            grant: grant.to_string(),
            then: text(then.as_ref()),
        }),
        Event::ApprovalGiven { grant, by, reason, digest, standing } => {
            Wire::ApprovalGiven(wire::ApprovalGiven {
                grant: grant.to_string(),
                by: by.to_string(),
                reason: reason.to_string(),
                digest: hash(digest),
                account: standing.account.to_string(),
                groups: standing.groups.iter().map(ToString::to_string).collect(),
                policies: standing.policies.iter().map(ToString::to_string).collect(),
            })
        }
        Event::ApprovalTakenBack { grant, by } => {
            Wire::ApprovalTakenBack(wire::ApprovalTakenBack {
                grant: grant.to_string(),
                by: by.to_string(),
            })
        }
        Event::RequestNarrowed { grant, by, scopes: left, lifetime, digest } => {
            Wire::RequestNarrowed(wire::RequestNarrowed {
                grant: grant.to_string(),
                by: by.to_string(),
                scopes: scopes(left),
                lifetime_ms: millis(lifetime.0),
                digest: hash(digest),
            })
        }
        Event::ReviewClosed { grant, by, note } => Wire::ReviewClosed(wire::ReviewClosed {
            grant: grant.to_string(),
            by: by.to_string(),
            note: note.to_string(),
        }),
        Event::TaskHeld { identity, task, hold, lease } => Wire::TaskHeld(wire::TaskHeld {
            identity: identity.to_string(),
            task: task.to_string(),
            hold: hold.0.to_vec(),
            lease_ms: millis(*lease),
        }),
        Event::TaskEnded { identity, task, reason: why, outcome } => {
            Wire::TaskEnded(wire::TaskEnded {
                identity: identity.to_string(),
                task: task.to_string(),
                reason: reason(*why).into(),
                outcome: outcome.to_string(),
            })
        }
        Event::CutOff { target: on, reason: why, note, forget_after } => {
            Wire::CutOff(wire::CutOff {
                target: Some(target(on)),
                reason: reason(*why).into(),
                note: note.to_string(),
                forget_after_ms: forget_after.map(|time| time.as_millis()),
            })
        }
        Event::QuarantineLifted { identity, note } => Wire::QuarantineLifted(wire::Quarantine {
            identity: identity.to_string(),
            note: note.to_string(),
        }),
        Event::KeyPublished(key) => Wire::KeyPublished(public_key(key)),
        Event::KeyActivated { key } => Wire::KeyActivated(wire::KeyName { key: key.to_string() }),
        Event::KeyRetired { key } => Wire::KeyRetired(wire::KeyName { key: key.to_string() }),
        Event::KeyRotationAsked { key, note } => Wire::KeyRotationAsked(wire::KeyRotationAsked {
            key: key.to_string(),
            note: note.to_string(),
        }),
        Event::KeyForgotten { key } => Wire::KeyForgotten(wire::KeyName { key: key.to_string() }),
        Event::IdentityQuarantined { identity, note } => {
            Wire::IdentityQuarantined(wire::Quarantine {
                identity: identity.to_string(),
                note: note.to_string(),
            })
        }
    }
}

fn file((name, content): &(Arc<str>, Arc<[u8]>)) -> wire::File {
    wire::File { name: name.to_string(), content: content.to_vec() }
}

fn requested(it: &Requested) -> wire::GrantRequested {
    wire::GrantRequested {
        grant: it.grant.to_string(),
        asked: Some(asked(&it.asked)),
        decide_by_ms: it.decide_by.as_millis(),
        digest: hash(&it.digest),
        behind: text(it.behind.as_ref()),
    }
}

/// What the request says already is left out of the credential, exactly where it says the same.
fn activated(it: &Activated) -> wire::GrantActivated {
    let mut issued = credential(&it.credential);
    if it.credential.until == it.until {
        issued.until_ms = 0;
    }
    if let Some(Asked { request, ruling }) = &it.asked {
        let own = &it.credential;
        issued.by = issued.by.filter(|_| own.by != request.by);
        issued.proof = issued.proof.filter(|_| own.proof != request.proof);
        issued.terms = issued.terms.filter(|_| own.terms != ruling.terms);
        if own.task == request.task.id {
            issued.task.clear();
        }
        if own.resource == request.resource {
            issued.resource.clear();
        }
        if own.scopes == request.scopes {
            issued.scopes.clear();
        }
    }
    wire::GrantActivated {
        asked: it.asked.as_ref().map(asked),
        until_ms: it.until.as_millis(),
        credential: Some(issued),
    }
}

fn credential(it: &CredentialIssued) -> wire::Credential {
    wire::Credential {
        grant: it.grant.to_string(),
        number: it.number,
        by: Some(workload(&it.by)),
        task: it.task.to_string(),
        resource: it.resource.to_string(),
        scopes: scopes(&it.scopes),
        terms: Some(terms(&it.terms)),
        key: it.key.to_string(),
        iat_ms: it.iat.as_millis(),
        exp_ms: it.exp.as_millis(),
        until_ms: it.until.as_millis(),
        activated: it.activated.map_or(0, |seq| seq.0),
        epoch: it.epoch.0,
        proof: it.proof.as_ref().map(proof),
    }
}

fn asked(it: &Asked) -> wire::Asked {
    wire::Asked { request: Some(request(&it.request)), ruling: Some(ruling(&it.ruling)) }
}

fn ended(it: &Ended) -> wire::GrantEnded {
    wire::GrantEnded {
        grant: it.grant.to_string(),
        identity: it.identity.to_string(),
        task: it.task.to_string(),
        resource: it.resource.to_string(),
        reason: reason(it.reason).into(),
        note: it.note.to_string(),
        ended_ms: it.ended.as_millis(),
        last_exp_ms: it.last_exp.map_or(0, |time| time.as_millis()),
        told_by: it.told_by.map_or(0, |seq| seq.0),
        of_all: it.last_exp.is_some(),
    }
}

pub(in crate::journal) fn request(it: &AccessRequest) -> wire::Request {
    wire::Request {
        by: Some(workload(&it.by)),
        task: it.task.id.to_string(),
        task_kind: it.task.kind.to_string(),
        task_url: it.task.url.to_string(),
        resource: it.resource.to_string(),
        scopes: scopes(&it.scopes),
        lifetime_ms: it.lifetime.map(|life| millis(life.0)),
        purpose: it.purpose.to_string(),
        key: it.key.map(|key| key.0.to_vec()).unwrap_or_default(),
        emergency: it.emergency,
        proof: it.proof.as_ref().map(proof),
    }
}

fn ruling(it: &Ruling) -> wire::Ruling {
    let effect = match it.effect {
        Effect::Issue => wire::Effect::Issue,
        Effect::NeedsApproval => wire::Effect::NeedsApproval,
        Effect::Deny => wire::Effect::Deny,
    };
    wire::Ruling {
        content: hash(&it.content),
        effect: effect.into(),
        policies: it.policies.iter().map(ToString::to_string).collect(),
        bundle: hash(&it.bundle),
        at_ms: it.at.as_millis(),
        terms: Some(terms(&it.terms)),
        limits: it.limits.clone(),
        findings: it.findings.clone(),
        code: it.code.clone(),
        remedy: it.remedy.clone(),
        rule: it.rule.as_ref().map(rule),
        active: it.active,
        input: String::from_utf8_lossy(&it.input).into_owned(),
    }
}

fn terms(it: &Terms) -> wire::Terms {
    let claim = |(name, value): &(Arc<str>, Arc<str>)| wire::Claim {
        name: name.to_string(),
        value: value.to_string(),
    };
    wire::Terms {
        lifetime_ms: millis(it.lifetime.0),
        credential_ms: millis(it.credential.0),
        fresh_ms: millis(it.fresh.0),
        audience: it.audience.to_string(),
        claims: it.claims.iter().map(claim).collect(),
        operations: it.operations.iter().map(ToString::to_string).collect(),
        active_max: it.active_max,
        pending_max: it.pending_max,
    }
}

pub(in crate::journal) fn rule(it: &ApprovalRule) -> wire::ApprovalRule {
    wire::ApprovalRule {
        required: it.required.into(),
        decide_within_ms: millis(it.decide_within),
        remind_ms: it.remind.map(millis),
        then: text(it.then.as_ref()),
        policies: hash(&it.policies),
        groups: it.groups.iter().map(ToString::to_string).collect(),
    }
}

pub(in crate::journal) fn target(it: &Target) -> wire::Target {
    use wire::target::By;
    let by = match it {
        Target::Grant(grant) => By::Grant(grant.to_string()),
        Target::Task(identity, task) => {
            By::Task(wire::TaskName { identity: identity.to_string(), task: task.to_string() })
        }
        Target::Identity(identity) => By::Identity(identity.to_string()),
        Target::Resource(resource) => By::Resource(resource.to_string()),
        Target::Scope(resource, scope) => {
            By::Scope(wire::ScopeOf { resource: resource.to_string(), scope: scope.to_string() })
        }
        Target::Key(key) => By::Key(key.to_string()),
        Target::Everything => By::Everything(true),
    };
    wire::Target { by: Some(by) }
}

pub(in crate::journal) fn public_key(it: &PublicKey) -> wire::PublicKey {
    let purpose = match it.purpose {
        KeyPurpose::Credential => wire::KeyPurpose::Credential,
        KeyPurpose::Checkpoint => wire::KeyPurpose::Checkpoint,
    };
    wire::PublicKey { id: it.id.to_string(), purpose: purpose.into(), public: it.public.to_vec() }
}

pub(in crate::journal) fn workload(it: &Workload) -> wire::Workload {
    wire::Workload { identity: it.identity.to_string(), subject: it.subject.to_string() }
}

pub(in crate::journal) fn proof(it: &ProofKey) -> wire::Proof {
    use wire::proof::Kind;
    let kind = match it {
        ProofKey::Thumbprint(bytes) => Kind::Thumbprint(bytes.to_vec()),
        ProofKey::Certificate(bytes) => Kind::Certificate(bytes.to_vec()),
    };
    wire::Proof { kind: Some(kind) }
}

pub(in crate::journal) fn scopes(it: &Scopes) -> Vec<String> {
    it.iter().map(ToString::to_string).collect()
}

pub(in crate::journal) fn reason(it: EndReason) -> wire::EndReason {
    match it {
        EndReason::Completed => wire::EndReason::Completed,
        EndReason::Expired => wire::EndReason::Expired,
        EndReason::Abandoned => wire::EndReason::Abandoned,
        EndReason::Revoked => wire::EndReason::Revoked,
        EndReason::Denied => wire::EndReason::Denied,
        EndReason::Lapsed => wire::EndReason::Lapsed,
        EndReason::Withdrawn => wire::EndReason::Withdrawn,
        EndReason::Policy => wire::EndReason::Policy,
        EndReason::Quarantined => wire::EndReason::Quarantined,
        EndReason::Fenced => wire::EndReason::Fenced,
    }
}

pub(in crate::journal) fn hash(it: &Hash) -> Vec<u8> {
    it.0.to_vec()
}

pub(in crate::journal) fn millis(it: Duration) -> u64 {
    u64::try_from(it.as_millis()).unwrap_or(u64::MAX)
}

/// An absent name is an empty text.
pub(in crate::journal) fn text<T: ToString>(it: Option<&T>) -> String {
    it.map(ToString::to_string).unwrap_or_default()
}
