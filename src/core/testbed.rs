//! A small world to try the law in: a state, a clock to turn, and short words for commands.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{Epoch, GrantId, Hash, HoldId, JournalId, RequestId, Seq};
use protem_verify::names::{
    IdentityName, KeyId, PersonName, ResourceName, ScopeName, Subject, TaskId, TaskKind, Words,
};
use protem_verify::time::{Lifetime, Staleness, Time};

use crate::command::{Choice, Command};
use crate::decide::decide;
use crate::dice::Dice;
use crate::event::{Event, KeyPurpose, PublicKey, Target};
use crate::grant::Grant;
use crate::refusal::Refusal;
use crate::request::{AccessRequest, Scopes, Task, Workload};
use crate::standing::Revocation;
use crate::state::State;
use crate::verdict::{
    ApprovalRule, Approver, ApproverVerdict, Effect, Ruling, Standing, Terms, Verdict,
};

/// Counts, so that ids differ and repeat from run to run.
pub(crate) struct Counting(pub(crate) u128);

impl Dice for Counting {
    fn bytes(&mut self) -> [u8; 16] {
        self.0 += 1;
        self.0.to_be_bytes()
    }
}

/// A state with its clock and dice.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: Time,
    pub(crate) dice: Counting,
    /// How long policy lets credentials live now.
    pub(crate) credential: Duration,
}

pub(crate) const START: Time = Time::from_millis(1_800_000_000_500);
pub(crate) const BUNDLE: Hash = Hash([7; 32]);

impl World {
    /// All that a gateway without a view must be told now.
    pub(crate) fn revocations(&self) -> Vec<Revocation> {
        self.state.revocations(self.now, Seq(0), usize::MAX).items
    }

    /// An open journal with a bundle and a signing key.
    pub(crate) fn new() -> Self {
        let credential = Duration::from_secs(300);
        let mut world = Self { state: State::new(), now: START, dice: Counting(0), credential };
        let (journal, epoch) = (JournalId([1; 16]), Epoch(START.as_millis()));
        world.ok(Command::OpenJournal {
            journal,
            epoch,
            issuer: "https://protem".into(),
            dev: false,
        });
        world.ok(Command::ActivateBundle { digest: BUNDLE, files: Arc::new([]), expect: None });
        world.ok(Command::PublishKey(key("k1")));
        world.ok(Command::ActivateKey { key: KeyId::try_from("k1").unwrap() });
        world
    }

    /// Decides and applies.
    pub(crate) fn run(&mut self, command: Command) -> Result<Vec<Event>, Refusal> {
        let events = decide(&self.state, command, self.now, &mut self.dice)?;
        for event in &events {
            self.state.apply(self.now, event);
        }
        Ok(events)
    }

    #[track_caller]
    pub(crate) fn ok(&mut self, command: Command) -> Vec<Event> {
        self.run(command).unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, command: Command, expect: &Refusal) {
        let before = self.state.parts();
        assert_eq!(&self.run(command).unwrap_err(), expect);
        assert_eq!(self.state.parts(), before, "a refusal changed something");
    }

