//! Wycheproof's vectors through the verifier of callers' tokens, for every algorithm that is accepted.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::serve::jwt::Keys;

#[track_caller]
fn check(text: &str, good_at_least: u32) {
    let vectors: Value = serde_json::from_str(text).unwrap();
    let (mut good, mut seen) = (0_u32, 0_u64);
    for group in vectors["groups"].as_array().unwrap() {
        let set = json!({ "keys": [group["jwk"]] }).to_string();
        let keys = Keys::parse(set.as_bytes());
        for test in group["tests"].as_array().unwrap() {
            let hex = |at: usize| HEXLOWER.decode(test[at].as_str().unwrap().as_bytes()).unwrap();
            let counts = keys.as_ref().is_ok_and(|keys| keys.first_verifies(&hex(2), &hex(3)));
            match test[4].as_str().unwrap() {
                // Keys with so small an exponent count for nothing here, as in every issuer's own advice.
                "valid" if group["jwk"]["e"] == "Aw" => assert!(!counts, "{test}"),
                "valid" => assert!(counts, "{test}"),
                "invalid" => assert!(!counts, "{test}"),
                // Signatures of old libraries: neither is wrong.
                _ => {}
            }
            good += u32::from(counts);
            seen += 1;
        }
    }
    assert_eq!(Some(seen), vectors["tests"].as_u64());
    assert!(good >= good_at_least, "{good}");
}

#[test]
fn attack_wycheproof_of_foreign_tokens() {
    check(include_str!("../../tests/vectors/wycheproof/ed25519.json"), 80);
    check(include_str!("../../tests/vectors/wycheproof/es256.json"), 100);
    check(include_str!("../../tests/vectors/wycheproof/rs256.json"), 5);
    check(include_str!("../../tests/vectors/wycheproof/ps256.json"), 20);
}
