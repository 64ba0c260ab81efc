//! The strict rules for the leaf of an X.509-SVID, and the verified certificate of a connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_verify::codes::{Code, caller};
use protem_verify::spiffe::SpiffeId;
use protem_verify::time::Time;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer;

use crate::serve::grounds::KeyPrint;
use crate::serve::trust::Trust;

/// Why a certificate does not count, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// What a leaf says of itself. It proves nothing until its chain is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI in its subject alternative names.
    pub id: SpiffeId,
    /// The end of its life.
    pub not_after: Time,
}

/// The certificate that a connection was opened with, verified when it was; each call on the connection asks whether it
/// still counts. Only [`Trust::peer`] makes one.
#[derive(Debug)]
pub struct PeerCert {
    /// Who it names.
    pub id: SpiffeId,
    /// The end of the leaf's life.
    pub not_after: Time,
    /// SHA-256 of the leaf's DER (`x5t#S256`, RFC 8705 §3.1).
    pub fingerprint: [u8; 32],
    /// The very bytes that were verified, leaf first.
    chain: Vec<CertificateDer<'static>>,
    print: KeyPrint,
    trust: Arc<Trust>,
    checked: Mutex<Checked>,
}

/// What a connection was opened with: a certificate that counted then, or why it did not. Its key was in the client's hands
/// either way; one that did not count leaves nothing behind that could name anybody.
pub type Presented = Result<Arc<PeerCert>, Untrusted>;

/// When a chain was last found good, and against which roots.
#[derive(Clone, Copy, Debug)]
struct Checked {
    generation: u64,
    at: Time,
}

/// Why a certificate does not count (any more).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Untrusted {
    /// The stable code.
    pub code: Code,
    /// In words.
    pub why: String,
}

impl PeerCert {
    /// For [`Trust::peer`], which has just verified this chain.
    pub(super) fn verified(
        leaf: Leaf,
        chain: Vec<CertificateDer<'static>>,
        trust: Arc<Trust>,
        generation: u64,
        at: Time,
    ) -> Self {
        let fingerprint = chain.first().map_or([0; 32], |leaf| Sha256::digest(leaf).into());
        let checked = Mutex::new(Checked { generation, at });
        let parts: Vec<&[u8]> = [b"certificate".as_slice()]
            .into_iter()
            .chain(chain.iter().map(|certificate| certificate.as_ref()))
            .collect();
        let print = KeyPrint::of(&parts);
        let Leaf { id, not_after } = leaf;
        Self { id, not_after, fingerprint, chain, print, trust, checked }
    }

    /// Tells this chain from all others.
    #[must_use]
    pub fn print(&self) -> KeyPrint {
        self.print
    }

