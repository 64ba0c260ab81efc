//! Every parser of foreign bytes, over the kept corpus and some thousands of its mutations; the same entries as `fuzz/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::{Duration, Timestamp};
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_response::Message as Told;

#[path = "../../fuzz/targets.rs"]
pub mod targets;

use targets::TARGETS;

use crate::gateway_seeds;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// Good and bad specimens, by target; what a fuzzer finds is added to the folder as a file of its own.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    own_words().into_iter().chain(foreign_words()).chain(gateway_seeds::proxies_words()).collect()
}

pub type Seeds = Vec<(&'static str, Vec<Vec<u8>>)>;

pub fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What gateways read: credentials, keys, names, paths.
fn own_words() -> Seeds {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokens.json");
    let tokens: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let mut credentials: Vec<Vec<u8>> = Vec::new();
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    gather(&tokens, &mut credentials);
    credentials.truncate(24);
    for token in &credentials {
        let payload = token.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
        if let Ok(payload) = data_encoding::BASE64URL_NOPAD.decode(payload) {
            payloads.push(payload);
        }
    }
    let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    vec![
        ("credential", [credentials, texts(&["", "..", "....", "a.b.c"])].concat()),
        ("claims", [payloads, texts(&["{}", "[]", "{\"exp\":1e9}"])].concat()),
        ("own_keys", texts(&[JWKS, OWN_KEYS, MANY_KEYS, "{\"keys\":[]}"])),
        ("catalog", texts(&[CATALOG, "{\"resources\":{}}", "{\"resources\":[]}"])),
        (
            "json",
            texts(&[
                "{\"a\":[1,{\"b\":\"\\u00e4\\ud83d\\ude00\"}]}",
                "{\"a\":1,\"a\":2}",
                &deep,
                "{\"a\":1e400}",
                "\u{feff}{}",
            ]),
        ),
        (
            "names",
            texts(&[
                "payments/agent",
                "orders:read",
                "a.b_c-d/e",
                "A",
                "ä",
                "a#b",
                "gr_00000000000000000000000000",
                "0190f3a2-7b1c-7def-8123-456789abcdef",
                "1h 30m",
                "18446744073709551615y",
                "a\u{202e}b",
            ]),
        ),
        (
            "paths",
            texts(&[
                "/v1/orders?x=1",
                "/v1//orders",
                "/v1/%2e%2e/x",
                "/a;b",
                "GET /v1/orders/{id}",
                "GET  /",
                "/a/../b",
                "/a\\b",
            ]),
        ),
    ]
}

/// What brokers and their people read: callers' tokens, requests, bundles, settings, files.
fn foreign_words() -> Seeds {
    let mut bundles: Vec<Vec<u8>> = Vec::new();
    let policies = protem::policy::bundle::read_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"),
    )
    .unwrap();
    for (at, (_, text)) in policies.iter().enumerate() {
        bundles.push([&[u8::try_from(at).unwrap()], &text[..]].concat());
    }
    vec![
        ("feed", feed()),
        ("revocations", gateway_seeds::revocations()),
        ("verdict", gateway_seeds::verdicts()),
        ("caller_token", texts(&[JWT, "..", "a.b", &".".repeat(9_000)])),
        ("caller_claims", texts(&[CLAIMS, SPIFFE, "{}", "{\"iss\":1}"])),
        ("issuer_keys", texts(&[JWKS, MANY_KEYS, OWN_KEYS, "{\"keys\":{}}"])),
        ("discovery", texts(&[DISCOVERY, PLAIN_HTTP, "[]", "<html>"])),
        ("svid_leaf", certificates()),
        ("trust_bundle", trust_bundles()),
        ("agent", agents()),
        ("requests", requests()),
        (
            "selectors",
            texts(&[
                "payments/agent#nightly-1",
                "#",
                "a#",
                "a#b#c",
                "orders:read orders:write",
                &"0".repeat(64),
            ]),
        ),
        ("cursor", texts(&["CgIBAhABGAkiAwECAw", "#", "gr_00000000000000000000000000", ""])),
        ("bundle", bundles),
        ("settings", texts(&[SETTINGS, "[broker]\nlisten = 1", "a = "])),
        ("audit_export", texts(&[EXPORT, "{}", "[]"])),
        ("key_file", texts(&["", "aa", &"0".repeat(64), &"f".repeat(65)])),
        ("gateway_state", texts(&[&state(), "what?", "a b c d e f"])),
        ("sign_in", texts(&[PROVIDER, IN_THE_CLEAR, ID_TOKEN, "{\"exp\":1,\"iat\":2}", "{}"])),
        (
            "fetch_target",
            texts(&[
                "https://idp.example/jwks?a=b",
                "http://[::1]:7420/ http://127.0.0.1:7420/",
                "https://a@b.example/",
                "HTTPS://IDP.example:443",
                "https://idp.example:99999/",
            ]),
        ),
    ]
}

