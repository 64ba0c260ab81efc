//! `tests/vectors/tokens.json`: tokens and what a verifier in any language must say to them.

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::bench::tests::{
        Bench, CATALOG, ISSUER, NOW, checkpoint_key, claims, forged, header, key, kid, payload,
        said, token,
    };
    use crate::claims::{Claims, ListEntry, Proof};
    use crate::fences::{Revocation, Target};
    use crate::ids::{Epoch, GrantId, Seq};
    use crate::keys::jwks;
    use crate::names::ScopeName;
    use crate::time::Time;

    /// The grant that the vectors' view has ended.
    const ENDED: GrantId = GrantId([6; 16]);

    type Case = (&'static str, String, &'static str, &'static str);

    fn accepted() -> Vec<Case> {
        let full = Claims {
            status: Some(ListEntry { index: 412, uri: "https://broker.example/status/7".into() }),
            template: vec![("shop/team".into(), "payments \"eu\"".into())],
            number: 17,
            ..claims()
        };
        let kid = kid(&key());
        let other_name = format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"{kid}"}}"#);
        let get = |name, token| (name, token, "GET", "/v1/orders/1001?page=2");
        let path = |name, path| (name, token(&claims()), "GET", path);
        vec![
            path("a query is the API's", "/v1/orders?a=../b//c;d%2f"),
            path("an empty query", "/v1/orders/7?"),
            path("an escape that is needed", "/v1/orders/a%20b"),
            path("escapes of one letter", "/v1/orders/caf%C3%A9"),
            path("beside a literal", "/v1/orders/EXPORTS"),
            get("valid", token(&claims())),
            get("valid with every optional claim but cnf", token(&full)),
            get("valid with alg Ed25519", header(&other_name)),
        ]
    }

    /// What libraries of other languages let through, or read in another way than we do.
    fn lenient() -> Vec<(&'static str, String)> {
        let good = token(&claims());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let secs = Time::from_secs;
        let exp = format!(r#""exp":{}"#, NOW + 290);
        let long = Claims { expires: secs(NOW + 90_000), until: secs(NOW + 99_000), ..claims() };
        // The four last bits of 64 bytes mean nothing: a decoder that passes over them takes a second spelling.
        let (start, last) = signature.split_at(85);
        let spare = format!("{start}{}", if last == "A" { 'B' } else { 'x' });
        vec![
            ("exp is true", forged(&exp, r#""exp":true"#)),
            ("exp has an exponent", forged(&exp, &format!("{exp}e0"))),
            ("exp twice by an escape", forged(&exp, &format!(r#"{exp},"\u0065xp":1900000000"#))),
            ("a number that others round", forged(r#""seq":50"#, r#""seq":9007199254740993"#)),
            ("fresh for no time", forged(r#""fresh":5"#, r#""fresh":0"#)),
            ("scope twice", forged(r#""orders:read""#, r#""orders:read orders:read""#)),
            ("scope after a blank", forged(r#""orders:read""#, r#"" orders:read""#)),
            ("no subject", forged(r#""spiffe://shop.example/ns/pay/sa/agent""#, r#""""#)),
            ("an empty task", forged(r#""nightly-1""#, r#""""#)),
            ("task missing", forged(r#""task":"nightly-1","#, "")),
            ("jti of another credential", forged(r#".0","iat""#, r#".00","iat""#)),
            ("nbf after exp", token(&Claims { not_before: secs(NOW + 290), ..claims() })),
            ("a binding of no kind", forged(r#""protem":"#, r#""cnf":{"kid":"a"},"protem":"#)),
            ("a status without a list", forged(r#""protem":"#, r#""status":{},"protem":"#)),
            ("lives longer than a day", token(&long)),
            ("a line end", format!("{good}\n")),
            ("bits left over", format!("{signed}.{spare}")),
            ("a header that is a list", header(r#"["at+jwt","EdDSA","k"]"#)),
        ]
    }

    /// Paths that somebody may read as another one.
    const CONFUSING: &[&str] = &[
        "//v1/orders",
        "/v1//orders",
        "/v1/./orders",
        "/v1/orders/..",
        "/v1/orders/7/..%2f..%2fadmin",
        "/v1/orders%2F7",
        "/v1/orders/%2e%2e/admin",
        "/v1/orders/%2E",
        "/v1/orders/7%5c..",
        "/v1/orders/7\\..\\admin",
        "/v1/orders;a=b",
        "/v1/orders/7;jsessionid=1",
        "/v1/orders%3b",
        "/v1/orders#admin",
        "/v1/orders/7#/../admin",
        "/v1/orders/%00",
        "/v1/orders/%0a",
        "/v1/orders/%7f",
        "/v1/orders/%",
        "/v1/orders/%4",
        "/v1/orders/%zz",
        "/v1/orders/%+1",
        "/v1/orders/%252e",
        "/%76%31/orders",
        "/V1/orders",
        "/v1/orders/",
        "http://api.example/v1/orders",
        "//api.example/v1/orders",
        "v1/orders",
        "*",
        "",
        "?/v1/orders",
        "/v1/orders /admin",
        "/v1/orders/7%3F",
        "/v1/orders/7%3fa=b",
        "/v1/orders%23admin",
        "/v1/orders/7%23x",
        "/v1/orders/%C0%AE%C0%AE",
        "/v1/orders/%c0%af",
        "/v1/orders/%E0%80%AE",
        "/v1/orders/%ED%A0%80",
        "/v1/orders/%ff",
        "/v1/orders/%C3",
        "/v1/orders/%C2%85",
        "/v1/orders/export",
        "/v1/orders/EXPORT",
        "/v1/orders/Export",
    ];

    /// The bench's catalog, and beside its template a literal of another scope.
    fn catalog() -> String {
        let (more, before) = (
            r#""orders:export":{"risk":"high","operations":["GET /v1/orders/export"]},"#,
            r#""orders:refund":"#,
        );
        assert!(CATALOG.contains(before));
        CATALOG.replace(before, &format!("{more}{before}"))
    }

    fn refused() -> Vec<Case> {
        let kid = kid(&key());
        let with = |more: &str| header(&format!(r#"{{"typ":"at+jwt","kid":"{kid}"{more}}}"#));
        let good = token(&claims());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let flipped: String = signature.chars().rev().collect();
        // The last letter of 64 bytes is one of four; reversed it would be no base64url.
        let flipped = format!("{}A", flipped.split_at(85).0);
        let secs = Time::from_secs;
        let scope = |name| vec![ScopeName::try_from(name).unwrap()];
        let exp = format!(r#""exp":{}"#, NOW + 290);
        let mut cases: Vec<(&str, String)> = vec![
            ("empty", String::new()),
            ("two parts", good.rsplit_once('.').unwrap().0.into()),
            ("four parts", format!("{good}.")),
            ("padded", format!("{good}==")),
            ("signature changed", format!("{signed}.{flipped}")),
            ("alg none", with(r#","alg":"none""#)),
            ("alg HS256", with(r#","alg":"HS256""#)),
            ("crit", with(r#","alg":"EdDSA","crit":["exp"]"#)),
            ("jku", with(r#","alg":"EdDSA","jku":"https://evil.example""#)),
            ("header member twice", with(r#","alg":"EdDSA","alg":"EdDSA""#)),
            ("typ JWT", header(&format!(r#"{{"typ":"JWT","alg":"EdDSA","kid":"{kid}"}}"#))),
            ("unknown kid", header(r#"{"typ":"at+jwt","alg":"EdDSA","kid":"nobody"}"#)),
            ("no claims", payload("{}")),
            ("claim twice", forged(&exp, &format!("{exp},{exp}"))),
            ("unknown claim", forged(&exp, &format!(r#"{exp},"admin":true"#))),
            ("exp missing", forged(&format!("{exp},"), "")),
            ("exp is text", forged(&exp, &format!(r#""exp":"{}""#, NOW + 290))),
            ("exp is a fraction", forged(&exp, &format!("{exp}.5"))),
            (
                "aud is a list",
                forged(r#""https://orders.example""#, r#"["https://orders.example"]"#),
            ),
            ("exp before iat", token(&Claims { expires: secs(NOW - 20), ..claims() })),
            ("outlives its grant", token(&Claims { until: secs(NOW + 289), ..claims() })),
            ("expired this second", token(&Claims { expires: secs(NOW + 1), ..claims() })),
            ("not yet", token(&Claims { not_before: secs(NOW + 7), ..claims() })),
            ("issued in the future", token(&Claims { issued: secs(NOW + 7), ..claims() })),
            (
                "other issuer",
                token(&Claims { issuer: "https://broker.example".into(), ..claims() }),
            ),
            (
                "other audience",
                token(&Claims { audience: "https://crm.example".into(), ..claims() }),
            ),
            ("earlier epoch", token(&Claims { epoch: Epoch(1), ..claims() })),
            ("bound", token(&Claims { proof: Some(Proof::Thumbprint([1; 32])), ..claims() })),
            ("ended grant", token(&Claims { grant: ENDED, ..claims() })),
            ("other scope", token(&Claims { scopes: scope("orders:refund"), ..claims() })),
            ("newer than the view", token(&Claims { epoch: Epoch(u64::pow(2, 52)), ..claims() })),
        ];
        cases.extend(lenient());
        let mut all: Vec<Case> =
            cases.drain(..).map(|(name, token)| (name, token, "GET", "/v1/orders/1001")).collect();
        all.push(("unmapped operation", good.clone(), "DELETE", "/v1/orders/1001"));
        all.push(("dot segments", good.clone(), "GET", "/v1/x/../orders"));
        all.push(("encoded slash", good.clone(), "GET", "/v1/orders%2f1001"));
        all.extend(CONFUSING.iter().map(|path| (*path, good.clone(), "GET", *path)));
        all
    }

    fn written() -> String {
        let (target, prev) = (Target::Grant(ENDED), Seq(0));
        let ended = Revocation { seq: Seq(60), prev, target, forget_after: None };
        let mut bench = Bench::with(&[ended]);
        bench.view.catalog(&catalog(), Seq(3));
        let cases: Vec<Value> = [accepted(), refused()]
            .concat()
            .into_iter()
            .map(|(name, token, method, path)| {
                let expect = said(&bench.call(&token, method, path));
                json!({ "name": name, "token": token, "method": method, "path": path, "expect": expect })
            })
            .collect();
        let catalog: Value = serde_json::from_str(&catalog()).unwrap();
        let set = |key: ed25519_dalek::SigningKey| -> Value {
            serde_json::from_str(&jwks(&[key.verifying_key().to_bytes()])).unwrap()
        };
        let vectors = json!({
            "about": "The view is fresh, proven this second, and has ended one grant. `expect` is `allow` or a code of docs/errors.md.",
            "issuer": ISSUER, "resource": "orders-api", "now": NOW + 1, "epoch": claims().epoch.0, "view_seq": 100,
            "ended_grants": [ENDED.text()], "jwks": set(key()), "checkpoint_jwks": set(checkpoint_key()),
            "catalog": catalog, "cases": cases,
        });
        serde_json::to_string_pretty(&vectors).unwrap() + "\n"
    }

    #[test]
    fn the_vectors_are_what_this_verifier_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/tokens.json");
        let written = written();
        if std::env::var_os("PROTEM_GEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &written).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept == written, "run `PROTEM_GEN=1 cargo test -p protem-verify vectors`");
        let vectors: Value = serde_json::from_str(&kept).unwrap();
        let (good, bad) = (accepted().len(), refused().len());
        let cases = vectors["cases"].as_array().unwrap();
        assert_eq!(cases.len(), good + bad);
        for (at, case) in cases.iter().enumerate() {
            assert_eq!(case["expect"] == "allow", at < good, "{case}");
        }
    }
}
