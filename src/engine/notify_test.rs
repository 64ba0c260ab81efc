//! Who is told of what.

use std::collections::BTreeSet;

use protem_verify::ids::Seq;
use protem_verify::names::GroupName;

use crate::engine::approvals_test::{active, agent, approve, dev, edited, waits};
use crate::engine::broker::Broker;
use crate::engine::broker_test::Home;
use crate::engine::notify::{Notice, Occasion};

/// Whom every entry concerns that people are told of.
fn told(broker: &Broker) -> Vec<(Occasion, BTreeSet<GroupName>)> {
    let (reader, bundle) = (broker.reader(), broker.bundle());
    let rows = (1..).map_while(|seq| reader.entry(Seq(seq)).unwrap());
    let notices = rows.filter_map(|row| Notice::of(&row, &bundle, &**reader).unwrap());
    notices.map(|notice| (notice.occasion, notice.groups)).collect()
}

/// Who would be asked after a reminder hears nothing of what was decided before it.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_never_asked_is_told_nothing() {
    let rule = "@decide_within(\"30m\")\n@remind(\"20m\")\n@then(\"auditors\")";
    let home = Home::new();
    let edit = ("payments.cedar", "@decide_within(\"30m\")", rule);
    let broker = home.start_with(edited(&[edit])).unwrap();
    let grant = waits(&broker, &agent(&broker), "t-1").await;
    let ann = dev(&broker, "ann", &["shop-oncall"]);
    assert!(active(&approve(&broker, &ann, grant).await.unwrap()));
    let told = told(&broker);
    let occasions: Vec<Occasion> = told.iter().map(|(occasion, _)| *occasion).collect();
    assert_eq!(occasions, [Occasion::Pending, Occasion::Decided]);
    for (occasion, groups) in told {
        let is_told = |name: &str| groups.iter().any(|group| group.as_str() == name);
        assert!(is_told("shop-oncall") && !is_told("auditors"), "{occasion:?} {groups:?}");
    }
    broker.stop().await;
}
