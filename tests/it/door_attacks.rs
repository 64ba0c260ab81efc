//! Attacks on the door itself: bodies before sign-in, and answers that tell strangers who there is.

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Status};

use crate::broker::{SignIn, TestBroker, Wish, reason};
use crate::foreign::{Foreign, agent};
use crate::process::PATIENCE;

/// Row 58: whoever has not signed in is answered before any of the body is understood, and before all of it has come.
#[tokio::test(flavor = "multi_thread")]
async fn attack_preauth_body() {
    let broker = TestBroker::start().await;
    let forged = broker.identity_token("payments/agent");
    let forged = forged.rsplit_once('.').unwrap().0.to_owned() + ".AAAA";
    for (token, code) in [
        (None, "PT-0601"),
        (Some("x".repeat(9_000)), "PT-0603"),
        (Some("a.b.c".to_owned()), "PT-0603"),
        (Some(forged), "PT-0606"),
    ] {
        for path in [
            "/protem.v1.BundleService/ApplyBundle",
            "/protem.v1.AccessService/RequestAccess",
            "/protem.v1.AccessService/HoldTask",
            "/protem.v1.RevocationService/Subscribe",
        ] {
            // One message that would not even be decoded, then others for ever: who waits for the end of it never answers so.
            let status = flood(&broker, token.clone(), path).await;
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unauthenticated, code),
                "{path}"
            );
        }
    }
    broker.stop().await;
}

async fn flood(broker: &TestBroker, token: Option<String>, path: &str) -> Status {
    let signed = InterceptedService::new(broker.channel(), SignIn(token));
    let mut grpc = tonic::client::Grpc::new(signed);
    grpc.ready().await.unwrap();
    let bomb = v1::ApplyBundleRequest {
        files: [("a.toml".to_owned(), vec![b'['; 32 * 1024])].into(),
        ..Default::default()
    };
    let bombs = tokio_stream::iter(std::iter::repeat_n(bomb, 64)).chain(tokio_stream::pending());
    let codec: tonic_prost::ProstCodec<v1::ApplyBundleRequest, v1::ApplyBundleResponse> =
        tonic_prost::ProstCodec::default();
    let call = grpc.client_streaming(tonic::Request::new(bombs), path.parse().unwrap(), codec);
    let answer = tokio::time::timeout(PATIENCE, call).await.expect("an answer");
    answer.map(drop).unwrap_err()
}

/// Row 67: a token that is not verified gets the same answer whatever it claims, so nobody learns who there is.
#[tokio::test(flavor = "multi_thread")]
async fn attack_timing_oracle() {
    let (foreign, stranger) = (Foreign::new(), Foreign::stranger());
    let bundle = Some(foreign.bundle());
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    let there = agent(SystemClock.unix().as_secs());
    let mut answers = Vec::new();
    for (claim, value) in [
        ("repository_id", json!("7")),
        ("repository_id", json!("4711")),
        ("repository_id", json!("nobody")),
        ("sub", json!("nobody")),
        ("aud", json!("https://elsewhere.example")),
        ("exp", json!(1)),
        ("nbf", json!("now")),
        ("ref", json!({"a": {"b": ["c"]}})),
    ] {
        let mut claims = there.clone();
        claims[claim] = value;
        let mut caller = broker.clients(Some(stranger.token("ES256", &claims)));
        let status = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
        answers.push((status.code(), reason(&status), status.message().to_owned()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].1, "PT-0606");
    broker.stop().await;
}
