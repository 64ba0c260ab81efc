//! People and clients of a certified OpenID Connect provider, through the real command line and a real broker.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::oidc::{Browser, Provider, Served, installed};
use crate::process::{files_under, mode};

/// How many seconds a sign-in's token lives that has to be renewed: longer than a loaded machine needs to show it.
const LIFE: u32 = 9;

/// A broker whose people sign in at `provider`, with this audience.
fn broker(provider: &Provider, audience: &str) -> Served {
    Served::start(|name, text| match name {
        "issuers.toml" => {
            let text = text.replace("https://idp.shop.example", &provider.issuer);
            text.replace("\"protem-people\"", &format!("\"{audience}\""))
        }
        _ => text.to_owned(),
    })
}

/// The one file of a sign-in.
fn kept(home: &Path) -> Option<std::path::PathBuf> {
    let files = files_under(&home.join("state/protem/login"));
    files.into_iter().find(|file| file.extension().is_some_and(|kind| kind == "json"))
}

#[test]
fn a_person_signs_in_acts_and_signs_out() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, 3_600);
    let broker = broker(&provider, "protem-people");
    broker.run(&["auth", "status"]).expect(4);
    let login = broker.login();
    let back = Browser::default().sign_in(&login.url, Some("olga"));
    // Somebody else's page cannot end the wait, nor make it take a code of theirs.
    let forged = back.replace("state=", "state=x");
    assert_eq!(Browser::default().ask("GET", &forged, None).status, 400);
    let page = Browser::default().ask("GET", &back, None);
    assert_eq!(page.status, 200, "{}", page.body);
    let ran = login.ended().expect(0);
    assert!(ran.out.contains("corp|olga@shop.example") && ran.out.contains("operators"), "{ran:?}");
    let file = kept(broker.home()).unwrap();
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let status = broker.run(&["auth", "status"]).expect(0);
    assert!(status.err.contains("`protem auth login` at `corp`"), "{status:?}");
    broker.run(&["grants"]).expect(0);
    let token = broker.run(&["auth", "token"]).expect(0).out;
    assert_eq!(token.trim().split('.').count(), 3);
    broker.run(&["auth", "logout"]).expect(0);
    assert_eq!(kept(broker.home()), None);
    broker.run(&["grants"]).expect(4);
}

#[test]
fn a_person_who_may_not_is_known_and_refused() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, 3_600);
    let broker = broker(&provider, "protem-people");
    let login = broker.login();
    let back = Browser::default().sign_in(&login.url, Some("anna"));
    Browser::default().ask("GET", &back, None);
    login.ended().expect(0);
    broker.run(&["quarantine", "payments/agent", "--note", "no"]).expect(3);
    // The same address as olga's, which the provider did not verify: it names nobody.
    let login = broker.login();
    let back = Browser::default().sign_in(&login.url, Some("mallory"));
    Browser::default().ask("GET", &back, None);
    let ran = login.ended().expect(4);
    assert!(ran.out.contains("email_verified"), "{ran:?}");
    broker.run(&["grants"]).expect(4);
}

#[test]
fn a_sign_in_that_is_refused_or_replayed_keeps_nothing() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, 3_600);
    let broker = broker(&provider, "protem-people");
    let login = broker.login();
    let back = Browser::default().sign_in(&login.url, None);
    Browser::default().ask("GET", &back, None);
    let ran = login.ended().expect(4);
    assert!(ran.err.contains("access_denied") && ran.err.contains("PT-0731"), "{ran:?}");
    // A code counts once, and only with the verifier of the sign-in that it answers.
    let login = broker.login();
    let used = Browser::default().sign_in(&login.url, Some("olga"));
    Browser::default().ask("GET", &used, None);
    login.ended().expect(0);
    broker.run(&["auth", "logout"]).expect(0);
    let login = broker.login();
    let fresh = Browser::default().sign_in(&login.url, Some("olga"));
    Browser::default().ask("GET", &put(&fresh, "code", value(&used, "code")), None);
    let ran = login.ended().expect(4);
    assert!(ran.err.contains("invalid_grant"), "{ran:?}");
    // The answer of another issuer than was asked.
    let login = broker.login();
    let fresh = Browser::default().sign_in(&login.url, Some("olga"));
    let page =
        Browser::default().ask("GET", &put(&fresh, "iss", "http%3A%2F%2Fevil.example"), None);
    assert_eq!(page.status, 400);
    let ran = login.ended().expect(4);
    assert!(ran.err.contains("another issuer") && ran.err.contains("PT-0730"), "{ran:?}");
    assert_eq!(kept(broker.home()), None);
}

