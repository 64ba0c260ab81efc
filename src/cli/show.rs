//! Grants, verdicts and receipts as people read them.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::enforcement::How;
use protem_proto::wire::v1::{EndReason, GrantState};

use crate::cli::exit::visible;
use crate::cli::output::{Screen, Tint, columns};

/// A list of grants.
#[must_use]
pub fn grants(grants: &[v1::Grant]) -> String {
    let ids: Vec<&str> = grants.iter().map(|grant| grant.id.as_str()).collect();
    let rows: Vec<Vec<String>> = grants
        .iter()
        .map(|grant| {
            let task = grant.task.as_ref().map(|task| task.id.clone()).unwrap_or_default();
            vec![
                short(&grant.id, &ids),
                state(grant),
                visible(&grant.identity),
                visible(&task),
                grant.resource.clone(),
                grant.scopes.join(" "),
                when(grant),
            ]
        })
        .collect();
    columns(&["GRANT", "STATE", "IDENTITY", "TASK", "RESOURCE", "SCOPES", "WHEN"], &rows)
}

/// The shortest end of an id that no other of these has, never below four characters.
fn short(id: &str, all: &[&str]) -> String {
    for count in 4..id.len() {
        let Some(end) = id.get(id.len() - count..) else { break };
        if all.iter().filter(|other| other.ends_with(end)).count() <= 1 {
            return format!("…{end}");
        }
    }
    id.to_owned()
}

/// One word for where a grant is.
#[must_use]
pub fn state(grant: &v1::Grant) -> String {
    match grant.state() {
        GrantState::Unspecified => "?".to_owned(),
        GrantState::Pending => "pending".to_owned(),
        GrantState::Active => "active".to_owned(),
        GrantState::Ended => reason(grant.end_reason()).to_owned(),
    }
}

/// Why access is over, in one word.
#[must_use]
pub fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Unspecified => "ended",
        EndReason::Completed => "completed",
        EndReason::Expired => "expired",
        EndReason::Abandoned => "abandoned",
        EndReason::Revoked => "revoked",
        EndReason::Denied => "denied",
        EndReason::Lapsed => "lapsed",
        EndReason::Withdrawn => "withdrawn",
        EndReason::Policy => "ended by policy",
        EndReason::Quarantined => "quarantined",
        EndReason::Fenced => "fenced",
    }
}

fn when(grant: &v1::Grant) -> String {
    match grant.state() {
        GrantState::Pending => format!("until {}", at(grant.decide_by.as_ref())),
        GrantState::Active => format!("until {}", at(grant.active_until.as_ref())),
        GrantState::Ended => format!("at {}", at(grant.ended_at.as_ref())),
        GrantState::Unspecified => String::new(),
    }
}

/// A moment in UTC, short when it is within a day: `10:47:11`, else `2026-11-22 10:47`.
#[must_use]
pub fn at(stamp: Option<&prost_types::Timestamp>) -> String {
    let Some(stamp) = stamp else { return "-".to_owned() };
    let Ok(moment) = jiff::Timestamp::new(stamp.seconds, stamp.nanos) else {
        return "-".to_owned();
    };
    let now = i64::try_from(SystemClock.unix().as_secs()).unwrap_or(0);
    let text = moment.to_string();
    let (day, time) = text.split_once('T').unwrap_or(("", &text));
    let clock: String = time.chars().take(8).collect();
    if stamp.seconds.abs_diff(now) < 12 * 60 * 60 {
        format!("{clock} UTC")
    } else {
        format!("{day} {clock} UTC")
    }
}

/// This moment, as [`at`] shows it.
#[must_use]
pub fn now() -> String {
    let seconds = i64::try_from(SystemClock.unix().as_secs()).unwrap_or(0);
    at(Some(&prost_types::Timestamp { seconds, nanos: 0 }))
}

