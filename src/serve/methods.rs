//! Every method that is served: who may call it, in which lane it waits, and how long its answer may take.

use std::time::Duration;

use crate::policy::ask::Action;
use crate::serve::limits::{ANSWER_WITHIN, BUNDLE_WITHIN, USAGE_WITHIN, WAIT_MAX};

/// How a method is treated before its service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its path.
    pub path: &'static str,
    /// Who may call it.
    pub who: Who,
    /// Where it waits.
    pub lane: Lane,
    /// How long until its first answer.
    pub within: Duration,
    /// What the caller must be permitted on the broker before a byte of the body is read: for methods with large bodies.
    pub right: Option<Action>,
    /// Its answers come for as long as the caller likes, so that its streams are counted per caller, with those of their kind.
    pub streams: Option<Streams>,
    /// It ends what others have: what is refused is counted per caller, as it may be a guess.
    pub guessed: bool,
    /// Needs the broker's state; what does not is answered while that is being loaded.
    pub state: bool,
}

/// Who may call a method, before the service asks policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody has to sign in.
    Anyone,
    /// A valid token, matched by the bundle or not.
    SignedIn,
    /// Somebody the bundle knows.
    Known,
}

/// Which calls share a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Counted against the caller's rate, and against the calls in flight.
    Ordinary,
    /// Ends access: what is done is never counted against a rate, and in flight beside the others, where some places are for people only.
    Ending,
}

/// Which open streams of a caller are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Those that tell what happens.
    Following,
    /// Those that hold a task, as many as there may be jobs.
    Holding,
}

/// The rule of a path; `None` for one that is not served. `dev`: reflection is open.
#[must_use]
pub fn rule(path: &str, dev: bool) -> Option<Rule> {
    let found = RULES.iter().find(|rule| rule.path == path)?;
    let open = dev && path.starts_with("/grpc.reflection.");
    Some(if open { Rule { who: Who::Anyone, ..*found } } else { *found })
}

const fn known(path: &'static str) -> Rule {
    open(path, Who::Known)
}

const fn following(path: &'static str) -> Rule {
    Rule { streams: Some(Streams::Following), ..known(path) }
}

const fn holding(path: &'static str) -> Rule {
    Rule { streams: Some(Streams::Holding), ..known(path) }
}

const fn ending(path: &'static str, within: Duration) -> Rule {
    Rule { lane: Lane::Ending, within, ..known(path) }
}

/// Ends what others have.
const fn governing(path: &'static str) -> Rule {
    Rule { guessed: true, ..ending(path, ANSWER_WITHIN) }
}

const fn open(path: &'static str, who: Who) -> Rule {
    let (lane, within) = (Lane::Ordinary, ANSWER_WITHIN);
    Rule { path, who, lane, within, right: None, streams: None, guessed: false, state: true }
}

/// What a gateway needs of a broker that has just started, and what shows why it has no more.
const fn early(rule: Rule) -> Rule {
    Rule { state: false, ..rule }
}

const fn bundle(path: &'static str, right: Action) -> Rule {
    Rule { within: BUNDLE_WITHIN, right: Some(right), ..known(path) }
}

/// All of them; a test compares them with the contract.
pub const RULES: &[Rule] = &[
    known("/protem.v1.AccessService/RequestAccess"),
    known("/protem.v1.AccessService/ExplainAccess"),
    following("/protem.v1.AccessService/WatchGrant"),
    known("/protem.v1.AccessService/RenewCredential"),
    holding("/protem.v1.AccessService/HoldTask"),
    // It may wait for enforcement on top of its own time.
    ending("/protem.v1.AccessService/CompleteTask", ANSWER_WITHIN.saturating_add(WAIT_MAX)),
    ending("/protem.v1.AccessService/ReturnGrant", ANSWER_WITHIN),
    early(open("/protem.v1.AccessService/WhoAmI", Who::SignedIn)),
    known("/protem.v1.ApprovalService/ListPending"),
    following("/protem.v1.ApprovalService/WatchPending"),
    known("/protem.v1.ApprovalService/Decide"),
    known("/protem.v1.ApprovalService/ListReviews"),
    known("/protem.v1.ApprovalService/CloseReview"),
    known("/protem.v1.GovernanceService/ListGrants"),
    known("/protem.v1.GovernanceService/GetGrant"),
    governing("/protem.v1.GovernanceService/Revoke"),
    known("/protem.v1.GovernanceService/ListIdentities"),
    governing("/protem.v1.GovernanceService/SetQuarantine"),
    known("/protem.v1.GovernanceService/ListGateways"),
    known("/protem.v1.GovernanceService/ListKeys"),
    // A compromised key's tokens are void with it.
    ending("/protem.v1.GovernanceService/RotateKey", ANSWER_WITHIN),
    known("/protem.v1.GovernanceService/ListSecrets"),
    following("/protem.v1.GovernanceService/ReadJournal"),
    known("/protem.v1.GovernanceService/GetProof"),
    known("/protem.v1.GovernanceService/GetReport"),
    following("/protem.v1.GovernanceService/Backup"),
    known("/protem.v1.GovernanceService/ListWebhooks"),
    known("/protem.v1.GovernanceService/RetryWebhook"),
    bundle("/protem.v1.BundleService/ApplyBundle", Action::Administer),
    bundle("/protem.v1.BundleService/GetBundle", Action::View),
    bundle("/protem.v1.BundleService/DiffBundle", Action::Administer),
    early(following("/protem.v1.RevocationService/Subscribe")),
    early(known("/protem.v1.RevocationService/Head")),
    // It waits for its turn to write, behind those of a fleet.
    Rule { within: USAGE_WITHIN, ..known("/protem.v1.UsageService/ReportUsage") },
    early(open("/grpc.health.v1.Health/Check", Who::Anyone)),
    early(open("/grpc.health.v1.Health/Watch", Who::Anyone)),
    early(open("/grpc.health.v1.Health/List", Who::Anyone)),
    early(open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Who::SignedIn)),
    early(open("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Who::SignedIn)),
];

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_contract_has_a_rule() {
        let set = FileDescriptorSet::decode(protem_proto::wire::DESCRIPTORS).unwrap();
        let mut count = 0;
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let rule = rule(&path, true).unwrap_or_else(|| panic!("{path} has no rule"));
                    assert_ne!(rule.who, Who::Anyone, "{path}");
                    count += 1;
                }
            }
        }
        assert_eq!(count, RULES.iter().filter(|rule| rule.path.starts_with("/protem.")).count());
    }

    #[test]
    fn reflection_is_open_in_development_only() {
        let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(rule(path, true).map(|rule| rule.who), Some(Who::Anyone));
        assert_eq!(rule(path, false).map(|rule| rule.who), Some(Who::SignedIn));
        assert_eq!(rule("/protem.v1.AccessService/Nothing", true), None);
        assert_eq!(rule("protem.v1.AccessService/RequestAccess", true), None);
    }
}
