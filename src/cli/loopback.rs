//! Where a browser comes back to after a sign-in: one address of this machine, for a few minutes (RFC 8252 §7.3).

use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{StatusCode, Uri};
use protem_verify::codes::tool;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::serve::oidc::{Answer, Attempt, Provider};

/// A free port of this machine.
pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

type Question = (Vec<(String, String)>, oneshot::Sender<Page>);

/// What the browser shows.
#[derive(Clone, Copy, Debug)]
enum Page {
    Good,
    Failed,
    NotOurs,
}

impl Loopback {
    /// Takes a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn listen() -> Result<Self, Failure> {
        let none = |why: std::io::Error| Failure::of(Exit::Failed, tool::PORTS, why.to_string());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(none)?;
        let port = listener.local_addr().map_err(none)?.port();
        Ok(Self { listener, port })
    }

    /// The address to come back to. It names no host, so that no resolver can lead it elsewhere.
    #[must_use]
    pub fn redirect(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// Waits for the code of one sign-in.
    ///
    /// # Errors
    /// When the sign-in failed, or nobody came back in time.
    pub async fn code(
        self,
        provider: &Provider,
        attempt: &Attempt,
    ) -> Result<Zeroizing<String>, Failure> {
        let (ask, mut asked) = mpsc::channel::<Question>(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().route("/callback", get(callback)).with_state(ask);
        let served = axum::serve(self.listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let serving = tokio::spawn(served.into_future());
        let came = async {
            while let Some((query, page)) = asked.recv().await {
                let (shown, found) = match attempt.answer(provider, &query) {
                    Answer::NotOurs => (Page::NotOurs, None),
                    Answer::Code(code) => (Page::Good, Some(Ok(code))),
                    Answer::Failed(failed) => (Page::Failed, Some(Err(failed.into()))),
                };
                let _ = page.send(shown);
                if let Some(found) = found {
                    return found;
                }
            }
            Err(late())
        };
        let found = tokio::time::timeout(PATIENCE, came).await.unwrap_or_else(|_| Err(late()));
        drop(stop);
        // The page is on its way; a browser that keeps its connection must not keep us.
        let _ = tokio::time::timeout(FAREWELL, serving).await;
        found
    }
}

async fn callback(State(ask): State<mpsc::Sender<Question>>, uri: Uri) -> Response {
    let query = Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let (answer, answered) = oneshot::channel();
    let asked = ask.send((query, answer)).await;
    let page = if asked.is_ok() { answered.await.unwrap_or(Page::NotOurs) } else { Page::NotOurs };
    let (status, words) = match page {
        Page::Good => {
            (StatusCode::OK, "Back to your terminal: it goes on there. You can close this page.")
        }
        Page::Failed => (
            StatusCode::BAD_REQUEST,
            "The sign-in failed. Your terminal says why. You can close this page.",
        ),
        Page::NotOurs => {
            (StatusCode::BAD_REQUEST, "This is not the answer to a sign-in that protem waits for.")
        }
    };
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, format!("{words}\n")).into_response()
}

fn late() -> Failure {
    Failure::of(
        Exit::NotAuthenticated,
        tool::SIGN_IN_LATE,
        "nobody came back from the sign-in page",
    )
}

/// How long a sign-in may take: finding the phone with the second factor, not lunch.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long the last page may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);
