//! JWT-SVIDs: whose they are, whose keys count for them, and that no other token passes for one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use protem::serve::reload;
use protem::serve::trust::Trust;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use serde_json::{Value, json};

use crate::broker::{TestBroker, Wish, reason};
use crate::foreign::{Foreign, agent};
use crate::process::PATIENCE;
use crate::served::refused;

/// Whom the repository's bundle knows as `payments/agent`.
const AGENT: &str = "spiffe://shop.example/ns/payments/sa/agent";

/// A SPIFFE bundle with these keys for JWT-SVIDs.
pub fn write(file: &Path, keys: &Foreign, kids: &[&str]) {
    let mut set: Value = serde_json::from_str(&keys.jwks()).unwrap();
    let all = set["keys"].as_array_mut().unwrap();
    all.retain(|key| kids.contains(&key["kid"].as_str().unwrap()));
    for key in all {
        key["use"] = "jwt-svid".into();
    }
    std::fs::write(file, set.to_string()).unwrap();
}

fn claims(audience: &str) -> Value {
    let now = SystemClock.unix().as_secs();
    json!({"sub": AGENT, "aud": [audience], "exp": now + 300, "iat": now})
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

/// Tokens that are no JWT-SVID of ours, and the code of each refusal.
fn unfit(
    ours: &Foreign,
    theirs: &Foreign,
    good: &Value,
) -> Vec<(&'static str, String, &'static str)> {
    let elsewhere = "spiffe://elsewhere.example/ns/payments/sa/agent";
    vec![
        ("an algorithm that SVIDs do not have", ours.token("EdDSA", good), "PT-0603"),
        (
            "a header that they do not have",
            ours.token_with(&json!({"alg": "ES256", "kid": "ES256", "x5t": "a"}), "ES256", good),
            "PT-0603",
        ),
        ("another domain's key", theirs.token("ES256", good), "PT-0606"),
        (
            "a domain that is not trusted",
            ours.token("ES256", &with(good, "sub", elsewhere.into())),
            "PT-0604",
        ),
        (
            "no workload",
            ours.token("ES256", &with(good, "sub", "spiffe://shop.example".into())),
            "PT-0603",
        ),
        (
            "a way out",
            ours.token("ES256", &with(good, "sub", format!("{AGENT}/../x").into())),
            "PT-0603",
        ),
        (
            "another spelling",
            ours.token("ES256", &with(good, "sub", AGENT.replace("spiffe", "SPIFFE").into())),
            "PT-0603",
        ),
        (
            "another audience",
            ours.token("ES256", &with(good, "aud", "https://elsewhere.example".into())),
            "PT-0607",
        ),
        ("no end", ours.token("ES256", &with(good, "exp", Value::Null)), "PT-0603"),
        ("no longer", ours.token("ES256", &with(good, "exp", 1.into())), "PT-0608"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_svid_is_its_workload_by_the_keys_of_its_own_domain_alone() {
    let (ours, theirs) = (Foreign::new(), Foreign::stranger());
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own.json"), folder.path().join("other.json"));
    let all = ["RS256", "PS256", "ES256", "EdDSA"];
    write(&own, &ours, &all);
    write(&other, &theirs, &all);
    let files = BTreeMap::from([
        ("shop.example".to_owned(), own.clone()),
        ("other.example".to_owned(), other),
    ]);
    let trust = Trust::load(files).unwrap();
    let files = reload::Files { tls: None, trust: Some(trust) };
    let bundle = Some(ours.bundle());
    let broker = TestBroker::with(Wish { bundle, files, ..Wish::default() }).await;
    let good = claims(&broker.url);
    for alg in ["RS256", "PS256", "ES256"] {
        for claims in [good.clone(), with(&good, "iss", "https://spire.shop.example".into())] {
            let mut caller = broker.clients(Some(ours.token(alg, &claims)));
            let who = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
            assert_eq!((who.identity.as_str(), who.subject.as_str()), ("payments/agent", AGENT));
            assert_eq!(
                (who.login.as_str(), who.audience[0].as_str()),
                (&*format!("spiffe = \"{AGENT}\""), &*broker.url)
            );
        }
    }
    for (why, token, code) in unfit(&ours, &theirs, &good) {
        assert_eq!(refused(&broker, token).await, code, "{why}");
    }
    // The word of an issuer of the bundle is that issuer's, whatever its `sub` looks like.
    let mut posing = agent(SystemClock.unix().as_secs());
    (posing["sub"], posing["repository_id"]) = (AGENT.into(), "8".into());
    let mut poser = broker.clients(Some(ours.token("ES256", &posing)));
    let who = poser.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(who.identity, "", "{who:?}");
    // A key that leaves the trust bundle counts no more, also for who came in by it before and is remembered. Nobody but
    // the broker itself reads the file again.
    let token = ours.token("ES256", &good);
    let mut caller = broker.clients(Some(token.clone()));
    caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    write(&own, &ours, &["RS256"]);
    let until = Instant::now() + PATIENCE;
    loop {
        let mut caller = broker.clients(Some(token.clone()));
        match caller.access.who_am_i(v1::WhoAmIRequest {}).await {
            Ok(_) => assert!(Instant::now() < until, "its key is gone"),
            Err(status) => {
                assert_eq!(reason(&status), "PT-0605");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.stop().await;
}
