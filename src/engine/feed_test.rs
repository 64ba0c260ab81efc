//! The feed beside a bundle that changes: what is told once, in order, and to whom.

use std::path::Path;
use std::sync::Arc;

use protem_core::event::Actor;
use protem_proto::encoded::Encoded;
use protem_proto::wire::v1::subscribe_response::Message as Wire;
use protem_verify::ids::Seq;
use protem_verify::names::IdentityName;

use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, PATIENCE, cursor, decode, follow, next, up_to};
use crate::engine::feed::OBSERVED_RINGS_MAX;
use crate::engine::filter::Filter;
use crate::engine::ring::RING_BYTES_MAX;
use crate::engine::subscribe::Subscribe;
use crate::engine::subscription::Subscription;
use crate::policy::bundle::{Bundle, Files, Load, read_folder};
use crate::policy::feed::To;

fn policies() -> Files {
    read_folder(Path::new("policies")).unwrap()
}

/// The repository's bundle with another catalog.
fn edited(edit: impl Fn(String) -> String) -> Files {
    let changed = |name: &str, text: &[u8]| match name {
        "catalog.toml" => edit(String::from_utf8(text.to_vec()).unwrap()).into_bytes().into(),
        _ => text.into(),
    };
    policies().iter().map(|(name, text)| (name.clone(), changed(name, text))).collect()
}

/// The same bundle in all but its digest.
fn with(more: &str) -> Files {
    edited(|text| text + more)
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

/// The next catalog, as the bytes that are sent.
async fn catalog(feed: &mut Subscription) -> Encoded {
    loop {
        let next = tokio::time::timeout(PATIENCE, feed.next()).await.unwrap().unwrap();
        #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks at the kinds it is about")]
        match decode(&next) {
            Wire::Catalog(_) => return next,
            Wire::Reset(reset) => panic!("{reset:?}"),
            _ => {}
        }
    }
}

/// However many follow: a large catalog is not made anew for each of them, and takes no place in their rings.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_catalog_is_made_once_for_all_who_follow_it() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let filters = [false, true].map(|expiries| Filter { expiries, ..follow(None).filter });
    let mut feeds = Vec::new();
    for filter in filters {
        let open = Subscribe { filter, enforcing: false, ..follow(None) };
        let mut feed = broker.subscribe(open).await.unwrap();
        let first = catalog(&mut feed).await;
        up_to(&mut feed, b"").await;
        feeds.push((feed, first));
    }
    assert_eq!(feeds[0].1.0.as_ptr(), feeds[1].1.0.as_ptr());
    let long = format!("https://{}.example", "x".repeat(RING_BYTES_MAX));
    apply(&broker, edited(|text| text.replace("https://orders.example", &long))).await;
    let mut parts = Vec::new();
    for (feed, _) in &mut feeds {
        parts.push(catalog(feed).await);
    }
    assert!(parts[0].0.len() > RING_BYTES_MAX);
    assert_eq!(parts[0].0.as_ptr(), parts[1].0.as_ptr());
    broker.stop().await;
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
    let mut told = Vec::new();
    for (more, nonce) in [("# second\n", b"n1"), ("# third\n", b"n2")] {
        apply(&broker, with(more)).await;
        told.extend(catalogs(&mut stays, nonce).await);
    }
    assert!(matches!(told[..], [second, third] if second < third), "{told:?}");
    let mut resumed = broker.subscribe(follow(Some(left))).await.unwrap();
    assert_eq!(catalogs(&mut resumed, b"n1").await, told[1..]);
    apply(&broker, with("# fourth\n")).await;
    let fourth = catalogs(&mut resumed, b"n2").await;
    assert!(matches!(fourth[..], [fourth] if fourth > told[1]), "{fourth:?}");
    broker.stop().await;
}

/// An observer of everything on a resource.
fn observe() -> Subscribe {
    let who = Actor("person:olga".into());
    Subscribe { who, gateway: None, enforcing: false, ..follow(None) }
}

/// Gateways wait for nobody's requests; observers wait like everybody, and for the gateways.
#[tokio::test(flavor = "multi_thread")]
async fn one_snapshot_is_made_at_a_time_and_an_observers_waits_with_the_others() {
    for (open, lanes) in [(follow(None), (1, 0)), (observe(), (1, 1))] {
        let home = Home::new();
        home.start().unwrap().stop().await;
        let (broker, loading) = home.open().unwrap();
        let (mut first, mut second) = (
            broker.subscribe(open).await.unwrap(),
            broker
                .subscribe(Subscribe { instance: "two".to_owned(), ..follow(None) })
                .await
                .unwrap(),
        );
        // Nothing is answered before the state is there.
        let first = tokio::spawn(async move { up_to(&mut first, b"").await });
        while broker.waiting() == (0, 0) {
            tokio::task::yield_now().await;
        }
        let other = Filter { expiries: true, ..follow(None).filter };
        let mut third = broker.subscribe(Subscribe { filter: other, ..observe() }).await.unwrap();
        let second = tokio::spawn(async move { up_to(&mut second, b"").await });
        let third = tokio::spawn(async move { up_to(&mut third, b"").await });
        let looks = async {
            let observes = || broker.0.builds.observers.available_permits() == 0;
            while broker.waiting() != lanes || !observes() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looks).await.expect("their looks wait, each in its lane");
        for _ in 0..1_000 {
            assert_eq!(broker.waiting(), lanes);
            tokio::task::yield_now().await;
        }
        home.store.withhold_snapshot(false);
        loading.wait().unwrap();
        for end in [first, second, third] {
            tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
        }
        broker.stop().await;
    }
}

/// Each ring costs every turn; those of observers leave gateways theirs.
#[tokio::test(flavor = "multi_thread")]
async fn observers_have_a_limited_number_of_rings_and_gateways_find_theirs() {
    let home = Home::new();
    let broker = home.start().unwrap();
    let filter = |number: usize| {
        let identity = IdentityName::try_from(format!("jobs/{number}").as_str()).unwrap();
        Filter { identity: Some(identity), ..follow(None).filter }
    };
    let feed = &broker.0.feed;
    let gateways = feed.cell(To::Gateway, &follow(None).filter).unwrap();
    let kept: Vec<_> = (0..OBSERVED_RINGS_MAX)
        .map(|number| feed.cell(To::Observer, &filter(number)).unwrap())
        .collect();
    assert!(feed.cell(To::Observer, &filter(OBSERVED_RINGS_MAX)).is_none());
    assert!(feed.cell(To::Gateway, &filter(OBSERVED_RINGS_MAX)).is_some());
    let one = feed.cell(To::Observer, &filter(1)).unwrap();
    assert!(Arc::ptr_eq(&one, &kept[1]));
    // A gateway's ring that nobody follows for a moment is not let go for an observer's.
    let place = Arc::downgrade(&gateways);
    drop((gateways, kept));
    assert!(feed.cell(To::Observer, &filter(OBSERVED_RINGS_MAX)).is_some());
    assert!(place.upgrade().is_some());
    assert!(broker.rings() < OBSERVED_RINGS_MAX);
    broker.stop().await;
}
