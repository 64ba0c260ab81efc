//! Which certificates count: the rules of X.509-SVID, each broken on its own, and trust bundles good and bad.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protem::serve::trust::Trust;
use protem_clock::clock::{Clock, SystemClock};
use protem_verify::time::Time;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::pki::{AGENT, Authority, DOMAIN, Issued, authority, bundle, svid, svid_until, write};

/// Two trust domains, each with an authority of its own.
struct Domains {
    shop: Authority,
    other: Authority,
    trust: Arc<Trust>,
    _folder: tempfile::TempDir,
}

const OTHER: &str = "other.example";

impl Domains {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (shop, other) = (Authority::new(DOMAIN), Authority::new(OTHER));
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            write(&path, text);
            path
        };
        let trust = Trust::load(BTreeMap::from([
            (DOMAIN.to_owned(), file("shop.json", &shop.bundle())),
            (OTHER.to_owned(), file("other.pem", &other.pem())),
        ]));
        Self { shop, other, trust: trust.unwrap(), _folder: folder }
    }

    #[track_caller]
    fn check(&self, what: &str, chain: &[CertificateDer<'static>], expect: Result<&str, &str>) {
        let found = self.trust.verify(chain, now()).map(|(leaf, _)| leaf.id.to_string());
        match (&found, expect) {
            (Ok(id), Ok(expect)) => assert_eq!(id, expect, "{what}"),
            (Err(why), Err(part)) => {
                let code = if what == "expired" { "PT-0620" } else { "PT-0621" };
                assert_eq!(why.code.id, code, "{what}");
                assert!(why.to_string().contains(part), "{what}: {why}");
            }
            _ => panic!("{what}: {found:?}, not {expect:?}"),
        }
    }
}

fn now() -> Time {
    Time::from(SystemClock.unix())
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

fn spoilt(spoil: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = svid(AGENT);
    spoil(&mut params);
    params
}

/// keyUsage as an extension that is written by hand: these bits.
fn key_usage(bits: u8, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, bits]);
    extension.set_criticality(critical);
    extension
}

/// A subjectAltName with one URI, written by hand: names that no library would write.
fn by_hand(uri: &[u8]) -> CustomExtension {
    let length = u8::try_from(uri.len()).unwrap();
    let mut content = vec![0x30, length + 2, 0x86, length];
    content.extend_from_slice(uri);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], content)
}

/// A shape, in words and in full, and what becomes of it.
type Shape = (&'static str, CertificateParams, Result<&'static str, &'static str>);

#[track_caller]
fn check(shapes: Vec<Shape>) {
    let domains = Domains::new();
    for (what, params, expect) in shapes {
        domains.check(what, &[domains.shop.issue(&params).der], expect);
    }
}

/// Row 40, and the rules of X.509-SVID one by one: shape, and what is wrong with it.
#[test]
fn attack_san_multi_uri_wildcard_nul() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use KeyUsagePurpose::KeyEncipherment;
    let dns = || SanType::DnsName("agent.shop.example".try_into().unwrap());
    let named = |id: &[u8]| {
        let extension = by_hand(id);
        spoilt(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions.push(extension);
        })
    };
    check(vec![
        ("good", svid(AGENT), Ok(AGENT)),
        ("with a DNS name", spoilt(|p| p.subject_alt_names.push(dns())), Ok(AGENT)),
        ("both roles", spoilt(|p| p.extended_key_usages = vec![ClientAuth, ServerAuth]), Ok(AGENT)),
        ("more usages", spoilt(|p| p.key_usages.push(KeyEncipherment)), Ok(AGENT)),
        ("by hand", named(AGENT.as_bytes()), Ok(AGENT)),
        ("two URIs", spoilt(|p| p.subject_alt_names.push(uri(AGENT))), Err("more than one URI")),
        (
            "another URI first",
            spoilt(|p| p.subject_alt_names.insert(0, uri("https://shop.example/a"))),
            Err("more than one URI"),
        ),
        ("no name", spoilt(|p| p.subject_alt_names.clear()), Err("no subjectAltName")),
        ("DNS alone", spoilt(|p| p.subject_alt_names = vec![dns()]), Err("no URI")),
        ("another scheme", svid("https://shop.example/ns/a"), Err("does not begin")),
        ("the domain itself", svid("spiffe://shop.example"), Err("not a workload")),
        ("the domain's root", svid("spiffe://shop.example/"), Err("path segment")),
        ("wildcard", svid("spiffe://shop.example/ns/*"), Err("path segment")),
        ("wildcard domain", svid("spiffe://*.example/ns/a"), Err("trust domain")),
        ("NUL", named(b"spiffe://shop.example/ns/payments/sa/agent\0"), Err("path segment")),
        ("NUL before", named(b"\0spiffe://shop.example/ns/a"), Err("does not begin")),
        ("not ASCII", named("spiffe://shop.example/ns/\u{e4}".as_bytes()), Err("")),
        ("port", svid("spiffe://shop.example:1/ns/a"), Err("trust domain")),
        ("user", svid("spiffe://evil@shop.example/ns/a"), Err("trust domain")),
        ("encoded", svid("spiffe://shop.example/ns%2fa"), Err("path segment")),
        ("upper case", svid("spiffe://Shop.example/ns/a"), Err("trust domain")),
        (
            "names twice",
            spoilt(|p| p.custom_extensions.push(by_hand(b"spiffe://shop.example/ns/b"))),
            Err(""),
        ),
    ]);
}

