//! Streams of answers: a task fills a small buffer, and ends when its reader has gone.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::serve::limits::STREAM_BUFFER;
use crate::serve::status::Problem;

/// What a streaming method answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a stream's answers go in. The stream ends when this is dropped.
pub struct Sink<T> {
    answers: mpsc::Sender<T>,
    /// Beside the answers, so that no reader who reads nothing keeps anybody waiting who ends the stream.
    end: Arc<OnceLock<Status>>,
}

/// The reader has gone, or will be told why the stream ends.
#[derive(Debug)]
pub struct Gone;

/// What is read of a sink: its answers in order, then why it ended, if somebody said so.
struct Ending<T> {
    answers: mpsc::Receiver<T>,
    end: Arc<OnceLock<Status>>,
    told: bool,
}

impl<T: Send + 'static> Sink<T> {
    /// A stream and its sink.
    #[must_use]
    pub fn new() -> (Self, Answers<T>) {
        let (sender, answers) = mpsc::channel(STREAM_BUFFER);
        let end = Arc::new(OnceLock::new());
        let reader = Ending { answers, end: Arc::clone(&end), told: false };
        (Self { answers: sender, end }, Box::pin(reader))
    }

    /// Sends one answer; waits for a slow reader.
    ///
    /// # Errors
    /// When the reader has gone.
    pub async fn send(&self, answer: T) -> Result<(), Gone> {
        self.answers.send(answer).await.map_err(|_| Gone)
    }

    /// Sends a last word, if there is room for it; waits for nobody.
    pub fn send_now(&self, answer: T) {
        // Who has not read so much will not miss it.
        let _ = self.answers.try_send(answer);
    }

    /// Says what the stream ends with once this is dropped; waits for nobody. The first one counts.
    pub fn fail(&self, problem: Problem) -> Gone {
        let _ = self.end.set(problem.status());
        Gone
    }

    /// Done when the reader has gone.
    pub async fn closed(&self) {
        self.answers.closed().await;
    }
}

impl<T> Stream for Ending<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.answers.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(answer))),
            Poll::Ready(None) if this.told => Poll::Ready(None),
            Poll::Ready(None) => {
                this.told = true;
                Poll::Ready(this.end.get().cloned().map(Err))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use protem_verify::codes::caller;
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_keeps_no_stream_from_ending() {
        let (sink, mut answers) = Sink::new();
        for count in 0..STREAM_BUFFER {
            sink.send(count).await.unwrap();
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let more = std::pin::pin!(sink.send(STREAM_BUFFER)).poll(&mut cx).is_pending();
        assert!(more, "there is room for more");
        sink.send_now(STREAM_BUFFER);
        for why in ["first", "second"] {
            sink.fail(Problem::new(Code::Unauthenticated, caller::CALLER_CHANGED, why));
        }
        drop(sink);
        // What was said before comes first.
        for count in 0..STREAM_BUFFER {
            assert_eq!(answers.next().await.unwrap().unwrap(), count);
        }
        let end = answers.next().await.unwrap().unwrap_err();
        assert_eq!((end.code(), end.message().contains("first")), (Code::Unauthenticated, true));
        assert!(answers.next().await.is_none());
        let (sink, mut answers) = Sink::<usize>::new();
        drop(sink);
        assert!(answers.next().await.is_none(), "it ended well");
    }
}
