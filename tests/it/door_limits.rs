//! The limits at the door are in force: connections, streams, headers, calls, rates; and floods leave others served.

use std::time::{Duration, Instant};

use protem::policy::bundle::Files;
use protem::serve::peers::ConnectionLimits;
use protem::serve::places::CallLimits;
use protem_proto::wire::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::broker::{Clients, TestBroker, WIDE_RATE, Wish, fresh_task, policies, reason};
use crate::process::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_of_one_address_are_few() {
    let connections = ConnectionLimits { strangers: 2, ..ConnectionLimits::default() };
    let broker = TestBroker::with(Wish { connections, ..Wish::default() }).await;
    let mut first = raw(&broker).await;
    let second = raw(&broker).await;
    assert!(is_closed(raw(&broker).await).await, "the third stranger is turned away");
    first.shutdown().await.unwrap();
    drop((first, second));
    let mut held = Vec::new();
    let end = Instant::now() + PATIENCE;
    // It takes a moment until the broker has seen the two go.
    while held.is_empty() {
        let mut clients = broker.identity("payments/agent");
        match clients.access.who_am_i(v1::WhoAmIRequest {}).await {
            Ok(_) => held.push(clients),
            Err(status) => assert!(Instant::now() < end, "{status:?}"),
        }
    }
    // Who signs in is no stranger: more than two connections with somebody on them are fine.
    for _ in 0..3 {
        let mut clients = broker.identity("payments/agent");
        clients.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        held.push(clients);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted() {
    let connections =
        ConnectionLimits { connections: 1, reserved: 0, ..ConnectionLimits::default() };
    let broker = TestBroker::with(Wish { connections, ..Wish::default() }).await;
    // A stranger who has the only place makes room for whoever comes.
    let stranger = raw(&broker).await;
    let mut only = broker.identity("payments/agent");
    only.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    assert!(is_closed(stranger).await);
    let mut agent = broker.identity("payments/agent");
    let waits = agent.access.who_am_i(v1::WhoAmIRequest {});
    assert!(tokio::time::timeout(Duration::from_millis(300), waits).await.is_err());
    drop((only, agent));
    let mut agent = broker.identity("payments/agent");
    let answer = tokio::time::timeout(PATIENCE, agent.access.who_am_i(v1::WhoAmIRequest {}));
    answer.await.unwrap().unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_one_caller_on_every_connection() {
    let connections = ConnectionLimits { of_person: 2, ..ConnectionLimits::default() };
    let broker = TestBroker::with(Wish { connections, ..Wish::default() }).await;
    let mut held = [broker.operator(), broker.operator()];
    for one in &mut held {
        one.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    }
    let status = broker.operator().access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0214"));
    assert!(status.get_error_details().retry_info().is_some());
    // And the connection is let go, with a word.
    let mut third = raw(&broker).await;
    let token = broker.sign(&broker.claims("olga", "person", &["operators"]));
    third.write_all(&who_am_i(&token)).await.unwrap();
    assert!(ends(&mut third).await);
    // Everybody else gets in, and so does the same one when a connection has gone.
    broker.identity("payments/agent").access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let [mut one, other] = held;
    drop(other);
    let end = Instant::now() + PATIENCE;
    while let Err(status) = broker.operator().access.who_am_i(v1::WhoAmIRequest {}).await {
        assert_eq!(reason(&status), "PT-0214");
        assert!(Instant::now() < end, "its place is never given back");
    }
    one.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    broker.stop().await;
}

/// And whatever workloads take, who enforces and who can stop them comes back.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_and_people_get_in_when_workloads_have_taken_all() {
    let connections =
        ConnectionLimits { connections: 4, reserved: 3, ..ConnectionLimits::default() };
    let broker = TestBroker::with(Wish { connections, ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    agent.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let mut other = broker.identity("payments/reconciler");
    let status = other.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0214"));
    let mut gateway = broker.gateway("edge-eu-1");
    gateway.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let mut operator = broker.operator();
    operator.revoke(v1::selector::By::Everything(true)).await.unwrap();
    // Who has a connection keeps it.
    agent.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_are_counted_and_ends_have_a_lane_of_their_own() {
    let calls = CallLimits { ordinary: 0, ending: 4, ..CallLimits::default() };
    let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    let status = agent.ask(&fresh_task()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0207"));
    assert!(status.get_error_details().retry_info().is_some());
    assert_eq!(agent.complete("never-opened").await.unwrap_err().code(), Code::NotFound);
    let everything = v1::selector::By::Everything(true);
    broker.operator().revoke(everything).await.unwrap();
    broker.stop().await;
}

/// Workloads cannot take the places that people need to stop them, nor one of them those of the others.
#[tokio::test(flavor = "multi_thread")]
async fn people_end_access_when_workloads_fill_the_lane() {
    let calls = CallLimits { ending: 0, reserved: 1, ..CallLimits::default() };
    let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
    let status = broker.identity("payments/agent").complete("any").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0207"));
    assert!(status.get_error_details().retry_info().is_some());
    for _ in 0..3 {
        broker.operator().revoke(v1::selector::By::Everything(true)).await.unwrap();
    }
    broker.stop().await;
    let calls = CallLimits { ending_of_one: 0, ..CallLimits::default() };
    let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
    let status = broker.identity("payments/agent").complete("any").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0207"));
    assert!(status.message().contains("identity:payments/agent"), "{status:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_caller_are_counted_and_a_grants_journal_ends_with_it() {
    let broker = TestBroker::start().await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    let read = || v1::ReadJournalRequest {
        grant: grant.id.clone(),
        follow: true,
        ..v1::ReadJournalRequest::default()
    };
    let mut held = Vec::new();
    for _ in 0..64 {
        // Each its own connection: that one has fewer streams than this is not what is counted here.
        let mut one = broker.identity("payments/agent");
        held.push(one.governance.read_journal(read()).await.unwrap().into_inner());
    }
    let status = agent.governance.read_journal(read()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0209"));
    assert!(status.get_error_details().retry_info().is_some());
    let mut operator = broker.operator();
    let mut other = operator.governance.read_journal(read()).await.unwrap().into_inner();
    // Its streams leave room for what ends access.
    agent.complete(&task).await.unwrap();
    let end = async {
        let mut last = String::new();
        while let Some(message) = other.message().await.unwrap() {
            last = message.entry.unwrap().kind;
        }
        for stream in &mut held {
            while stream.message().await.unwrap().is_some() {}
        }
        last
    };
    let last = tokio::time::timeout(PATIENCE, end).await.expect("they end");
    assert_eq!(last, "grant.ended");
    agent.governance.read_journal(read()).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_hold_tasks_are_counted_by_themselves() {
    let calls = CallLimits { holds_of_one: 2, ..CallLimits::default() };
    let broker = TestBroker::with(Wish { calls, ..Wish::default() }).await;
    // Half-closed, and so at its end, once the sender is dropped.
    let hold = |agent: &mut Clients, task: &str| {
        let first = v1::HoldTaskRequest { task_id: task.into(), lease: None };
        let (more, beats) = tokio::sync::mpsc::channel(1);
        let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
        let beats = tokio_stream::StreamExt::chain(tokio_stream::once(first), beats);
        let mut access = agent.access.clone();
        async move { access.hold_task(beats).await.map(|held| (more, held.into_inner())) }
    };
    let mut agent = broker.identity("payments/agent");
    let one = hold(&mut agent, &fresh_task()).await.unwrap();
    let task = fresh_task();
    let (_beats, mut two) = hold(&mut agent, &task).await.unwrap();
    let status = hold(&mut agent, &task).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0209"));
    assert!(status.get_error_details().retry_info().is_some());
    // Neither others nor its own streams of another kind have fewer for it.
    hold(&mut broker.identity("payments/reconciler"), &fresh_task()).await.unwrap();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    agent.access.watch_grant(v1::WatchGrantRequest { grant_id: grant.id }).await.unwrap();
    drop(one);
    let end = Instant::now() + PATIENCE;
    let (_more, mut three) = loop {
        match hold(&mut agent, &task).await {
            Ok(held) => break held,
            Err(status) => assert_eq!(reason(&status), "PT-0209"),
        }
        assert!(Instant::now() < end, "its place is never given back");
    };
    assert!(three.message().await.unwrap().is_some());
    while let Ok(Some(_)) = two.message().await {}
    // The one that was replaced has given its place back with its end.
    while let Err(status) = hold(&mut agent, &fresh_task()).await {
        assert_eq!(reason(&status), "PT-0209");
        assert!(Instant::now() < end, "its place is never given back");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tiers_rate_is_in_force_and_ends_are_not_counted() {
    let bundle = edited("catalog.toml", WIDE_RATE, "rate = \"3/h\"");
    let broker = TestBroker::with(Wish { bundle: Some(bundle), ..Wish::default() }).await;
    let mut agent = broker.identity("payments/agent");
    let task = fresh_task();
    for _ in 0..3 {
        agent.ask(&task).await.unwrap();
    }
    let status = agent.ask(&task).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0206"));
    let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_secs(60), "{wait:?}");
    // To ask who one is counts, too.
    let status = agent.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&status), "PT-0206");
    broker
        .identity("payments/reconciler")
        .access
        .watch_grant(v1::WatchGrantRequest::default())
        .await
        .unwrap_err();
    agent.complete(&task).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_to_sign_in_too_often_is_slowed_down() {
    let broker = TestBroker::start().await;
    let channel = broker.channel();
    let end = Instant::now() + PATIENCE;
    for count in 0.. {
        let mut stranger = Clients::over(channel.clone(), Some(format!("a.{count}.c")));
        let status = stranger.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
        if reason(&status) == "PT-0611" {
            break;
        }
        assert_eq!(reason(&status), "PT-0603");
        assert!(Instant::now() < end, "{count} failed and none was slowed down");
    }
    // And nobody is locked out for long.
    let mut agent = broker.identity("payments/agent");
    while let Err(status) = agent.access.who_am_i(v1::WhoAmIRequest {}).await {
        assert_eq!(reason(&status), "PT-0611");
        assert!(Instant::now() < end, "it stays so");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_limited() {
    let broker = TestBroker::start().await;
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("x-much", "x".repeat(20_000).parse().unwrap());
    let mut agent = broker.identity("payments/agent");
    assert!(agent.access.who_am_i(request).await.is_err());
    agent.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_one_gateway_are_counted() {
    let broker = TestBroker::start().await;
    let open = || {
        let message = v1::subscribe_request::Message::Open(v1::Open::default());
        let first = v1::SubscribeRequest { message: Some(message) };
        tokio_stream::StreamExt::chain(tokio_stream::once(first), tokio_stream::pending())
    };
    let mut gateway = broker.gateway("edge-eu-1");
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(gateway.revocations.subscribe(open()).await.unwrap());
    }
    let status = gateway.revocations.subscribe(open()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "PT-0209"));
    drop(held);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_its_limits() {
    let broker = TestBroker::start().await;
    let mut stream = raw(&broker).await;
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    let (kind, payload) = read_frame(&mut stream).await.unwrap();
    assert_eq!(kind, 4, "the first frame is SETTINGS");
    let setting = |id: u16| {
        payload
            .chunks(6)
            .find(|one| one[..2] == id.to_be_bytes())
            .map(|one| u32::from_be_bytes(one[2..6].try_into().unwrap()))
    };
    assert_eq!(setting(3), Some(100), "streams per connection");
    assert_eq!(setting(6), Some(16 * 1024), "header list");
    broker.stop().await;
}

/// Row 55: each flood ends its own connection and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_h2_floods() {
    let broker = TestBroker::start().await;
    let reset: Vec<u8> = (0..4_000_u32)
        .flat_map(|count| {
            let id = count * 2 + 1;
            [frame(1, 4, id, HEADERS), frame(3, 0, id, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let continued: Vec<u8> = std::iter::once(frame(1, 0, 1, HEADERS))
        .chain((0..400).map(|_| frame(9, 0, 1, &literal())))
        .flatten()
        .collect();
    // Each makes the server itself reset a stream (RUSTSEC-2024-0003): a request without a path.
    let provoked: Vec<u8> =
        (0..4_000_u32).flat_map(|count| frame(1, 5, count * 2 + 1, &HEADERS[..1])).collect();
    for (flood, why) in [
        (reset, "too_many_resets"),
        (continued, "too_many_continuations"),
        (provoked, "too_many_internal_resets"),
    ] {
        let mut stream = raw(&broker).await;
        let opening = [PREFACE, &frame(4, 0, 0, &[])].concat();
        stream.write_all(&opening).await.unwrap();
        // The server may close while we still write.
        let _ = stream.write_all(&flood).await;
        let goodbye = tokio::time::timeout(PATIENCE, goodbye(&mut stream)).await.unwrap();
        let (code, said) = goodbye.unwrap_or_default();
        // RFC 9113 §7: ENHANCE_YOUR_CALM. Connections end for other reasons, too.
        assert_eq!((code, said.as_str()), (11, why));
    }
    // Empty DATA: the connection may live, but nobody else may feel it.
    let mut stream = raw(&broker).await;
    let mut flood = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, HEADERS)].concat();
    flood.extend((0..50_000).flat_map(|_| frame(0, 0, 1, &[])));
    let _ = stream.write_all(&flood).await;
    let mut agent = broker.identity("payments/agent");
    let served = agent.access.who_am_i(v1::WhoAmIRequest {});
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_discovery_are_served_to_anybody_but_foreign_pages() {
    let broker = TestBroker::start().await;
    let keys = get(&broker, "/jwks.json", &[]).await;
    assert!(
        keys.starts_with("HTTP/1.1 200") && keys.contains("application/jwk-set+json"),
        "{keys}"
    );
    assert!(keys.contains("max-age=300") && keys.contains("\"kty\":\"OKP\""), "{keys}");
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let said = get(&broker, path, &[]).await;
        assert!(said.contains(&format!("\"issuer\":\"{}\"", broker.url)), "{said}");
    }
    assert!(get(&broker, "/nothing", &[]).await.starts_with("HTTP/1.1 404"));
    let foreign = get(&broker, "/jwks.json", &["origin: https://evil.example"]).await;
    assert!(foreign.starts_with("HTTP/1.1 403") && foreign.contains("PT-0615"), "{foreign}");
    broker.stop().await;
}

async fn get(broker: &TestBroker, path: &str, headers: &[&str]) -> String {
    let mut stream = raw(broker).await;
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let port = broker.port;
    let ask =
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn raw(broker: &TestBroker) -> TcpStream {
    TcpStream::connect(("127.0.0.1", broker.port)).await.unwrap()
}

async fn is_closed(mut stream: TcpStream) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

/// With which code and words the peer says GOAWAY; none when it closes without.
async fn goodbye(stream: &mut TcpStream) -> Option<(u32, String)> {
    loop {
        let (kind, payload) = read_frame(stream).await?;
        if let (7, Some((head, said))) = (kind, payload.split_at_checked(8)) {
            let code = u32::from_be_bytes(head[4..].try_into().unwrap());
            return Some((code, String::from_utf8_lossy(said).into_owned()));
        }
    }
}

/// Whether the peer says GOAWAY or closes.
async fn ends(stream: &mut TcpStream) -> bool {
    let end = async {
        loop {
            match read_frame(stream).await {
                Some((7, _)) | None => return,
                Some(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.is_ok()
}

async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// A whole call of `WhoAmI` as the first of a connection; only `authorization` is long.
fn who_am_i(token: &str) -> Vec<u8> {
    // RFC 7541 §6.2.2 with names of its static table: `:path`, `:authority`, `content-type`, `authorization`.
    let literal = |name: &[u8], value: &str| {
        let length = u8::try_from(value.len().min(127)).unwrap();
        let mut text = [name, &[length]].concat();
        let mut rest = value.len() - usize::from(length);
        while length == 127 && rest >= 128 {
            text.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        if length == 127 {
            text.push(u8::try_from(rest).unwrap());
        }
        [&text, value.as_bytes()].concat()
    };
    let headers = [
        vec![0x83, 0x86],
        literal(&[4], "/protem.v1.AccessService/WhoAmI"),
        literal(&[1], "127.0.0.1"),
        literal(&[15, 16], "application/grpc"),
        literal(&[15, 8], &format!("Bearer {token}")),
        literal(&[0, 2, b't', b'e'], "trailers"),
    ];
    let headers = frame(1, 4, 1, &headers.concat());
    [PREFACE, &frame(4, 0, 0, &[]), &headers, &frame(0, 1, 1, &[0; 5])].concat()
}

/// A literal header of 100 bytes that is not indexed: what a CONTINUATION flood is made of.
fn literal() -> Vec<u8> {
    [&[0, 1, b'x', 100], [b'y'; 100].as_slice()].concat()
}

/// The repository's bundle with one text replaced in one file.
fn edited(file: &str, from: &str, to: &str) -> Files {
    let edit = |name: &str, text: &[u8]| -> std::sync::Arc<[u8]> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        if name != file {
            return text.into_bytes().into();
        }
        assert!(text.contains(from), "{file} has no {from}");
        text.replace(from, to).into_bytes().into()
    };
    policies().iter().map(|(name, text)| (name.clone(), edit(name, text))).collect()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method POST`, `:scheme http`, `:path /`: all from HPACK's static table.
const HEADERS: &[u8] = &[0x83, 0x86, 0x84];
