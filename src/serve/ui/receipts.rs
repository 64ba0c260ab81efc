//! What was ended, and when that took force at each gateway: drawn as the receipts arrive.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use protem_core::event::{EndReason, Event, Target};
use protem_verify::ids::Seq;

use crate::engine::filter;
use crate::engine::receipts::{Enforcement, How};
use crate::journal::committed::Committed;
use crate::policy::ask::Object;
use crate::policy::login::Caller;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::limits::LOOK_AGAIN_SECONDS;
use crate::serve::ui::outcome::person;
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;
use crate::serve::ui::stop::of_identity;
use crate::serve::ui::words::{Moment, actor, brief, count, ended};
use crate::serve::who;

#[derive(Template)]
#[template(path = "receipts.html", config = ".askama.toml")]
struct ReceiptsPage {
    frame: Frame,
    /// What was ended, and where it is shown; no address: nowhere.
    what: String,
    address: String,
    reason: &'static str,
    by: String,
    note: String,
    at: Moment,
    seq: u64,
    /// It could simply ask again.
    may_ask_again: bool,
    state: Force,
}

/// How far it has come.
struct Force {
    /// Whether this broker still knows.
    known: bool,
    everywhere: bool,
    said: String,
    /// The longest that it can take, whatever fails.
    bound: String,
    receipts: Vec<Row>,
}

/// One gateway instance.
struct Row {
    gateway: String,
    instance: String,
    how: &'static str,
    tone: &'static str,
    after: String,
}

/// The page.
///
/// # Errors
/// When no entry of that number ended anything that the person may know of.
pub async fn show(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Path(seq): Path<String>,
) -> Result<Response, Response> {
    let nothing = || problem::nothing(Some(&entered));
    let seq = Seq(seq.parse().map_err(|_| nothing())?);
    let refuse =
        |no: crate::serve::status::Problem| problem::page(&site, Some(&entered), &no.status());
    let caller = entered.caller().map_err(refuse)?;
    let entry = who::read(&site.broker, move |reader| reader.entry(seq)).await.map_err(refuse)?;
    let entry = entry.filter(|entry| may_know(&site, caller, entry)).ok_or_else(nothing)?;
    let over = Over::of(entry.what()).ok_or_else(nothing)?;
    let state = state(&site, seq);
    let title = format!("{} revoked", over.what);
    let mut frame = Frame::of(&entered, Tab::Grants, title);
    if state.known && !state.everywhere {
        frame = frame.live(format!("revocation-{}", seq.0)).again(LOOK_AGAIN_SECONDS);
    }
    let by = match person(&entry.actor().0) {
        by if by.is_empty() => actor(&entry.actor().0).to_owned(),
        by => by,
    };
    let shown = ReceiptsPage {
        frame,
        what: over.what,
        address: over.address,
        reason: ended(filter::reason(over.reason)),
        by,
        note: over.note,
        at: Moment::at(entry.at(), site.broker.now()),
        seq: seq.0,
        may_ask_again: over.reason == EndReason::Revoked,
        state,
    };
    Ok(page(StatusCode::OK, &shown))
}

/// What an entry ended.
struct Over {
    what: String,
    address: String,
    reason: EndReason,
    note: String,
}

impl Over {
    #[expect(clippy::wildcard_enum_match_arm, reason = "two kinds of entry end access")]
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::GrantEnded(ended) => Some(Self {
                what: format!("a grant of {} on {}", ended.identity, ended.resource),
                address: format!("/ui/grants/{}", ended.grant.text()),
                reason: ended.reason,
                note: ended.note.to_string(),
            }),
            Event::CutOff { target, reason, note, .. } => {
                let (what, address) = cut(target);
                Some(Self { what, address, reason: *reason, note: note.to_string() })
            }
            _ => None,
        }
    }
}

