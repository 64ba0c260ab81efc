//! Refusals, faults and bad input as statuses that say what to do next (design.md §4, Answers).

use std::time::Duration;

use prost::Message;
use protem_core::refusal::Refusal;
use protem_core::verdict::Ruling;
use protem_proto::wire::v1;
use protem_verify::codes::{Code, fault, find, law, wire};
use protem_verify::names::Malformed;
use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::serve::limits::{BUSY_RETRY, FAULT_RETRY};
use crate::serve::show;

/// An answer that is not the one that was asked for. Every one carries its stable code and a remedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Content>);

#[derive(Clone, Debug, PartialEq)]
struct Content {
    grpc: Grpc,
    code: Code,
    message: String,
    fields: Vec<(String, String)>,
    retry: Option<Duration>,
    verdict: Option<v1::Verdict>,
}

impl Problem {
    /// A problem with `code`; `message` says what is wrong, in lower case and without a full stop.
    #[must_use]
    pub fn new(grpc: Grpc, code: Code, message: impl Into<String>) -> Self {
        let (fields, message) = (Vec::new(), message.into());
        Self(Box::new(Content { grpc, code, message, fields, retry: None, verdict: None }))
    }

    /// A field that is wrong, in the wire's spelling.
    #[must_use]
    pub fn field(code: Code, field: &str, why: &str) -> Self {
        let mut problem = Self::new(Grpc::InvalidArgument, code, format!("`{field}` {why}"));
        problem.0.fields.push((field.to_owned(), why.to_owned()));
        problem
    }

    /// When to try again.
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.0.retry = Some(after);
        self
    }

    /// Names the field that a refusal is about.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        let why = self.0.message.clone();
        self.0.fields.push((field.to_owned(), why));
        self
    }

    /// What policy said.
    #[must_use]
    pub fn verdict(mut self, verdict: v1::Verdict) -> Self {
        self.0.verdict = Some(verdict);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, in a few words.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.0.code.title
    }

    /// Whether the law said no, as against the world breaking: asking again would not help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.0.code.id.starts_with("PT-01")
    }

    /// The status as it goes over the wire.
    #[must_use]
    pub fn status(&self) -> Status {
        let Content { grpc, code, message, fields, retry, verdict } = &*self.0;
        let mut details = ErrorDetails::new();
        let more = [("title".to_owned(), code.title.to_owned())];
        details.set_error_info(code.id, DOMAIN, more);
        for (field, why) in fields {
            details.add_bad_request_violation(field, why);
        }
        if let Some(after) = retry {
            details.set_retry_info(Some(*after));
        }
        // The remedy is text, not a page: a help link without an address.
        details.add_help_link(code.remedy, "");
        let status = Status::with_error_details(*grpc, message, details);
        match verdict {
            None => status,
            Some(verdict) => with_verdict(&status, verdict),
        }
    }
}

/// Adds the verdict as one more detail.
fn with_verdict(status: &Status, verdict: &v1::Verdict) -> Status {
    let Ok(mut inner) = tonic_types::Status::decode(status.details()) else {
        return status.clone();
    };
    inner.details.push(prost_types::Any {
        type_url: "type.googleapis.com/protem.v1.Verdict".into(),
        value: verdict.encode_to_vec(),
    });
    Status::with_details(status.code(), status.message(), inner.encode_to_vec().into())
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        problem.status()
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::field(wire::MALFORMED, malformed.field, malformed.why)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let problem = Self::new(grpc_of(&refusal), refusal.code(), refusal.to_string());
        let problem = match field_of(&refusal) {
            Some(field) => problem.about(field),
            None => problem,
        };
        match problem.0.grpc {
            Grpc::ResourceExhausted | Grpc::Unavailable => problem.retry(FAULT_RETRY),
            Grpc::Ok
            | Grpc::Cancelled
            | Grpc::Unknown
            | Grpc::InvalidArgument
            | Grpc::DeadlineExceeded
            | Grpc::NotFound
            | Grpc::AlreadyExists
            | Grpc::PermissionDenied
            | Grpc::FailedPrecondition
            | Grpc::Aborted
            | Grpc::OutOfRange
            | Grpc::Unimplemented
            | Grpc::Internal
            | Grpc::DataLoss
            | Grpc::Unauthenticated => problem,
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        // Paths and addresses of the store are for the broker's log, not for callers.
        tracing::warn!(code = fault.code().id, %fault, "fault");
        let after = if fault.code() == fault::STOPPING { BUSY_RETRY } else { FAULT_RETRY };
        Self::new(Grpc::Unavailable, fault.code(), fault.code().title).retry(after)
    }
}

impl From<Stop> for Problem {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => refusal.into(),
            Stop::Denied(ruling) => denied(&ruling),
            Stop::Faulted(fault) => fault.into(),
            Stop::Busy { retry_after } => {
                let why = "as many commands wait for a turn as may";
                Self::new(Grpc::ResourceExhausted, wire::BUSY, why).retry(retry_after)
            }
        }
    }
}

