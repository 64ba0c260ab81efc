//! People decide: approve, deny, narrow, take back, and close the review of an emergency.

use protem_core::command::{Choice, Command};
use protem_core::event::Event;
use protem_core::refusal::Refusal;
use protem_core::request::Scopes;
use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::{GroupName, PersonName, ScopeName, Words};
use protem_verify::time::{Lifetime, Time};

use crate::engine::broker::Broker;
use crate::engine::lane::Lane;
use crate::engine::sequencer::Answered;
use crate::engine::stop::Stop;
use crate::engine::verdicts::{may_review, reviewed, verdicts};
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::records::GrantRecord;
use crate::policy::ask::{Action, Object};
use crate::policy::bundle;
use crate::policy::catalog::Risk;
use crate::policy::login::{Caller, Person, Principal};

/// A request that waits, with all that helps a person to decide it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The request, as narrowed: who, for what task, why, how long, and who approved so far.
    pub grant: GrantRecord,
    /// What a decision must name: a request that changed since is not decided by it.
    pub digest: Hash,
    /// What each scope lets the holder do.
    pub scopes: Vec<ScopeShown>,
    /// The highest risk among the scopes.
    pub risk: Option<Risk>,
    /// Who asks, as the inventory knows it; absent when the bundle in force does not have it.
    pub identity: Option<IdentityShown>,
    /// What the resource is; empty when the bundle in force does not have it.
    pub resource_purpose: String,
    /// What must be met.
    pub rule: RuleShown,
    /// What is unusual, with numbers.
    pub findings: Vec<String>,
    /// What people decided before on the same identity, resource and scopes.
    pub similar: Similar,
    /// Whether the person who looks may decide it; else why not.
    pub may: Result<(), String>,
    /// Whether the person who looks has approved it, and may take that back.
    pub approved: bool,
}

/// Which of what waits somebody looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Those after it alone: ids are in the order of their requests.
    pub after: Option<GrantId>,
    /// At most so many.
    pub size: usize,
    /// Whose they are.
    pub whose: Whose,
}

/// Who may decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Whoever does.
    All,
    /// The person who looks.
    Mine,
    /// Not the person who looks.
    Others,
}

impl Whose {
    /// Whether a request is, by whether the person who looks may decide it.
    #[must_use]
    pub fn is(self, may: &Result<(), String>) -> bool {
        match self {
            Self::All => true,
            Self::Mine => may.is_ok(),
            Self::Others => may.is_err(),
        }
    }
}

impl Page {
    /// All that waits.
    pub const WHOLE: Self = Self { after: None, size: usize::MAX, whose: Whose::All };
}

/// A scope as an approver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeShown {
    /// Its name.
    pub name: ScopeName,
    /// What it is for.
    pub purpose: String,
    /// How much harm it can do.
    pub risk: Option<Risk>,
    /// `GET /v1/orders/{id}`, as the approver signs it off.
    pub operations: Vec<String>,
}

/// An identity as an approver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityShown {
    /// What it is for.
    pub purpose: String,
    /// `group:payments-leads`.
    pub owner_business: String,
    /// `group:payments-oncall`.
    pub owner_technical: String,
    /// How far it is trusted.
    pub tier: String,
    /// Its team.
    pub team: String,
}

/// What a waiting request needs, and by when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleShown {
    /// Distinct people.
    pub needed: u16,
    /// Who approved so far.
    pub by: Vec<PersonName>,
    /// Groups that can approve, for people to read.
    pub groups: Vec<GroupName>,
    /// When it lapses.
    pub decide_by: Time,
    /// When people are reminded, if the policy says so.
    pub remind_at: Option<Time>,
    /// Whom to ask after the reminder.
    pub then: Option<GroupName>,
}

/// Decisions of the last 90 days on the same identity, resource and scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Similar {
    /// Approved.
    pub granted: u32,
    /// Denied by a person.
    pub denied: u32,
    /// When the newest of them was asked.
    pub last: Option<Time>,
}

/// What a person decides.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Which request.
    pub grant: GrantId,
    /// What the person saw ([`Waiting::digest`]); not looked at when an approval is taken back.
    pub digest: Hash,
    /// Yes, no, or taken back.
    pub kind: DecisionKind,
}

/// Yes, no, or taken back.
#[derive(Clone, Debug)]
pub enum DecisionKind {
    /// Yes, perhaps to less than was asked.
    Approve {
        /// In their words; may be empty.
        note: Words,
        /// Less than was asked.
        narrow: Option<Narrow>,
    },
    /// No.
    Deny {
        /// In their words; never empty.
        reason: Words,
    },
    /// The own yes is taken back while the request waits.
    TakeBack,
}

