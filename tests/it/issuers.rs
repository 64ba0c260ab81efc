//! Issuers whose keys are fetched: well, badly, from where they must not be, and what their logins are told meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protem::config::{Fetch, IssuerSettings};
use protem::policy::bundle::Files;
use protem::serve::issuers::Reach;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::broker::{TestBroker, Wish, fresh_task, policies, reason};
use crate::foreign::{ALGS, Foreign};
use crate::process::PATIENCE;
use crate::site::{Answer, DISCOVERY, Site};

/// Silent issuers, each with a healthy one beside it.
const PAIRS: usize = 6;
/// The `aud` of all tokens here.
const AUDIENCE: &str = "https://protem.shop.example";

/// The repository's bundle with more issuers, whose `sub` `job` is `payments/agent`.
pub fn bundle(issuers: &[(&str, &str)]) -> Files {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = policies().to_vec();
    let (mut trusted, mut logins) = (String::new(), String::new());
    for (name, url) in issuers {
        trusted += &format!(
            "\n[issuer.{name}]\npurpose = \"A test\"\nurl = \"{url}\"\naudience = \"{AUDIENCE}\"\nfor = \"workloads\"\n\
             owner = {{ business = \"group:shop-leads\", technical = \"group:shop-oncall\" }}\n"
        );
        logins += &format!(
            "\n[[identity.\"payments/agent\".login]]\nissuer = \"{name}\"\nclaims = {{ sub = \"job\" }}\n"
        );
    }
    for (name, text) in &mut files {
        let more = match &**name {
            "issuers.toml" => &trusted,
            "identities.toml" => &logins,
            _ => continue,
        };
        *text = [text, more.as_bytes()].concat().into();
    }
    files.into()
}

/// Loopback is where tests' issuers are.
pub fn reach() -> Reach {
    let fetch = Fetch { allow_private: vec!["127.0.0.0/8".parse().unwrap()] };
    Reach { fetch, ..Reach::default() }
}

pub async fn broker(issuers: &[(&str, &str)], reach: Reach) -> TestBroker {
    TestBroker::with(Wish { bundle: Some(bundle(issuers)), reach, ..Wish::default() }).await
}

pub fn claims(issuer: &str) -> Value {
    let now = SystemClock.unix().as_secs();
    json!({"iss": issuer, "sub": "job", "aud": AUDIENCE, "iat": now, "exp": now + 600})
}

pub async fn who(broker: &TestBroker, token: String) -> Result<v1::WhoAmIResponse, Status> {
    let answer = broker.clients(Some(token)).access.who_am_i(v1::WhoAmIRequest {}).await;
    answer.map(tonic::Response::into_inner)
}

/// Signed in as the agent.
#[track_caller]
pub fn is_agent(who: Result<v1::WhoAmIResponse, Status>) {
    assert_eq!(who.unwrap().identity, "payments/agent");
}

/// A JWKS whose key of ES256 has another name.
pub fn renamed(foreign: &Foreign, kid: &str) -> String {
    foreign.jwks().replace("\"kid\":\"ES256\"", &format!("\"kid\":\"{kid}\""))
}

