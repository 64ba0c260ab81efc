//! People who look at what waits and decide it, often late, twice, at once, or although they may not.

use std::time::Duration;

use protem::engine::approvals::Narrow;
use protem::engine::verdicts::{may_review, verdicts};
use protem::journal::records::GrantRecord;
use protem::policy::login::{Person, Principal};
use protem_core::command::{Choice, Command, Narrowed};
use protem_core::request::Scopes;
use protem_core::verdict::{Approver, ApproverVerdict, Verdict};
use protem_verify::ids::{GrantId, Hash};
use protem_verify::names::PersonName;
use protem_verify::time::Lifetime;

use super::ask::{behind, words};
use super::broker::Look;
use super::history::{Chose, Clicked, Fact};
use super::rules::{ACCOUNTS, Account};
use super::weak::Weak;
use super::work::Op;
use super::world::World;

/// What people see, and what they are about.
#[derive(Default)]
pub struct Desk {
    /// Requests as they were on somebody's screen, oldest first.
    screens: Vec<(GrantId, Hash)>,
    /// What somebody decided and nobody knows whether it was done.
    pub again: Vec<Decision>,
    /// What was put to policy and is stuck on its way to the turn: when it goes on, and at which broker.
    stuck: Vec<(u64, usize, Decision, Command)>,
}

/// What somebody decided.
#[derive(Clone, Debug)]
pub struct Decision {
    click: Clicked,
    narrow: Narrow,
}

impl World {
    /// One thing that somebody does who decides.
    pub(super) fn people(&mut self) {
        self.unstick();
        let index = self.chance.below(self.brokers.len() as u64) as usize;
        if self.brokers[index].bundle().is_none() {
            return;
        }
        match self.chance.below(100) {
            0..=29 => self.look(index),
            30..=69 => self.choose(index, Chose::Yes),
            70..=73 => self.choose(index, Chose::No),
            74..=79 => self.choose(index, Chose::TakesBack),
            80..=83 => self.decide_again(index),
            84..=87 => self.withdraw(index),
            _ => self.review(index),
        }
    }

    /// Somebody opens the page of what waits.
    fn look(&mut self, broker: usize) {
        let waiting: Vec<GrantId> = self.state(broker).waiting().collect();
        let Some(id) = self.chance.pick(&waiting).copied() else { return };
        let digest = self.store.grant(&id).and_then(|record| record.digest);
        self.work.desk.screens.extend(digest.map(|digest| (id, digest)));
    }

    /// Mostly a request that waits, as it is; sometimes as it was on a screen, however long ago.
    fn screen(&mut self, broker: usize) -> Option<(GrantId, Hash)> {
        let waiting: Vec<GrantId> = self.state(broker).waiting().collect();
        if self.chance.percent(70) {
            let id = *self.chance.pick(&waiting)?;
            return Some((id, self.store.grant(&id)?.digest?));
        }
        let screens = &self.work.desk.screens;
        let from = if self.chance.percent(80) { screens.len().saturating_sub(8) } else { 0 };
        self.chance.pick(&screens[from..]).copied()
    }

    fn choose(&mut self, broker: usize, chose: Chose) {
        let Some((grant, saw)) = self.screen(broker) else { return };
        // Who has two accounts is often there with both.
        let from = if self.chance.percent(30) { &ACCOUNTS[..2] } else { &ACCOUNTS[..] };
        let account = self.chance.pick(from).unwrap();
        let bundle = self.brokers[broker].bundle().unwrap().digest();
        let click = Clicked { grant, account, chose, saw, bundle };
        let narrow = self.narrow(&grant, chose);
        self.decide(broker, Decision { click, narrow });
    }

