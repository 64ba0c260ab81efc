//! What the gateway must not be fooled by.
#![cfg(test)]

use super::*;
use crate::decision::{Asked, Decision, Strips};

#[tokio::test]
async fn a_revocation_is_enforced_and_acknowledged() {
    let bench = Bench::start().await;
    assert_eq!(bench.status().await, 200);
    bench.broker.revoke(Some(Target::Grant(vec![5; 16]))).await;
    bench.until("acknowledged", |bench| bench.broker.turn(|script| script.acked) == 101).await;
    assert_eq!(bench.status().await, 401);
}

#[tokio::test]
async fn an_item_that_never_came_is_noticed_and_a_snapshot_asked_for() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.streams.clear());
    bench.broker.revoke(Some(Target::Grant(vec![6; 16]))).await;
    bench.until("reopened", |bench| bench.broker.turn(|script| script.opens.len()) >= 2).await;
    bench.until("fresh", |bench| bench.gate.state() == State::Fresh).await;
    let second = bench.broker.turn(|script| script.opens[1].clone());
    assert!(second.after.is_none(), "what is held no longer connects");
    assert!(second.last.is_some(), "the newest checkpoint is shown");
    assert_eq!(second.instance, bench.broker.turn(|script| script.opens[0].instance.clone()));
}

#[tokio::test]
async fn a_lost_stream_goes_on_from_its_cursor() {
    let bench = Bench::start().await;
    bench.broker.revoke(Some(Target::Grant(vec![5; 16]))).await;
    bench.until("acknowledged", |bench| bench.broker.turn(|script| script.acked) == 101).await;
    let streams = bench.broker.turn(|script| std::mem::take(&mut script.streams));
    for stream in streams {
        let _ = stream.send(Err(Status::unavailable("restarting"))).await;
    }
    bench.until("reopened", |bench| bench.broker.turn(|script| script.opens.len()) >= 2).await;
    let second = bench.broker.turn(|script| script.opens[1].clone());
    assert_eq!(second.after, cursor(101));
    assert_eq!(bench.status().await, 401, "what was revoked stays so meanwhile");
    bench.until("fresh", |bench| bench.gate.state() == State::Fresh).await;
    assert_eq!(bench.status().await, 401);
}

/// Four mebibytes are what a gRPC client takes by default.
#[tokio::test]
async fn a_part_of_the_catalog_as_large_as_any_is_read() {
    let broker = Broker::new();
    let more = |at: u32| format!(",\"GET /v1/orders/of/{at:060}/{{id}}\"");
    let more: String = (0..60_000).map(more).collect();
    let large = CATALOG.replacen("\"GET /v1/orders\"", &format!("\"GET /v1/orders\"{more}"), 1);
    assert!(large.len() > 4 << 20, "{}", large.len());
    broker.turn(|script| script.catalog = large);
    let bench = Bench::on(broker).await;
    assert_eq!(bench.status().await, 200);
}

/// A broker says what it likes of any resource, and signs for it; what it may open is the gate's own word.
#[tokio::test]
async fn attack_broker_opens_what_is_anothers() {
    let bench = Bench::start().await;
    let bearer = format!("Bearer {}", token());
    let says = |opened: Option<&str>| {
        let opened = opened.map(|name| vec![ResourceName::try_from(name).unwrap()]);
        let asked = Asked {
            resource: &resource(),
            method: b"GET",
            target: b"/v1/orders",
            headers: &[("authorization", bearer.as_bytes())],
            strips: Strips::Any,
        };
        match bench.gate.judge().opening(vec![opened]).decide(&asked) {
            Decision::Pass(_) => "pass",
            Decision::Refuse(refusal) => refusal.code().id,
        }
    };
    assert_eq!((says(None), says(Some("orders-api"))), ("pass", "pass"));
    assert_eq!(says(Some("legacy-crm")), "PT-0405");
}

#[tokio::test]
async fn an_unknown_target_is_everything() {
    let bench = Bench::start().await;
    bench.broker.revoke(None).await;
    bench.until("acknowledged", |bench| bench.broker.turn(|script| script.acked) == 101).await;
    assert_eq!(bench.status().await, 401);
}

