//! People sign in to the page of a broker for real: a real browser, at a certified OpenID Connect provider.

use std::fs;
use std::process::Stdio;

use crate::browser::{self, Browser, Look, Window};
use crate::oidc::{self, Provider, Served, installed};
use crate::process::{Kept, PATIENCE, until};

/// A broker whose people sign in at the one, and whose jobs at the other.
fn broker(people: &Provider, jobs: &Provider) -> Served {
    Served::start(|name, text| match name {
        "issuers.toml" => format!(
            "{}\n[issuer.jobs]\npurpose = \"Jobs\"\nurl = \"{}\"\naudience = \"https://protem.shop.example\"\n\
             for = \"workloads\"\nowner = {{ business = \"group:shop-leads\", technical = \"group:shop-oncall\" }}\n",
            text.replace("https://idp.shop.example", &people.issuer),
            jobs.issuer
        ),
        "identities.toml" => format!(
            "{text}\n[[identity.\"payments/agent\".login]]\nissuer = \"jobs\"\nclaims = {{ sub = \"agent-ES256\" }}\n"
        ),
        _ => text.to_owned(),
    })
}

/// What a person does at the provider, from its first page until it leads back.
fn at_the_provider(window: &Window, who: &str) {
    window.wait("input[name=login]");
    window.fill("input[name=login]", who);
    window.fill("input[name=password]", "x");
    window.click("button[type=submit]");
    window.wait("button:text('Continue')");
    window.click("button[type=submit]");
}

fn sign_in(window: &Window, broker: &Served, who: &str) {
    window.go(&format!("{}/ui/", broker.url()));
    window.click("button:text('Sign in with corp')");
    at_the_provider(window, who);
}

#[test]
fn a_link_leads_through_the_sign_in_to_the_decision() {
    let (Some(oidc), Some(folder)) = (installed(), browser::installed()) else { return };
    let (people, jobs) = (Provider::start(&oidc, 3_600), Provider::start(&oidc, 3_600));
    let (broker, browser) = (broker(&people, &jobs), Browser::start(&folder));
    let file = broker.home().join("job.jwt");
    fs::write(&file, jobs.workload("ES256", "https://protem.shop.example")).unwrap();
    let mut command = broker.cli();
    command.env("PROTEM_TOKEN_FILE", &file).args(["request", "--wait", "--task", "INC-60"]);
    command.args(["--on", "orders-api", "--scope", "orders:refund", "--purpose", "INC-60"]);
    let said = broker.home().join("job.err");
    command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
    let mut job = Kept(command.spawn().unwrap());
    // The waiting line names the page of this very request.
    let mut link = String::new();
    until("the job says where it is decided", || {
        let said = fs::read_to_string(&said).unwrap();
        let found = said.split_whitespace().find(|word| word.contains("/ui/requests/gr_"));
        link = found.unwrap_or_default().to_owned();
        !link.is_empty()
    });
    for script in [false, true] {
        let window = browser.window(Look { script, ..Look::default() });
        window.go(&link);
        window.click("button:text('Sign in with corp')");
        at_the_provider(&window, "alice");
        window.wait("h1:text('payments/agent wants orders:refund')");
        assert!(window.url().starts_with(&link), "{}", window.url());
        assert!(window.text("header").contains("alice"));
        if script {
            // What the provider's own pages could not load is not ours.
            window.trouble();
            window.click("button:text-is('Approve')");
            window.wait("text=You approved this request.");
            assert_eq!(window.trouble(), Vec::<String>::new());
        }
    }
    assert_eq!(job.ended(PATIENCE), Some(0));
}

#[test]
fn a_link_with_a_query_survives_the_sign_in() {
    let (Some(oidc), Some(folder)) = (installed(), browser::installed()) else { return };
    let people = Provider::start(&oidc, 3_600);
    let (broker, browser) = (broker(&people, &people_of(&oidc)), Browser::start(&folder));
    let window = browser.window(Look::default());
    let link = format!("{}/ui/grants?identity=payments%2Fagent&state=active&done=x", broker.url());
    window.go(&link);
    window.click("button:text('Sign in with corp')");
    at_the_provider(&window, "alice");
    window.wait("h1:text('Grants')");
    let kept = format!("{}/ui/grants?identity=payments%2Fagent&state=active", broker.url());
    assert_eq!(window.url(), kept);
}

#[test]
fn attack_somebody_elses_sign_in_is_forced_on_a_browser() {
    let (Some(oidc), Some(folder)) = (installed(), browser::installed()) else { return };
    let people = Provider::start(&oidc, 3_600);
    let (broker, browser) = (broker(&people, &people_of(&oidc)), Browser::start(&folder));
    let (attacker, victim) = (browser.window(Look::default()), browser.window(Look::default()));
    attacker.go(&format!("{}/ui/sign-in", broker.url()));
    let begin = "fetch('/ui/sign-in/at', {method: 'POST', body: new URLSearchParams({issuer: 'corp', to: '//evil.example'})})\
                 .then((answer) => answer.text())";
    let page = attacker.run(begin).as_str().unwrap().replace("&amp;", "&");
    let url = page.split("0;url=").nth(1).unwrap().split('"').next().unwrap();
    let back = oidc::Browser::default().sign_in(url, Some("olga"));
    // The answer is of another browser than this one, or of another sign-in.
    assert_eq!(victim.go(&back).status, 401);
    assert!(victim.go(&format!("{}/ui/", broker.url())).url.contains("/ui/sign-in"));
    let forged = back.replace("state=", "state=x");
    assert_eq!(attacker.go(&forged).status, 401);
    // It was used up with that, however right the next one is.
    assert_eq!(attacker.go(&back).status, 401);
    assert!(
        attacker
            .cookies()
            .iter()
            .all(|cookie| cookie["name"] != format!("protem-{}", port(&broker)))
    );
    // Whom the provider does not vouch for is nobody here.
    sign_in(&victim, &broker, "mallory");
    victim.wait("text=nobody in the bundle has this login");
}

fn people_of(folder: &std::path::Path) -> Provider {
    Provider::start(folder, 3_600)
}

fn port(broker: &Served) -> String {
    broker.url().rsplit(':').next().unwrap().to_owned()
}

#[test]
fn an_open_page_ends_with_its_sign_in() {
    let (Some(oidc), Some(folder)) = (installed(), browser::installed()) else { return };
    let people = Provider::start(&oidc, 12);
    let (broker, browser) = (broker(&people, &people_of(&oidc)), Browser::start(&folder));
    let window = browser.window(Look::default());
    sign_in(&window, &broker, "alice");
    window.wait("h1:text('Waiting')");
    window.wait("text=Your sign-in has ended");
    assert!(window.url().contains("to=/ui/"), "{}", window.url());
}
