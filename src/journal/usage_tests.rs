//! What gateways report: counted once, for their own resources, the same on every journal, and within bounds.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::ids::{GrantId, TurnId};
use protem_verify::names::IdentityName;
use protem_verify::time::Time;

use crate::journal::memory::{MemoryJournal, MemoryStore};
use crate::journal::port::Journal;
use crate::journal::reader::Reader;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::testbed::{START, granted, id, opened};
use crate::journal::usage::{
    GRANT_KEPT, HOURS_KEPT, Hour, How, IDENTITY_KEPT, Line, OF_GRANT_MAX, REPORTERS_MAX, Report,
    hour,
};

/// Runs a check on a store of each kind that holds the grants 1 and 2 of `team/1` and `team/2`.
fn each(check: impl Fn(Arc<dyn Reader>)) {
    let fill = |journal: &mut dyn Journal| {
        let known = journal.head().unwrap();
        let mut drafts = Some(vec![opened(), granted(1), granted(2)]);
        journal.turn(&known, TurnId([1; 16]), &mut |_| drafts.take().unwrap()).unwrap();
    };
    let (mut memory, reader) = MemoryJournal::on(&MemoryStore::default(), None);
    fill(&mut memory);
    check(reader);
    let folder = tempfile::tempdir().unwrap();
    let (mut sqlite, reader) = SqliteJournal::open(&folder.path().join("journal.db")).unwrap();
    fill(&mut sqlite);
    check(reader);
}

fn line(number: u64, grant: GrantId, operation: &str, how: How, after: u64) -> Line {
    let last = START + Duration::from_secs(after);
    Line { number, grant, operation: operation.to_owned(), how, count: 3, last, dropped: 0 }
}

fn read(number: u64) -> Line {
    line(number, id(1), "GET /v1/orders", How::Allowed("orders:read".into()), number)
}

fn refused(number: u64) -> Line {
    line(number, id(1), "PUT /v1/orders", How::Refused("PT-0413".into()), number)
}

fn report(instance: &str, lines: Vec<Line>) -> Report {
    Report {
        gateway: "edge".try_into().unwrap(),
        instance: instance.to_owned(),
        resources: vec!["orders-api".try_into().unwrap()],
        now: START,
        lines,
    }
}

#[track_caller]
fn counts(reader: &dyn Reader, report: &Report, expect: (u64, u64, u64)) {
    let counted = reader.count_usage(report).unwrap();
    assert_eq!((counted.counted, counted.repeated, counted.unknown), expect);
}

fn total(reader: &dyn Reader, grant: u64) -> u64 {
    reader.usage_of_grant(&id(grant)).unwrap().iter().map(|used| used.count).sum()
}

