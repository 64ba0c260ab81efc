//! Which grants a reader finds, where they stand, and how much it reads for that.

use std::path::Path;
use std::time::Duration;

use protem_core::event::{Draft, Event, Target};
use protem_verify::ids::{Epoch, GrantId, Hash, Seq};
use protem_verify::names::IdentityName;
use protem_verify::time::{Lifetime, Time};
use rusqlite::Connection;

use crate::journal::conformance::{all, append, each, ids, listed};
use crate::journal::fault::Fault;
use crate::journal::reader::{GrantFilter, Stage};
use crate::journal::records::Shown;
use crate::journal::several::of_several;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::testbed::{
    START, cut_off, draft, ended, granted, id, opened, person, request, requested, scopes, words,
};
use crate::journal::verify::{rebuild, verify_store};

fn in_state(stage: Stage) -> GrantFilter {
    GrantFilter { states: vec![stage], ..all() }
}

/// Grants 1 and 8 are of one identity, 2 of another; all on one resource.
#[track_caller]
fn cuts(target: Target, covered: &[u64]) {
    each(|(mut journal, reader)| {
        let narrowed = draft(Event::RequestNarrowed {
            grant: id(2),
            by: person("bob"),
            scopes: scopes(&["orders:read"]),
            lifetime: Lifetime(Duration::from_secs(60)),
            digest: Hash([10; 32]),
        });
        let before = vec![opened(), granted(1), requested(2), narrowed, granted(8)];
        append(&mut *journal, before);
        // The first that covers it is the one that ended it.
        append(&mut *journal, vec![cut_off(target.clone()), cut_off(target.clone())]);
        append(&mut *journal, vec![granted(15)]); // later than what was cut off
        let left: Vec<u64> =
            [15, 8, 2, 1].into_iter().filter(|one| !covered.contains(one)).collect();
        let live = GrantFilter { states: vec![Stage::Pending, Stage::Active], ..all() };
        listed(&*reader, &live, &left);
        listed(&*reader, &in_state(Stage::Ended), covered);
        for number in covered {
            let cut = reader.grant(&id(*number)).unwrap().unwrap();
            assert!(matches!(&cut.status, Shown::Ended { note, .. } if note.as_str() == "leaked"));
        }
        let waits = reader.grant(&id(2)).unwrap().unwrap();
        assert_eq!(waits.stage() == Stage::Pending, !covered.contains(&2), "{target:?}");
    });
}

#[test]
fn a_cut_off_ends_what_it_covers_on_every_axis() {
    let of = |number| request(number).by.identity;
    let resource = || request(1).resource;
    cuts(Target::Grant(id(1)), &[1]);
    cuts(Target::Task(of(1), request(1).task.id), &[1]);
    cuts(Target::Task(of(2), request(1).task.id), &[]); // a task of that name, but of somebody else
    cuts(Target::Identity(of(1)), &[8, 1]);
    cuts(Target::Resource(resource()), &[8, 2, 1]);
    cuts(Target::Resource("orders".try_into().unwrap()), &[]);
    cuts(Target::Scope(resource(), "orders:read".try_into().unwrap()), &[8, 2, 1]);
    cuts(Target::Scope(resource(), "orders:write".try_into().unwrap()), &[8, 1]);
    cuts(Target::Key("k1".try_into().unwrap()), &[]);
    cuts(Target::Everything, &[8, 2, 1]);
}

#[test]
fn a_new_epoch_ends_all_before_it() {
    each(|(mut journal, reader)| {
        let note = words("restored");
        let epoch = Epoch(START.as_millis() + 1);
        let began = draft(Event::EpochBegan { epoch, note });
        append(&mut *journal, vec![opened(), granted(1), began, granted(2)]);
        listed(&*reader, &in_state(Stage::Active), &[2]);
        listed(&*reader, &in_state(Stage::Ended), &[1]);
    });
}

#[test]
fn a_page_looks_through_a_limited_number_and_says_where_to_go_on() {
    each(|(mut journal, reader)| {
        append(&mut *journal, vec![opened()]);
        append(&mut *journal, (1..=40).map(granted).collect());
        append(&mut *journal, vec![ended(3)]);
        let few = GrantFilter { looks: Some(15), ..in_state(Stage::Ended) };
        let first = reader.grants(&few).unwrap();
        assert_eq!((ids(&first), first.next), (vec![], Some(id(26))));
        let second = reader.grants(&GrantFilter { before: first.next, ..few.clone() }).unwrap();
        assert_eq!((ids(&second), second.next), (vec![], Some(id(11))));
        let third = reader.grants(&GrantFilter { before: second.next, ..few }).unwrap();
        assert_eq!((ids(&third), third.next), (vec![id(3)], None));
        // A full page, and one that ends with the last of all.
        let two = reader.grants(&GrantFilter { limit: 2, ..all() }).unwrap();
        assert_eq!((ids(&two), two.next), (vec![id(40), id(39)], Some(id(39))));
        let last = GrantFilter { limit: 2, before: Some(id(3)), ..all() };
        assert_eq!(reader.grants(&last).unwrap().next, None);
    });
}

/// As ids are made: the moment, then chance.
fn at(millis: u64) -> (Time, GrantId) {
    let time = Time::from_millis(START.as_millis() + millis);
    let mut id = [7; 16];
    id[..6].copy_from_slice(&time.as_millis().to_be_bytes()[2..]);
    (time, GrantId(id))
}

