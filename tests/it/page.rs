//! People decide in a browser: a real one, at the page of a real broker, beside real jobs that wait.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::approvals_cli::{self, Job, terminal};
use crate::browser::{Browser, Look, Window, installed};
use crate::process::{Broker, Kept, PROTEM, until};

pub const ALICE: &str = "alice:shop-oncall";

/// An address that signs a person in, once.
pub fn way_in(broker: &Broker, who: &str) -> String {
    broker.run(who, &["auth", "web"]).expect(0).out.trim().to_owned()
}

/// A window in which somebody is signed in.
pub fn signed_in(browser: &Browser, broker: &Broker, who: &str, look: Look) -> Window {
    let window = browser.window(look);
    window.go(&way_in(broker, who));
    window.click("main button");
    window.wait("h1:text('Waiting')");
    window
}

/// A job that waits for a person, until it is dropped.
pub fn job(broker: &Broker, purpose: &str, more: &[&str]) -> Kept {
    let mut command: Command = broker.cli();
    command.args([
        "run",
        "--as",
        "payments/agent",
        "--on",
        "orders-api",
        "--scope",
        "orders:refund",
    ]);
    command.args(["--purpose", purpose]).args(more).args(["--", "true"]);
    Kept(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The ids of what waits, once there are so many.
pub fn waiting(broker: &Broker, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    until("requests wait", || {
        let all = broker.run(ALICE, &["pending", "-o", "json"]).expect(0).json();
        let all = all["pending"].as_array().cloned().unwrap_or_default();
        ids = all.iter().map(|one| one["grant"]["id"].as_str().unwrap().to_owned()).collect();
        ids.len() == count
    });
    ids
}

/// Where pictures for the docs are kept, when they are made anew.
pub fn shot(window: &Window, name: &str) {
    if let Ok(folder) = std::env::var("PROTEM_SCREENS") {
        window.shot(&Path::new(&folder).join(format!("{name}.png")));
    }
}

#[test]
fn a_person_approves_in_the_browser_and_the_job_runs() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let window = signed_in(&browser, &broker, ALICE, Look::default());
    assert!(window.text("#mine").contains("Nothing waits"), "{}", window.text("#mine"));
    let mut job = job(&broker, "INC-42: double charge", &[]);
    // The open page shows it by itself.
    window.wait("#mine a[href*='/ui/requests/']");
    shot(&window, "waiting");
    window.click("#mine a");
    window.wait("h1:text('payments/agent wants orders:refund')");
    assert!(window.text(".why").contains("INC-42: double charge"));
    shot(&window, "request");
    window.fill("#note", "go ahead");
    window.click("button:text-is('Approve')");
    window.wait("text=You approved this request.");
    shot(&window, "outcome");
    assert_eq!(job.ended(crate::process::PATIENCE), Some(0));
    assert_eq!(window.trouble(), Vec::<String>::new());
}

/// What waits, with the id of the one request.
pub fn one_waiting(broker: &Broker) -> String {
    waiting(broker, 1).remove(0)
}

pub fn open(window: &Window, broker: &Broker, id: &str) -> u64 {
    window.go(&format!("{}/ui/requests/{id}", broker.url())).status
}

#[test]
fn it_works_without_javascript() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let mut job = job(&broker, "INC-43", &[]);
    let id = one_waiting(&broker);
    let plain = Look { script: false, ..Look::default() };
    let window = signed_in(&browser, &broker, ALICE, plain);
    assert!(window.text("#mine").contains("new resource, new scope"), "{}", window.text("#mine"));
    window.click("#mine a");
    let found = window.text(".findings");
    assert!(found.contains("new resource: nothing on “orders-api” was granted"), "{found}");
    window.choose("#lifetime", "300");
    window.fill("#note", "five minutes will do");
    window.click("button:text-is('Approve')");
    window.wait("text=You approved this request.");
    assert!(window.text("main").contains("for up to 5 min"), "{}", window.text("main"));
    assert_eq!(job.ended(crate::process::PATIENCE), Some(0));
    let grant = broker.run("olga:operators", &["grant", &id, "-o", "json"]).expect(0).json();
    assert_eq!(grant["grant"]["lifetime"], "300s");
    window.click("button:text-is('Sign out')");
    window.wait("h1:text('Sign in')");
    assert_eq!(
        window.go(&format!("{}/ui/", broker.url())).url,
        format!("{}/ui/sign-in?to=/ui/", broker.url())
    );
}