    /// Less than was asked; now and then more.
    fn narrow(&mut self, grant: &GrantId, chose: Chose) -> Narrow {
        if chose != Chose::Yes || !self.chance.percent(25) {
            return Narrow::default();
        }
        let Some(record) = self.store.grant(grant) else { return Narrow::default() };
        let all: Vec<_> = record.request.scopes.iter().cloned().collect();
        let fewer = all.len() > 1 && self.chance.percent(60);
        let one = self.chance.pick(&all).cloned();
        let scopes = fewer.then(|| Scopes::new(one.into_iter().collect()).unwrap());
        let secs = self.chance.between(10, 50);
        let lifetime = (!fewer).then_some(Lifetime(Duration::from_secs(secs)));
        Narrow { lifetime, scopes }
    }

    /// Who heard nothing clicks again: the same person, on what they saw then.
    fn decide_again(&mut self, broker: usize) {
        if let Some(decision) = self.work.desk.again.pop() {
            self.counts.add("decision repeated");
            self.decide(broker, decision);
        }
    }

    /// A decision, as a broker takes it: both verdicts, then the turn.
    fn decide(&mut self, broker: usize, decision: Decision) {
        let Decision { click, narrow } = decision.clone();
        self.history.push(Fact::Clicked(click.clone()));
        let Some(record) = self.store.grant(&click.grant) else { return };
        let (state, bundle) = (self.state(broker), self.brokers[broker].bundle().unwrap());
        let now = self.time().max(state.last_at());
        let active = state.active(&record.request.by.identity);
        let account = bundle.account(&click.account.login());
        let person = self.person(broker, click.account);
        let who = (&person, account.as_str());
        let less = (narrow != Narrow::default()).then_some(&narrow);
        let said = verdicts(bundle, who, &record, less, now, (active, &[]));
        let own = behind(&record.request, bundle).is_some_and(|name| name.as_str() == "ann");
        if own && self.weak == Weak::CountsAccounts {
            return; // whose request it is, it knows
        }
        let approver = self.weakened_approver(said.approver);
        let verdict = self.weakened(said.waits, Some(&record));
        let narrowed = said.narrowed.map(|less| {
            let verdict = self.weakened(less.verdict, Some(&record));
            Box::new(Narrowed { verdict, ..less })
        });
        let any = self.weak == Weak::TakesAnyDigest;
        let choice = match click.chose {
            Chose::Yes => Choice::Approve,
            Chose::No => Choice::Deny,
            Chose::TakesBack | Chose::Looked => Choice::Undo,
        };
        let command = Command::Decide {
            grant: click.grant,
            digest: record.digest.filter(|_| any).unwrap_or(click.saw),
            choice,
            reason: words("as I see it"),
            approver,
            verdict,
            narrowed,
        };
        if self.chance.percent(12) {
            let due = self.now + self.chance.between(200, 7_000);
            self.counts.add("decision stuck");
            return self.work.desk.stuck.push((due, broker, decision, command));
        }
        self.send_decision(broker, decision, command);
    }

    fn send_decision(&mut self, broker: usize, decision: Decision, command: Command) {
        let grant = decision.click.grant;
        let actor = format!("person:{}", decision.click.account.name);
        let op = Op::Decides(Box::new(decision));
        self.send(broker, &actor, op, command, Look::Grant(grant));
    }

    /// What was stuck goes on, if its broker still lives.
    fn unstick(&mut self) {
        let now = self.now;
        let stuck = std::mem::take(&mut self.work.desk.stuck);
        let (due, rest) = stuck.into_iter().partition(|(at, ..)| *at <= now);
        self.work.desk.stuck = rest;
        let due: Vec<(u64, usize, Decision, Command)> = due;
        for (_, broker, decision, command) in due {
            if self.brokers[broker].up.is_some() {
                self.send_decision(broker, decision, command);
            }
        }
    }

    fn withdraw(&mut self, broker: usize) {
        let waiting: Vec<GrantId> = self.state(broker).waiting().collect();
        let Some(grant) = self.chance.pick(&waiting).copied() else { return };
        let Some(by) = self.requests.get(&grant).map(|request| request.by.clone()) else { return };
        let actor = format!("identity:{}", by.identity);
        let command = Command::ReturnGrant { by, grant, note: words("not needed") };
        self.send(broker, &actor, Op::Ends, command, Look::Nothing);
    }

