//! The invariants of people who decide, as a fold over a history: a small counter of its own, written from the design.

use std::collections::{BTreeMap, BTreeSet};

use protem_core::event::{Activated, Asked, CredentialIssued, EndReason, Event, Requested, Target};
use protem_core::request::AccessRequest;
use protem_core::verdict::{Effect, Ruling};
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{IdentityName, PersonName};
use protem_verify::time::Time;

use super::checks::{Violation, hold};
use super::history::{Chose, Clicked, Fact, Told};
use super::rules::{self, Account, Says};

/// All that counts, as far as the history goes.
#[derive(Default)]
pub struct Quorum {
    bundle: Hash,
    grants: BTreeMap<GrantId, Case>,
    clicks: Vec<Clicked>,
    /// Emergencies that nobody has looked at.
    reviews: BTreeMap<IdentityName, GrantId>,
    /// Those that nobody was told of yet.
    untold: BTreeSet<Seq>,
    emergencies: BTreeMap<Seq, GrantId>,
    at: Time,
}

/// A grant from its request on.
struct Case {
    request: AccessRequest,
    stage: Stage,
    digest: Hash,
    /// The narrowing at this place, by whom, and what was seen before it.
    narrowed: Option<(Seq, PersonName, Hash)>,
    decide_by: Time,
    approvals: Vec<Approval>,
    reminded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    /// At once, after people said yes, or by breaking the glass.
    Active(How),
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    AtOnce,
    Approved,
    Emergency,
}

/// A yes that was not taken back.
#[derive(Clone)]
struct Approval {
    by: PersonName,
    account: &'static Account,
    /// The bundle that it was given under.
    bundle: Hash,
}

/// Why a yes does not count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Void {
    /// It is of the requester's people.
    Own,
    /// What was approved has changed, or its giver may approve no more.
    Changed,
}

impl Quorum {
    /// Holds one more fact against what came before.
    pub fn see(&mut self, fact: &Fact) -> Result<(), Violation> {
        match fact {
            Fact::Row { seq, at, event } => {
                self.at = *at;
                self.row(*seq, *at, event)
            }
            Fact::Clicked(clicked) => {
                self.clicks.push(clicked.clone());
                Ok(())
            }
            Fact::Told(told) => self.told(told),
            _ => Ok(()),
        }
    }

    /// What must be true when all is calm.
    pub fn finish(&self) -> Result<(), Violation> {
        let untold = self.untold.first();
        hold(untold.is_none(), "I20", || format!("nobody was told of the emergency {untold:?}"))?;
        let stuck = self.grants.iter().find(|(_, case)| {
            case.stage == Stage::Waits
                && case.decide_by.as_millis() + STUCK_MS < self.at.as_millis()
        });
        hold(stuck.is_none(), "I33", || format!("{:?} waits for ever", stuck.map(|(id, _)| id)))
    }

    fn row(&mut self, seq: Seq, at: Time, event: &Event) -> Result<(), Violation> {
        match event {
            Event::BundleActivated { digest, .. } => self.bundle = *digest,
            Event::GrantRequested(requested) => return self.requested(requested, seq, at),
            Event::RequestReevaluated { grant, digest, .. } => {
                let Some(case) = self.grants.get_mut(grant) else { return Ok(()) };
                if case.digest != *digest {
                    case.approvals.clear();
                }
                case.digest = *digest;
            }
            Event::RequestNarrowed { grant, by, scopes, lifetime, digest } => {
                let case = self.waiting(grant, seq, at, "I19")?;
                let request = &case.request;
                let wider = !scopes.within(&request.scopes)
                    || request.lifetime.is_some_and(|asked| *lifetime > asked);
                hold(!wider, "I19", || format!("{seq} widens {grant}"))?;
                case.request.scopes = scopes.clone();
                case.request.lifetime = Some(*lifetime);
                case.narrowed = Some((seq, by.clone(), case.digest));
                case.digest = *digest;
            }
            Event::ApprovalGiven { grant, by, standing, .. } => {
                return self.approved(*grant, by, &standing.account, seq, at);
            }
            Event::ApprovalTakenBack { grant, by } => {
                if let Some(case) = self.grants.get_mut(grant) {
                    case.approvals.retain(|one| one.by != *by);
                    // In the turn of a narrowing: they say anew what counts no more.
                    let own =
                        |(at, who, _): &&mut (Seq, PersonName, Hash)| at.next() == seq && who == by;
                    if let Some((at, ..)) = case.narrowed.as_mut().filter(own) {
                        *at = seq;
                    }
                }
            }
            Event::RequestReminded { grant, .. } => {
                let case = self.waiting(grant, seq, at, "I19")?;
                let twice = std::mem::replace(&mut case.reminded, true);
                hold(!twice, "I19", || format!("{seq} reminds of {grant} again"))?;
            }
            Event::GrantActivated(activated) => return self.activated(activated, seq, at),
            Event::CredentialIssued(issued) => return self.renewed(issued, seq),
            Event::GrantEnded(ended) => {
                if ended.reason == EndReason::Denied {
                    self.denied(&ended.grant, seq, at)?;
                }
                if let Some(case) = self.grants.get_mut(&ended.grant) {
                    case.stage = Stage::Over;
                }
            }
            Event::CutOff { target, .. } => {
                let covered = self.grants.iter_mut().filter(|(id, case)| cuts(target, id, case));
                covered.for_each(|(_, case)| case.stage = Stage::Over);
            }
            Event::ReviewClosed { grant, by, .. } => return self.reviewed(grant, by, seq),
            _ => {}
        }
        Ok(())
    }

