//! The one port over TLS: who gets in, who does not, how long that may take, and what happens when files change meanwhile.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protem::config::TlsVersion;
use protem::serve::server::Drain;
use protem::serve::tls::{Tls, TlsFiles};
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Request, Status};

use crate::broker::{Clients, TestBroker, Wish, fresh_task, reason};
use crate::pki::{AGENT, Authority, Pki, bundle, server, svid, svid_until};
use crate::process::PATIENCE;
use crate::stall::Stall;

/// A broker whose development key counts for nobody: certificates and tokens alone.
pub async fn broker(pki: &Pki) -> TestBroker {
    let files = pki.files();
    TestBroker::with(Wish { files, no_dev: true, ..Wish::default() }).await
}

pub async fn who(clients: &mut Clients) -> Result<String, Status> {
    let who = clients.access.who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    Ok(who.identity)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_with_an_svid_asks_works_and_completes() {
    let pki = Pki::new();
    pki.give("agent", &pki.domain.issue(&svid(AGENT)));
    let broker = broker(&pki).await;
    let mut agent = Clients::over(pki.channel(&broker.url, Some("agent")), None);
    assert_eq!(who(&mut agent).await.unwrap(), "payments/agent");
    let task = fresh_task();
    let grant = agent.ask(&task).await.unwrap().grant.unwrap();
    assert_eq!(grant.identity, "payments/agent");
    assert_eq!(agent.complete(&task).await.unwrap().ended.len(), 1);
    // Without a certificate one needs a token, and a certificate that is nobody's makes nobody.
    let mut bare = Clients::over(pki.channel(&broker.url, None), None);
    assert_eq!(reason(&who(&mut bare).await.unwrap_err()), "PT-0601");
    pki.give("nobody", &pki.domain.issue(&svid("spiffe://shop.example/ns/none")));
    let mut nobody = Clients::over(pki.channel(&broker.url, Some("nobody")), None);
    assert_eq!(who(&mut nobody).await.unwrap(), "");
    assert_eq!(reason(&nobody.ask(&fresh_task()).await.unwrap_err()), "PT-0610");
    broker.stop().await;
}

/// Row 42: identity comes from the connection or the one token, never from what a proxy might have said.
#[tokio::test(flavor = "multi_thread")]
async fn attack_identity_headers_over_tls() {
    let pki = Pki::new();
    pki.give("agent", &pki.domain.issue(&svid(AGENT)));
    let broker = broker(&pki).await;
    let lies = || {
        let mut request = Request::new(v1::WhoAmIRequest {});
        let other = "spiffe://shop.example/ns/payments/sa/reconciler";
        for (name, value) in [
            ("x-forwarded-client-cert", format!("By=a;URI={other}")),
            ("x-spiffe-id", other.to_owned()),
            ("x-client-cert", other.to_owned()),
            ("x-forwarded-user", "payments/reconciler".to_owned()),
            ("x-protem-identity", "payments/reconciler".to_owned()),
        ] {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    let mut bare = Clients::over(pki.channel(&broker.url, None), None);
    assert_eq!(reason(&bare.access.who_am_i(lies()).await.unwrap_err()), "PT-0601");
    let mut agent = Clients::over(pki.channel(&broker.url, Some("agent")), None);
    let seen = agent.access.who_am_i(lies()).await.unwrap().into_inner();
    assert_eq!(seen.identity, "payments/agent");
    // A call with a token is that token's, good or bad: a certificate never saves it.
    for bad in ["a.b.c", ""] {
        let mut both = Clients::over(pki.channel(&broker.url, Some("agent")), Some(bad.into()));
        let status = who(&mut both).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "PT-0603"));
    }
    broker.stop().await;
}

/// A client gives nothing to a server that another authority vouches for.
#[tokio::test(flavor = "multi_thread")]
async fn attack_server_of_another_authority() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    pki.write("ca.pem", &Authority::new("shop.example").pem());
    let mut fooled = Clients::over(pki.channel(&broker.url, None), Some("a.b.c".into()));
    assert_eq!(who(&mut fooled).await.unwrap_err().code(), Code::Unavailable);
    broker.stop().await;
}

