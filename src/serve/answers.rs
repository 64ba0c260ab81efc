//! Streams of answers: a task fills a small buffer, and ends when its reader has gone.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::serve::limits::STREAM_BUFFER;
use crate::serve::status::Problem;

/// What a streaming method answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a stream's answers go in.
pub struct Sink<T>(mpsc::Sender<Result<T, Status>>);

/// The reader has gone, or was told why the stream ends.
#[derive(Debug)]
pub struct Gone;

impl<T: Send + 'static> Sink<T> {
    /// A stream and its sink.
    #[must_use]
    pub fn new() -> (Self, Answers<T>) {
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        (Self(sender), Box::pin(ReceiverStream::new(receiver)))
    }

    /// Sends one answer; waits for a slow reader.
    ///
    /// # Errors
    /// When the reader has gone.
    pub async fn send(&self, answer: T) -> Result<(), Gone> {
        self.0.send(Ok(answer)).await.map_err(|_| Gone)
    }

    /// Ends the stream with a problem.
    pub async fn fail(&self, problem: Problem) -> Gone {
        // A reader that has gone needs no reason.
        let _ = self.0.send(Err(problem.status())).await;
        Gone
    }

    /// Done when the reader has gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}
