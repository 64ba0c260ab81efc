//! Rings: what falls out, what a reader finds, and that all share the same bytes.

use protem_core::event::{Actor, Draft, EndReason, Ended, Event, Target};
use protem_verify::ids::{GrantId, Seq, TurnId};
use protem_verify::names::{IdentityName, ResourceName, TaskId, Words};
use protem_verify::time::Time;

use crate::engine::filter::Filter;
use crate::engine::ring::{Found, Ring, What};
use crate::journal::memory::MemoryJournal;
use crate::journal::port::{Journal, Turn};

fn resource(name: &str) -> ResourceName {
    ResourceName::try_from(name).unwrap()
}

fn ended(resource_name: &str, reason: EndReason) -> Event {
    Event::GrantEnded(Box::new(Ended {
        grant: GrantId([1; 16]),
        identity: IdentityName::try_from("payments/job").unwrap(),
        task: TaskId::try_from("t").unwrap(),
        resource: resource(resource_name),
        reason,
        note: Words::default(),
        ended: Time::from_secs(1),
        last_exp: Some(Time::from_secs(9)),
        told_by: None,
    }))
}

fn cut(target: Target) -> Event {
    let (reason, note) = (EndReason::Revoked, Words::default());
    Event::CutOff { target, reason, note, forget_after: None }
}

fn orders() -> Filter {
    Filter {
        resources: Some([resource("orders-api")].into()),
        identity: None,
        observed: None,
        expiries: false,
    }
}

/// Publishes one turn per list of events; the ring after them.
fn published(limit: usize, turns: Vec<Vec<Event>>) -> Ring {
    let (mut journal, reader) = MemoryJournal::new();
    let mut ring = Ring::new(orders(), Seq(0), limit);
    for (at, events) in turns.into_iter().enumerate() {
        let known = reader.head().unwrap();
        let id = TurnId([u8::try_from(at).unwrap(); 16]);
        let drafts: Vec<Draft> = events
            .into_iter()
            .map(|event| Draft { actor: Actor("system".into()), at: Time::from_secs(1), event })
            .collect();
        let turn = journal.turn(&known, id, &mut |_| drafts.clone()).unwrap();
        let Turn::Done { head, rows } = turn else { panic!("nobody else appends") };
        ring.publish(&rows, &head, None, None);
    }
    ring
}

fn items(ring: &Ring, position: u64) -> Option<(u64, u64, u64)> {
    match ring.at(position) {
        Found::Slot(slot) => match slot.what {
            What::Items { prev, first, last } => Some((prev.0, first.0, last.0)),
            What::Keys(_) | What::Catalog(_) => None,
        },
        Found::End | Found::Gone => None,
    }
}

#[test]
fn a_ring_holds_what_its_filter_takes_linked_item_to_item() {
    let ring = published(
        8,
        vec![
            vec![ended("orders-api", EndReason::Completed), ended("crm", EndReason::Completed)],
            vec![ended("crm", EndReason::Revoked), ended("orders-api", EndReason::Expired)],
            vec![cut(Target::Resource(resource("crm")))],
            vec![cut(Target::Everything), cut(Target::Resource(resource("orders-api")))],
        ],
    );
    assert_eq!(items(&ring, 0), Some((0, 1, 1)));
    assert_eq!(items(&ring, 1), Some((1, 6, 7)), "cut-offs without a resource come in any case");
    assert!(matches!(ring.at(2), Found::End));
    assert_eq!((ring.position(Seq(0)), ring.position(Seq(2))), (Some(0), Some(1)));
    assert_eq!(ring.position(Seq(6)), None, "within a turn: the journal must be read");
    assert_eq!(
        (ring.before(Seq(0)), ring.before(Seq(2)), ring.before(Seq(7))),
        (Seq(0), Seq(1), Seq(7))
    );
}

#[test]
fn who_falls_out_of_the_ring_is_told_and_not_given_a_gap() {
    let turns = (0..5).map(|_| vec![ended("orders-api", EndReason::Completed)]).collect();
    let ring = published(2, turns);
    assert!(matches!(ring.at(2), Found::Gone));
    assert_eq!((items(&ring, 3), items(&ring, 4)), (Some((3, 4, 4)), Some((4, 5, 5))));
    assert_eq!((ring.position(Seq(2)), ring.position(Seq(3))), (None, Some(3)));
}

#[test]
fn all_readers_share_the_same_bytes() {
    let ring = published(8, vec![vec![ended("orders-api", EndReason::Completed)]]);
    let (Found::Slot(one), Found::Slot(two)) = (ring.at(0), ring.at(0)) else { panic!("a slot") };
    assert_eq!(one.encoded.0.as_ptr(), two.encoded.0.as_ptr());
}