    pub(crate) fn wait(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    /// Asks and is granted at once.
    pub(crate) fn granted(&mut self, request: AccessRequest) -> GrantId {
        let verdict = self.verdict(&request, Effect::Issue);
        let events = self.ok(Command::RequestAccess { request, verdict, behind: None });
        let Some(Event::GrantActivated(activated)) = events.first() else { panic!("{events:?}") };
        activated.credential.grant
    }

    /// Asks and waits for `required` approvers.
    pub(crate) fn pending(&mut self, request: AccessRequest, required: u16) -> GrantId {
        let verdict = self.verdict(&request, Effect::NeedsApproval);
        let verdict = edit(&verdict, |ruling| ruling.rule.as_mut().unwrap().required = required);
        let behind = Some(person("mallory"));
        let events = self.ok(Command::RequestAccess { request, verdict, behind });
        let Some(Event::GrantRequested(requested)) = events.first() else { panic!("{events:?}") };
        requested.grant
    }

    pub(crate) fn ask(&self, request: AccessRequest, effect: Effect) -> Command {
        let verdict = self.verdict(&request, effect);
        Command::RequestAccess { request, verdict, behind: None }
    }

    pub(crate) fn renew(&self, grant: GrantId, effect: Effect) -> Command {
        let known = self.state.grant(&grant).cloned();
        let by = known.as_ref().map_or_else(|| workload("team/a"), |grant| grant.by.clone());
        let content = known.map(|grant| grant.content).unwrap_or_default();
        let verdict = self.verdict(&request("team/a", "t"), effect);
        Command::RenewCredential {
            by,
            grant,
            verdict: edit(&verdict, |ruling| ruling.content = content),
        }
    }

    pub(crate) fn decide(&self, grant: GrantId, who: &str, choice: Choice) -> Command {
        let waiting = self.state.grant(&grant).and_then(|grant| grant.waiting.clone());
        let digest = waiting.as_ref().map(|waiting| waiting.digest).unwrap_or_default();
        let approved = waiting.as_ref().map(|waiting| waiting.approved.clone()).unwrap_or_default();
        let asked = waiting.map_or_else(|| request("team/a", "t"), |waiting| waiting.request);
        let required = self
            .state
            .grant(&grant)
            .and_then(|grant| grant.waiting.as_ref())
            .map(|w| w.rule.required);
        let verdict = edit(&self.verdict(&asked, Effect::NeedsApproval), |ruling| {
            ruling.rule.as_mut().unwrap().required = required.unwrap_or(1);
        });
        let verdict =
            verdict.with_approvers(approved.into_iter().map(|name| (name, true)).collect());
        let approver = ApproverVerdict::from_policy(Approver {
            person: person(who),
            digest,
            bundle: BUNDLE,
            at: self.now,
            may: true,
            why_not: String::new(),
            standing: Standing::default(),
        });
        Command::Decide {
            grant,
            digest,
            choice,
            reason: words("because"),
            approver,
            verdict,
            narrowed: None,
        }
    }

    pub(crate) fn close_review(&self, grant: GrantId) -> Command {
        let bundle = self.state.bundle().unwrap();
        Command::CloseReview { grant, by: person("alice"), bundle, note: words("fine") }
    }

    pub(crate) fn verdict(&self, request: &AccessRequest, effect: Effect) -> Verdict {
        Verdict::from_policy(Ruling {
            content: request.content(),
            effect,
            policies: Vec::new(),
            bundle: self.state.bundle().unwrap_or_default(),
            at: self.now,
            terms: terms(request, self.credential),
            limits: Vec::new(),
            findings: Vec::new(),
            code: String::new(),
            remedy: "ask for less".into(),
            rule: (effect == Effect::NeedsApproval).then(rule),
            active: None,
            input: Arc::new([]),
        })
    }

    pub(crate) fn grant(&self, id: GrantId) -> &Grant {
        self.state.grant(&id).unwrap()
    }
}

pub(crate) fn edit(verdict: &Verdict, change: impl FnOnce(&mut Ruling)) -> Verdict {
    let mut ruling = verdict.ruling().clone();
    change(&mut ruling);
    Verdict::from_policy(ruling)
}

fn terms(request: &AccessRequest, credential: Duration) -> Terms {
    let asked = request.lifetime.map_or(Duration::from_secs(900), |life| life.0);
    Terms {
        lifetime: Lifetime(asked.min(Duration::from_secs(3_600))),
        credential: Lifetime(credential),
        fresh: Staleness(Duration::from_secs(5)),
        audience: "https://orders".into(),
        claims: Arc::new([]),
        operations: Arc::new(["GET /v1/orders".into()]),
        active_max: 5,
        pending_max: 3,
    }
}

fn rule() -> ApprovalRule {
    ApprovalRule {
        required: 1,
        decide_within: Duration::from_secs(600),
        remind: None,
        then: None,
        policies: Hash([9; 32]),
        groups: Vec::new(),
    }
}

pub(crate) fn request(identity: &str, task: &str) -> AccessRequest {
    AccessRequest {
        by: workload(identity),
        task: Task {
            id: TaskId::try_from(task).unwrap(),
            kind: TaskKind::try_from("batch").unwrap(),
            url: Words::default(),
        },
        resource: ResourceName::try_from("orders-api").unwrap(),
        scopes: scopes(&["orders:read"]),
        lifetime: None,
        purpose: words("nightly"),
        key: None,
        emergency: false,
        proof: None,
    }
}

pub(crate) fn keyed(identity: &str, task: &str, at: Time, salt: u8) -> AccessRequest {
    let [_, _, a, b, c, d, e, f] = at.as_millis().to_be_bytes();
    let key = RequestId([a, b, c, d, e, f, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, salt]);
    AccessRequest { key: Some(key), ..request(identity, task) }
}

pub(crate) fn workload(identity: &str) -> Workload {
    Workload { identity: name(identity), subject: Subject::try_from("spiffe://x/y").unwrap() }
}

pub(crate) fn name(identity: &str) -> IdentityName {
    IdentityName::try_from(identity).unwrap()
}

pub(crate) fn task(id: &str) -> TaskId {
    TaskId::try_from(id).unwrap()
}

pub(crate) fn person(name: &str) -> PersonName {
    PersonName::try_from(name).unwrap()
}

pub(crate) fn words(text: &str) -> Words {
    Words::parse("note", text).unwrap()
}

pub(crate) fn scopes(names: &[&str]) -> Scopes {
    Scopes::new(names.iter().map(|name| ScopeName::try_from(*name).unwrap()).collect()).unwrap()
}

pub(crate) fn key(id: &str) -> PublicKey {
    PublicKey { id: KeyId::try_from(id).unwrap(), purpose: KeyPurpose::Credential, public: [3; 32] }
}

pub(crate) fn hold(id: u8) -> HoldId {
    HoldId([id; 16])
}

pub(crate) fn revoke(target: Target) -> Command {
    Command::Revoke { targets: vec![target], note: words("leaked") }
}
