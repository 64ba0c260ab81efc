//! Records as the wire shows them.

use std::time::Duration;

use prost_types::{Duration as WireDuration, Timestamp};
use protem_core::verdict::{Effect, Ruling};
use protem_proto::wire::v1;
use protem_verify::time::Time;

use crate::engine::filter;
use crate::engine::granted::{Credential, Granted};
use crate::engine::instance::GatewayState;
use crate::engine::receipts::{Enforcement, How, Receipt};
use crate::journal::records::{GrantRecord, Shown};

/// A moment.
#[must_use]
pub fn time(at: Time) -> Timestamp {
    let seconds = i64::try_from(at.as_millis() / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(at.as_millis() % 1_000 * 1_000_000).unwrap_or(0);
    Timestamp { seconds, nanos }
}

/// A span.
#[must_use]
pub fn duration(span: Duration) -> WireDuration {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    WireDuration { seconds, nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0) }
}

/// What policy said.
#[must_use]
pub fn verdict(ruling: &Ruling) -> v1::Verdict {
    let effect = match ruling.effect {
        Effect::Issue => v1::verdict::Effect::Issue,
        Effect::NeedsApproval => v1::verdict::Effect::NeedsApproval,
        Effect::Deny => v1::verdict::Effect::Deny,
    };
    v1::Verdict {
        effect: effect.into(),
        policies: ruling.policies.iter().map(ToString::to_string).collect(),
        bundle: ruling.bundle.to_string(),
        limits: ruling.limits.clone(),
        findings: ruling.findings.clone(),
        remedy: ruling.remedy.clone(),
    }
}

/// A grant.
#[must_use]
pub fn grant(record: &GrantRecord) -> v1::Grant {
    let request = &record.request;
    let mut shown = v1::Grant {
        id: record.id.text(),
        identity: request.by.identity.to_string(),
        subject: request.by.subject.to_string(),
        person: record.behind.as_ref().map_or_else(String::new, ToString::to_string),
        task: Some(v1::Task {
            id: request.task.id.to_string(),
            kind: request.task.kind.to_string(),
            url: request.task.url.to_string(),
        }),
        resource: request.resource.to_string(),
        scopes: request.scopes.iter().map(ToString::to_string).collect(),
        purpose: request.purpose.to_string(),
        lifetime: Some(duration(record.ruling.terms.lifetime.0)),
        requested_at: Some(time(record.requested_at)),
        approvals_required: record.ruling.rule.as_ref().map_or(0, |rule| rule.required.into()),
        approvals: record.approvals.iter().map(approval).collect(),
        verdict: Some(verdict(&record.ruling)),
        emergency: request.emergency,
        seq: record.activated.map_or(0, |seq| seq.0),
        digest: record.digest.map_or_else(String::new, |digest| digest.to_string()),
        ..v1::Grant::default()
    };
    match &record.status {
        Shown::Pending { decide_by } => {
            shown.state = v1::GrantState::Pending.into();
            shown.decide_by = Some(time(*decide_by));
            let groups = record.ruling.rule.iter().flat_map(|rule| &rule.groups);
            shown.approver_groups = groups.map(ToString::to_string).collect();
        }
        Shown::Active { from, until } => {
            shown.state = v1::GrantState::Active.into();
            shown.active_from = Some(time(*from));
            shown.active_until = Some(time(*until));
        }
        Shown::Ended { from, until, reason, note, at, by } => {
            shown.ended_by = by.0.to_string();
            shown.state = v1::GrantState::Ended.into();
            shown.active_from = from.map(time);
            shown.active_until = until.map(time);
            shown.end_reason = filter::reason(*reason).into();
            shown.end_note = note.to_string();
            shown.ended_at = Some(time(*at));
        }
    }
    shown
}

fn approval(record: &crate::journal::records::ApprovalRecord) -> v1::Approval {
    v1::Approval {
        approver: record.by.to_string(),
        approve: record.approve,
        reason: record.reason.to_string(),
        at: Some(time(record.at)),
    }
}

/// A grant and its credential, if it has one.
#[must_use]
pub fn granted(granted: &Granted) -> (v1::Grant, Option<v1::Credential>) {
    (grant(&granted.grant), granted.credential.as_ref().map(credential))
}

/// The one place where a token leaves: into its holder's answer.
#[must_use]
pub fn credential(credential: &Credential) -> v1::Credential {
    v1::Credential {
        token: credential.token.reveal().to_owned(),
        scheme: "Bearer".into(),
        expires_at: Some(time(credential.expires_at)),
        renew_at: Some(time(credential.renew_at)),
    }
}

/// Receipts, one per gateway process.
#[must_use]
pub fn enforcement(known: &Enforcement) -> Vec<v1::Enforcement> {
    known.receipts.iter().map(receipt).collect()
}

/// How many instances have acknowledged.
#[must_use]
pub fn acknowledged(known: &Enforcement) -> u32 {
    let count = known.receipts.iter().filter(|receipt| receipt.how == How::Acknowledged).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn receipt(receipt: &Receipt) -> v1::Enforcement {
    let how = match receipt.how {
        How::Waiting => v1::enforcement::How::Waiting,
        How::Acknowledged => v1::enforcement::How::Acknowledged,
        How::BoundPassed => v1::enforcement::How::BoundPassed,
    };
    v1::Enforcement {
        gateway: receipt.gateway.to_string(),
        how: how.into(),
        after: Some(duration(receipt.after)),
        instance: receipt.instance.clone(),
        process: receipt.process.clone(),
    }
}

/// One gateway instance.
#[must_use]
pub fn gateway(state: &GatewayState) -> v1::Gateway {
    v1::Gateway {
        name: state.name.to_string(),
        connected: state.connected,
        acknowledged: state.acknowledged.0,
        view_age: state.view_age.map(duration),
        lag_p50: state.lag_p50.map(duration),
        lag_p99: state.lag_p99.map(duration),
        instance: state.instance.clone(),
        process: state.process.clone(),
        twin: state.twin,
        state: state.state.clone(),
        ..v1::Gateway::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_keep_their_parts() {
        let at = time(Time::from_millis(1_234_567));
        assert_eq!((at.seconds, at.nanos), (1_234, 567_000_000));
        let span = duration(Duration::from_millis(1_500));
        assert_eq!((span.seconds, span.nanos), (1, 500_000_000));
    }
}
