//! Whose snapshot is being made: one at a time in a broker, and gateways' before observers'.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::journal::fault::Fault;
use crate::policy::feed::To;

/// The place of the one who makes a snapshot. Each takes memory and looks at the whole state: however many ask for
/// different ones, they cost the others no more than one. An observer's look waits with ordinary commands, and no gateway
/// for it: one observer's may have begun when a gateway's begins, and rests until that is made.
#[derive(Debug)]
pub(in crate::engine) struct Builds {
    gateways: Arc<Semaphore>,
    pub(in crate::engine) observers: Arc<Semaphore>,
    /// Gateways that wait, or have their place.
    ahead: watch::Sender<usize>,
}

/// It is had until it is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Place {
    builds: Arc<Builds>,
    gateway: Option<Ahead>,
    _permit: OwnedSemaphorePermit,
}

/// Counts a gateway.
#[derive(Debug)]
struct Ahead(Arc<Builds>);

impl Default for Builds {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { gateways: one(), observers: one(), ahead: watch::Sender::new(0) }
    }
}

impl Builds {
    /// Waits for the place.
    pub(in crate::engine) async fn place(self: &Arc<Self>, to: To) -> Result<Place, Fault> {
        let builds = Arc::clone(self);
        let (gateway, places) = match to {
            To::Gateway => (Some(Ahead::of(self)), &self.gateways),
            To::Observer => (None, &self.observers),
        };
        let permit = Arc::clone(places).acquire_owned().await.map_err(|_| Fault::Stopping)?;
        let place = Place { builds, gateway, _permit: permit };
        place.give_way().await?;
        Ok(place)
    }
}

impl Place {
    /// Between two looks: an observer lets the gateways that are there go first.
    pub(in crate::engine) async fn give_way(&self) -> Result<(), Fault> {
        if self.gateway.is_some() {
            return Ok(());
        }
        let mut ahead = self.builds.ahead.subscribe();
        let none = ahead.wait_for(|gateways| *gateways == 0).await;
        none.map(drop).map_err(|_| Fault::Stopping)
    }
}

impl Ahead {
    fn of(builds: &Arc<Builds>) -> Self {
        builds.ahead.send_modify(|gateways| *gateways = gateways.saturating_add(1));
        Self(Arc::clone(builds))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.ahead.send_modify(|gateways| *gateways = gateways.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn has<T>(future: &mut (impl Future<Output = Result<T, Fault>> + Unpin)) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_at_a_time_and_gateways_first() {
        let builds = Arc::new(Builds::default());
        let first = has(&mut Box::pin(builds.place(To::Gateway))).unwrap();
        let mut observer = Box::pin(builds.place(To::Observer));
        let mut other = Box::pin(builds.place(To::Observer));
        let mut gone = Box::pin(builds.place(To::Gateway));
        let mut second = Box::pin(builds.place(To::Gateway));
        assert!(has(&mut observer).is_none() && has(&mut other).is_none());
        assert!(has(&mut gone).is_none() && has(&mut second).is_none());
        drop((first, gone));
        assert!(has(&mut observer).is_none(), "a gateway waits");
        let second = has(&mut second).unwrap();
        assert!(has(&mut observer).is_none(), "it has its place");
        drop(second);
        let place = has(&mut observer).unwrap();
        assert!(has(&mut other).is_none());
        drop(place);
        assert!(has(&mut other).is_some());
    }

    #[test]
    fn an_observers_long_one_holds_up_no_gateway() {
        let builds = Arc::new(Builds::default());
        let long = has(&mut Box::pin(builds.place(To::Observer))).unwrap();
        assert!(has(&mut Box::pin(long.give_way())).is_some());
        let gateway = has(&mut Box::pin(builds.place(To::Gateway))).unwrap();
        assert!(has(&mut Box::pin(gateway.give_way())).is_some(), "to nobody");
        let mut rests = Box::pin(long.give_way());
        assert!(has(&mut rests).is_none());
        drop(gateway);
        assert!(has(&mut rests).is_some());
        assert!(has(&mut Box::pin(builds.place(To::Observer))).is_none(), "it goes on");
    }
}
