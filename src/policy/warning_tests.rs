//! What `protem policy check` warns of, and what it does not refuse for it.

use crate::policy::bundle::check;
use crate::policy::check_tests::{TODAY, changed, finds};
use crate::policy::context::words;
use crate::policy::finding::Severity;

#[test]
fn warnings_refuse_nothing() {
    let scope = "\n[resource.legacy-crm.scope.\"crm:write\"]\npurpose = \"Change customers\"\nclass = \"write\"\noperations = [\"PUT /api/customers/{id}\"]\n";
    finds("catalog.toml", "", scope, "PT-0337", "crm:write");
    let policy = "\n@id(\"never\") permit (principal == Identity::\"payments/deployer\", action == Action::\"request\", resource == Scope::\"orders-api#orders:write\");";
    finds("shop.cedar", "", policy, "PT-0338", "never");
    finds(
        "identities.toml",
        "[[identity.\"shop/checkout\".login]]\nspiffe = \"spiffe://shop.example/ns/shop/sa/checkout\"\n",
        "",
        "PT-0339",
        "shop/checkout",
    );
    for claim in [
        r#"sub = "system:serviceaccount:payments:agent""#,
        r#""kubernetes.io/serviceaccount/name" = "agent""#,
    ] {
        let login = format!(
            "\n[[identity.\"payments/agent\".login]]\nissuer = \"github\"\nclaims = {{ repository_id = \"7\", {claim} }}\n"
        );
        finds("identities.toml", "", &login, "PT-0317", "kubernetes.io/serviceaccount/uid");
    }
}

#[test]
fn what_nobody_can_decide_and_whose_accounts_are_several_is_warned_of() {
    let cases = "resource in Resource::\"orders-api\");\n\n@id(\"operators-stop";
    let elsewhere = "resource in Resource::\"legacy-crm\");\n\n@id(\"operators-stop";
    let found = finds("people.cedar", cases, elsewhere, "PT-0368", "`orders:refund`");
    assert_eq!(found, Severity::Warning);
    let account = "{ issuer = \"corp\", name = \"alice@shop.example\" }";
    let two = format!("{account}, {{ issuer = \"corp\", name = \"alice-adm@shop.example\" }}");
    let says = "at `corp` as `alice@shop.example` and as `alice-adm@shop.example`";
    assert_eq!(finds("people.toml", account, &two, "PT-0369", says), Severity::Warning);
}

#[test]
fn an_emergency_of_which_nobody_is_told_is_warned_of() {
    let oncall = "[group.shop-oncall]\n";
    let hears = format!("{oncall}notify = \"chat\"\n");
    let untold = |file: &str, from: &str, to: &str| {
        let found = check(changed(file, from, to), TODAY);
        let hit = found.into_iter().find(|finding| finding.code.id == "PT-0370");
        hit.map(|hit| (hit.severity, hit.file.to_string(), hit.message))
    };
    let (severity, file, message) = untold("people.toml", "", "").unwrap();
    assert_eq!((severity, file.as_str()), (Severity::Warning, "payments.cedar"));
    for part in ["`payments-breaks-glass`", "`orders:refund` on `orders-api`", "`shop-oncall`"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(untold("people.toml", oncall, &hears), None);
    let other = "[group.auditors]\n";
    let elsewhere = format!("{other}notify = \"chat\"\n");
    assert!(untold("people.toml", other, &elsewhere).is_some(), "auditors approve nothing");
    // Where nobody may approve, the resource's owners hear of it.
    let approves = "resource in Resource::\"orders-api\");\n\n@id(\"operators-stop";
    let nothing = "resource in Resource::\"legacy-crm\");\n\n@id(\"operators-stop";
    let (.., message) = untold("people.cedar", approves, nothing).unwrap();
    assert!(message.contains("give a `notify` to"), "{message}");
    // A policy that gives nothing is none.
    let rule = "@id(\"payments-breaks-glass\")";
    assert_eq!(untold("payments.cedar", rule, &format!("{rule}\n@mode(\"shadow\")")), None);
}

/// A misspelt finding is never so, and a policy that waits for it guards nothing.
#[test]
fn words_that_are_no_finding_are_told() {
    let policy = |when: &str| {
        format!(
            "\n@id(\"guard\") forbid (principal, action == Action::\"issue\", resource) when {{ {when} }};"
        )
    };
    for when in [
        "context.findings.contains(\"unusual-hours\")",
        "context[\"findings\"].contains(\"unusual-hours\") && context.task.kind == \"dormant\"",
        "context.active > 3 || context.findings.containsAny([\"dormant\", \"unusual-hours\"])",
        "[\"unusual-hours\"].containsAll(context.findings)",
        "!(context.findings == [\"unusual-hours\"])",
    ] {
        finds("shop.cedar", "", &policy(when), "PT-0367", "did you mean `unusual-hour`?");
    }
    let approver = "\n@id(\"calm\") forbid (principal, action == Action::\"approve\", resource) when { context.findings.contains(\"new\") };";
    finds("shop.cedar", "", approver, "PT-0367", "`new`");
    let case = ("findings = [\"unusual-volume\"]", "findings = [\"unusual-volumes: 9\"]");
    let files = changed("tests/access.toml", case.0, case.1);
    let found = check(files, TODAY);
    let hit = found.iter().find(|finding| finding.code.id == "PT-0367");
    assert!(hit.is_some_and(|hit| hit.file.as_ref() == "tests/access.toml"), "{found:?}");
    // Each of the eight is one, whatever else is compared with.
    let eight = words().map(|word| format!("context.findings.contains(\"{word}\")"));
    let all_of_them = eight.collect::<Vec<_>>().join(" || ");
    let other = format!("{all_of_them} || context.task.kind == \"unusual-hours\"");
    let found = check(changed("shop.cedar", "", &policy(&other)), TODAY);
    assert!(found.iter().all(|finding| finding.code.id != "PT-0367"), "{found:?}");
}
