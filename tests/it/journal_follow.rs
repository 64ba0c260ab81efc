//! Following the journal of one grant: told what concerns it, at no cost when others are busy.

use std::time::Instant;

use protem::journal::memory::{MemoryJournal, MemoryStore};
use protem_proto::wire::v1;

use crate::broker::{TestBroker, Wish, fresh_task};
use crate::process::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_one_grant_is_not_woken_by_all_others() {
    let store = MemoryStore::default();
    let (journal, reader) = MemoryJournal::on(&store, None);
    let journal = Some((Box::new(journal) as _, reader));
    let broker = TestBroker::with(Wish { journal, ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap().id;
    let read = v1::ReadJournalRequest { grant, follow: true, ..Default::default() };
    let mut followed = agent.governance.read_journal(read).await.unwrap().into_inner();
    let first = followed.message().await.unwrap().unwrap();
    assert_eq!(first.entry.unwrap().kind, "grant.activated");
    let (before, began) = (store.histories_asked(), Instant::now());
    for _ in 0..300 {
        agent.ask(&fresh_task()).await.unwrap();
    }
    let looks = store.histories_asked() - before;
    // Once a second, and what was on its way.
    let most = began.elapsed().as_secs() + 2;
    assert!(looks <= most, "{looks} looks, and {most} would do");
    // What concerns the grant is told all the same.
    agent.complete(&task).await.unwrap();
    let end = async {
        let mut last = String::new();
        while let Some(message) = followed.message().await.unwrap() {
            last = message.entry.unwrap().kind;
        }
        last
    };
    let last = tokio::time::timeout(PATIENCE, end).await.expect("it ends with its grant");
    assert_eq!(last, "grant.ended");
    broker.stop().await;
}