/// The rules for what a workload's key is for, one by one.
#[test]
fn attack_usages_that_no_workload_has() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    check(vec![
        ("CA", spoilt(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err("is a CA's")),
        ("explicitly no CA", spoilt(|p| p.is_ca = IsCa::ExplicitNoCa), Ok(AGENT)),
        ("no usage", spoilt(|p| p.key_usages.clear()), Err("no keyUsage")),
        ("signs", spoilt(|p| p.key_usages.push(KeyCertSign)), Err("keyCertSign")),
        ("signs lists", spoilt(|p| p.key_usages.push(CrlSign)), Err("cRLSign")),
        (
            "signs nothing",
            spoilt(|p| p.key_usages = vec![KeyEncipherment]),
            Err("without digitalSignature"),
        ),
        (
            "usage not critical",
            spoilt(|p| {
                p.key_usages.clear();
                p.custom_extensions.push(key_usage(0x80, false));
            }),
            Err("not critical"),
        ),
        (
            "usage by hand",
            spoilt(|p| {
                p.key_usages.clear();
                p.custom_extensions.push(key_usage(0x80, true));
            }),
            Ok(AGENT),
        ),
        (
            "usage twice",
            spoilt(|p| {
                p.key_usages = vec![DigitalSignature];
                p.custom_extensions.push(key_usage(0x04, true));
            }),
            Err(""),
        ),
        ("client alone", spoilt(|p| p.extended_key_usages = vec![ClientAuth]), Err("extKeyUsage")),
        ("server alone", spoilt(|p| p.extended_key_usages = vec![ServerAuth]), Err("extKeyUsage")),
        (
            "unknown and critical",
            spoilt(|p| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            }),
            Err("does not vouch"),
        ),
        ("expired", svid_until(AGENT, Duration::from_secs(1_700_000_000)), Err("does not vouch")),
        ("not yet", spoilt(|p| p.not_before = date_time_ymd(2100, 1, 1)), Err("does not vouch")),
    ]);
}

/// Row 39: what is read is what was verified, and by the roots of the domain that it names.
#[test]
fn attack_parse_differs_from_verified() {
    let domains = Domains::new();
    let good = domains.shop.issue(&svid(AGENT)).der;
    let mut longer = good.to_vec();
    longer.push(0);
    domains.check("bytes behind", &[longer.into()], Err("is no X.509 certificate"));
    let mut changed = good.to_vec();
    let at = changed.windows(5).position(|five| five == b"agent").unwrap();
    changed[at] = b'A';
    domains.check("another name", &[changed.into()], Err("does not vouch"));
    domains.check("nothing", &[], Err("chain is empty"));
    domains.check("no certificate", &[vec![0x30, 0x00].into()], Err("is no X.509"));

    let foreign = domains.other.issue(&svid(AGENT)).der;
    domains.check("another domain's authority", &[foreign], Err("does not vouch"));
    let theirs = svid("spiffe://other.example/ns/a");
    let (ours, own) = (domains.shop.issue(&theirs).der, domains.other.issue(&theirs).der);
    domains.check("ours for them", &[ours], Err("does not vouch"));
    domains.check("theirs", &[own], Ok("spiffe://other.example/ns/a"));
    let stranger = domains.shop.issue(&svid("spiffe://nobody.example/ns/a")).der;
    domains.check("a domain nobody trusts", &[stranger], Err("is not trusted"));
    let alone = Authority::new(DOMAIN).issue(&svid(AGENT)).der;
    domains.check("an authority of the same name", &[alone], Err("does not vouch"));
}

#[test]
fn chains_go_through_authorities_only() {
    let domains = Domains::new();
    let middle = domains.shop.below(authority("middle"));
    let leaf = middle.issue(&svid(AGENT)).der;
    domains.check("by one below", &[leaf.clone(), middle.der()], Ok(AGENT));
    domains.check("with the root", &[leaf.clone(), middle.der(), domains.shop.der()], Ok(AGENT));
    domains.check("without it", std::slice::from_ref(&leaf), Err("does not vouch"));
    // A workload's own certificate signs nobody else's, whatever its key could do.
    let workload = domains.shop.below(svid("spiffe://shop.example/ns/a"));
    let child = workload.issue(&svid(AGENT)).der;
    domains.check("by a workload", &[child, workload.der()], Err("is no CA's"));
    let mut mute = authority("mute");
    mute.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mute = domains.shop.below(mute);
    let child = mute.issue(&svid(AGENT)).der;
    domains.check("by one that may not", &[child, mute.der()], Err("may not sign"));
    let foreign = domains.other.below(authority("foreign"));
    let child = foreign.issue(&svid(AGENT)).der;
    domains.check("across domains", &[child, foreign.der()], Err("does not vouch"));
    let long: Vec<_> = std::iter::repeat_n(middle.der(), 8).collect();
    domains.check("too long", &[vec![leaf], long].concat(), Err("above 8"));
}

