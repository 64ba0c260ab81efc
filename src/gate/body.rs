//! A body, of a request or a response, that ends when the credential it was let through for does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use protem_clock::clock::Clock;
use protem_verify::verifier::{Allowed, Verifier};
use tokio::time::Sleep;

use crate::follow::moment;

/// What can go wrong in a guarded body: what the inner one says, or [`CutOff`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A refusal's body, or one under watch: the caller's on its way in, the inner service's on its way out.
pub struct Guarded<B>(Inner<B>);

enum Inner<B> {
    Refusal(Full<Bytes>),
    Watched { body: Pin<Box<B>>, watch: Box<Watch> },
}

/// Checks again, at least once in [`EVERY`], whether a credential still counts.
pub struct Watch {
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    allowed: Arc<Allowed>,
    next: Pin<Box<Sleep>>,
}

/// The access that a body was streamed under has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access ended while the body was sent")]
pub struct CutOff;

/// How often a stream's credential is checked: twice a second, so that the bound is kept with a margin.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

impl<B> Guarded<B> {
    /// Of a refusal.
    #[must_use]
    pub fn refusal(body: Bytes) -> Self {
        Self(Inner::Refusal(Full::new(body)))
    }

    /// Of a call that was let through.
    #[must_use]
    pub fn watched(body: B, watch: Watch) -> Self {
        Self(Inner::Watched { body: Box::pin(body), watch: Box::new(watch) })
    }
}

impl Watch {
    /// Watches over `allowed`; must be called in a tokio runtime.
    #[must_use]
    pub fn new(verifier: Verifier, clock: Arc<dyn Clock>, allowed: Arc<Allowed>) -> Self {
        Self { verifier, clock, allowed, next: Box::pin(tokio::time::sleep(EVERY)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), CutOff> {
        while self.next.as_mut().poll(cx).is_ready() {
            let still = self.verifier.still(&self.allowed, moment(&*self.clock));
            still.map_err(|_| CutOff)?;
            self.next = Box::pin(tokio::time::sleep(EVERY));
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes>> Body for Guarded<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Inner::Refusal(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Inner::Watched { body, watch } => {
                if let Err(cut) = watch.poll(cx) {
                    return Poll::Ready(Some(Err(cut.into())));
                }
                body.as_mut().poll_frame(cx).map_err(Into::into)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Refusal(body) => body.is_end_stream(),
            Inner::Watched { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Refusal(body) => body.size_hint(),
            Inner::Watched { body, .. } => body.size_hint(),
        }
    }
}
