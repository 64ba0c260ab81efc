//! Grants, inventory and gateways in a browser: what is there, who may look at it, and that nobody is kept out.

use crate::approvals_cli;
use crate::browser::{Browser, Look, Window, installed};
use crate::gate::Gate;
use crate::page::{shot, signed_in};
use crate::page_stop::{OPERATOR, Running, go, newest_id};
use crate::process::{Broker, until};

#[test]
fn grants_are_found_by_whose_what_for_on_what_and_where_they_stand() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let ask = |who: &str, task: &str| {
        let line = ["request", "--task", task, "--on", "orders-api", "--scope", "orders:read"];
        broker.run(who, &line).expect(0);
        newest_id(&broker)
    };
    let first = ask("load/w0", "one");
    ask("load/w0", "two");
    ask("load/w1", "one");
    broker.run("load/w0", &["complete", "one"]).expect(0);
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    let shown = |search: &str| {
        let status = go(&window, &broker, &format!("/ui/grants?{search}"));
        (status, window.count("#found > li"))
    };
    assert_eq!(shown(""), (200, 3));
    assert_eq!(shown("identity=load/w0"), (200, 2));
    assert_eq!(shown("identity=load/w0&task=one"), (200, 1));
    assert_eq!(shown("task=load/w1%23one"), (200, 1));
    assert_eq!(shown("identity=load/w0&state=active"), (200, 1));
    assert_eq!(shown("state=ended"), (200, 1));
    assert_eq!(shown("state=waiting"), (200, 0));
    assert_eq!(shown("identity=load/w0&resource=orders-api"), (200, 2));
    assert_eq!(shown("identity=load/w0&resource=elsewhere"), (200, 0));
    assert_eq!(shown("task=one"), (400, 0));
    assert!(window.text("main").contains("belongs to an identity"), "{}", window.text("main"));
    assert_eq!(shown("identity=NO%20NAME"), (400, 0));
    // By its id, and by the end of one.
    assert_eq!(go(&window, &broker, &format!("/ui/grants?id={first}")), 200);
    assert!(window.url().ends_with(&format!("/ui/grants/{first}")), "{}", window.url());
    assert!(window.text("h1").contains("completed"), "{}", window.text("h1"));
    let end: String = first.chars().skip(first.len() - 8).collect();
    assert_eq!(go(&window, &broker, &format!("/ui/grants?id={end}")), 200);
    assert!(window.url().ends_with(&format!("/ui/grants/{first}")), "{}", window.url());
    assert_eq!(go(&window, &broker, "/ui/grants?id=zzzzzzzz"), 404);
    assert!(window.text("main").contains("ends with “zzzzzzzz”"), "{}", window.text("main"));
}

/// More grants than a page holds come on further pages, each once.
#[test]
fn long_lists_come_by_pages() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = broker.client("load/w0");
        for number in 0..53 {
            // A busy machine may take longer than a call; the same ask under the same task is the same grant.
            let wish = crate::broker::ask(&format!("page-{number}"));
            while let Err(why) = client.access().request_access(wish.clone()).await {
                assert!(protem::cli::patience::repeat(&why), "{why}");
            }
        }
    });
    let plain = Look { script: false, ..Look::default() };
    let window = signed_in(&browser, &broker, OPERATOR, plain);
    go(&window, &broker, "/ui/grants?identity=load/w0");
    assert_eq!(window.count("#found > li"), 50);
    assert_eq!(window.count("#found >> text=page-52"), 1);
    window.click("button:text-is('Older ones')");
    window.wait("h2:text-is('Older')");
    assert_eq!(window.count("#found > li"), 3);
    assert_eq!(window.count("#found >> text=page-0"), 1);
    assert_eq!(window.count("button:text-is('Older ones')"), 0);
}

