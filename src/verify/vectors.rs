//! `tests/vectors/tokens.json`: tokens and what a verifier in any language must say to them.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use serde_json::{Value, json};

    use crate::bench::tests::{
        Bench, CATALOG, ISSUER, NOW, checkpoint_key, claims, forged, header, key, kid, moment,
        name, payload, said, signed, token,
    };
    use crate::claims::{Claims, ListEntry, Proof};
    use crate::fences::{Revocation, Target};
    use crate::ids::{Epoch, GrantId, Seq};
    use crate::keys::jwks;
    use crate::known::Moment;
    use crate::names::ScopeName;
    use crate::time::{Staleness, Time};

    /// The grant that the vectors' view has ended.
    const ENDED: GrantId = GrantId([6; 16]);
    /// How old the view is for most cases.
    const AGE: Duration = Duration::from_secs(1);

    /// What is special about the view when a case comes.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Then {
        Usual,
        /// It is so old.
        Aged(Duration),
        /// It has cut off everything at 50, and nothing else: beside other cut-offs nobody could tell which one covers.
        AllCutOff,
    }

    /// A name, a token, method and path, and the view.
    type Case = (&'static str, String, &'static str, &'static str, Then);

    /// The usual call with this token.
    fn case(name: &'static str, token: String) -> Case {
        (name, token, "GET", "/v1/orders/1001", Then::Usual)
    }

    /// A key that leaked: cut off, and still in the key set.
    fn leaked() -> SigningKey {
        SigningKey::from_bytes(&[33; 32])
    }

    /// One that was cut off and has left the key set.
    fn gone() -> SigningKey {
        SigningKey::from_bytes(&[44; 32])
    }

    /// What the vectors' view has cut off: every axis at a place of its own, and names of ours that are somebody else's there.
    /// Most credentials are of a grant that was activated at 50.
    fn cut_offs() -> Vec<(u64, Target, Value)> {
        let key_of =
            |key: &SigningKey| (Target::Key(kid(key)), json!({"key_id": kid(key).as_str()}));
        let task = |by: &str, id: &str| {
            (Target::Task(name(by), name(id)), json!({"task": format!("{by}#{id}")}))
        };
        let scope = |on: &str, of: &str| {
            (Target::Scope(name(on), name(of)), json!({"scope": format!("{on}#{of}")}))
        };
        let resource = |on: &str| (Target::Resource(name(on)), json!({"resource": on}));
        let identity = |by: &str| (Target::Identity(name(by)), json!({"identity": by}));
        let all = [
            (20, resource("orders-api")),
            (61, identity("payments/reconciler")),
            (62, task("payments/agent", "nightly-2")),
            (63, scope("orders-api", "orders:export")),
            (64, key_of(&leaked())),
            (65, key_of(&gone())),
            (71, task("crm/agent", "nightly-1")),
            (72, scope("crm", "orders:read")),
            (73, resource("crm")),
        ];
        all.into_iter().map(|(seq, (target, told))| (seq, target, told)).collect()
    }

    /// Credentials whose grant was activated at a cut-off that covers them, and right after it.
    fn at_cut_offs() -> Vec<(&'static str, &'static str, Claims)> {
        let both = ScopeName::try_from("orders:export").unwrap();
        let with = |change: &dyn Fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            claims
        };
        let at = |seq: u64, change: &dyn Fn(&mut Claims)| Claims { seq: Seq(seq), ..with(change) };
        let reconciler = |it: &mut Claims| it.identity = name("payments/reconciler");
        let other_task = |it: &mut Claims| it.task = name("nightly-2");
        let more = |it: &mut Claims| it.scopes.push(both.clone());
        vec![
            ("at a cut-off of its resource", "after a cut-off of its resource", at(20, &|_| ())),
            (
                "at a cut-off of its identity",
                "after a cut-off of its identity",
                at(61, &reconciler),
            ),
            ("at a cut-off of its task", "after a cut-off of its task", at(62, &other_task)),
            ("at a cut-off of one of its scopes", "after a cut-off of its scope", at(63, &more)),
        ]
    }

    fn accepted() -> Vec<Case> {
        let full = Claims {
            status: Some(ListEntry { index: 412, uri: "https://broker.example/status/7".into() }),
            template: vec![("shop/team".into(), "payments \"eu\"".into())],
            number: 17,
            ..claims()
        };
        let kid = kid(&key());
        let other_name = format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"{kid}"}}"#);
        let get = |name, token| (name, token, "GET", "/v1/orders/1001?page=2", Then::Usual);
        let path = |name, path| (name, token(&claims()), "GET", path, Then::Usual);
        let mut all = vec![
            path("a query is the API's", "/v1/orders?a=../b//c;d%2f"),
            path("an empty query", "/v1/orders/7?"),
            path("an escape that is needed", "/v1/orders/a%20b"),
            path("escapes of one letter", "/v1/orders/caf%C3%A9"),
            path("beside a literal", "/v1/orders/EXPORTS"),
            get("valid", token(&claims())),
            get("valid with every optional claim but cnf", token(&full)),
            get("valid with alg Ed25519", header(&other_name)),
        ];
        let after = |it: Claims| token(&Claims { seq: it.seq.next(), ..it });
        all.extend(at_cut_offs().into_iter().map(|(_, name, it)| case(name, after(it))));
        all.extend(aged().into_iter().filter(|(_, good)| *good).map(|(case, _)| case));
        let (_, token, method, path, _) = case("", after(claims()));
        all.push(("after a cut-off of everything", token, method, path, Then::AllCutOff));
        all
    }

    /// How old a view may be is the credential's word; whether it may be so old.
    fn aged() -> Vec<(Case, bool)> {
        let fresh = |secs| Claims { fresh: Staleness(Duration::from_secs(secs)), ..claims() };
        let soon = Time::from_secs(NOW + 3);
        let aged = |name, claims: &Claims, millis| -> Case {
            let then = Then::Aged(Duration::from_millis(millis));
            (name, token(claims), "GET", "/v1/orders/1001", then)
        };
        vec![
            (aged("a view as old as may be", &fresh(5), 5_000), true),
            (aged("a view as old as may be for one second", &fresh(1), 1_000), true),
            (aged("a view as old as may be for a minute", &fresh(60), 60_000), true),
            (aged("a view too old", &fresh(5), 5_001), false),
            (aged("a view too old for one second", &fresh(1), 1_001), false),
            (aged("a view too old for a minute", &fresh(60), 60_001), false),
            (aged("too old, and expired", &Claims { expires: soon, ..claims() }, 6_000), false),
            (aged("too old, and ended", &Claims { grant: ENDED, ..claims() }, 6_000), false),
            (aged("too old, and cut off", &Claims { seq: Seq(20), ..claims() }, 6_000), false),
            (
                aged("too old, of earlier epoch", &Claims { epoch: Epoch(1), ..claims() }, 6_000),
                false,
            ),
        ]
    }

    /// Whatever a key signed that was cut off, and whoever says that it did.
    fn of_cut_off_keys() -> Vec<(&'static str, String)> {
        let newest = Claims { seq: Seq(99), ..claims() };
        let (of_leaked, of_gone) = (signed(&leaked(), &newest), signed(&gone(), &newest));
        let forged = format!("{}.{}", of_leaked.rsplit_once('.').unwrap().0, "A".repeat(86));
        let other = Claims { issuer: "https://broker.example".into(), ..newest };
        vec![
            ("of a key that was cut off", of_leaked),
            ("of a cut-off key that has left the set", of_gone),
            ("in the name of a cut-off key", forged),
            ("of a cut-off key, and another issuer's", signed(&leaked(), &other)),
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
        cases.extend(at_cut_offs().into_iter().map(|(name, _, it)| (name, token(&it))));
        cases.extend(of_cut_off_keys());
        let mut all: Vec<Case> = cases.into_iter().map(|(name, token)| case(name, token)).collect();
        all.push(("unmapped operation", good.clone(), "DELETE", "/v1/orders/1001", Then::Usual));
        all.push(("dot segments", good.clone(), "GET", "/v1/x/../orders", Then::Usual));
        all.push(("encoded slash", good.clone(), "GET", "/v1/orders%2f1001", Then::Usual));
        all.extend(CONFUSING.iter().map(|path| (*path, good.clone(), "GET", *path, Then::Usual)));
        all.extend(aged().into_iter().filter(|(_, good)| !good).map(|(case, _)| case));
        let (_, token, method, path, _) = case("", good);
        all.push(("at a cut-off of everything", token, method, path, Then::AllCutOff));
        all
    }

    /// A view that has been told this, proven at boot second 100.
    fn view(told: impl Iterator<Item = (u64, Target)>) -> Bench {
        let item =
            |(seq, target)| Revocation { seq: Seq(seq), prev: Seq(0), target, forget_after: None };
        let mut bench = Bench::with(&told.map(item).collect::<Vec<_>>());
        let credential = [key(), leaked()].map(|key| key.verifying_key().to_bytes());
        let checkpoint = checkpoint_key().verifying_key().to_bytes();
        bench.view.keys(&jwks(&credential), &jwks(&[checkpoint]), Seq(2));
        bench.view.catalog(&catalog(), Seq(3));
        bench
    }

    /// What the view says to a case, as the file has it.
    fn told((name, token, method, path, then): &Case) -> Value {
        let cut_offs = cut_offs().into_iter().map(|(seq, target, _)| (seq, target));
        let (mut bench, age, own) = match then {
            Then::Usual => (view(cut_offs.chain([(60, Target::Grant(ENDED))])), AGE, json!({})),
            Then::Aged(age) => {
                let own = json!({ "age_ms": age.as_millis(), "now": NOW + age.as_secs() });
                (view(cut_offs.chain([(60, Target::Grant(ENDED))])), *age, own)
            }
            Then::AllCutOff => {
                let own = json!({ "cut_offs": [{ "everything": true, "seq": 50 }] });
                (view([(50, Target::Everything)].into_iter()), AGE, own)
            }
        };
        let sent = moment(100);
        bench.now = Moment { boot: sent.boot + age, unix: sent.unix + age };
        let expect = said(&bench.call(token, method, path));
        let mut case = json!({
            "name": name, "token": token, "method": method, "path": path, "expect": expect,
        });
        case.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        case
    }

    fn written() -> String {
        let cases: Vec<Value> = [accepted(), refused()].concat().iter().map(told).collect();
        let catalog: Value = serde_json::from_str(&catalog()).unwrap();
        let set = |keys: &[SigningKey]| -> Value {
            let keys: Vec<_> = keys.iter().map(|key| key.verifying_key().to_bytes()).collect();
            serde_json::from_str(&jwks(&keys)).unwrap()
        };
        let cut_offs = cut_offs().into_iter().map(|(seq, _, mut told)| {
            told["seq"] = json!(seq);
            told
        });
        let vectors = json!({
            "about": "What stands above the cases is the view; a case may have a member of it that is its own. `age_ms` is the time since the ping of the view's newest proof was sent, `now` the broker's time. `expect` is `allow` or a code of docs/errors.md.",
            "issuer": ISSUER, "resource": "orders-api", "now": NOW + 1, "age_ms": 1_000,
            "epoch": claims().epoch.0, "view_seq": 100,
            "ended_grants": [ENDED.text()], "cut_offs": cut_offs.collect::<Vec<Value>>(),
            "jwks": set(&[key(), leaked()]), "checkpoint_jwks": set(&[checkpoint_key()]),
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
