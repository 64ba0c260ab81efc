//! A client of SPIFFE's Workload API: where its agent listens, what it is asked, and why it gives nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use protem_proto::wire::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use protem_proto::wire::spiffe::{
    JwtsvidRequest, JwtsvidResponse, X509svidRequest, X509svidResponse,
};
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// Where an agent listens (SPIFFE Workload Endpoint §4). A key comes over it, so it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Why an agent gives no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The address is none of a Workload API on this machine.
    #[error("`{address}` is no address of a SPIFFE agent: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Nothing answers there.
    #[error("the SPIFFE agent at `{0}` cannot be reached: {1}")]
    Unreachable(Socket, String),
    /// The agent answered too late.
    #[error("the SPIFFE agent at `{0}` does not answer")]
    Late(Socket),
    /// The agent knows no identity of this process.
    #[error("the SPIFFE agent at `{0}` gives this process no identity: {1}")]
    Denied(Socket, String),
    /// The agent says something else than an identity.
    #[error("the SPIFFE agent at `{0}` failed: {1}")]
    Failed(Socket, String),
    /// The agent's answer holds no identity.
    #[error("the answer of the SPIFFE agent at `{0}` holds no identity")]
    Empty(Socket),
    /// None of the identities is meant.
    #[error("none of the identities of this process has the hint `{asked}`, but {known}")]
    NoHint {
        /// Which was asked for.
        asked: String,
        /// Those that there are.
        known: String,
    },
    /// What the agent gave cannot be used.
    #[error("what the SPIFFE agent at `{0}` gave cannot be used: {1}")]
    Unfit(Socket, String),
}

impl Trouble {
    /// Whether it may be over in a moment: agents start after their workloads, and hear of them late.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(..) | Self::Late(_) | Self::Denied(..) => true,
            Self::Address { .. }
            | Self::Failed(..)
            | Self::Empty(_)
            | Self::NoHint { .. }
            | Self::Unfit(..) => false,
        }
    }
}

impl Socket {
    /// Reads `unix:///path`, `unix:/path` or `tcp://ADDRESS:PORT`, as `SPIFFE_ENDPOINT_SOCKET` holds it.
    ///
    /// # Errors
    /// When it is neither, or leads away from this machine.
    pub fn parse(text: &str) -> Result<Self, Trouble> {
        let bad = |why| Trouble::Address { address: text.to_owned(), why };
        if text.contains(['?', '#', '%']) {
            return Err(bad("it holds more than a scheme and a place"));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = match rest.strip_prefix("//") {
                Some(path) if !path.starts_with('/') => {
                    return Err(bad("`unix://` names a host; write `unix:///path`"));
                }
                Some(path) => path,
                None => rest,
            };
            let is_path = path.starts_with('/') && path.len() > 1 && !path.contains('\0');
            return if is_path {
                Ok(Self::Unix(path.into()))
            } else {
                Err(bad("a Unix socket has an absolute path, `unix:///path`"))
            };
        }
        let Some(place) = text.strip_prefix("tcp://") else {
            return Err(bad("it begins with `unix:` or `tcp:`"));
        };
        let address: SocketAddr = place
            .parse()
            .map_err(|_| bad("`tcp:` has an IP address and a port, `tcp://127.0.0.1:8081`"))?;
        if !address.ip().is_loopback() {
            return Err(bad("it leads beyond loopback, where keys would travel in the clear"));
        }
        if address.port() == 0 {
            return Err(bad("it has no port"));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// An agent's Workload API.
#[derive(Clone, Debug)]
pub struct Workload {
    socket: Socket,
    channel: Channel,
}

impl Workload {
    /// The one at `socket`. Connects with the first question, and again when the agent was away.
    #[must_use]
    pub fn at(socket: Socket) -> Self {
        let place = socket.clone();
        let connect = tower::service_fn(move |_: Uri| open(place.clone()));
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_WITHIN)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1)
            .connect_with_connector_lazy(connect);
        Self { socket, channel }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Its X.509-SVIDs, and again whenever they change.
    ///
    /// # Errors
    /// When the agent has none for this process, or cannot be asked.
    pub async fn x509_svids(&self) -> Result<Streaming<X509svidResponse>, Trouble> {
        let mut client = self.client();
        let asked = client.fetch_x509svid(marked(X509svidRequest {}));
        self.answered(asked).await
    }

    /// JWT-SVIDs for `audience`.
    ///
    /// # Errors
    /// As [`Self::x509_svids`].
    pub async fn jwt_svids(&self, audience: &str) -> Result<JwtsvidResponse, Trouble> {
        let asked =
            JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: String::new() };
        let mut client = self.client();
        self.answered(client.fetch_jwtsvid(marked(asked))).await
    }

    /// A status of the agent, in our words.
    #[must_use]
    pub fn trouble(&self, status: &Status) -> Trouble {
        let (socket, said) = (self.socket.clone(), status.message().to_owned());
        match status.code() {
            Code::PermissionDenied => Trouble::Denied(socket, said),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
                Trouble::Unreachable(socket, deepest(status))
            }
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => {
                Trouble::Failed(socket, format!("{said} ({:?})", status.code()))
            }
        }
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.trouble(&status)),
            Err(_) => Err(Trouble::Late(self.socket.clone())),
        }
    }
}

