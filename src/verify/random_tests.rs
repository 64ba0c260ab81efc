//! A view beside a plain list of all that was ever revoked: the same answers, whatever comes in which order.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use crate::bench::tests::{Bench, EPOCH, JOURNAL, NOW, checkpoint_key, claims, moment};
    use crate::checkpoint::Checkpoint;
    use crate::claims::Claims;
    use crate::fences::{Revocation, Target};
    use crate::ids::{GrantId, Hash, Seq};
    use crate::known::{Known, Moment};
    use crate::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
    use crate::time::Time;

    /// Splitmix64: a seed is a history.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % below
        }
    }

    /// A credential that lives until `exp`, and what it is for.
    struct Issued {
        claims: Claims,
        resource: ResourceName,
        key: KeyId,
    }

    /// All that was ever revoked, in a list that is searched from end to end and forgets nothing.
    #[derive(Clone, Default)]
    struct Plain(Vec<Revocation>);

    impl Plain {
        fn voids(&self, issued: &Issued) -> bool {
            self.0.iter().any(|item| covers(item, issued))
        }
    }

    fn covers(item: &Revocation, Issued { claims, resource, key }: &Issued) -> bool {
        let before = claims.seq <= item.seq;
        match &item.target {
            Target::Grant(id) => *id == claims.grant,
            Target::Task(identity, task) => {
                before && *identity == claims.identity && *task == claims.task
            }
            Target::Identity(identity) => before && *identity == claims.identity,
            Target::Resource(on) => before && on == resource,
            Target::Scope(on, scope) => before && on == resource && claims.scopes.contains(scope),
            Target::Key(id) => id == key,
            Target::Everything => before,
        }
    }

    /// One gateway's history.
    struct World {
        dice: Dice,
        bench: Bench,
        plain: Plain,
        issued: Vec<Issued>,
        /// Seconds since the first proof.
        now: u64,
        /// Views that somebody kept, and what they must still say.
        kept: Vec<(Arc<Known>, Plain, u64)>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let bench = Bench::fresh();
            let (plain, issued, kept) = (Plain::default(), Vec::new(), Vec::new());
            Self { dice: Dice(seed), bench, plain, issued, now: 0, kept }
        }

        fn pick<T: for<'a> TryFrom<&'a str>>(&mut self, of: &str) -> T {
            let text = format!("{of}{}", self.dice.roll(3));
            T::try_from(&text).ok().unwrap()
        }

        fn issue(&mut self) {
            self.bench.head = self.bench.head.next();
            let number = u128::try_from(self.issued.len()).unwrap();
            let expires = Time::from_secs(NOW + self.now + 10 + self.dice.roll(3_000));
            let claims = Claims {
                grant: GrantId((u128::MAX / 7 + number).to_be_bytes()),
                seq: self.bench.head,
                identity: self.pick::<IdentityName>("id"),
                task: self.pick::<TaskId>("task"),
                scopes: vec![self.pick::<ScopeName>("s:"), self.pick::<ScopeName>("t:")],
                expires,
                ..claims()
            };
            let (resource, key) = (self.pick("r"), self.pick::<KeyId>("k"));
            self.issued.push(Issued { claims, resource, key });
        }

        fn revocation(&mut self) -> Revocation {
            let target = match self.dice.roll(100) {
                0..=1 => Target::Task(self.pick("id"), self.pick("task")),
                2 => Target::Identity(self.pick("id")),
                3 => Target::Resource(self.pick("r")),
                4 => Target::Scope(self.pick("r"), self.pick("s:")),
                5 if self.dice.roll(8) == 0 => Target::Key(self.pick("k")),
                6 if self.dice.roll(8) == 0 => Target::Everything,
                _ => {
                    let at = self.dice.roll(u64::try_from(self.issued.len()).unwrap());
                    Target::Grant(self.issued[usize::try_from(at).unwrap()].claims.grant)
                }
            };
            let (seq, prev) = (self.bench.head.next(), self.bench.last_item);
            let mut item = Revocation { seq, prev, target, forget_after: None };
            let covered = self.issued.iter().filter(|issued| covers(&item, issued));
            let last = covered.map(|issued| issued.claims.expires).max();
            if !matches!(item.target, Target::Key(_) | Target::Everything) {
                item.forget_after = Some(last.unwrap_or(Time::from_secs(NOW + self.now)));
            }
            item
        }

        fn revoke(&mut self) {
            let items: Vec<_> = (0..=self.dice.roll(4))
                .map(|_| {
                    let item = self.revocation();
                    (self.bench.head, self.bench.last_item) = (item.seq, item.seq);
                    item
                })
                .collect();
            self.bench.view.revoked(&items).unwrap();
            self.plain.0.extend(items);
        }

        fn moment(&self) -> Moment {
            moment(100 + self.now)
        }

        fn prove(&mut self) {
            self.now += 1 + self.dice.roll(200);
            self.bench.now = self.moment();
            let (journal, epoch, seq, root) = (JOURNAL, EPOCH, self.bench.head, Hash([9; 32]));
            let at = Time::from_secs(NOW + self.now);
            let signed = Checkpoint { journal, epoch, seq, at, root }.sign(&checkpoint_key());
            let (claimed, now) = (self.bench.claimed(), self.bench.now);
            assert_eq!(self.bench.view.checkpoint(&signed, claimed, Some(now), now), Ok(true));
        }

        /// A snapshot as a broker makes it: without what is over, in order, in parts. The old view answers until its end.
        fn snapshot(&mut self) {
            let now = Time::from_secs(NOW + self.now);
            let alive = |item: &&Revocation| item.forget_after.is_none_or(|after| now < after);
            let items: Vec<Revocation> = self
                .plain
                .0
                .iter()
                .filter(alive)
                .map(|item| Revocation { prev: Seq(0), ..item.clone() })
                .collect();
            self.bench.view.reset();
            let entries = u64::try_from(items.len()).unwrap();
            self.bench.view.snapshot_begin(self.bench.head, entries);
            for part in items.chunks(7) {
                self.bench.view.revoked(part).unwrap();
                self.check();
            }
            let last = self.bench.last_item;
            self.bench.view.snapshot_end(self.bench.head, entries, last).unwrap();
        }

        fn check(&mut self) {
            let known = self.bench.view.reader().load_full();
            self.agrees(&known, &self.plain, self.now);
            if self.dice.roll(20) == 0 {
                self.kept.push((known, self.plain.clone(), self.now));
            }
        }

        /// A credential that is over is refused by its own `exp`; whether it was revoked is nobody's concern any more.
        fn agrees(&self, known: &Known, plain: &Plain, now: u64) {
            let alive = |issued: &&Issued| Time::from_secs(NOW + now) < issued.claims.expires;
            for issued in self.issued.iter().filter(alive) {
                let Issued { claims, resource, key } = issued;
                let voids = known.fences.voids(claims, resource) || known.fences.voids_key(key);
                assert_eq!(voids, plain.voids(issued), "{claims:?} on {resource} at {now}");
            }
        }
    }

    #[test]
    fn a_view_answers_as_a_plain_list_does() {
        let (mut voided, mut forgotten) = (0, 0);
        for seed in 0..150 {
            let mut world = World::new(seed);
            world.issue();
            for _ in 0..120 {
                match world.dice.roll(10) {
                    0..=3 => world.issue(),
                    4..=7 => world.revoke(),
                    8 => world.prove(),
                    _ if world.dice.roll(4) == 0 => world.snapshot(),
                    _ => {}
                }
                world.check();
            }
            for (known, plain, now) in &world.kept {
                world.agrees(known, plain, *now);
            }
            let distinct: BTreeSet<_> = world.plain.0.iter().map(|item| &item.target).collect();
            voided += world.issued.iter().filter(|issued| world.plain.voids(issued)).count();
            forgotten += distinct.len().saturating_sub(world.bench.view.known().fences.len());
        }
        assert!(voided > 1_000 && forgotten > 1_000, "{voided} {forgotten}: it tried nothing");
    }

    #[test]
    fn a_snapshot_longer_than_announced_is_none() {
        let mut bench = Bench::fresh();
        bench.view.snapshot_begin(Seq(100), 1);
        let item = |id: u8| Revocation {
            seq: Seq(u64::from(id)),
            prev: Seq(0),
            target: Target::Grant(GrantId([id; 16])),
            forget_after: None,
        };
        assert!(bench.view.revoked(&[item(1), item(2)]).is_err());
        assert!(bench.view.snapshot_end(Seq(100), 1, Seq(2)).is_err());
        assert_eq!(bench.view.resume(), None, "only another snapshot helps");
    }

    #[test]
    fn nobody_who_reads_keeps_more_than_a_few_former_views() {
        let mut bench = Bench::fresh();
        let mut held = Vec::new();
        for id in 0..200_u8 {
            held.push(bench.view.reader().load_full());
            bench.revoke(Target::Grant(GrantId([id; 16])));
        }
        // The writer's own clone, this test's, and no third: former views beyond a few are the reader's to let go.
        assert_eq!(Arc::strong_count(&held[0]), 1);
        let watched = Arc::downgrade(&held[199]);
        drop(held);
        assert!(watched.upgrade().is_some(), "a reader who is done frees nothing");
        bench.now = moment(102);
        bench.prove(moment(101)).unwrap();
        assert!(watched.upgrade().is_none(), "the writer does");
    }
}
