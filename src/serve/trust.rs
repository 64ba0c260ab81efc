//! Whom each trust domain vouches for: SPIFFE bundles from files, read again while the broker runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use data_encoding::BASE64;
use protem_verify::codes::caller;
use protem_verify::spiffe::is_trust_domain;
use protem_verify::time::Time;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::fetch::file::read_small;
use crate::serve::jwt::Keys;
use crate::serve::limits::{CHAIN_MAX, TRUST_BUNDLE_MAX, TRUST_ROOTS_MAX};
use crate::serve::strict_json;
use crate::serve::svid::{Leaf, PeerCert, Untrusted, check_authority};

/// The trust domains whose callers may come in. Each has roots of its own: one domain's never vouch for another's names.
#[derive(Debug)]
pub struct Trust {
    domains: BTreeMap<String, Domain>,
    /// How many contents have been read.
    newest: AtomicU64,
}

#[derive(Debug)]
struct Domain {
    file: PathBuf,
    anchors: ArcSwap<Anchors>,
    /// What is wrong with the file now; the anchors are those of its last good content.
    problem: Mutex<Option<String>>,
}

/// One content of one bundle file.
#[derive(Debug)]
struct Anchors {
    generation: u64,
    content: [u8; 32],
    /// `None` trusts nobody: a bundle may be empty, and then nobody comes in.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    jwt: Option<Arc<Keys>>,
}

/// A bundle that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the trust bundle of `{domain}`, `{}`, {why}", file.display())]
pub struct BadBundle {
    /// Whose.
    pub domain: String,
    /// Where.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Trust {
    /// Reads one bundle file per trust domain.
    ///
    /// # Errors
    /// When a name is no trust domain, or a file cannot be used: a broker never starts with less trust than it was told,
    /// nor with more.
    pub fn load(files: BTreeMap<String, PathBuf>) -> Result<Arc<Self>, BadBundle> {
        let mut domains = BTreeMap::new();
        for (domain, file) in files {
            let bad = |why| BadBundle { domain: domain.clone(), file: file.clone(), why };
            if !is_trust_domain(&domain) {
                return Err(bad("has no trust domain: its name is not of `a-z 0-9 . - _`".into()));
            }
            let anchors = Anchors::read(&read(&file).map_err(bad)?, FIRST).map_err(bad)?;
            let anchors = ArcSwap::from_pointee(anchors);
            domains.insert(domain, Domain { file, anchors, problem: Mutex::default() });
        }
        Ok(Arc::new(Self { domains, newest: AtomicU64::new(FIRST) }))
    }

    /// Reads the files again. A file that cannot be used leaves its domain as it was, and says so in the log and in
    /// [`Self::problems`]. Whether any domain's roots or keys are new.
    #[must_use]
    pub fn reload(&self) -> bool {
        let mut changed = false;
        for (name, domain) in &self.domains {
            let content = read(&domain.file);
            let known = domain.anchors.load().content;
            if content.as_ref().is_ok_and(|content| digest(content) == known) {
                domain.is_fine();
                continue;
            }
            let next = self.newest.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            match content.and_then(|content| Anchors::read(&content, next)) {
                Ok(anchors) => {
                    tracing::info!(trust_domain = %name, generation = next, "trust bundle read anew");
                    domain.anchors.store(Arc::new(anchors));
                    domain.is_fine();
                    changed = true;
                }
                Err(why) => domain.has(name, why),
            }
        }
        changed
    }

    /// The generation of one domain's roots; `None` when the domain is not trusted.
    #[must_use]
    pub fn generation(&self, domain: &str) -> Option<u64> {
        self.domains.get(domain).map(|domain| domain.anchors.load().generation)
    }

    /// What verifies certificates of one domain; `None` when nobody of it is trusted.
    #[must_use]
    pub fn roots(&self, domain: &str) -> Option<Arc<dyn ClientCertVerifier>> {
        self.domains.get(domain)?.anchors.load().verifier.clone()
    }

    /// The keys that sign JWT-SVIDs of one domain; `None` when there are none.
    #[must_use]
    pub fn jwt_keys(&self, domain: &str) -> Option<Arc<Keys>> {
        self.domains.get(domain)?.anchors.load().jwt.clone()
    }

