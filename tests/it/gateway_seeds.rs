//! Specimens for the fuzz targets of a gateway: items that cover a credential or do not, and payloads of which one counts.

use prost::Message;
use prost_types::Timestamp;
use protem_proto::wire::v1;
use protem_verify::claims::Claims;
use protem_verify::ids::GrantId;

use crate::fuzz::targets::gateway::specimen;

/// Items of a signed snapshot: one for each axis that covers a credential, and some that do not.
pub fn revocations() -> Vec<Vec<u8>> {
    use v1::revocation::Target;
    let after = Some(Timestamp { seconds: 1_800_000_060, nanos: 0 });
    let item =
        |target| v1::Revocation { seq: 60, target, forget_after: after, ..Default::default() };
    let targets = [
        Some(Target::Grant(vec![5; 16])),
        Some(Target::Grant(vec![5; 15])),
        Some(Target::Identity("payments/agent".into())),
        Some(Target::Task("payments/agent#nightly-1".into())),
        Some(Target::Resource("orders-api".into())),
        Some(Target::Scope("orders-api#orders:read".into())),
        Some(Target::KeyId("k".into())),
        Some(Target::Everything(true)),
        None,
    ];
    let alone = targets.into_iter().map(|target| vec![item(target)]);
    let others = [Target::Grant(vec![7; 16]), Target::Identity("shop/checkout".into())];
    let others = others.map(|target| item(Some(target))).to_vec();
    let batches = alone.chain([others, Vec::new()]);
    batches.map(|items| v1::RevocationBatch { items, cursor: None }.encode_to_vec()).collect()
}

/// Payloads of credentials, of which one counts.
pub fn verdicts() -> Vec<Vec<u8>> {
    let good = specimen().encode();
    let not = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let ended = specimen();
    let ended = Claims { grant: GrantId([6; 16]), ..ended };
    let all = [
        good.clone(),
        ended.encode(),
        not("https://orders.example", "https://crm.example"),
        not("https://broker.example", "https://other.example"),
        not("1800000060", "1799999999"),
        not("orders:read", "orders:refund"),
    ];
    all.map(String::into_bytes).to_vec()
}
