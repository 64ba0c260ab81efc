//! The broker's threads, ended in the order in which they depend on one another.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::engine::stop::StartError;

/// Handles of running threads, in the order of their ends.
#[derive(Default)]
pub struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// Starts a thread under a name that tools show.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(format!("protem-{name}"));
        let handle = thread.spawn(run).map_err(StartError::Thread)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        Ok(())
    }

    /// Waits until all have ended; a thread that panicked has ended too.
    pub fn join(&self) {
        let handles: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for handle in handles {
            if handle.join().is_err() {
                tracing::error!("a thread of the broker panicked");
            }
        }
    }
}
