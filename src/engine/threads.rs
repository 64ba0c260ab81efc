//! The broker's threads, ended in the order in which they depend on one another.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::engine::stop::StartError;

/// Handles of running threads, in the order of their ends.
#[derive(Default)]
pub struct Threads(Mutex<VecDeque<JoinHandle<()>>>);

impl Threads {
    /// Starts a thread under a name that tools show.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(format!("protem-{name}"));
        let handle = thread.spawn(run).map_err(StartError::Thread)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(handle);
        Ok(())
    }

    /// Waits until all have ended, also those that they start meanwhile; a thread that panicked has ended too.
    pub fn join(&self) {
        while let Some(handle) = self.first() {
            if handle.join().is_err() {
                tracing::error!("a thread of the broker panicked");
            }
        }
    }

    fn first(&self) -> Option<JoinHandle<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// How much lower a thread's priority is (`nice`, from -20 to 19) that only makes access: about a tenth of a share beside the
/// others' when both have work, and all of it when they have none.
const NICER: i32 = 10;

/// Lets the calling thread give way to those that carry bytes, end access and prove freshness. On Linux a thread has a
/// priority of its own; anybody may lower theirs.
pub fn lower_priority() {
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Err(why) = rustix::process::setpriority_process(None, own.saturating_add(NICER)) {
        tracing::warn!(%why, "requests for access run at the priority of what ends it");
    }
}
