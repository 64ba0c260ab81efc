//! How clients of a broker connect: TLS beyond this machine, and certificates read anew for each connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use protem_private::file::{self, Readers};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

/// Whom a client believes, and what it shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CAs in PEM that the broker's certificate must come from; none: the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate with its intermediates, and its key, in PEM: an X.509-SVID, say.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A client certificate that changes while a program runs, and is in no file; asked for at each connection.
pub trait Shows: fmt::Debug + Send + Sync {
    /// The one to show now.
    ///
    /// # Errors
    /// When there is none.
    fn newest(&self) -> io::Result<Arc<CertifiedKey>>;
}

/// The way to one broker.
#[derive(Clone, Debug)]
pub struct Dial {
    endpoint: Endpoint,
    connector: Connector,
}

/// An address that no client connects to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It is no address of a broker.
    #[error("`{0}` is not an address of a broker, such as `https://broker.example:7420`")]
    NoAddress(String),
    /// What is said there could be read and changed on the way.
    #[error("`{0}` is beyond loopback and has no TLS; a caller token is never sent there")]
    InTheClear(String),
}

/// Whether a client may talk to this address: by `https` to any, by `http` on this machine alone.
///
/// # Errors
/// When it may not.
pub fn check(uri: &Uri) -> Result<(), BadAddress> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(()),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(()),
        (Some("http"), Some(_)) => Err(BadAddress::InTheClear(uri.to_string())),
        _ => Err(BadAddress::NoAddress(uri.to_string())),
    }
}

impl Dial {
    /// The way to `uri`; nothing is connected yet, and never to an address that [`check`] refuses. `within`: how long a
    /// connection may take, with its handshake.
    #[must_use]
    pub fn new(uri: Uri, files: TlsFiles, within: Duration) -> Self {
        let endpoint = Endpoint::from(uri)
            .connect_timeout(within)
            .http2_keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1);
        let (shown, judge) = (None, None);
        let connector = Connector { files: Arc::new(files), system: Arc::default(), shown, judge };
        Self { endpoint, connector }
    }

    /// The same, showing this certificate and none from files.
    #[must_use]
    pub fn showing(mut self, shown: Arc<dyn Shows>) -> Self {
        self.connector.shown = Some(shown);
        self
    }

    /// The same, with another judge of the broker's certificate than CAs and its name.
    #[must_use]
    pub fn judged_by(mut self, judge: Arc<dyn ServerCertVerifier>) -> Self {
        self.connector.judge = Some(judge);
        self
    }

    /// The same, with what `set` makes of the transport's settings.
    #[must_use]
    pub fn with(self, set: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        Self { endpoint: set(self.endpoint), ..self }
    }

    /// Whether the files that it names can be used now.
    ///
    /// # Errors
    /// Which cannot, and why.
    pub fn usable(&self) -> io::Result<()> {
        self.connector.config().map(drop)
    }

    /// Connects now.
    ///
    /// # Errors
    /// When there is no connection, or no trust.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint.connect_with_connector(self.connector.clone()).await
    }

    /// Connects with the first call, and again when a connection has ended.
    #[must_use]
    pub fn connect_lazy(&self) -> Channel {
        self.endpoint.connect_with_connector_lazy(self.connector.clone())
    }
}

/// Opens connections for tonic, which would speak no TLS by itself here.
#[derive(Clone)]
struct Connector {
    files: Arc<TlsFiles>,
    /// The system's roots, read once: there are a hundred and more.
    system: Arc<OnceLock<Arc<RootCertStore>>>,
    shown: Option<Arc<dyn Shows>>,
    judge: Option<Arc<dyn ServerCertVerifier>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A connection, whatever it speaks.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.open(&uri).await?)) })
    }
}