/// A protobuf duration; none counts as zero.
#[must_use]
pub fn duration(of: Option<&prost_types::Duration>) -> Duration {
    of.and_then(|of| Duration::try_from(*of).ok()).unwrap_or_default()
}

/// A duration as protobuf has it.
#[must_use]
pub fn to_wire(of: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(of.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0) }
}

/// A length of time as people say it: `2 ms`, `4.2 s`, `15m`.
#[must_use]
pub fn length(of: Duration) -> String {
    let millis = of.as_millis();
    if millis < 1_000 {
        format!(
            "{} ms",
            if millis < 10 { tenths(of.as_secs_f64() * 1e3) } else { millis.to_string() }
        )
    } else if of < Duration::from_secs(60) {
        format!("{} s", tenths(of.as_secs_f64()))
    } else {
        humantime::format_duration(Duration::from_secs(of.as_secs())).to_string()
    }
}

/// `1 grant`, `2 grants`.
#[must_use]
pub fn count(of: impl Into<u64>, what: &str) -> String {
    let of = of.into();
    if of == 1 { format!("1 {what}") } else { format!("{of} {what}s") }
}

fn tenths(of: f64) -> String {
    let text = format!("{of:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// All that is known of one grant.
#[must_use]
pub fn grant(grant: &v1::Grant) -> String {
    let task = grant.task.clone().unwrap_or_default();
    let verdict = grant.verdict.clone().unwrap_or_default();
    let kind = if task.kind.is_empty() { String::new() } else { format!("  ({})", task.kind) };
    let mut lines = vec![
        ("grant", grant.id.clone()),
        ("state", format!("{}  {}", state(grant), when(grant))),
        ("identity", grant.identity.clone()),
        ("subject", grant.subject.clone()),
        ("started by", grant.person.clone()),
        ("task", format!("{}{kind}  {}", task.id, task.url)),
        ("access", format!("{} on {}", grant.scopes.join(" "), grant.resource)),
        ("purpose", grant.purpose.clone()),
        ("lifetime", length(duration(grant.lifetime.as_ref()))),
        ("asked", at(grant.requested_at.as_ref())),
        ("last used", grant.last_used.as_ref().map(|used| at(Some(used))).unwrap_or_default()),
        ("began", grant.active_from.as_ref().map(|from| at(Some(from))).unwrap_or_default()),
        ("note", grant.end_note.clone()),
        ("policies", verdict.policies.join(", ")),
        ("limits", verdict.limits.join("; ")),
        ("findings", verdict.findings.join("; ")),
        ("bundle", verdict.bundle.chars().take(16).collect()),
        ("entry", if grant.seq == 0 { String::new() } else { grant.seq.to_string() }),
    ];
    if grant.emergency {
        lines.push(("emergency", "yes: granted by break-glass".to_owned()));
    }
    if grant.approvals_required > 0 {
        lines.push(("approvals", format!("{} needed", grant.approvals_required)));
    }
    for approval in &grant.approvals {
        let word = if approval.approve { "approved by" } else { "denied by" };
        lines.push((word, format!("{}: {}", approval.approver, approval.reason)));
    }
    let lines = lines.into_iter().filter(|(_, text)| !text.trim().is_empty());
    let lines = lines.map(|(name, text)| format!("{name:<12}{}", visible(text.trim_end())));
    lines.collect::<Vec<_>>().join("\n")
}

/// What was done with a grant, what was not, and what was refused.
#[must_use]
pub fn usage(usage: &v1::GrantUsage) -> String {
    let times = |one: &v1::OperationUse| match one.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let name = |one: &v1::OperationUse| match one.operation.as_str() {
        "" => "an operation that the catalog does not have".to_owned(),
        operation => operation.to_owned(),
    };
    let used = usage.used.iter().map(|one| {
        let last = at(one.last.as_ref());
        ("used", format!("{} {}, last {last}  ({})", name(one), times(one), one.scope))
    });
    let never = usage.never_used.iter().map(|granted| {
        let (scope, operation) = granted.split_once(' ').unwrap_or(("", granted));
        ("never used", format!("{operation}  ({scope})"))
    });
    let refused = usage.refused.iter().map(|one| {
        let last = at(one.last.as_ref());
        ("refused", format!("{} {}, last {last}  ({})", name(one), times(one), one.refusal))
    });
    let lines = used.chain(never).chain(refused);
    let lines = lines.map(|(name, text)| format!("{name:<12}{}", visible(&text)));
    lines.collect::<Vec<_>>().join("\n")
}

/// One receipt: `orders-dev 1f0c23ab  refuses it after 2 ms`.
#[must_use]
pub fn receipt(screen: &Screen, receipt: &v1::Enforcement) -> String {
    let after = length(duration(receipt.after.as_ref()));
    let instance: String = visible(&receipt.instance).chars().take(8).collect();
    let name = format!("{:<30}", format!("{} {instance}", visible(&receipt.gateway)));
    match receipt.how() {
        How::Acknowledged => {
            format!("  {name}{}", screen.tint(Tint::Good, &format!("refuses it after {after}")))
        }
        How::BoundPassed => {
            let text = format!("silent; cannot allow it since {after} (bound passed)");
            format!("  {name}{}", screen.tint(Tint::Good, &text))
        }
        How::Waiting => format!("  {name}{}", screen.tint(Tint::Dim, "not yet")),
        How::Unspecified => format!("  {name}?"),
    }
}

/// All receipts in one clause: `1 gateway refuses it after 2 ms`.
#[must_use]
pub fn receipts(all: &[v1::Enforcement]) -> String {
    let done = |how: How| all.iter().filter(move |receipt| receipt.how() == how);
    let slowest = |how| done(how).map(|receipt| duration(receipt.after.as_ref())).max();
    let mut parts = Vec::new();
    if let Some(slowest) = slowest(How::Acknowledged) {
        let count = done(How::Acknowledged).count();
        let word = if count == 1 { "gateway refuses" } else { "gateways refuse" };
        parts.push(format!("{count} {word} it after {}", length(slowest)));
    }
    let silent = done(How::BoundPassed).count();
    if silent > 0 {
        parts.push(format!("{silent} silent, past the bound"));
    }
    let waiting = done(How::Waiting).count();
    if waiting > 0 {
        parts.push(format!("{waiting} not yet"));
    }
    if parts.is_empty() {
        "no gateway has told yet, each refuses it within its bound".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short() {
        let ms = Duration::from_millis;
        for (of, text) in [
            (Duration::from_micros(1_540), "1.5 ms"),
            (ms(2), "2 ms"),
            (ms(47), "47 ms"),
            (ms(4_200), "4.2 s"),
            (ms(900_400), "15m"),
        ] {
            assert_eq!(length(of), text);
        }
    }

    #[test]
    fn short_ids_stay_unique() {
        let ids = ["gr_aaaa1111", "gr_bbbb1111", "gr_cccc2222"];
        assert_eq!(short(ids[2], &ids), "…2222");
        assert_eq!(short(ids[0], &ids), "…a1111");
    }

    #[test]
    fn receipts_fit_in_a_clause() {
        let one = |how: How, millis| v1::Enforcement {
            gateway: "g".into(),
            how: how.into(),
            after: Some(to_wire(Duration::from_millis(millis))),
            instance: String::new(),
            process: String::new(),
        };
        assert_eq!(receipts(&[one(How::Acknowledged, 2)]), "1 gateway refuses it after 2 ms");
        let both = [one(How::Acknowledged, 2), one(How::Acknowledged, 9), one(How::Waiting, 9)];
        assert_eq!(receipts(&both), "2 gateways refuse it after 9 ms, 1 not yet");
        assert_eq!(receipts(&[]), "no gateway has told yet, each refuses it within its bound");
    }
}
