//! Every check of a bundle, as a table: one change to the example, and the finding that it must bring.

use std::sync::Arc;

use protem_verify::codes::policy;
use protem_verify::operation::CATALOG_MAX;
use protem_verify::time::Time;

use crate::policy::bundle::{Bundle, Files, Load, check};
use crate::policy::example::example;
use crate::policy::finding::{At, Findings, Severity};

pub(super) const TODAY: Time = Time::from_secs(1_795_000_000);

/// The example with `from` replaced by `to` in `file`; an empty `from` appends.
pub(super) fn changed(file: &str, from: &str, to: &str) -> Files {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = example().to_vec();
    if !files.iter().any(|(name, _)| &**name == file) {
        files.push((file.into(), Arc::from(*b"")));
    }
    for (name, bytes) in &mut files {
        if &**name == file {
            let text = str::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "`{from}` is not in {file}");
            let text =
                if from.is_empty() { format!("{text}{to}") } else { text.replacen(from, to, 1) };
            *bytes = Arc::from(text.as_bytes());
        }
    }
    files.into()
}

#[track_caller]
pub(super) fn finds(file: &str, from: &str, to: &str, code: &str, says: &str) -> Severity {
    let found = check(changed(file, from, to), TODAY);
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    let hit = found.iter().find(|finding| finding.code.id == code);
    let hit = hit.unwrap_or_else(|| panic!("no {code} among {all:#?}"));
    assert!(hit.message.contains(says), "`{}` does not say `{says}`", hit.message);
    hit.severity
}

#[test]
fn errors_refuse_all_age_refuses_checks_warnings_nothing() {
    let key = "spiffe = \"spiffe://shop.example/ns/shop/sa/checkout\"";
    let login = format!("[[identity.\"shop/checkout\".login]]\n{key}\n");
    for (from, to, activates, checks) in [
        ("tier      = \"partner\"", "tier      = \"none\"", false, false),
        ("2027-12-31", "2026-01-01", true, false),
        (login.as_str(), "", true, true),
    ] {
        let files = changed("identities.toml", from, to);
        let loads = |purpose| Bundle::load(files.clone(), purpose, false).is_ok();
        assert_eq!(loads(Load::Activate), activates, "{to}");
        assert_eq!(loads(Load::Check { now: TODAY }), checks, "{to}");
    }
}

/// The example with a second issuer for people, and each group's `claims` replaced.
pub(super) fn with_partner(claims: &str) -> Files {
    let partner = "\n[issuer.partner]\npurpose = \"Partners\"\nurl = \"https://idp.partner.example\"\naudience = \"protem-people\"\n\
        for = \"people\"\nname = \"email\"\nowner = { business = \"group:shop-leads\", technical = \"group:operators\" }\n";
    let mut files = changed("issuers.toml", "", partner).to_vec();
    for (name, text) in &mut files {
        if &**name == "people.toml" {
            let people = str::from_utf8(text).unwrap().replace("\nclaims", &format!("\n{claims}"));
            *text = Arc::from(people.as_bytes());
        }
    }
    files.into()
}

#[test]
fn a_group_names_its_issuer_where_there_are_several() {
    let codes = |claims: &str| {
        let found = check(with_partner(claims), TODAY);
        let errors = found.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| finding.code.id).collect::<Vec<_>>()
    };
    assert!(codes("claims").iter().all(|code| *code == "PT-0366"), "{:?}", codes("claims"));
    assert_eq!(codes("claims").len(), 6);
    assert!(Bundle::load(with_partner("claims"), Load::Activate, false).is_err());
    assert!(codes("issuer = \"corp\"\nclaims").is_empty());
    for (issuer, hint) in [("crop", "did you mean `corp`?"), ("github", "issuer for people")] {
        let to = format!("[group.operators]\nissuer = \"{issuer}\"");
        finds("people.toml", "[group.operators]", &to, "PT-0306", hint);
    }
}

#[test]
fn unreadable_files_are_refused() {
    finds("catalog.toml", "purpose  =", "purpos =", "PT-0301", "did you mean `purpose`?");
    finds("catalog.toml", "[tier.internal]", "[tier.internal", "PT-0301", "");
    finds("identities.toml", "2027-12-31", "\"2027-12-31\"", "PT-0301", "");
    finds("notes.toml", "", "a = 1", "PT-0303", "no place");
    finds("catalog.toml", "class.read", "class.Read", "PT-0304", "lower");
    finds("catalog.toml", "\"8h\"", "\"8 moons\"", "PT-0305", "1h 30m");
    finds("catalog.toml", "\"8h\"", "\"13h\"", "PT-0305", "out of range");
    finds("catalog.toml", "\"50/s\"", "\"0/s\"", "PT-0305", "50/s");
    finds("catalog.toml", "\"10s\"", "\"61s\"", "PT-0305", "out of range");
    finds("catalog.toml", "risk         = \"low\"", "risk = \"tiny\"", "PT-0305", "medium");
    finds(
        "catalog.toml",
        "class      = \"read\"",
        "class = \"raed\"",
        "PT-0306",
        "did you mean `read`?",
    );
    finds("identities.toml", "\"internal\"", "\"interna\"", "PT-0306", "did you mean `internal`?");
}

