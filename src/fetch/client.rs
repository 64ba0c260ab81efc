//! A client for URLs that somebody else chose: the address is checked after it was resolved, and nothing is without end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::fetch::error::FetchError;
use crate::fetch::file::read_small;
use crate::fetch::network::{Network, special};
use crate::fetch::target::Target;

/// A client for URLs that somebody else chose. It follows no redirect, knows no proxy, keeps no connection and no cookie.
#[derive(Clone, Debug, Default)]
pub struct Fetcher {
    allow_private: Arc<[Network]>,
    ca: Option<PathBuf>,
}

/// How much one fetch may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first lookup to the last byte.
    pub whole: Duration,
    /// Bytes of the answer's body; 0: it is not read.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { whole: WHOLE, body: BODY_MAX }
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Body {
    /// The HTTP status; of [`Fetcher::get`] always 200.
    pub status: u16,
    /// `Content-Type`, in lower case and without parameters.
    pub content_type: String,
    /// How long `Cache-Control` lets it be kept; none when that header says nothing of it.
    pub max_age: Option<Duration>,
    /// The content, whole.
    pub bytes: Bytes,
}

impl Fetcher {
    /// A client that goes to public addresses and to those of `allow_private`.
    #[must_use]
    pub fn new(allow_private: impl Into<Arc<[Network]>>) -> Self {
        Self { allow_private: allow_private.into(), ca: None }
    }

    /// The same, trusting the CAs of a PEM file beside the system's. The file is read at each fetch.
    #[must_use]
    pub fn with_ca(&self, file: PathBuf) -> Self {
        Self { ca: Some(file), ..self.clone() }
    }

    /// Fetches a document, with a bearer token if the URL's own server wants one.
    ///
    /// # Errors
    /// When the URL may not be fetched, its server cannot be reached or trusted, or it does not answer 200 in time and size.
    pub async fn get(
        &self,
        url: &str,
        limits: Limits,
        bearer: Option<&str>,
    ) -> Result<Body, FetchError> {
        let to = Target::parse(url)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = bearer {
            let bad = |_| FetchError::BadUrl { url: url.to_owned(), why: "its token is no token" };
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(bad)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let body = self.exchange(&to, Method::GET, headers, Bytes::new(), limits).await?;
        match body.status {
            200 => Ok(body),
            status => Err(FetchError::Status { host: to.host, status }),
        }
    }

    /// Sends a form, as OAuth's token endpoints want it. Every status but a redirect is an answer.
    ///
    /// # Errors
    /// As [`Fetcher::get`].
    pub async fn post_form(
        &self,
        url: &str,
        limits: Limits,
        form: &[(&str, &str)],
    ) -> Result<Body, FetchError> {
        let to = Target::parse(url)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        let pairs = form.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        let content = Bytes::from(pairs.collect::<Vec<_>>().join("&"));
        self.exchange(&to, Method::POST, headers, content, limits).await
    }

    /// Sends a message to somebody whose answer is its status: 2xx says that it arrived. Nothing of the answer's body is
    /// read, so that no receiver costs more than its headers.
    ///
    /// # Errors
    /// As [`Fetcher::get`], and for every status outside 2xx.
    pub async fn post(
        &self,
        url: &str,
        limits: Limits,
        headers: HeaderMap,
        content: Bytes,
    ) -> Result<(), FetchError> {
        let to = Target::parse(url)?;
        let limits = Limits { body: 0, ..limits };
        let answer = self.exchange(&to, Method::POST, headers, content, limits).await?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err(FetchError::Status { host: to.host, status }),
        }
    }

