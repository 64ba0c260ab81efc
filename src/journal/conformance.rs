//! What every journal must do: one set of checks, run on each adapter.

use std::sync::Arc;
use std::time::Duration;

use protem_core::event::{Draft, Event, Target};
use protem_core::state::State;
use protem_core::verdict::Standing;
use protem_verify::ids::{GrantId, Hash, Seq, TurnId};
use protem_verify::merkle::{Frontier, leaf};
use protem_verify::proof;
use protem_verify::time::Lifetime;

use crate::journal::fault::Fault;
use crate::journal::memory::{Call, MemoryJournal, MemoryStore, Mishap};
use crate::journal::port::{FOREIGN_MAX, Head, Journal, Turn};
use crate::journal::reader::{GrantFilter, GrantPage, Reader, Stage};
use crate::journal::records::Shown;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::testbed::{
    activated, cut_off, draft, ended, granted, id, issued, opened, person, requested, scopes, words,
};
use crate::journal::verify::verify_store;

pub(in crate::journal) type Opened = (Box<dyn Journal>, Arc<dyn Reader>);

/// Runs a check on a fresh journal of each kind.
pub(in crate::journal) fn each(check: impl Fn(Opened)) {
    let (memory, reader) = MemoryJournal::new();
    check((Box::new(memory), reader));
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, reader) = SqliteJournal::open(&folder.path().join("journal.db")).unwrap();
    check((Box::new(sqlite), reader));
    verify_store(&folder.path().join("journal.db")).unwrap();
}

fn turn_id(number: u8) -> TurnId {
    TurnId([number; 16])
}

#[track_caller]
pub(in crate::journal) fn append(journal: &mut dyn Journal, drafts: Vec<Draft>) -> Head {
    let known = journal.head().unwrap();
    let mut drafts = Some(drafts);
    let turn = journal.turn(&known, turn_id(1), &mut |others| {
        assert!(others.is_empty());
        drafts.take().unwrap()
    });
    match turn.unwrap() {
        Turn::Done { head, .. } => head,
        Turn::Behind => panic!("behind"),
    }
}

#[test]
fn seqs_are_dense_and_what_is_read_is_what_was_appended() {
    each(|(mut journal, reader)| {
        assert_eq!(journal.head().unwrap().seq, Seq(0));
        let drafts = [opened(), granted(1), requested(2), ended(1)];
        append(&mut *journal, vec![drafts[0].clone()]);
        let head = append(&mut *journal, drafts[1..].to_vec());
        assert_eq!(head, reader.head().unwrap());
        assert_eq!(head.seq, Seq(4));
        let rows = reader.read(Seq(0), 100).unwrap();
        let mut tree = Frontier::default();
        for (at, (row, draft)) in rows.iter().zip(&drafts).enumerate() {
            let seq = Seq(u64::try_from(at).unwrap() + 1);
            assert_eq!((row.seq(), row.at(), row.actor()), (seq, draft.at, &draft.actor));
            assert_eq!(row.what(), &draft.event);
            assert_eq!(reader.entry(seq).unwrap().unwrap().what(), &draft.event);
            tree.push(leaf(&reader.body(seq).unwrap().unwrap()));
        }
        assert_eq!(rows.len(), drafts.len());
        assert_eq!(tree.root(), head.root);
        assert_eq!(journal.read(Seq(2), 1).unwrap()[0].seq(), Seq(3));
        assert!(reader.entry(Seq(5)).unwrap().is_none());
        assert!(reader.body(Seq(0)).unwrap().is_none());
    });
}

#[test]
fn an_empty_turn_changes_nothing() {
    each(|(mut journal, _)| {
        let head = append(&mut *journal, vec![opened()]);
        assert_eq!(append(&mut *journal, vec![]), head);
        journal.beat().unwrap();
        assert_eq!(journal.head().unwrap(), head);
    });
}