#[test]
fn what_nobody_answers_for_is_refused() {
    let owner = "owner     = { business = \"group:payments-leads\", technical = \"group:payments-oncall\" }\n";
    finds("identities.toml", owner, "", "PT-0307", "payments/reconciler");
    finds("identities.toml", ", technical = \"group:payments-oncall\"", "", "PT-0307", "");
    finds(
        "identities.toml",
        "group:payments-leads",
        "group:payment-leads",
        "PT-0308",
        "did you mean `group:payments-leads`?",
    );
    finds("identities.toml", "group:payments-leads", "payments-leads", "PT-0308", "did you mean");
    finds("issuers.toml", "purpose  = \"Staff sign-in\"\n", "", "PT-0309", "corp");
    finds(
        "catalog.toml",
        "purpose    = \"Read orders\"",
        "purpose = \" \"",
        "PT-0309",
        "orders:read",
    );
    finds(
        "identities.toml",
        "review_by = 2027-12-31                        # after that day: no new grants until someone renews it\n",
        "",
        "PT-0310",
        "review_by",
    );
}

#[test]
fn catalogs_that_cannot_be_enforced_are_refused() {
    finds(
        "catalog.toml",
        "operations = [\"GET /api/customers\", \"GET /api/customers/{id}\"]",
        "",
        "PT-0311",
        "crm:read",
    );
    for bad in ["get /v1", "GET v1", "GET /v1//a", "GET /v1/../a", "GET /v1/a{id}", "GET /v1?x=1"] {
        finds("catalog.toml", "GET /v1/orders\"", &format!("{bad}\""), "PT-0312", bad);
    }
    finds(
        "catalog.toml",
        "https://crm.example",
        "https://orders.example",
        "PT-0313",
        "one audience",
    );
    finds(
        "catalog.toml",
        "default_lifetime = \"15m\"",
        "default_lifetime = \"9h\"",
        "PT-0314",
        "8h",
    );
    finds(
        "catalog.toml",
        "credential       = \"5m\"      #",
        "credential = \"9h\" #",
        "PT-0314",
        "credential",
    );
    finds(
        "catalog.toml",
        "pending_max      = 20",
        "pending_max = 20\nbound = true",
        "PT-0315",
        "bound",
    );
    finds(
        "catalog.toml",
        "audience = \"https://crm.example\"",
        "audience = \"https://crm.example\"\nalg = \"ES256\"",
        "PT-0315",
        "alg",
    );
    finds("catalog.toml", "\"shop/team\"", "sub", "PT-0316", "`/`");
    finds("catalog.toml", "{identity.team}", "{request.purpose}", "PT-0316", "placeholder");
}

#[test]
fn logins_are_narrow_and_ones_own() {
    finds(
        "identities.toml",
        "repository_id = \"4711\", repository_owner_id = \"42\", ",
        "",
        "PT-0317",
        "github",
    );
    finds("identities.toml", "sa/agent", "sa/reconciler", "PT-0318", "share");
    finds(
        "identities.toml",
        "repository_id = \"815\", repository_owner_id = \"99\", ref",
        "repository_owner_id = \"42\", ref",
        "PT-0318",
        "share",
    );
    finds(
        "identities.toml",
        "issuer = \"github\"",
        "issuer = \"githib\"",
        "PT-0306",
        "did you mean `github`?",
    );
    finds("issuers.toml", "name     = \"email\"\n", "", "PT-0341", "name");
    finds(
        "issuers.toml",
        "url      = \"https://idp.shop.example\"",
        "url = \"https://idp.shop.example\"\njwks = \"file:x.json\"",
        "PT-0341",
        "x.json",
    );
    finds(
        "people.toml",
        "claims = { groups = \"auditors\" }",
        "claims = {}",
        "PT-0342",
        "auditors",
    );
}

