//! Attacks on the forms that end access, and on the pages that show what requesters and operators wrote.

use serde_json::json;

use crate::approvals_cli;
use crate::broker::ask;
use crate::browser::{Browser, Look, Window, installed};
use crate::page::signed_in;
use crate::page_attacks::{field, send};
use crate::page_stop::{OPERATOR, Running, go, newest, newest_id};
use crate::process::Broker;

/// Another site's form with the right token; its browser says where it comes from.
fn foreign(browser: &Browser, of: &Window, url: &str, fields: &[(&str, &str)]) {
    let inputs: String =
        fields.iter().map(|(name, value)| format!("<input name={name} value='{value}'>")).collect();
    let evil = format!(
        "data:text/html,<form method=post action='{url}'>{inputs}<button>win</button></form>"
    );
    let window = browser.window(Look::default());
    window.plant(&json!(of.cookies()));
    window.try_go(&evil);
    window.click("button");
    window.wait("text=PT-");
}

#[test]
fn attack_csrf_revoke_and_quarantine() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let mut job = Running::start(&broker, "load/w0", "t-1", "INC-70");
    let id = newest_id(&broker);
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    let other = signed_in(&browser, &broker, OPERATOR, Look::default());
    go(&other, &broker, &format!("/ui/revoke?grant={id}"));
    let others = field(&other, "csrf");
    go(&window, &broker, &format!("/ui/revoke?grant={id}"));
    let csrf = field(&window, "csrf");
    let forms = [
        ("/ui/revoke", format!("grant: '{id}'")),
        ("/ui/revoke", "identity: 'load/w0'".to_owned()),
        ("/ui/quarantine", "identity: 'load/w0'".to_owned()),
    ];
    for (path, what) in &forms {
        for wrong in ["", "x", &others] {
            let fields = format!("{{{what}, note: 'mine', csrf: '{wrong}'}}");
            assert_eq!(send(&window, path, &fields), 403, "{path} {wrong}");
        }
    }
    let url = |path: &str| format!("{}{path}", broker.url());
    let with = [("csrf", &*csrf), ("note", "mine")];
    let grant = [with.as_slice(), &[("grant", &*id)]].concat();
    let whole = [with.as_slice(), &[("identity", "load/w0")]].concat();
    foreign(&browser, &window, &url("/ui/revoke"), &grant);
    foreign(&browser, &window, &url("/ui/quarantine"), &whole);
    // A link, a prefetch or an image asks, and ends nothing.
    for path in [
        format!("/ui/revoke?grant={id}&note=mine&csrf={csrf}"),
        "/ui/revoke?identity=load/w0".into(),
    ] {
        assert_eq!(go(&window, &broker, &path), 200);
    }
    assert_eq!(go(&window, &broker, "/ui/quarantine?identity=load/w0&note=mine"), 200);
    assert!(job.runs());
    assert_eq!(newest(&broker)["state"], "GRANT_STATE_ACTIVE");
    // The page's own form counts; without a note, or naming two things at once, it does not.
    let fields = |more: &str| format!("{{csrf: '{csrf}', {more}}}");
    assert_eq!(send(&window, "/ui/revoke", &fields(&format!("grant: '{id}'"))), 400);
    let both = format!("grant: '{id}', identity: 'load/w0', note: 'x'");
    assert_eq!(send(&window, "/ui/revoke", &fields(&both)), 400);
    assert_eq!(send(&window, "/ui/quarantine", &fields("identity: 'load/w0'")), 400);
    assert!(job.runs());
    let right = format!("grant: '{id}', note: 'x'");
    assert_eq!(send(&window, "/ui/revoke", &fields(&right)), 200);
    job.ends(124);
}

