//! What policy says to a decision, as pure functions of a bundle and a record: the broker asks them, and so does the simulation.

use protem_core::command::Narrowed;
use protem_core::request::AccessRequest;
use protem_core::verdict::{ApproverVerdict, Effect, Ruling, Verdict};
use protem_verify::time::{Lifetime, Time};

use crate::engine::again::again;
use crate::engine::approvals::Narrow;
use crate::journal::records::GrantRecord;
use crate::policy::ask::{Action, Object};
use crate::policy::bundle::{Bundle, Decision};
use crate::policy::login::Person;

/// What policy says to a decision.
pub struct Verdicts {
    /// Of the person.
    pub approver: ApproverVerdict,
    /// Of the request as it waits.
    pub waits: Verdict,
    /// Of what is left of it.
    pub narrowed: Option<Narrowed>,
}

/// The verdicts on a decision: of the request as it waits and as it would be narrowed, and of the person on both. `account`:
/// the one that the person signed in with. `active`: how many live grants the identity holds; `of_use`: what is unusual about
/// their use.
#[must_use]
pub fn verdicts(
    bundle: &Bundle,
    (person, account): (&Person, &str),
    record: &GrantRecord,
    narrow: Option<&Narrow>,
    now: Time,
    counts: (u32, &[String]),
) -> Verdicts {
    let asked = &record.request;
    let longest = record.ruling.terms.lifetime;
    let less = narrow.map(|narrow| AccessRequest {
        // Never for longer than what waits: a scope that is dropped may have been what kept the others short.
        lifetime: Some(narrow.lifetime.unwrap_or(longest)),
        scopes: narrow.scopes.clone().unwrap_or_else(|| asked.scopes.clone()),
        ..asked.clone()
    });
    let waits = again(bundle, record, asked, now, counts);
    let narrowed = narrow.zip(less.as_ref()).map(|(narrow, less)| Narrowed {
        lifetime: narrow.lifetime,
        scopes: narrow.scopes.clone(),
        verdict: again(bundle, record, less, now, counts),
    });
    let of = |request: &AccessRequest, ruling: &Ruling, lifetime: Lifetime| {
        bundle.may_decide(&Decision {
            person,
            request,
            ruling,
            lifetime,
            behind: record.behind.as_ref(),
            account,
            digest: record.digest.unwrap_or_default(),
            now,
        })
    };
    let ruling = waits.ruling();
    let lifetime = narrow.and_then(|narrow| narrow.lifetime).unwrap_or(ruling.terms.lifetime);
    // INVARIANT(who_narrows_may_approve_what_waits): dropping a scope is deciding it, so it needs the right to.
    let mut approver = of(asked, ruling, lifetime.min(ruling.terms.lifetime));
    // And what needs approval only now that it is narrower needs theirs.
    if let (Some(less), Some(left)) = (&less, &narrowed)
        && approver.approver().may
        && left.verdict.ruling().effect == Effect::NeedsApproval
    {
        let ruling = left.verdict.ruling();
        approver = of(less, ruling, ruling.terms.lifetime);
    }
    Verdicts { approver, waits, narrowed }
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
    match bundle.stands_behind(person, identity, &record.ruling) {
        Ok(false) => {}
        Ok(true) => return Err("they are behind the request".to_owned()),
        Err(why) => {
            return Err(format!(
                "who is behind the request is not known, so it may be they: {why}"
            ));
        }
    }
    bundle.is_no_owner(person, identity)?;
    bundle.permits(person, Action::Review, &reviewed(record), now)
}

/// What a review is about.
#[must_use]
pub fn reviewed(record: &GrantRecord) -> [Object; 2] {
    [Object::Identity(record.request.by.identity.clone()), Object::Broker]
}
