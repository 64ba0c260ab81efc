//! Who is told of what.

use std::collections::BTreeSet;
use std::time::Duration;

use protem_verify::ids::Seq;
use protem_verify::names::{GroupName, Words};
use protem_verify::time::Lifetime;

use crate::engine::approvals::{DecisionKind, Narrow};
use crate::engine::approvals_test::{
    TWO, active, agent, apply, approve, decide, dev, edited, waits,
};
use crate::engine::broker::Broker;
use crate::engine::broker_test::{Home, PATIENCE};
use crate::engine::notify::{About, Notice, Occasion};

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

/// What each message of a waiting request says: whom it asks, whether it is said anew, and who said yes.
fn pending(broker: &Broker) -> Vec<(Vec<String>, bool, usize)> {
    let (reader, bundle) = (broker.reader(), broker.bundle());
    let rows = (1..).map_while(|seq| reader.entry(Seq(seq)).unwrap());
    let notices = rows.filter_map(|row| Notice::of(&row, &bundle, &**reader).unwrap());
    let pending = notices.filter(|notice| notice.occasion == Occasion::Pending);
    let said = pending.map(|notice| {
        let About::Grant(news) = &notice.about else { panic!("{notice:?}") };
        assert!(news.decide_by.is_some());
        let groups = notice.groups.iter().map(ToString::to_string).collect();
        (groups, news.changed, news.approved_by.len())
    });
    said.collect()
}

fn said(groups: &[&str], changed: bool, yes: usize) -> (Vec<String>, bool, usize) {
    (groups.iter().map(|group| (*group).to_owned()).collect(), changed, yes)
}

const DECIDES: &str = "principal in Group::\"shop-oncall\", action == Action::\"approve\"";
const LEADS: (&str, &str, &str) =
    ("people.cedar", DECIDES, "principal in Group::\"shop-leads\", action == Action::\"approve\"");
/// The policy that asks for approval, in other words.
const OTHERWISE: (&str, &str, &str) = (
    "payments.cedar",
    "resource == Scope::\"orders-api#orders:refund\"\n);\n\n@id(\"payments-breaks",
    "resource == Scope::\"orders-api#orders:refund\"\n) when { true };\n\n@id(\"payments-breaks",
);

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_new_bundle_asks_is_told_and_nobody_whom_it_changes_nothing_for() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let grant = waits(&broker, &agent(&broker), "t-1").await;
    let bob = dev(&broker, "bob", &["shop-oncall", "shop-leads"]);
    approve(&broker, &bob, grant).await.unwrap();
    let mut expect = vec![said(&["shop-oncall"], false, 0)];
    // Nothing of it is about this request.
    apply(&broker, edited(&[TWO, ("catalog.toml", "Read customers", "Read shop customers")])).await;
    assert_eq!(pending(&broker), expect);
    // Others decide by the same words: they alone are told, and Bob is one of them.
    apply(&broker, edited(&[TWO, LEADS])).await;
    expect.push(said(&["shop-leads"], false, 1));
    assert_eq!(pending(&broker), expect);
    // Other words: nobody approved those.
    apply(&broker, edited(&[TWO, LEADS, OTHERWISE])).await;
    expect.push(said(&["shop-leads"], true, 0));
    assert_eq!(pending(&broker), expect);
    // Nothing more.
    let more = ("catalog.toml", "Read customers", "Read shop customers");
    apply(&broker, edited(&[TWO, LEADS, OTHERWISE, more])).await;
    assert_eq!(pending(&broker), expect);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowing_is_no_news() {
    let home = Home::new();
    let broker = home.start_with(edited(&[TWO])).unwrap();
    let grant = waits(&broker, &agent(&broker), "t-1").await;
    let ann = dev(&broker, "ann", &["shop-oncall"]);
    let before = broker.reader().grant(&grant).unwrap().unwrap().digest;
    let less = Narrow { scopes: None, lifetime: Some(Lifetime(Duration::from_secs(60))) };
    let yes = DecisionKind::Approve { note: Words::default(), narrow: Some(less) };
    let record = decide(&broker, &ann, grant, yes).await.unwrap();
    assert!(record.digest.is_some() && record.digest != before);
    assert_eq!(pending(&broker), [said(&["shop-oncall"], false, 0)]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_that_a_new_bundle_brings_is_told() {
    let home = Home::new();
    let broker = home.start_with(edited(&[])).unwrap();
    let grant = waits(&broker, &agent(&broker), "t-1").await;
    let rule = "@decide_within(\"30m\")\n@remind(\"1s\")\n@then(\"shop-leads\")";
    apply(&broker, edited(&[("payments.cedar", "@decide_within(\"30m\")", rule)])).await;
    let reminded = async {
        while !broker.reader().grant(&grant).unwrap().unwrap().reminded {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reminded).await.expect("nobody is reminded");
    let reminders: Vec<_> =
        told(&broker).into_iter().filter(|(what, _)| *what == Occasion::Reminder).collect();
    let groups = ["shop-leads", "shop-oncall"].map(|name| GroupName::try_from(name).unwrap());
    assert_eq!(reminders, [(Occasion::Reminder, groups.into())]);
    broker.stop().await;
}
