//! Webhooks that somebody turns against the broker or its people.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protem::config::{Fetch, WebhookFormat, WebhookSettings};
use protem::serve::webhook::Webhooks;
use serde_json::Value;

use crate::process::until;
use crate::receiver::Receiver;
use crate::webhooks::{Room, SECRET, broker, fails, inside, made, refund};

#[tokio::test(flavor = "multi_thread")]
async fn attack_ssrf_issuer_jwks_webhook() {
    let (room, inner) = (Room::new(), Receiver::start());
    let one = |url: String| {
        let settings = WebhookSettings { url, everything: true, ..room.to(&inner) };
        BTreeMap::from([("chat".to_owned(), settings)])
    };
    for url in [
        inner.url(),
        format!("http://localhost:{}/hook/s3cret-path", inner.port),
        format!("https://127.0.0.1:{}/hook/s3cret-path", inner.port),
        format!("http://[::ffff:127.0.0.1]:{}/hook/s3cret-path", inner.port),
        "http://169.254.169.254/hook/s3cret-path".to_owned(),
    ] {
        let webhooks = Webhooks::new(&one(url), &Fetch::default()).unwrap();
        let broker = broker(webhooks.clone()).await;
        refund(&broker, "inside").await;
        tokio::task::block_in_place(|| until("it is refused", || fails(&webhooks).is_some()));
        let why = fails(&webhooks).unwrap();
        assert!(why.contains("fetch.allow_private") && !why.contains("s3cret"), "{why}");
        assert!(inner.received().is_empty());
        broker.stop().await;
    }
    for url in ["", "file:///etc/passwd", "chat.example/hook", "https://user:word@chat.example/"] {
        let why = Webhooks::new(&one(url.to_owned()), &Fetch::default()).unwrap_err();
        assert!(why.contains("webhook.chat") && !why.contains("word@"), "{why}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let good = room.to(&receiver);
    let refused = |settings: WebhookSettings, part: &str| {
        let all = BTreeMap::from([("chat".to_owned(), settings)]);
        let why = Webhooks::new(&all, &inside()).unwrap_err();
        assert!(why.contains(part), "{why}");
    };
    refused(WebhookSettings { events: vec!["lunch".into()], ..good.clone() }, "`lunch`");
    refused(WebhookSettings { groups: vec!["Shop".into()], ..good.clone() }, "group");
    refused(WebhookSettings { url_file: "x".into(), ..good.clone() }, "both");
    refused(WebhookSettings { secret_file: PathBuf::new(), ..good.clone() }, "secret_file");
    refused(
        WebhookSettings { secret_file: Path::new("/nowhere").into(), ..good.clone() },
        "/nowhere",
    );
    room.secret(SECRET, 0o640);
    refused(good, "0640");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_requesters_words_are_plain_text_in_a_chat() {
    let (room, chat) = (Room::new(), Receiver::start());
    let url_file = room.0.path().join("url");
    std::fs::write(&url_file, format!("{}\n", chat.url())).unwrap();
    std::fs::set_permissions(&url_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = WebhookSettings {
        url: String::new(),
        url_file,
        secret_file: PathBuf::new(),
        format: WebhookFormat::Slack,
        events: vec!["pending".into()],
        ..room.to(&chat)
    };
    let broker = broker(made(&[("chat", settings)])).await;
    let evil = "<!channel> *urgent* <https://evil.example|Approve here> `x` @everyone evil.example";
    let grant = refund(&broker, evil).await;
    let long = refund(&broker, &"&.".repeat(500)).await;
    let told = tokio::task::block_in_place(|| chat.wait(2));
    let body = told[0].json();
    assert_eq!((&body["unfurl_links"], &body["unfurl_media"]), (&false.into(), &false.into()));
    let link = format!("<{}/ui/requests/{}|Look>", broker.url, grant.id);
    for text in [&body["text"], &body["blocks"][0]["text"]["text"]] {
        let text = text.as_str().unwrap().replace(&link, "");
        for never in ["<", ">", "https:/", "*u", "t*", "`x`", "@e", "evil.e", "|A"] {
            assert!(!text.contains(never), "{never} in {text}");
        }
        assert!(text.contains("urgent"), "it can still be read: {text}");
    }
    assert_eq!(body["blocks"][0]["text"]["type"], "plain_text");
    assert!(body["blocks"][1]["text"]["text"].as_str().unwrap().starts_with(&link));
    assert!(!told[0].headers.contains_key("webhook-signature"));
    let body: Value = told[1].json();
    assert!(body.to_string().contains(&long.id), "however long the words are, the link is there");
    assert!(body["blocks"][0]["text"]["text"].as_str().unwrap().chars().count() <= 3_000);
    broker.stop().await;
}