    /// Somebody looks at an emergency.
    fn review(&mut self, broker: usize) {
        let open: Vec<GrantId> = self.state(broker).open_reviews().collect();
        let Some(grant) = self.chance.pick(&open).copied() else { return };
        let account = self.chance.pick(&ACCOUNTS).unwrap();
        let bundle = self.brokers[broker].bundle().unwrap();
        let (chose, saw) = (Chose::Looked, Hash::default());
        let click = Clicked { grant, account, chose, saw, bundle: bundle.digest() };
        self.history.push(Fact::Clicked(click));
        let Some(record) = self.store.grant(&grant) else { return };
        let person = self.person(broker, account);
        let now = self.time().max(self.state(broker).last_at());
        if may_review(bundle, &person, &record, now).is_err() && self.weak != Weak::ReviewsItself {
            return self.counts.add("review refused");
        }
        let (by, bundle, note) = (person.name, bundle.digest(), words("it was right"));
        let command = Command::CloseReview { grant, by, bundle, note };
        self.send(broker, "person:reviewer", Op::Other, command, Look::Nothing);
    }

    /// Whom a broker takes a sign-in for.
    fn person(&self, broker: usize, account: &Account) -> Person {
        let who = self.brokers[broker].bundle().unwrap().who(&account.login());
        let Ok(Principal::Person(mut person)) = who else { panic!("{who:?}") };
        if self.weak == Weak::CountsAccounts && account.issuer == "partner" {
            person.name = PersonName::try_from(account.text().as_str()).unwrap();
            person.elsewhere.clear();
        }
        if self.weak == Weak::AsksOneAccount {
            person.elsewhere.clear();
        }
        person
    }

    /// The verdict of a broker that lacks a guard.
    pub(super) fn weakened(&self, verdict: Verdict, record: Option<&GrantRecord>) -> Verdict {
        let mut ruling = verdict.ruling().clone();
        let approvals = record.iter().flat_map(|record| &record.approvals);
        let all: Vec<PersonName> = approvals.map(|one| one.by.clone()).collect();
        let before = record.and_then(|record| record.ruling.rule.as_ref());
        let approves = self.weak == Weak::ApprovesBeyondTheCap && record.is_some();
        if approves || self.weak == Weak::GrantsBeyondTheCap {
            ruling.terms.active_max = u32::MAX;
            let asked =
                all.into_iter().filter_map(|by| verdict.counts(&by).map(|counts| (by, counts)));
            let verdict = Verdict::from_policy(ruling).with_approvers(asked.collect());
            return verdict.reading_findings(true);
        }
        match (self.weak, &mut ruling.rule) {
            (Weak::OneIsEnough, Some(rule)) => rule.required = 1,
            (Weak::KeepsApprovals, Some(rule)) => {
                rule.policies = before.map_or(rule.policies, |before| before.policies);
            }
            (Weak::AsksNobody | Weak::CountsAccounts | Weak::TakesAnyPast, _) => {}
            _ => return verdict,
        }
        let counts = |by: PersonName| {
            let counts = verdict.counts(&by).unwrap_or(true);
            (
                by,
                counts
                    || matches!(
                        self.weak,
                        Weak::AsksNobody | Weak::CountsAccounts | Weak::KeepsApprovals
                    ),
            )
        };
        let approvers = all.into_iter().map(counts).collect();
        let reads = self.weak != Weak::TakesAnyPast;
        Verdict::from_policy(ruling).with_approvers(approvers).reading_findings(reads)
    }

    fn weakened_approver(&self, approver: ApproverVerdict) -> ApproverVerdict {
        if self.weak != Weak::AsksNobody {
            return approver;
        }
        // Somebody who may decide others' requests, and is not asked whose this one is.
        let approver = approver.approver().clone();
        let others = approver.why_not.contains("owners do not count")
            || approver.why_not.contains("behind the request");
        ApproverVerdict::from_policy(Approver { may: approver.may || others, ..approver })
    }
}
