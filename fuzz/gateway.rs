//! A gateway that an honest broker proved fresh, before bytes that others wrote: what is revoked, and what a credential says.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use prost::Message;
use protem_clock::clock::ManualClock;
use protem_gate::apply::{Follower, checkpoint_message};
use protem_gate::decision::Judge;
use protem_gate::secrets::Secrets;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Told;
use protem_verify::checkpoint::Checkpoint;
use protem_verify::claims::Claims;
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::jws::{ACCESS_TOKEN, encode};
use protem_verify::keys::{jwks, thumbprint};
use protem_verify::known::Moment;
use protem_verify::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
use protem_verify::time::{Staleness, Time};
use protem_verify::verifier::{Call, Verdict, Verifier};
use protem_verify::view::View;

/// The broker's time.
const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://broker.example";
const SERVED: &str = r#"{"resources":{"orders-api":{"audience":"https://orders.example","scopes":{
    "orders:read":{"risk":"low","operations":["GET /v1/orders"]}}}}}"#;
/// Ended before anything else is said.
const ENDED: GrantId = GrantId([6; 16]);

fn key_of(kind: u8) -> SigningKey {
    SigningKey::from_bytes(&[kind; 32])
}

/// What an honest broker signed for orders, until a minute from now.
pub fn specimen() -> Claims {
    Claims {
        issuer: ISSUER.into(),
        subject: "spiffe://shop.example/agent".try_into().expect("a subject"),
        identity: "payments/agent".try_into().expect("a name"),
        grant: GrantId([5; 16]),
        number: 0,
        issued: Time::from_secs(NOW - 10),
        not_before: Time::from_secs(NOW - 10),
        expires: Time::from_secs(NOW + 60),
        scopes: vec!["orders:read".try_into().expect("a scope")],
        audience: "https://orders.example".into(),
        proof: None,
        seq: Seq(50),
        until: Time::from_secs(NOW + 600),
        task: "nightly-1".try_into().expect("a task"),
        epoch: Epoch(2),
        fresh: Staleness(Duration::from_secs(5)),
        status: None,
        template: Vec::new(),
    }
}

/// A gateway that was told this in its snapshot, and has a fresh proof; none when it takes no such snapshot.
fn told(items: Vec<v1::Revocation>) -> Option<(Verifier, Moment)> {
    let set = |kind| jwks(&[key_of(kind).verifying_key().to_bytes()]);
    let now = Moment { boot: Duration::from_secs(9), unix: Duration::from_secs(NOW) };
    let (entries, journal) = (u64::try_from(items.len()).ok()?, JournalId([1; 16]));
    let mut follower = Follower::new(View::new(ISSUER, None));
    let checkpoint = Checkpoint {
        journal,
        epoch: Epoch(2),
        seq: Seq(100),
        at: Time::from_secs(NOW),
        root: Hash([3; 32]),
    };
    let proof = v1::Checkpoint {
        last_sent: 99,
        keys_seq: 1,
        catalog_seq: 2,
        nonce: vec![1],
        ..checkpoint_message(&checkpoint.sign(&key_of(2)))
    };
    let opened = v1::Opened {
        journal: journal.0.to_vec(),
        epoch: 2,
        issuer: ISSUER.into(),
        max_staleness: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..v1::Opened::default()
    };
    let keys = v1::Keys { jwks: set(1), checkpoint_jwks: set(2), seq: 1 };
    let end = v1::SnapshotEnd { at_seq: 100, entries, cursor: None, last_sent: 99 };
    follower.pinged(vec![1], now);
    for message in [
        Told::Opened(opened),
        Told::Keys(keys),
        Told::Catalog(v1::Catalog { json: SERVED.into(), seq: 2, ..v1::Catalog::default() }),
        Told::SnapshotBegin(v1::SnapshotBegin { at_seq: 100, entries }),
        Told::Batch(v1::RevocationBatch { items, cursor: None }),
        Told::SnapshotEnd(end),
        Told::Checkpoint(proof),
    ] {
        follower.message(v1::SubscribeResponse { message: Some(message) }, now).ok()?;
    }
    Some((Verifier::new(follower.view.reader()), now))
}