fn cut(target: &Target) -> (String, String) {
    match target {
        Target::Grant(id) => ("a grant".to_owned(), format!("/ui/grants/{}", id.text())),
        Target::Task(identity, task) => {
            (format!("task {task} of {identity}"), of_identity(identity))
        }
        Target::Identity(identity) => (format!("all access of {identity}"), of_identity(identity)),
        Target::Resource(resource) => (format!("all access to {resource}"), String::new()),
        Target::Scope(resource, scope) => (format!("{scope} on {resource}"), String::new()),
        Target::Key(key) => (format!("all that key {key} signed"), String::new()),
        Target::Everything => ("all access".to_owned(), String::new()),
    }
}

/// Who ended it may follow it; so may who may look at what it was.
fn may_know(site: &Site, caller: &Caller, entry: &Committed<Event>) -> bool {
    #[expect(clippy::wildcard_enum_match_arm, reason = "two kinds of entry end access")]
    let objects = match entry.what() {
        Event::GrantEnded(ended) => {
            vec![Object::Identity(ended.identity.clone()), Object::Resource(ended.resource.clone())]
        }
        Event::CutOff { target, .. } => {
            let identity = target.identity().cloned().map(Object::Identity);
            let resource = target.resource().cloned().map(Object::Resource);
            identity.into_iter().chain(resource).collect()
        }
        _ => return false,
    };
    *entry.actor() == caller.actor() || who::may_view(&site.broker, caller, &objects).is_ok()
}

fn state(site: &Site, seq: Seq) -> Force {
    let Some(mark) = site.broker.mark(seq) else {
        let (said, bound) = (String::new(), String::new());
        return Force { known: false, everywhere: false, said, bound, receipts: Vec::new() };
    };
    let known = site.broker.enforcement(&mark);
    Force {
        known: true,
        everywhere: known.everywhere,
        said: said(&known),
        bound: brief(site.broker.bound(&mark)),
        receipts: known
            .receipts
            .iter()
            .map(|receipt| {
                let (how, tone) = match receipt.how {
                    How::Waiting => ("waiting", "warn"),
                    How::Acknowledged => ("refuses it", "good"),
                    How::BoundPassed => ("bound passed", "quiet"),
                };
                let after = match receipt.how {
                    How::Waiting => "has not said so yet".to_owned(),
                    How::Acknowledged => format!("acknowledged after {}", brief(receipt.after)),
                    How::BoundPassed => {
                        format!(
                            "silent, and too old to accept anything after {}",
                            brief(receipt.after)
                        )
                    }
                };
                let gateway = receipt.gateway.to_string();
                Row { gateway, instance: short(&receipt.instance), how, tone, after }
            })
            .collect(),
    }
}

fn said(known: &Enforcement) -> String {
    let all = u64::try_from(known.receipts.len()).unwrap_or(u64::MAX);
    let done = known.receipts.iter().filter(|receipt| receipt.how != How::Waiting).count();
    match (known.everywhere, all) {
        (true, 0) => "No gateway that could accept it follows this broker.".to_owned(),
        (true, _) => format!("Enforced everywhere, at {}.", count(all, "gateway", "gateways")),
        (false, 0) => "No gateway has said so yet.".to_owned(),
        (false, all) => {
            format!("{done} of {} refuse it already.", count(all, "gateway", "gateways"))
        }
    }
}

/// What an open page shows of it, as a number.
pub(super) async fn seen(site: &Site, caller: &Caller, seq: Seq) -> u64 {
    let mut hash = DefaultHasher::new();
    let entry = who::read(&site.broker, move |reader| reader.entry(seq)).await.ok().flatten();
    if entry.is_some_and(|entry| may_know(site, caller, &entry)) {
        let state = state(site, seq);
        (state.known, state.everywhere).hash(&mut hash);
        state.receipts.iter().for_each(|row| {
            (&row.gateway, &row.instance, row.how).hash(&mut hash);
        });
    }
    hash.finish()
}

/// An instance's random name, as far as people compare it.
#[must_use]
pub fn short(instance: &str) -> String {
    instance.chars().take(INSTANCE_SHOWN).collect()
}

/// Enough of an instance's name to tell replicas apart.
const INSTANCE_SHOWN: usize = 8;