/// The identity that is meant: the one with this hint, or the first, which is the default (SPIFFE Workload API §5.3).
///
/// # Errors
/// When there is none, or none with this hint.
pub fn chosen<T>(
    all: Vec<T>,
    hint: Option<&str>,
    hint_of: impl Fn(&T) -> &str,
    socket: &Socket,
) -> Result<T, Trouble> {
    if all.is_empty() {
        return Err(Trouble::Empty(socket.clone()));
    }
    let Some(asked) = hint else {
        return all.into_iter().next().ok_or_else(|| Trouble::Empty(socket.clone()));
    };
    let known: Vec<String> =
        all.iter().take(NAMED_MAX).map(|one| format!("`{}`", hint_of(one))).collect();
    all.into_iter()
        .find(|one| hint_of(one) == asked)
        .ok_or_else(|| Trouble::NoHint { asked: asked.to_owned(), known: known.join(", ") })
}

/// Without this header agents answer nobody: a browser or proxy that is talked into a request cannot set it (SPIFFE Workload
/// Endpoint §5).
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// A connection to an agent, whichever way.
trait Line: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<L: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Line for L {}

async fn open(socket: Socket) -> io::Result<TokioIo<Box<dyn Line>>> {
    let line: Box<dyn Line> = match socket {
        Socket::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Socket::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    };
    Ok(TokioIo::new(line))
}

fn deepest(status: &Status) -> String {
    let mut deepest = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        deepest = cause.to_string();
        next = cause.source();
    }
    deepest
}

/// How long an agent on this machine may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long an agent may take to answer: it may have to ask its server, and jobs have leases of 15 s and more.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The largest answer: a chain and a bundle have some KiB, and a workload a few of them.
pub const ANSWER_MAX: usize = 1 << 20;
/// How much of what an agent says is held before it is read, the rest waits on its side: an answer or two.
const WINDOW: u32 = 64 * 1024;
/// How often the transport asks a silent agent whether it is there, and how long it waits.
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How many hints a refusal lists.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&str>) {
        let found = Socket::parse(text);
        assert_eq!(found.as_ref().ok().map(ToString::to_string).as_deref(), expect, "{text}");
    }

    #[test]
    fn an_agent_is_on_this_machine() {
        check("unix:///run/spire/agent.sock", Some("unix:///run/spire/agent.sock"));
        check("unix:/run/spire/agent.sock", Some("unix:///run/spire/agent.sock"));
        check("tcp://127.0.0.1:8081", Some("tcp://127.0.0.1:8081"));
        check("tcp://[::1]:8081", Some("tcp://[::1]:8081"));
        for bad in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix:/",
            "unix:agent.sock",
            "unix://run/agent.sock",
            "unix:///a?b",
            "unix:///a#b",
            "tcp:127.0.0.1:8081",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:1/a",
            "tcp://localhost:8081",
            "tcp://10.0.0.1:8081",
            "tcp://0.0.0.0:8081",
            "http://127.0.0.1:1",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn the_first_identity_counts_unless_another_is_asked_for() {
        let socket = Socket::Tcp(([127, 0, 0, 1], 1).into());
        let choose = |all: &[&'static str], hint| {
            chosen(all.to_vec(), hint, |one| one, &socket).map_err(|why| why.to_string())
        };
        assert_eq!(choose(&["a", "b"], None), Ok("a"));
        assert_eq!(choose(&["a", "b"], Some("b")), Ok("b"));
        assert_eq!(choose(&["b", "b"], Some("b")), Ok("b"));
        assert!(choose(&["a", "b"], Some("c")).unwrap_err().contains("`a`, `b`"));
        assert!(choose(&[], None).unwrap_err().contains("holds no identity"));
    }
}