    /// Which roots of its trust domain it was last checked against.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.last().generation
    }

    /// Whether it counts now. Costs nothing while the roots stay as they are; new roots, and the passing of a minute, have
    /// the chain verified again.
    ///
    /// # Errors
    /// When it has expired, or its trust domain no longer vouches for it.
    pub fn check(&self, now: Time) -> Result<(), Untrusted> {
        if now >= self.not_after {
            let why = format!("the certificate of `{}` has expired", self.id);
            return Err(Untrusted { code: caller::CERTIFICATE_EXPIRED, why });
        }
        let last = self.last();
        let same = Some(last.generation) == self.trust.generation(self.id.domain());
        if same && now >= last.at && now.since(last.at) < CHECK_AGAIN {
            return Ok(());
        }
        // What failed is not remembered: the next call looks again, and roots that come back are not missed.
        let (_, generation) = self.trust.verify(&self.chain, now)?;
        let checked = Checked { generation, at: now };
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = checked;
        Ok(())
    }

    fn last(&self) -> Checked {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leaf {
    /// Reads a leaf by the rules of X.509-SVID §2–§4: exactly one URI, not a CA, a critical key usage with digitalSignature
    /// and without keyCertSign and cRLSign, an extended key usage, if any, with both TLS roles.
    ///
    /// # Errors
    /// With the rule that it breaks.
    pub fn read(der: &[u8]) -> Result<Self, Unfit> {
        let certificate = parse(der)?;
        check_usage(&certificate)?;
        let id = the_one_uri(&certificate)?;
        let seconds = certificate.validity().not_after.timestamp();
        let seconds = u64::try_from(seconds).map_err(|_| Unfit("it ended before 1970".into()))?;
        Ok(Self { id, not_after: Time::from_secs(seconds) })
    }
}

/// Refuses what may not vouch for others: a trust bundle holds CA certificates only.
///
/// # Errors
/// When it cannot be read, or is no CA's.
pub fn check_authority(der: &[u8]) -> Result<(), Unfit> {
    let certificate = parse(der)?;
    match only(&certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        Some((ParsedExtension::BasicConstraints(constraints), _)) if constraints.ca => {}
        Some(_) | None => return Err(Unfit("is no CA's".into())),
    }
    match only(&certificate, &OID_X509_EXT_KEY_USAGE)? {
        Some((ParsedExtension::KeyUsage(usage), _)) if !usage.key_cert_sign() => {
            Err(Unfit("may not sign certificates (keyUsage without keyCertSign)".into()))
        }
        Some((ParsedExtension::KeyUsage(_), _)) | None => Ok(()),
        Some(_) => Err(Unfit("has a keyUsage that cannot be read".into())),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Unfit> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Unfit("is no X.509 certificate".into())),
    }
}

/// The one extension of this kind. Twice is an error: readers that differ in which one counts could be told apart.
fn only<'a>(
    certificate: &'a X509Certificate<'a>,
    kind: &Oid<'_>,
) -> Result<Option<(&'a ParsedExtension<'a>, bool)>, Unfit> {
    let mut found = certificate.extensions().iter().filter(|extension| extension.oid == *kind);
    let first = found.next();
    if found.next().is_some() {
        return Err(Unfit(format!("has the extension {kind} twice")));
    }
    Ok(first.map(|extension| (extension.parsed_extension(), extension.critical)))
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), Unfit> {
    let unfit = |why: &str| Err(Unfit(why.to_owned()));
    match only(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        None => {}
        Some((ParsedExtension::BasicConstraints(constraints), _)) if !constraints.ca => {}
        Some(_) => return unfit("is a CA's, not a workload's"),
    }
    match only(certificate, &OID_X509_EXT_KEY_USAGE)? {
        Some((ParsedExtension::KeyUsage(usage), critical)) => {
            if !critical {
                return unfit("has a keyUsage that is not critical");
            }
            if !usage.digital_signature() {
                return unfit("has a keyUsage without digitalSignature");
            }
            if usage.key_cert_sign() || usage.crl_sign() {
                return unfit("has a keyUsage with keyCertSign or cRLSign");
            }
        }
        Some(_) | None => return unfit("has no keyUsage"),
    }
    match only(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE)? {
        None => Ok(()),
        Some((ParsedExtension::ExtendedKeyUsage(usage), _))
            if usage.client_auth && usage.server_auth =>
        {
            Ok(())
        }
        Some(_) => unfit("has an extKeyUsage without both serverAuth and clientAuth"),
    }
}

fn the_one_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Unfit> {
    let unfit = |why: &str| Unfit(why.to_owned());
    let names = match only(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)? {
        Some((ParsedExtension::SubjectAlternativeName(names), _)) => &names.general_names,
        Some(_) => return Err(unfit("has a subjectAltName that cannot be read")),
        None => return Err(unfit("has no subjectAltName, so no SPIFFE ID")),
    };
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(unfit("has a subjectAltName that cannot be read"));
            }
            GeneralName::DNSName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    match uris.as_slice() {
        [one] => SpiffeId::parse(one).map_err(|bad| Unfit(bad.to_string())),
        [] => Err(unfit("has no URI in its subjectAltName, so no SPIFFE ID")),
        _ => Err(unfit("has more than one URI in its subjectAltName")),
    }
}

/// How long a chain that was good is taken for good while its roots stay: intermediates end, too.
const CHECK_AGAIN: Duration = Duration::from_secs(60);
