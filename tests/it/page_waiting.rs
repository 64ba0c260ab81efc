//! A long queue on the page: a real browser goes through all of it, page by page.

use std::time::Duration;

use protem::cli::ask::fresh_key;
use protem::cli::client::Client;
use protem::policy::example::example;
use protem_proto::wire::v1;
use tonic::Code;

use crate::browser::{Browser, Look, Window, installed};
use crate::page::{ALICE, shot, signed_in};
use crate::process::Broker;

/// More than a page holds.
const WAITING: usize = 203;

/// The example bundle, in which so many may wait.
fn bundle() -> Vec<(String, String)> {
    let text = |content: &[u8]| {
        let text = str::from_utf8(content).unwrap();
        text.replace("pending_max      = 20\n", "pending_max      = 1000\n")
    };
    example().iter().map(|(name, content)| (name.to_string(), text(content))).collect()
}

async fn ask(client: &Client, number: usize) {
    let task = Some(v1::Task { id: format!("t-{number}"), ..v1::Task::default() });
    let request = v1::RequestAccessRequest {
        task,
        resource: "orders-api".into(),
        scopes: vec!["orders:refund".into()],
        purpose: format!("number {number}"),
        request_id: fresh_key().to_string(),
        ..v1::RequestAccessRequest::default()
    };
    loop {
        match client.access().request_access(request.clone()).await {
            Ok(_) => return,
            Err(status) if status.code() == Code::ResourceExhausted => {
                assert!(status.message().contains("more often than"), "{status:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

fn goes_through(window: &Window, list: &str) {
    let rows = format!("#{list} li.row");
    assert_eq!(window.count(&rows), 200);
    let first = || window.run(&format!("document.querySelector('#{list} a.row-main').id"));
    let begin = first();
    shot(window, &format!("waiting-{list}"));
    window.click(&format!("#further-{list}"));
    window.wait(&format!("#{list}-head:text('further ones')"));
    assert_eq!(window.count(&rows), 3);
    assert_ne!(first(), begin);
    window.click("a:text('Back to the first ones')");
    window.wait(&format!("#further-{list}"));
    assert_eq!((window.count(&rows), first()), (200, begin));
}

#[test]
fn a_long_queue_is_looked_through_page_by_page() {
    let Some(folder) = installed() else { return };
    let files = bundle();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let (broker, browser) = (Broker::with_bundle(&files), Browser::start(&folder));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = broker.client("payments/agent");
        for number in 0..WAITING {
            ask(&client, number).await;
        }
    });
    // Who may decide sees them as their own, who may only look as those of others.
    let window = signed_in(&browser, &broker, ALICE, Look::default());
    assert_eq!((window.text("#mine .count"), window.count("#others li.row")), ("200+".into(), 0));
    goes_through(&window, "mine");
    let plain = Look { script: false, ..Look::default() };
    let window = signed_in(&browser, &broker, "olga:operators", plain);
    assert_eq!(window.count("#mine li.row"), 0);
    goes_through(&window, "others");
    assert_eq!(window.trouble(), Vec::<String>::new());
}