#[tokio::test]
async fn a_broker_that_goes_back_is_not_believed_even_after_a_restart() {
    let lower: fn(&mut Script) = |script| script.head = 99;
    let other: fn(&mut Script) = |script| script.root = 2;
    for back in [lower, other] {
        let mut bench = Bench::start().await;
        bench.until("kept", |bench| bench.folder.path().join("gate/checkpoint").exists()).await;
        bench.broker.turn(back);
        bench.until("stale", |bench| bench.gate.state() == State::Stale).await;
        assert_eq!(bench.status().await, 503);
        bench.gate = start(bench.address, bench.folder.path());
        bench.until("stale", |bench| bench.gate.state() == State::Stale).await;
        assert_eq!(bench.status().await, 503);
        bench.broker.turn(|script| script.epoch = 6);
        bench.until("fresh", |bench| bench.gate.state() == State::Fresh).await;
        assert_eq!(bench.status().await, 401, "all older access is void");
    }
}

#[tokio::test]
async fn without_a_proof_the_gateway_closes_within_the_bound() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.proving = false);
    // No ping is proven that was sent later than this, so nothing is decided by a view that is younger.
    let begun = SystemClock.boot();
    loop {
        let asked = SystemClock.boot();
        if bench.status().await != 200 {
            break;
        }
        let late = (asked - begun).saturating_sub(Duration::from_secs(2));
        assert!(late.is_zero(), "let through {late:?} too late");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bench.status().await, 503);
}

#[tokio::test]
async fn a_broker_that_says_nothing_is_left() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.proving = false);
    bench.until("reopened", |bench| bench.broker.turn(|script| script.opens.len()) >= 2).await;
}