/// What each page answers to a person: 200, 403 with the reason, 404 where even the question would tell.
#[test]
fn each_page_is_for_those_who_may_look() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (Broker::with_bundle(&[]), Browser::start(&folder));
    let mut job = Running::start(&broker, "payments/agent", "t-1", "INC-65");
    let id = newest_id(&broker);
    let grant = format!("/ui/grants/{id}");
    let revoke = format!("/ui/revoke?grant={id}");
    let one = "/ui/inventory/identities/payments/agent";
    let quarantine = "/ui/quarantine?identity=payments/agent";
    let paths = ["/ui/grants", &grant, "/ui/inventory", one, "/ui/inventory/resources"];
    let more = ["/ui/inventory/secrets", "/ui/gateways", &revoke, quarantine];
    for (who, expect) in [
        ("olga:operators", [200, 200, 200, 200, 200, 200, 200, 200, 200]),
        ("ada:auditors", [200, 200, 200, 200, 200, 200, 200, 403, 403]),
        ("alice:shop-oncall", [403, 200, 403, 404, 200, 403, 403, 200, 403]),
        ("sam:nobody", [403, 404, 403, 404, 403, 403, 403, 404, 403]),
    ] {
        let window = signed_in(&browser, &broker, who, Look::default());
        let found: Vec<u64> =
            paths.iter().chain(&more).map(|path| go(&window, &broker, path)).collect();
        assert_eq!(found, expect, "{who}");
        if who.starts_with("ada") {
            go(&window, &broker, &grant);
            let said = window.text("#stop");
            assert!(said.contains("You may not revoke it.") && said.contains("ada"), "{said}");
            assert_eq!(window.count("#revoke"), 0);
            go(&window, &broker, one);
            assert_eq!(window.count("#stop a"), 0);
            assert!(window.text("main").contains("You may not quarantine it."));
        }
        if who.starts_with("alice") {
            assert_eq!(go(&window, &broker, "/ui/grants?resource=orders-api"), 200);
            assert_eq!(window.count("#found > li"), 1);
            go(&window, &broker, "/ui/inventory/resources");
            assert_eq!(window.count("main section"), 1);
        }
    }
    assert!(job.runs());
}

/// Made long ago, and not rotated since.
const OLD_KEY: &str = r#"
[secret.old-key]
purpose      = "CRM vendor key"
resource     = "legacy-crm"
owner        = { business = "group:shop-leads", technical = "group:shop-oncall" }
created      = 2026-01-04
rotate_every = "90d"
expires      = 2036-01-04
revoke       = "vendor console, Settings, API keys"
status       = "unmanaged"
found_in     = "the wiki"
"#;

/// The repository's own bundle, and that secret.
fn with_old_key() -> Vec<(String, String)> {
    let files = crate::broker::policies();
    let all = files.iter();
    let all = all.map(|(name, text)| (name.to_string(), String::from_utf8(text.to_vec()).unwrap()));
    all.map(|(name, text)| match &*name {
        "catalog.toml" => (name, format!("{text}\n{OLD_KEY}")),
        _ => (name, text),
    })
    .collect()
}

#[test]
fn the_inventory_tells_what_is_used_and_what_is_late() {
    let Some(folder) = installed() else { return };
    let files = with_old_key();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let (broker, browser) = (Broker::with_bundle(&files), Browser::start(&folder));
    let _job = Running::start(&broker, "payments/agent", "t-1", "INC-66");
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    let shown = |search: &str| {
        assert_eq!(go(&window, &broker, &format!("/ui/inventory?{search}")), 200, "{search}");
        window.count("#found > li")
    };
    let all = shown("");
    assert!(all >= 3 && shown("name=payments/") < all && shown("name=payments/agent") == 1);
    // Those that were never granted anything are dormant; the one that works is not.
    assert_eq!(shown("dormant=1"), all - 1);
    assert_eq!(shown("dormant=1&name=payments/agent"), 0);
    assert_eq!(shown("unowned=1"), 0);
    assert!(window.text("main").contains("Every identity has its owners"));
    go(&window, &broker, "/ui/inventory/identities/payments/agent");
    let said = window.text("main");
    assert!(said.contains("payments-leads") && said.contains("1 active grant"), "{said}");
    assert!(said.contains("How it proves who it is"), "{said}");
    go(&window, &broker, "/ui/inventory/resources");
    assert!(window.text("main").contains("POST /v1/orders/{id}/refund"));
    go(&window, &broker, "/ui/inventory/secrets");
    let said = window.text("main");
    assert!(
        said.contains("old-key") && said.contains("rotation overdue") && said.contains("the wiki"),
        "{said}"
    );
}

