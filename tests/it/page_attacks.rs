//! Attacks on the page, in a real browser: other sites, other people, old pages, and what requesters write.

use serde_json::json;

use crate::approvals_cli::{self, Job};
use crate::browser::{Browser, Look, Window, installed};
use crate::page::{ALICE, job, one_waiting, open, signed_in, way_in};
use crate::process::{Broker, PATIENCE};

/// Sends a form from the page's own script, as the page's own forms are sent, and tells the status.
pub fn send(window: &Window, path: &str, fields: &str) -> u64 {
    let code = format!(
        "fetch('{path}', {{method: 'POST', body: new URLSearchParams({fields})}}).then((answer) => answer.status)"
    );
    window.run(&code).as_u64().unwrap()
}

/// A field of the form that the page shows.
pub fn field(window: &Window, name: &str) -> String {
    let code = format!("document.querySelector('input[name={name}]').value");
    window.run(&code).as_str().unwrap().to_owned()
}

fn still_waits(broker: &Broker, id: &str) {
    assert_eq!(one_waiting(broker), id);
}

#[test]
fn attack_csrf_approve() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let mut job = job(&broker, "INC-50", &[]);
    let id = one_waiting(&broker);
    let window = signed_in(&browser, &broker, ALICE, Look::default());
    assert_eq!(open(&window, &broker, &id), 200);
    let (csrf, digest) = (field(&window, "csrf"), field(&window, "digest"));
    let path = format!("/ui/requests/{id}/approve");
    // Without the session's token, with a made-up one, and with that of another session of the same person.
    let other = signed_in(&browser, &broker, ALICE, Look::default());
    open(&other, &broker, &id);
    let others = field(&other, "csrf");
    for wrong in ["", "x", &others] {
        let fields = format!("{{digest: '{digest}', csrf: '{wrong}'}}");
        assert_eq!(send(&window, &path, &fields), 403, "{wrong}");
    }
    // Another site's form, even with the right token: its browser says where it comes from.
    let url = format!("{}{path}", broker.url());
    let evil = format!(
        "data:text/html,<form method=post action='{url}'><input name=csrf value='{csrf}'>\
         <input name=digest value='{digest}'><button>win</button></form>"
    );
    let foreign = browser.window(Look::default());
    foreign.plant(&json!(window.cookies()));
    foreign.try_go(&evil);
    foreign.click("button");
    foreign.wait("text=PT-");
    still_waits(&broker, &id);
    // The page's own form counts.
    open(&window, &broker, &id);
    assert_eq!(send(&window, &path, &format!("{{digest: '{digest}', csrf: '{csrf}'}}")), 200);
    assert_eq!(job.ended(PATIENCE), Some(0));
}

#[test]
fn attack_approve_link_prefetched() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let _job = job(&broker, "INC-51", &[]);
    let id = one_waiting(&broker);
    // A chat that looks at the link first leaves it as good as it was.
    let link = way_in(&broker, ALICE);
    let (chat, window) = (browser.window(Look::default()), browser.window(Look::default()));
    assert_eq!((chat.go(&link).status, chat.go(&link).status), (200, 200));
    assert_eq!(chat.cookies().len(), 0);
    window.go(&link);
    window.click("main button");
    window.wait("h1:text('Waiting')");
    for action in ["", "/approve", "/deny", "/take-back"] {
        window.go(&format!("{}/ui/requests/{id}{action}", broker.url()));
        still_waits(&broker, &id);
    }
    // The sign-in counts once.
    chat.click("main button");
    chat.wait("text=it counts once");
    assert_eq!(chat.cookies().len(), 0);
    // A caller token is no sign-in, nor is a sign-in of the page a caller token.
    let token = std::fs::read_to_string(broker.token_file(ALICE)).unwrap();
    assert_eq!(chat.go(&format!("{}/ui/sign-in?ticket={token}", broker.url())).status, 401);
    let ticket = way_in(&broker, ALICE);
    let file = broker.home().join("ticket");
    std::fs::write(&file, ticket.split("ticket=").nth(1).unwrap()).unwrap();
    broker.run("", &["pending", "--token-file", file.to_str().unwrap()]).expect(4);
}