#[tokio::test]
async fn a_proof_that_comes_late_is_old() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.delay = Duration::from_millis(2_500));
    tokio::time::sleep(Duration::from_millis(2_400)).await;
    for _ in 0..20 {
        assert_eq!(bench.status().await, 503);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_layer_says_who_calls_and_what_is_missing() {
    let bench = Bench::start().await;
    let call = get(&token())
        .header("x-protem-identity", "root")
        .header("x_protem_grant", "forged")
        .header("x-protem-admin", "yes")
        .header("connection", "X-Protem-Identity, close");
    let (status, _, seen) = bench.call(call.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    assert!(seen.contains("x-protem-identity=payments/agent\n"), "{seen}");
    for gone in ["root", "forged", "admin", "authorization", "connection"] {
        assert!(!seen.contains(gone), "{seen}");
    }
    let refund =
        Request::post("/v1/orders/1/refund").header("authorization", format!("bearer {}", token()));
    let (status, headers, body) = bench.call(refund.body(Full::default()).unwrap()).await;
    assert_eq!(status, 403);
    let challenge = headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains(r#"error="insufficient_scope""#), "{challenge}");
    assert!(challenge.contains(r#"scope="orders:refund""#), "{challenge}");
    assert!(body.contains("protem request --on orders-api --scope orders:refund"), "{body}");
    for call in [
        Request::get("/v1/orders"),
        get(&token()).header("authorization", format!("Bearer {}", token())),
        Request::get("/v1/orders").header("authorization", format!("Basic {}", token())),
    ] {
        let (status, headers, _) = bench.call(call.body(Full::default()).unwrap()).await;
        assert_eq!(
            (status.as_u16(), headers["www-authenticate"].to_str().unwrap()),
            (401, "Bearer")
        );
    }
    let joined = get(&format!("{t},Bearer {t}", t = token()));
    assert_eq!(bench.call(joined.body(Full::default()).unwrap()).await.0, 401);
}

/// The inner service is not told, behind the layer's back, that another method or path is meant.
#[tokio::test]
async fn attack_operation_overridden_behind_the_layer() {
    let bench = Bench::start().await;
    for (name, value) in [
        ("x-http-method-override", "POST"),
        ("x-method-override", "POST"),
        ("x-http-method", "POST"),
        ("x-original-url", "/v1/orders/1/refund"),
        ("x-rewrite-url", "/v1/orders/1/refund"),
    ] {
        for spelled in [name.to_owned(), name.replace('-', "_"), name.replace('-', ".")] {
            let call = get(&token()).header("x-note", "kept");
            let call = call.header(&spelled, value).header(&spelled, "twice");
            let (status, _, seen) = bench.call(call.body(Full::default()).unwrap()).await;
            assert_eq!(status, 200, "{spelled}");
            assert!(seen.contains("x-note=kept"), "{seen}");
            assert!(!seen.contains(&spelled), "{spelled}: {seen}");
        }
    }
}

#[tokio::test]
async fn attack_long_upload_survives_revocation() {
    let bench = Bench::start().await;
    // An inner service that never answers, as while it reads an endless upload.
    let reading = service_fn(|request: Request<Guarded<Full<bytes::Bytes>>>| async move {
        for header in ["upgrade", "connection"] {
            assert!(!request.headers().contains_key(header), "nothing to cut after an upgrade");
        }
        std::future::pending::<()>().await;
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::new())))
    });
    let call = get(&token()).header("upgrade", "websocket").header("connection", "Upgrade");
    let call = call.body(Full::default()).unwrap();
    let answer = tokio::spawn(bench.gate.layer(resource()).layer(reading).oneshot(call));
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.broker.revoke(Some(Target::Grant(vec![5; 16]))).await;
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("it is never cut");
    assert_eq!(answer.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn attack_long_stream_survives_revocation() {
    let bench = Bench::start().await;
    let endless = service_fn(|_: Request<Guarded<Full<bytes::Bytes>>>| async {
        let (frames, stream) = mpsc::channel::<Result<_, std::convert::Infallible>>(1);
        tokio::spawn(async move {
            while frames.send(Ok(http_body::Frame::data(bytes::Bytes::from("tick")))).await.is_ok()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(ReceiverStream::new(
            stream,
        ))))
    });
    let call = get(&token()).body(Full::default()).unwrap();
    let mut body =
        bench.gate.layer(resource()).layer(endless).oneshot(call).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    bench.broker.revoke(Some(Target::Grant(vec![5; 16]))).await;
    let ticks = async { while body.frame().await.unwrap().is_ok() {} };
    tokio::time::timeout(PATIENCE, ticks).await.expect("it is never cut");
}

#[tokio::test]
async fn attack_caller_who_takes_no_answer_goes_on_writing() {
    let bench = Bench::start().await;
    let (cut, was_cut) = tokio::sync::oneshot::channel();
    let cut = Mutex::new(Some(cut));
    // Answers at once, and reads what comes in a task of its own, as a handler of a bidirectional stream does.
    let reading = service_fn(|request: Request<Guarded<_>>| {
        let cut = cut.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut frames = 0_u32;
            while let Some(Ok(_)) = body.frame().await {
                frames += 1;
            }
            let _ = cut.send(frames);
        });
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Full::new(
            bytes::Bytes::new(),
        ))))
    });
    let (frames, stream) = mpsc::channel::<Result<_, std::convert::Infallible>>(1);
    let call = get(&token()).body(StreamBody::new(ReceiverStream::new(stream))).unwrap();
    // Held, and never polled: as by a server whose caller keeps its window shut.
    let unread = bench.gate.layer(resource()).layer(reading).oneshot(call).await.unwrap();
    assert_eq!(unread.status(), StatusCode::OK);
    let tick = || http_body::Frame::data(bytes::Bytes::from("tick"));
    frames.send(Ok(tick())).await.unwrap();
    bench.broker.revoke(Some(Target::Grant(vec![5; 16]))).await;
    let read = tokio::time::timeout(PATIENCE, was_cut).await;
    assert!(read.expect("it is never cut").unwrap() >= 1, "what came before was read");
    assert!(frames.send(Ok(tick())).await.is_err(), "nobody takes any more");
}

/// A report that was not taken, and what was counted since: all of it is told when somebody asks.
#[tokio::test]
async fn what_was_counted_is_told_at_once_when_somebody_asks() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.reports = Reports::Refused);
    assert_eq!(bench.status().await, 200);
    assert!(!bench.gate.tell_uses(PATIENCE).await, "it was refused");
    assert_eq!(bench.status().await, 200);
    assert_eq!(bench.status().await, 200);
    bench.broker.turn(|script| script.reports = Reports::Taken);
    assert!(bench.gate.tell_uses(PATIENCE).await);
    assert_eq!(bench.broker.turn(|script| script.used), 3);
}

#[tokio::test]
async fn a_broker_that_takes_no_report_holds_up_nobodys_end() {
    let bench = Bench::start().await;
    bench.broker.turn(|script| script.reports = Reports::Unanswered);
    assert_eq!(bench.status().await, 200);
    let told = bench.gate.tell_uses(Duration::from_millis(50));
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert_eq!(told.ok(), Some(false));
}

/// Longer than a slow machine needs, and shorter than a report may take.
const PATIENCE: Duration = Duration::from_secs(20);