const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const MANY_KEYS: &str = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"oct","k":"AA"}]}"#;
const OWN_KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const CATALOG: &str = r#"{"resources":{"orders-api":{"audience":"https://orders.example","scopes":{"orders:read":["GET /v1/orders","GET /v1/orders/{id}"]}}}}"#;
const JWT: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIn0.AAAA";
const CLAIMS: &str = r#"{"iss":"https://idp.example","sub":"a","aud":["x","protem"],"iat":1799999990,"nbf":1799999990,"exp":1800000100,"groups":["a"],"n":{"m":[1,2.5,null,true]}}"#;
const SPIFFE: &str = r#"{"sub":"spiffe://shop.example/ns/a/sa/b","aud":"protem","exp":1800000100}"#;
const DISCOVERY: &str =
    r#"{"issuer":"https://idp.example","jwks_uri":"https://idp.example/jwks","x":[1]}"#;
const PLAIN_HTTP: &str =
    r#"{"issuer":"https://idp.example","jwks_uri":"http://169.254.169.254/latest"}"#;
const PROVIDER: &str = r#"{"issuer":"https://idp.example","authorization_endpoint":"https://idp.example/auth?x=1","token_endpoint":"https://idp.example/token","revocation_endpoint":null,"scopes_supported":["openid","groups"],"code_challenge_methods_supported":["S256"],"claims_parameter_supported":true}"#;
const IN_THE_CLEAR: &str = r#"{"issuer":"https://idp.example","authorization_endpoint":"https://idp.example/auth","token_endpoint":"http://idp.example/token"}"#;
const ID_TOKEN: &str = r#"{"iss":"https://idp.example","sub":"a","aud":["protem","x"],"azp":"protem","nonce":"n","iat":1799999990,"exp":1800000100}"#;
const EXPORT: &str = r#"{"format":"protem-audit-1","grant":"gr_00000000000000000000000000","issuer":"https://b.example","checkpoint_jwks":"{\"keys\":[]}","entries":[{"seq":1,"kind":"grant.ended","body":"AAAA","said":{},"inclusion":["AAAA"],"checkpoint":{"journal":"00","epoch":1,"seq":1,"at_ms":1,"root":"00","signature":"00"}}]}"#;

const SETTINGS: &str = "[broker]\nlisten = \"127.0.0.1:7420\"\n[keys]\nrotate_every = \"24h\"\n[client]\noutput = \"json\"\n[fetch]\nallow_private = [\"10.0.0.0/8\"]\n";

