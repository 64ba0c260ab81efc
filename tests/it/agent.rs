//! A SPIFFE agent of a test's own: the Workload API on a real socket, which answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protem_proto::wire::spiffe::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use protem_proto::wire::spiffe::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, X509svid, X509svidRequest, X509svidResponse,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use crate::pki::{Authority, Issued};

/// What the agent says when it is asked for X.509-SVIDs.
#[derive(Clone)]
pub enum Says {
    /// These, and the next ones when it is told others.
    Svids(Vec<X509svid>),
    /// No.
    No(Code, &'static str),
    /// Nothing at all.
    Silent,
    /// The same again and again.
    Endless(Vec<X509svid>),
}

type TokenFor = dyn Fn(&str) -> Result<Vec<Jwtsvid>, Status> + Send + Sync;

/// An agent on a socket.
pub struct Agent {
    /// What `SPIFFE_ENDPOINT_SOCKET` holds for it.
    pub address: String,
    says: watch::Sender<Says>,
    seen: Arc<Seen>,
    serving: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// What the agent was asked.
#[derive(Default)]
pub struct Seen {
    /// Streams of X.509-SVIDs that were opened.
    pub streams: AtomicUsize,
    /// Messages that were sent on them.
    pub sent: AtomicUsize,
    /// Audiences that JWT-SVIDs were asked for.
    pub audiences: Mutex<VecDeque<String>>,
}

impl Agent {
    /// On a Unix socket, saying this.
    pub fn start(says: Says) -> Self {
        Self::serve(says, None, Box::new(|_| Err(Status::permission_denied("no JWT-SVIDs here"))))
    }

    /// On a loopback port, saying this.
    pub fn on_tcp(says: Says) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tokens = Box::new(|_: &str| Err(Status::permission_denied("none")));
        Self::serve(says, Some(listener), tokens)
    }

    /// With JWT-SVIDs, made anew for each question.
    pub fn with_tokens(
        tokens: impl Fn(&str) -> Result<Vec<Jwtsvid>, Status> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Says::No(Code::PermissionDenied, "no X.509-SVIDs"), None, Box::new(tokens))
    }

    fn serve(says: Says, tcp: Option<std::net::TcpListener>, tokens: Box<TokenFor>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (says, told) = watch::channel(says);
        let seen: Arc<Seen> = Arc::default();
        let answers = Answers { told, seen: Arc::clone(&seen), tokens: tokens.into() };
        let server = Server::builder().add_service(SpiffeWorkloadApiServer::new(answers));
        let (address, serving) = match tcp {
            Some(listener) => {
                listener.set_nonblocking(true).unwrap();
                let listener = TcpListener::from_std(listener).unwrap();
                let at: SocketAddr = listener.local_addr().unwrap();
                let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
                (format!("tcp://{at}"), tokio::spawn(async move { serve.await.unwrap() }))
            }
            None => {
                let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
                let serve = server.serve_with_incoming(listener);
                (
                    format!("unix://{}", path.display()),
                    tokio::spawn(async move { serve.await.unwrap() }),
                )
            }
        };
        Self { address, says, seen, serving, _folder: folder }
    }

    /// Says something else from now on, also to those who listen already.
    pub fn say(&self, says: Says) {
        self.says.send_replace(says);
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Is gone, as a process that was killed.
    pub async fn stop(mut self) -> PathBuf {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        PathBuf::from(self.address.trim_start_matches("unix://"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An X.509-SVID as agents send it.
pub fn x509(id: &str, issued: &Issued, by: &Authority, hint: &str) -> X509svid {
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: issued.der.to_vec(),
        x509_svid_key: key.secret_der().to_vec(),
        bundle: by.der().to_vec(),
        hint: hint.to_owned(),
    }
}

/// A JWT-SVID as agents send it.
pub fn jwt(id: &str, token: String, hint: &str) -> Jwtsvid {
    Jwtsvid { spiffe_id: id.to_owned(), svid: token, hint: hint.to_owned() }
}

/// A socket that nobody serves, in a folder.
pub fn nobody(folder: &Path) -> String {
    format!("unix://{}", folder.join("nobody.sock").display())
}

struct Answers {
    told: watch::Receiver<Says>,
    seen: Arc<Seen>,
    tokens: Arc<TokenFor>,
}

/// Agents answer nobody who does not set it (SPIFFE Workload Endpoint §5).
fn marked<T>(request: &Request<T>) -> Result<(), Status> {
    let mark = request.metadata().get("workload.spiffe.io");
    let is_set = mark.is_some_and(|mark| mark == "true");
    is_set.then_some(()).ok_or_else(|| Status::invalid_argument("security header missing"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Answers {
    type FetchX509SVIDStream =
        Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send + 'static>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        marked(&request)?;
        self.seen.streams.fetch_add(1, Ordering::SeqCst);
        let (mut told, seen) = (self.told.clone(), Arc::clone(&self.seen));
        let (send, sent) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let says = told.borrow_and_update().clone();
                let next = match says {
                    Says::Svids(svids) => send.send(Ok(X509svidResponse { svids })).await,
                    Says::No(code, why) => {
                        let _ = send.send(Err(Status::new(code, why))).await;
                        return;
                    }
                    Says::Silent => Ok(()),
                    Says::Endless(svids) => {
                        if send.send(Ok(X509svidResponse { svids })).await.is_err() {
                            return;
                        }
                        seen.sent.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                };
                if next.is_err() {
                    return;
                }
                seen.sent.fetch_add(1, Ordering::SeqCst);
                tokio::select! {
                    changed = told.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(sent);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        marked(&request)?;
        let audience = request.into_inner().audience.join(" ");
        self.seen.audiences.lock().unwrap().push_back(audience.clone());
        if audience.contains("silent") {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        let svids = (self.tokens)(&audience)?;
        Ok(Response::new(JwtsvidResponse { svids }))
    }
}
