//! What stands beside the log: the same on every journal, and still there after a restart.

use std::sync::Arc;

use protem_verify::ids::Seq;
use protem_verify::time::Time;

use crate::journal::memory::{MemoryJournal, MemoryStore};
use crate::journal::outbox::{Aside, Key, Later, Note, Parked, Place, Waits};
use crate::journal::reader::Reader;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::verify::{rebuild, verify_store};

/// Runs a check on a store of each kind; what it is given opens the store, again and again.
fn each(check: impl Fn(&dyn Fn() -> Arc<dyn Reader>)) {
    let store = MemoryStore::default();
    check(&|| MemoryJournal::on(&store, None).1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    check(&|| SqliteJournal::open(&path).unwrap().1);
    rebuild(&path).unwrap();
    verify_store(&path).unwrap();
    let left = SqliteJournal::open(&path).unwrap().1.told("a").unwrap();
    assert_eq!(left, Some(Seq(7)), "what was told is no projection");
}

fn key(seq: u64, kind: &str) -> Key {
    Key { seq: Seq(seq), kind: kind.to_owned() }
}

fn due(seq: u64, at: u64) -> Later {
    Later { key: key(seq, "reminder"), due: Time::from_millis(at), waits: Waits::Due }
}

fn parked(seq: u64) -> Later {
    let parked = Parked { at: Time::from_millis(50), tries: 9, why: "it answered 500".to_owned() };
    let waits = Waits::Parked(parked);
    Later { key: key(seq, "pending"), due: Time::from_millis(40), waits }
}

fn aside(seq: u64, at: u64, tries: u32) -> Later {
    let waits = Waits::Aside(Aside { tries, why: "it answered 500".to_owned() });
    Later { key: key(seq, "pending"), due: Time::from_millis(at), waits }
}

fn keep(later: &Later) -> Note {
    Note { keep: vec![later.clone()], ..Note::default() }
}

#[test]
fn places_move_on_and_never_back() {
    each(|open| {
        let store = open();
        assert_eq!(store.told("a").unwrap(), None);
        for (to, expect) in [(3, 3), (7, 7), (5, 7)] {
            store.note("a", &Note { told: Some(Seq(to)), ..Note::default() }).unwrap();
            assert_eq!(store.told("a").unwrap(), Some(Seq(expect)));
        }
        assert_eq!(store.told("b").unwrap(), None, "each webhook has a place of its own");
        drop(store);
        assert_eq!(open().told("a").unwrap(), Some(Seq(7)));
    });
}

#[test]
fn what_is_told_later_waits_for_its_time_or_for_somebody() {
    each(|open| {
        let store = open();
        store.note("a", &Note { told: Some(Seq(7)), ..keep(&due(2, 20)) }).unwrap();
        for later in [due(1, 10), due(3, 30), parked(4), parked(5)] {
            store.note("a", &keep(&later)).unwrap();
        }
        store.note("b", &keep(&parked(4))).unwrap();
        let now = |millis| Place::Due(Time::from_millis(millis));
        let later = |place, limit| store.later("a", place, limit).unwrap();
        assert_eq!(later(now(9), 9), []);
        assert_eq!(later(now(20), 9), [due(1, 10), due(2, 20)]);
        assert_eq!(later(now(99), 2), [due(1, 10), due(2, 20)]);
        assert_eq!(later(Place::Parked, 9), [parked(4), parked(5)]);
        let parked_of = |name| store.count(name, Place::Parked).unwrap();
        assert_eq!((parked_of("a"), parked_of("c")), (2, 0));
        store.note("a", &Note { done: Some(key(1, "reminder")), ..Note::default() }).unwrap();
        // Told or not, another message of the same entry is another message.
        store.note("a", &Note { done: Some(key(2, "pending")), ..Note::default() }).unwrap();
        assert_eq!(later(now(20), 9), [due(2, 20)]);
        drop(store);
        let store = open();
        assert_eq!(store.later("a", Place::Parked, 9).unwrap(), [parked(4), parked(5)]);
        assert_eq!(store.let_go("a").unwrap(), 2);
        let parked_of = |name| store.count(name, Place::Parked).unwrap();
        assert_eq!((parked_of("a"), parked_of("b")), (0, 1));
        let free = store.later("a", Place::Due(Time::ZERO), 9).unwrap();
        assert_eq!(free.iter().map(|later| later.key.seq.0).collect::<Vec<_>>(), [4, 5]);
        assert!(free.iter().all(|later| later.waits == Waits::Due));
        store.note("a", &keep(&parked(4))).unwrap();
        assert_eq!(parked_of("a"), 1, "it is parked again");
    });
}

#[test]
fn what_is_set_aside_is_due_again_and_no_reminder() {
    each(|open| {
        let store = open();
        let all = [due(1, 10), aside(2, 20, 4), aside(3, 15, 0), parked(4)];
        store.note("a", &Note { told: Some(Seq(7)), keep: all.into(), done: None }).unwrap();
        drop(store);
        let store = open();
        let later = |place| store.later("a", place, 9).unwrap();
        assert_eq!(later(Place::Aside), [aside(3, 15, 0), aside(2, 20, 4)]);
        assert_eq!(store.count("a", Place::Aside).unwrap(), 2);
        let due_then = |millis| later(Place::Due(Time::from_millis(millis)));
        assert_eq!(due_then(15), [due(1, 10), aside(3, 15, 0)]);
        // Tried once more, and once more in vain.
        store.note("a", &keep(&aside(2, 30, 5))).unwrap();
        assert_eq!(due_then(20), [due(1, 10), aside(3, 15, 0)]);
        assert_eq!(later(Place::Aside), [aside(3, 15, 0), aside(2, 30, 5)]);
        assert_eq!(store.let_go("a").unwrap(), 1, "what is set aside needs nobody");
        assert_eq!(store.count("a", Place::Aside).unwrap(), 2);
    });
}
