//! Which SPIFFE IDs are logins.

use crate::policy::bundle::check;
use crate::policy::check_tests::{TODAY, changed, finds};
use crate::policy::finding::Severity;

/// What no certificate and no token can say is no login: a name has one spelling, and there are no patterns.
#[test]
fn a_login_is_one_whole_spiffe_id() {
    let id = "spiffe://shop.example/ns/shop/sa/checkout";
    for (bad, why) in [
        ("spiffe://shop.example", "names a trust domain, not a workload"),
        ("spiffe://shop.example/", "path segment"),
        ("spiffe://shop.example/ns/shop/sa/*", "path segment"),
        ("spiffe://shop.example/ns/{ns}/sa/checkout", "path segment"),
        ("spiffe://shop.example/ns/../sa/checkout", "path segment"),
        ("spiffe://shop.example/ns/shop/sa/checkout/", "path segment"),
        ("spiffe://shop.example/ns//sa/checkout", "path segment"),
        ("spiffe://shop.example/ns%2fshop/sa/checkout", "path segment"),
        ("spiffe://shop.example/ns/shop/sa/checkout?a=b", "path segment"),
        ("spiffe://Shop.example/ns/shop/sa/checkout", "trust domain"),
        ("spiffe://shop.example:8443/ns/shop/sa/checkout", "trust domain"),
        ("spiffe://*.example/ns/shop/sa/checkout", "trust domain"),
        ("spiffe:///ns/shop/sa/checkout", "trust domain"),
        ("SPIFFE://shop.example/ns/shop/sa/checkout", "does not begin with"),
        ("https://shop.example/ns/shop/sa/checkout", "does not begin with"),
        ("", "does not begin with"),
    ] {
        let severity = finds("identities.toml", id, bad, "PT-0305", why);
        assert_eq!(severity, Severity::Error, "{bad}");
        let found = check(changed("identities.toml", id, bad), TODAY);
        let told = found.iter().find(|finding| finding.message.contains(why)).unwrap().to_string();
        assert!(told.contains("identities.toml:") && told.contains("without patterns"), "{told}");
    }
}