#[test]
fn attack_session_fixation_and_what_browsers_are_told() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let window = browser.window(Look::default());
    let name = format!("protem-{}", broker.port());
    window.plant(&json!([{"name": name, "value": "known-to-somebody", "url": broker.url()}]));
    window.go(&way_in(&broker, ALICE));
    window.click("main button");
    window.wait("h1:text('Waiting')");
    let cookies = window.cookies();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    let cookie = &cookies[0];
    assert_eq!((&cookie["name"], &cookie["path"]), (&json!(name), &json!("/")));
    assert_ne!(cookie["value"], "known-to-somebody");
    assert_eq!((&cookie["httpOnly"], &cookie["sameSite"]), (&json!(true), &json!("Lax")));
    assert_eq!(window.run("document.cookie"), "");
    // Signing in once more in the same browser ends what was there before.
    window.go(&way_in(&broker, "bob:shop-oncall"));
    window.click("main button");
    window.wait("text=bob");
    let old = browser.window(Look::default());
    old.plant(&json!(cookies));
    assert!(old.go(&format!("{}/ui/", broker.url())).url.contains("/ui/sign-in"));
    // After signing out the cookie is worth nothing to whoever kept it.
    let kept = window.cookies();
    window.click("button:text-is('Sign out')");
    window.wait("h1:text('Sign in')");
    old.plant(&json!(kept));
    let answer = old.go(&format!("{}/ui/", broker.url()));
    assert!(answer.url.contains("/ui/sign-in"));
    let policy = answer.header("content-security-policy");
    for part in
        ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"]
    {
        assert!(policy.contains(part) && !policy.contains("unsafe"), "{part}: {policy}");
    }
    assert_eq!(
        (answer.header("x-frame-options"), answer.header("cache-control")),
        ("DENY", "no-store")
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

#[test]
fn attack_self_approve_by_every_entry_point() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let _job = job(&broker, "INC-52", &[]);
    let id = one_waiting(&broker);
    // Policy lets shop-oncall approve; who answers for the identity does not count, whatever else they are.
    let owner = "pat:payments-oncall,shop-oncall";
    let window = signed_in(&browser, &broker, owner, Look::default());
    assert_eq!(open(&window, &broker, &id), 200);
    let said = window.text("#decide");
    assert!(said.contains("You may not decide this") && said.contains("own"), "{said}");
    assert_eq!(window.count("#decide form") + window.count("#decide button"), 0);
    let csrf = field(&window, "csrf");
    let pending = broker.run(ALICE, &["pending", "-o", "json"]).expect(0).json();
    let digest = pending["pending"][0]["grant"]["digest"].as_str().unwrap().to_owned();
    for action in ["approve", "deny"] {
        let fields = format!("{{digest: '{digest}', csrf: '{csrf}', reason: 'mine'}}");
        assert_eq!(send(&window, &format!("/ui/requests/{id}/{action}"), &fields), 403, "{action}");
    }
    still_waits(&broker, &id);
    // Who may not know of it finds nothing there.
    let stranger = signed_in(&browser, &broker, "sam:nobody", Look::default());
    assert_eq!(open(&stranger, &broker, &id), 404);
    assert_eq!(stranger.count("a[href*='/ui/requests/']"), 0);
}

#[test]
fn attack_xss_bidi_ansi_in_reason() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script> שלום {{7*7}}";
    let _job = job(&broker, evil, &[]);
    let id = one_waiting(&broker);
    let window = signed_in(&browser, &broker, ALICE, Look::default());
    assert!(window.text("#mine").contains(evil), "{}", window.text("#mine"));
    open(&window, &broker, &id);
    assert!(window.text(".why").contains(evil));
    window.fill("#reason", evil);
    window.click("button:text-is('Deny')");
    window.wait("text=You denied this request.");
    assert!(window.text("main").contains(evil));
    assert_eq!(
        window.count("main img") + window.count("main script") + window.count("main svg"),
        0
    );
    assert_eq!(window.trouble(), Vec::<String>::new());
    // What hides or reorders is refused where it comes in, also from the page.
    let _next = job(&broker, "INC-53", &[]);
    let id = one_waiting(&broker);
    for hidden in ["no\u{202e}on", "no\u{e0041}", "\u{3164}"] {
        open(&window, &broker, &id);
        window.fill("#reason", hidden);
        window.click("button:text-is('Deny')");
        window.wait("text=has control, direction or invisible characters");
        still_waits(&broker, &id);
    }
}

