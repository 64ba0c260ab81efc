//! Entries for the journal's tests.

use std::time::Duration;

use protem_core::event::{
    Activated, Actor, Asked, CredentialIssued, Draft, EndReason, Ended, Event, Requested, Target,
};
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Terms};
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::names::{KeyId, PersonName, TaskId, TaskKind, Words};
use protem_verify::time::{Lifetime, Staleness, Time};

pub(in crate::journal) const START: Time = Time::from_millis(1_800_000_000_000);

pub(in crate::journal) fn id(number: u64) -> GrantId {
    GrantId(u128::from(number).to_be_bytes())
}

pub(in crate::journal) fn words(text: &str) -> Words {
    Words::parse("note", text).unwrap()
}

pub(in crate::journal) fn draft(event: Event) -> Draft {
    Draft { actor: Actor("system".into()), at: START, event }
}

pub(in crate::journal) fn opened() -> Draft {
    draft(Event::JournalOpened {
        journal: JournalId([1; 16]),
        epoch: Epoch(START.as_millis()),
        issuer: "https://protem".into(),
        dev: false,
    })
}

pub(in crate::journal) fn person(name: &str) -> PersonName {
    PersonName::try_from(name).unwrap()
}

fn workload(number: u64) -> Workload {
    Workload {
        identity: format!("team/{}", number % 7).as_str().try_into().unwrap(),
        subject: format!("https://issuer|{number}").as_str().try_into().unwrap(),
    }
}

fn task(number: u64) -> TaskId {
    format!("task-{number}").as_str().try_into().unwrap()
}

pub(in crate::journal) fn scopes(all: &[&str]) -> Scopes {
    Scopes::new(all.iter().map(|scope| (*scope).try_into().unwrap()).collect()).unwrap()
}

pub(in crate::journal) fn request(number: u64) -> AccessRequest {
    AccessRequest {
        by: workload(number),
        task: Task {
            id: task(number),
            kind: TaskKind::try_from("ci-job").unwrap(),
            url: words("https://ci/1"),
        },
        resource: "orders-api".try_into().unwrap(),
        scopes: scopes(&["orders:read", "orders:write"]),
        lifetime: None,
        purpose: words("INC-42: refunds, as agreed"),
        key: None,
        emergency: false,
        proof: None,
    }
}

fn terms() -> Terms {
    Terms {
        lifetime: Lifetime(Duration::from_secs(900)),
        credential: Lifetime(Duration::from_secs(300)),
        fresh: Staleness(Duration::from_secs(5)),
        audience: "https://orders".into(),
        claims: [("https://claims/team".into(), "a".into())].into(),
        operations: ["orders:read GET /v1/orders".into()].into(),
        active_max: 10,
        pending_max: 5,
    }
}

pub(in crate::journal) fn asked(number: u64) -> Asked {
    let request = request(number);
    let ruling = Ruling {
        content: request.content(),
        effect: Effect::Issue,
        policies: vec!["orders-read".try_into().unwrap()],
        bundle: Hash([7; 32]),
        at: START,
        terms: terms(),
        limits: vec!["lifetime 15m, from scope `orders:read`".into()],
        findings: Vec::new(),
        code: String::new(),
        remedy: String::new(),
        rule: None,
        active: Some(1),
        input: br#"{"principal":{"type":"Identity","id":"team/a"},"context":{}}"#.as_slice().into(),
    };
    Asked { request, ruling }
}

pub(in crate::journal) fn issued(number: u64) -> CredentialIssued {
    let Asked { request, ruling } = asked(number);
    CredentialIssued {
        grant: id(number),
        number: 0,
        by: request.by,
        task: request.task.id,
        resource: request.resource,
        scopes: request.scopes,
        terms: ruling.terms,
        key: KeyId::try_from("k1").unwrap(),
        iat: START,
        exp: START + Duration::from_secs(300),
        until: START + Duration::from_secs(900),
        activated: None,
        epoch: Epoch(START.as_millis()),
        proof: None,
    }
}

pub(in crate::journal) fn granted(number: u64) -> Draft {
    draft(Event::GrantActivated(Box::new(Activated {
        asked: Some(asked(number)),
        until: START + Duration::from_secs(900),
        credential: issued(number),
    })))
}

/// A renewal of it that dies before its first credential does.
pub(in crate::journal) fn renewed(number: u64) -> Draft {
    let first = issued(number);
    let (exp, activated) = (first.exp.minus(Duration::from_secs(60)), Some(Seq(1)));
    draft(Event::CredentialIssued(Box::new(CredentialIssued {
        number: 1,
        iat: exp.minus(Duration::from_secs(10)),
        exp,
        activated,
        ..first
    })))
}

pub(in crate::journal) fn requested(number: u64) -> Draft {
    let mut asked = asked(number);
    asked.ruling.effect = Effect::NeedsApproval;
    asked.ruling.rule = Some(ApprovalRule {
        required: 2,
        decide_within: Duration::from_secs(3_600),
        remind: None,
        then: None,
        policies: Hash([8; 32]),
        groups: vec!["owners".try_into().unwrap()],
    });
    draft(Event::GrantRequested(Box::new(Requested {
        grant: id(number),
        asked,
        decide_by: START + Duration::from_secs(3_600),
        digest: Hash([9; 32]),
        behind: None,
    })))
}

pub(in crate::journal) fn activated(number: u64) -> Draft {
    draft(Event::GrantActivated(Box::new(Activated {
        asked: None,
        until: START + Duration::from_secs(900),
        credential: issued(number),
    })))
}

pub(in crate::journal) fn ended(number: u64) -> Draft {
    let CredentialIssued { grant, by, task, resource, exp, .. } = issued(number);
    draft(Event::GrantEnded(Box::new(Ended {
        grant,
        identity: by.identity,
        task,
        resource,
        reason: EndReason::Completed,
        note: words("done"),
        ended: START,
        last_exp: Some(exp),
        told_by: None,
    })))
}

pub(in crate::journal) fn cut_off(target: Target) -> Draft {
    draft(Event::CutOff {
        target,
        reason: EndReason::Revoked,
        note: words("leaked"),
        forget_after: None,
    })
}
