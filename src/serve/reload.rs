//! Certificate, key and trust bundles, read anew while the broker runs: every few seconds, and when it is told to.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::serve::grounds::Changes;
use crate::serve::limits::RELOAD_EVERY;
use crate::serve::tls::Tls;
use crate::serve::trust::Trust;

/// What the broker reads from files again and again.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// TLS; none: plain HTTP, on loopback.
    pub tls: Option<Arc<Tls>>,
    /// Whose SVIDs count; none: nobody's.
    pub trust: Option<Arc<Trust>>,
}

impl Files {
    /// What cannot be read at the moment: the last good content serves on, but somebody should look.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let trust = self.trust.as_ref().map(|trust| trust.problems()).unwrap_or_default();
        self.tls.as_ref().and_then(|tls| tls.problem()).into_iter().chain(trust).collect()
    }

    /// Reads them until dropped, and tells of new roots.
    pub async fn watch(self, changes: Changes) {
        if self.tls.is_none() && self.trust.is_none() {
            return;
        }
        let mut told = signal(SignalKind::hangup()).ok();
        loop {
            let hangup = async {
                match &mut told {
                    Some(told) => drop(told.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(RELOAD_EVERY) => {}
                () = hangup => {}
            }
            let files = self.clone();
            let changed = tokio::task::spawn_blocking(move || files.read()).await;
            // Said after it can be seen: whoever hears it asks again.
            if changed.unwrap_or(false) {
                changes.raise();
            }
        }
    }

    fn read(&self) -> bool {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        self.trust.as_ref().is_some_and(|trust| trust.reload())
    }
}
