//! Specimens for the fuzz targets of a gateway: items that cover a credential or do not, and payloads of which one counts.

use prost::Message;
use prost_types::Timestamp;
use protem_proto::wire::v1;
use protem_verify::claims::Claims;
use protem_verify::ids::GrantId;

use crate::fuzz::targets::gate;
use crate::fuzz::targets::gateway::specimen;
use crate::fuzz::{Seeds, texts};
use crate::gate::Question;

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

/// nginx's question about a call that the harness's credential allows.
pub const GOOD_FORWARD: &str = "/authz/orders-api\nx-original-method: GET\nx-original-uri: /v1/orders\nauthorization: Bearer $TOKEN";

/// Envoy's.
pub fn good_question() -> Vec<u8> {
    let headers = vec![("authorization", b"Bearer $TOKEN".to_vec())];
    Question { headers, ..Question::new("GET", "/v1/orders?x=1", "") }.message().encode_to_vec()
}

/// Or no input would get as far as a decision about its path.
#[test]
fn a_signed_credential_of_the_harness_is_let_through() {
    assert!(gate::asks(&good_question()));
    assert!(gate::forwards(GOOD_FORWARD.as_bytes()));
    assert!(!gate::forwards(GOOD_FORWARD.replace("/v1/orders", "/v1/x/../orders").as_bytes()));
}

/// What gates read: settings, and proxies' questions.
pub fn proxies_words() -> Seeds {
    let sample = include_str!("../../examples/gate.toml");
    let asked = "/authz/orders-api?x=1\nx-original-method: GET\nx-original-uri: /v1/orders\nauthorization: Bearer a.b.c";
    let forged =
        format!("{asked}\nx_protem_grant: gr_1\nconnection: x-protem-grant\nx-forwarded-uri: /");
    let headers = vec![("authorization", b"Bearer a.b.c".to_vec()), ("cookie", vec![0xff])];
    let envoy = Question { headers, ..Question::new("GET", "/v1/orders?x=1", "") }.message();
    let mut merged = envoy.clone();
    let http = merged.attributes.as_mut().and_then(|all| all.request.as_mut()?.http.as_mut());
    let http = http.unwrap();
    http.header_map = None;
    // One alone: a map of several is written in an order that differs from run to run.
    http.headers.insert("authorization".to_owned(), b"Bearer a.b.c".to_vec());
    vec![
        ("gate_settings", texts(&[sample, "name = \"edge\"\nlisten = \"unix:\"", "[[broker]]"])),
        (
            "gate_question",
            vec![
                envoy.encode_to_vec(),
                merged.encode_to_vec(),
                Vec::new(),
                vec![0xff; 16],
                good_question(),
            ],
        ),
        (
            "gate_forward",
            texts(&[asked, &forged, "/authz/", "*", "/authz/a/../b\n: x\nA:\u{7f}", GOOD_FORWARD]),
        ),
    ]
}
