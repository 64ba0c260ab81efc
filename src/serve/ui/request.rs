//! One request on one screen, in the order in which an approver thinks: who, what, how long, why; what it allows; which rule;
//! what is usual; and only then the decision.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_verify::ids::GrantId;
use protem_verify::time::Time;
use serde::Deserialize;

use crate::engine::approvals::Waiting;
use crate::serve::approvals::pending;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::OPERATIONS_SHOWN;
use crate::serve::ui::outcome;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, both, count, given, length, quoted, sentence, span, to_you};

/// What was just done, after the redirect that follows a form.
#[derive(Debug, Default, Deserialize)]
pub struct Done {
    /// A word of ours.
    #[serde(default)]
    pub done: String,
}

#[derive(Template)]
#[template(path = "request.html", config = ".askama.toml")]
struct RequestPage {
    frame: Frame,
    done: &'static str,
    asked: Asked,
    scopes: Vec<Scope>,
    gateways: String,
    resource_purpose: String,
    resource_owner: String,
    rule: Rule,
    history: History,
    decide: Decide,
}

/// Who wants what, for how long, why.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) identity: String,
    pub(super) identity_purpose: String,
    pub(super) subject: String,
    pub(super) person: String,
    pub(super) team: String,
    pub(super) tier: String,
    pub(super) owners: String,
    pub(super) task: String,
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) scopes: String,
    pub(super) resource: String,
    pub(super) lifetime: String,
    pub(super) purpose: String,
    pub(super) at: Moment,
    pub(super) emergency: bool,
    pub(super) risk: String,
}

/// What a scope lets its holder do.
struct Scope {
    name: String,
    purpose: String,
    risk: String,
    operations: Vec<String>,
    more: usize,
}

/// Which rule, and how far it is met.
struct Rule {
    policies: Vec<String>,
    limits: Vec<String>,
    needed: String,
    given: usize,
    approvals: Vec<Given>,
    groups: String,
    remind: Option<Moment>,
    then: String,
    /// Why this person may decide.
    why: String,
}

/// An approval that was given.
pub(super) struct Given {
    pub(super) by: String,
    pub(super) note: String,
    pub(super) at: Moment,
}

/// What is usual, and what is not.
struct History {
    first: bool,
    granted: u32,
    denied: u32,
    last: Option<Moment>,
    findings: Vec<Finding>,
}

/// Something unusual: its word, and the numbers.
struct Finding {
    word: String,
    text: String,
}

/// The decision.
struct Decide {
    may: bool,
    why_not: String,
    approved: bool,
    by: Moment,
    digest: String,
    /// Shorter times that may be approved, in seconds and in words.
    shorter: Vec<(u64, String)>,
    /// Scopes, to be left out one by one; none where there is but one.
    scopes: Vec<String>,
    /// Tells one state of the request from another.
    version: String,
    /// The same of what there is to decide: who else approved changes nothing about it.
    form: String,
}

/// The page of a request: while it waits with its forms, afterwards with what became of it.
///
/// # Errors
/// When there is none, or none that the person may know of.
pub async fn show(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Path(id): Path<String>,
    Query(done): Query<Done>,
) -> Result<Response, Response> {
    let Ok(id) = id.parse::<GrantId>() else { return Err(problem::nothing(Some(&entered))) };
    let refuse = |stop| problem::page(&site, Some(&entered), &Problem::from(stop).status());
    let waiting = site.broker.pending_one(&entered.person, id).await.map_err(refuse)?;
    match waiting {
        Some(waiting) => Ok(page(StatusCode::OK, &screen(&site, &entered, &waiting, &done.done))),
        None => outcome::show(&site, &entered, id, done_words(&done.done)).await,
    }
}

fn screen(site: &Site, entered: &Entered, waiting: &Waiting, done: &str) -> RequestPage {
    let one = pending(waiting);
    let grant = one.grant.clone().unwrap_or_default();
    let now = site.broker.now();
    let bundle = site.broker.bundle();
    let resource = bundle.catalog().resources.get(&waiting.grant.request.resource);
    let owner =
        resource.map(|known| (known.owner.business.to_string(), known.owner.technical.to_string()));
    let gateways = bundle.gateways().iter();
    let gateways = gateways
        .filter(|(_, gateway)| gateway.resources.contains(&waiting.grant.request.resource))
        .map(|(name, _)| name.to_string());
    let title = format!("{} wants {}", grant.identity, grant.scopes.join(", "));
    RequestPage {
        frame: Frame::of(entered, Tab::Waiting, title).live("waiting"),
        done: done_words(done),
        scopes: one.scopes.iter().map(scope).collect(),
        gateways: gateways.collect::<Vec<_>>().join(", "),
        resource_purpose: sentence(&one.resource_purpose),
        resource_owner: owner.map(|(one, other)| both(&one, &other)).unwrap_or_default(),
        rule: rule(&one, &grant, entered, now),
        history: history(&one, &grant, now),
        decide: decide(&one, &grant, now),
        asked: asked(&grant, Some(&one), now),
    }
}

