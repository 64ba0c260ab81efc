//! Wycheproof's vectors through the verifier of our own credentials: every good signature counts, and no other.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use protem_verify::keys::Keys;
use serde_json::Value;

/// Row 10: malleable, truncated and padded signatures, points of small order, keys off the curve.
#[test]
fn attack_wycheproof_ed25519() {
    let text = include_str!("../vectors/wycheproof/ed25519.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let (mut good, mut bad) = (0_u32, 0_u32);
    for group in vectors["groups"].as_array().unwrap() {
        let x = BASE64URL_NOPAD.decode(group["jwk"]["x"].as_str().unwrap().as_bytes()).unwrap();
        let keys = <[u8; 32]>::try_from(x).ok().and_then(|x| Keys::of(&[x]).ok());
        for test in group["tests"].as_array().unwrap() {
            let hex = |at: usize| HEXLOWER.decode(test[at].as_str().unwrap().as_bytes()).unwrap();
            let counts = match (&keys, <[u8; 64]>::try_from(hex(3))) {
                (Some(keys), Ok(signature)) => keys.verify_any(&hex(2), &signature),
                _ => false,
            };
            let expect = test[4] == "valid";
            assert_eq!(counts, expect, "{test}");
            *(if expect { &mut good } else { &mut bad }) += 1;
        }
    }
    assert_eq!(u64::from(good + bad), vectors["tests"].as_u64().unwrap());
    assert!(good >= 80 && bad >= 60, "{good} {bad}");
}
