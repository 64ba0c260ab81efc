//! What a view does when a broker errs or lies: gaps, false and late proofs, steps back.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::bench::tests::{
        Bench, EPOCH, ISSUER, JOURNAL, NOW, checkpoint_key, claims, moment, opened, token,
    };
    use crate::checkpoint::Checkpoint;
    use crate::claims::Claims;
    use crate::fences::{Revocation, Target};
    use crate::ids::{Epoch, GrantId, Hash, JournalId, Seq};
    use crate::keys::jwks;
    use crate::time::{Staleness, Time};
    use crate::view::{Broken, Claimed, View};

    fn grant(id: u8) -> Target {
        Target::Grant(GrantId([id; 16]))
    }

    #[track_caller]
    fn says(bench: &Bench, expect: &str) {
        assert_eq!(bench.says(&token(&claims())), expect);
    }

    #[test]
    fn a_gap_is_noticed_and_what_came_after_it_is_enforced_all_the_same() {
        let mut bench = Bench::fresh();
        bench.revoke(grant(1));
        let item =
            |target| Revocation { seq: Seq(105), prev: Seq(103), target, forget_after: None };
        assert_eq!(bench.view.revoked(&[item(Target::Grant(claims().grant))]), Err(Broken::Gap));
        says(&bench, "PT-0410");
        assert_eq!(bench.view.resume(), None, "only a snapshot helps");
        assert_eq!(bench.prove(moment(101)), Err(Broken::Gap));
    }

    #[test]
    fn a_repeated_item_changes_nothing() {
        let mut bench = Bench::fresh();
        bench.revoke(grant(1));
        let (seq, prev) = (bench.last_item, Seq(0));
        let again = Revocation { seq, prev, target: grant(1), forget_after: None };
        assert_eq!(bench.view.revoked(&[again]), Ok(()));
        assert_eq!(bench.prove(moment(101)), Ok(true));
    }

    #[test]
    fn a_checkpoint_proves_only_what_was_applied() {
        let good = Bench::fresh().claimed();
        for claimed in [
            Claimed { last_sent: Seq(99), ..good },
            Claimed { keys_seq: Seq(4), ..good },
            Claimed { catalog_seq: Seq(4), ..good },
        ] {
            let mut bench = Bench::fresh();
            let (signed, now) = (bench.signed(), bench.now);
            let done = bench.view.checkpoint(&signed, claimed, Some(moment(101)), now);
            assert_eq!(done, Err(Broken::Gap), "{claimed:?}");
            assert_eq!(bench.view.known().proven.map(|proven| proven.sent), Some(moment(100)));
        }
    }

    #[test]
    fn a_checkpoint_without_a_ping_or_a_key_proves_nothing() {
        let mut bench = Bench::fresh();
        let (mut signed, claimed, now) = (bench.signed(), bench.claimed(), bench.now);
        assert_eq!(bench.view.checkpoint(&signed, claimed, None, now), Ok(false));
        signed.signature[0] ^= 1;
        let forged = bench.view.checkpoint(&signed, claimed, Some(moment(101)), now);
        assert_eq!(forged, Err(Broken::Forged));
        bench.view.snapshot_begin(Seq(100), 0);
        assert_eq!(bench.prove(moment(101)), Err(Broken::Gap), "within a snapshot");
    }

    #[test]
    fn a_view_is_as_old_as_its_newest_proven_ping() {
        let mut bench = Bench::fresh();
        for (at, expect) in [(105, "allow"), (106, "PT-0417")] {
            bench.now = moment(at);
            says(&bench, expect);
        }
        // A proof that was delayed for six seconds is six seconds old when it comes.
        assert_eq!(bench.prove(moment(100)), Ok(false));
        says(&bench, "PT-0417");
        bench.prove(moment(102)).unwrap();
        says(&bench, "allow");
        bench.now = moment(108);
        says(&bench, "PT-0417");
        let patient = Claims { fresh: Staleness(Duration::from_secs(6)), ..claims() };
        assert_eq!(bench.says(&token(&patient)), "allow", "each credential has its own bound");
    }

    #[test]
    fn a_stepped_wall_clock_makes_the_view_stale_and_never_tells_the_time() {
        for step in [2, 3_600] {
            let mut bench = Bench::fresh();
            bench.now.unix += Duration::from_secs(step);
            says(&bench, "PT-0420");
            let sent = bench.now;
            bench.prove(sent).unwrap();
            says(&bench, "allow");
            assert_eq!(bench.view.known().now(bench.now), Some(Time::from_secs(NOW + 1)));
        }
    }

    #[test]
    fn time_never_goes_back() {
        let mut bench = Bench::fresh();
        let before = bench.view.known().now(bench.now).unwrap();
        // The broker's clock stands ten seconds earlier than it did.
        let at = Time::from_secs(NOW - 9);
        let checkpoint = Checkpoint { at, ..bench.signed().checkpoint };
        let (claimed, now) = (bench.claimed(), bench.now);
        let signed = checkpoint.sign(&checkpoint_key());
        assert_eq!(bench.view.checkpoint(&signed, claimed, Some(moment(101)), now), Ok(true));
        assert_eq!(bench.view.known().now(now), Some(before));
    }

    #[test]
    fn a_broker_that_goes_back_closes_the_gateway_until_a_greater_epoch() {
        let back = |bench: &Bench| {
            let now = bench.signed().checkpoint;
            let lower = Checkpoint { seq: Seq(99), ..now };
            let other = Checkpoint { root: Hash([8; 32]), ..now };
            [lower, other]
        };
        for checkpoint in back(&Bench::fresh()) {
            let mut bench = Bench::fresh();
            let (claimed, now) = (bench.claimed(), bench.now);
            let signed = checkpoint.sign(&checkpoint_key());
            let done = bench.view.checkpoint(&signed, claimed, Some(moment(101)), now);
            assert_eq!(done, Err(Broken::RolledBack), "{checkpoint:?}");
            says(&bench, "PT-0419");
            assert_eq!(bench.view.opened(&opened(EPOCH, JOURNAL)), Err(Broken::RolledBack));
            says(&bench, "PT-0419");
            assert_eq!(bench.view.opened(&opened(Epoch(EPOCH.0 + 1), JOURNAL)), Ok(()));
            says(&bench, "PT-0416");
        }
    }

    #[test]
    fn what_an_earlier_run_saw_binds_the_next() {
        let newest = Some(Bench::fresh().signed());
        for (epoch, journal, expect) in [
            (Epoch(EPOCH.0 - 1), JOURNAL, Err(Broken::RolledBack)),
            (EPOCH, JournalId([1; 16]), Err(Broken::RolledBack)),
            (EPOCH, JOURNAL, Ok(())),
            (Epoch(EPOCH.0 + 1), JournalId([1; 16]), Ok(())),
        ] {
            let mut view = View::new(ISSUER, newest);
            assert_eq!(view.opened(&opened(epoch, journal)), expect);
        }
        let mut view = View::new("https://other.example", None);
        assert_eq!(view.opened(&opened(EPOCH, JOURNAL)), Err(Broken::WrongIssuer));
    }

    #[test]
    fn what_is_not_understood_covers_everything_up_to_the_next_checkpoint() {
        let mut bench = Bench::fresh();
        bench.view.not_understood();
        says(&bench, "PT-0419");
        bench.prove(moment(101)).unwrap();
        says(&bench, "PT-0410");
        let younger = Claims { seq: Seq(101), ..claims() };
        assert_eq!(bench.says(&token(&younger)), "allow");
    }

    #[test]
    fn the_old_view_serves_while_a_snapshot_is_built() {
        let mut bench = Bench::fresh();
        bench.view.reset();
        bench.view.snapshot_begin(Seq(100), 1);
        let (target, prev) = (Target::Grant(claims().grant), Seq(0));
        let item = Revocation { seq: Seq(60), prev, target, forget_after: None };
        bench.view.revoked(&[item]).unwrap();
        says(&bench, "allow");
        bench.view.snapshot_end(Seq(100), 1, Seq(60)).unwrap();
        says(&bench, "PT-0410");
        // A snapshot of less than was proven waits for a proof of its own.
        bench.view.snapshot_begin(Seq(99), 0);
        bench.view.snapshot_end(Seq(99), 0, Seq(0)).unwrap();
        says(&bench, "PT-0416");
    }

    /// What was acknowledged after the newest proof counts as much as what that proof covers.
    #[test]
    fn a_snapshot_of_less_than_was_acknowledged_waits_for_a_proof_of_its_own() {
        let mut bench = Bench::fresh();
        bench.revoke(Target::Grant(claims().grant));
        assert_eq!(bench.view.enforced(), Seq(101), "acknowledged, and not yet proven");
        says(&bench, "PT-0410");
        // The broker has lost it, and says that this is all there is up to the proven head.
        bench.view.reset();
        bench.head = Seq(100);
        bench.snapshot(&[]).unwrap();
        says(&bench, "PT-0416");
        bench.prove(moment(101)).unwrap();
        says(&bench, "allow");
    }

    #[test]
    fn time_does_not_go_back_over_a_proof_that_lapsed() {
        let mut bench = Bench::fresh();
        bench.revoke(grant(1));
        let before = bench.view.known().now(bench.now).unwrap();
        bench.view.reset();
        bench.head = Seq(100);
        bench.snapshot(&[]).unwrap();
        assert_eq!(bench.view.known().now(bench.now), None);
        // Another broker of the same journal, whose clock is late.
        let at = Time::from_secs(NOW - 9);
        let signed = Checkpoint { at, ..bench.signed().checkpoint }.sign(&checkpoint_key());
        let (claimed, now) = (bench.claimed(), bench.now);
        assert_eq!(bench.view.checkpoint(&signed, claimed, Some(moment(101)), now), Ok(true));
        assert_eq!(bench.view.known().now(now), Some(before));
    }

    /// A broker of before replays, after a resume, what its opening had overtaken.
    #[test]
    fn keys_and_catalog_do_not_go_back_on_a_stream() {
        let none = r#"{"resources":{}}"#;
        let mut bench = Bench::fresh();
        let known = bench.view.known().max_staleness;
        bench.view.keys(&jwks(&[]), &jwks(&[]), Seq(1));
        bench.view.ceiling(Duration::from_secs(60), Seq(2));
        bench.view.catalog(none, Seq(2));
        says(&bench, "allow");
        assert_eq!(bench.view.known().max_staleness, known);
        assert_eq!(bench.prove(moment(101)), Ok(true));
        bench.view.catalog(none, Seq(4));
        says(&bench, "PT-0421");
        // Another stream may be of a broker that counts from elsewhere: what it begins with counts, and without it nothing
        // is proven.
        let mut bench = Bench::fresh();
        bench.view.opened(&opened(EPOCH, JOURNAL)).unwrap();
        says(&bench, "allow");
        assert_eq!(bench.prove(moment(101)), Err(Broken::Gap));
        bench.view.catalog(none, Seq(2));
        says(&bench, "PT-0421");
    }

    #[test]
    fn a_credential_that_is_newer_than_the_view_waits() {
        let bench = Bench::fresh();
        let newer = Claims { epoch: Epoch(EPOCH.0 + 1), ..claims() };
        assert_eq!(bench.says(&token(&newer)), "PT-0418");
        let scopes = vec![crate::names::ScopeName::try_from("orders:new").unwrap()];
        for (seq, expect) in [(100, "PT-0413"), (101, "PT-0418")] {
            let unknown = Claims { seq: Seq(seq), scopes: scopes.clone(), ..claims() };
            assert_eq!(bench.says(&token(&unknown)), expect);
        }
        assert_eq!(bench.says(&token(&Claims { seq: Seq(5_000), ..claims() })), "allow");
    }
}