/// The first of a page: of a request that waits with what the inventory knows of it.
pub(super) fn asked(grant: &v1::Grant, one: Option<&v1::PendingGrant>, now: Time) -> Asked {
    let task = grant.task.clone().unwrap_or_default();
    let of = |text: fn(&v1::PendingGrant) -> &String| one.map(text).cloned().unwrap_or_default();
    let web = ["https://", "http://"].iter().any(|scheme| task.url.starts_with(scheme));
    Asked {
        id: grant.id.clone(),
        identity: grant.identity.clone(),
        identity_purpose: of(|one| &one.identity_purpose),
        subject: grant.subject.clone(),
        person: grant.person.clone(),
        team: of(|one| &one.team),
        tier: of(|one| &one.trust_tier),
        owners: one.map(|one| both(&one.owner_business, &one.owner_technical)).unwrap_or_default(),
        task: task.id,
        kind: task.kind,
        url: if web { task.url } else { String::new() },
        scopes: grant.scopes.join(", "),
        resource: grant.resource.clone(),
        lifetime: length(span(grant.lifetime.as_ref())),
        purpose: grant.purpose.clone(),
        at: grant.requested_at.map(|at| Moment::of(&at, now)).unwrap_or_default(),
        emergency: grant.emergency,
        risk: of(|one| &one.risk),
    }
}

fn scope(of: &v1::ScopeUse) -> Scope {
    Scope {
        name: of.name.clone(),
        purpose: of.purpose.clone(),
        risk: of.risk.clone(),
        operations: of.operations.iter().take(OPERATIONS_SHOWN).cloned().collect(),
        more: of.operations.len().saturating_sub(OPERATIONS_SHOWN),
    }
}

fn rule(one: &v1::PendingGrant, grant: &v1::Grant, entered: &Entered, now: Time) -> Rule {
    let verdict = grant.verdict.clone().unwrap_or_default();
    let own: Vec<&str> = entered.person.groups.iter().map(|group| group.as_str()).collect();
    let shared: Vec<&String> =
        grant.approver_groups.iter().filter(|group| own.contains(&group.as_str())).collect();
    let why = match (one.may_decide, shared.as_slice()) {
        (false, _) => String::new(),
        (true, []) => "You may decide: policy permits it to you.".to_owned(),
        (true, groups) => {
            let groups: Vec<&str> = groups.iter().map(|group| group.as_str()).collect();
            format!("You may decide: you are in {}, whom policy asks.", groups.join(", "))
        }
    };
    Rule {
        policies: verdict.policies,
        limits: verdict.limits.iter().map(|limit| quoted(limit)).collect(),
        needed: count(u64::from(grant.approvals_required), "approval", "approvals"),
        given: given(grant),
        approvals: approvals(grant, now),
        groups: grant.approver_groups.join(", "),
        remind: one.remind_at.map(|at| Moment::of(&at, now)),
        then: one.then_group.clone(),
        why,
    }
}

/// Who said yes, in their words.
pub(super) fn approvals(grant: &v1::Grant, now: Time) -> Vec<Given> {
    let given = grant.approvals.iter().filter(|one| one.approve);
    given
        .map(|one| Given {
            by: one.approver.clone(),
            note: one.reason.clone(),
            at: one.at.map(|at| Moment::of(&at, now)).unwrap_or_default(),
        })
        .collect()
}

fn history(one: &v1::PendingGrant, grant: &v1::Grant, now: Time) -> History {
    let then = grant.verdict.iter().flat_map(|verdict| &verdict.findings);
    let found: Vec<&String> = match one.findings.is_empty() {
        true => then.collect(),
        false => one.findings.iter().collect(),
    };
    let finding = |text: &String| match text.split_once(": ") {
        Some((word, text)) => Finding { word: word.replace('-', " "), text: quoted(text) },
        None => Finding { word: String::new(), text: quoted(text) },
    };
    History {
        first: one.similar_granted == 0 && one.similar_denied == 0,
        granted: one.similar_granted,
        denied: one.similar_denied,
        last: one.similar_last.map(|at| Moment::of(&at, now)),
        findings: found.into_iter().map(finding).collect(),
    }
}

fn decide(one: &v1::PendingGrant, grant: &v1::Grant, now: Time) -> Decide {
    let why_not = match one.why_not.as_str() {
        "" => "policy lets other people decide".to_owned(),
        why => to_you(why),
    };
    let lifetime = span(grant.lifetime.as_ref()).as_secs();
    let shorter = SHORTER.iter().filter(|minutes| **minutes * 60 < lifetime);
    let shorter =
        shorter.map(|minutes| (minutes * 60, length(std::time::Duration::from_secs(minutes * 60))));
    let by = grant.decide_by.map(|by| Moment::of(&by, now)).unwrap_or_default();
    let (may, approved) = (one.may_decide, one.approved_by_me);
    Decide {
        may,
        // What somebody decides on, and may not change under their hand: also what is unusual by now.
        form: format!("{} {may} {approved} {} {why_not} {}", grant.digest, by.iso, unusual(one)),
        why_not,
        approved,
        by,
        digest: grant.digest.clone(),
        shorter: shorter.collect(),
        scopes: if grant.scopes.len() > 1 { grant.scopes.clone() } else { Vec::new() },
        version: format!("{} {} {may} {}", grant.digest, approvers(grant), unusual(one)),
    }
}

/// Who approved so far: one who took it back and another one who gave theirs are no smaller a change than a number.
fn approvers(grant: &v1::Grant) -> String {
    let by: Vec<&str> = grant.approvals.iter().map(|one| one.approver.as_str()).collect();
    by.join(",")
}

fn unusual(one: &v1::PendingGrant) -> String {
    one.findings.join(";")
}

/// What an approver may shorten to, in minutes.
const SHORTER: [u64; 8] = [1, 5, 10, 15, 30, 60, 120, 240];

/// What was just done, in words; nothing that an address could say by itself.
pub(super) fn done_words(done: &str) -> &'static str {
    match done {
        "approve" => "You approved this request.",
        "deny" => "You denied this request.",
        "take-back" => "You took your approval back.",
        "close" => "You closed this review.",
        _ => "",
    }
}
