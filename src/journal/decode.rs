//! Messages as events: what this room wrote is read back, anything else is damage.

use std::sync::Arc;
use std::time::Duration;

use protem_core::event::{
    Activated, Asked, CredentialIssued, EndReason, Ended, Event, KeyPurpose, PublicKey, Requested,
    Target,
};
use protem_core::limits::LIFETIME_MAX;
use protem_core::request::{AccessRequest, ProofKey, Scopes, Task, Workload};
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Standing, Terms};
use protem_proto::wire::journal as wire;
use protem_verify::ids::{Epoch, GrantId, Hash, HoldId, JournalId, RequestId, Seq};
use protem_verify::names::{Malformed, Words};
use protem_verify::time::{Lifetime, Staleness, Time};
use wire::entry::Event as Wire;

/// The event of a message.
#[expect(clippy::too_many_lines, reason = "one arm an event: a reader finds them all in one list")]
pub(in crate::journal) fn event(event: Wire) -> Result<Event, Malformed> {
    Ok(match event {
        Wire::JournalOpened(it) => Event::JournalOpened {
            journal: JournalId(bytes("journal", &it.journal)?),
            epoch: Epoch(it.epoch),
            issuer: it.issuer.into(),
            dev: it.dev,
        },
        Wire::EpochBegan(it) => {
            Event::EpochBegan { epoch: Epoch(it.epoch), note: words(&it.note)? }
        }
        Wire::BundleActivated(it) => {
            let file = |file: wire::File| (Arc::from(file.name), Arc::from(file.content));
            let files = it.files.into_iter().map(file).collect();
            Event::BundleActivated { digest: hash(&it.digest)?, files }
        }
        Wire::BundleSettled(it) => Event::BundleSettled { digest: hash(&it.digest)? },
        Wire::GrantsConfirmed(it) => Event::GrantsConfirmed {
            digest: hash(&it.digest)?,
            grants: it.grants.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
        },
        Wire::GrantRequested(it) => Event::GrantRequested(Box::new(Requested {
            grant: it.grant.parse()?,
            asked: asked(it.asked)?,
            decide_by: Time::from_millis(it.decide_by_ms),
            digest: hash(&it.digest)?,
            behind: optional(&it.behind)?,
        })),
        Wire::RequestReevaluated(it) => Event::RequestReevaluated {
            grant: it.grant.parse()?,
            ruling: Box::new(ruling(it.ruling)?),
            digest: hash(&it.digest)?,
        },
        Wire::GrantActivated(it) => Event::GrantActivated(Box::new(activated(it)?)),
        Wire::CredentialIssued(it) => Event::CredentialIssued(Box::new(credential(it)?)),
        Wire::RequestRepeated(it) => Event::RequestRepeated {
            identity: name(&it.identity)?,
            key: RequestId(bytes("key", &it.key)?),
            content: hash(&it.content)?,
            grant: it.grant.parse()?,
        },
        Wire::AccessRefused(it) => Event::AccessRefused(Box::new(asked(Some(it))?)),
        Wire::GrantEnded(it) => Event::GrantEnded(Box::new(ended(&it)?)),
        Wire::ApprovalGiven(it) => approval(&it)?,
        Wire::RequestReminded(it) => {
            Event::RequestReminded { grant: it.grant.parse()?, then: optional(&it.then)? }
        }
        Wire::ApprovalTakenBack(it) => {
            Event::ApprovalTakenBack { grant: it.grant.parse()?, by: name(&it.by)? }
        }
        Wire::RequestNarrowed(it) => Event::RequestNarrowed {
            grant: it.grant.parse()?,
            by: name(&it.by)?,
            scopes: scopes(&it.scopes)?,
            lifetime: Lifetime(Duration::from_millis(it.lifetime_ms)),
            digest: hash(&it.digest)?,
        },
        Wire::ReviewClosed(it) => Event::ReviewClosed {
            grant: it.grant.parse()?,
            by: name(&it.by)?,
            note: words(&it.note)?,
        },
        Wire::TaskHeld(it) => Event::TaskHeld {
            identity: name(&it.identity)?,
            task: name(&it.task)?,
            hold: HoldId(bytes("hold", &it.hold)?),
            lease: Duration::from_millis(it.lease_ms),
        },
        Wire::TaskEnded(it) => Event::TaskEnded {
            identity: name(&it.identity)?,
            task: name(&it.task)?,
            reason: reason(it.reason)?,
            outcome: words(&it.outcome)?,
        },
        Wire::CutOff(it) => Event::CutOff {
            target: target(it.target)?,
            reason: reason(it.reason)?,
            note: words(&it.note)?,
            forget_after: it.forget_after_ms.map(Time::from_millis),
        },
        Wire::IdentityQuarantined(it) => {
            Event::IdentityQuarantined { identity: name(&it.identity)?, note: words(&it.note)? }
        }
        Wire::QuarantineLifted(it) => {
            Event::QuarantineLifted { identity: name(&it.identity)?, note: words(&it.note)? }
        }
        Wire::KeyPublished(it) => Event::KeyPublished(public_key(&it)?),
        Wire::KeyActivated(it) => Event::KeyActivated { key: name(&it.key)? },
        Wire::KeyRetired(it) => Event::KeyRetired { key: name(&it.key)? },
        Wire::KeyRotationAsked(it) => {
            Event::KeyRotationAsked { key: name(&it.key)?, note: words(&it.note)? }
        }
        Wire::KeyForgotten(it) => Event::KeyForgotten { key: name(&it.key)? },
    })
}

