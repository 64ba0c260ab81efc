//! One request on one screen, in the order in which an approver thinks: who, what, why, how long, which rule, what is unusual.

use std::time::Duration;

use protem_proto::wire::v1;

use crate::cli::exit::in_a_line;
use crate::cli::output::{Screen, Tint};
use crate::cli::show;
use crate::cli::wait::{approved_by, minutes};

/// The whole of it. What the requester wrote is quoted, and shown with control and direction characters escaped.
#[must_use]
pub fn dossier(screen: &Screen, waiting: &v1::PendingGrant, now: Duration) -> String {
    let grant = waiting.grant.clone().unwrap_or_default();
    let mut sheet = Sheet { screen, lines: Vec::new() };
    who(&mut sheet, waiting, &grant);
    let access = format!("{} on {}", grant.scopes.join(" "), grant.resource);
    sheet.put("wants", Some(Tint::Bold), &access);
    if !waiting.resource_purpose.is_empty() {
        sheet.put("", None, &waiting.resource_purpose);
    }
    if matches!(waiting.risk.as_str(), "high" | "critical") {
        sheet.put("", Some(Tint::Bad), &format!("{} risk", waiting.risk));
    } else if !waiting.risk.is_empty() {
        sheet.put("", None, &format!("{} risk", waiting.risk));
    }
    allowed(&mut sheet, waiting);
    match grant.purpose.is_empty() {
        true => sheet.put("why", Some(Tint::Bad), "no purpose was given"),
        false => sheet.put("why", None, &format!("\"{}\"", grant.purpose)),
    }
    let lifetime = show::length(show::duration(grant.lifetime.as_ref()));
    sheet.put("how long", None, &format!("{lifetime} from approval, or until its task ends"));
    rule(&mut sheet, &grant);
    unusual(&mut sheet, waiting, &grant);
    before(&mut sheet, waiting);
    until(&mut sheet, waiting, &grant, now);
    if !waiting.may_decide {
        let why = &waiting.why_not;
        let why = if why.is_empty() { "policy lets other people decide" } else { why };
        sheet.put("", Some(Tint::Bad), &format!("you may not decide: {why}"));
    }
    sheet.lines.join("\n")
}

/// Lines about operations on one screen; a scope seldom has more.
const ALLOWED: usize = 16;

struct Sheet<'a> {
    screen: &'a Screen,
    lines: Vec<String>,
}

impl Sheet<'_> {
    fn put(&mut self, name: &str, tint: Option<Tint>, text: &str) {
        let text = in_a_line(text);
        let text = tint.map_or_else(|| text.clone(), |tint| self.screen.tint(tint, &text));
        let name = self.screen.tint(Tint::Dim, &format!("{name:<10}"));
        self.lines.push(format!("  {name}{text}").trim_end().to_owned());
    }

    /// Lines under one name; none without lines.
    fn list<'t>(&mut self, name: &str, texts: impl IntoIterator<Item = &'t str>) {
        let mut name = name;
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            self.put(std::mem::take(&mut name), None, text);
        }
    }
}

fn who(sheet: &mut Sheet<'_>, waiting: &v1::PendingGrant, grant: &v1::Grant) {
    let task = grant.task.clone().unwrap_or_default();
    let kind = if task.kind.is_empty() { String::new() } else { format!(" ({})", task.kind) };
    let identity = format!("{}  {}", grant.identity, waiting.identity_purpose);
    sheet.put("who", Some(Tint::Bold), identity.trim_end());
    if !grant.person.is_empty() {
        sheet.put("", Some(Tint::Bold), &format!("started by {}", grant.person));
    }
    sheet.put("", None, &format!("signed in as {}", grant.subject));
    sheet.put("", None, format!("for task {}{kind}  {}", task.id, task.url).trim_end());
    let owners = [waiting.owner_business.as_str(), waiting.owner_technical.as_str()];
    let owners: Vec<&str> = owners.into_iter().filter(|owner| !owner.is_empty()).collect();
    if !owners.is_empty() {
        sheet.put("", None, &format!("owned by {}", owners.join(" and ")));
    }
    if !waiting.trust_tier.is_empty() {
        sheet.put("", None, &format!("trusted as {}", waiting.trust_tier));
    }
}