#[test]
fn a_denial_needs_a_reason_and_the_job_is_told() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let mut job = job(&broker, "INC-44", &[]);
    let id = one_waiting(&broker);
    let window = signed_in(&browser, &broker, ALICE, Look::default());
    open(&window, &broker, &id);
    window.click("button:text-is('Deny')");
    // The browser asks for the reason; without its help the broker does.
    assert!(window.url().ends_with(&id));
    window.run("document.querySelector('#reason').removeAttribute('required')");
    window.click("button:text-is('Deny')");
    window.wait("text=say why");
    window.click("text=Look at it as it is now");
    window.fill("#reason", "ask the customer first");
    window.click("button:text-is('Deny')");
    window.wait("text=You denied this request.");
    let told = window.text("main");
    assert!(
        told.contains("alice ended it (denied)") && told.contains("ask the customer first"),
        "{told}"
    );
    assert_eq!(job.ended(crate::process::PATIENCE), Some(125));
}

#[test]
fn nobody_is_kept_out() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let _job = job(&broker, "INC-45: the card was charged twice, see the ticket", &[]);
    let id = one_waiting(&broker);
    let owner = "pat:payments-oncall,shop-oncall";
    for (dark, width) in [(false, 1_100), (true, 1_100), (false, 390), (true, 390)] {
        let look = Look { dark, width, bypass: true, ..Look::default() };
        let free = |window: &Window, name: &str| {
            assert_eq!(window.barriers(), Vec::<serde_json::Value>::new(), "{name} {dark} {width}");
            let wider =
                "document.documentElement.scrollWidth > document.documentElement.clientWidth";
            assert_eq!(window.run(wider), false, "{name} is wider than the window, {width}");
            shot(window, &format!("{name}-{}-{width}", if dark { "dark" } else { "light" }));
        };
        let stranger = browser.window(look);
        stranger.go(&format!("{}/ui/", broker.url()));
        free(&stranger, "sign-in");
        let window = signed_in(&browser, &broker, ALICE, look);
        free(&window, "waiting");
        open(&window, &broker, &id);
        free(&window, "request");
        open(&window, &broker, "gr_nothing");
        free(&window, "nothing");
        let own = signed_in(&browser, &broker, owner, look);
        open(&own, &broker, &id);
        free(&own, "own-request");
    }
}

#[test]
fn two_different_people_decide_one_in_a_terminal_and_one_in_the_browser() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let more = ["--scope", "orders:refund", "--scope", "orders:read", "--purpose", "INC-46"];
    // It ends while access is still there, so that what it was given can be looked at.
    let go = broker.home().join("go");
    let script = format!("until [ -e '{}' ]; do sleep 0.05; done; exit 11", go.display());
    let job = Job::run(&broker, "both", &more, &script);
    let id = approvals_cli::id(&broker, "both");
    let window = signed_in(&browser, &broker, "alice:desk", Look::default());
    open(&window, &broker, &id);
    window.fill("#note", "yes");
    window.click("button:text-is('Approve')");
    window.wait("text=You approved this request. It still waits for others.");
    // She thinks again, and approves less.
    window.click("button:text-is('Take my approval back')");
    window.wait("text=You took your approval back.");
    window.wait("text=0 of 2 approvals");
    window.check("input[value='orders:read'][type=checkbox]", false);
    window.click("button:text-is('Approve')");
    window.wait("h1:text-matches('wants orders:refund on')");
    let typed = terminal(&broker, "bob:desk", &format!("approve {id}"), "a\nas alice says\n");
    let typed = typed.expect("tests of the page have a terminal, too").expect(0);
    assert!(typed.out.contains("1 so far, from alice"), "{}", typed.out);
    // The open page hears of it.
    window.wait("text=as alice says");
    assert!(window.text("main").contains("bob approved"), "{}", window.text("main"));
    let granted = approvals_cli::grant(&broker, "both");
    assert_eq!(granted["scopes"], serde_json::json!(["orders:refund"]));
    std::fs::write(go, "").unwrap();
    job.ends(11);
}

