//! A broker that is known by its SPIFFE ID: what judges its certificate in place of CAs and its name.

use std::sync::Arc;

use protem_gate::svid::X509Source;
use protem_verify::codes::tool;
use protem_verify::spiffe::{NoSpiffeId, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::cli::exit::{Exit, Failure};
use crate::serve::svid::{Leaf, Unfit};

/// Takes a certificate that is an X.509-SVID of exactly this ID, by the newest roots of its trust domain. Everybody of the
/// domain has a certificate of those roots, and some have DNS names in it: so the ID counts, and no name does.
#[derive(Debug)]
pub struct BrokerId {
    id: SpiffeId,
    source: Arc<X509Source>,
    provider: CryptoProvider,
}

impl BrokerId {
    /// A broker with this ID, by the roots that come with `source`.
    ///
    /// # Errors
    /// When it is no SPIFFE ID.
    pub fn new(id: &str, source: Arc<X509Source>) -> Result<Arc<Self>, Failure> {
        let bad = |why: NoSpiffeId| {
            Failure::of(Exit::Usage, tool::USAGE, format!("`--broker-id {id}`: {why}"))
                .helps("write it like spiffe://shop.example/protem")
        };
        let id = SpiffeId::parse(id).map_err(bad)?;
        Ok(Arc::new(Self { id, source, provider: ring::default_provider() }))
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let named = Leaf::read(leaf).map_err(|why| refused(why.0))?.id;
        if named != self.id {
            return Err(refused(format!("it is `{named}`, and not `{}`", self.id)));
        }
        let own = self.source.newest().map_err(|why| refused(why.to_string()))?;
        // These roots vouch for the caller's own trust domain alone.
        let is_ours = SpiffeId::parse(&own.id).is_ok_and(|own| own.domain() == self.id.domain());
        if !is_ours {
            return Err(refused(format!(
                "`{}` is of another trust domain than this caller",
                self.id
            )));
        }
        let mut roots = RootCertStore::empty();
        for root in &own.roots {
            roots.add(root.clone())?;
        }
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, chain, now, algorithms)
    }
}

impl ServerCertVerifier for BrokerId {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, chain, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused(why: String) -> Error {
    let why = Unfit(format!("the broker's certificate does not count: {why}"));
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}