#[test]
fn attack_end_foreign_access_from_the_page() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let mut job = Running::start(&broker, "payments/agent", "t-1", "INC-71");
    let id = newest_id(&broker);
    for (who, one, all) in [("ada:auditors", 403, 403), ("sam:nobody", 404, 403)] {
        let window = signed_in(&browser, &broker, who, Look::default());
        let csrf = field(&window, "csrf");
        let with = |what: &str| format!("{{csrf: '{csrf}', note: 'mine', {what}}}");
        assert_eq!(send(&window, "/ui/revoke", &with(&format!("grant: '{id}'"))), one, "{who}");
        let identity = with("identity: 'payments/agent'");
        assert_eq!(send(&window, "/ui/revoke", &identity), all, "{who}");
        assert_eq!(send(&window, "/ui/quarantine", &identity), 403, "{who}");
    }
    // Owners of an identity, as such, do not end what it holds either: policy says who may.
    let owner = signed_in(&browser, &broker, "pat:payments-oncall", Look::default());
    let csrf = field(&owner, "csrf");
    let identity = format!("{{csrf: '{csrf}', note: 'mine', identity: 'payments/agent'}}");
    assert_eq!(send(&owner, "/ui/revoke", &identity), 403);
    assert!(job.runs());
    assert_eq!(newest(&broker)["state"], "GRANT_STATE_ACTIVE");
    // What somebody else ended is told only to those who may look at it.
    let line = ["revoke", "--grant", &id, "--note", "over", "-o", "json"];
    let told = broker.run(OPERATOR, &line).expect(0).out;
    let seq = told.split("\"seq\"").nth(1).unwrap();
    let digits = |letter: &char| letter.is_ascii_digit();
    let seq: String = seq.chars().skip_while(|letter| !digits(letter)).take_while(digits).collect();
    for (who, expect) in [("olga:operators", 200), ("ada:auditors", 200), ("sam:nobody", 404)] {
        let window = signed_in(&browser, &broker, who, Look::default());
        let path = format!("/ui/revocations/{seq}");
        assert_eq!(go(&window, &broker, &path), expect, "{who}");
        // Entries that end nothing are nobody's page.
        assert_eq!(go(&window, &broker, "/ui/revocations/1"), 404);
        assert_eq!(go(&window, &broker, "/ui/revocations/999999"), 404);
        assert_eq!(go(&window, &broker, "/ui/revocations/x"), 404);
    }
    job.ends(124);
}

#[test]
fn attack_xss_bidi_ansi_in_purpose_note_and_search() {
    let Some(folder) = installed() else { return };
    let evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script> שלום {{7*7}}";
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let mut wish = ask("t-1");
    wish.purpose = evil.into();
    let task = wish.task.as_mut().unwrap();
    task.url = "https://x.example/?\"><svg/onload=alert(3)>&amp;".into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        broker.client("load/w0").access().request_access(wish).await.unwrap();
    });
    let id = newest_id(&broker);
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    let clean = |path: &str| {
        go(&window, &broker, path);
        let alien = ["img", "script", "svg"].map(|of| window.count(&format!("main {of}")));
        assert_eq!(alien, [0, 0, 0], "{path}");
        // That a search is refused is no trouble; a dialog, or what the page's policy stopped, is.
        let mut trouble = window.trouble();
        trouble.retain(|line| !line.starts_with("Failed to load resource"));
        assert_eq!(trouble, Vec::<String>::new(), "{path}");
        window.text("main")
    };
    let grant = format!("/ui/grants/{id}");
    for path in ["/ui/grants", &grant, &format!("/ui/revoke?grant={id}")] {
        assert!(clean(path).contains(evil), "{path}");
    }
    assert!(clean(&grant).contains("<svg/onload=alert(3)>&amp;"));
    assert!(clean("/ui/inventory/identities/load/w0").contains(evil));
    // What is searched for comes back in the form, as text.
    let coded: String = evil.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for field in ["identity", "task", "resource", "state", "id", "before"] {
        clean(&format!("/ui/grants?{field}={coded}"));
    }
    for field in ["name", "dormant", "unowned", "after"] {
        clean(&format!("/ui/inventory?{field}={coded}"));
    }
    for path in ["/ui/revoke?grant=", "/ui/revoke?identity=", "/ui/quarantine?identity="] {
        clean(&format!("{path}{coded}"));
    }
    clean(&format!("/ui/inventory/identities/{coded}"));
    clean(&format!("/ui/revocations/{coded}"));
    // Also what an operator writes; and what hides or reorders is refused where it comes in.
    go(&window, &broker, &format!("/ui/revoke?grant={id}"));
    window.fill("#note", "over\u{202e}\u{1b}[2J");
    window.click("button:text-is('Revoke now')");
    window.wait("text=has control, direction or invisible characters");
    assert_eq!(newest(&broker)["state"], "GRANT_STATE_ACTIVE");
    window.click("text=Look at it as it is now");
    window.fill("#note", evil);
    window.click("button:text-is('Revoke now')");
    window.wait("text=It is over");
    assert!(window.text("main").contains(evil), "{}", window.text("main"));
    assert!(clean(&grant).contains(evil));
}