#[test]
fn attack_change_request_after_approval() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let job = Job::refund(&broker, "changes", "true");
    let id = approvals_cli::id(&broker, "changes");
    let window = signed_in(&browser, &broker, "alice:desk", Look::default());
    open(&window, &broker, &id);
    let seen = field(&window, "digest");
    // Another approver narrows it: the open page is told, and what it showed before is not decided by it.
    broker.run("bob:desk", &["approve", &id, "--for", "5m"]).expect(0);
    window.wait("h1:text('for up to 5 min')");
    let csrf = field(&window, "csrf");
    let fields = format!("{{digest: '{seen}', csrf: '{csrf}'}}");
    assert_eq!(send(&window, &format!("/ui/requests/{id}/approve"), &fields), 409);
    window.click("button:text-is('Approve')");
    window.wait("text=You approved this request.");
    job.ends(0);
}

/// What an approver has chosen is theirs: whatever happens meanwhile, no click says more than they saw.
#[test]
fn attack_a_narrowing_is_undone_before_the_click() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let more = ["--scope", "orders:refund", "--scope", "orders:read", "--purpose", "INC-54"];
    let job = Job::request(&broker, "narrowed", &more);
    let id = approvals_cli::id(&broker, "narrowed");
    let window = signed_in(&browser, &broker, "alice:desk", Look::default());
    let read = "input[value='orders:read'][type=checkbox]";
    let chosen = || {
        let code = format!(
            "[document.querySelector(\"{read}\").checked, document.querySelector('#lifetime').value, \
             document.querySelector('#note').value, document.querySelector('#approve-head').parentElement.querySelector('button').disabled]"
        );
        window.run(&code)
    };
    open(&window, &broker, &id);
    let seen = field(&window, "digest");
    window.check(read, false);
    window.choose("#lifetime", "300");
    window.fill("#note", "refund alone, five minutes");
    // Another approver narrows it, so it is another request by now: what it shows is new, what was chosen is not.
    broker.run("bob:desk", &["approve", &id, "--for", "20m"]).expect(0);
    window.wait("h1:text('for up to 20 min')");
    window.wait("text=This page has changed since you began to decide.");
    assert_eq!(chosen(), json!([false, "300", "refund alone, five minutes", true]));
    assert_eq!(field(&window, "digest"), seen);
    // Nor does another way to send the form decide what was not seen.
    window.run("document.querySelector('#note').form.requestSubmit()");
    let csrf = field(&window, "csrf");
    let fields = format!("{{digest: '{seen}', csrf: '{csrf}'}}");
    assert_eq!(send(&window, &format!("/ui/requests/{id}/approve"), &fields), 409);
    window.wait("text=1 of 2 approvals");
    // Who looks again sees it as it is, as nobody has touched it.
    window.click("button:text-is('Look again')");
    window.wait("button:text-is('Approve'):enabled");
    assert_eq!(chosen(), json!([true, "", "", false]));
    assert_ne!(field(&window, "digest"), seen);
    window.check(read, false);
    window.choose("#lifetime", "300");
    // An approval of the same request changes nothing about what there is to decide.
    broker.run("bob:desk", &["approve", &id, "--undo"]).expect(0);
    window.wait("text=0 of 2 approvals");
    broker.run("carol:desk", &["approve", &id]).expect(0);
    window.wait("text=1 of 2 approvals");
    assert_eq!(window.count("[data-changed]"), 0);
    assert_eq!(chosen(), json!([false, "300", "", false]));
    window.click("button:text-is('Approve')");
    window.wait("text=You approved this request.");
    job.ends(0);
    let grant = approvals_cli::grant(&broker, "narrowed");
    assert_eq!((&grant["scopes"], &grant["lifetime"]), (&json!(["orders:refund"]), &json!("300s")));
    // What the browser says of the attempt above: refused.
    assert_eq!(window.trouble().len(), 1);
}