/// What the scopes let the holder do, in the catalog's words.
fn allowed(sheet: &mut Sheet<'_>, waiting: &v1::PendingGrant) {
    let mut lines: Vec<String> = Vec::new();
    for scope in &waiting.scopes {
        lines.push(format!("{}: {}", scope.name, scope.purpose));
        lines.extend(scope.operations.iter().map(|operation| format!("  {operation}")));
    }
    if lines.is_empty() {
        lines.clone_from(&waiting.operations);
    }
    sheet.list("may do", lines.iter().take(ALLOWED).map(String::as_str));
    let more = lines.len().saturating_sub(ALLOWED);
    if more > 0 {
        sheet.put("", Some(Tint::Dim), &format!("and {more} lines more; `-o json` has all"));
    }
}

fn until(sheet: &mut Sheet<'_>, waiting: &v1::PendingGrant, grant: &v1::Grant, now: Duration) {
    let Some(by) = &grant.decide_by else { return };
    let left = Duration::from_secs(u64::try_from(by.seconds).unwrap_or(0)).saturating_sub(now);
    let asked = grant.approver_groups.join(", ");
    let asked = if asked.is_empty() { asked } else { format!(", by {asked}") };
    let then = match (&waiting.remind_at, waiting.then_group.as_str()) {
        (None, _) | (_, "") => String::new(),
        (Some(at), group) => format!(", from {} also {group}", show::at(Some(at))),
    };
    let text = format!("until {}, {} left{asked}{then}", show::at(Some(by)), minutes(left));
    sheet.put("decide", None, &text);
}

fn rule(sheet: &mut Sheet<'_>, grant: &v1::Grant) {
    let verdict = grant.verdict.clone().unwrap_or_default();
    let have = grant.approvals.iter().filter(|given| given.approve).count();
    let needed = grant.approvals_required;
    let word = if needed == 1 { "approval" } else { "approvals" };
    let by = approved_by(grant).map(|by| format!(", from {by}")).unwrap_or_default();
    let policies = verdict.policies.join(", ");
    sheet.put("rule", None, &format!("{policies}: {needed} {word}, {have} so far{by}"));
    sheet.list("", verdict.limits.iter().map(String::as_str));
}

fn unusual(sheet: &mut Sheet<'_>, waiting: &v1::PendingGrant, grant: &v1::Grant) {
    let then = grant.verdict.iter().flat_map(|verdict| &verdict.findings);
    let findings: Vec<&String> = match waiting.findings.is_empty() {
        true => then.collect(),
        false => waiting.findings.iter().collect(),
    };
    let first = waiting.similar_granted == 0 && waiting.similar_denied == 0;
    match findings.is_empty() {
        true if first => sheet.put("unusual", None, "nobody decided on this before"),
        true => sheet.put("unusual", None, "nothing"),
        false => {
            for (at, finding) in findings.into_iter().enumerate() {
                let name = if at == 0 { "unusual" } else { "" };
                sheet.put(name, Some(Tint::Bad), finding);
            }
        }
    }
}