fn approval(it: &wire::ApprovalGiven) -> Result<Event, Malformed> {
    let standing = Standing {
        account: it.account.as_str().into(),
        groups: it.groups.iter().map(|group| name(group)).collect::<Result<_, _>>()?,
        policies: it.policies.iter().map(|policy| name(policy)).collect::<Result<_, _>>()?,
    };
    Ok(Event::ApprovalGiven {
        grant: it.grant.parse()?,
        by: name(&it.by)?,
        reason: words(&it.reason)?,
        digest: hash(&it.digest)?,
        standing,
    })
}

fn activated(it: wire::GrantActivated) -> Result<Activated, Malformed> {
    let asked = it.asked.map(|it| asked(Some(it))).transpose()?;
    let mut issued = it.credential.ok_or(missing("credential"))?;
    if issued.until_ms == 0 {
        issued.until_ms = it.until_ms;
    }
    let Some(said) = &asked else {
        let credential = credential(issued)?;
        return Ok(Activated { asked, until: Time::from_millis(it.until_ms), credential });
    };
    // What the credential shares with the request was written once, in `asked`.
    let Asked { request, ruling } = said;
    let by = issued.by.as_ref().map(workload).transpose()?;
    let terms = issued.terms.take().map(|it| terms(Some(it))).transpose()?;
    let proof = issued.proof.take().map(|it| proof(Some(it))).transpose()?.flatten();
    let credential = CredentialIssued {
        grant: issued.grant.parse()?,
        number: issued.number,
        by: by.unwrap_or_else(|| request.by.clone()),
        task: optional(&issued.task)?.unwrap_or_else(|| request.task.id.clone()),
        resource: optional(&issued.resource)?.unwrap_or_else(|| request.resource.clone()),
        scopes: if issued.scopes.is_empty() {
            request.scopes.clone()
        } else {
            scopes(&issued.scopes)?
        },
        terms: terms.unwrap_or_else(|| ruling.terms.clone()),
        key: name(&issued.key)?,
        iat: Time::from_millis(issued.iat_ms),
        exp: Time::from_millis(issued.exp_ms),
        until: Time::from_millis(issued.until_ms),
        activated: seq(issued.activated),
        epoch: Epoch(issued.epoch),
        proof: proof.or_else(|| request.proof.clone()),
    };
    Ok(Activated { until: Time::from_millis(it.until_ms), asked, credential })
}

fn credential(it: wire::Credential) -> Result<CredentialIssued, Malformed> {
    Ok(CredentialIssued {
        grant: it.grant.parse()?,
        number: it.number,
        by: workload(&it.by.ok_or(missing("by"))?)?,
        task: name(&it.task)?,
        resource: name(&it.resource)?,
        scopes: scopes(&it.scopes)?,
        terms: terms(it.terms)?,
        key: name(&it.key)?,
        iat: Time::from_millis(it.iat_ms),
        exp: Time::from_millis(it.exp_ms),
        until: Time::from_millis(it.until_ms),
        activated: seq(it.activated),
        epoch: Epoch(it.epoch),
        proof: proof(it.proof)?,
    })
}

