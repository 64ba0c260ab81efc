//! What ends a stream from our side: the caller's token or rights, or the broker's own end.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::codes::{caller, fault};
use protem_verify::ids::Hash;
use protem_verify::time::Time;
use tokio::sync::watch;
use tonic::Code as Grpc;

use crate::engine::broker::Broker;
use crate::serve::caller::SignedIn;
use crate::serve::limits::BUSY_RETRY;
use crate::serve::status::Problem;

/// Looks after the streams that are open.
#[derive(Clone)]
pub struct Watch {
    broker: Broker,
    bundle: watch::Receiver<Hash>,
    draining: watch::Receiver<bool>,
}

impl Watch {
    /// Begins to look at which bundle is in force, once for all streams.
    #[must_use]
    pub fn start(broker: Broker, draining: watch::Receiver<bool>) -> Self {
        let (changed, bundle) = watch::channel(broker.bundle().digest());
        let (looked_at, mut end) = (broker.clone(), draining.clone());
        tokio::spawn(async move {
            while !*end.borrow_and_update() {
                let found = looked_at.bundle().digest();
                changed.send_if_modified(|known| std::mem::replace(known, found) != found);
                // Waits for the end, or a moment.
                let _ = tokio::time::timeout(LOOK_EVERY, end.changed()).await;
            }
        });
        Self { broker, bundle, draining }
    }

    /// Done when a stream of this caller must end, with the reason.
    pub async fn over(&self, signed_in: Arc<SignedIn>) -> Problem {
        self.over_unless(signed_in, |_| true).await
    }

    /// The same for a stream that policy permitted: a new bundle is asked again whether the caller still `may`.
    pub async fn over_unless(
        &self,
        signed_in: Arc<SignedIn>,
        may: impl Fn(&SignedIn) -> bool + Send,
    ) -> Problem {
        let (mut bundle, mut draining) = (self.bundle.clone(), self.draining.clone());
        let now = Time::from(self.broker.clock().unix());
        let mut expired = std::pin::pin!(tokio::time::sleep(signed_in.expires.since(now)));
        loop {
            tokio::select! {
                _ = draining.wait_for(|draining| *draining) => return stopping(),
                () = expired.as_mut() => return changed("the caller's token has expired"),
                Ok(()) = bundle.changed() => {
                    bundle.mark_unchanged();
                    if !self.same(&signed_in) {
                        return changed("the bundle in force takes the caller for somebody else");
                    }
                    if !may(&signed_in) {
                        return changed("the bundle in force permits the caller something else");
                    }
                }
            }
        }
    }

    /// Done when the broker is about to end.
    pub async fn draining(&self) {
        let mut draining = self.draining.clone();
        let _ = draining.wait_for(|draining| *draining).await;
    }

    fn same(&self, signed_in: &SignedIn) -> bool {
        let now = self.broker.bundle().who(&signed_in.login).ok();
        let then = signed_in.who.as_ref().ok().map(|caller| &caller.principal);
        now.as_ref() == then
    }
}

fn changed(why: &str) -> Problem {
    Problem::new(Grpc::Unauthenticated, caller::CALLER_CHANGED, why)
}

fn stopping() -> Problem {
    let why = "the broker is stopping";
    Problem::new(Grpc::Unavailable, fault::STOPPING, why).retry(BUSY_RETRY)
}

/// How soon streams notice a new bundle; a call notices it at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);