#[test]
fn policies_are_read_strictly() {
    finds("shop.cedar", "permit (", "permits (", "PT-0319", "");
    finds("shop.cedar", "\"ref\") ==", "\"ref\") < ", "PT-0320", "");
    finds("shop.cedar", "context.findings", "context.finding", "PT-0320", "finding");
    finds(
        "shop.cedar",
        "principal == Identity::\"partner/courier\"",
        "principal == ?principal",
        "PT-0321",
        "template",
    );
    finds("shop.cedar", "@id(\"shop-works-on-orders\")\n", "", "PT-0322", "@id");
    finds(
        "shop.cedar",
        "courier-reads-orders",
        "payments-reads-orders",
        "PT-0323",
        "payments.cedar",
    );
    finds("shop.cedar", "@max_lifetime", "@max_lifetim", "PT-0324", "did you mean `max_lifetime`?");
    finds("shop.cedar", "@max_lifetime(\"15m\")", "@approvals(\"1\")", "PT-0325", "approvals");
    finds(
        "people.cedar",
        "@id(\"auditors-look\")",
        "@id(\"auditors-look\") @owners(\"may\")",
        "PT-0325",
        "owners",
    );
    finds("shop.cedar", "@max_lifetime(\"15m\")", "@max_lifetime(\"15\")", "PT-0326", "1h 30m");
    finds("shop.cedar", "@max_lifetime(\"15m\")", "@mode(\"off\")", "PT-0326", "shadow");
    finds("payments.cedar", "@approvals(\"1\")", "@approvals(\"0\")", "PT-0327", "issue");
    finds("payments.cedar", "@approvals(\"1\")", "@approvals(\"-1\")", "PT-0326", "number");
    finds("people.cedar", "resource in Broker::\"protem\");", "resource);", "PT-0328", "resource");
    finds(
        "shop.cedar",
        "principal in Team::\"shop\"",
        "principal is Identity",
        "PT-0328",
        "principal",
    );
    finds("shop.cedar", "Team::\"shop\"", "Team::\"shob\"", "PT-0329", "did you mean `shop`?");
    finds("shop.cedar", "Class::\"money\"", "Class::\"monei\"", "PT-0329", "did you mean `money`?");
    finds(
        "people.cedar",
        "Group::\"shop-oncall\", action == Action::\"approve\"",
        "Group::\"shop-oncal\", action == Action::\"approve\"",
        "PT-0330",
        "did you mean `shop-oncall`?",
    );
    finds(
        "payments.cedar",
        "@approvals(\"1\")",
        "@remind(\"5m\") @then(\"nobody\")",
        "PT-0330",
        "nobody",
    );
    let administer = "@id(\"operators-administer\")\npermit";
    finds(
        "people.cedar",
        administer,
        "@id(\"operators-administer\")\nforbid",
        "PT-0331",
        "administer",
    );
}

#[test]
fn cases_must_hold() {
    finds(
        "tests/access.toml",
        "expect   = \"issue\"",
        "expect   = \"deny\"",
        "PT-0332",
        "decided issue",
    );
    finds(
        "tests/access.toml",
        "policies = [\"payments-reads-orders\"]",
        "policies = [\"other\"]",
        "PT-0332",
        "other",
    );
    finds(
        "tests/access.toml",
        "\"orders:read\"",
        "\"orders:raed\"",
        "PT-0333",
        "did you mean `orders:read`?",
    );
    finds(
        "tests/people.toml",
        "groups   = [\"operators\"]",
        "groups   = [\"operator\"]",
        "PT-0333",
        "did you mean `operators`?",
    );
}

#[test]
fn age_fails_a_check_and_never_a_start() {
    let severity =
        finds("identities.toml", "2027-12-31", "2026-01-01", "PT-0334", "payments/reconciler");
    assert_eq!(severity, Severity::Age);
    let secret = |created: &str, expires: &str, status: &str| {
        format!(
            "\n[secret.crm-key]\npurpose = \"CRM vendor key\"\nresource = \"legacy-crm\"\nowner = {{ business = \"group:shop-leads\", technical = \"group:shop-oncall\" }}\ncreated = {created}\nrotate_every = \"90d\"\nexpires = {expires}\nrevoke = \"vendor console\"\n{status}\n"
        )
    };
    let managed = "status = \"managed\"";
    finds("catalog.toml", "", &secret("2026-01-01", "2027-09-04", managed), "PT-0335", "90d");
    finds(
        "catalog.toml",
        "",
        &secret("2025-01-01", "2025-09-04", managed),
        "PT-0336",
        "vendor console",
    );
    let found = "status = \"unmanaged\"\nfound_in = \"repo shop\"";
    finds("catalog.toml", "", &secret("2026-11-01", "2027-09-04", found), "PT-0340", "repo shop");
}

#[test]
fn an_issuers_url_names_a_server_and_nothing_else() {
    for bad in [
        "http://idp.shop.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "https://",
        "https://:443",
        "https://idp.shop.example?a",
        "https://idp.shop.example#a",
        "https://user@idp.shop.example",
        "https://idp.shop.example ",
        "ftp://idp.shop.example",
    ] {
        finds("issuers.toml", "https://idp.shop.example", bad, "PT-0341", "https URL");
    }
}