#[test]
fn grants_are_found_by_when_they_were_asked_for() {
    each(|(mut journal, reader)| {
        append(&mut *journal, vec![opened()]);
        let made = |millis| {
            let (at, id) = at(millis);
            let Draft { actor, event: Event::GrantActivated(mut one), .. } = granted(1) else {
                panic!("it is an activation")
            };
            one.credential.grant = id;
            Draft { actor, at, event: Event::GrantActivated(one) }
        };
        append(&mut *journal, (0..10).map(made).collect());
        let within = |since: u64, until: u64| {
            let (since, until) = (Some(at(since).0), Some(at(until).0));
            ids(&reader.grants(&GrantFilter { since, until, ..all() }).unwrap())
        };
        assert_eq!(within(3, 6), [5, 4, 3].map(|one| at(one).1));
        assert_eq!(within(0, 1), [at(0).1]);
        assert_eq!(within(9, 99), [at(9).1]);
        assert_eq!(within(4, 4), []);
        // Nothing that is older is looked at.
        let looks = Some(5);
        let new = GrantFilter { since: Some(at(6).0), looks, ..all() };
        assert_eq!(reader.grants(&new).unwrap().next, None);
    });
}

#[test]
fn several_identities_are_one_list() {
    each(|(mut journal, reader)| {
        append(&mut *journal, vec![opened()]);
        // Most are of one identity; two others have some far apart, the last of them none.
        let number =
            |at: u64| if at.is_multiple_of(50) { at * 7 + at / 50 % 2 + 1 } else { at * 7 };
        append(&mut *journal, (1..=500).map(|at| granted(number(at))).collect());
        let names: Vec<IdentityName> = (0..4).map(|one| request(one).by.identity).collect();
        let mut expect: Vec<GrantId> = (1..=500).map(|at| id(number(at))).collect();
        expect.reverse();
        for limit in [7, 100, 1_000] {
            let mut filter = GrantFilter { limit, ..GrantFilter::default() };
            let mut found = Vec::new();
            loop {
                let page = of_several(&*reader, &filter, &names).unwrap();
                assert!(page.grants.len() <= usize::try_from(limit).unwrap());
                found.extend(ids(&page));
                let Some(next) = page.next else { break };
                assert!(filter.before.is_none_or(|before| next < before), "it goes on");
                filter.before = Some(next);
            }
            let at = found.iter().zip(&expect).position(|(one, other)| one != other);
            assert_eq!((at, found.len()), (None, expect.len()), "by {limit}");
        }
    });
}

fn sql(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// Makes the body of an entry unreadable: whoever reads it is told of damage.
fn spoil(path: &Path, seq: Seq) {
    let body = "CAST(substr(body, 1, length(body) - 1) || x'00' AS BLOB)";
    sql(path, &format!("UPDATE entries SET body = {body} WHERE seq = {seq}"));
}

#[test]
fn a_cut_off_that_does_not_cover_a_grant_is_not_read_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (mut journal, reader) = SqliteJournal::open(&path).unwrap();
    append(&mut journal, vec![opened(), granted(1)]);
    let identity = request(1).by.identity;
    let of_others = |task: u64| Target::Task(identity.clone(), request(task).task.id);
    let head = append(&mut journal, (2..200).map(|task| cut_off(of_others(task))).collect());
    (3..=head.seq.0).for_each(|seq| spoil(&path, Seq(seq)));
    assert_eq!(reader.grant(&id(1)).unwrap().unwrap().stage(), Stage::Active);
    listed(&*reader, &in_state(Stage::Active), &[1]);
    // One that does is read, and it alone.
    let head = append(&mut journal, vec![cut_off(of_others(1))]);
    assert_eq!(reader.grant(&id(1)).unwrap().unwrap().stage(), Stage::Ended);
    spoil(&path, head.seq);
    assert!(matches!(reader.grant(&id(1)), Err(Fault::Damaged { seq, .. }) if seq == head.seq));
}

#[test]
fn whoever_looks_for_ended_grants_reads_no_entry_of_live_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (mut journal, reader) = SqliteJournal::open(&path).unwrap();
    append(&mut journal, vec![opened(), granted(1), ended(1), granted(2), granted(3)]);
    spoil(&path, Seq(4));
    spoil(&path, Seq(5));
    listed(&*reader, &in_state(Stage::Ended), &[1]);
    assert!(reader.grants(&in_state(Stage::Active)).is_err());
}

/// Takes a journal back to what the version before this schema left.
const BEFORE_COVERS: &str = "DROP INDEX cut_offs_by_covers; ALTER TABLE cut_offs DROP COLUMN covers; \
                             DROP INDEX bundles_activated; \
                             DELETE FROM migrations WHERE number > 4; PRAGMA user_version = 4";

#[test]
fn an_older_journal_learns_what_its_cut_offs_cover() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (mut journal, _) = SqliteJournal::open(&path).unwrap();
    let everything = draft(Event::EpochBegan { epoch: Epoch(START.as_millis()), note: words("x") });
    append(&mut journal, vec![opened(), granted(3), everything, granted(1), granted(2)]);
    let cut = cut_off(Target::Identity(request(1).by.identity));
    let head = append(&mut journal, vec![cut]);
    drop(journal);
    let covers = "UPDATE cut_offs SET covers = 'everything' WHERE seq = 6";
    sql(&path, covers);
    assert!(matches!(verify_store(&path), Err(Fault::Damaged { .. })));
    for rebuilt in [false, true] {
        sql(&path, BEFORE_COVERS);
        assert_eq!(verify_store(&path).unwrap(), head);
        if rebuilt {
            rebuild(&path).unwrap();
            assert_eq!(verify_store(&path).unwrap(), head);
        }
        let (_journal, reader) = SqliteJournal::open(&path).unwrap();
        listed(&*reader, &in_state(Stage::Active), &[2]);
        listed(&*reader, &in_state(Stage::Ended), &[3, 1]);
        assert_eq!(verify_store(&path).unwrap(), head);
    }
}