/// Less than was asked. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrow {
    /// Only shorter.
    pub lifetime: Option<Lifetime>,
    /// Only some of them.
    pub scopes: Option<Scopes>,
}

/// An emergency, and whether somebody has looked at it.
#[derive(Clone, Debug)]
pub struct Review {
    /// What was granted; `reviewed` says who looked, if anybody did.
    pub grant: GrantRecord,
    /// Whether the person who looks may close it; else why not.
    pub may: Result<(), String>,
}

impl Broker {
    /// Decides a waiting request. Policy is asked twice, under the bundle in force: whether this person may decide every
    /// scope that needs it, and what the request needs now. The last approval activates the grant in the same turn.
    ///
    /// # Errors
    /// When the person may not see or decide it, the request is not what the person saw, it no longer waits, or the world
    /// broke.
    pub async fn decide(&self, caller: &Caller, decision: Decision) -> Result<GrantRecord, Stop> {
        let id = decision.grant;
        let Principal::Person(person) = &caller.principal else {
            return Err(Refusal::UnknownGrant(id).into());
        };
        let (choice, reason, narrow) = match decision.kind {
            DecisionKind::Approve { note, narrow } => (Choice::Approve, note, narrow),
            DecisionKind::Deny { reason } => (Choice::Deny, reason, None),
            DecisionKind::TakeBack => (Choice::Undo, Words::default(), None),
        };
        if choice == Choice::Approve {
            self.may_issue()?;
        }
        let mut tries = 0;
        loop {
            let record = self.seen(person, id).await?;
            let account = self.bundle().account(&caller.login);
            let active = self.active(&record.request.by).await?;
            let (bundle, now) = (self.bundle(), self.now());
            let who = (person, account.as_str());
            let of_use = self.usage_findings(&record.request.by.identity, now);
            let counts = (active, of_use.as_slice());
            let said = verdicts(&bundle, who, &record, narrow.as_ref(), now, counts);
            let command = Command::Decide {
                grant: id,
                digest: decision.digest,
                choice,
                reason: reason.clone(),
                approver: said.approver,
                verdict: said.waits,
                narrowed: said.narrowed.map(Box::new),
            };
            let outdated = move |answered: &Answered<'_>| outdated(choice, answered.rows);
            match self.submit(Lane::Ordinary, caller.actor(), command, outdated).await {
                Err(stop) if stop.is_stale_verdict() && tries < AGAIN_MAX => tries += 1,
                Err(stop) => return Err(stop),
                Ok(None) => return self.record(id).await,
                Ok(Some(digest)) => return Err(Refusal::DigestChanged(digest).into()),
            }
        }
    }

    /// The requester takes a waiting request back. Repeated, it answers the same.
    ///
    /// # Errors
    /// When the grant is not the caller's, or the world broke.
    pub async fn withdraw(
        &self,
        caller: &Caller,
        grant: GrantId,
        note: Words,
    ) -> Result<GrantRecord, Stop> {
        self.return_grant(caller, grant, note).await?;
        self.record(grant).await
    }

    /// Closes the review of an emergency: by somebody whom policy permits it, never by the requester's people.
    ///
    /// # Errors
    /// When the person may not see or close it, no review of it is open, the note is empty, or the world broke.
    pub async fn close_review(
        &self,
        caller: &Caller,
        grant: GrantId,
        note: Words,
    ) -> Result<Review, Stop> {
        let Principal::Person(person) = &caller.principal else {
            return Err(Refusal::UnknownGrant(grant).into());
        };
        let record = self.record(grant).await?;
        if !self.may_see_review(person, &record) {
            return Err(Refusal::UnknownGrant(grant).into());
        }
        let mut tries = 0;
        loop {
            let bundle = self.bundle();
            if let Err(why) = may_review(&bundle, person, &record, self.now()) {
                return Err(Refusal::MayNotReview { person: person.name.clone(), why }.into());
            }
            let (by, bundle, note) = (person.name.clone(), bundle.digest(), note.clone());
            let command = Command::CloseReview { grant, by, bundle, note };
            match self.submit(Lane::Ordinary, caller.actor(), command, |_| ()).await {
                Err(stop) if stop.is_stale_verdict() && tries < AGAIN_MAX => tries += 1,
                closed => break closed?,
            }
        }
        let record = self.record(grant).await?;
        let may = self.may_review(person, &record);
        Ok(Review { grant: record, may })
    }

