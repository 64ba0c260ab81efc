//! Many people sign in to the page at once, or one host pretends to be many: nobody else is kept out.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::broker::{TestBroker, Wish, policies};
use crate::issuers::reach;
use crate::process::PATIENCE;
use crate::site::{Answer, DISCOVERY, Site};

/// More than asked the issuer at once before, and fewer than one address may connect without signing in.
const RUSH: usize = 80;

/// The repository's bundle, whose people sign in at `url`.
async fn broker(url: &str) -> TestBroker {
    let files = policies();
    let edited = files.iter().map(|(name, text)| {
        let text = std::str::from_utf8(text).unwrap().replace("https://idp.shop.example", url);
        (name.clone(), text.into_bytes().into())
    });
    let bundle = Some(edited.collect::<Vec<_>>().into());
    TestBroker::with(Wish { bundle, reach: reach(), ..Wish::default() }).await
}

/// Begins a sign-in from an address of this machine, as the page's form does.
async fn begin(from: &str, port: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut line = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let form = "issuer=corp&to=";
    let asked = format!(
        "POST /ui/sign-in/at HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:{port}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    line.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_one_host_keeps_all_others_from_signing_in() {
    let site = Site::start().await;
    let about = json!({
        "issuer": site.url, "authorization_endpoint": format!("{}/auth", site.url),
        "token_endpoint": format!("{}/token", site.url), "jwks_uri": format!("{}/keys", site.url),
    });
    let (say, may) = watch::channel(false);
    site.set(DISCOVERY, Answer::Later(may, about.to_string()));
    let broker = broker(&site.url).await;
    let port = broker.port;
    let mut rush: tokio::task::JoinSet<String> =
        (0..RUSH).map(|_| async move { begin("127.0.0.1", port).await }).collect();
    // The first ones are there, and their issuer takes its time.
    tokio::time::timeout(PATIENCE, async {
        while site.count(DISCOVERY) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the issuer is asked");
    let victim = tokio::spawn(async move { begin("127.0.0.2", port).await });
    let beside = begin("127.0.0.3", port);
    tokio::pin!(beside);
    // All wait for one answer.
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut beside).await;
    assert!(early.is_err(), "{early:?}");
    say.send(true).unwrap();
    for answer in [victim.await.unwrap(), beside.await] {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&site.url), "{answer}");
    }
    while let Some(answer) = rush.join_next().await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(site.count(DISCOVERY), 1);
    broker.stop().await;
}

/// An answer that does not come, or is none, is not remembered.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_was_down_is_asked_again() {
    let site = Site::start().await;
    let broker = broker(&site.url).await;
    for expect in [1, 2] {
        let answer = begin("127.0.0.1", broker.port).await;
        assert!(!answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(site.count(DISCOVERY), expect);
    }
    let url = &site.url;
    let about = json!({"issuer": url, "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token")});
    site.set(DISCOVERY, Answer::Json(about.to_string(), ""));
    for _ in 0..2 {
        let answer = begin("127.0.0.1", broker.port).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(site.count(DISCOVERY), 3);
    broker.stop().await;
}