/// Policy's no, with its own code where it has one, and the verdict.
fn denied(ruling: &Ruling) -> Problem {
    let code = find(&ruling.code).unwrap_or(law::DENIED_BY_POLICY);
    let remedy =
        if ruling.remedy.is_empty() { String::new() } else { format!(": {}", ruling.remedy) };
    let why = format!("policy refused the request{remedy}");
    Problem::new(Grpc::PermissionDenied, code, why).verdict(show::verdict(ruling))
}

fn grpc_of(refusal: &Refusal) -> Grpc {
    match refusal {
        Refusal::UnknownTask(_) | Refusal::UnknownGrant(_) | Refusal::UnknownKey(_) => {
            Grpc::NotFound
        }
        Refusal::KeyReused(_) => Grpc::AlreadyExists,
        Refusal::KeyTooOld(_)
        | Refusal::KeyAhead(_)
        | Refusal::LifetimeOutOfRange(_)
        | Refusal::LeaseOutOfRange(_)
        | Refusal::NotNarrower
        | Refusal::ReasonRequired => Grpc::InvalidArgument,
        Refusal::TooManyActive { .. }
        | Refusal::TooManyPending { .. }
        | Refusal::TooManyLive
        | Refusal::TooManyTasks(_)
        | Refusal::TooManySigningKeys
        | Refusal::TooManyKeys(_) => Grpc::ResourceExhausted,
        Refusal::Quarantined(_) | Refusal::MayNotDecide { .. } | Refusal::MayNotReview { .. } => {
            Grpc::PermissionDenied
        }
        Refusal::TaskEnded(_)
        | Refusal::GrantEnded(_)
        | Refusal::HoldReplaced(_)
        | Refusal::NotPending(_)
        | Refusal::DigestChanged(_)
        | Refusal::NoApprovalToUndo(_)
        | Refusal::ReviewOpen(_)
        | Refusal::NoReview(_)
        | Refusal::BundleMoved(_)
        | Refusal::NarrowerRefused(_)
        | Refusal::StillPending(_)
        | Refusal::KeyState(_)
        | Refusal::AlreadyOpen => Grpc::FailedPrecondition,
        Refusal::VerdictStale | Refusal::NoSigningKey => Grpc::Unavailable,
        Refusal::RequestMismatch => Grpc::Internal,
    }
}

/// The field that a refusal of invalid input is about.
fn field_of(refusal: &Refusal) -> Option<&'static str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most refusals are about no single field")]
    match refusal {
        Refusal::KeyTooOld(_) | Refusal::KeyAhead(_) | Refusal::KeyReused(_) => Some("request_id"),
        Refusal::LifetimeOutOfRange(_) => Some("lifetime"),
        Refusal::LeaseOutOfRange(_) => Some("lease"),
        Refusal::ReasonRequired => Some("note"),
        _ => None,
    }
}

/// `ErrorInfo.domain` of every answer.
pub const DOMAIN: &str = "protem";

#[cfg(test)]
mod tests {
    use protem_verify::ids::GrantId;

    use super::*;

    #[track_caller]
    fn check(problem: impl Into<Problem>, grpc: Grpc, reason: &str) -> ErrorDetails {
        let status = Status::from(problem.into());
        assert_eq!(status.code(), grpc);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN));
        assert!(!details.help().unwrap().links.is_empty());
        details
    }

    #[test]
    fn refusals_and_faults_say_their_code() {
        check(Refusal::UnknownGrant(GrantId([1; 16])), Grpc::NotFound, "PT-0105");
        let aged = check(
            Refusal::KeyTooOld(protem_verify::ids::RequestId([0; 16])),
            Grpc::InvalidArgument,
            "PT-0107",
        );
        assert_eq!(aged.bad_request().unwrap().field_violations[0].field, "request_id");
        let capped = check(Refusal::TooManyLive, Grpc::ResourceExhausted, "PT-0129");
        assert!(capped.retry_info().unwrap().retry_delay.is_some());
        let fault = check(Fault::Store("/secret/path".into()), Grpc::Unavailable, "PT-0501");
        assert!(fault.retry_info().is_some());
        let status = Status::from(Problem::from(Fault::Store("/secret/path".into())));
        assert!(!status.message().contains("secret"));
    }

    #[test]
    fn bad_input_names_its_field() {
        let bad = Malformed { field: "task.id", why: "is empty" };
        let details = check(bad, Grpc::InvalidArgument, "PT-0201");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "task.id");
    }

    #[test]
    fn a_denial_carries_its_verdict() {
        let verdict = v1::Verdict { remedy: "ask for less".into(), ..Default::default() };
        let problem = Problem::new(Grpc::PermissionDenied, law::DENIED_BY_POLICY, "no");
        let status = Status::from(problem.verdict(verdict.clone()));
        let inner = tonic_types::Status::decode(status.details()).unwrap();
        let any = inner.details.iter().find(|any| any.type_url.ends_with("/protem.v1.Verdict"));
        assert_eq!(v1::Verdict::decode(any.unwrap().value.as_slice()), Ok(verdict));
        assert!(status.get_error_details().error_info().is_some());
    }
}