    /// A request that waits or waited, if the person may know of it: what they may not see looks like what is not there.
    async fn seen(&self, person: &Person, id: GrantId) -> Result<GrantRecord, Stop> {
        let record = self.record(id).await?;
        let may = self.may_decide(person, &record);
        if may.is_ok() || self.may_know(person, &record) {
            return Ok(record);
        }
        Err(Refusal::UnknownGrant(id).into())
    }

    /// A grant that people decided on or were told of, if the person may know of it: who could decide it, stands behind it,
    /// approved it, answers for it, may look at it, or may review it.
    ///
    /// # Errors
    /// When it is not there for this person, or the world broke.
    pub async fn known(&self, person: &Person, id: GrantId) -> Result<GrantRecord, Stop> {
        let record = self.record(id).await?;
        let decides = record.digest.is_some() && self.may_decide(person, &record).is_ok();
        let reviews = record.request.emergency && self.may_see_review(person, &record);
        if decides || reviews || self.may_know(person, &record) {
            return Ok(record);
        }
        Err(Refusal::UnknownGrant(id).into())
    }

    /// Whether policy lets a person decide a request as it waits; else why not.
    pub(in crate::engine) fn may_decide(
        &self,
        person: &Person,
        record: &GrantRecord,
    ) -> Result<(), String> {
        let (bundle, now) = (self.bundle(), self.now());
        let of_use = self.usage_findings(&record.request.by.identity, now);
        let verdict = bundle.reevaluate(&record.ruling, &record.request, now, (0, false), &of_use);
        let ruling = verdict.ruling();
        let approver = bundle.may_decide(&bundle::Decision {
            person,
            request: &record.request,
            ruling,
            lifetime: ruling.terms.lifetime,
            behind: record.behind.as_ref(),
            account: "",
            digest: record.digest.unwrap_or_default(),
            now,
        });
        let approver = approver.approver();
        if approver.may { Ok(()) } else { Err(approver.why_not.clone()) }
    }

    /// Whether a person may know of a request without deciding it: who may look at it, who stands behind it, who has
    /// approved it, and who answers for its identity.
    pub(in crate::engine) fn may_know(&self, person: &Person, record: &GrantRecord) -> bool {
        let approved = record.approvals.iter().any(|one| one.by == person.name);
        // Whoever may not decide for what another account of theirs may be is told so.
        let blind = || Person::new(person.name.clone(), person.groups.clone());
        let but_for_that = || self.may_decide(&blind(), record).is_ok();
        approved
            || record.behind.as_ref() == Some(&person.name)
            || (!person.elsewhere.is_empty() && but_for_that())
            || self.bundle().owns_identity(person, &record.request.by.identity)
            || self.permits(person, Action::View, &looked_at(record)).is_ok()
    }

    /// Whether a person may know of an emergency's review.
    pub(in crate::engine) fn may_see_review(&self, person: &Person, record: &GrantRecord) -> bool {
        self.permits(person, Action::Review, &reviewed(record)).is_ok()
            || self.may_know(person, record)
    }

    /// Whether a person may close an emergency's review; else why not.
    pub(in crate::engine) fn may_review(
        &self,
        person: &Person,
        record: &GrantRecord,
    ) -> Result<(), String> {
        may_review(&self.bundle(), person, record, self.now())
    }

    fn permits(&self, person: &Person, action: Action, of: &[Object]) -> Result<(), String> {
        self.bundle().permits(person, action, of, self.now())
    }

    /// A grant's record; what is not there is not known.
    async fn record(&self, id: GrantId) -> Result<GrantRecord, Stop> {
        let found: Option<GrantRecord> =
            self.read(move |reader| -> Result<_, Fault> { reader.grant(&id) }).await?;
        found.ok_or_else(|| Refusal::UnknownGrant(id).into())
    }
}

/// What a request says by now, when an approval met other rules than its giver had seen: it was looked at again instead.
fn outdated(choice: Choice, rows: &[Committed<Event>]) -> Option<Hash> {
    let mut digest = None;
    for row in rows {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what else a decision leads to says nothing of it"
        )]
        match row.what() {
            Event::RequestReevaluated { digest: now, .. } => digest = Some(*now),
            Event::ApprovalGiven { .. } | Event::RequestNarrowed { .. } => return None,
            _ => {}
        }
    }
    digest.filter(|_| choice == Choice::Approve)
}

/// How often policy is asked again because others decided at the same moment: more people than a request ever needs.
const AGAIN_MAX: u32 = 16;

fn looked_at(record: &GrantRecord) -> [Object; 3] {
    let request = &record.request;
    let identity = Object::Identity(request.by.identity.clone());
    [identity, Object::Resource(request.resource.clone()), Object::Broker]
}