#[test]
fn a_report_that_comes_again_is_counted_once() {
    each(|reader| {
        let lossy = vec![Line { dropped: 5, ..read(1) }, read(2)];
        for _ in 0..2 {
            reader.count_usage(&report("lossy", lossy.clone())).unwrap();
        }
        let by: Vec<_> = reader.usage_reporters().unwrap();
        assert_eq!(by.iter().map(|one| one.dropped).sum::<u64>(), 5, "what was lost, too");
    });
    each(|reader| {
        counts(&*reader, &report("a", vec![read(1), read(2)]), (2, 0, 0));
        counts(&*reader, &report("a", vec![read(1), read(2), read(3)]), (1, 2, 0));
        counts(&*reader, &report("a", vec![read(3)]), (0, 1, 0));
        assert_eq!(total(&*reader, 1), 9);
        // Numbers are each instance's own.
        counts(&*reader, &report("b", vec![read(1)]), (1, 0, 0));
        assert_eq!(total(&*reader, 1), 12);
        let by: Vec<_> = reader.usage_reporters().unwrap();
        assert_eq!(by.iter().map(|by| by.instance.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    });
}

#[test]
fn only_grants_on_the_gateways_resources_are_counted() {
    each(|reader| {
        let foreign = Report { resources: vec![], ..report("a", vec![read(1)]) };
        counts(&*reader, &foreign, (0, 0, 1));
        let unknown = Line { grant: id(77), ..read(2) };
        counts(&*reader, &report("a", vec![unknown]), (0, 0, 1));
        assert_eq!((total(&*reader, 1), total(&*reader, 77)), (0, 0));
        // What was refused once is not counted later, when the bundle gives more.
        counts(&*reader, &report("a", vec![read(1), read(2)]), (0, 2, 0));
    });
}

#[test]
fn counts_are_kept_by_grant_by_identity_and_by_hour() {
    each(|reader| {
        let other = Line { grant: id(2), ..read(4) };
        counts(&*reader, &report("a", vec![read(1), read(2), refused(3), other]), (4, 0, 0));
        let uses = reader.usage_of_grant(&id(1)).unwrap();
        let at = |after| START + Duration::from_secs(after);
        assert_eq!(uses.len(), 2);
        assert_eq!((uses[0].count, uses[0].first, uses[0].last), (6, at(1), at(2)));
        assert_eq!(uses[0].how, How::Allowed("orders:read".into()));
        assert_eq!((uses[1].operation.as_str(), uses[1].count), ("PUT /v1/orders", 3));
        assert_eq!(uses[1].how, How::Refused("PT-0413".into()));
        let one: IdentityName = "team/1".try_into().unwrap();
        let used = reader.usage_of_identity(&one).unwrap();
        let mut used: Vec<_> =
            used.iter().map(|used| (used.scope.as_deref(), used.count)).collect();
        used.sort_unstable();
        assert_eq!(used, [(None, 3), (Some("orders:read"), 6)]);
        let hours = reader.usage_by_hour(&one, 0).unwrap();
        assert_eq!(hours, [Hour { hour: hour(START), allowed: 6, refused: 3 }]);
        assert!(reader.usage_by_hour(&one, hour(START) + 1).unwrap().is_empty());
    });
}

/// INVARIANT(usage_is_bounded).
#[test]
fn usage_is_bounded() {
    each(|reader| {
        let many = |number: u64| {
            line(number, id(1), &format!("GET /{number}"), How::Allowed("s".into()), 1)
        };
        let lines = (1..=OF_GRANT_MAX + 50).map(many).collect();
        reader.count_usage(&report("a", lines)).unwrap();
        let rows = reader.usage_of_grant(&id(1)).unwrap();
        let max = usize::try_from(OF_GRANT_MAX).unwrap();
        assert!(rows.len() <= max + 1, "{}", rows.len());
        assert_eq!(total(&*reader, 1), 3 * (OF_GRANT_MAX + 50), "none is lost");
        assert!(rows.iter().any(|row| row.operation.is_empty() && row.count == 150));
    });
    // The store in memory keeps what it is told for as long as a test runs.
    let folder = tempfile::tempdir().unwrap();
    let (_journal, reader) = SqliteJournal::open(&folder.path().join("journal.db")).unwrap();
    for number in 0..REPORTERS_MAX + 5 {
        let now = START + Duration::from_secs(number);
        let report = Report { now, ..report(&format!("i{number}"), vec![]) };
        reader.count_usage(&report).unwrap();
    }
    let left = reader.usage_reporters().unwrap();
    assert_eq!(u64::try_from(left.len()).unwrap(), REPORTERS_MAX);
    assert!(left.iter().all(|by| by.instance != "i0"), "the one that was silent the longest goes");
}

#[test]
fn what_is_old_is_forgotten_each_in_its_time() {
    each(|reader| {
        counts(&*reader, &report("a", vec![read(1), refused(2)]), (2, 0, 0));
        let one: IdentityName = "team/1".try_into().unwrap();
        let left = |now: Time| {
            while reader.forget_usage(now, 1).unwrap() > 0 {}
            let hours = reader.usage_by_hour(&one, 0).unwrap().len();
            let of_grant = reader.usage_of_grant(&id(1)).unwrap().len();
            (hours, of_grant, reader.usage_of_identity(&one).unwrap().len())
        };
        let later = |by: Duration| START + by;
        assert_eq!(left(START), (1, 2, 2));
        assert_eq!(left(later(Duration::from_secs((HOURS_KEPT + 1) * 3_600))), (0, 2, 2));
        assert_eq!(left(later(GRANT_KEPT + Duration::from_secs(60))), (0, 0, 2));
        assert_eq!(left(later(IDENTITY_KEPT + Duration::from_secs(60))), (0, 0, 0));
    });
}
