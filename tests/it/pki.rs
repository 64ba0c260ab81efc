//! Certificates of a test's own: authorities, SVIDs in every good and bad shape, and the files a broker reads them from.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use protem::config::TlsVersion;
use protem::serve::reload::Files;
use protem::serve::tls::{Tls, TlsFiles};
use protem::serve::trust::Trust;
use protem_clock::clock::SystemClock;
use protem_gate::connect::{self, Dial};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tonic::transport::Channel;

/// The trust domain of the repository's bundle.
pub const DOMAIN: &str = "shop.example";
/// The SPIFFE ID of `payments/agent` there.
pub const AGENT: &str = "spiffe://shop.example/ns/payments/sa/agent";
/// That of the gateway `edge-eu-1`.
pub const EDGE: &str = "spiffe://shop.example/ns/edge/sa/gateway";

/// Somebody who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Issued {
    /// The leaf.
    pub der: CertificateDer<'static>,
    /// The leaf, and what must come with it.
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let params = authority(name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// One below this.
    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A SPIFFE bundle with this root.
    pub fn bundle(&self) -> String {
        bundle(&[self])
    }

    pub fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        Issued { der: leaf.der().clone(), chain: leaf.pem(), key: key.serialize_pem() }
    }
}

/// A SPIFFE bundle with these roots.
pub fn bundle(roots: &[&Authority]) -> String {
    let key = |root: &&Authority| json!({"use": "x509-svid", "kty": "EC", "crv": "P-256", "x5c": [BASE64.encode(&root.der())]});
    let keys: Vec<_> = roots.iter().map(key).collect();
    json!({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300}).to_string()
}

/// What an authority says of itself.
pub fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A good SVID's leaf, to be spoilt by tests.
pub fn svid(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// The same, ending so long after 1970.
pub fn svid_until(id: &str, end: Duration) -> CertificateParams {
    let mut params = svid(id);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(1970, 1, 1) + end;
    params
}

/// A broker's own certificate, for this machine.
pub fn server() -> CertificateParams {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    CertificateParams::new(names).unwrap()
}

/// A folder with what a broker and its clients read: `tls.pem` and `tls.key` of an authority in `ca.pem`, and the trust
/// bundle `bundle.json` of [`DOMAIN`].
pub struct Pki {
    folder: tempfile::TempDir,
    /// Of the broker's certificate.
    pub ca: Authority,
    /// Of the workloads' certificates.
    pub domain: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let (ca, domain) = (Authority::new("servers"), Authority::new(DOMAIN));
        let pki = Self { folder: tempfile::tempdir().unwrap(), ca, domain };
        pki.write("ca.pem", &pki.ca.pem());
        pki.renew();
        pki.write("bundle.json", &pki.domain.bundle());
        pki
    }

    /// Gives the broker another certificate of the same authority.
    pub fn renew(&self) {
        let own = self.ca.issue(&server());
        // The new key first would not go with the old certificate for a moment: a reader that meets that keeps what it has.
        self.write("tls.key", &own.key);
        self.write("tls.pem", &own.chain);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file whole, as agents do: beside, then renamed; for its owner alone.
    pub fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// The broker's certificate settings.
    pub fn tls(&self) -> TlsFiles {
        TlsFiles { cert: self.path("tls.pem"), key: self.path("tls.key"), min: TlsVersion::Tls13 }
    }

    /// What a broker in this process reads.
    pub fn files(&self) -> Files {
        self.files_with(self.tls())
    }

    pub fn files_with(&self, tls: TlsFiles) -> Files {
        let bundles = BTreeMap::from([(DOMAIN.to_owned(), self.path("bundle.json"))]);
        let trust = Trust::load(bundles).unwrap();
        let tls = Tls::load(tls, Some(Arc::clone(&trust)), Arc::new(SystemClock)).unwrap();
        Files { tls: Some(tls), trust: Some(trust) }
    }

    /// What a client reads: with a certificate written under this name, if any.
    pub fn client(&self, name: Option<&str>) -> connect::TlsFiles {
        let file = |name: &str, end: &str| self.path(&format!("{name}.{end}"));
        let identity = name.map(|name| (file(name, "pem"), file(name, "key")));
        connect::TlsFiles { ca: Some(self.path("ca.pem")), identity }
    }

    /// Writes a certificate for [`Self::client`].
    pub fn give(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.key"), &issued.key);
        self.write(&format!("{name}.pem"), &issued.chain);
    }

    /// A connection to a broker, with a certificate written under this name, if any.
    pub fn channel(&self, url: &str, name: Option<&str>) -> Channel {
        let patience = Duration::from_secs(10);
        Dial::new(url.parse().unwrap(), self.client(name), patience).connect_lazy()
    }
}

/// Writes a file whole, for its owner alone.
pub fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(beside, path).unwrap();
}