    fn requested(&mut self, requested: &Requested, seq: Seq, at: Time) -> Result<(), Violation> {
        let request = &requested.asked.request;
        let says = rules::says(self.bundle, request);
        let Says::After(count, _, within) = says else {
            return Err(format!("I4: {seq} waits, and the rules say {says:?}"));
        };
        let rule = requested.asked.ruling.rule.as_ref();
        let right = rule.is_some_and(|rule| usize::from(rule.required) == count);
        hold(right, "I4", || format!("{seq} needs {count}, and records {rule:?}"))?;
        let prompt = requested.decide_by <= at + within;
        hold(prompt, "I19", || format!("{seq} waits longer than it may"))?;
        let mut case = Case::new(request, Stage::Waits);
        (case.digest, case.decide_by) = (requested.digest, requested.decide_by);
        self.grants.insert(requested.grant, case);
        Ok(())
    }

    /// A request that still waits: nothing else may be decided.
    fn waiting(
        &mut self,
        id: &GrantId,
        seq: Seq,
        at: Time,
        which: &str,
    ) -> Result<&mut Case, Violation> {
        let Some(case) = self.grants.get_mut(id) else {
            return Err(format!("{which}: {seq} is about {id}, which nobody asked for"));
        };
        let waits = case.stage == Stage::Waits && at < case.decide_by;
        hold(waits, which, || format!("{seq} decides {id}, which waits no more"))?;
        Ok(case)
    }

    fn approved(
        &mut self,
        id: GrantId,
        by: &PersonName,
        account: &str,
        seq: Seq,
        at: Time,
    ) -> Result<(), Violation> {
        let bundle = self.bundle;
        let Some(account) = rules::account_of(account) else {
            return Err(format!("I17: {seq} is by `{account}`, who is nobody"));
        };
        let clicks = std::mem::take(&mut self.clicks);
        let case = self.waiting(&id, seq, at, "I19")?;
        let own = case.narrowed.clone().filter(|(place, who, _)| place.next() == seq && who == by);
        let saw = own.map_or(case.digest, |(.., before)| before);
        let mine = |click: &&Clicked| click.grant == id && *click.account == *account;
        let clicked =
            clicks.iter().filter(mine).any(|one| one.chose == Chose::Yes && one.saw == saw);
        hold(clicked, "I19", || format!("{seq}: {by} did not say yes to what {id} is"))?;
        hold(!is_own(bundle, account, &case.request), "I18", || {
            format!("{seq}: {by} is among the people of the requester of {id}")
        })?;
        let may = rules::decides(bundle, account, &case.request.resource);
        hold(may, "I4", || format!("{seq}: {by} may not decide {id}"))?;
        let human = rules::human(bundle, account);
        // Whom this bundle joins to another name is not the one who approved.
        let counts = |one: &&Approval| rules::human(bundle, one.account) == one.by.as_str();
        let mut before = case.approvals.iter().filter(counts);
        let twice = before.any(|one| rules::human(bundle, one.account) == human);
        hold(!twice, "I17", || format!("{seq}: {human} approves {id} again"))?;
        case.approvals.push(Approval { by: by.clone(), account, bundle });
        self.clicks = clicks;
        Ok(())
    }