pub fn config(pki: &Pki, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub async fn open(
    broker: &TestBroker,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", broker.port)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// What `GET /jwks.json` answers on this connection.
pub async fn get(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let ask = "GET /jwks.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_old_versions_and_plain_http() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    let newest = Arc::new(config(&pki, &[&version::TLS13]));
    let answer = get(&mut open(&broker, &newest).await.unwrap()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let old = Arc::new(config(&pki, &[&version::TLS12]));
    assert!(open(&broker, &old).await.is_err());
    let mut plain = TcpStream::connect(("127.0.0.1", broker.port)).await.unwrap();
    plain.write_all(b"GET /jwks.json HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "it is closed");
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1"));
    broker.stop().await;
    // Only where the settings say so.
    let files = pki.files_with(TlsFiles { min: TlsVersion::Tls12, ..pki.tls() });
    let broker = TestBroker::with(Wish { files, no_dev: true, ..Wish::default() }).await;
    for config in [&old, &newest] {
        let answer = get(&mut open(&broker, config).await.unwrap()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    broker.stop().await;
}

/// A client that would resume comes three times, and proves itself anew each time.
async fn nothing_is_resumed(
    broker: &TestBroker,
    pki: &Pki,
    versions: &[&'static SupportedProtocolVersion],
) {
    let mut config = config(pki, versions);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..3 {
        let mut stream = open(broker, &config).await.unwrap();
        get(&mut stream).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
}

/// Row 41: nothing is resumed, and a live connection is asked again when its roots go.
#[tokio::test(flavor = "multi_thread")]
async fn attack_resume_tls_after_ca_removed() {
    let pki = Pki::new();
    pki.give("agent", &pki.domain.issue(&svid(AGENT)));
    let broker = broker(&pki).await;
    // Clients that would resume if they could, by ticket or session; the older version has both.
    let old = pki.files_with(TlsFiles { min: TlsVersion::Tls12, ..pki.tls() });
    let old = TestBroker::with(Wish { files: old, no_dev: true, ..Wish::default() }).await;
    nothing_is_resumed(&old, &pki, &[&version::TLS12]).await;
    old.stop().await;
    for versions in [[&version::TLS13].as_slice(), &[&version::TLS13, &version::TLS12]] {
        nothing_is_resumed(&broker, &pki, versions).await;
    }
    let mut agent = Clients::over(pki.channel(&broker.url, Some("agent")), None);
    let task = fresh_task();
    agent.ask(&task).await.unwrap();
    let (beats, beating) = tokio::sync::mpsc::channel(1);
    let lease = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    beats.send(v1::HoldTaskRequest { task_id: task, lease }).await.unwrap();
    let beating = tokio_stream::wrappers::ReceiverStream::new(beating);
    let mut held = agent.access.hold_task(beating).await.unwrap().into_inner();
    held.message().await.unwrap().unwrap();
    // The next root, without the old one.
    let next = Authority::new("next");
    pki.write("bundle.json", &next.bundle());
    let ended = tokio::time::timeout(PATIENCE, held.message()).await.expect("the stream ends");
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "PT-0614"));
    let refused = who(&mut agent).await;
    assert!(refused.is_err(), "{refused:?}");
    pki.give("next", &next.issue(&svid(AGENT)));
    let mut fresh = Clients::over(pki.channel(&broker.url, Some("next")), None);
    assert_eq!(who(&mut fresh).await.unwrap(), "payments/agent");
    // Both again: the old one counts on its next connection.
    pki.write("bundle.json", &bundle(&[&next, &pki.domain]));
    let end = Instant::now() + PATIENCE;
    while who(&mut agent).await.is_err() {
        assert!(Instant::now() < end, "never again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    broker.stop().await;
}

/// A rotated SVID is used by itself: the connection leaves before its certificate ends, and no call is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_svid_is_used_before_the_old_one_ends() {
    let pki = Pki::new();
    let until = |seconds: u64| Duration::from_secs(SystemClock.unix().as_secs() + seconds);
    pki.give("agent", &pki.domain.issue(&svid_until(AGENT, until(24))));
    let broker = broker(&pki).await;
    let mut agent = Clients::over(pki.channel(&broker.url, Some("agent")), None);
    assert_eq!(who(&mut agent).await.unwrap(), "payments/agent");
    pki.give("agent", &pki.domain.issue(&svid_until(AGENT, until(3_600))));
    let end = Instant::now() + Duration::from_secs(27);
    while Instant::now() < end {
        let found = who(&mut agent).await;
        assert_eq!(found.as_deref().ok(), Some("payments/agent"), "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.stop().await;
}

/// What a client says first, whole.
fn hello(pki: &Pki) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let config = Arc::new(config(pki, &[&version::TLS13]));
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Row 57: who stalls keeps nobody else waiting, and no place for long.
#[tokio::test(flavor = "multi_thread")]
async fn attack_slow_handshake_flood() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        waits.push(flooded(&broker, &pki).await);
        if waits.last().is_some_and(|took| *took < HOLDS) {
            return broker.stop().await;
        }
    }
    panic!("an honest client waited {waits:?}");
}

/// How long who says nothing may hold a place that nobody else wants, less a little: who waits for that waits longer than this.
const HOLDS: Duration = Duration::from_secs(4);
/// A machine that was away for so long is asked again; who makes others wait does so each time.
const ROUNDS: usize = 4;

/// How long an honest client waits while from six addresses come more of each kind than the 256 places: those who say nothing
/// or half a hello, and those who say a whole one and then nothing more.
async fn flooded(broker: &TestBroker, pki: &Pki) -> Duration {
    let hello = hello(pki);
    let mut slow = Vec::new();
    for number in 0..6 * 140_usize {
        let socket = TcpSocket::new_v4().unwrap();
        let from: SocketAddr = format!("127.0.0.{}:0", 2 + number % 6).parse().unwrap();
        socket.bind(from).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], broker.port));
        let mut stream = socket.connect(to).await.unwrap();
        match number / 6 % 4 {
            0 => {}
            1 => stream.write_all(&hello[..hello.len() / 2]).await.unwrap(),
            _ => stream.write_all(&hello).await.unwrap(),
        }
        slow.push(stream);
    }
    let began = Instant::now();
    let config = Arc::new(config(pki, &[&version::TLS13]));
    let mut stream = open(broker, &config).await.unwrap();
    assert!(get(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    let took = began.elapsed();
    // Told to go or not, every one of them is closed in time.
    for mut stream in slow {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let mut rest = Vec::new();
        let read = tokio::time::timeout(left, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "still open after {:?}", began.elapsed());
    }
    assert!(began.elapsed() > Duration::from_secs(3), "nobody stalled");
    took
}

/// A certificate replaced again and again while clients come and go: no handshake fails, and the new one is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_load() {
    let pki = Pki::new();
    let files = pki.files();
    let tls = files.tls.clone().unwrap();
    let broker = TestBroker::with(Wish { files, no_dev: true, ..Wish::default() }).await;
    let broker = Arc::new(broker);
    let config = Arc::new(config(&pki, &[&version::TLS13]));
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (broker, config) = (Arc::clone(&broker), Arc::clone(&config));
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = open(&broker, &config).await.unwrap();
                    assert!(get(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let served = async || {
        let stream = open(&broker, &config).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    for _ in 0..5 {
        let before = served().await;
        pki.renew();
        tls.reload();
        assert_ne!(served().await, before);
    }
    // What cannot be used changes nothing and is told of; what is good again is used.
    let before = served().await;
    let other = pki.ca.issue(&server());
    for (name, text) in [("tls.key", other.key.as_str()), ("tls.key", "no key"), ("tls.pem", "")] {
        let kept = std::fs::read_to_string(pki.path(name)).unwrap();
        pki.write(name, text);
        tls.reload();
        assert!(tls.problem().is_some(), "{name}: {text}");
        assert_eq!(served().await, before);
        pki.write(name, &kept);
        tls.reload();
        assert_eq!(tls.problem(), None);
    }
    // By itself, too.
    pki.renew();
    let end = Instant::now() + PATIENCE;
    while served().await == before {
        assert!(Instant::now() < end, "it is never read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in load {
        caller.await.unwrap();
    }
    assert!(count.load(Ordering::Relaxed) > 20);
    Arc::into_inner(broker).unwrap().stop().await;
}

/// Row 52 and 66: a key that others may read is none.
#[test]
fn attack_a_key_that_others_may_read() {
    let pki = Pki::new();
    let load = |files| Tls::load(files, None, Arc::new(SystemClock)).map(drop);
    assert!(load(pki.tls()).is_ok());
    for mode in [0o640, 0o604, 0o660, 0o644, 0o777] {
        let file = pki.path("tls.key");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let why = load(pki.tls()).unwrap_err().to_string();
        assert!(why.contains("must be 0600"), "{why}");
    }
    let missing = TlsFiles { key: pki.path("nothing"), ..pki.tls() };
    assert!(load(missing).unwrap_err().to_string().contains("cannot be read"));
    let folder = TlsFiles { key: pki.path("."), ..pki.tls() };
    assert!(load(folder).is_err());
}

/// The end, over TLS: streams are told, what has begun is finished, nobody new comes in, and nobody else is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_draining_broker_lets_everybody_go_over_tls() {
    let pki = Pki::new();
    pki.give("agent", &pki.domain.issue(&svid(AGENT)));
    let mut drains = Vec::new();
    for _ in 0..ROUNDS {
        drains.push(drained(&pki).await);
        if drains.last().is_some_and(|took| *took < HOLDS) {
            return;
        }
    }
    panic!("who says nothing stays: {drains:?}");
}

/// How long one was waited for that has not spoken TLS yet, while the broker's end waited for a call.
async fn drained(pki: &Pki) -> Duration {
    let (stall, store) = Stall::new();
    let (files, journal, drain) = (pki.files(), Some(store), Drain(PATIENCE));
    let wish = Wish { files, journal, drain, no_dev: true, ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let (url, port) = (broker.url.clone(), broker.port);
    let mut agent = Clients::over(pki.channel(&url, Some("agent")), None);
    let (task, other) = (fresh_task(), fresh_task());
    agent.ask(&task).await.unwrap();
    agent.ask(&other).await.unwrap();
    let (beats, beating) = tokio::sync::mpsc::channel(1);
    beats.send(v1::HoldTaskRequest { task_id: task, lease: None }).await.unwrap();
    let beating = tokio_stream::wrappers::ReceiverStream::new(beating);
    let mut held = agent.access.hold_task(beating).await.unwrap().into_inner();
    held.message().await.unwrap().unwrap();
    let done = stall.completing(&broker, &agent, &other).await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // Once a later one is served, it has been accepted.
    let next = Arc::new(config(pki, &[&version::TLS13]));
    get(&mut open(&broker, &next).await.unwrap()).await.unwrap();
    let stopping = tokio::spawn(broker.stop());
    let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    let took = began.elapsed();
    assert!(closed.is_ok(), "it stays open");
    let status = tokio::time::timeout(PATIENCE, held.message()).await.expect("it is told");
    let status = status.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PT-0509"));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert!(!stopping.is_finished(), "a call is waited for");
    stall.end();
    done.await.unwrap().expect("what has begun is finished");
    let began = Instant::now();
    stopping.await.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "nothing else is: {:?}", began.elapsed());
    drop(beats);
    took
}