    async fn exchange(
        &self,
        to: &Target,
        method: Method,
        mut headers: HeaderMap,
        content: Bytes,
        limits: Limits,
    ) -> Result<Body, FetchError> {
        headers.insert(HOST, to.authority.clone());
        let mut request = Request::new(Full::new(content));
        *request.method_mut() = method;
        *request.uri_mut() = to.path.clone();
        *request.headers_mut() = headers;
        let work = async {
            let stream = self.connect(to, request.headers().contains_key(AUTHORIZATION)).await?;
            if to.plain {
                return answer(to, stream, request, limits).await;
            }
            let stream = self.secure(to, stream).await?;
            answer(to, stream, request, limits).await
        };
        within(to, "answer", limits.whole, work).await?
    }

    /// Resolves first, then connects to the very address that was checked: what a second lookup would say does not matter.
    async fn connect(&self, to: &Target, with_token: bool) -> Result<TcpStream, FetchError> {
        let unresolved = |why: String| FetchError::Unresolved { host: to.host.clone(), why };
        let found = within(to, "resolve", RESOLVE, tokio::net::lookup_host((&*to.host, to.port)));
        let found: Vec<SocketAddr> =
            found.await?.map_err(|why| unresolved(why.to_string()))?.collect();
        let mut refused = unresolved("it has no address".to_owned());
        let mut good = Vec::new();
        for address in found {
            match self.judge(to, address.ip(), with_token) {
                Ok(()) => good.push(address),
                Err(why) => refused = why,
            }
        }
        for address in good.into_iter().take(ADDRESSES_MAX) {
            match within(to, "connect", CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(why)) => {
                    refused =
                        FetchError::Unreachable { host: to.host.clone(), why: why.to_string() };
                }
                Err(slow) => refused = slow,
            }
        }
        Err(refused)
    }

    fn judge(&self, to: &Target, address: IpAddr, with_token: bool) -> Result<(), FetchError> {
        let kind = special(address);
        let allowed = self.allow_private.iter().any(|network| network.holds(address));
        match kind {
            Some(kind) if !allowed => {
                Err(FetchError::Private { host: to.host.clone(), address, kind })
            }
            // In the clear a token goes to this machine only, and anything else only where the operator said so.
            Some(_) if to.plain && with_token && !address.is_loopback() => {
                Err(FetchError::Plain(to.host.clone()))
            }
            None if to.plain => Err(FetchError::Plain(to.host.clone())),
            Some(_) | None => Ok(()),
        }
    }

    async fn secure(
        &self,
        to: &Target,
        stream: TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, FetchError> {
        let bad = |why: String| FetchError::Tls { host: to.host.clone(), why };
        let ca = self.ca.clone();
        let config = tokio::task::spawn_blocking(move || tls(ca)).await;
        let config = config.map_err(|why| bad(why.to_string()))??;
        let name = ServerName::try_from(to.host.clone()).map_err(|why| bad(why.to_string()))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within(to, "agree on TLS", HANDSHAKE, connecting).await?.map_err(|why| bad(why.to_string()))
    }
}

/// One request and its answer on a connection of its own.
async fn answer(
    to: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Body, FetchError> {
    let broken =
        |why: hyper::Error| FetchError::Broken { host: to.host.clone(), why: why.to_string() };
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_MAX);
    let (mut send, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let reading = async {
        let response = send.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        if head.status.is_redirection() {
            return Err(FetchError::Redirect { host: to.host.clone(), status });
        }
        if limits.body == 0 {
            let bytes = Bytes::new();
            return Ok(Body { status, content_type: String::new(), max_age: None, bytes });
        }
        let coded = head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
        if coded {
            let why = "it is compressed, which was not asked for".to_owned();
            return Err(FetchError::Broken { host: to.host.clone(), why });
        }
        let bytes = read(to, body, limits.body).await?;
        let content_type = content_type(&head.headers);
        Ok(Body { status, content_type, max_age: max_age(&head.headers), bytes })
    };
    // Both halves live and die with this future: nothing of a slow server stays behind.
    let mut reading = std::pin::pin!(reading);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        done = reading.as_mut() => return done,
        ended = connection.as_mut() => ended.map_err(broken)?,
    }
    reading.await
}

