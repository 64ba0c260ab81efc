//! One grant: what it may do, who said yes and by which rule, its times, what was done with it, and ending it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use protem_core::event::{CredentialIssued, Event};
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::time::Time;

use crate::journal::fault::Fault;
use crate::journal::reader::Reader;
use crate::journal::records::GrantRecord;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::outcome::person;
use crate::serve::ui::problem;
use crate::serve::ui::request::{Asked, Given, approvals, asked};
use crate::serve::ui::rows::{GrantRow, grant_row};
use crate::serve::ui::site::Site;
use crate::serve::ui::stop::may_end;
use crate::serve::ui::words::{Moment, count, quoted, sentence};
use crate::serve::used;
use crate::serve::who;

#[derive(Template)]
#[template(path = "grant.html", config = ".askama.toml")]
struct GrantPage {
    frame: Frame,
    row: GrantRow,
    asked: Asked,
    scopes: Vec<Allowed>,
    rule: Rule,
    times: Times,
    usage: Usage,
    stop: Stop,
}

/// A scope and its operations.
struct Allowed {
    scope: String,
    operations: Vec<String>,
}

/// By which rule, and whose word.
struct Rule {
    policies: Vec<String>,
    limits: Vec<String>,
    findings: Vec<String>,
    needed: u32,
    needed_words: String,
    approvals: Vec<Given>,
    reviewed: Option<Given>,
    bundle: String,
}

/// When it began, when it ends, and what its newest credential says.
struct Times {
    from: Option<Moment>,
    until: Option<Moment>,
    ended: Option<Moment>,
    ended_by: String,
    note: String,
    seq: u64,
    credential: Option<Newest>,
}

/// The newest credential.
struct Newest {
    /// How many there were.
    count: String,
    issued: Moment,
    expires: Moment,
    /// Whether it may still be accepted.
    counts: bool,
}

/// What was done with it, as gateways say.
struct Usage {
    used: Vec<Use>,
    never: Vec<String>,
    refused: Vec<Use>,
}

/// One operation.
struct Use {
    operation: String,
    /// The scope that allowed it, or the code that refused it.
    by: String,
    count: String,
    last: Option<Moment>,
}

/// Ending it.
struct Stop {
    live: bool,
    may: bool,
    why_not: String,
    /// The entry that ended it, where its receipts can be followed; 0: nowhere.
    receipts: u64,
}

/// The page.
///
/// # Errors
/// When there is no such grant, or the person may not look at it.
pub async fn show(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    let Ok(id) = id.parse::<GrantId>() else { return Err(problem::nothing(Some(&entered))) };
    let screen = screen(&site, &entered, id).await;
    let screen =
        screen.map_err(|no| match no.code() == protem_verify::codes::law::UNKNOWN_GRANT {
            true => problem::nothing(Some(&entered)),
            false => problem::page(&site, Some(&entered), &no.status()),
        })?;
    Ok(page(StatusCode::OK, &screen))
}

async fn screen(site: &Site, entered: &Entered, id: GrantId) -> Result<GrantPage, Problem> {
    let record = who::visible(&site.broker, entered.caller()?, id).await?;
    let answer = used::grant(&site.broker, &record).await?;
    let story = who::read(&site.broker, move |reader| Story::read(reader, id)).await?;
    let (grant, usage) = (answer.grant.unwrap_or_default(), answer.usage.unwrap_or_default());
    let now = site.broker.now();
    let row = grant_row(&grant, now);
    let title = format!("{}: {}", grant.identity, row.state);
    let live = matches!(grant.state(), GrantState::Pending | GrantState::Active);
    let may = if live { may_end(site, entered, id).await } else { Ok(()) };
    let followed = story.ended.filter(|seq| site.broker.mark(*seq).is_some());
    Ok(GrantPage {
        frame: Frame::of(entered, Tab::Grants, title).live(format!("grant-{}", id.text())),
        asked: asked(&grant, None, now),
        scopes: allowed(&record),
        rule: rule(&record, &grant, now),
        times: times(&grant, &story, live, now),
        usage: Usage {
            used: usage.used.iter().map(|one| operation(one, &one.scope, now)).collect(),
            refused: usage.refused.iter().map(|one| operation(one, &one.refusal, now)).collect(),
            never: usage.never_used,
        },
        stop: Stop {
            live,
            may: may.is_ok(),
            why_not: may.err().map(|no| sentence(no.status().message())).unwrap_or_default(),
            receipts: followed.map_or(0, |seq| seq.0),
        },
        row,
    })
}