fn asked(it: Option<wire::Asked>) -> Result<Asked, Malformed> {
    let it = it.ok_or(missing("asked"))?;
    Ok(Asked { request: request(it.request)?, ruling: ruling(it.ruling)? })
}

fn ended(it: &wire::GrantEnded) -> Result<Ended, Malformed> {
    let (ended, last_exp) = (Time::from_millis(it.ended_ms), Time::from_millis(it.last_exp_ms));
    // A row of before says when the newest credential dies. An older one may outlive that, but no grant.
    let last_exp = if it.of_all { last_exp } else { last_exp.max(ended + LIFETIME_MAX) };
    Ok(Ended {
        grant: it.grant.parse()?,
        identity: name(&it.identity)?,
        task: name(&it.task)?,
        resource: name(&it.resource)?,
        reason: reason(it.reason)?,
        note: words(&it.note)?,
        ended,
        last_exp: (it.last_exp_ms != 0).then_some(last_exp),
        told_by: seq(it.told_by),
    })
}

pub(in crate::journal) fn request(it: Option<wire::Request>) -> Result<AccessRequest, Malformed> {
    let it = it.ok_or(missing("request"))?;
    Ok(AccessRequest {
        by: workload(&it.by.ok_or(missing("by"))?)?,
        task: Task { id: name(&it.task)?, kind: name(&it.task_kind)?, url: words(&it.task_url)? },
        resource: name(&it.resource)?,
        scopes: scopes(&it.scopes)?,
        lifetime: it.lifetime_ms.map(|ms| Lifetime(Duration::from_millis(ms))),
        purpose: words(&it.purpose)?,
        key: if it.key.is_empty() { None } else { Some(RequestId(bytes("key", &it.key)?)) },
        emergency: it.emergency,
        proof: proof(it.proof)?,
    })
}

fn ruling(it: Option<wire::Ruling>) -> Result<Ruling, Malformed> {
    let it = it.ok_or(missing("ruling"))?;
    let effect = match it.effect() {
        wire::Effect::Issue => Effect::Issue,
        wire::Effect::NeedsApproval => Effect::NeedsApproval,
        wire::Effect::Deny => Effect::Deny,
        wire::Effect::Unspecified => return Err(missing("effect")),
    };
    Ok(Ruling {
        content: hash(&it.content)?,
        effect,
        policies: it.policies.iter().map(|id| name(id)).collect::<Result<_, _>>()?,
        bundle: hash(&it.bundle)?,
        at: Time::from_millis(it.at_ms),
        terms: terms(it.terms)?,
        limits: it.limits,
        findings: it.findings,
        code: it.code,
        remedy: it.remedy,
        rule: it.rule.map(|it| rule(Some(it))).transpose()?,
        active: it.active,
        input: it.input.into_bytes().into(),
    })
}

fn terms(it: Option<wire::Terms>) -> Result<Terms, Malformed> {
    let it = it.ok_or(missing("terms"))?;
    let claim = |claim: wire::Claim| (Arc::from(claim.name), Arc::from(claim.value));
    Ok(Terms {
        lifetime: Lifetime(Duration::from_millis(it.lifetime_ms)),
        credential: Lifetime(Duration::from_millis(it.credential_ms)),
        fresh: Staleness(Duration::from_millis(it.fresh_ms)),
        audience: it.audience.into(),
        claims: it.claims.into_iter().map(claim).collect(),
        operations: it.operations.into_iter().map(Arc::from).collect(),
        active_max: it.active_max,
        pending_max: it.pending_max,
    })
}

pub(in crate::journal) fn rule(it: Option<wire::ApprovalRule>) -> Result<ApprovalRule, Malformed> {
    let it = it.ok_or(missing("rule"))?;
    Ok(ApprovalRule {
        required: u16::try_from(it.required).map_err(|_| missing("required"))?,
        decide_within: Duration::from_millis(it.decide_within_ms),
        remind: it.remind_ms.map(Duration::from_millis),
        then: optional(&it.then)?,
        policies: hash(&it.policies)?,
        groups: it.groups.iter().map(|group| name(group)).collect::<Result<_, _>>()?,
    })
}

