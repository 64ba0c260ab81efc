//! A gateway that begins beside a mass of ended grants: its snapshot comes in parts, whole, and nothing comes in between.

use std::sync::Arc;
use std::time::Instant;

use protem::journal::memory::{MemoryJournal, MemoryStore};
use protem::journal::port::{Journal, Turn};
use protem_clock::clock::{Clock, SystemClock};
use protem_core::event::{Actor, Draft, EndReason, Ended, Event};
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_request::Message as Say;
use protem_proto::wire::v1::subscribe_response::Message as Hear;
use protem_verify::claims::Claims;
use protem_verify::ids::{GrantId, TurnId};
use protem_verify::jws::{ACCESS_TOKEN, Jws};
use protem_verify::names::{TaskId, Words};
use protem_verify::time::Time;

use crate::broker::{TestBroker, Wish, fresh_task};
use crate::key_scope::{Guard, orders};

/// Grants that ended: more than the engine takes along at once, and than one message holds. `PROTEM_SNAPSHOT_ENTRIES=1000000`
/// makes it the real thing, and prints how long it took.
fn entries() -> u64 {
    std::env::var("PROTEM_SNAPSHOT_ENTRIES").map_or(5_000, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_of_ended_grants_reaches_a_gateway_whole() {
    let store = MemoryStore::default();
    let (journal, reader) = MemoryJournal::on(&store, None);
    let wish = Wish { journal: Some((Box::new(journal), reader)), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let mut agent = broker.identity("payments/agent");
    let live = agent.ask(&fresh_task()).await.unwrap().credential.unwrap().token;
    let began = Instant::now();
    let (seeding, reading) = (store.clone(), Arc::clone(broker.broker.reader()));
    let many = tokio::task::spawn_blocking(move || {
        let rows = reading.read(protem_verify::ids::Seq(0), 1_000).unwrap();
        let template = rows.iter().find(|row| matches!(row.what(), Event::GrantActivated(_)));
        end_many(&seeding, template.unwrap().what())
    });
    let ended = many.await.unwrap();
    println!("{} grants written after {:?}", ended.len(), began.elapsed());
    // A turn of its own, so that the broker has seen all that was written beside it.
    let began = Instant::now();
    while broker.broker.head().seq.0 < 2 * entries() {
        agent.ask(&fresh_task()).await.unwrap();
    }
    println!("folded after {:?}", began.elapsed());
    let began = Instant::now();
    is_in_parts(&broker).await;
    println!("a subscriber had its snapshot after {:?}", began.elapsed());
    let began = Instant::now();
    let guard = Guard::of(&broker).await;
    println!("a gateway was fresh after {:?}", began.elapsed());
    let known = guard.gate.verifier().known();
    assert_eq!(known.fences.len(), ended.len());
    let jws = Jws::parse(&live, ACCESS_TOKEN).ok().unwrap();
    let claims = Claims::decode(&jws.payload).unwrap();
    for grant in ended.iter().step_by(ended.len() / 1_000 + 1).chain(ended.last()) {
        assert!(known.fences.voids(&Claims { grant: *grant, ..claims.clone() }, &orders()));
    }
    drop(known);
    assert_eq!(guard.reads_orders(&live).await, Ok(()));
    agent.complete(&claims.task.to_string()).await.unwrap();
    let end = Instant::now() + crate::process::PATIENCE;
    while guard.reads_orders(&live).await.is_ok() {
        assert!(Instant::now() < end, "what comes after a snapshot is not applied");
    }
    broker.stop().await;
}

/// Writes grants beside the broker, as another one would, each ended at once while its credential could still live.
fn end_many(store: &MemoryStore, template: &Event) -> Vec<GrantId> {
    let Event::GrantActivated(template) = template else { panic!("no grant") };
    let (mut journal, _) = MemoryJournal::on(store, None);
    let mut all = Vec::new();
    for turn in 0..entries().div_ceil(1_000) {
        let head = journal.head().unwrap();
        let at =
            head.at.max(Time::from_millis(u64::try_from(SystemClock.unix().as_millis()).unwrap()));
        let mut drafts = Vec::new();
        for number in turn * 1_000..((turn + 1) * 1_000).min(entries()) {
            let mut began = template.clone();
            let issued = &mut began.credential;
            issued.grant = GrantId((u128::MAX / 3 + u128::from(number)).to_be_bytes());
            issued.task = TaskId::try_from(format!("mass-{number}").as_str()).unwrap();
            issued.exp = Time::from_secs(at.as_secs() + 600 + number % 900);
            issued.until = issued.exp;
            began.until = issued.exp;
            if let Some(asked) = &mut began.asked {
                asked.request.key = None;
                asked.request.task.id = issued.task.clone();
            }
            let ended = Ended {
                grant: issued.grant,
                identity: issued.by.identity.clone(),
                task: issued.task.clone(),
                resource: issued.resource.clone(),
                reason: EndReason::Completed,
                note: Words::default(),
                ended: at,
                last_exp: Some(issued.exp),
                told_by: None,
            };
            all.push(issued.grant);
            let actor = Actor("identity:payments/agent".into());
            let events = [Event::GrantActivated(began), Event::GrantEnded(Box::new(ended))];
            drafts.extend(events.map(|event| Draft { actor: actor.clone(), at, event }));
        }
        let id = TurnId(protem_clock::random::bytes());
        let done = journal.turn(&head, id, &mut |_| drafts.clone()).unwrap();
        assert!(matches!(done, Turn::Done { .. }));
    }
    all
}

/// The contract of a snapshot: announced, in messages of a bounded size, and nothing else until its end.
async fn is_in_parts(broker: &TestBroker) {
    let open = v1::Open { gateway: "edge-eu-1".into(), version: 1, ..v1::Open::default() };
    let ping = v1::Ping { nonce: vec![7], ..v1::Ping::default() };
    let said = [Say::Open(open), Say::Ping(ping)];
    let said = said.map(|message| v1::SubscribeRequest { message: Some(message) });
    // The stream of requests stays open: its end would be the subscription's.
    let said = tokio_stream::StreamExt::chain(tokio_stream::iter(said), tokio_stream::pending());
    let mut feed = broker.gateway("edge-eu-1").revocations.clone();
    let mut answers = feed.subscribe(said).await.unwrap().into_inner();
    let (mut announced, mut come, mut ended) = (None, 0_u64, false);
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.message.unwrap() {
            Hear::SnapshotBegin(begin) => announced = Some(begin.entries),
            Hear::Batch(batch) if !ended => {
                assert!(announced.is_some() && batch.items.len() <= 1_000);
                assert!(
                    prost::Message::encoded_len(&batch) < 256 * 1_024,
                    "one message is too large"
                );
                come += u64::try_from(batch.items.len()).unwrap();
            }
            Hear::SnapshotEnd(end) => {
                assert_eq!((Some(come), end.entries), (announced, come));
                ended = true;
            }
            Hear::Checkpoint(checkpoint) => {
                assert!(announced.is_none() || ended, "a checkpoint inside a snapshot");
                if ended && checkpoint.nonce == [7] {
                    break;
                }
            }
            Hear::Opened(_) | Hear::Keys(_) | Hear::Catalog(_) => assert!(announced.is_none()),
            other @ (Hear::Batch(_) | Hear::Reset(_) | Hear::GoAway(_)) => panic!("{other:?}"),
        }
    }
    assert_eq!(announced, Some(entries()));
}