#[test]
fn a_turn_that_is_known_is_found_and_no_other() {
    each(|(mut journal, _)| {
        append(&mut *journal, vec![opened()]);
        let known = journal.head().unwrap();
        journal.turn(&known, turn_id(7), &mut |_| vec![granted(1), granted(2)]).unwrap();
        match journal.find(turn_id(7)).unwrap() {
            Some(Turn::Done { head, rows }) => {
                assert_eq!(head.seq, Seq(3));
                assert_eq!(rows.iter().map(|row| row.seq()).collect::<Vec<_>>(), [Seq(2), Seq(3)]);
            }
            other => panic!("{other:?}"),
        }
        assert!(journal.find(turn_id(8)).unwrap().is_none());
        assert_eq!(append(&mut *journal, vec![granted(3)]).seq, Seq(4));
    });
}

#[test]
fn a_lower_head_or_another_root_is_a_rollback() {
    each(|(mut journal, _)| {
        append(&mut *journal, vec![opened()]);
        let head = append(&mut *journal, vec![granted(1)]);
        let higher = Head { seq: Seq(3), ..head };
        let other = Head { root: Hash([3; 32]), ..head };
        for known in [higher, other] {
            let turn = journal.turn(&known, turn_id(2), &mut |_| panic!("must not decide"));
            assert!(matches!(turn, Err(Fault::RolledBack { .. })), "{known:?}");
        }
    });
}

#[test]
fn others_entries_are_seen_under_the_lock_up_to_a_thousand() {
    each(|(mut journal, reader)| {
        let first = append(&mut *journal, vec![opened()]);
        let known = append(&mut *journal, vec![granted(1)]);
        let most = u64::try_from(FOREIGN_MAX).unwrap();
        append(&mut *journal, (0..most).map(ended).collect());
        let mut seen = 0;
        let turn = journal.turn(&known, turn_id(2), &mut |others| {
            seen = others.len();
            vec![granted(2)]
        });
        assert!(matches!(turn, Ok(Turn::Done { head, .. }) if head.seq.0 == most + 3));
        assert_eq!(seen, FOREIGN_MAX);
        let turn = journal.turn(&first, turn_id(3), &mut |_| panic!("must not decide"));
        assert!(matches!(turn, Ok(Turn::Behind)));
        assert_eq!(reader.head().unwrap().seq.0, most + 3);
    });
}

#[test]
fn grants_are_composed_from_what_the_journal_says() {
    each(|(mut journal, reader)| {
        let yes = |by: &str| {
            let (by, reason) = (person(by), words("fine"));
            draft(Event::ApprovalGiven {
                grant: id(2),
                by,
                reason,
                digest: Hash([9; 32]),
                standing: Standing::default(),
            })
        };
        let narrowed = draft(Event::RequestNarrowed {
            grant: id(2),
            by: person("bob"),
            scopes: scopes(&["orders:read"]),
            lifetime: Lifetime(Duration::from_secs(60)),
            digest: Hash([10; 32]),
        });
        let undone = draft(Event::ApprovalTakenBack { grant: id(2), by: person("carol") });
        append(&mut *journal, vec![opened(), granted(1), requested(2), yes("carol"), yes("bob")]);
        let waits = reader.grant(&id(2)).unwrap().unwrap();
        assert!(matches!(waits.status, Shown::Pending { .. }));
        assert_eq!(waits.approvals.len(), 2);
        append(&mut *journal, vec![narrowed, undone, activated(2), ended(1), granted(3)]);
        let one = reader.grant(&id(1)).unwrap().unwrap();
        assert!(
            matches!(&one.status, Shown::Ended { note, from: Some(_), .. } if note.as_str() == "done")
        );
        let two = reader.grant(&id(2)).unwrap().unwrap();
        assert!(matches!(two.status, Shown::Active { .. }));
        assert_eq!((two.activated, two.digest), (Some(Seq(8)), Some(Hash([10; 32]))));
        assert_eq!(two.request.scopes, scopes(&["orders:read"]));
        assert_eq!(two.approvals.iter().map(|one| one.by.as_str()).collect::<Vec<_>>(), ["bob"]);
        let seqs = |id: GrantId| -> Vec<u64> {
            reader.grant_entries(&id).unwrap().iter().map(|seq| seq.0).collect()
        };
        assert_eq!((seqs(id(1)), seqs(id(2))), (vec![2, 9], vec![3, 4, 5, 6, 7, 8]));
        assert!(reader.grant(&id(4)).unwrap().is_none());
        let text = id(3).text();
        assert_eq!(reader.resolve(text.split_at(20).1).unwrap(), [id(3)]);
        assert_eq!(reader.resolve("gr_0000").unwrap(), [id(3), id(2), id(1)]);
        assert!(reader.resolve("").unwrap().is_empty() && reader.resolve("zz").unwrap().is_empty());
        listed(&*reader, &GrantFilter { states: vec![Stage::Active], ..all() }, &[3, 2]);
        listed(&*reader, &GrantFilter { before: Some(id(3)), limit: 1, ..all() }, &[2]);
        let write = Some("orders:write".try_into().unwrap());
        listed(&*reader, &GrantFilter { scope: write, ..all() }, &[3, 1]);
        let identity = issued(3).by.identity;
        listed(&*reader, &GrantFilter { identity: Some(identity.clone()), ..all() }, &[3]);
        append(&mut *journal, vec![cut_off(Target::Identity(identity)), granted(10)]);
        listed(&*reader, &GrantFilter { states: vec![Stage::Active], ..all() }, &[10, 2]);
        let cut = reader.grant(&id(3)).unwrap().unwrap();
        assert!(matches!(&cut.status, Shown::Ended { note, .. } if note.as_str() == "leaked"));
    });
}