/// What the journal's own entries say beside the record.
struct Story {
    /// Number, issue and end of the newest credential.
    newest: Option<(u32, Time, Time)>,
    /// The entry that ended it.
    ended: Option<Seq>,
}

impl Story {
    fn read(reader: &dyn Reader, id: GrantId) -> Result<Self, Fault> {
        let mut story = Self { newest: None, ended: None };
        for seq in reader.grant_entries(&id)?.into_iter().rev().take(ENTRIES_READ) {
            let Some(entry) = reader.entry(seq)? else { continue };
            if matches!(entry.what(), Event::GrantEnded(_)) {
                story.ended = Some(seq);
            }
            if let Some(issued) = issued(entry.what()) {
                story.newest = Some((issued.number, issued.iat, issued.exp));
                break;
            }
        }
        Ok(story)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "two kinds of entry issue")]
fn issued(event: &Event) -> Option<&CredentialIssued> {
    match event {
        Event::CredentialIssued(issued) => Some(issued),
        Event::GrantActivated(activated) => Some(&activated.credential),
        _ => None,
    }
}

fn allowed(record: &GrantRecord) -> Vec<Allowed> {
    let of = |scope: &str| {
        let operations = record.ruling.terms.operations.iter();
        let own = operations.filter_map(|both| both.split_once(' '));
        own.filter(|(of, _)| *of == scope).map(|(_, operation)| operation.to_owned()).collect()
    };
    let scopes = record.request.scopes.iter().map(ToString::to_string);
    scopes.map(|scope| Allowed { operations: of(&scope), scope }).collect()
}

fn rule(record: &GrantRecord, grant: &v1::Grant, now: Time) -> Rule {
    let verdict = grant.verdict.clone().unwrap_or_default();
    let needed = grant.approvals_required;
    Rule {
        policies: verdict.policies,
        limits: verdict.limits.iter().map(|limit| quoted(limit)).collect(),
        findings: verdict.findings.iter().map(|finding| quoted(finding)).collect(),
        needed,
        needed_words: count(u64::from(needed), "approval", "approvals"),
        approvals: approvals(grant, now),
        reviewed: record.reviewed.as_ref().map(|review| Given {
            by: review.by.to_string(),
            note: review.note.to_string(),
            at: Moment::at(review.at, now),
        }),
        bundle: verdict.bundle.chars().take(DIGEST_SHOWN).collect(),
    }
}

fn times(grant: &v1::Grant, story: &Story, live: bool, now: Time) -> Times {
    let moment = |at: Option<prost_types::Timestamp>| at.map(|at| Moment::of(&at, now));
    let credential = story.newest.map(|(number, iat, exp)| Newest {
        count: count(u64::from(number).saturating_add(1), "credential", "credentials"),
        issued: Moment::at(iat, now),
        expires: Moment::at(exp, now),
        counts: live && exp > now,
    });
    Times {
        from: moment(grant.active_from),
        until: moment(grant.active_until),
        ended: moment(grant.ended_at),
        ended_by: person(&grant.ended_by),
        note: grant.end_note.clone(),
        seq: grant.seq,
        credential,
    }
}

fn operation(one: &v1::OperationUse, by: &str, now: Time) -> Use {
    Use {
        operation: match one.operation.as_str() {
            "" => "something that the catalog does not have".to_owned(),
            operation => operation.to_owned(),
        },
        by: by.to_owned(),
        count: count(one.count, "time", "times"),
        last: one.last.map(|at| Moment::of(&at, now)),
    }
}

/// Entries of a grant that are read for its newest credential and its end, newest first: few come after a credential.
const ENTRIES_READ: usize = 8;
/// Enough of a digest to tell bundles apart.
const DIGEST_SHOWN: usize = 12;
