//! A connection that presents the caller on each call, with a token that is fresh then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use crate::cli::output::Screen;
use crate::cli::token::Login;

/// A channel and who calls over it.
#[derive(Clone, Debug)]
pub struct Line {
    channel: Channel,
    login: Login,
    told: Option<Told>,
}

/// Where it is told that a call takes its time, and of which broker.
type Told = (Screen, Arc<str>);

impl Line {
    /// Calls over `channel` as `login`.
    #[must_use]
    pub fn new(channel: Channel, login: Login, told: Option<Told>) -> Self {
        Self { channel, login, told }
    }
}

/// Waits for an answer, and after a second says so in a line that goes when it is there.
async fn patiently<T>(told: Option<Told>, answer: impl Future<Output = T>) -> T {
    let Some((screen, broker)) = told else { return answer.await };
    tokio::pin!(answer);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    for waited in 1_u64.. {
        tokio::select! {
            biased;
            answer = &mut answer => {
                if waited > 1 {
                    screen.clear();
                }
                return answer;
            }
            _ = second.tick() => screen.draw(&format!("  waiting for {broker}, {waited} s")),
        }
    }
    answer.await
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The channel that is ready makes the call; its clone takes its place.
        let next = self.channel.clone();
        let mut ready = std::mem::replace(&mut self.channel, next);
        let (login, told) = (self.login.clone(), self.told.clone());
        Box::pin(patiently(told, async move {
            match bearer(&login).await {
                Ok(Some(value)) => drop(request.headers_mut().insert(AUTHORIZATION, value)),
                Ok(None) => {}
                Err(status) => return Ok(status.into_http()),
            }
            ready.call(request).await
        }))
    }
}

async fn bearer(login: &Login) -> Result<Option<HeaderValue>, Status> {
    let token = login.token().await.map_err(|why| Status::unauthenticated(why.what))?;
    let Some(token) = token else { return Ok(None) };
    let value = HeaderValue::try_from(format!("Bearer {}", token.as_str()));
    let mut value = value.map_err(|_| Status::unauthenticated("the token is not one"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
