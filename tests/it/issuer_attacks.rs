//! Attacks by whoever may change a bundle, or has a token of an issuer that serves everybody.

use std::process::Command;
use std::sync::Arc;

use protem::config::IssuerSettings;
use protem::policy::bundle::Files;
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::broker::{TestBroker, Wish, fresh_task, reason};
use crate::foreign::{Foreign, agent};
use crate::issuers::{broker, bundle, claims, is_agent, reach, who};
use crate::site::{DISCOVERY, Site};
use crate::streams::{apply, edited, end, goes_on};

/// What the operator gave for an issuer's name goes to the URL that the operator wrote, wherever a bundle leads the name.
#[tokio::test(flavor = "multi_thread")]
async fn attack_bundle_leads_an_issuers_token_elsewhere() {
    let foreign = Foreign::new();
    let (site, thief) =
        (Site::with_keys(&foreign.jwks()).await, Site::with_keys(&foreign.jwks()).await);
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "canary-of-the-issuer").unwrap();
    let mut reach = reach();
    let settings =
        IssuerSettings { url: site.url.clone(), token_file, ..IssuerSettings::default() };
    reach.issuers.insert("k8s".into(), settings);
    let broker = broker(&[("k8s", &site.url)], reach).await;
    is_agent(who(&broker, foreign.token("ES256", &claims(&site.url))).await);
    assert_eq!(site.tokens("/keys"), [Some("Bearer canary-of-the-issuer".to_owned())]);
    apply(&broker, &bundle(&[("k8s", &thief.url)])).await;
    let status = who(&broker, foreign.token("ES256", &claims(&thief.url))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PT-0616"));
    assert!(status.message().contains("`[issuer.k8s]`"), "{status:?}");
    assert!(!status.message().contains(&site.url), "{status:?}");
    // Almost the same is another.
    for url in [format!("{}/", site.url), site.url.replace("127.0.0.1", "localhost")] {
        apply(&broker, &bundle(&[("k8s", &url)])).await;
        let status = who(&broker, foreign.token("ES256", &claims(&url))).await.unwrap_err();
        assert!(status.message().contains("`[issuer.k8s]`"), "{status:?}");
    }
    assert_eq!(thief.count(DISCOVERY), 0);
    // By another name the same server gets nothing of it.
    apply(&broker, &bundle(&[("other", &thief.url)])).await;
    is_agent(who(&broker, foreign.token("ES256", &claims(&thief.url))).await);
    assert_eq!(thief.tokens(DISCOVERY), [None]);
    broker.stop().await;
}

/// A bundle that gives one issuer's URL to another name: who came in as the one is not the other. Keys are files here, so
/// that nothing but the name tells.
#[tokio::test(flavor = "multi_thread")]
async fn attack_bundle_swaps_two_issuers() {
    let foreign = Foreign::new();
    let (one, two) = ("https://one.example", "https://two.example");
    let with_keys = |issuers: &[(&str, &str)]| {
        let files = edited(&bundle(issuers), "issuers.toml", |text| {
            text.replace("\nfor = ", "\njwks = \"file:keys.json\"\nfor = ")
        });
        let mut files = files.to_vec();
        files.push(("keys.json".into(), foreign.jwks().into_bytes().into()));
        files.sort();
        Files::from(files)
    };
    let wish = Wish { bundle: Some(with_keys(&[("one", one), ("two", two)])), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let mut caller = broker.clients(Some(foreign.token("ES256", &claims(one))));
    let hold = v1::HoldTaskRequest { task_id: fresh_task(), lease: None };
    let beats = tokio_stream::once(hold).chain(tokio_stream::pending());
    let mut held = caller.access.hold_task(beats).await.unwrap().into_inner();
    assert!(goes_on(&mut held).await);
    apply(&broker, &with_keys(&[("one", two), ("two", one)])).await;
    let status = end(&mut held).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "PT-0614".into()));
    // By its new name it comes in again.
    is_agent(who(&broker, foreign.token("ES256", &claims(one))).await);
    broker.stop().await;
}

/// Anybody can get a token of a public issuer for our audience: trying claims tells nobody which identities there are, nor
/// what their logins want.
#[tokio::test(flavor = "multi_thread")]
async fn attack_refusals_list_who_there_is() {
    let foreign = Foreign::new();
    let wish = Wish { bundle: Some(foreign.bundle()), ..Wish::default() };
    let broker = TestBroker::with(wish).await;
    let good = agent(SystemClock.unix().as_secs());
    for (spoilt, told) in [
        (vec![("ref", "refs/heads/feature")], true),
        (vec![("repository_id", "8")], false),
        (vec![("repository_owner_id", "43")], false),
        (vec![("repository_owner_id", "43"), ("repository_id", "9"), ("ref", "x")], false),
    ] {
        let mut claims = good.clone();
        for (claim, value) in &spoilt {
            claims[*claim] = json!(value);
        }
        let mut caller = broker.clients(Some(foreign.token("ES256", &claims)));
        let who = caller.access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
        let status = caller.ask(&fresh_task()).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0610");
        for text in [&*who.why_not, status.message()] {
            assert_eq!(text.contains("payments/"), told, "{spoilt:?}: {text}");
            assert_eq!(text.contains("refs/heads/main"), told, "{spoilt:?}: {text}");
            let own = claims["repository_id"].as_str().unwrap();
            assert!(told || text.contains(&format!("its `repository_id` is `{own}`")), "{text}");
        }
    }
    broker.stop().await;
}

/// A token file that never ends, or never begins, holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_hangs_is_told_of() {
    let foreign = Foreign::new();
    let site = Site::with_keys(&foreign.jwks()).await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let large = folder.path().join("large");
    std::fs::write(&large, "x".repeat(20_000)).unwrap();
    for (token_file, says) in
        [(pipe, "no plain file"), ("/dev/zero".into(), "no plain file"), (large, "larger than")]
    {
        let mut reach = reach();
        let url = site.url.clone();
        let settings = IssuerSettings { url, token_file, ..IssuerSettings::default() };
        reach.issuers.insert("idp".into(), settings);
        let broker = Arc::new(broker(&[("idp", &site.url)], reach).await);
        let status = who(&broker, foreign.token("ES256", &claims(&site.url))).await.unwrap_err();
        assert_eq!(reason(&status), "PT-0616");
        assert!(status.message().contains(says), "{status:?}");
        Arc::into_inner(broker).unwrap().stop().await;
    }
    assert_eq!(site.count(DISCOVERY), 0);
}
