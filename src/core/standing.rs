//! What a gateway without a view must be told: all that ended early and all cut-offs, part by part.

use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{IdentityName, ResourceName};
use protem_verify::time::Time;

use crate::event::{EndReason, Event, Target};
use crate::grant::{CutOff, Status};
use crate::state::State;

/// One thing that no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its entry.
    pub seq: Seq,
    /// What is void.
    pub target: Target,
    /// The resource that it concerns; absent: any.
    pub resource: Option<ResourceName>,
    /// Whose grant it is, where one identity's access is void.
    pub identity: Option<IdentityName>,
    /// Why.
    pub reason: EndReason,
    /// When.
    pub at: Time,
    /// No credential it covers can be alive then; absent: never forget.
    pub forget_after: Option<Time>,
}

/// A part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In order.
    pub items: Vec<Revocation>,
    /// Where to go on; absent: there are no more.
    pub next: Option<Seq>,
}

impl Revocation {
    /// What the entry at `seq` makes void; also a grant that merely expired, of which few want to hear. An end that a cut-off
    /// told of, and that of a request which never had a credential, make nothing void.
    #[must_use]
    pub fn of(seq: Seq, at: Time, event: &Event) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "two kinds of entry end credentials; the law's tests know when a third does"
        )]
        match event {
            Event::GrantEnded(ended) if ended.told_by.is_none() => {
                ended.last_exp.map(|last_exp| Self {
                    seq,
                    target: Target::Grant(ended.grant),
                    resource: Some(ended.resource.clone()),
                    identity: Some(ended.identity.clone()),
                    reason: ended.reason,
                    at,
                    forget_after: Some(last_exp),
                })
            }
            Event::CutOff { target, reason, forget_after, .. } => Some(Self {
                seq,
                target: target.clone(),
                resource: target.resource().cloned(),
                identity: target.identity().cloned(),
                reason: *reason,
                at,
                forget_after: *forget_after,
            }),
            _ => None,
        }
    }

    /// Whether it ends what would live on without it.
    #[must_use]
    pub fn early(&self) -> bool {
        self.reason != EndReason::Expired
    }
}

impl State {
    /// What a gateway without a view must be told, in order, from `after` on: grants that ended early while a credential of
    /// theirs may live at `now`, and cut-offs that are not forgotten. It looks at no more than `limit` of either.
    ///
    /// Whoever asks part by part, while turns go by, has in the end all that stands at the last part: what comes in between
    /// comes at the end.
    #[must_use]
    pub fn revocations(&self, now: Time, after: Seq, limit: usize) -> Standing {
        let limit = limit.max(1);
        let grants = self.ended_early.map().range(after.next()..).take(limit);
        let grants: Vec<_> = grants.map(|(seq, id)| (*seq, self.ended(now, *seq, *id))).collect();
        let cuts = self.cut_offs.map().range(after.next()..).take(limit);
        let cuts: Vec<_> = cuts.map(|(seq, cut)| (*seq, cut_off(now, *seq, cut))).collect();
        let full = |seen: &[(Seq, Option<Revocation>)]| {
            seen.last().filter(|_| seen.len() == limit).map(|(seq, _)| *seq)
        };
        // As far as both were looked through.
        let next = [full(&grants), full(&cuts)].into_iter().flatten().min();
        let seen = grants.into_iter().chain(cuts);
        let seen = seen.filter(|(seq, _)| next.is_none_or(|next| *seq <= next));
        let mut items: Vec<_> = seen.filter_map(|(_, one)| one).collect();
        items.sort_by_key(|one| one.seq);
        Standing { items, next }
    }

    fn ended(&self, now: Time, seq: Seq, id: GrantId) -> Option<Revocation> {
        let grant = self.grants.get(&id)?;
        let Status::Ended { reason, at, .. } = grant.status else { return None };
        let last_exp = grant.last_exp()?;
        (now < last_exp).then(|| Revocation {
            seq,
            target: Target::Grant(id),
            resource: Some(grant.resource.clone()),
            identity: Some(grant.by.identity.clone()),
            reason,
            at,
            forget_after: Some(last_exp),
        })
    }
}