/// Row 44: a bundle without keys trusts nobody, and half a file is no such bundle.
#[test]
fn attack_empty_list_means_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle");
    let shop = Authority::new(DOMAIN);
    let Issued { der, key, .. } = shop.issue(&svid(AGENT));
    let load = |name: &str, text: &str| {
        write(&file, text);
        Trust::load(BTreeMap::from([(name.to_owned(), file.clone())]))
    };
    for empty in [r#"{"keys":[]}"#, r#"{"keys":[{"use":"jwt-svid","kty":"EC","kid":"a"}]}"#] {
        let trust = load(DOMAIN, empty).unwrap();
        assert!(trust.roots(DOMAIN).is_none() && trust.jwt_keys(DOMAIN).is_none());
        let why = trust.verify(std::slice::from_ref(&der), now()).unwrap_err();
        assert!(why.to_string().contains("trusts nobody"), "{why}");
    }
    let whole = shop.pem();
    let leaf = json!({"keys": [{"use": "x509-svid", "x5c": [data_encoding::BASE64.encode(&der)]}]});
    let both = bundle(&[&shop]);
    let two = both.replace("\"x5c\":[", "\"x5c\":[\"AAAA\",");
    for (text, part) in [
        ("", "holds no certificate"),
        ("\n\n", "holds no certificate"),
        (&key, "holds no certificate"),
        (&whole[..whole.len() / 2], "PEM"),
        ("{}", "has no `keys`"),
        (&both[..both.len() / 2], "is no SPIFFE bundle"),
        (r#"{"keys":[],"keys":[]}"#, "is no SPIFFE bundle"),
        (r#"{"keys":[{"use":"x509-svid"}]}"#, "not one certificate"),
        (&two, "not one certificate"),
        (&leaf.to_string(), "is no CA's"),
        (r#"{"keys":[{"use":"jwt-svid","kty":"EC"}]}"#, "without `kid`"),
    ] {
        let why = load(DOMAIN, text).unwrap_err().to_string();
        assert!(why.contains(part), "{text}: {why}");
    }
    assert!(load("Shop.example", &both).is_err());
    assert!(load("", &both).is_err());
    assert!(load(DOMAIN, &both).unwrap().verify(&[der], now()).is_ok());
}

/// A bundle that is read anew counts at once, for those who were verified before as well; a bad one changes nothing.
#[test]
fn a_rotated_bundle_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    write(&file, &old.bundle());
    let trust = Trust::load(BTreeMap::from([(DOMAIN.to_owned(), file.clone())])).unwrap();
    let peer = trust.peer(vec![old.issue(&svid(AGENT)).der], now()).unwrap();
    let begun = peer.generation();
    assert_eq!(peer.check(now()), Ok(()));
    assert!(!trust.reload(), "nothing is new");
    // Both for a while, as rotations go.
    write(&file, &bundle(&[&old, &new]));
    assert!(trust.reload());
    assert_eq!(peer.check(now()), Ok(()));
    assert!(peer.generation() > begun);
    write(&file, &new.bundle());
    assert!(trust.reload());
    assert_eq!(peer.check(now()).unwrap_err().code.id, "PT-0621");
    assert!(trust.peer(vec![new.issue(&svid(AGENT)).der], now()).is_ok());
    // Half a file is no new bundle.
    write(&file, "{\"keys\":[");
    assert!(!trust.reload());
    assert_eq!(trust.problems().len(), 1);
    assert!(trust.peer(vec![new.issue(&svid(AGENT)).der], now()).is_ok());
    std::fs::remove_file(&file).unwrap();
    assert!(!trust.reload());
    assert_eq!(trust.problems().len(), 1);
    write(&file, &bundle(&[&old, &new]));
    assert!(trust.reload());
    assert_eq!(trust.problems(), Vec::<String>::new());
    assert_eq!(peer.check(now()), Ok(()), "its roots are back");
    // It ends with its leaf, whoever vouches.
    let end = now() + Duration::from_secs(60);
    let short = svid_until(AGENT, Duration::from_millis(end.as_millis()));
    let peer = trust.peer(vec![old.issue(&short).der], now()).unwrap();
    assert_eq!(peer.check(now()), Ok(()));
    assert_eq!(peer.check(end).unwrap_err().code.id, "PT-0620");
}

/// A chain ends with its shortest part, and that is noticed while its leaf lives on.
#[test]
fn an_intermediate_that_ends_is_noticed() {
    let domains = Domains::new();
    let mut short = authority("short");
    short.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(now().as_secs() + 30);
    let middle = domains.shop.below(short);
    let chain = vec![middle.issue(&svid(AGENT)).der, middle.der()];
    let peer = domains.trust.peer(chain, now()).unwrap();
    assert_eq!(peer.check(now()), Ok(()));
    let later = now() + Duration::from_secs(120);
    assert_eq!(peer.check(later).unwrap_err().code.id, "PT-0621");
}