pub(in crate::journal) fn target(it: Option<wire::Target>) -> Result<Target, Malformed> {
    use wire::target::By;
    Ok(match it.and_then(|target| target.by).ok_or(missing("target"))? {
        By::Grant(grant) => Target::Grant(grant.parse()?),
        By::Task(it) => Target::Task(name(&it.identity)?, name(&it.task)?),
        By::Identity(identity) => Target::Identity(name(&identity)?),
        By::Resource(resource) => Target::Resource(name(&resource)?),
        By::Scope(it) => Target::Scope(name(&it.resource)?, name(&it.scope)?),
        By::Key(key) => Target::Key(name(&key)?),
        By::Everything(_) => Target::Everything,
    })
}

pub(in crate::journal) fn public_key(it: &wire::PublicKey) -> Result<PublicKey, Malformed> {
    let purpose = match it.purpose() {
        wire::KeyPurpose::Credential => KeyPurpose::Credential,
        wire::KeyPurpose::Checkpoint => KeyPurpose::Checkpoint,
        wire::KeyPurpose::Unspecified => return Err(missing("purpose")),
    };
    Ok(PublicKey { id: name(&it.id)?, purpose, public: bytes("public", &it.public)? })
}

pub(in crate::journal) fn workload(it: &wire::Workload) -> Result<Workload, Malformed> {
    Ok(Workload { identity: name(&it.identity)?, subject: name(&it.subject)? })
}

pub(in crate::journal) fn proof(it: Option<wire::Proof>) -> Result<Option<ProofKey>, Malformed> {
    use wire::proof::Kind;
    let Some(kind) = it.and_then(|proof| proof.kind) else { return Ok(None) };
    Ok(Some(match kind {
        Kind::Thumbprint(it) => ProofKey::Thumbprint(bytes("thumbprint", &it)?),
        Kind::Certificate(it) => ProofKey::Certificate(bytes("certificate", &it)?),
    }))
}

pub(in crate::journal) fn reason(it: i32) -> Result<EndReason, Malformed> {
    Ok(match wire::EndReason::try_from(it).unwrap_or_default() {
        wire::EndReason::Unspecified => return Err(missing("reason")),
        wire::EndReason::Completed => EndReason::Completed,
        wire::EndReason::Expired => EndReason::Expired,
        wire::EndReason::Abandoned => EndReason::Abandoned,
        wire::EndReason::Revoked => EndReason::Revoked,
        wire::EndReason::Denied => EndReason::Denied,
        wire::EndReason::Lapsed => EndReason::Lapsed,
        wire::EndReason::Withdrawn => EndReason::Withdrawn,
        wire::EndReason::Policy => EndReason::Policy,
        wire::EndReason::Quarantined => EndReason::Quarantined,
        wire::EndReason::Fenced => EndReason::Fenced,
    })
}

pub(in crate::journal) fn scopes(it: &[String]) -> Result<Scopes, Malformed> {
    Scopes::new(it.iter().map(|scope| name(scope)).collect::<Result<_, _>>()?)
}

/// A name that was valid when it was written.
pub(in crate::journal) fn name<'a, T>(text: &'a str) -> Result<T, Malformed>
where
    T: TryFrom<&'a str, Error = Malformed>,
{
    T::try_from(text)
}

/// A name that may be absent: an empty text.
pub(in crate::journal) fn optional<'a, T>(text: &'a str) -> Result<Option<T>, Malformed>
where
    T: TryFrom<&'a str, Error = Malformed>,
{
    if text.is_empty() { Ok(None) } else { T::try_from(text).map(Some) }
}

pub(in crate::journal) fn words(text: &str) -> Result<Words, Malformed> {
    Words::recorded(text)
}

pub(in crate::journal) fn hash(it: &[u8]) -> Result<Hash, Malformed> {
    bytes("hash", it).map(Hash)
}

pub(in crate::journal) fn bytes<const N: usize>(
    field: &'static str,
    it: &[u8],
) -> Result<[u8; N], Malformed> {
    it.try_into().map_err(|_| Malformed { field, why: "has another length" })
}

pub(in crate::journal) fn grant(text: &str) -> Result<GrantId, Malformed> {
    text.parse()
}

/// A place; 0 is none.
pub(in crate::journal) fn seq(it: u64) -> Option<Seq> {
    (it != 0).then_some(Seq(it))
}

fn missing(field: &'static str) -> Malformed {
    Malformed { field, why: "is missing or unknown" }
}
