//! Certificates that do not count: each call without a token is refused with the reason, and nothing of them names anybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, version};

use crate::broker::{Clients, TestBroker, Wish, reason};
use crate::pki::{AGENT, Authority, Issued, Pki, svid, svid_until};
use crate::process::{PATIENCE, program, ran};
use crate::tls::{broker, config, get, open, who};

/// Longer ago than any clock here is wrong.
const PAST: Duration = Duration::from_secs(1_700_000_000);

/// Names, what was issued, and the code and part of the reason that its holder is told.
fn refused(pki: &Pki) -> Vec<(&'static str, Issued, &'static str, &'static str)> {
    let mut two = svid(AGENT);
    let other = "spiffe://shop.example/ns/payments/sa/reconciler".try_into().unwrap();
    two.subject_alt_names.push(rcgen::SanType::URI(other));
    let mut usage = svid(AGENT);
    usage.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    let elsewhere = svid("spiffe://other.example/ns/payments/sa/agent");
    vec![
        ("expired", pki.domain.issue(&svid_until(AGENT, PAST)), "PT-0620", "does not vouch"),
        ("foreign", Authority::new("shop.example").issue(&svid(AGENT)), "PT-0621", "not vouch"),
        ("domain", pki.domain.issue(&elsewhere), "PT-0621", "`other.example` is not trusted"),
        ("servers", pki.ca.issue(&svid(AGENT)), "PT-0621", "does not vouch"),
        ("two", pki.domain.issue(&two), "PT-0621", "more than one URI"),
        ("usage", pki.domain.issue(&usage), "PT-0621", "keyCertSign"),
    ]
}

/// Row 40 on the wire: what nobody vouches for names nobody, and its holder is told why.
#[tokio::test(flavor = "multi_thread")]
async fn attack_foreign_certificates_are_nobody() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    for (name, issued, code, part) in refused(&pki) {
        pki.give(name, &issued);
        let mut clients = Clients::over(pki.channel(&broker.url, Some(name)), None);
        let status = who(&mut clients).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{name}: {status:?}");
        assert_eq!(reason(&status), code, "{name}");
        assert!(status.message().contains(part), "{name}: {status:?}");

        let home = tempfile::tempdir().unwrap();
        let mut command = program(home.path());
        command.args(["auth", "status", "--broker", &broker.url, "--ca"]).arg(pki.path("ca.pem"));
        command.arg("--cert").arg(pki.path(&format!("{name}.pem")));
        command.arg("--key").arg(pki.path(&format!("{name}.key")));
        let shown = tokio::task::spawn_blocking(move || ran(command.output().unwrap()));
        let shown = shown.await.unwrap();
        assert_eq!(shown.code, Some(4), "{name}: {shown:?}");
        assert!(shown.err.contains(code) && shown.err.contains(part), "{name}: {shown:?}");
        assert!(!shown.out.contains("payments/agent"), "{name}: {shown:?}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_beside_a_certificate_that_does_not() {
    let pki = Pki::new();
    let broker = TestBroker::with(Wish { files: pki.files(), ..Wish::default() }).await;
    for (name, issued, code, _) in refused(&pki) {
        pki.give(name, &issued);
        let channel = pki.channel(&broker.url, Some(name));
        let token = broker.identity_token("payments/reconciler");
        let mut signed_in = Clients::over(channel.clone(), Some(token));
        assert_eq!(who(&mut signed_in).await.unwrap(), "payments/reconciler", "{name}");
        let mut bad = Clients::over(channel.clone(), Some("a.b.c".into()));
        assert_eq!(reason(&who(&mut bad).await.unwrap_err()), "PT-0603", "{name}");
        let mut bare = Clients::over(channel, None);
        assert_eq!(reason(&who(&mut bare).await.unwrap_err()), code, "{name}");
    }
    broker.stop().await;
}

/// A connection that was refused ends, so that the next certificate is looked at with the next call.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_certificate_is_used_after_a_refusal() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    pki.give("agent", &pki.domain.issue(&svid_until(AGENT, PAST)));
    let mut agent = Clients::over(pki.channel(&broker.url, Some("agent")), None);
    assert_eq!(reason(&who(&mut agent).await.unwrap_err()), "PT-0620");
    pki.give("agent", &pki.domain.issue(&svid(AGENT)));
    let end = Instant::now() + PATIENCE;
    while who(&mut agent).await.is_err() {
        assert!(Instant::now() < end, "the old certificate stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.stop().await;
}

/// Shows a certificate with whatever key it has.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Another's certificate without its key proves nothing, and opens no connection, whether the certificate counts or not.
#[tokio::test(flavor = "multi_thread")]
async fn attack_certificate_without_its_key() {
    let pki = Pki::new();
    let broker = broker(&pki).await;
    let shows = |shown: &Issued, key: &Issued| -> Arc<ClientConfig> {
        let chain = vec![CertificateDer::from(shown.der.to_vec())];
        let key = PrivateKeyDer::from_pem_slice(key.key.as_bytes()).unwrap();
        let key = ring::default_provider().key_provider.load_private_key(key).unwrap();
        let mut config = config(&pki, &[&version::TLS13]);
        config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key))));
        Arc::new(config)
    };
    let good = pki.domain.issue(&svid(AGENT));
    let expired = pki.domain.issue(&svid_until(AGENT, PAST));
    for shown in [&good, &expired] {
        let mut own = open(&broker, &shows(shown, shown)).await.unwrap();
        assert!(get(&mut own).await.unwrap().starts_with("HTTP/1.1 200"));
        let thiefs = match open(&broker, &shows(shown, &pki.domain.issue(&svid(AGENT)))).await {
            Ok(mut stream) => get(&mut stream).await,
            Err(error) => Err(error),
        };
        assert!(thiefs.is_err(), "{thiefs:?}");
    }
    broker.stop().await;
}