#[test]
fn an_emergency_is_looked_at_in_the_browser() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let more = ["--scope", "orders:refund", "--emergency", "--purpose", "the site is down"];
    Job::request(&broker, "glass", &more).ends(0);
    let window =
        signed_in(&browser, &broker, "olga:operators", Look { bypass: true, ..Look::default() });
    window.click("nav a:text('Reviews')");
    window.wait("text=the site is down");
    shot(&window, "reviews");
    assert_eq!(window.barriers(), Vec::<serde_json::Value>::new());
    // Who answers for the identity sees it, and does not close it.
    let owner = signed_in(&browser, &broker, "lea:leads,operators", Look::default());
    owner.go(&format!("{}/ui/reviews", broker.url()));
    assert!(
        owner.text("main").contains("You may not close this review: you own"),
        "{}",
        owner.text("main")
    );
    assert_eq!(owner.count("main form"), 0);
    window.fill("main input[name=note]", "looked at the log, all refunds are real");
    window.click("button:text('Close this review')");
    window.wait("text=You closed this review.");
    // The other open page hears of it.
    owner.wait("#closed :text('all refunds are real')");
    let again = ["--scope", "orders:refund", "--emergency", "--purpose", "again"];
    Job::request(&broker, "next", &again).ends(0);
}

#[test]
fn an_open_page_tells_what_became_of_a_request() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let window = signed_in(&browser, &broker, "alice:desk", Look::default());
    let job = Job::refund(&broker, "withdrawn", "true");
    open(&window, &broker, &approvals_cli::id(&broker, "withdrawn"));
    job.interrupt();
    window.wait(".state:text('withdrawn')");
    let more = ["--scope", "orders:write", "--purpose", "soon"];
    let job = Job::request(&broker, "lapsed", &more);
    let mut id = String::new();
    until("it was asked", || {
        let all = broker.run("olga:operators", &["grants", "-o", "json"]).expect(0).json();
        let mut all = all["grants"].as_array().unwrap().clone().into_iter();
        let found = all.find(|one| one["task"]["id"] == "lapsed");
        id = found.map(|one| one["id"].as_str().unwrap().to_owned()).unwrap_or_default();
        !id.is_empty()
    });
    open(&window, &broker, &id);
    window.wait(".state:text('lapsed')");
    job.ends(3);
}

/// Anybody on a machine sees how programs were called: the browser is told where the address is, and not the address.
#[test]
fn attack_a_sign_in_is_read_from_the_process_list() {
    let broker = Broker::with_bundle(&[]);
    let bin = broker.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let opener = bin.join("xdg-open");
    let script = "#!/bin/sh\nprintf '%s\\n' \"$@\" > argv\nstat -c %a \"$1\" > mode\ncp \"$1\" page.html\n: > opened\n";
    std::fs::write(&opener, script).unwrap();
    std::fs::set_permissions(&opener, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    // `terminal` begins with the program; what follows runs with the opener of this test, while there is a terminal.
    let wait = "for try in $(seq 600); do [ -e opened ] && break; sleep 0.1; done";
    let words = format!("--version; PATH={}:{path} {} auth web; {wait}", bin.display(), PROTEM);
    let Some(ran) = terminal(&broker, ALICE, &words, "") else { return };
    let ran = ran.expect(0);
    let read = |name: &str| std::fs::read_to_string(broker.home().join(name)).unwrap();
    until("the browser is opened", || broker.home().join("opened").exists());
    let printed = ran.out.split_whitespace().find(|word| word.contains("ticket=")).unwrap();
    let ticket = printed.split("ticket=").nth(1).unwrap();
    assert!(
        !read("argv").contains("ticket") && read("argv").lines().count() == 1,
        "{}",
        read("argv")
    );
    assert!(read("page.html").contains(ticket), "{}", read("page.html"));
    assert_eq!(read("mode").trim(), "600");
}