/// A root and a workload's certificate, made once by OpenSSL.
const ROOT: &str = "MIIBhjCCASygAwIBAgIURjNfllLalz/RSeFmfF3e2kbrs4IwCgYIKoZIzj0EAwIwEDEOMAwGA1UECgwFU1BJUkUwHhcNMjYxMTIyMTc0MDQ5WhcNNDYwMTIxMTc0MDQ5WjAQMQ4wDAYDVQQKDAVTUElSRTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOSzI86qF+FV9M9v4Y6wpm6GWKBzG1GrSRTTveFzywhwD/gmbK8I62HCgNicxm8R3X0aul7LA/eNDreBgwh+7fejZDBiMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMCAGA1UdEQQZMBeGFXNwaWZmZTovL3Nob3AuZXhhbXBsZTAdBgNVHQ4EFgQUTI0v9vwPGZlJA4nIAw088FYBKhAwCgYIKoZIzj0EAwIDSAAwRQIhALqQDs3lkHFusLRru2RVLDIPtF/kHbjLWGxNUT1EMugCAiAHGvH0aT5r5mEXtngPlG1iuOTDrtlX09pM2nw1QlkRXw==";
const LEAF: &str = "MIIB5TCCAYugAwIBAgIUDN1IubP+lWHjkQZ8AcKoTxwFyCYwCgYIKoZIzj0EAwIwEDEOMAwGA1UECgwFU1BJUkUwHhcNMjYxMTIyMTc0MDQ5WhcNNDYwMTIxMTc0MDQ5WjAQMQ4wDAYDVQQKDAVTUElSRTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOxYpd+Lr3qV4s/r7OarVSW0j9njBKg+K2KvdJ1rYjoRMoy450PqLKxcgrBczVgnWxOrKJkZrWgqnZ1rciZrBx2jgcIwgb8wDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMCMEAGA1UdEQQ5MDeGKnNwaWZmZTovL3Nob3AuZXhhbXBsZS9ucy9wYXltZW50cy9zYS9hZ2VudIIJYS5leGFtcGxlMB0GA1UdDgQWBBQytc0OocS+Sxp83EXj7hdTAyOLlTAfBgNVHSMEGDAWgBRMjS/2/A8ZmUkDicgDDTzwVgEqEDAKBggqhkjOPQQDAgNIADBFAiAwyw4lMbwHYKYxeLzXYkR4ovrQDm147Q9jCZxWhJ3gMQIhALzh/E2ljx1AOwU+SBaWpzLWiVHLgLg7yA8qduiGy2MX";

fn certificates() -> Vec<Vec<u8>> {
    let of = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    let (root, leaf) = (of(ROOT), of(LEAF));
    let behind = [&leaf[..], &[0]].concat();
    vec![leaf, root, behind, Vec::new(), vec![0x30, 0x80]]
}

fn agents() -> Vec<Vec<u8>> {
    let der = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    let (root, leaf) = (der(ROOT), der(LEAF));
    let two = [&*leaf, &*root].concat();
    let socket = |text: &str| text.as_bytes().to_vec();
    vec![root, leaf, two, socket("unix:///run/agent.sock"), socket("tcp://127.0.0.1:8081")]
}

fn trust_bundles() -> Vec<Vec<u8>> {
    let root = |x5c: &str| format!("{{\"use\":\"x509-svid\",\"kty\":\"EC\",\"x5c\":[{x5c}]}}");
    let key = r#"{"use":"jwt-svid","kty":"EC","kid":"a","crv":"P-256","x":"AA","y":"AA"}"#;
    let keys = |keys: &str| format!("{{\"keys\":[{keys}],\"spiffe_sequence\":1}}");
    let pem =
        |der: &str| format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
    let (good, leaf) = (root(&format!("\"{ROOT}\"")), root(&format!("\"{LEAF}\"")));
    texts(&[
        &keys(&good),
        &keys(&format!("{good},{key}")),
        &keys(&leaf),
        &keys(&root("\"AAAA\",\"AAAA\"")),
        &keys(""),
        &pem(ROOT),
        &format!("{}{}", pem(ROOT), pem(LEAF)),
        "",
    ])
}

fn state() -> String {
    format!(
        "{} 1800000000000 3 1800000000001 {} {}\n",
        "01".repeat(16),
        "05".repeat(32),
        "06".repeat(64)
    )
}