impl Connector {
    async fn open(self, uri: &Uri) -> io::Result<Box<dyn Stream>> {
        check(uri).map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host.as_str(), port)).await?.collect();
        // A name of this machine that leads elsewhere would take the token there.
        if !tls && !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err(io::Error::other(BadAddress::InTheClear(uri.to_string())));
        }
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        // Small calls are not held back for company; a failure here costs only that.
        let _ = stream.set_nodelay(true);
        if !tls {
            return Ok(Box::new(stream));
        }
        // A rotated certificate is used from the next connection on; reading files may block.
        let config = tokio::task::spawn_blocking(move || self.config()).await;
        let config = config.map_err(io::Error::other)??;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(io::Error::other("the server there speaks no HTTP/2"));
        }
        Ok(Box::new(stream))
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(io::Error::other)?;
        let builder = match &self.judge {
            Some(judge) => builder.dangerous().with_custom_certificate_verifier(Arc::clone(judge)),
            None => builder.with_root_certificates(self.roots()?),
        };
        let mut config = match (&self.shown, &self.files.identity) {
            (Some(shown), _) => {
                let shown = SingleCertAndKey::from(shown.newest()?);
                builder.with_client_cert_resolver(Arc::new(shown))
            }
            (None, None) => builder.with_no_client_auth(),
            (None, Some((cert, key))) => {
                let chain = certificates(cert)?;
                let secret = file::read(key, KEY_FILE_MAX, Readers::Group);
                let secret = secret.map_err(|why| bad(key, &why))?;
                let key = PrivateKeyDer::from_pem_slice(&secret).map_err(|why| bad(key, &why))?;
                let unfit = |why| bad(cert, &format!("does not go with its key: {why}"));
                builder.with_client_auth_cert(chain, key).map_err(unfit)?
            }
        };
        config.alpn_protocols = vec![H2.to_vec()];
        // Each connection shows the certificate of its own moment.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn roots(&self) -> io::Result<Arc<RootCertStore>> {
        let mut store = RootCertStore::empty();
        if let Some(ca) = &self.files.ca {
            for root in certificates(ca)? {
                store.add(root).map_err(|why| bad(ca, &why))?;
            }
            return Ok(Arc::new(store));
        }
        if let Some(known) = self.system.get() {
            return Ok(Arc::clone(known));
        }
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(io::Error::other(
                "this system has no CA certificates; name a file of them",
            ));
        }
        Ok(Arc::clone(self.system.get_or_init(|| Arc::new(store))))
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).map_err(|why| bad(file, &why))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|why| bad(file, &why))?;
    if found.is_empty() {
        return Err(bad(file, &"it holds no certificate"));
    }
    Ok(found)
}

fn bad(file: &Path, why: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!("`{}`: {why}", file.display()))
}

/// Whether a name or address means this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

const H2: &[u8] = b"h2";
/// A key file: RSA with 8,192 bits in PEM fits many times.
const KEY_FILE_MAX: u64 = 64 * 1024;
/// How often the transport asks a silent peer whether it is there, and how long it waits.
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reach(uri: &'static str, expect: Result<(), fn(String) -> BadAddress>) {
        let found = check(&Uri::from_static(uri));
        // A path of nothing is printed as `/`.
        let normal = Uri::from_static(uri).to_string();
        assert_eq!(found, expect.map_err(|bad| bad(normal)), "{uri}");
    }

    #[test]
    fn a_token_travels_in_the_clear_on_loopback_only() {
        for near in
            ["http://127.0.0.1:7420", "http://127.9.9.9", "http://[::1]:1", "http://localhost"]
        {
            reach(near, Ok(()));
        }
        for far in [
            "http://10.0.0.1",
            "http://broker.example",
            "http://127.0.0.1.example",
            "http://localhost.example",
        ] {
            reach(far, Err(BadAddress::InTheClear));
        }
        reach("https://broker.example:7420", Ok(()));
        reach("ftp://127.0.0.1", Err(BadAddress::NoAddress));
        reach("/nothing", Err(BadAddress::NoAddress));
    }
}