pub(in crate::journal) fn all() -> GrantFilter {
    GrantFilter { limit: 100, ..GrantFilter::default() }
}

pub(in crate::journal) fn ids(page: &GrantPage) -> Vec<GrantId> {
    page.grants.iter().map(|one| one.id).collect()
}

#[track_caller]
pub(in crate::journal) fn listed(reader: &dyn Reader, filter: &GrantFilter, expect: &[u64]) {
    let page = reader.grants(filter).unwrap();
    assert_eq!(ids(&page), expect.iter().map(|number| id(*number)).collect::<Vec<_>>());
}

#[test]
fn the_bundle_that_was_in_force_is_found() {
    each(|(mut journal, reader)| {
        let bundle = |number: u8| {
            let files = [("people.toml".into(), [number].as_slice().into())];
            draft(Event::BundleActivated { digest: Hash([number; 32]), files: files.into() })
        };
        append(&mut *journal, vec![opened(), granted(1), bundle(1), requested(2)]);
        append(&mut *journal, vec![bundle(2), bundle(3), ended(1)]);
        let before = |seq| reader.bundle_before(Seq(seq)).unwrap().map(|seq| seq.0);
        let found = [0, 1, 3, 4, 5, 6, 7, 99, u64::MAX].map(before);
        let expect = [None, None, None, Some(3), Some(3), Some(5), Some(6), Some(6), Some(6)];
        assert_eq!(found, expect, "an entry is no bundle's own before it is there");
    });
}

#[test]
fn every_entry_is_proven_and_every_tree_grows_from_the_last() {
    each(|(mut journal, reader)| {
        let mut roots = vec![(0, journal.head().unwrap().root)];
        for size in [1, 2, 3, 250, 7, 300] {
            let from = journal.head().unwrap().seq.0;
            let drafts = (0..size).map(|number| granted(from + number)).collect();
            let head = append(&mut *journal, drafts);
            roots.push((head.seq.0, head.root));
        }
        for (size, root) in &roots {
            assert_eq!(reader.root_at(*size).unwrap(), *root, "{size}");
            for seq in [1, 2, 5, 255, 256, 257, 512, *size].into_iter().filter(|seq| seq <= size) {
                let Some(index) = seq.checked_sub(1) else { continue };
                let path = reader.inclusion(Seq(seq), *size).unwrap();
                let leaf = leaf(&reader.body(Seq(seq)).unwrap().unwrap());
                assert!(proof::included(leaf, index, *size, &path, root), "{seq} in {size}");
            }
            for (old, old_root) in roots.iter().filter(|(old, _)| old <= size) {
                let path = reader.consistency(*old, *size).unwrap();
                assert!(proof::consistent(*old, *size, old_root, root, &path), "{old} {size}");
            }
        }
        assert!(reader.root_at(10_000).is_err());
    });
}

