//! Attacks by what a call says: paths of other shapes, more than is kept, cursors and page tokens that nobody gave out.

use prost::Message;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::broker::{TestBroker, ask, fresh_task, reason};
use crate::callers::call;

/// Row 53: a path that is nearly a method's is no method's, neither for the guard nor for the service behind it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_grpc_path_variants() {
    let broker = TestBroker::start().await;
    let revoke = v1::RevokeRequest {
        selector: Some(v1::Selector { by: Some(By::Everything(true)) }),
        note: "all".into(),
        wait: None,
    };
    let body = revoke.encode_to_vec();
    let head = broker.head();
    let operator = broker.sign(&broker.claims("olga", "person", &["operators"]));
    let method = "/protem.v1.GovernanceService/Revoke";
    for path in [
        format!("/{method}"),
        format!("{method}/"),
        format!("{method}//"),
        format!("/.{method}"),
        format!("/x/..{method}"),
        format!("{method}%20"),
        format!("{method};a=b"),
        method.replace("/Revoke", "%2FRevoke"),
        method.replace("/Revoke", "//Revoke"),
        method.replace("Revoke", "%52evoke"),
        method.to_lowercase(),
        method.replace("protem.v1.", ""),
        method.replace("protem.v1", "protem.v1."),
        method.replace("protem.v1", "PROTEM.v1"),
    ] {
        for token in [None, Some(operator.clone())] {
            let status = call(&broker, &path, token, &body).await;
            let found = (status.code(), reason(&status));
            assert_eq!(found, (Code::Unimplemented, "PT-0211".to_owned()), "{path}: {status:?}");
        }
    }
    // Without its slash it is no request at all.
    let mut plain = TcpStream::connect(("127.0.0.1", broker.port)).await.unwrap();
    let name = method.trim_start_matches('/');
    let request = format!(
        "POST {name} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/grpc\r\n\
         authorization: Bearer {operator}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        broker.port
    );
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.starts_with("HTTP/1.1 200") || answer.contains("PT-0211"), "{answer}");
    assert_eq!(broker.head(), head, "nothing was revoked");
    broker.stop().await;
}

/// Row 67: what is written is kept whole, or refused; nothing is cut off and nothing is lost in silence.
#[tokio::test(flavor = "multi_thread")]
async fn attack_oversize_write() {
    let broker = TestBroker::start().await;
    let mut caller = broker.identity("payments/agent");
    for (size, refused) in [
        (1_024, None),
        (1_025, Some("PT-0201")),
        (60_000, Some("PT-0201")),
        (70_000, Some("PT-0203")),
        (1_000_000, Some("PT-0203")),
    ] {
        let purpose = "p".repeat(size);
        let mut asked = ask(&fresh_task());
        asked.purpose.clone_from(&purpose);
        let head = broker.head();
        match (caller.access.request_access(asked).await, refused) {
            (Ok(granted), None) => {
                let grant_id = granted.into_inner().grant.unwrap().id;
                let get = v1::GetGrantRequest { grant_id };
                let kept = caller.governance.get_grant(get).await.unwrap().into_inner();
                assert_eq!(kept.grant.unwrap().purpose, purpose);
            }
            (Err(status), Some(code)) => {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::InvalidArgument, code)
                );
                assert_eq!(broker.head(), head, "{size}");
            }
            (answer, _) => panic!("{size}: {answer:?}"),
        }
    }
    broker.stop().await;
}

/// Row 67: a page token is a name and never part of a query, and what it points at is no more than a place in one's own list.
#[tokio::test(flavor = "multi_thread")]
async fn attack_forged_cursor() {
    let broker = TestBroker::start().await;
    let theirs = broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    let theirs = theirs.grant.unwrap().id;
    let mut operator = broker.operator();
    let list = |page_token: &str| v1::ListGrantsRequest {
        page_token: page_token.to_owned(),
        ..v1::ListGrantsRequest::default()
    };
    let long = "g".repeat(10_000);
    for token in [
        "' OR '1'='1",
        "gr_' OR 1=1 --",
        "gr_",
        "%",
        "../1",
        "0",
        "gr_00000000000000000000000000; DROP TABLE grants",
        "gr_00000000000000000000000000\0",
        &long,
    ] {
        let status = operator.governance.list_grants(list(token)).await.unwrap_err();
        let found = (status.code(), reason(&status));
        assert_eq!(found, (Code::InvalidArgument, "PT-0201".to_owned()), "{token:?}: {status:?}");
    }
    // Another's grant as a page token, and the end of all: only one's own is there.
    for token in [&*theirs, "gr_7zzzzzzzzzzzzzzzzzzzzzzzzz"] {
        let mut other = broker.identity("shop/checkout");
        if let Ok(page) = other.governance.list_grants(list(token)).await {
            assert!(page.into_inner().grants.is_empty(), "{token}");
        }
    }
    // A cursor of the feed that is not of this journal, this filter or this time begins anew, with nothing left out.
    let gateway = broker.gateway("edge-eu-1");
    let head = v1::HeadRequest { nonce: vec![1; 16], ..v1::HeadRequest::default() };
    let answer = gateway.revocations.clone().head(head.clone()).await.unwrap().into_inner();
    let good = answer.batch.and_then(|batch| batch.cursor).unwrap_or_default();
    for forged in [
        v1::Cursor { journal: vec![7; 16], ..good.clone() },
        v1::Cursor { filter: vec![7; 32], ..good.clone() },
        v1::Cursor { epoch: good.epoch + 1, ..good.clone() },
        v1::Cursor { seq: u64::MAX, ..good.clone() },
    ] {
        let head = v1::HeadRequest { after: Some(forged.clone()), ..head.clone() };
        match gateway.revocations.clone().head(head).await {
            Ok(answer) => assert!(answer.into_inner().reset.is_some(), "{forged:?}"),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{forged:?}"),
        }
    }
    broker.stop().await;
}
