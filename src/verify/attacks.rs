//! Attacks on verifiers that happened elsewhere, each as a test that fails when its guard is removed.

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD as B64;
    use ed25519_dalek::{Signer, SigningKey};
    use sha2::{Digest, Sha256};

    use crate::bench::tests::{
        Bench, ISSUER, NOW, checkpoint_key, claims, forged, header, key, kid, moment, name,
        payload, token,
    };
    use crate::claims::Claims;
    use crate::fences::{Revocation, Target};
    use crate::ids::{Epoch, GrantId, Seq};
    use crate::jws::encode;
    use crate::keys::jwks;
    use crate::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
    use crate::time::Time;

    #[track_caller]
    fn refused(token: &str, code: &str) {
        let bench = Bench::fresh();
        assert_eq!(bench.says(&self::token(&claims())), "allow", "the honest token counts");
        assert_eq!(bench.says(token), code, "{token}");
    }

    #[test]
    fn attack_exp_nbf_wrong_type_or_missing() {
        for claim in ["exp", "nbf", "iat"] {
            let value = if claim == "exp" { NOW + 290 } else { NOW - 10 };
            let member = format!(r#""{claim}":{value},"#);
            refused(&forged(&member, ""), "PT-0402");
            for other in [
                format!(r#""{claim}":"{value}","#),
                format!(r#""{claim}":{value}.0,"#),
                format!(r#""{claim}":null,"#),
                format!(r#""{claim}":[{value}],"#),
                format!(r#""{claim}":1.8e9,"#),
                format!(r#""{claim}":true,"#),
            ] {
                refused(&forged(&member, &other), "PT-0402");
            }
        }
    }

    #[test]
    fn attack_alg_confusion_none_and_hmac() {
        let kid = kid(&key());
        for alg in ["none", "None", "HS256", "RS256", "ES256", "EDDSA", "Ed448", ""] {
            let token = header(&format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{kid}"}}"#));
            refused(&token, "PT-0402");
        }
        let unsigned = token(&claims());
        let unsigned = unsigned.rsplit_once('.').unwrap().0;
        refused(&format!("{unsigned}."), "PT-0402");
        // The public key as an HMAC secret, both with an honest and with a lying header.
        let mac = hmac(&key().verifying_key().to_bytes(), unsigned.as_bytes());
        refused(&format!("{unsigned}.{}", B64.encode(&mac)), "PT-0402");
        refused(&format!("{unsigned}.{}", B64.encode(&[mac, mac].concat())), "PT-0404");
    }

    fn hmac(secret: &[u8; 32], message: &[u8]) -> [u8; 32] {
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(secret).for_each(|(pad, secret)| *pad ^= secret);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
    }

    #[test]
    fn attack_aud_missing_array_or_unconfigured() {
        let aud = r#""aud":"https://orders.example","#;
        refused(&forged(aud, ""), "PT-0402");
        refused(&forged(aud, r#""aud":["https://orders.example"],"#), "PT-0402");
        refused(&forged(aud, r#""aud":"","#), "PT-0402");
        for other in ["https://crm.example", "https://orders.example/", "https://orders.exampl"] {
            refused(&token(&Claims { audience: other.into(), ..claims() }), "PT-0406");
        }
        let mut bench = Bench::fresh();
        bench.view.catalog(r#"{"resources":{}}"#, Seq(3));
        assert_eq!(bench.says(&token(&claims())), "PT-0421", "no audience configured, no entry");
    }

    #[test]
    fn attack_token_of_sister_broker() {
        // Same issuer, audience and claims, but the sister's key; then our key and the sister's epoch or issuer.
        let sister = SigningKey::from_bytes(&[33; 32]);
        let sign = |kid: &KeyId| {
            encode("at+jwt", kid, &claims().encode(), |bytes| sister.sign(bytes).to_bytes())
        };
        refused(&sign(&kid(&sister)), "PT-0403");
        refused(&sign(&kid(&key())), "PT-0404");
        let epoch = Epoch(claims().epoch.0 - 1);
        refused(&token(&Claims { epoch, ..claims() }), "PT-0409");
        let issuer = "https://broker.example/us1".into();
        refused(&token(&Claims { issuer, ..claims() }), "PT-0405");
    }

    #[test]
    fn attack_iss_prefix_suffix_substring() {
        for issuer in [
            format!("{ISSUER}/"),
            format!("x{ISSUER}"),
            ISSUER.strip_suffix('1').unwrap().to_owned(),
            ISSUER.strip_prefix('h').unwrap().to_owned(),
            ISSUER.to_uppercase(),
            "b".to_owned(),
        ] {
            refused(&token(&Claims { issuer: issuer.into(), ..claims() }), "PT-0405");
        }
        refused(&forged(&format!(r#""iss":"{ISSUER}","#), r#""iss":"","#), "PT-0402");
    }

    #[test]
    fn attack_unknown_crit_and_duplicate_members() {
        let kid = kid(&key());
        let good = format!(r#""typ":"at+jwt","alg":"EdDSA","kid":"{kid}""#);
        assert_eq!(Bench::fresh().says(&header(&format!("{{{good}}}"))), "allow");
        for more in [
            r#""crit":["exp"]"#,
            r#""crit":[]"#,
            r#""b64":false"#,
            r#""zip":"DEF""#,
            r#""x":1"#,
            r#""alg":"EdDSA""#,
            r#""typ":"at+jwt""#,
        ] {
            refused(&header(&format!("{{{good},{more}}}")), "PT-0402");
            refused(&header(&format!("{{{more},{good}}}")), "PT-0402");
        }
        let exp = format!(r#""exp":{},"#, NOW + 290);
        refused(&forged(&exp, &format!(r#""exp":1,{exp}"#)), "PT-0402");
        refused(&forged(r#""seq":50,"#, r#""seq":50,"seq":51,"#), "PT-0402");
        refused(&forged(&exp, &format!(r#"{exp}"admin":true,"#)), "PT-0402");
    }

    #[test]
    fn attack_cross_kind_jwt() {
        let key = key();
        for typ in ["JWT", "jwt", "protem-checkpoint+jwt", "dpop+jwt", "secevent+jwt", "AT+JWT", ""]
        {
            let json = claims().encode();
            let token = encode(typ, &kid(&key), &json, |bytes| key.sign(bytes).to_bytes());
            refused(&token, "PT-0402");
        }
        // A checkpoint key signs no credentials.
        let other = checkpoint_key();
        let json = claims().encode();
        let token = encode("at+jwt", &kid(&other), &json, |bytes| other.sign(bytes).to_bytes());
        refused(&token, "PT-0403");
        // A set that gives one key two purposes is believed in neither.
        let mut bench = Bench::fresh();
        let set = jwks(&[key.verifying_key().to_bytes()]);
        bench.view.keys(&set, &set, Seq(4));
        assert_eq!(bench.says(&self::token(&claims())), "PT-0419");
    }

    #[test]
    fn attack_kid_traversal_sqli_jku_x5u_jwk() {
        for kid in ["../../dev/null", "' OR 1=1 --", "/etc/passwd", "http://evil.example/k"] {
            let token = header(&format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"{kid}"}}"#));
            refused(&token, "PT-0403");
        }
        let kid = kid(&key());
        for more in [
            r#""jku":"https://evil.example/jwks""#,
            r#""x5u":"https://evil.example/x""#,
            r#""jwk":{"kty":"OKP","crv":"Ed25519","x":"AA"}"#,
            r#""x5c":["AA"]"#,
        ] {
            let text = format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"{kid}",{more}}}"#);
            refused(&header(&text), "PT-0402");
        }
    }

    #[test]
    fn attack_million_dots_and_4gib_claim() {
        refused(&".".repeat(1_000_000), "PT-0402");
        refused(&".".repeat(100), "PT-0402");
        let long = Claims { audience: "a".repeat(9_000).into(), ..claims() };
        refused(&token(&long), "PT-0402");
        refused(&payload(&"[".repeat(4_000)), "PT-0402");
        refused(
            &payload(&format!(r#"{{"x/y":{}0{}}}"#, "[".repeat(20), "]".repeat(20))),
            "PT-0402",
        );
    }

    #[test]
    fn attack_ed25519_malleable_small_order_truncated() {
        let good = token(&claims());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let bytes = B64.decode(signature.as_bytes()).unwrap();
        for cut in [0, 1, 32, 63] {
            refused(&format!("{signed}.{}", B64.encode(&bytes[..cut])), "PT-0402");
        }
        // S + L verifies in a lax implementation (RFC 8032 §5.1.7 forbids it).
        let mut malleable = bytes.clone();
        let mut carry = 0_u16;
        for (byte, order) in malleable[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = u8::try_from(sum & 0xff).unwrap();
            carry = sum >> 8;
        }
        refused(&format!("{signed}.{}", B64.encode(&malleable)), "PT-0404");
        for byte in [0, 31, 32, 63] {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1;
            refused(&format!("{signed}.{}", B64.encode(&flipped)), "PT-0404");
        }
        // The neutral point as a public key accepts anything: it must never become one.
        let mut neutral = [0_u8; 32];
        neutral[0] = 1;
        let mut bench = Bench::fresh();
        let others = jwks(&[checkpoint_key().verifying_key().to_bytes()]);
        bench.view.keys(&jwks(&[neutral]), &others, Seq(4));
        assert_eq!(bench.says(&good), "PT-0419");
        // The last letter of 64 bytes carries four bits that must be zero: one signature, one spelling.
        let last = good.chars().last().unwrap();
        let next = if last == 'A' { 'B' } else { char::from(u8::try_from(last).unwrap() + 1) };
        refused(&format!("{}{next}", good.strip_suffix(last).unwrap()), "PT-0402");
    }

    /// The order of Ed25519's group, little-endian.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    fn item(seq: u64, target: Target) -> Revocation {
        Revocation { seq: Seq(seq), prev: Seq(0), target, forget_after: None }
    }

    #[test]
    fn attack_use_revoked_right_after_gateway_start() {
        let token = token(&claims());
        let mut bench = Bench::opened();
        assert_eq!(bench.says(&token), "PT-0416", "nothing was heard");
        bench.keys_and_catalog();
        assert_eq!(bench.says(&token), "PT-0416", "keys alone prove nothing");
        let ended = [item(60, Target::Grant(claims().grant))];
        bench.view.snapshot_begin(Seq(100), 1);
        assert_eq!(bench.says(&token), "PT-0416", "in the middle of a snapshot");
        bench.snapshot(&ended).unwrap();
        assert_eq!(bench.says(&token), "PT-0416", "a snapshot without a proof");
        bench.prove(moment(100)).unwrap();
        assert_eq!(bench.says(&token), "PT-0410");
    }

    #[test]
    fn attack_revoked_missing_from_snapshot_or_shard() {
        let many: Vec<Revocation> =
            (0..5_000_u128).map(|id| item(60, Target::Grant(GrantId(id.to_be_bytes())))).collect();
        let bench = Bench::with(&many);
        for id in (0..5_000_u128).step_by(250) {
            let grant = GrantId(id.to_be_bytes());
            assert_eq!(bench.says(&token(&Claims { grant, ..claims() })), "PT-0410", "{id}");
        }
        let grant = GrantId(5_000_u128.to_be_bytes());
        assert_eq!(bench.says(&token(&Claims { grant, ..claims() })), "allow");
        // One entry less than announced is no snapshot, and the old view goes on serving.
        let mut bench = Bench::with(&many[..1]);
        bench.view.snapshot_begin(Seq(100), 2);
        bench.view.revoked(&many[1..2]).unwrap();
        assert!(bench.view.snapshot_end(Seq(100), 2, Seq(0)).is_err());
        let grant = GrantId(0_u128.to_be_bytes());
        assert_eq!(bench.says(&token(&Claims { grant, ..claims() })), "PT-0410");
    }

    #[test]
    fn attack_revoke_all_before_t_uses_iat() {
        let (identity, resource) =
            (name::<IdentityName>("payments/agent"), name::<ResourceName>("orders-api"));
        for target in [
            Target::Everything,
            Target::Identity(identity.clone()),
            Target::Task(identity, name::<TaskId>("nightly-1")),
            Target::Resource(resource.clone()),
            Target::Scope(resource.clone(), name::<ScopeName>("orders:read")),
        ] {
            let bench = Bench::with(&[item(60, target.clone())]);
            for (seq, expect) in [(59, "PT-0410"), (60, "PT-0410"), (61, "allow")] {
                // Renewed after the cut-off: a later `iat` saves nothing, the grant's own place counts.
                let renewed = Claims { seq: Seq(seq), number: 9, ..claims() };
                assert_eq!(bench.says(&token(&renewed)), expect, "{target:?} {seq}");
            }
        }
        let others = [
            Target::Identity(name("payments/other")),
            Target::Task(name("payments/other"), name("nightly-1")),
            Target::Resource(name("crm")),
            Target::Scope(resource, name("orders:refund")),
        ];
        for target in others {
            assert_eq!(Bench::with(&[item(60, target)]).says(&token(&claims())), "allow");
        }
    }

    #[test]
    fn attack_revoked_signing_key() {
        let bench = Bench::with(&[item(60, Target::Key(kid(&key())))]);
        for seq in [1, 60, 61, 1_000_000] {
            assert_eq!(bench.says(&token(&Claims { seq: Seq(seq), ..claims() })), "PT-0411");
        }
        let mut bench = Bench::fresh();
        bench.revoke(Target::Key(kid(&key())));
        assert_eq!(bench.says(&token(&claims())), "PT-0411", "by the feed as well");
    }

    #[test]
    fn attack_ttl_negative_zero_max_overflow() {
        let exp = format!(r#""exp":{},"#, NOW + 290);
        for value in [
            "0",
            "-1",
            "-0",
            "1",
            "9007199254740992",
            "9223372036854775807",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999",
            "253402300800",
        ] {
            refused(&forged(&exp, &format!(r#""exp":{value},"#)), "PT-0402");
        }
        let at = Time::from_secs;
        let same = at(NOW + 100);
        refused(&token(&Claims { issued: same, expires: same, ..claims() }), "PT-0402");
        refused(&token(&Claims { not_before: at(NOW + 290), ..claims() }), "PT-0402");
        refused(&token(&Claims { until: at(NOW + 289), ..claims() }), "PT-0402");
        let year = at(NOW + 31_536_000);
        refused(&token(&Claims { expires: year, until: year, ..claims() }), "PT-0402");
        refused(&forged(r#""fresh":5"#, r#""fresh":0"#), "PT-0402");
        refused(&forged(r#""fresh":5"#, r#""fresh":61"#), "PT-0402");
        refused(&forged(r#""fresh":5"#, r#""fresh":18446744073709551615"#), "PT-0402");
    }

    #[test]
    fn attack_exp_boundary_second() {
        // The bench's proof says NOW at boot second 100, and it is boot second 101.
        for (expires, expect) in [(NOW + 1, "PT-0407"), (NOW + 2, "allow")] {
            let token = token(&Claims { expires: Time::from_secs(expires), ..claims() });
            assert_eq!(Bench::fresh().says(&token), expect);
        }
        for (early, expect) in [(NOW + 6, "allow"), (NOW + 7, "PT-0408")] {
            let early = Time::from_secs(early);
            let token = Claims { not_before: early, ..claims() };
            assert_eq!(Bench::fresh().says(&self::token(&token)), expect);
            let token = Claims { issued: early, ..claims() };
            assert_eq!(Bench::fresh().says(&self::token(&token)), expect);
        }
    }
}
