//! The write-ahead log stays short: checkpoints run beside the turns, on a thread and connection of their own.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use rusqlite::Connection;

use crate::journal::fault::Fault;
use crate::journal::sqlite::connect;

/// Written bytes after which the log is copied into the file, beside the turns.
const COPY_EVERY: usize = 4 * 1024 * 1024;
/// Written bytes after which the writer itself copies the rest: only when nobody writes can the log start again.
const RESTART_EVERY: usize = 64 * 1024 * 1024;
/// Pages are written whole: about so many bytes of the log for one of a body.
const AMPLIFIED: usize = 2;

/// Decides when to copy the log.
pub(in crate::journal) struct Checkpointer {
    wake: SyncSender<()>,
    copied: usize,
    restarted: usize,
}

impl Checkpointer {
    /// Starts the thread; it ends with this value.
    pub(in crate::journal) fn start(path: &Path) -> Result<Self, Fault> {
        let connection = connect(path)?;
        let (wake, woken) = sync_channel(1);
        let work = move || {
            while woken.recv().is_ok() {
                passive(&connection);
            }
        };
        let spawned = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        spawned.map_err(|why| Fault::Store(why.to_string()))?;
        Ok(Self { wake, copied: 0, restarted: 0 })
    }

    /// After each commit.
    pub(in crate::journal) fn wrote(&mut self, bytes: usize, writer: &Connection) {
        let bytes = bytes.saturating_mul(AMPLIFIED);
        self.copied = self.copied.saturating_add(bytes);
        self.restarted = self.restarted.saturating_add(bytes);
        if self.restarted >= RESTART_EVERY {
            (self.copied, self.restarted) = (0, 0);
            passive(writer);
        } else if self.copied >= COPY_EVERY {
            self.copied = 0;
            // Full: it is at work already.
            let _ = self.wake.try_send(());
        }
    }
}

/// Copies what no reader needs any more. A failure costs only length: the commit before was durable in the log.
fn passive(connection: &Connection) {
    let copied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(why) = copied {
        tracing::warn!(%why, "the write-ahead log was not copied");
    }
}
