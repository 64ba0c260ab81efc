//! TLS for the one port: who may open a connection, how long that may take, and a certificate that is read anew.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use protem_clock::clock::Clock;
use protem_private::file::{self, Readers, Unfit};
use protem_verify::time::Time;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, version,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::config::TlsVersion;
use crate::fetch::file::read_small;
use crate::serve::handshakes::{Handshakes, in_time, late};
use crate::serve::limits::HELLO_WITHIN;
use crate::serve::svid::Presented;
use crate::serve::trust::Trust;

/// Where the broker's certificate is, and how old a client may be.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate and intermediates, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM, for its own user only.
    pub key: PathBuf,
    /// The oldest version that is spoken.
    pub min: TlsVersion,
}

/// A certificate or key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {why}", file.display())]
pub struct BadFile {
    /// Which.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What opens connections.
pub struct Tls {
    files: TlsFiles,
    /// With the digest of the files that it was made of.
    current: ArcSwap<(Arc<CertifiedKey>, [u8; 32])>,
    /// What is wrong with the files now, while the last good ones serve on.
    problem: Mutex<Option<String>>,
    provider: Arc<CryptoProvider>,
    time: Arc<Hands>,
    trust: Option<Arc<Trust>>,
    handshakes: Handshakes,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key. With `trust`, clients are asked for a certificate.
    ///
    /// # Errors
    /// When a file cannot be read or used, the key is another certificate's, or others may read it.
    pub fn load(
        files: TlsFiles,
        trust: Option<Arc<Trust>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, BadFile> {
        let provider = Arc::new(ring::default_provider());
        let current = ArcSwap::from_pointee(read(&files, &provider)?);
        let (problem, handshakes) = (Mutex::default(), Handshakes::default());
        let time = Arc::new(Hands(clock));
        Ok(Arc::new(Self { files, current, problem, provider, time, trust, handshakes }))
    }

    /// Reads certificate and key again; new connections get the new one. Files that cannot be used change nothing, and are
    /// told of in the log and by [`Self::problem`].
    pub fn reload(&self) {
        let known = self.current.load().1;
        let found = read(&self.files, &self.provider);
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(same) if same.1 == known => *problem = None,
            Ok(fresh) => {
                tracing::info!(file = %self.files.cert.display(), "certificate read anew");
                self.current.store(Arc::new(fresh));
                *problem = None;
            }
            Err(bad) => {
                let why = bad.to_string();
                if problem.as_ref() != Some(&why) {
                    tracing::error!(
                        why,
                        "the certificate cannot be read; the last good one serves on"
                    );
                    *problem = Some(why);
                }
            }
        }
    }

    /// What is wrong with the files now, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens one connection, and says what certificate it was opened with, if any, and whether that counts: the calls of a
    /// client whose certificate does not are told why, which an alert could not. A place among the handshakes is taken
    /// by who has said hello, and only for as long as the handshake takes: silence and waiting cost nobody else's time.
    ///
    /// # Errors
    /// When it takes too long, or what the client sends is not acceptable.
    pub async fn accept(
        &self,
        stream: TcpStream,
        from: IpAddr,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Presented>)> {
        let hello = {
            let _place = self.handshakes.hello(from).await?;
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
            in_time(HELLO_WITHIN, hello).await??
        };
        let _places = self.handshakes.enter(from).await?;
        let (config, peer) = self.config()?;
        tokio::select! {
            opened = hello.into_stream(Arc::new(config)) => Ok((opened?, peer.get().cloned())),
            () = self.handshakes.over() => Err(late()),
        }
    }

    /// The settings of one connection, and where its certificate will be. Nothing is resumed, neither by tickets nor
    /// by sessions: each connection proves itself against the roots of its own moment (SPIRE 1.14.3).
    fn config(&self) -> io::Result<(ServerConfig, Arc<OnceLock<Presented>>)> {
        let versions: &[&rustls::SupportedProtocolVersion] = match self.files.min {
            TlsVersion::Tls13 => &[&version::TLS13],
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        };
        let (provider, time) = (Arc::clone(&self.provider), Arc::clone(&self.time));
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time);
        let builder = builder.with_protocol_versions(versions).map_err(io::Error::other)?;
        let peer = Arc::new(OnceLock::new());
        let builder = match &self.trust {
            None => builder.with_no_client_auth(),
            Some(trust) => {
                let (trust, peer) = (Arc::clone(trust), Arc::clone(&peer));
                builder.with_client_cert_verifier(Arc::new(Asks { trust, peer, provider }))
            }
        };
        let mut config =
            builder.with_cert_resolver(Arc::new(One(Arc::clone(&self.current.load().0))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Said twice on purpose: settings are made anew for each connection, so a session kept in them (TLS 1.2's ids, 1.3's
        // tickets) would find nobody to resume it. This holds even if settings are shared one day.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((config, peer))
    }
}

/// Asks one client for its certificate, and has it prove that the key is its own; who has none, or one that does not count, may
/// still bring a token.
#[derive(Debug)]
struct Asks {
    trust: Arc<Trust>,
    peer: Arc<OnceLock<Presented>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = [end_entity].into_iter().chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        let now = Time::from_secs(now.as_secs());
        let presented = self.trust.peer(chain, now).map(Arc::new);
        // Of a second certificate in one handshake nothing counts.
        self.peer.set(presented).map_err(|_| Error::HandshakeNotComplete)?;
        // Only the handshake goes on: whether the certificate counts is what was kept.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The one certificate, whatever name is asked for.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Our clock, as rustls asks it.
struct Hands(Arc<dyn Clock>);

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hands")
    }
}

impl TimeProvider for Hands {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix()))
    }
}

fn read(
    files: &TlsFiles,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, [u8; 32]), BadFile> {
    let bad = |file: &Path, why: String| BadFile { file: file.to_owned(), why };
    let text = read_small(&files.cert, CERT_FILE_MAX)
        .map_err(|why| bad(&files.cert, format!("cannot be read: {why}")))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|why| bad(&files.cert, format!("is no PEM: {why}")))?;
    if chain.is_empty() {
        return Err(bad(&files.cert, "holds no certificate".into()));
    }
    let secret = read_key(&files.key).map_err(|why| bad(&files.key, why))?;
    let key = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|why| bad(&files.key, format!("holds no private key: {why}")))?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .map_err(|why| bad(&files.key, format!("cannot be used with the certificate: {why}")))?;
    let content = Sha256::new().chain_update(&text).chain_update([0]).chain_update(&*secret);
    Ok((Arc::new(certified), content.finalize().into()))
}

/// Reads a key, or another secret, that nobody but this process's user (or root) may read.
pub(in crate::serve) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let secret = file::read(path, KEY_FILE_MAX, Readers::Nobody);
    secret.map_err(|why| match why {
        Unfit::File(why) => format!("cannot be read: {why}"),
        Unfit::Open { .. } | Unfit::Foreign(_) => format!("cannot be used: {why}"),
    })
}

/// A key file: RSA with 8,192 bits in PEM fits many times.
const KEY_FILE_MAX: u64 = 64 * 1024;
/// A certificate file: a chain of a few certificates fits many times.
const CERT_FILE_MAX: u64 = 256 * 1024;
