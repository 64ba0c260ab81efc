//! What ends a stream from our side: the caller's token, grounds or rights, or the broker's own end.

use std::sync::Arc;
use std::time::Duration;

use protem_verify::codes::{caller, fault};
use tokio::time::Instant;
use tonic::Code as Grpc;

use crate::engine::broker::Broker;
use crate::serve::caller::{Door, SignedIn};
use crate::serve::draining::Draining;
use crate::serve::grounds::{CallerTime, Changes};
use crate::serve::limits::BUSY_RETRY;
use crate::serve::status::Problem;

/// Looks after the streams that are open.
#[derive(Clone)]
pub struct Watch {
    broker: Broker,
    door: Arc<Door>,
    time: CallerTime,
    draining: Draining,
}

impl Watch {
    /// Begins to look at which bundle is in force and whether the clocks run as they should, once for all streams. What else
    /// a sign-in rests on tells of its changes by itself ([`Door::changes`]).
    #[must_use]
    pub fn start(broker: Broker, door: Arc<Door>, time: CallerTime, draining: Draining) -> Self {
        let look = Look::begin(broker.clone(), time.clone(), door.changes().clone());
        tokio::spawn(look.run(draining.clone()));
        Self { broker, door, time, draining }
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
        tokio::select! {
            () = self.draining.begun() => stopping(),
            problem = self.void(signed_in, may) => problem,
        }
    }

    /// The same for the feed, which goes on while the broker drains.
    pub async fn feed_over(
        &self,
        signed_in: Arc<SignedIn>,
        may: impl Fn(&SignedIn) -> bool + Send,
    ) -> Problem {
        tokio::select! {
            () = self.draining.leaving() => stopping(),
            problem = self.void(signed_in, may) => problem,
        }
    }

    /// Done when the caller's sign-in or rights count no more.
    async fn void(
        &self,
        signed_in: Arc<SignedIn>,
        may: impl Fn(&SignedIn) -> bool + Send,
    ) -> Problem {
        // Looked at before the first judgement, so that no change falls between the sign-in and it.
        let mut changes = self.door.changes().follow();
        let mut judged = signed_in.generation;
        loop {
            let generation = *changes.borrow_and_update();
            if generation != judged {
                judged = generation;
                if let Err(why) = self.still(&signed_in, &may) {
                    return changed(why);
                }
            }
            let left = signed_in.expires.since(self.time.now());
            if left.is_zero() {
                return changed("the caller's token or certificate has expired");
            }
            tokio::select! {
                // Asks the clocks again: this sleep knows nothing of a machine's suspend or of a clock that was set.
                () = tokio::time::sleep(left) => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Whether a sign-in of before still counts, as an open stream's would.
    ///
    /// # Errors
    /// When it has expired, nobody vouches for it any more, or the bundle in force takes the caller for somebody else.
    pub fn counts(&self, signed_in: &SignedIn) -> Result<(), Problem> {
        if signed_in.expires <= self.time.now() {
            return Err(changed("the caller's token or certificate has expired"));
        }
        self.still(signed_in, &|_| true).map_err(changed)
    }

    /// The broker's own end.
    #[must_use]
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    fn still(
        &self,
        signed_in: &SignedIn,
        may: &impl Fn(&SignedIn) -> bool,
    ) -> Result<(), &'static str> {
        let bundle = self.broker.bundle();
        if !self.door.still(signed_in, &bundle, self.time.now()) {
            return Err("nobody vouches for the caller any more");
        }
        let now = bundle.who(&signed_in.login).ok();
        let then = signed_in.who.as_ref().ok().map(|caller| &caller.principal);
        if now.as_ref() != then {
            return Err("the bundle in force takes the caller for somebody else");
        }
        if !may(signed_in) {
            return Err("the bundle in force permits the caller something else");
        }
        Ok(())
    }
}

/// What one look must not find changed.
struct Look {
    broker: Broker,
    time: CallerTime,
    changes: Changes,
    bundle: protem_verify::ids::Hash,
    lead: Duration,
    /// A pair of monotonic clocks, of which only the first counts a machine's suspend.
    began: (Duration, Instant),
}

impl Look {
    fn begin(broker: Broker, time: CallerTime, changes: Changes) -> Self {
        let (bundle, lead) = (broker.bundle().digest(), time.lead());
        let began = (time.boot(), Instant::now());
        Self { broker, time, changes, bundle, lead, began }
    }

    async fn run(mut self, end: Draining) {
        loop {
            if self.finds_a_change() {
                self.changes.raise();
            }
            if tokio::time::timeout(LOOK_EVERY, end.leaving()).await.is_ok() {
                return;
            }
        }
    }

    fn finds_a_change(&mut self) -> bool {
        let bundle = self.broker.bundle().digest();
        let lead = self.time.lead();
        let slept = self.time.boot().saturating_sub(self.began.0);
        let stepped =
            lead.abs_diff(self.lead) > STEP || slept.abs_diff(self.began.1.elapsed()) > STEP;
        if stepped {
            self.lead = lead;
            self.began = (self.time.boot(), Instant::now());
        }
        std::mem::replace(&mut self.bundle, bundle) != bundle || stepped
    }
}

fn changed(why: &str) -> Problem {
    Problem::new(Grpc::Unauthenticated, caller::CALLER_CHANGED, why)
}

/// The broker takes nothing new.
#[must_use]
pub fn stopping() -> Problem {
    let why = "the broker is stopping";
    Problem::new(Grpc::Unavailable, fault::STOPPING, why).retry(BUSY_RETRY)
}

/// How soon streams notice a new bundle or a set clock; a call notices either at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A clock that moved this far against another did not just run a little fast.
const STEP: Duration = Duration::from_secs(1);
