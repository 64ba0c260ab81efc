//! An answer that ends with its caller: for streams of services that are not ours and know nothing of callers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::serve::status::Problem;

/// A gRPC answer that goes on until it has ended by itself or its caller is no longer who it was.
pub struct Guarded<B> {
    body: B,
    over: Option<Pin<Box<dyn Future<Output = Problem> + Send>>>,
}

impl<B> Guarded<B> {
    /// The answer that ends when `over` is done, with the problem as its status.
    #[must_use]
    pub fn new(body: B, over: impl Future<Output = Problem> + Send + 'static) -> Self {
        Self { body, over: Some(Box::pin(over)) }
    }
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let Some(over) = this.over.as_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(problem) = over.as_mut().poll(cx) {
            this.over = None;
            let mut trailers = HeaderMap::new();
            // A status whose own words cannot be headers still ends the stream; the reader then finds no status at all.
            let _ = problem.status().add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
