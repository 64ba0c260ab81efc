//! One stream after another: connect, open, ping, apply, acknowledge, and begin again with jitter.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation_service_client::RevocationServiceClient;
use protem_proto::wire::v1::subscribe_request::Message;
use protem_verify::known::Moment;
use protem_verify::names::ResourceName;
use protem_verify::operation::CATALOG_MAX;
use protem_verify::view::Broken;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};

use crate::apply::{Follower, Told};
use crate::connect::Dial;
use crate::login::{CallerToken, Login, LoginFailed};
use crate::state::Store;
use crate::tally::Tally;

/// All that one follower needs.
pub struct Follow {
    /// The view and its pings.
    pub follower: Follower,
    /// The way to the broker.
    pub broker: Dial,
    /// The gateway's name in the bundle.
    pub gateway: String,
    /// The resources it protects.
    pub resources: Vec<ResourceName>,
    /// Its token for the broker; `None`: its certificate says who it is.
    pub login: Option<Arc<dyn Login>>,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// What outlives the process.
    pub store: Store,
    /// The write of the last checkpoint, if it has not ended.
    pub keeping: Option<JoinHandle<()>>,
    /// How it goes.
    pub tally: Arc<Tally>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// No connection, or the broker ended the stream.
    #[error("the broker ended the stream: {0}")]
    Status(#[from] tonic::Status),
    /// No connection.
    #[error("there is no connection to the broker: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// No caller token.
    #[error(transparent)]
    Login(#[from] LoginFailed),
    /// What came cannot be applied.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The broker asked to connect again.
    #[error("the broker asked to connect again")]
    GoAway(Duration),
    /// Nothing came for too long: the peer may be gone without a word.
    #[error("the broker is silent")]
    Silent,
}

/// Pauses between connects: full jitter up to this, doubled from the least.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// While the newest proof is this young the pauses stay below the second number: credentials still count, and a broker that was
/// restarted is found again before they do not. The rest of a restart has four of the default five seconds.
const SOON: (Duration, Duration) = (Duration::from_secs(8), Duration::from_millis(500));
/// How long the broker may be silent: three pings that it should have answered, and a little for the way.
const SILENCE: (u32, Duration) = (3, Duration::from_secs(2));
/// How long an opening, with a login, may take.
const OPENING: Duration = Duration::from_secs(10);
/// The largest message: a whole part of the catalog, and room for what stands around it. One that is not taken would come
/// again with each stream, and no credential would ever pass.
const MESSAGE_MAX: usize = CATALOG_MAX.saturating_add(1 << 20);
/// Requests that wait for the wire: pings and acknowledgements, both of which the next one makes up for.
const WAITING_MAX: usize = 64;

impl Follow {
    /// Follows until dropped.
    pub async fn run(mut self) {
        let mut tries = 0_u32;
        loop {
            let proven = self.follower.view.known().proven;
            let ended = self.stream().await;
            if self.follower.view.known().proven != proven {
                tries = 0;
            }
            if let Err(ended) = &ended {
                tracing::warn!(gateway = %self.gateway, error = %ended, "feed ended");
            }
            let least = match ended {
                Err(Ended::GoAway(after)) => after.min(PAUSE.1),
                Ok(()) | Err(_) => Duration::ZERO,
            };
            tokio::time::sleep(least.saturating_add(self.pause(tries))).await;
            tries = tries.saturating_add(1);
        }
    }

    /// How long to wait before the next connect.
    fn pause(&self, tries: u32) -> Duration {
        let age = self.follower.view.known().age(self.moment());
        jitter(tries, longest(age), u16::from_be_bytes(protem_clock::random::bytes()))
    }

    async fn stream(&mut self) -> Result<(), Ended> {
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let opening = self.open(&requests, waiting);
        let mut stream =
            tokio::time::timeout(OPENING, opening).await.map_err(|_| Ended::Silent)??;
        let mut every = Duration::from_secs(1);
        let mut pings = tokio::time::interval(every);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Counts from the last message, whatever we say meanwhile: our own pings are no sign of life.
        let mut silent = tokio::time::Instant::now() + silence(every);
        loop {
            let message = tokio::select! {
                biased;
                _ = pings.tick() => { self.ping(&requests); continue; }
                message = tokio::time::timeout_at(silent, stream.message()) => message,
            };
            let message = message.map_err(|_| Ended::Silent)??;
            silent = tokio::time::Instant::now() + silence(every);
            let Some(message) = message else { return Ok(()) };
            message.message.iter().for_each(|message| self.tally.heard(message));
            match self.follower.message(message, self.moment())? {
                Told::Nothing => {}
                Told::Opened(often) => {
                    every = often;
                    silent = tokio::time::Instant::now() + silence(every);
                    pings = tokio::time::interval(every);
                }
                Told::Applied(seq) => {
                    let ack = Message::Ack(v1::Ack { seq: seq.0 });
                    let _ = requests.try_send(v1::SubscribeRequest { message: Some(ack) });
                    self.keep();
                }
                Told::GoAway(after) => return Err(Ended::GoAway(after)),
            }
        }
    }

    async fn open(
        &mut self,
        requests: &mpsc::Sender<v1::SubscribeRequest>,
        waiting: mpsc::Receiver<v1::SubscribeRequest>,
    ) -> Result<tonic::Streaming<v1::SubscribeResponse>, Ended> {
        let token = match &self.login {
            Some(login) => Some(login.token().await?),
            None => None,
        };
        let channel = self.broker.connect().await?;
        let open = self.follower.open(&self.gateway, &self.resources, &self.store.instance);
        let open = v1::SubscribeRequest { message: Some(Message::Open(open)) };
        let _ = requests.try_send(open);
        let mut request = tonic::Request::new(ReceiverStream::new(waiting));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", signed(&token)?);
        }
        let mut feed = RevocationServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        Ok(feed.subscribe(request).await?.into_inner())
    }

    /// INVARIANT(age_counts_from_the_send): the clock is read before the ping is handed over.
    fn ping(&mut self, requests: &mpsc::Sender<v1::SubscribeRequest>) {
        let now = self.moment();
        let nonce = protem_clock::random::bytes::<16>().to_vec();
        let known = self.follower.view.known();
        let ping = v1::Ping {
            nonce: nonce.clone(),
            state: known.state(now).word().into(),
            view_age: known.age(now).and_then(|age| prost_types::Duration::try_from(age).ok()),
        };
        self.follower.pinged(nonce, now);
        let _ = requests.try_send(v1::SubscribeRequest { message: Some(Message::Ping(ping)) });
    }

    /// Keeps the newest checkpoint on disk, one write at a time, off this task.
    fn keep(&mut self) {
        if self.keeping.as_ref().is_some_and(|write| !write.is_finished()) {
            return;
        }
        let Some(newest) = self.follower.view.newest().copied() else { return };
        let store = self.store.clone();
        self.keeping = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = store.keep(&newest) {
                tracing::error!(%error, "the newest checkpoint cannot be kept");
            }
        }));
    }

    fn moment(&self) -> Moment {
        moment(&*self.clock)
    }
}