    /// I4, I17, I18 and I19 at the moment that counts: what the recorded approvals are worth now.
    fn activated(&mut self, activated: &Activated, seq: Seq, at: Time) -> Result<(), Violation> {
        let (bundle, id) = (self.bundle, activated.credential.grant);
        if let Some(asked) = &activated.asked {
            let emergency = asked.request.emergency;
            let how = if emergency { How::Emergency } else { How::AtOnce };
            self.grants.insert(id, Case::new(&asked.request, Stage::Active(how)));
            self.ruled(&asked.ruling, seq)?;
            return if emergency { self.glass(asked, id, seq) } else { self.at_once(asked, seq) };
        }
        let case = self.waiting(&id, seq, at, "I19")?;
        let enough = enough(bundle, case, true);
        case.stage = Stage::Active(How::Approved);
        let request = &case.request;
        let lifetime = rules::longest(bundle, request);
        let lifetime = request.lifetime.map_or(lifetime, |asked| asked.0.min(lifetime));
        hold(activated.until <= at + lifetime, "I4", || format!("{seq}: {id} lasts too long"))?;
        let same = activated.credential.scopes == request.scopes;
        hold(same, "I19", || format!("{seq}: {id} is not what was approved"))?;
        enough.map_err(|(which, how)| format!("{which}: {seq} activates {id}: {how}"))
    }

    /// What policy said is recorded whole, of the bundle in force, and was a yes.
    fn ruled(&self, ruling: &Ruling, seq: Seq) -> Result<(), Violation> {
        let right = ruling.bundle == self.bundle && ruling.effect == Effect::Issue;
        hold(right && !ruling.input.is_empty(), "I4", || {
            format!("{seq} records no yes of the rules")
        })
    }

    fn at_once(&self, asked: &Asked, seq: Seq) -> Result<(), Violation> {
        let says = rules::says(self.bundle, &asked.request);
        hold(says == Says::AtOnce, "I4", || format!("{seq} at once, and the rules say {says:?}"))
    }

    /// I20: recorded, permitted, and not while the one before waits for its review.
    fn glass(&mut self, asked: &Asked, id: GrantId, seq: Seq) -> Result<(), Violation> {
        let may = rules::glass(self.bundle, &asked.request);
        hold(may, "I4", || format!("{seq} breaks the glass, and no rule lets it"))?;
        let open = self.reviews.insert(asked.request.by.identity.clone(), id);
        hold(open.is_none(), "I20", || format!("{seq}, and nobody has looked at {open:?}"))?;
        self.untold.insert(seq);
        self.emergencies.insert(seq, id);
        Ok(())
    }

    /// A renewal is an answer of the rules in force, too.
    fn renewed(&self, issued: &CredentialIssued, seq: Seq) -> Result<(), Violation> {
        let Some(case) = self.grants.get(&issued.grant) else { return Ok(()) };
        let Stage::Active(how) = case.stage else { return Ok(()) };
        let may = match how {
            How::AtOnce => rules::says(self.bundle, &case.request) == Says::AtOnce,
            How::Emergency => rules::glass(self.bundle, &case.request),
            How::Approved => {
                let enough = enough(self.bundle, case, false);
                return enough.map_err(|(which, how)| {
                    format!("{which}: {seq} renews {}: {how}", issued.grant)
                });
            }
        };
        hold(may, "I4", || format!("{seq} renews {}, and no rule lets it", issued.grant))
    }

    fn denied(&mut self, id: &GrantId, seq: Seq, at: Time) -> Result<(), Violation> {
        let bundle = self.bundle;
        let clicks = std::mem::take(&mut self.clicks);
        let case = self.waiting(id, seq, at, "I19")?;
        let no = |one: &&Clicked| one.grant == *id && one.chose == Chose::No;
        let mut no = clicks.iter().filter(no).filter(|one| one.saw == case.digest);
        let mut somebody = false;
        let counts = no.any(|one| {
            somebody = true;
            let own = is_own(bundle, one.account, &case.request);
            !own && rules::decides(bundle, one.account, &case.request.resource)
        });
        hold(somebody, "I19", || format!("{seq}: nobody said no to what {id} is"))?;
        hold(counts, "I18", || format!("{seq}: who said no to {id} may not"))?;
        self.clicks = clicks;
        Ok(())
    }

    /// I20: somebody other than the requester's people looked.
    fn reviewed(&mut self, id: &GrantId, by: &PersonName, seq: Seq) -> Result<(), Violation> {
        let Some(case) = self.grants.get(id) else { return Ok(()) };
        let request = &case.request;
        let counts = |one: &Clicked| {
            let own = rules::owns(one.bundle, one.account, &request.by.identity)
                || rules::behind(request).is_some_and(|who| who == by.as_str());
            one.grant == *id
                && one.chose == Chose::Looked
                && rules::human(one.bundle, one.account) == by.as_str()
                && rules::reviews(one.account)
                && !own
        };
        let counts = self.clicks.iter().any(counts);
        hold(counts, "I20", || format!("{seq}: {by} closes the review of {id}"))?;
        let open = self.reviews.remove(&request.by.identity);
        hold(open == Some(*id), "I20", || format!("{seq}: no review of {id} is open"))
    }