#[test]
fn attack_secret_of_another_resource() {
    let more = |resource: &str| {
        format!(
            "\n[secret.other-key]\npurpose = \"A key\"\nresource = \"{resource}\"\n\
             owner = {{ business = \"group:shop-leads\", technical = \"group:operators\" }}\ncreated = 2026-09-04\n\
             rotate_every = \"90d\"\nexpires = 2099-01-01\nrevoke = \"console\"\nstatus = \"managed\"\n\
             [resource.other-crm]\naudience = \"https://other.example\"\npurpose = \"Another\"\n\
             owner = {{ business = \"group:shop-leads\", technical = \"group:operators\" }}\n\
             inject = {{ header = \"X-Api-Key\", secret = \"other-key\" }}\n\
             [resource.other-crm.scope.\"other:read\"]\npurpose = \"Read\"\nclass = \"read\"\noperations = [\"GET /a\"]\n"
        )
    };
    let says = "is of resource `orders-api`, so `other-crm` cannot";
    let severity = finds("catalog.toml", "", &more("orders-api"), "PT-0305", says);
    assert_eq!(severity, Severity::Error);
    let own = check(changed("catalog.toml", "", &more("other-crm")), TODAY);
    assert!(!own.iter().any(|one| one.code.id == "PT-0305"), "{own:#?}");
}

/// What one mistake makes unknown elsewhere is not told beside it; but it is where nothing else is wrong.
#[test]
fn a_mistake_is_told_once_where_it_is() {
    let lines = |file: &str, from: &str, to: &str| -> Vec<String> {
        let found = check(changed(file, from, to), TODAY);
        let errors = found.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| format!("{} {}", finding.file, finding.code.id)).collect()
    };
    for (file, from, to, expect) in [
        ("catalog.toml", "", "\n[broken", "catalog.toml PT-0301"),
        ("people.toml", "", "\nfoo = 1\n", "people.toml PT-0301"),
        ("catalog.toml", "\"8h\"", "\"8\"", "catalog.toml PT-0305"),
        ("catalog.toml", "class      = \"money\"", "class = \"mony\"", "catalog.toml PT-0306"),
        (
            "identities.toml",
            "tier      = \"partner\"",
            "tier = \"partnr\"",
            "identities.toml PT-0306",
        ),
        (
            "catalog.toml",
            "{ business = \"group:shop-leads\"",
            "{ business = \"group:x\"",
            "catalog.toml PT-0308",
        ),
    ] {
        assert_eq!(lines(file, from, to), [expect], "{to}");
    }
    let two = lines("payments.cedar", "Team::\"payments\"", "Team::\"paymnts\"");
    assert_eq!(two, ["payments.cedar PT-0329"]);
    // With nothing else to tell, what follows is told: no bundle passes for it.
    let mut findings = Findings::default();
    findings.writes("tier", "internal");
    let named = ("tier", "internal");
    findings.missing(&At::bundle(), policy::UNKNOWN_REFERENCE, named, "there is no tier");
    assert!(findings.failed());
    assert_eq!(findings.into_sorted().len(), 1);
}

#[test]
fn findings_know_their_place() {
    let files = changed("shop.cedar", "context.findings", "context.finding");
    let found: Vec<String> = check(files, TODAY).iter().map(ToString::to_string).collect();
    assert!(
        found.iter().any(|line| line.starts_with("shop.cedar:22:8 error PT-0320")),
        "{found:#?}"
    );
    let files = changed("identities.toml", "tier      = \"partner\"", "tier      = \"partnr\"");
    let found: Vec<String> = check(files, TODAY).iter().map(ToString::to_string).collect();
    assert_eq!(
        found.first().map(|line| line.split_once(" error").unwrap().0),
        Some("identities.toml:44:13")
    );
}

#[test]
fn too_large_a_bundle_is_refused() {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = example().to_vec();
    files.push(("zzz.json".into(), vec![b' '; crate::policy::bundle::BUNDLE_MAX].into()));
    let found = Bundle::load(files.into(), Load::Activate, false).unwrap_err();
    assert_eq!(found.first().map(|finding| finding.code.id), Some("PT-0302"));
}

/// What a gateway cannot read closes it for all that it protects.
#[test]
fn what_a_gateway_could_not_read_is_refused_with_its_place() {
    // Each of these is two characters there.
    let long = format!("'{}'", "\"".repeat(CATALOG_MAX / 2));
    let says = finds(
        "catalog.toml",
        "\"https://crm.example\"",
        &long,
        "PT-0302",
        "give it fewer resources",
    );
    assert_eq!(says, Severity::Error);
    let path = format!("GET /v1/{}", "x".repeat(4_096));
    for unread in ["GET /v1/orders;v=2", path.as_str()] {
        let severity = finds(
            "catalog.toml",
            "GET /v1/orders\"",
            &format!("{unread}\""),
            "PT-0312",
            "canonical",
        );
        assert_eq!(severity, Severity::Error);
    }
}
