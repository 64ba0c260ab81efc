//! An answer that is not the one that was asked for: what happened, why, and what helps, with its exit code.

use std::time::Duration;

use http::Uri;
use prost::Message;
use protem_proto::wire::v1;
use protem_verify::codes;
use protem_verify::codes::caller;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::cli::exit::{Exit, Failure};
use crate::cli::patience::asked_for;
use crate::cli::unreached::unreached;

/// A status as what happened, why, and what helps.
#[must_use]
pub fn explain(status: &Status, broker: &Uri) -> Failure {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else { return unexplained(status, broker) };
    let known = codes::find(&info.reason);
    let mut why: Vec<String> = Vec::new();
    if let Some(bad) = details.bad_request() {
        // One wrong field is what the answer says already.
        for field in bad.field_violations.iter().filter(|_| bad.field_violations.len() > 1) {
            why.push(format!("{}: {}", field.field, field.description));
        }
    }
    let verdict = verdict(status);
    if let Some(verdict) = &verdict
        && !verdict.policies.is_empty()
    {
        why.push(format!("policies: {}", verdict.policies.join(", ")));
    }
    if why.is_empty() {
        why.extend(known.map(|code| code.why.to_owned()));
    }
    let remedy = verdict.map(|verdict| verdict.remedy).filter(|remedy| !remedy.is_empty());
    let remedy = remedy.or_else(|| info.metadata.get("remedy").cloned());
    let help = remedy.or_else(|| known.map(|code| code.remedy.to_owned())).unwrap_or_default();
    let exit = if known.is_some_and(|code| NOBODY_KNOWS.contains(&code)) {
        Exit::NotAuthenticated
    } else {
        exit_of(status.code())
    };
    // Other clients show the message alone, so it repeats the remedy; three lines need it once.
    let what = status.message();
    let what = what.strip_suffix(help.as_str()).unwrap_or(what).trim_end_matches(": ").to_owned();
    let what = as_typed(what);
    // What the answer says nobody sees but us.
    let after = asked_for(status).filter(|_| help.contains("answer says")).map(whole_seconds);
    let help = after.map_or(help.clone(), |after| format!("{help}; the answer says {after} s"));
    Failure { exit, what, why: why.join("; "), code: info.reason.clone(), help }
}

/// The broker was reached, and cannot tell yet who calls.
const NOBODY_KNOWS: [codes::Code; 2] = [caller::KEY_NOT_YET, caller::ISSUER_UNREACHABLE];

fn whole_seconds(of: Duration) -> u64 {
    of.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)
}

/// A field by the flag that says it, where people typed one.
fn as_typed(what: String) -> String {
    let known = FIELDS.iter().find(|(field, _)| what.starts_with(&format!("`{field}` ")));
    known.map_or(what.clone(), |(field, flag)| what.replacen(field, flag, 1))
}

/// What fields of the wire are called on the command line.
const FIELDS: [(&str, &str); 9] = [
    ("selector.task", "--task"),
    ("selector.scope", "--scope"),
    ("selector.owner", "--owner"),
    ("selector.identity", "--identity"),
    ("scopes", "--scope"),
    ("lifetime", "--for"),
    ("task.id", "--task"),
    ("task.kind", "--kind"),
    ("expect_digest", "--expect"),
];

/// A status that the broker did not make: the connection broke, or something else answers there.
fn unexplained(status: &Status, broker: &Uri) -> Failure {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => {
            unreached(status, broker)
        }
        // What answers there does not speak as a broker does.
        Code::Internal if std::error::Error::source(status).is_some() => unreached(status, broker),
        Code::Unimplemented => Failure {
            exit: Exit::Failed,
            what: "the broker does not offer this".to_owned(),
            why: status.message().to_owned(),
            code: String::new(),
            help: "ask a broker of the same version as this command".to_owned(),
        },
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Failure {
            exit: exit_of(status.code()),
            what: status.message().to_owned(),
            why: format!("{:?}", status.code()),
            code: String::new(),
            help: String::new(),
        },
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::PermissionDenied => Exit::Denied,
        Code::Unauthenticated => Exit::NotAuthenticated,
        Code::NotFound => Exit::NotFound,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

/// The verdict that a refusal carries.
#[must_use]
pub fn verdict(status: &Status) -> Option<v1::Verdict> {
    let rich = tonic_types::pb::Status::decode(status.details()).ok()?;
    let any = rich.details.into_iter().find(|any| any.type_url.ends_with("/protem.v1.Verdict"))?;
    v1::Verdict::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[track_caller]
    fn check(status: Status, exit: u8, code: &str) {
        let failure = explain(&status, &Uri::from_static("http://127.0.0.1:1"));
        assert_eq!((failure.exit.code(), failure.code.as_str()), (exit, code), "{failure}");
    }

    fn rich(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "protem", []);
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn answers_become_exit_codes() {
        check(Status::unavailable("tcp connect error"), 7, "PT-0701");
        check(rich(Code::Unavailable, "PT-0501"), 7, "PT-0501");
        check(rich(Code::Unavailable, "PT-0616"), 4, "PT-0616");
        check(rich(Code::Unavailable, "PT-0617"), 4, "PT-0617");
        check(rich(Code::PermissionDenied, "PT-0101"), 3, "PT-0101");
        check(rich(Code::Unauthenticated, "PT-0601"), 4, "PT-0601");
        check(rich(Code::NotFound, "PT-0105"), 5, "PT-0105");
        check(rich(Code::FailedPrecondition, "PT-0102"), 1, "PT-0102");
        check(rich(Code::InvalidArgument, "PT-0201"), 2, "PT-0201");
    }

    #[test]
    fn a_wrong_field_is_told_once_and_by_its_flag() {
        let mut details = ErrorDetails::with_error_info("PT-0201", "protem", []);
        details.add_bad_request_violation("lifetime", "is not between 10 s and 12 h");
        let what = "`lifetime` is not between 10 s and 12 h";
        let status = Status::with_error_details(Code::InvalidArgument, what, details);
        let failure = explain(&status, &Uri::from_static("http://127.0.0.1:1"));
        assert_eq!(failure.what, "`--for` is not between 10 s and 12 h");
        assert!(!failure.why.contains("between"), "{failure}");
    }

    #[test]
    fn a_broker_that_says_when_to_come_back_is_quoted() {
        let mut details = ErrorDetails::with_error_info("PT-0617", "protem", []);
        details.set_retry_info(Some(Duration::from_millis(28_100)));
        let status = Status::with_error_details(Code::Unavailable, "later", details);
        let failure = explain(&status, &Uri::from_static("http://127.0.0.1:1"));
        assert!(failure.help.ends_with("; the answer says 29 s"), "{failure}");
    }

    #[test]
    fn an_explained_refusal_tells_what_helps() {
        let status = rich(Code::FailedPrecondition, "PT-0102");
        let failure = explain(&status, &Uri::from_static("http://127.0.0.1:1"));
        assert_eq!(failure.help, "begin a new task with another id");
    }
}
