//! How a broker ends, in two stages: what has begun is finished while gateways go on following, and then they are let go.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It serves.
    Serving,
    /// Nothing new is taken, and all streams but the feed's end. Without proofs a gateway goes stale, so the feed stays until
    /// nothing else is left to wait for.
    Draining,
    /// The feed ends too.
    Leaving,
}

/// Ends a broker.
#[derive(Debug)]
pub struct End(watch::Sender<Stage>);

/// Hears of it.
#[derive(Clone, Debug)]
pub struct Draining(watch::Receiver<Stage>);

impl End {
    /// A broker that serves, and what hears of its end.
    #[must_use]
    pub fn new() -> (Self, Draining) {
        let (tell, told) = watch::channel(Stage::Serving);
        (Self(tell), Draining(told))
    }

    /// Nothing new is taken from here on.
    pub fn drain(&self) {
        self.0.send_replace(Stage::Draining);
    }

    /// Gateways are let go.
    pub fn leave(&self) {
        self.0.send_replace(Stage::Leaving);
    }
}

impl Draining {
    /// Whether nothing new is taken.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Stage::Draining
    }

    /// Done when nothing new is taken.
    pub async fn begun(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Done when gateways are let go.
    pub async fn leaving(&self) {
        self.reached(Stage::Leaving).await;
    }

    async fn reached(&self, stage: Stage) {
        // Whoever could say more is gone: that is the end as well.
        let _ = self.0.clone().wait_for(|now| *now >= stage).await;
    }
}