fn before(sheet: &mut Sheet<'_>, waiting: &v1::PendingGrant) {
    let (granted, denied) = (waiting.similar_granted, waiting.similar_denied);
    let last = waiting.similar_last.as_ref();
    let last = last.map(|at| format!(", last at {}", show::at(Some(at)))).unwrap_or_default();
    let text = match (granted, denied) {
        (0, 0) => "nothing like it in 90 days".to_owned(),
        (granted, denied) => {
            let times = |count: u32, what: &str| match count {
                0 => format!("never {what}"),
                1 => format!("{what} once"),
                count => format!("{what} {count} times"),
            };
            let (granted, denied) = (times(granted, "granted"), times(denied, "denied"));
            format!("{granted}, {denied} in 90 days{last}")
        }
    };
    sheet.put("before", None, &text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { json: false, live: false, colour: false };

    fn waiting() -> v1::PendingGrant {
        let grant = v1::Grant {
            id: "gr_1".into(),
            identity: "payments/agent".into(),
            subject: "spiffe://shop.example/ns/payments/sa/agent".into(),
            person: "alice".into(),
            task: Some(v1::Task { id: "INC-42".into(), kind: "agent".into(), url: String::new() }),
            resource: "orders-api".into(),
            scopes: vec!["orders:refund".into()],
            purpose: "refund for INC-42".into(),
            lifetime: Some(show::to_wire(Duration::from_secs(900))),
            decide_by: Some(prost_types::Timestamp { seconds: 1_800, nanos: 0 }),
            approvals_required: 2,
            verdict: Some(v1::Verdict {
                policies: vec!["refunds-need-a-person".into()],
                findings: vec!["first request for `orders-api` in 90 days".into()],
                ..v1::Verdict::default()
            }),
            ..v1::Grant::default()
        };
        v1::PendingGrant {
            grant: Some(grant),
            may_decide: true,
            owner_business: "group:payments-leads".into(),
            identity_purpose: "Assistant that handles refund tickets".into(),
            resource_purpose: "Orders of the web shop".into(),
            risk: "high".into(),
            scopes: vec![v1::ScopeUse {
                name: "orders:refund".into(),
                purpose: "Refund an order".into(),
                risk: "high".into(),
                operations: vec!["POST /v1/orders/{id}/refund".into()],
            }],
            similar_granted: 3,
            similar_denied: 1,
            ..v1::PendingGrant::default()
        }
    }

    #[test]
    fn the_order_is_the_one_in_which_approvers_think() {
        let text = dossier(&PLAIN, &waiting(), Duration::from_secs(600));
        let order = [
            "who       payments/agent  Assistant that handles refund tickets",
            "started by alice",
            "for task INC-42 (agent)",
            "wants     orders:refund on orders-api",
            "high risk",
            "may do    orders:refund: Refund an order",
            "POST /v1/orders/{id}/refund",
            "why       \"refund for INC-42\"",
            "how long  15m from approval",
            "rule      refunds-need-a-person: 2 approvals, 0 so far",
            "unusual   first request for `orders-api` in 90 days",
            "before    granted 3 times, denied once in 90 days",
            "decide    until 1970-01-01 00:30:00 UTC, 20:00 left",
        ];
        let mut from = 0;
        for part in order {
            let found = text.get(from..).and_then(|rest| rest.find(part));
            let found =
                found.unwrap_or_else(|| panic!("`{part}` is missing or too early:\n{text}"));
            from += found + part.len();
        }
        assert!(!text.contains("may not decide"), "{text}");
    }

    #[test]
    fn an_own_request_says_why_it_is_not_ones_to_decide() {
        let own = v1::PendingGrant {
            may_decide: false,
            why_not: "the request is your own".into(),
            ..waiting()
        };
        let text = dossier(&PLAIN, &own, Duration::ZERO);
        assert!(text.ends_with("you may not decide: the request is your own"), "{text}");
    }

    /// What a requester writes cannot move the cursor, turn the reading order or make up a line of ours.
    #[test]
    fn attack_xss_bidi_ansi_in_reason() {
        let evil = "x\u{1b}[2J\u{202e}\u{200b}\u{7}\r\n  rule      none";
        let mut waiting = waiting();
        let honest = dossier(&PLAIN, &waiting, Duration::ZERO).lines().count();
        waiting.identity_purpose = evil.into();
        waiting.owner_technical = evil.into();
        waiting.resource_purpose = evil.into();
        waiting.findings = vec![evil.into()];
        waiting.scopes = vec![v1::ScopeUse {
            name: evil.into(),
            purpose: evil.into(),
            risk: evil.into(),
            operations: vec![evil.into()],
        }];
        if let Some(grant) = &mut waiting.grant {
            grant.purpose = evil.into();
            grant.subject = evil.into();
            grant.person = evil.into();
            grant.task = Some(v1::Task { id: evil.into(), kind: evil.into(), url: evil.into() });
            grant.scopes = vec![evil.into()];
        }
        let text = dossier(&PLAIN, &waiting, Duration::ZERO);
        let hidden = |letter: char| letter != '\n' && protem_verify::names::unprintable(letter);
        assert!(!text.contains(hidden), "{text:?}");
        assert_eq!(text.lines().count(), honest, "{text}");
    }
}