/// A gate that was told of nothing that ended, by a clock that stands still.
pub fn judge() -> Judge {
    static VIEW: LazyLock<Verifier> =
        LazyLock::new(|| told(Vec::new()).expect("an honest snapshot").0);
    let clock = ManualClock::new(Duration::from_secs(NOW - 9));
    clock.advance(Duration::from_secs(9));
    Judge::new(vec![VIEW.clone()], Arc::new(clock), Secrets::default())
}

/// The specimen, signed.
pub fn token() -> String {
    signed(&specimen().encode())
}

fn signed(payload: &str) -> String {
    let key = key_of(1);
    let kid = thumbprint(&key.verifying_key().to_bytes());
    encode(ACCESS_TOKEN, &kid, payload, |bytes| key.sign(bytes).to_bytes())
}

fn asked(gateway: &(Verifier, Moment), payload: &str) -> Verdict {
    let token = signed(payload);
    let resource = ResourceName::try_from("orders-api").expect("a name");
    let call = Call { resource: &resource, method: "GET", path: "/v1/orders" };
    gateway.0.check(&token, &call, gateway.1)
}

/// Whether an item, as the contract has it, voids the specimen; what cannot be read is `everything`.
fn voids(item: &v1::Revocation) -> bool {
    use v1::revocation::Target;
    let Claims { seq, grant, .. } = specimen();
    let joined = |text: &str, one: fn(&str) -> bool, two: fn(&str) -> bool| {
        text.split_once('#').is_some_and(|(first, second)| one(first) && two(second))
    };
    let name: fn(&str) -> bool = |text| IdentityName::try_from(text).is_ok();
    let task: fn(&str) -> bool = |text| TaskId::try_from(text).is_ok();
    let scope: fn(&str) -> bool = |text| ScopeName::try_from(text).is_ok();
    let before = seq.0 <= item.seq;
    match &item.target {
        Some(Target::Grant(id)) if id.len() == 16 => *id == grant.0,
        Some(Target::Identity(id)) if name(id) => before && id == "payments/agent",
        Some(Target::Task(id)) if joined(id, name, task) => {
            before && id == "payments/agent#nightly-1"
        }
        Some(Target::Resource(id)) if name(id) => before && id == "orders-api",
        Some(Target::Scope(id)) if joined(id, name, scope) => {
            before && id == "orders-api#orders:read"
        }
        Some(Target::KeyId(id)) if KeyId::try_from(id.as_str()).is_ok() => {
            *id == thumbprint(&key_of(1).verifying_key().to_bytes()).to_string()
        }
        Some(_) | None => before,
    }
}

/// The items of a snapshot that a broker signed for: each is enforced, and nothing else is.
pub fn revocations(data: &[u8]) {
    let Ok(v1::RevocationBatch { items, .. }) = v1::RevocationBatch::decode(data) else { return };
    let kept = |item: &v1::Revocation| {
        let after = item.forget_after.as_ref();
        after.is_none_or(|after| u64::try_from(after.seconds).is_ok_and(|at| at >= NOW))
    };
    let must = items.iter().any(|item| voids(item) && kept(item));
    let may = items.iter().any(voids);
    let gateway = told(items).expect("an honest snapshot");
    let refused = matches!(asked(&gateway, &specimen().encode()), Verdict::Deny(_));
    assert!(refused || !must, "what is revoked is let through");
    assert!(may || !refused, "what is not revoked is refused");
}

/// The payload of a credential that is signed well, at a gateway that knows of one ended grant.
pub fn verdict(data: &[u8]) {
    static GATEWAY: LazyLock<(Verifier, Moment)> = LazyLock::new(|| {
        let target = Some(v1::revocation::Target::Grant(ENDED.0.to_vec()));
        let item = v1::Revocation { seq: 99, target, ..v1::Revocation::default() };
        told(vec![item]).expect("a snapshot")
    });
    let Verdict::Allow(allowed) = asked(&GATEWAY, std::str::from_utf8(data).unwrap_or_default())
    else {
        return;
    };
    let claims = Claims::decode(data).expect("what cannot be read is not let through");
    assert_eq!(allowed.claims, claims);
    let honest = specimen();
    assert_eq!((&claims.issuer, &claims.audience), (&honest.issuer, &honest.audience));
    assert_eq!((claims.epoch, claims.proof), (honest.epoch, None));
    assert!(claims.expires > Time::from_secs(NOW) && claims.grant != ENDED);
    assert!(claims.scopes.contains(&allowed.scope) && honest.scopes.contains(&allowed.scope));
}