fn cut_off(now: Time, seq: Seq, cut: &CutOff) -> Option<Revocation> {
    let alive = cut.forget_after.is_none_or(|forget| now < forget);
    alive.then(|| Revocation {
        seq,
        target: cut.target.clone(),
        resource: cut.target.resource().cloned(),
        identity: cut.target.identity().cloned(),
        reason: cut.reason,
        at: cut.at,
        forget_after: cut.forget_after,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protem_verify::names::Words;
    use protem_verify::time::Lifetime;

    use super::*;
    use crate::command::Command;
    use crate::request::AccessRequest;
    use crate::testbed::{START, World, name, request, revoke, workload};
    use crate::verdict::Effect;

    const SECOND: Duration = Duration::from_secs(1);

    /// A grant of an hour, its first credential of so many seconds, and a second one of ten that dies before it.
    fn outlived(secs: u32) -> (World, GrantId, Time) {
        let mut world = World::new();
        world.credential = SECOND * secs;
        let lifetime = Some(Lifetime(SECOND * 3_600));
        let grant = world.granted(AccessRequest { lifetime, ..request("team/a", "t") });
        let first = world.grant(grant).newest.clone().unwrap();
        world.wait(first.renew_at().since(START).as_secs() + 1);
        world.credential = SECOND * 10;
        world.ok(world.renew(grant, Effect::Issue));
        let newest = world.grant(grant).newest.clone().unwrap();
        assert!(newest.number == 1 && newest.exp + SECOND * 20 < first.exp);
        (world, grant, first.exp)
    }

    /// A token that was given out counts until its own end, whatever rules say of the next one.
    #[test]
    fn an_older_credential_may_outlive_the_newest() {
        let give_back =
            |grant| Command::ReturnGrant { by: workload("team/a"), grant, note: Words::default() };
        for end in [|grant| revoke(Target::Grant(grant)), give_back] {
            let (mut world, grant, exp) = outlived(300);
            let events = world.ok(end(grant));
            let (seq, at) = (world.state.seq(), world.now);
            let told = Revocation::of(seq, at, events.first().unwrap()).unwrap();
            assert_eq!(told.forget_after, Some(exp), "what gateways are told at once");
            world.now = exp.minus(SECOND);
            assert_eq!(world.revocations(), [told], "what they are told when they begin late");
            world.now = exp;
            assert_eq!(world.revocations(), []);
        }
    }

    #[test]
    fn what_is_alive_is_not_forgotten() {
        let (mut world, grant, exp) = outlived(3_500);
        world.ok(revoke(Target::Grant(grant)));
        // Long after the time for which retries are remembered, and after a restart.
        world.now = exp.minus(SECOND);
        for state in [world.state.clone(), State::from_parts(world.state.parts())] {
            world.state = state;
            assert!(world.state.sweep(world.now, usize::MAX));
            assert_eq!(world.revocations().len(), 1);
        }
        assert!(world.state.sweep(exp, usize::MAX));
        assert!(world.state.grant(&grant).is_none());
    }

    #[test]
    fn a_cut_off_and_the_rows_that_it_owes_know_of_the_older_credential() {
        let (mut world, grant, exp) = outlived(3_500);
        world.ok(revoke(Target::Identity(name("team/a"))));
        let rows = world.ok(Command::Tick);
        let Some(Event::GrantEnded(row)) = rows.first() else { panic!("{rows:?}") };
        assert_eq!(row.last_exp, Some(exp));
        world.now = exp.minus(SECOND);
        assert!(world.state.sweep(world.now, usize::MAX));
        let cut = world.revocations();
        assert!(matches!(cut.as_slice(), [one] if one.forget_after == Some(exp)), "{cut:?}");
        assert!(world.state.grant(&grant).is_some());
    }
}