#[test]
fn an_expired_sign_in_is_renewed_until_it_is_taken_back() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, LIFE);
    let broker = broker(&provider, "protem-people");
    let login = broker.login();
    let back = Browser::default().sign_in(&login.url, Some("olga"));
    Browser::default().ask("GET", &back, None);
    login.ended().expect(0);
    let file = kept(broker.home()).unwrap();
    let first = fs::read_to_string(&file).unwrap();
    std::thread::sleep(Duration::from_secs(u64::from(LIFE) + 1));
    // Several at once show the refresh token once: a rotated one that is shown again ends the whole sign-in.
    let many: Vec<_> = (0..4)
        .map(|_| broker.cli().args(["grants"]).stderr(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    for mut one in many {
        assert_eq!(one.wait().unwrap().code(), Some(0));
    }
    let second = fs::read_to_string(&file).unwrap();
    assert_ne!(first, second);
    assert_eq!(mode(&file), 0o600);
    std::thread::sleep(Duration::from_secs(u64::from(LIFE) + 1));
    drop(provider);
    let ran = broker.run(&["grants"]).expect(7);
    assert!(ran.err.contains("PT-0730"), "{ran:?}");
}

#[test]
fn attack_token_of_another_client_of_the_same_provider() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, 3_600);
    let (ours, theirs) = (broker(&provider, "protem-people"), broker(&provider, "another-tool"));
    let login = theirs.login();
    let back = Browser::default().sign_in(&login.url, Some("olga"));
    Browser::default().ask("GET", &back, None);
    login.ended().expect(0);
    let token = theirs.run(&["auth", "token"]).expect(0).out;
    let file = ours.home().join("theirs.jwt");
    fs::write(&file, token).unwrap();
    let ran = ours.run(&["grants", "--token-file", file.to_str().unwrap()]).expect(4);
    assert!(ran.err.contains("PT-0607"), "{ran:?}");
}

#[test]
fn clients_of_a_certified_provider_sign_in_with_every_algorithm() {
    let Some(folder) = installed() else { return };
    let provider = Provider::start(&folder, 3_600);
    let algs = ["RS256", "ES256", "EdDSA"];
    let broker = Served::start(|name, text| {
        match name {
        "issuers.toml" => format!(
            "{text}\n[issuer.jobs]\npurpose = \"Jobs\"\nurl = \"{}\"\naudience = \"https://protem.shop.example\"\n\
             for = \"workloads\"\nowner = {{ business = \"group:shop-leads\", technical = \"group:shop-oncall\" }}\n",
            provider.issuer
        ),
        "identities.toml" => algs.iter().fold(text.to_owned(), |text, alg| {
            format!("{text}\n[[identity.\"payments/agent\".login]]\nissuer = \"jobs\"\nclaims = {{ sub = \"agent-{alg}\" }}\n")
        }),
        _ => text.to_owned(),
    }
    });
    let file = broker.home().join("job.jwt");
    let status = |audience: &str, alg: &str| {
        fs::write(&file, provider.workload(alg, audience)).unwrap();
        broker.run(&["auth", "status", "--token-file", file.to_str().unwrap()])
    };
    for alg in algs {
        let ran = status("https://protem.shop.example", alg).expect(0);
        assert!(ran.out.contains("payments/agent"), "{ran:?}");
        let ran = status("https://elsewhere.example", alg).expect(4);
        assert!(format!("{}{}", ran.out, ran.err).contains("aud"), "{ran:?}");
    }
}

/// The value of a parameter of a URL.
fn value<'a>(url: &'a str, name: &str) -> &'a str {
    let (_, query) = url.split_once('?').unwrap();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).unwrap().1
}

/// The URL with another value of a parameter.
fn put(url: &str, name: &str, to: &str) -> String {
    let old = format!("{name}={}", value(url, name));
    url.replace(&old, &format!("{name}={to}"))
}