#[test]
fn gateways_are_shown_with_their_lag() {
    let Some(folder) = installed() else { return };
    let (broker, browser) = (approvals_cli::broker(), Browser::start(&folder));
    let window = signed_in(&browser, &broker, OPERATOR, Look::default());
    window.click("nav >> text=Gateways");
    window.wait("text=never came");
    assert!(window.text("#lag").contains("No gateway has acknowledged"));
    window.run("window.kept = true");
    let gate = Gate::start(&broker, &[]);
    // The open page hears of it, and is not loaded again.
    window.wait("#gateways .state:text-is('fresh')");
    let job = Running::start(&broker, "load/w0", "t-1", "INC-67");
    let id = newest_id(&broker);
    broker.run(OPERATOR, &["revoke", "--grant", &id, "--note", "over"]).expect(0);
    window.wait("#lag svg[role=img]");
    let told = window.run("document.querySelector('#lag svg').getAttribute('aria-label')");
    let told = told.as_str().unwrap().to_owned();
    assert!(told.contains("edge") && told.contains("99 of 100 within"), "{told}");
    job.ends(124);
    drop(gate);
    window.wait("#gateways .state:text-is('silent')");
    assert_eq!(window.run("window.kept"), true);
    assert_eq!(window.trouble(), Vec::<String>::new());
}

#[test]
fn nobody_is_kept_out_of_the_estate() {
    let Some(folder) = installed() else { return };
    let files = with_old_key();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let broker = Broker::rotating(&files, true, "30d");
    let browser = Browser::start(&folder);
    let _jobs = [
        ("payments/agent", "nightly-17", "INC-70: the totals of last night"),
        ("payments/reconciler", "batch-3", "Settlements of November"),
    ]
    .map(|(who, task, purpose)| Running::start(&broker, who, task, purpose));
    let over = Running::start(&broker, "payments/agent", "nightly-16", "INC-69");
    let ended = newest_id(&broker);
    broker.run(OPERATOR, &["revoke", "--grant", &ended, "--note", "a bad build"]).expect(0);
    over.ends(124);
    let entry = entry_that_ended(&broker, &ended);
    until("the gateway has acknowledged", || {
        let all = broker.run(OPERATOR, &["gateways", "-o", "json"]).expect(0).json();
        all["gateways"][0]["lagP99"].is_string()
    });
    let live = newest_live(&broker);
    let pages = [
        ("grants", "/ui/grants".to_owned()),
        ("grant", format!("/ui/grants/{live}")),
        ("grant-ended", format!("/ui/grants/{ended}")),
        ("revoke", format!("/ui/revoke?grant={live}")),
        ("revoke-identity", "/ui/revoke?identity=payments/agent".to_owned()),
        ("receipts", format!("/ui/revocations/{entry}")),
        ("inventory", "/ui/inventory".to_owned()),
        ("identity", "/ui/inventory/identities/payments/agent".to_owned()),
        ("quarantine", "/ui/quarantine?identity=payments/agent".to_owned()),
        ("resources", "/ui/inventory/resources".to_owned()),
        ("secrets", "/ui/inventory/secrets".to_owned()),
        ("gateways", "/ui/gateways".to_owned()),
    ];
    for (dark, width) in [(false, 1_100), (true, 1_100), (false, 390), (true, 390)] {
        let look = Look { dark, width, bypass: true, ..Look::default() };
        let window = signed_in(&browser, &broker, OPERATOR, look);
        for (name, path) in &pages {
            assert_eq!(go(&window, &broker, path), 200, "{path}");
            free(&window, name, look);
        }
        let stranger = signed_in(&browser, &broker, "sam:nobody", look);
        go(&stranger, &broker, "/ui/grants");
        free(&stranger, "grants-refused", look);
    }
}

fn free(window: &Window, name: &str, look: Look) {
    let Look { dark, width, .. } = look;
    assert_eq!(window.barriers(), Vec::<serde_json::Value>::new(), "{name} {dark} {width}");
    let wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(window.run(wider), false, "{name} is wider than the window, {width}");
    shot(window, &format!("{name}-{}-{width}", if dark { "dark" } else { "light" }));
}

/// The place in the journal at which a grant ended.
fn entry_that_ended(broker: &Broker, id: &str) -> String {
    let file = broker.home().join("dossier.json");
    let path = file.to_str().unwrap().to_owned();
    let export = broker.run(OPERATOR, &["audit", "export", id]).expect(0);
    std::fs::write(&path, &export.out).unwrap();
    let entries = export.json()["entries"].as_array().unwrap().clone();
    let last = entries.iter().rfind(|one| one["kind"] == "grant.ended").unwrap();
    last["seq"].as_str().map(str::to_owned).unwrap_or_else(|| last["seq"].to_string())
}

fn newest_live(broker: &Broker) -> String {
    let list = broker.run(OPERATOR, &["grants", "--state", "active", "-o", "json"]).expect(0);
    list.json()["grants"][0]["id"].as_str().unwrap().to_owned()
}
