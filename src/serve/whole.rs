//! Request bodies that end only when their sender ended them: a reset is an error, never an end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A request's body. tonic takes a stream that was reset with CANCEL for one that its client closed, and hyper one that was
/// reset with NO_ERROR; but a held task is complete when its client closes the stream, and lost when a proxy gives it up.
pub struct Whole<B> {
    body: B,
    /// HTTP/2 says with a flag that a body has ended.
    flagged: bool,
}

/// The sender, or somebody on the way, gave the stream up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was cut before its end")]
pub struct Cut;

impl<B> Whole<B> {
    /// The body of a request; `flagged`: it came over HTTP/2.
    #[must_use]
    pub fn new(body: B, flagged: bool) -> Self {
        Self { body, flagged }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Whole<B> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { body, flagged } = self.get_mut();
        Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(frame)),
            // The reason stays here: with it, tonic would read an end into it.
            Some(Err(_)) => Some(Err(Cut)),
            None if *flagged && !body.is_end_stream() => Some(Err(Cut)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full, StreamBody};
    use protem_proto::wire::v1::HoldTaskRequest;
    use tonic::codec::Codec;
    use tonic::{Status, Streaming};

    use super::*;

    async fn ends_well(body: axum::body::Body) -> bool {
        let decoder = tonic_prost::ProstCodec::<(), HoldTaskRequest>::default().decoder();
        let mut said = Streaming::new_request(decoder, body, None, None);
        matches!(said.message().await, Ok(None))
    }

    #[tokio::test]
    async fn a_reset_is_no_end() {
        let reset = || {
            let frames = [Err::<Frame<Bytes>, _>(Status::cancelled("reset by its client"))];
            StreamBody::new(tokio_stream::iter(frames))
        };
        assert!(ends_well(axum::body::Body::new(reset())).await, "what the library makes of it");
        assert!(!ends_well(axum::body::Body::new(Whole::new(reset(), true))).await);
        let ended = Full::new(Bytes::new());
        assert!(ends_well(axum::body::Body::new(Whole::new(ended, true))).await);
        assert!(ends_well(axum::body::Body::new(Whole::new(Empty::new(), true))).await);
        let silent =
            || StreamBody::new(tokio_stream::iter(Vec::<Result<Frame<Bytes>, Cut>>::new()));
        assert!(!ends_well(axum::body::Body::new(Whole::new(silent(), true))).await);
        assert!(ends_well(axum::body::Body::new(Whole::new(silent(), false))).await);
    }
}