/// All texts of a document that look like tokens.
fn gather(value: &serde_json::Value, into: &mut Vec<Vec<u8>>) {
    match value {
        serde_json::Value::String(text)
            if text.split('.').count() == 3 && text.starts_with("ey") =>
        {
            into.push(text.clone().into_bytes());
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, into)),
        serde_json::Value::Object(items) => items.values().for_each(|item| gather(item, into)),
        _ => {}
    }
}

/// Streams of length-delimited messages.
fn feed() -> Vec<Vec<u8>> {
    let cursor = v1::Cursor { journal: vec![1; 16], epoch: 2, seq: 3, filter: vec![4] };
    let span = Duration { seconds: 5, nanos: 0 };
    let opened = Told::Opened(v1::Opened {
        issuer: "https://broker.example".into(),
        journal: vec![1; 16],
        epoch: 2,
        head: 3,
        max_staleness: Some(span),
        ping_every: Some(span),
        ..Default::default()
    });
    let item = |target| v1::Revocation { seq: 4, prev_seq: 0, target, ..Default::default() };
    use v1::revocation::Target;
    let targets = [
        Some(Target::Grant(vec![1; 16])),
        Some(Target::Identity("payments/agent".into())),
        Some(Target::Task("payments/agent#nightly".into())),
        Some(Target::Scope("orders-api#orders:read".into())),
        Some(Target::KeyId("k".into())),
        None,
    ];
    let items: Vec<_> = targets.into_iter().map(item).collect();
    let batch = Told::Batch(v1::RevocationBatch { items, cursor: Some(cursor.clone()) });
    let begin = Told::SnapshotBegin(v1::SnapshotBegin { at_seq: 3, entries: 6 });
    let end = Told::SnapshotEnd(v1::SnapshotEnd {
        at_seq: 3,
        entries: 6,
        cursor: Some(cursor),
        ..Default::default()
    });
    let proof = Told::Checkpoint(v1::Checkpoint { nonce: vec![1], seq: 3, ..Default::default() });
    let away = Told::GoAway(v1::GoAway {
        reconnect_after: Some(Duration { seconds: i64::MAX, nanos: -1 }),
        reason: "x".into(),
    });
    let stream = |told: &[&Told]| {
        let message = |told: &&Told| v1::SubscribeResponse { message: Some((*told).clone()) };
        told.iter().flat_map(|told| message(told).encode_length_delimited_to_vec()).collect()
    };
    vec![
        stream(&[&opened, &begin, &batch, &end, &proof]),
        stream(&[&batch, &proof]),
        stream(&[&opened, &away]),
        v1::SubscribeResponse::default().encode_length_delimited_to_vec(),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let good = v1::RequestAccessRequest {
        task: Some(v1::Task {
            id: "t".into(),
            kind: "agent".into(),
            url: "https://ci.example/1".into(),
        }),
        resource: "orders-api".into(),
        scopes: vec!["orders:read".into()],
        purpose: "a test".into(),
        request_id: "0190f3a2-7b1c-7def-8123-456789abcdef".into(),
        lifetime: Some(Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    };
    let lifetime = Some(Duration { seconds: i64::MIN, nanos: i32::MAX });
    let since = Some(Timestamp { seconds: i64::MAX, nanos: i32::MIN });
    vec![
        good.encode_to_vec(),
        v1::RequestAccessRequest { lifetime, ..good.clone() }.encode_to_vec(),
        v1::RequestAccessRequest { scopes: Vec::new(), ..good }.encode_to_vec(),
        v1::HoldTaskRequest { task_id: "t".into(), lease: lifetime }.encode_to_vec(),
        v1::ListGrantsRequest {
            since,
            page_size: u32::MAX,
            page_token: "x".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        v1::RevokeRequest { selector: None, note: "n".into(), wait: lifetime }.encode_to_vec(),
        Vec::new(),
    ]
}

/// The kept corpus has every specimen of above; `PROTEM_GEN=1` writes those that are missing.
#[test]
fn generated_corpus_is_complete() {
    let seeds = seeds();
    assert!(
        seeds
            .keys()
            .copied()
            .eq(TARGETS.iter().map(|(name, _)| *name).collect::<std::collections::BTreeSet<_>>())
    );
    for (target, specimens) in seeds {
        let folder = corpus().join(target);
        for (at, bytes) in specimens.iter().enumerate() {
            let file = folder.join(format!("seed-{at:02}"));
            if std::env::var_os("PROTEM_GEN").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&file, bytes).unwrap();
            }
            let kept = fs::read(&file).unwrap_or_default();
            // Those are made of files that live: what they once were is as good a seed as what they are.
            let lives = ["bundle", "credential", "claims"].contains(&target);
            let current = file.exists() && (lives || kept == *bytes);
            assert!(current, "{}: run `just gen`", file.display());
        }
    }
}

/// The fuzzer has a binary for each target.
#[test]
fn the_fuzzer_knows_every_target() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// Mutations of one target: all are cheap but a bundle's check and what touches files.
fn mutations(target: &str) -> u32 {
    match target {
        "bundle" => 20,
        "key_file" | "gateway_state" | "trust_bundle" => 300,
        "caller_claims" => 1_500,
        // Each begins a gateway of its own, with its signatures.
        "revocations" => 1_000,
        _ => 4_000,
    }
}

#[test]
fn no_parser_panics_over_its_corpus_and_what_is_near_it() {
    let folders = TARGETS.iter().map(|(name, target)| {
        let run = move || {
            let began = std::time::Instant::now();
            let mut kept: Vec<Vec<u8>> = Vec::new();
            let mut files: Vec<PathBuf> = fs::read_dir(corpus().join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            for file in files {
                let bytes = fs::read(&file).unwrap();
                told(name, *target, &bytes);
                kept.push(bytes);
            }
            assert!(!kept.is_empty(), "{name} has no corpus");
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ name.bytes().map(u64::from).sum::<u64>());
            for _ in 0..mutations(name) {
                let bytes = dice.mutated(&kept);
                told(name, *target, &bytes);
            }
            println!("{name}: {:?}", began.elapsed());
        };
        (*name, std::thread::spawn(run))
    });
    let folders: Vec<_> = folders.collect();
    let failed: Vec<&str> = folders
        .into_iter()
        .filter_map(|(name, thread)| thread.join().is_err().then_some(name))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Runs a target, and shows the bytes that it panicked over, to be kept as a file of the corpus.
fn told(name: &str, target: fn(&[u8]), bytes: &[u8]) {
    let ended = std::panic::catch_unwind(|| target(bytes));
    if let Err(why) = ended {
        eprintln!("{name} panicked over {:?}", String::from_utf8_lossy(bytes));
        eprintln!("in hex: {}", data_encoding::HEXLOWER.encode(bytes));
        std::panic::resume_unwind(why);
    }
}

/// A fixed sequence of mutations (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % below.max(1)
    }

    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.roll(corpus.len())].clone();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            let end = (at + self.roll(16)).min(bytes.len());
            match self.roll(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.roll(256)).unwrap(),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let twice = bytes[at..end].to_vec();
                    bytes.splice(at..at, twice);
                }
                4 => {
                    let word = WORDS[self.roll(WORDS.len())];
                    bytes.splice(at..end, word.iter().copied());
                }
                5 => bytes.truncate(at),
                _ => {
                    let other = &corpus[self.roll(corpus.len())];
                    let from = self.roll(other.len() + 1);
                    let to = (from + self.roll(64)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
            }
        }
        bytes
    }
}

/// What parsers stumble over.
const WORDS: [&[u8]; 24] = [
    b"",
    b"{",
    b"}",
    b"[",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775807",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"\0",
    b"..",
    b"//",
    b"%00",
    b"[[[[[[[[[[[[[[[[",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\n",
];