/// The body, counted while it comes: what `Content-Length` promises is not believed.
async fn read(to: &Target, mut body: Incoming, limit: usize) -> Result<Bytes, FetchError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|why| FetchError::Broken { host: to.host.clone(), why: why.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len().saturating_add(data.len()) > limit {
            return Err(FetchError::TooLarge { host: to.host.clone(), limit });
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// `max-age` of `Cache-Control` (RFC 9111 §5.2.2); zero when the answer must not be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let (name, value) = directive.trim().split_once('=').unwrap_or((directive.trim(), ""));
            let age = match name.to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => 0,
                "max-age" => value.trim_matches('"').parse().unwrap_or(0),
                _ => continue,
            };
            found = Some(found.map_or(age, |known: u64| known.min(age)));
        }
    }
    found.map(Duration::from_secs)
}

/// The system's roots and those of a file, read anew: a renewed CA needs no restart.
fn tls(ca: Option<PathBuf>) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca {
        let bad = |why: String| FetchError::Ca { file: file.display().to_string(), why };
        let pem = read_small(&file, CA_MAX).map_err(|why| bad(why.to_string()))?;
        let mut count = 0_usize;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|why| bad(why.to_string()))?;
            roots.add(certificate).map_err(|why| bad(why.to_string()))?;
            count = count.saturating_add(1);
        }
        if count == 0 {
            return Err(bad("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bad = |why: rustls::Error| FetchError::Ca { file: String::new(), why: why.to_string() };
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(bad)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

async fn within<T>(
    to: &Target,
    step: &'static str,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, FetchError> {
    let slow = |_| FetchError::Slow { host: to.host.clone(), step, limit };
    timeout(limit, work).await.map_err(slow)
}

/// Percent-encoded, but for what RFC 3986 §2.3 leaves alone: for forms and queries alike.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The whole of one fetch: an issuer's document is small, and somebody may be waiting.
pub const WHOLE: Duration = Duration::from_secs(3);
/// The body of an answer: a JWKS of 32 keys with their certificates.
pub const BODY_MAX: usize = 64 * 1024;
/// A lookup.
const RESOLVE: Duration = Duration::from_secs(2);
/// One address: several may have to be tried.
const CONNECT: Duration = Duration::from_secs(1);
/// A TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 3;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;
/// An answer's headers, all together.
const HEAD_MAX: usize = 16 * 1024;
/// A file of CAs: a system's whole store is some 250 KiB.
const CA_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_fetch_may_go_depends_on_the_address() {
        let fetcher =
            Fetcher::new(vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        let judge = |url: &str, address: &str, with_token| {
            let to = Target::parse(url).unwrap();
            fetcher.judge(&to, address.parse().unwrap(), with_token).is_ok()
        };
        for (url, address, with_token, expect) in [
            ("https://idp.example", "93.184.216.34", true, true),
            ("https://idp.example", "10.1.2.3", true, true),
            ("https://idp.example", "192.168.0.1", false, false),
            ("https://idp.example", "169.254.169.254", false, false),
            ("https://idp.example", "::1", false, false),
            ("https://idp.example", "::ffff:127.0.0.1", false, false),
            ("http://idp.example", "93.184.216.34", false, false),
            ("http://idp.example", "10.1.2.3", false, true),
            ("http://idp.example", "10.1.2.3", true, false),
            ("http://idp.example", "127.0.0.1", true, true),
        ] {
            assert_eq!(judge(url, address, with_token), expect, "{url} at {address}");
        }
    }

    #[test]
    fn ages_are_read_from_cache_control() {
        for (text, expect) in [
            ("public, max-age=300", Some(300)),
            ("max-age=\"60\"", Some(60)),
            ("no-store, max-age=300", Some(0)),
            ("max-age=many", Some(0)),
            ("private", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
            assert_eq!(max_age(&headers), expect.map(Duration::from_secs), "{text}");
        }
        assert_eq!(encode("a b&c=d/\u{e9}~"), "a%20b%26c%3Dd%2F%C3%A9~");
    }
}
