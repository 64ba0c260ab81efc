//! The feed beside a bundle that changes: what is told once, in order, and to whom.

use std::path::Path;

use protem_core::event::Actor;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::Seq;

use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, cursor, follow, next, up_to};
use crate::engine::subscription::Subscription;
use crate::policy::bundle::{Bundle, Files, Load, read_folder};

fn policies() -> Files {
    read_folder(Path::new("policies")).unwrap()
}

/// The repository's bundle with `more` at the end of its catalog.
fn with(more: &str) -> Files {
    let longer = |name: &str, text: &[u8]| match name {
        "catalog.toml" => [text, more.as_bytes()].concat().into(),
        _ => text.into(),
    };
    policies().iter().map(|(name, text)| (name.clone(), longer(name, text))).collect()
}

async fn apply(broker: &Broker, files: Files) {
    let bundle = Bundle::load(files, Load::Activate, true).unwrap();
    broker.apply_bundle(Actor("person:olga".into()), bundle, None).await.unwrap();
}

/// The seqs of the catalogs up to the proof of `nonce`.
async fn catalogs(feed: &mut Subscription, nonce: &[u8]) -> Vec<Seq> {
    feed.peer().ping(nonce.to_vec(), "FRESH".to_owned(), None);
    let mut seqs = Vec::new();
    loop {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
        match next(feed).await {
            Wire::Catalog(catalog) => seqs.push(Seq(catalog.seq)),
            Wire::Checkpoint(checkpoint) if checkpoint.nonce == nonce => return seqs,
            _ => {}
        }
    }
}

/// What the ring still holds of before is older than what the opening says.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_is_not_told_what_was_before_its_opening() {
    let home = Home::new();
    let broker = home.start().unwrap();
    // It stays, so that its ring does.
    let mut stays = broker.subscribe(follow(None)).await.unwrap();
    let (_, proof) = up_to(&mut stays, b"").await;
    let left = cursor(proof.cursor.as_ref().unwrap());
    apply(&broker, with("# second\n")).await;
    apply(&broker, with("# third\n")).await;
    let told = catalogs(&mut stays, b"n1").await;
    assert!(matches!(told[..], [second, third] if second < third), "{told:?}");
    let mut resumed = broker.subscribe(follow(Some(left))).await.unwrap();
    assert_eq!(catalogs(&mut resumed, b"n1").await, told[1..]);
    apply(&broker, with("# fourth\n")).await;
    let fourth = catalogs(&mut resumed, b"n2").await;
    assert!(matches!(fourth[..], [fourth] if fourth > told[1]), "{fourth:?}");
    broker.stop().await;
}
