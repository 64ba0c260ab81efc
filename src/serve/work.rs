//! Threads for ordinary requests, below those that carry bytes and end access.

use std::future::Future;
use std::io;

use protem_verify::codes::fault;
use tokio::runtime::{Builder, Handle, Runtime};
use tonic::Code as Grpc;
use tracing::Instrument;

use crate::engine::threads::lower_priority;
use crate::serve::limits::FAULT_RETRY;
use crate::serve::status::Problem;

/// Where requests for access are worked on. Its threads are the first to be kept waiting when the machine is short of
/// cores, so a flood of requests slows the flood, and a call that ends access finds short queues before it.
pub struct Work {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Work {
    /// Starts the threads, one for each core.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("protem-work")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Does `task` there. It is finished although its caller goes away.
    ///
    /// # Errors
    /// As the task; a fault when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = self.handle.spawn(task.in_current_span()).await;
        done.unwrap_or_else(|_| {
            let why = "the request was not worked on to its end";
            Err(Problem::new(Grpc::Unavailable, fault::STOPPING, why).retry(FAULT_RETRY))
        })
    }
}

impl Drop for Work {
    /// A runtime cannot wait for its own end inside another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
