//! Threads for callers that load a broker.

use protem_verify::codes::tool;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::cli::exit::{Exit, Failure};
use crate::engine::threads::lower_priority;

/// Callers run apart, as they would on other machines: what is measured must not queue behind them on this side, and they
/// give way to the broker, whose cores they share only here.
pub struct Apart {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Apart {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start() -> Result<Self, Failure> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.enable_all().on_thread_start(lower_priority).build();
        let runtime =
            runtime.map_err(|why| Failure::of(Exit::Failed, tool::STEP, why.to_string()))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where their tasks and connections belong.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Apart {
    /// A runtime cannot wait for its own end inside another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
