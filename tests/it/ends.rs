//! Ends hold: an end that is not durable is not answered, nothing outlives its grant, nothing is left over, nothing leaks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protem::journal::memory::{Call, MemoryJournal, MemoryStore, Mishap};
use protem_clock::clock::{Clock, ManualClock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::time::Time;
use protem_verify::verifier::Reason;
use tonic::Code;
use tonic_types::StatusExt;

use crate::broker::{TestBroker, Wish, ask, fresh_task, policies, reason};
use crate::key_scope::Guard;
use crate::process::PATIENCE;
use crate::streams::{apply, edited};

/// Row 12: while the store fails, no end is answered as one, and the grant lives on as recorded.
#[tokio::test(flavor = "multi_thread")]
async fn attack_revoke_ack_on_store_error() {
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let faults = move |call: Call| match call {
        Call::Turn if fails.load(Ordering::SeqCst) => Mishap::Before,
        Call::Turn | Call::Find | Call::Head | Call::Beat => Mishap::None,
    };
    let (journal, reader) = MemoryJournal::on(&MemoryStore::default(), Some(Box::new(faults)));
    let journal = Some((Box::new(journal) as _, reader));
    let broker = TestBroker::with(Wish { journal, ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    broken.store(true, Ordering::SeqCst);
    let mut operator = broker.operator();
    for by in [
        By::Grant(grant.id.clone()),
        By::Identity("payments/agent".into()),
        By::Task(format!("payments/agent#{task}")),
        By::Everything(true),
    ] {
        let status = operator.revoke(by).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PT-0501"));
        assert!(status.get_error_details().retry_info().is_some());
    }
    let status = agent.complete(&task).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let give_back = v1::ReturnGrantRequest { grant_id: grant.id.clone(), note: String::new() };
    assert_eq!(agent.access.return_grant(give_back).await.unwrap_err().code(), Code::Unavailable);
    broken.store(false, Ordering::SeqCst);
    let get = v1::GetGrantRequest { grant_id: grant.id.clone() };
    let found = operator.governance.get_grant(get).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(found.state(), v1::GrantState::Active);
    let revoked = operator.revoke(By::Grant(grant.id)).await.unwrap();
    assert_eq!(revoked.grants_ended, 1);
    broker.stop().await;
}

/// Row 17: renewing up to the last second moves no end.
#[tokio::test(flavor = "multi_thread")]
async fn attack_renew_at_boundary() {
    let (broker, clock) = with_manual_clock().await;
    let mut agent = broker.identity("payments/agent");
    let mut request = ask(&fresh_task());
    request.lifetime = Some(prost_types::Duration { seconds: 30, nanos: 0 });
    let grant = agent.access.request_access(request).await.unwrap().into_inner().grant.unwrap();
    let until = grant.active_until.unwrap();
    let renew = || v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    for _ in 0..29 {
        clock.advance(Duration::from_secs(1));
        let renewed = agent.access.renew_credential(renew()).await.unwrap().into_inner();
        assert_eq!(renewed.grant.unwrap().active_until, Some(until), "the end moved");
        let expires = renewed.credential.unwrap().expires_at.unwrap();
        assert!(expires.seconds <= until.seconds, "a credential outlives its grant");
    }
    clock.advance(Duration::from_secs(2));
    let status = agent.access.renew_credential(renew()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PT-0103"));
    broker.stop().await;
}

/// Row 17: no credential under a task outlives the task.
#[tokio::test(flavor = "multi_thread")]
async fn attack_child_outlives_parent() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    agent.complete(&task).await.unwrap();
    let renew = v1::RenewCredentialRequest { grant_id: grant.id.clone() };
    let status = agent.access.renew_credential(renew).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PT-0103"));
    // Neither a late request nor a late hold opens the task again.
    assert_eq!(reason(&agent.ask(&task).await.unwrap_err()), "PT-0102");
    let beats = tokio_stream::once(v1::HoldTaskRequest { task_id: task.clone(), lease: None });
    assert_eq!(reason(&agent.access.hold_task(beats).await.unwrap_err()), "PT-0102");
    let watch = v1::WatchGrantRequest { grant_id: grant.id };
    let mut watched = agent.access.watch_grant(watch).await.unwrap().into_inner();
    let last = watched.message().await.unwrap().unwrap();
    assert_eq!(last.grant.unwrap().state(), v1::GrantState::Ended);
    assert!(last.credential.is_none());
    assert!(watched.message().await.unwrap().is_none(), "nothing comes after the end");
    broker.stop().await;
}

/// Row 71: every grant that a revocation covers has ended, by count and one by one.
#[tokio::test(flavor = "multi_thread")]
async fn attack_mass_revoke_is_complete() {
    const COUNT: usize = 120;
    let broker = TestBroker::start().await;
    let mut granted = BTreeSet::new();
    let mut agent = broker.identity("shop/checkout");
    for _ in 0..COUNT {
        granted.insert(agent.ask(&fresh_task()).await.unwrap().grant.unwrap().id);
    }
    let spared = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap().grant.unwrap();
    let mut operator = broker.operator();
    let revoked = operator.revoke(By::Identity("shop/checkout".into())).await.unwrap();
    assert_eq!(usize::try_from(revoked.grants_ended).unwrap(), COUNT);
    let selector = Some(v1::Selector { by: Some(By::Identity("shop/checkout".into())) });
    let list = v1::ListGrantsRequest { selector, page_size: 1_000, ..Default::default() };
    let listed = operator.governance.list_grants(list).await.unwrap().into_inner().grants;
    let ended = listed.iter().filter(|grant| grant.state() == v1::GrantState::Ended);
    assert_eq!(ended.map(|grant| grant.id.clone()).collect::<BTreeSet<_>>(), granted);
    for id in granted {
        let renew = v1::RenewCredentialRequest { grant_id: id.clone() };
        let status = agent.access.renew_credential(renew).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0103", "{id}");
    }
    let get = v1::GetGrantRequest { grant_id: spared.id };
    let spared = operator.governance.get_grant(get).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(spared.state(), v1::GrantState::Active);
    broker.stop().await;
}

/// Row 69: whenever a caller leaves, nothing is half done and nobody gets another's answer.
#[tokio::test(flavor = "multi_thread")]
async fn attack_cancel_at_any_moment_over_the_wire() {
    let broker = TestBroker::start().await;
    let agent = broker.identity("shop/checkout");
    for step in 0..40 {
        let task = fresh_task();
        let mut leaving = agent.clone();
        let left =
            tokio::time::timeout(Duration::from_micros(step * 100), leaving.ask(&task)).await;
        drop(left);
        let mut back = agent.clone();
        let answer = back.ask(&task).await.unwrap();
        let grant = answer.grant.unwrap();
        assert_eq!(
            (grant.task.unwrap().id, grant.identity.as_str()),
            (task.clone(), "shop/checkout")
        );
        let selector = Some(v1::Selector { by: Some(By::Task(format!("shop/checkout#{task}"))) });
        let list = v1::ListGrantsRequest { selector, ..Default::default() };
        let listed = back.governance.list_grants(list).await.unwrap().into_inner().grants;
        let ids: Vec<_> = listed.into_iter().map(|grant| grant.id).collect();
        assert_eq!(ids, [grant.id], "one ask, one grant");
        let mut leaving = agent.clone();
        let left = tokio::time::timeout(Duration::from_micros(step * 100), leaving.complete(&task));
        drop(left.await);
        agent.clone().complete(&task).await.unwrap();
    }
    broker.stop().await;
}

/// Rows 64 and 65: neither a credential nor a caller's token is in the journal, beside it, in an error or in a debug text.
#[tokio::test(flavor = "multi_thread")]
async fn attack_grep_every_sink_for_canary_token() {
    let broker = TestBroker::start().await;
    let caller = broker.identity_token("payments/agent");
    let mut agent = broker.clients(Some(caller.clone()));
    let task = fresh_task();
    let credential = agent.ask(&task).await.unwrap().credential.unwrap().token;
    let spoilt = format!("{caller}x");
    let refused = broker.clients(Some(spoilt.clone())).ask(&task).await.unwrap_err();
    agent.revoke(By::Token(credential.clone())).await.unwrap();
    let mut request = ask(&task);
    request.scopes = vec![credential.clone()];
    let echoed = agent.access.request_access(request).await.unwrap_err();
    let read = v1::ReadJournalRequest::default();
    let mut journal = broker.operator().governance.read_journal(read).await.unwrap().into_inner();
    let mut sinks = vec![format!("{refused:?}").into_bytes(), format!("{echoed:?}").into_bytes()];
    while let Some(entry) = journal.message().await.unwrap() {
        let entry = entry.entry.unwrap();
        assert!(!entry.json.is_empty() && !entry.kind.is_empty(), "{entry:?}");
        sinks.extend([entry.json.into_bytes(), entry.body]);
    }
    for file in std::fs::read_dir(broker.folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            sinks.push(std::fs::read(path).unwrap());
        }
    }
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for secret in [&caller, &credential, &spoilt, &signature(&credential), &signature(&caller)] {
        for sink in &sinks {
            let found = sink.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "a token is in {}", String::from_utf8_lossy(sink));
        }
    }
    broker.stop().await;
}

/// New rules shorten the lives of credentials, so the older token of a job outlives the newer one. A revocation is remembered for
/// as long as it lives, by a gateway that was there and by one that begins when the newer one is dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_renewal_lets_no_older_token_through() {
    let live = |life: &str| {
        edited(&policies(), "catalog.toml", |text| {
            text.replace(r#"credential       = "5m""#, &format!("credential = \"{life}\""))
        })
    };
    let clock = Arc::new(ManualClock::new(SystemClock.unix()));
    let broker = TestBroker::with(Wish {
        clock: Some(Arc::clone(&clock) as Arc<dyn Clock>),
        bundle: Some(live("1h")),
        ..Wish::default()
    })
    .await;
    let mut agent = broker.identity("payments/agent");
    let (mut revoked, mut spared) = (ask(&fresh_task()), ask(&fresh_task()));
    for request in [&mut revoked, &mut spared] {
        request.lifetime = Some(prost_types::Duration { seconds: 7_200, nanos: 0 });
    }
    let mut granted = Vec::new();
    for request in [revoked, spared] {
        granted.push(agent.access.request_access(request).await.unwrap().into_inner());
    }
    let older: Vec<_> = granted.iter().map(|one| one.credential.clone().unwrap()).collect();
    let there = Guard::of(&broker).await;
    assert_eq!(there.reads_orders(&older[0].token).await, Ok(()));

    apply(&broker, &live("10s")).await;
    clock.advance(Duration::from_secs(2_401));
    for one in &granted {
        let grant_id = one.grant.clone().unwrap().id;
        let renew = v1::RenewCredentialRequest { grant_id };
        let newer = agent.access.renew_credential(renew).await.unwrap().into_inner();
        let (newer, older) = (newer.credential.unwrap(), one.credential.clone().unwrap());
        let ends = |one: v1::Credential| one.expires_at.unwrap().seconds;
        assert_eq!(ends(older) - ends(newer), 3_600 - 2_411);
    }
    clock.advance(Duration::from_secs(2));
    let end = By::Grant(granted[0].grant.clone().unwrap().id);
    assert_eq!(broker.operator().revoke(end).await.unwrap().grants_ended, 1);

    // Ten minutes later, longer than a gateway keeps what it may forget.
    clock.advance(Duration::from_secs(600));
    let now = Time::from(clock.unix());
    let end = Instant::now() + PATIENCE;
    while there.gate.verifier().known().proven.is_none_or(|proven| proven.at < now) {
        assert!(Instant::now() < end, "no proof of this moment");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for guard in [there, Guard::of(&broker).await] {
        assert_eq!(guard.reads_orders(&older[0].token).await, Err(Reason::Revoked));
        assert_eq!(guard.reads_orders(&older[1].token).await, Ok(()), "nobody revoked it");
    }
    broker.stop().await;
}

async fn with_manual_clock() -> (TestBroker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(SystemClock.unix()));
    let wish = Wish { clock: Some(Arc::clone(&clock) as Arc<dyn Clock>), ..Wish::default() };
    (TestBroker::with(wish).await, clock)
}
