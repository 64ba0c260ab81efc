//! What is unusual, as policies of each act see it: when a request is asked, when it is decided, and in a bundle's own cases.

use std::sync::Arc;

use protem_verify::time::Time;

use crate::policy::bundle::{Bundle, Load};
use crate::policy::context::words;
use crate::policy::example::example;

/// The example with policies and cases added; none of its own cases.
fn with(policies: &str, cases: &str) -> Bundle {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> =
        example().iter().filter(|(name, _)| !name.starts_with("tests/")).cloned().collect();
    files.push(("added.cedar".into(), policies.as_bytes().into()));
    files.push(("tests/added.toml".into(), cases.as_bytes().into()));
    files.sort();
    let purpose = Load::Check { now: Time::from_secs(1_795_000_000) };
    Bundle::load(files.into(), purpose, false).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn forbid(id: &str, act: &str, word: &str) -> String {
    format!(
        "@id(\"{id}\") forbid (principal, action == Action::\"{act}\", resource) when {{ context.findings.contains(\"{word}\") }};\n"
    )
}

/// A case is expected to go one way with a finding, and the other way without it; a bundle whose cases fail does not load.
fn both(word: &str, of: &str, with: &str, without: &str) -> String {
    let case = |findings: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{expect} for {word}\"\n{of}findings = [{findings}]\nexpect = \"{expect}\"\n"
        )
    };
    case(&format!("\"{word}\""), with) + &case("", without)
}

const READS: &str = "identity = \"payments/agent\"\nresource = \"orders-api\"\nscopes = [\"orders:read\"]\ntask = { id = \"t\", kind = \"agent\" }\n";
const REFUNDS: &str =
    "identity = \"payments/agent\"\nresource = \"orders-api\"\nscopes = [\"orders:refund\"]\n";

#[test]
fn every_act_can_look_at_every_finding() {
    for word in words() {
        let acts = ["issue", "request", "emergency", "approve"];
        let policies = acts.map(|act| forbid(&format!("no-{act}"), act, word)).concat();
        let emergency = format!("action = \"emergency\"\n{REFUNDS}");
        let approve = format!("action = \"approve\"\ngroups = [\"shop-oncall\"]\n{REFUNDS}");
        let cases = both(word, READS, "deny", "issue")
            + &both(word, REFUNDS, "deny", "approval")
            + &both(word, &emergency, "deny", "permit")
            + &both(word, &approve, "deny", "permit");
        let bundle = with(&policies, &cases);
        let results = bundle.test();
        assert_eq!(results.len(), 8);
        assert!(results.iter().all(|result| result.passed), "{results:#?}");
        // They do decide: without the policies half of the cases fail.
        assert!(bundle.reads_findings);
    }
}

#[test]
fn a_case_that_expects_otherwise_fails() {
    let files = example();
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = files.to_vec();
    let cases = both("dormant", READS, "deny", "issue");
    files.push(("tests/zz.toml".into(), cases.as_bytes().into()));
    let purpose = Load::Check { now: Time::from_secs(1_795_000_000) };
    let found = Bundle::load(files.into(), purpose, false).unwrap_err();
    let failed = found.iter().filter(|one| one.message.contains("expected deny, decided issue"));
    assert_eq!(failed.count(), 1, "{found:#?}");
}

#[test]
fn only_policies_about_access_make_a_verdict_hang_on_findings() {
    let mut files = example().to_vec();
    files.retain(|(name, _)| !name.starts_with("tests/"));
    for (name, text) in &mut files {
        if &**name == "shop.cedar" {
            let text_now = str::from_utf8(text).unwrap().replace("unusual-volume", "x");
            let calm = text_now.replace("context.findings.contains(\"x\")", "context.active > 9");
            *text = calm.into_bytes().into();
        }
    }
    let reads = |added: &str| {
        let mut files = files.clone();
        files.push(("zz.cedar".into(), added.as_bytes().into()));
        Bundle::load(files.into(), Load::Activate, false).unwrap().reads_findings
    };
    assert!(!reads(""));
    assert!(!reads(&forbid("calm", "approve", "new-scope")));
    assert!(reads(&forbid("calm", "request", "new-scope")));
}