pub fn token_of(foreign: &Foreign, kid: &str, claims: &Value) -> String {
    foreign.token_with(&json!({"alg": "ES256", "kid": kid}), "ES256", claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_discovered_once_and_its_callers_come_in_by_every_algorithm() {
    let foreign = Foreign::new();
    let site = Site::with_keys(&foreign.jwks()).await;
    let broker = broker(&[("idp", &site.url)], reach()).await;
    assert_eq!(site.count(DISCOVERY), 0, "a development broker asks nobody unasked");
    for alg in ALGS {
        is_agent(who(&broker, foreign.token(alg, &claims(&site.url))).await);
    }
    assert_eq!((site.count(DISCOVERY), site.count("/keys")), (1, 1));
    broker.stop().await;
}

/// A key that is new is asked for once; one that is gone lets nobody in, ends its streams, and made-up ones cost nothing.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_change_are_noticed_and_made_up_ones_are_not_asked_for() {
    let (foreign, next) = (Foreign::new(), Foreign::new());
    let site = Site::with_keys(&renamed(&foreign, "old")).await;
    let broker = broker(&[("idp", &site.url)], reach()).await;
    let claims = claims(&site.url);
    let old = token_of(&foreign, "old", &claims);
    let mut agent = broker.clients(Some(old.clone()));
    let (say, said) = mpsc::unbounded_channel();
    say.send(v1::HoldTaskRequest { task_id: fresh_task(), lease: None }).unwrap();
    let held = agent.access.hold_task(UnboundedReceiverStream::new(said)).await;
    let mut held = held.unwrap().into_inner();
    assert!(held.message().await.unwrap().is_some());
    assert_eq!(site.count("/keys"), 1);
    site.set("/keys", Answer::Json(renamed(&next, "new"), ""));
    is_agent(who(&broker, old.clone()).await);
    assert_eq!(site.count("/keys"), 1, "a known key asks nobody");
    is_agent(who(&broker, token_of(&next, "new", &claims)).await);
    assert_eq!(site.count("/keys"), 2);
    let ended = async {
        while held.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends").unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unauthenticated, "PT-0614"));
    // Whether a key is gone, made up or too new nobody knows before the issuer is asked again: that says nothing against
    // whoever calls, however many of them there are.
    for at in 0..80 {
        let token = token_of(&foreign, &format!("made-up-{at}"), &claims);
        let token = if at == 0 { old.clone() } else { token };
        let status = who(&broker, token).await.unwrap_err();
        let found = (status.code(), reason(&status));
        assert_eq!(found, (Code::Unavailable, "PT-0617".to_owned()), "{status:?}");
        let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(retry > Duration::ZERO && retry <= Duration::from_secs(30), "{retry:?}");
    }
    let mut another = claims.clone();
    another["jti"] = "another".into();
    is_agent(who(&broker, token_of(&next, "new", &another)).await);
    assert_eq!(site.count("/keys"), 2, "once in 30 s");
    broker.stop().await;
}

/// What an issuer answers at which path when it is sick, and what is said of it.
fn sicknesses() -> Vec<(&'static str, Answer, &'static str)> {
    let ten_thousand = format!("{{\"keys\":[{}{{}}]}}", "{},".repeat(9_999));
    let html =
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>";
    let long =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{{{}}}", " ".repeat(99_998));
    let raw = |text: &str| Answer::Raw(text.to_owned());
    vec![
        (DISCOVERY, raw(html), "text/html"),
        (DISCOVERY, Answer::Json("[]".into(), ""), "no JSON object"),
        (DISCOVERY, raw("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"), "answered 500"),
        (
            DISCOVERY,
            raw("HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n"),
            "redirect",
        ),
        (DISCOVERY, raw("nonsense\r\n\r\n"), "broken"),
        (DISCOVERY, raw(&long), "larger than 65536 bytes"),
        (DISCOVERY, raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}"), "broken"),
        (DISCOVERY, Answer::Endless, "larger than 65536 bytes"),
        (DISCOVERY, Answer::Drip, "longer than 3s"),
        (DISCOVERY, Answer::Silent, "longer than 3s"),
        ("/keys", Answer::Json("{}".into(), ""), "no `keys`"),
        ("/keys", Answer::Json(ten_thousand, ""), "no JWKS"),
        ("/keys", raw("HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n"), "answered 404"),
        ("/keys", Answer::Drip, "longer than 3s"),
    ]
}

/// Who comes in by a healthy issuer, whose keys must be fetched first, does not wait for the end of a fetch that never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_issuer_keeps_nobody_else_waiting() {
    let foreign = Foreign::new();
    let mut sites = Vec::new();
    for _ in 0..PAIRS {
        let [silent, healthy] =
            [Site::with_keys(&foreign.jwks()).await, Site::with_keys(&foreign.jwks()).await];
        silent.set(DISCOVERY, Answer::Silent);
        sites.push((silent, healthy));
    }
    let names: Vec<String> = (0..2 * PAIRS).map(|at| format!("idp-{at}")).collect();
    let urls = sites.iter().flat_map(|(silent, healthy)| [&*silent.url, &*healthy.url]);
    let issuers: Vec<_> = names.iter().map(|name| &**name).zip(urls).collect();
    let broker = Arc::new(broker(&issuers, reach()).await);
    let mut overtook = false;
    // The silent one's login is told after three seconds. A machine that was away for so long is asked again, by other issuers.
    for (silent, healthy) in &sites {
        let (own, token) = (Arc::clone(&broker), foreign.token("ES256", &claims(&silent.url)));
        let waits = tokio::spawn(async move { who(&own, token).await });
        let until = Instant::now() + PATIENCE;
        while silent.count(DISCOVERY) == 0 {
            assert!(Instant::now() < until, "it is never asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let came = who(&broker, foreign.token("EdDSA", &claims(&healthy.url))).await;
        overtook |= came.is_ok_and(|who| who.identity == "payments/agent") && !waits.is_finished();
        assert_eq!(reason(&waits.await.unwrap().unwrap_err()), "PT-0616");
        if overtook {
            break;
        }
    }
    assert!(overtook, "a healthy issuer's logins wait for a silent one");
    Arc::into_inner(broker).unwrap().stop().await;
}

/// Every way an issuer can be sick: its logins are told so, and by and by why; those of a healthy one come in all the while.
#[tokio::test(flavor = "multi_thread")]
async fn a_sick_issuer_is_told_of_and_others_come_in() {
    let foreign = Foreign::new();
    let healthy = Site::with_keys(&foreign.jwks()).await;
    let mut sites = Vec::new();
    for (path, answer, says) in sicknesses() {
        let site = Site::with_keys(&foreign.jwks()).await;
        site.set(path, answer);
        sites.push((site, says));
    }
    let other = Site::with_keys(&foreign.jwks()).await;
    other.describe("https://other.example", &format!("{}/keys", other.url));
    sites.push((other, "another issuer, `https://other.example`"));
    let mut down = Site::start().await;
    down.stop().await;
    sites.push((down, "no connection"));
    let names: Vec<String> = (0..sites.len()).map(|at| format!("sick-{at}")).collect();
    let mut issuers = vec![("healthy", &*healthy.url)];
    issuers.extend(names.iter().map(|name| &**name).zip(sites.iter().map(|(site, _)| &*site.url)));
    let broker = Arc::new(broker(&issuers, reach()).await);
    let mut waiting = Vec::new();
    for (site, says) in &sites {
        let (broker, token) = (Arc::clone(&broker), foreign.token("ES256", &claims(&site.url)));
        let refused = async move { who(&broker, token).await.unwrap_err() };
        waiting.push((tokio::spawn(refused), says));
    }
    is_agent(who(&broker, foreign.token("EdDSA", &claims(&healthy.url))).await);
    for (refused, says) in waiting {
        let status = tokio::time::timeout(PATIENCE, refused).await.expect(says).unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "PT-0616"),
            "{status:?}"
        );
        assert!(status.message().contains("never since this broker started"), "{status:?}");
    }
    // What a slow fetch came to is known once it ended.
    for (site, says) in &sites {
        let until = Instant::now() + PATIENCE;
        loop {
            let status =
                who(&broker, foreign.token("ES256", &claims(&site.url))).await.unwrap_err();
            assert_eq!(reason(&status), "PT-0616");
            if status.message().contains(says) {
                break;
            }
            assert!(Instant::now() < until, "`{says}` in {}", status.message());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    is_agent(who(&broker, foreign.token("ES256", &claims(&healthy.url))).await);
    Arc::into_inner(broker).unwrap().stop().await;
}

/// An issuer ten minutes off is refused with both times; one beside it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_minutes_off_is_said_so() {
    let foreign = Foreign::new();
    let site = Site::with_keys(&foreign.jwks()).await;
    let broker = broker(&[("idp", &site.url)], reach()).await;
    let good = claims(&site.url);
    let iat = good["iat"].as_u64().unwrap();
    let mut ahead = good.clone();
    (ahead["iat"], ahead["exp"]) = ((iat + 600).into(), (iat + 1_200).into());
    let mut behind = good.clone();
    (behind["iat"], behind["exp"]) = ((iat - 900).into(), (iat - 600).into());
    for (claims, code, by, says) in [
        (ahead, "PT-0609", "", "ahead of this broker's clock"),
        (behind, "PT-0608", "10m", "ago by this broker's clock"),
    ] {
        let status = who(&broker, foreign.token("ES256", &claims)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, code));
        // And some seconds, as they pass.
        let message = status.message();
        assert!(message.contains(by) && message.contains(says), "{message}");
    }
    is_agent(who(&broker, foreign.token("ES256", &good)).await);
    broker.stop().await;
}

/// Row 63: by the issuer's URL, by redirect, by a name that leads inside, by `jwks_uri`, and with a token.
#[tokio::test(flavor = "multi_thread")]
async fn attack_ssrf_issuer_jwks_webhook() {
    let foreign = Foreign::new();
    let inside = Site::with_keys(&foreign.jwks()).await;
    let port = inside.url.rsplit_once(':').unwrap().1;
    let by_name = format!("http://localhost:{port}");
    // Nothing is allowed: neither the address nor a name that leads to it is asked.
    let closed = broker(&[("one", &inside.url), ("two", &by_name)], Reach::default()).await;
    for url in [&inside.url, &by_name] {
        let status = who(&closed, foreign.token("ES256", &claims(url))).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0616");
        assert!(status.message().contains("loopback address"), "{}", status.message());
    }
    assert_eq!(inside.count(DISCOVERY), 0);
    closed.stop().await;
    // The issuer's own server is allowed; where it sends us is not, or is asked without its token.
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "canary-of-the-issuer\n").unwrap();
    let site = Site::with_keys(&foreign.jwks()).await;
    let mut open = reach();
    let url = site.url.clone();
    let settings = IssuerSettings { url, token_file, ..IssuerSettings::default() };
    open.issuers.insert("idp".into(), settings);
    for (jwks, says) in [
        ("http://169.254.169.254/latest/meta-data/", "link-local address"),
        ("https://10.0.0.1/keys", "private address"),
        ("https://[::1]/keys", "loopback address"),
        ("https://[::ffff:127.0.0.1]/keys", "IPv4-mapped address"),
        ("file:///etc/passwd", "no URL to fetch"),
        ("gopher://127.0.0.1/", "no URL to fetch"),
        ("https://user@idp.example/", "user name"),
        ("/keys", "no URL to fetch"),
    ] {
        site.describe(&site.url, jwks);
        let broker = broker(&[("idp", &site.url)], open.clone()).await;
        let status = who(&broker, foreign.token("ES256", &claims(&site.url))).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0616", "{jwks}");
        assert!(status.message().contains(says), "{jwks}: {}", status.message());
        broker.stop().await;
    }
    let elsewhere = format!("{}/keys", inside.url);
    site.describe(&site.url, &elsewhere);
    let redirect = format!("HTTP/1.1 307 Go\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
    let broker_of = broker(&[("idp", &site.url)], open.clone()).await;
    is_agent(who(&broker_of, foreign.token("ES256", &claims(&site.url))).await);
    broker_of.stop().await;
    assert_eq!(inside.tokens("/keys"), [None], "another server never sees the token");
    let own = Some("Bearer canary-of-the-issuer".to_owned());
    assert!(site.tokens(DISCOVERY).iter().all(|token| *token == own));
    site.describe(&site.url, &format!("{}/keys", site.url));
    site.set("/keys", Answer::Raw(redirect));
    let broker_of = broker(&[("idp", &site.url)], open).await;
    let status = who(&broker_of, foreign.token("ES256", &claims(&site.url))).await.unwrap_err();
    assert!(status.message().contains("redirect"), "{}", status.message());
    assert!(!status.message().contains("canary"), "{}", status.message());
    assert_eq!((inside.tokens("/keys").len(), site.tokens("/keys")), (1, vec![own]));
    broker_of.stop().await;
}