    /// The trust domains.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(String::as_str)
    }

    /// Bundle files that cannot be used at the moment, each with the reason.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let of =
            |domain: &Domain| domain.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.domains.values().filter_map(of).collect()
    }

    /// Verifies a chain, leaf first, and says who its leaf names and by which roots.
    ///
    /// # Errors
    /// When the leaf breaks a rule of X.509-SVID, or its own trust domain does not vouch for it.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Time,
    ) -> Result<(Leaf, u64), Untrusted> {
        let untrusted = |why: String| Untrusted { code: caller::CERTIFICATE_UNTRUSTED, why };
        let Some((first, others)) = chain.split_first().filter(|_| chain.len() <= CHAIN_MAX) else {
            return Err(untrusted(format!("the certificate chain is empty or above {CHAIN_MAX}")));
        };
        // INVARIANT(identity_of_the_verified_bytes): read and verified are the same slice, here and nowhere else.
        let leaf = Leaf::read(first).map_err(|why| untrusted(format!("the certificate {why}")))?;
        for other in others {
            check_authority(other)
                .map_err(|why| untrusted(format!("a certificate of the chain {why}")))?;
        }
        let domain = leaf.id.domain();
        let anchors = self.domains.get(domain).map(|domain| domain.anchors.load_full());
        let anchors = anchors
            .ok_or_else(|| untrusted(format!("the trust domain `{domain}` is not trusted")))?;
        let verifier = anchors
            .verifier
            .as_ref()
            .ok_or_else(|| untrusted(format!("the bundle of `{domain}` trusts nobody")))?;
        let at = UnixTime::since_unix_epoch(now.since(Time::ZERO));
        match verifier.verify_client_cert(first, others, at) {
            Ok(_) => Ok((leaf, anchors.generation)),
            Err(why) => {
                let why = format!("`{domain}` does not vouch for `{}`: {why}", leaf.id);
                let expired = now >= leaf.not_after;
                let code = if expired {
                    caller::CERTIFICATE_EXPIRED
                } else {
                    caller::CERTIFICATE_UNTRUSTED
                };
                Err(Untrusted { code, why })
            }
        }
    }

    /// The same for the chain of a connection that is being opened.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn peer(
        self: &Arc<Self>,
        chain: Vec<CertificateDer<'static>>,
        now: Time,
    ) -> Result<PeerCert, Untrusted> {
        let (leaf, generation) = self.verify(&chain, now)?;
        Ok(PeerCert::verified(leaf, chain, Arc::clone(self), generation, now))
    }
}

impl Domain {
    fn is_fine(&self) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Remembers what is wrong, and says it once.
    fn has(&self, name: &str, why: String) {
        let file = self.file.clone();
        let why = BadBundle { domain: name.to_owned(), file, why }.to_string();
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.as_ref() != Some(&why) {
            tracing::error!(why, "a trust bundle cannot be read; its last good content counts on");
            *problem = Some(why);
        }
    }
}

impl Anchors {
    fn read(content: &[u8], generation: u64) -> Result<Self, String> {
        let (roots, jwt) = match content.trim_ascii_start().first() {
            Some(b'{') => (jwks_roots(content)?, jwks_keys(content)?),
            _ => (pem_roots(content)?, None),
        };
        if roots.len() > TRUST_ROOTS_MAX {
            return Err(format!("has more than {TRUST_ROOTS_MAX} roots"));
        }
        let mut store = RootCertStore::empty();
        for root in roots {
            check_authority(&root).map_err(|why| format!("has a root that {why}"))?;
            store.add(root).map_err(|why| format!("has a root that cannot be used: {why}"))?;
        }
        let verifier = match store.is_empty() {
            true => None,
            false => Some(verifier(store)?),
        };
        Ok(Self { generation, content: digest(content), verifier, jwt: jwt.map(Arc::new) })
    }
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let provider = Arc::new(ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|why| format!("cannot be used: {why}"))
}

/// The members with this `use`; others are for others (SPIFFE Trust Domain and Bundle §4.2.2).
fn members(content: &[u8], purpose: &str) -> Result<Vec<Map<String, Value>>, String> {
    let set = strict_json::object(content).map_err(|why| format!("is no SPIFFE bundle: {why}"))?;
    let members = set.get("keys").and_then(Value::as_array).ok_or("has no `keys`")?;
    let of = |member: &Value| -> Result<Option<Map<String, Value>>, String> {
        let member = member.as_object().ok_or("has a key that is no object")?;
        let found = member.get("use").and_then(Value::as_str) == Some(purpose);
        Ok(found.then(|| member.clone()))
    };
    members.iter().filter_map(|member| of(member).transpose()).collect()
}

fn jwks_roots(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let root = |member: Map<String, Value>| {
        let chain = member.get("x5c").and_then(Value::as_array);
        // One certificate each (X.509-SVID §6.2): of several, readers might not agree which one counts.
        let Some([Value::String(text)]) = chain.map(Vec::as_slice) else {
            return Err("has an `x509-svid` key whose `x5c` is not one certificate".to_owned());
        };
        let der = BASE64.decode(text.as_bytes());
        der.map(CertificateDer::from).map_err(|_| "has an `x5c` that is not base64".to_owned())
    };
    members(content, "x509-svid")?.into_iter().map(root).collect()
}

/// The signing keys of JWT-SVIDs, in the shape that other issuers' keys have.
fn jwks_keys(content: &[u8]) -> Result<Option<Keys>, String> {
    let mut members = members(content, "jwt-svid")?;
    if members.is_empty() {
        return Ok(None);
    }
    for member in &mut members {
        member.remove("use");
        if !member.get("kid").is_some_and(Value::is_string) {
            return Err("has a `jwt-svid` key without `kid`".into());
        }
    }
    match Keys::parse(json!({ "keys": members }).to_string().as_bytes()) {
        Ok(keys) => Ok(Some(keys)),
        // Keys of other kinds must not keep the certificates out.
        Err(why) => {
            tracing::warn!(why, "a trust bundle has no usable keys for JWT-SVIDs");
            Ok(None)
        }
    }
}

/// Certificates one after the other. A file without any is half a file, never a wish to trust nobody: that is `{"keys": []}`.
fn pem_roots(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let roots = roots.map_err(|why| format!("is neither a SPIFFE bundle nor PEM: {why}"))?;
    if roots.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(roots)
}

fn read(file: &std::path::Path) -> Result<Vec<u8>, String> {
    read_small(file, TRUST_BUNDLE_MAX).map_err(|why| format!("cannot be read: {why}"))
}

fn digest(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// The generation of what was read at the start.
const FIRST: u64 = 1;
