//! What policy says to a decision, as pure functions of a bundle and a record: the broker asks them, and so does the simulation.

use protem_core::request::AccessRequest;
use protem_core::verdict::{ApproverVerdict, Verdict};
use protem_verify::time::Time;

use crate::engine::again::again;
use crate::engine::approvals::Narrow;
use crate::journal::records::GrantRecord;
use crate::policy::ask::{Action, Object};
use crate::policy::bundle::{Bundle, Decision};
use crate::policy::login::Person;

/// Both verdicts on a decision: of the request as it would be narrowed, and of the person on the request as it waits.
/// `account`: the one that the person signed in with. `active`: how many live grants the identity holds; `of_use`: what is
/// unusual about their use.
#[must_use]
pub fn verdicts(
    bundle: &Bundle,
    (person, account): (&Person, &str),
    record: &GrantRecord,
    narrow: &Narrow,
    now: Time,
    (active, of_use): (u32, &[String]),
) -> (Verdict, ApproverVerdict) {
    let asked = &record.request;
    let request = AccessRequest {
        lifetime: narrow.lifetime.or(asked.lifetime),
        scopes: narrow.scopes.clone().unwrap_or_else(|| asked.scopes.clone()),
        ..asked.clone()
    };
    let as_it_waits = bundle.reevaluate(&record.ruling, asked, now, (active, false), of_use);
    let verdict = again(bundle, record, &request, now, (active, of_use));
    let waits = as_it_waits.ruling();
    // INVARIANT(who_narrows_may_approve_what_waits): dropping a scope is deciding it, so it needs the right to.
    let approver = bundle.may_decide(&Decision {
        person,
        request: asked,
        ruling: waits,
        lifetime: narrow.lifetime.unwrap_or(waits.terms.lifetime).min(waits.terms.lifetime),
        behind: record.behind.as_ref(),
        account,
        digest: record.digest.unwrap_or_default(),
        now,
    });
    (verdict, approver)
}

/// Whether a person may close an emergency's review; else why not.
///
/// # Errors
/// When they are the requester's people, or policy does not let them.
pub fn may_review(
    bundle: &Bundle,
    person: &Person,
    record: &GrantRecord,
    now: Time,
) -> Result<(), String> {
    let identity = &record.request.by.identity;
    if record.behind.as_ref() == Some(&person.name) {
        return Err("they are behind the request".to_owned());
    }
    // INVARIANT(nobody_reviews_what_may_be_their_own): an emergency is not held up by an account that nobody has joined yet.
    match bundle.stands_behind(person, &record.ruling) {
        Ok(false) => {}
        Ok(true) => return Err("they are behind the request".to_owned()),
        Err(why) => {
            return Err(format!(
                "who is behind the request is not known, so it may be they: {why}; add it to a `[person]` of people.toml"
            ));
        }
    }
    if bundle.owns_identity(person, identity) {
        return Err(format!("they own `{identity}`, and its owners do not count"));
    }
    bundle.permits(person, Action::Review, &reviewed(record), now)
}

/// What a review is about.
#[must_use]
pub fn reviewed(record: &GrantRecord) -> [Object; 2] {
    [Object::Identity(record.request.by.identity.clone()), Object::Broker]
}
