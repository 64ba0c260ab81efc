//! Issuers that are discovered over TLS by their own CA, as the settings of a real broker process name it.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::foreign::Foreign;
use crate::issuers::{bundle, claims, renamed, token_of};
use crate::oidc::Served;
use crate::pki::{Authority, server, write};
use crate::process::{PATIENCE, Ran, ran};
use crate::site::{Answer, DISCOVERY, Site};

/// What `protem auth status` says to a token of the issuer, with these lines about it in the settings.
fn status(site: &Site, token: &str, lines: &str) -> Ran {
    let served = Served::with_settings(&bundle(&[("idp", &site.url)]), lines);
    let file = served.home().join("token");
    write(&file, token);
    let mut command = served.cli();
    command.args(["auth", "status"]).env("PROTEM_TOKEN_FILE", file);
    tokio::task::block_in_place(|| ran(command.output().unwrap()))
}

fn issuer(url: &str, folder: &Path, ca: &str) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    format!(
        "[issuer.idp]\nurl = {}\nca = {}\ntoken_file = {}\n",
        json!(url),
        json!(file(ca)),
        json!(file("bearer"))
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_discovered_over_tls_by_the_ca_of_the_settings_alone() {
    let (ca, other) = (Authority::new("inside"), Authority::new("other"));
    let (foreign, folder) = (Foreign::new(), tempfile::tempdir().unwrap());
    let site = Site::over_tls(&ca.issue(&server())).await;
    site.describe(&site.url, &format!("{}/keys", site.url));
    site.set("/keys", Answer::Json(foreign.jwks(), ""));
    write(&folder.path().join("ca.pem"), &ca.pem());
    write(&folder.path().join("other.pem"), &other.pem());
    write(&folder.path().join("bearer"), "shown-to-the-issuer");
    let token = foreign.token("RS256", &claims(&site.url));

    // Nobody's CA, another's, and the right one that was given for another URL: the issuer is not believed, nor asked.
    let elsewhere = site.url.replace("localhost", "127.0.0.1");
    for (why, lines) in [
        ("the system's CAs", String::new()),
        ("another CA", issuer(&site.url, folder.path(), "other.pem")),
        ("a CA for another URL", issuer(&elsewhere, folder.path(), "ca.pem")),
    ] {
        let refused = status(&site, &token, &lines).expect(4);
        assert!(refused.err.contains("PT-0616"), "{why}: {refused:?}");
        assert_eq!(site.count(DISCOVERY) + site.count("/keys"), 0, "{why}");
    }
    let known = status(&site, &token, &issuer(&site.url, folder.path(), "ca.pem")).expect(0);
    assert!(known.out.contains("payments/agent"), "{known:?}");
    let shown = Some("Bearer shown-to-the-issuer".to_owned());
    assert_eq!(
        (site.tokens(DISCOVERY)[0].clone(), site.tokens("/keys")[0].clone()),
        (shown.clone(), shown)
    );
}

/// A key that the issuer has published a moment too late: the broker says when it looks again, and a command waits for that if
/// it waits that long at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_comes_back_when_a_broker_says_so() {
    let (ca, folder) = (Authority::new("inside"), tempfile::tempdir().unwrap());
    let foreign = Foreign::new();
    let site = Site::over_tls(&ca.issue(&server())).await;
    site.describe(&site.url, &format!("{}/keys", site.url));
    site.set("/keys", Answer::Json(foreign.jwks(), ""));
    write(&folder.path().join("ca.pem"), &ca.pem());
    write(&folder.path().join("bearer"), "shown-to-the-issuer");
    let lines = issuer(&site.url, folder.path(), "ca.pem");
    let served = Served::with_settings(&bundle(&[("idp", &site.url)]), &lines);
    let file = served.home().join("token");
    write(&file, &token_of(&foreign, "new", &claims(&site.url)));
    let command = |line: &[&str]| {
        let mut command = served.cli();
        command.args(line).env("PROTEM_TOKEN_FILE", &file);
        tokio::task::block_in_place(|| ran(command.output().unwrap()))
    };
    let ask = ["request", "--kind", "agent", "--on", "orders-api", "--scope", "orders:read"];
    // The first one has the keys fetched; whoever comes before they may be fetched again is told when that is.
    let until = Instant::now() + PATIENCE;
    let told = loop {
        let told = command(&ask).expect(4);
        if told.err.contains("PT-0617") {
            break told;
        }
        assert!(told.err.contains("PT-0605") && Instant::now() < until, "{told:?}");
    };
    assert!(told.err.contains("the answer says"), "{told:?}");
    site.set("/keys", Answer::Json(renamed(&foreign, "new"), ""));
    let got = command(&[&ask[..], &["--wait", "5m"]].concat()).expect(0);
    assert_eq!(got.out.trim().split('.').count(), 3, "{got:?}");
}