/// A token as a call carries it; logs do not show it.
pub(crate) fn signed(token: &CallerToken) -> Result<MetadataValue<Ascii>, LoginFailed> {
    let bearer = MetadataValue::try_from(format!("Bearer {}", token.reveal()));
    let mut bearer = bearer.map_err(|_| LoginFailed("the token is not ASCII".into()))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// Both clocks, read once.
#[must_use]
pub fn moment(clock: &dyn Clock) -> Moment {
    Moment { boot: clock.boot(), unix: clock.unix() }
}

fn silence(every: Duration) -> Duration {
    every.saturating_mul(SILENCE.0).saturating_add(SILENCE.1)
}

/// The longest pause while the newest proof is so old.
fn longest(age: Option<Duration>) -> Duration {
    if age.is_some_and(|age| age < SOON.0) { SOON.1 } else { PAUSE.1 }
}

/// A pause of at most `most`, by a chance from none to all of it.
fn jitter(tries: u32, most: Duration, chance: u16) -> Duration {
    let least = PAUSE.0;
    let limit = least.saturating_mul(2_u32.saturating_pow(tries.min(10))).min(most);
    let spread =
        limit.saturating_sub(least).saturating_mul(u32::from(chance)) / u32::from(u16::MAX);
    least.saturating_add(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_restarts_is_looked_for_often_while_credentials_still_count() {
        let pauses = |age: Option<u64>| {
            let most = longest(age.map(Duration::from_secs));
            [0, 1, 2, 3, 6, 99].map(|tries| jitter(tries, most, u16::MAX).as_millis())
        };
        for age in [0, 5, 7] {
            assert_eq!(pauses(Some(age)), [100, 200, 400, 500, 500, 500], "{age}");
        }
        for age in [None, Some(8), Some(600)] {
            assert_eq!(pauses(age), [100, 200, 400, 800, 5_000, 5_000], "{age:?}");
        }
        assert_eq!(jitter(99, PAUSE.1, 0), PAUSE.0);
    }
}