/// A snapshot, what comes after it, and a whole replay are one state: also of what is usual for each identity.
#[test]
fn a_snapshot_and_the_rest_are_the_fold_of_the_whole() {
    each(|(mut journal, reader)| {
        let hour = Duration::from_secs(3_600);
        let later = |number: u32| {
            let draft = granted(u64::from(number));
            Draft { at: draft.at + hour * (number * number), ..draft }
        };
        append(&mut *journal, vec![opened()]);
        append(&mut *journal, (1..40).map(later).collect());
        let mut state = State::new();
        fold(&*reader, &mut state);
        assert!(state.all_usual().count() > 1 && state.all_usual().any(|(_, it)| it.days > 1));
        reader.keep_snapshot(&reader.head().unwrap(), &state.parts()).unwrap();
        append(&mut *journal, (40..60).map(later).collect());
        let (head, parts) = reader.snapshot().unwrap().unwrap();
        assert_eq!(head.seq, state.seq());
        let mut again = State::from_parts(parts);
        assert_eq!(again.parts(), state.parts());
        fold(&*reader, &mut again);
        let mut whole = State::new();
        fold(&*reader, &mut whole);
        assert_eq!(again.parts(), whole.parts());
    });
}

/// Applies what comes after `state`.
fn fold(reader: &dyn Reader, state: &mut State) {
    for row in reader.read(state.seq(), 1_000).unwrap() {
        state.apply(row.at(), row.what());
    }
}

/// A store that fails on command.
fn failing(store: &MemoryStore, mishaps: &[(Call, Mishap)]) -> MemoryJournal {
    let mut mishaps = Vec::from(mishaps).into_iter();
    let faults = move |call| match mishaps.next() {
        Some((expected, mishap)) => {
            assert_eq!(call, expected);
            mishap
        }
        None => Mishap::None,
    };
    MemoryJournal::on(store, Some(Box::new(faults))).0
}

#[test]
fn after_an_unknown_commit_the_turn_is_found_or_absent() {
    for (mishap, there) in [(Mishap::UnknownDone, true), (Mishap::UnknownLost, false)] {
        let store = MemoryStore::default();
        let calls = [(Call::Turn, mishap), (Call::Find, Mishap::Before)];
        let mut journal = failing(&store, &calls);
        let known = store.lock().tip.head;
        let turn = journal.turn(&known, turn_id(1), &mut |_| vec![opened()]);
        assert!(matches!(turn, Err(Fault::Unknown(_))));
        assert!(matches!(journal.find(turn_id(1)), Err(Fault::Store(_))));
        assert_eq!(journal.find(turn_id(1)).unwrap().is_some(), there);
        // Another broker on the same store sees what is true.
        let seen = MemoryJournal::on(&store, None).0.head().unwrap().seq;
        assert_eq!(seen, Seq(u64::from(there)));
    }
}

#[test]
fn a_store_that_fails_before_has_changed_nothing() {
    let store = MemoryStore::default();
    let mut journal = failing(&store, &[(Call::Turn, Mishap::Before)]);
    let known = store.lock().tip.head;
    let turn = journal.turn(&known, turn_id(1), &mut |_| panic!("must not decide"));
    assert!(matches!(turn, Err(Fault::Store(_))));
    assert_eq!(append(&mut journal, vec![opened()]).seq, Seq(1));
}

#[test]
fn a_store_that_went_back_is_noticed() {
    let store = MemoryStore::default();
    let mut journal = failing(&store, &[]);
    append(&mut journal, vec![opened()]);
    let known = append(&mut journal, vec![granted(1)]);
    store.roll_back(Seq(1));
    let turn = journal.turn(&known, turn_id(2), &mut |_| panic!("must not decide"));
    assert_eq!(turn.unwrap_err(), Fault::RolledBack { known: Seq(2), found: Seq(1) });
    let again = append(&mut journal, vec![granted(2)]);
    assert_ne!(again.root, known.root);
    let turn = journal.turn(&known, turn_id(2), &mut |_| panic!("must not decide"));
    assert!(matches!(turn, Err(Fault::RolledBack { .. })));
}

#[test]
fn a_flipped_bit_in_memory_is_damage() {
    let store = MemoryStore::default();
    let mut journal = failing(&store, &[]);
    append(&mut journal, vec![opened(), granted(1)]);
    store.flip(Seq(2));
    assert!(matches!(journal.read(Seq(0), 9), Err(Fault::Damaged { seq: Seq(2), .. })));
}