    /// I20: those who were skipped hear of it, and who answers for what was opened.
    fn told(&mut self, told: &Told) -> Result<(), Violation> {
        let Some(case) = self.emergencies.get(&told.seq).and_then(|id| self.grants.get(id)) else {
            return Ok(());
        };
        let mut skipped = rules::deciders(told.bundle, &case.request.resource);
        skipped.push("shop-leads");
        let missing: Vec<_> =
            skipped.iter().filter(|group| !told.groups.iter().any(|to| to == *group)).collect();
        hold(missing.is_empty(), "I20", || format!("{} was not told to {missing:?}", told.seq))?;
        self.untold.remove(&told.seq);
        Ok(())
    }
}

impl Case {
    fn new(request: &AccessRequest, stage: Stage) -> Self {
        Self {
            request: request.clone(),
            stage,
            digest: Hash::default(),
            narrowed: None,
            decide_by: Time::MAX,
            approvals: Vec::new(),
            reminded: false,
        }
    }
}

/// Whether the approvals of a grant are enough under a bundle; else which promise that breaks. `exact`: they must be of
/// exactly what the request is, as before an activation.
fn enough(bundle: Hash, case: &Case, exact: bool) -> Result<(), (&'static str, String)> {
    let needed = match rules::says(bundle, &case.request) {
        Says::AtOnce => return Ok(()),
        Says::No => return Err(("I4", "the rules say no".to_owned())),
        Says::After(count, ..) => count,
    };
    let verdicts: Vec<(&Approval, Option<Void>)> =
        case.approvals.iter().map(|one| (one, void(bundle, case, one, exact))).collect();
    let humans = |also: Option<Void>| {
        let counts = verdicts.iter().filter(|(_, void)| void.is_none() || *void == also);
        counts.map(|(one, _)| rules::human(bundle, one.account)).collect::<BTreeSet<_>>().len()
    };
    let valid = verdicts.iter().filter(|(_, void)| void.is_none()).count();
    if humans(None) >= needed {
        return Ok(());
    }
    let which = if valid >= needed {
        "I17"
    } else if humans(Some(Void::Own)) >= needed {
        "I18"
    } else if humans(Some(Void::Changed)) >= needed {
        "I19"
    } else {
        "I4"
    };
    Err((which, format!("{} of {needed} count", humans(None))))
}

fn void(bundle: Hash, case: &Case, one: &Approval, exact: bool) -> Option<Void> {
    let request = &case.request;
    if is_own(bundle, one.account, request) {
        return Some(Void::Own);
    }
    let another = rules::human(bundle, one.account) != rules::human(one.bundle, one.account);
    let may = rules::decides(bundle, one.account, &request.resource);
    let signed = |bundle: Hash| {
        let words = match rules::says(bundle, request) {
            Says::After(_, words, _) => words,
            Says::AtOnce | Says::No => "",
        };
        let longest = rules::longest(bundle, request);
        (words, request.lifetime.map_or(longest, |asked| asked.0.min(longest)))
    };
    let changed = exact && signed(bundle) != signed(one.bundle);
    (another || !may || changed).then_some(Void::Changed)
}

/// Whether an account's human is the requester's: behind it, or an owner of its identity whom no rule lets count.
fn is_own(bundle: Hash, account: &Account, request: &AccessRequest) -> bool {
    let human = rules::human(bundle, account);
    let owner = rules::owns(bundle, account, &request.by.identity);
    rules::behind(request) == Some(human.as_str())
        || (owner && !rules::owners_count(account, &request.resource))
}

/// Whether a cut-off ends a request that waits.
fn cuts(target: &Target, id: &GrantId, case: &Case) -> bool {
    let request = &case.request;
    match target {
        Target::Grant(grant) => grant == id,
        Target::Task(identity, task) => {
            *identity == request.by.identity && *task == request.task.id
        }
        Target::Identity(identity) => *identity == request.by.identity,
        Target::Resource(resource) => *resource == request.resource,
        Target::Scope(resource, scope) => {
            *resource == request.resource && request.scopes.contains(scope)
        }
        Target::Key(_) => false,
        Target::Everything => true,
    }
}

/// By so much a lapse may be recorded late: a broker may be down for so long, and its turn be slow.
const STUCK_MS: u64 = 10_000;
