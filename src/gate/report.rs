//! Reports to one broker what was counted, again and again, without anybody waiting for it.

use std::sync::Arc;
use std::time::Duration;

use protem_proto::wire::v1;
use protem_proto::wire::v1::usage_service_client::UsageServiceClient;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request, Status};

use crate::connect::Dial;
use crate::decision::Ledger;
use crate::follow::signed;
use crate::login::Login;
use crate::usage::{Sums, Use};

/// All that reporting to one broker needs.
pub struct Reporter {
    /// What checks hand on.
    pub from: mpsc::Receiver<Use>,
    /// Who wants all told that was counted until now, and hears when it is; of one that cannot be told, its end drops the word.
    pub asked: mpsc::Receiver<oneshot::Sender<()>>,
    /// What is not told yet.
    pub sums: Sums,
    /// The way to the broker.
    pub broker: Dial,
    /// The gateway's token for it; `None`: its certificate says who it is.
    pub login: Option<Arc<dyn Login>>,
    /// How it goes; and what forgets credentials that are not used any more.
    pub ledger: Ledger,
}

/// How long is summed up before it is told: last-used is a matter of seconds, and a fleet costs its broker little.
pub const EVERY: Duration = Duration::from_secs(5);
/// The longest pause after failures: a broker that is back hears within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a report may take: the broker counts those of a fleet one after another.
const WITHIN: Duration = Duration::from_secs(35);
/// How long the last report of a process may take: somebody waits for its end, and a container's runtime ten seconds at most,
/// five of which are for calls that have begun.
pub const LAST_WITHIN: Duration = Duration::from_secs(3);

/// Why summing up ended.
enum Gathered {
    /// It was long enough.
    Enough,
    /// Somebody wants all told at once.
    Asked(oneshot::Sender<()>),
    /// Nobody will ever call again.
    Over,
}

impl Reporter {
    /// Reports until dropped.
    pub async fn run(mut self) {
        let mut pause = EVERY;
        loop {
            let asked = match self.gather(spread(pause)).await {
                Gathered::Enough => None,
                Gathered::Asked(asked) => Some(asked),
                Gathered::Over => return,
            };
            if let Some(rate) = &self.ledger.rate {
                rate.tidy();
            }
            pause = match self.report(asked.is_some()).await {
                Ok(()) => {
                    // Who asked may have stopped waiting.
                    let _ = asked.map(|asked| asked.send(()));
                    EVERY
                }
                Err(why) => {
                    tracing::warn!(%why, "usage was not reported");
                    pause.saturating_mul(2).min(PAUSE_MAX)
                }
            };
        }
    }

    /// Sums up for a while, or until somebody wants all told.
    async fn gather(&mut self, how_long: Duration) -> Gathered {
        let mut over = std::pin::pin!(tokio::time::sleep(how_long));
        loop {
            tokio::select! {
                () = over.as_mut() => return Gathered::Enough,
                Some(asked) = self.asked.recv() => {
                    while let Ok(one) = self.from.try_recv() {
                        self.sums.add(one);
                    }
                    return Gathered::Asked(asked);
                }
                one = self.from.recv() => match one {
                    Some(one) => self.sums.add(one),
                    None => return Gathered::Over,
                },
            }
        }
    }

    /// Tells what fills reports, or `all` there is.
    async fn report(&mut self, all: bool) -> Result<(), String> {
        loop {
            let messages = self.sums.report().to_vec();
            if messages.is_empty() {
                return Ok(());
            }
            let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
            let sent = self.send(messages);
            let answer = tokio::time::timeout(WITHIN, sent).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came"))) {
                Ok(answer) => {
                    if answer.unknown > 0 {
                        let unknown = answer.unknown;
                        tracing::warn!(unknown, "the broker does not take usage of these grants");
                    }
                    self.sums.answered();
                    self.ledger.meters.reported(count);
                }
                Err(status) if is_final(status.code()) => {
                    self.sums.refused();
                    return Err(status.to_string());
                }
                Err(status) => return Err(status.to_string()),
            }
            if !(all || self.sums.is_full()) {
                return Ok(());
            }
        }
    }

    async fn send(
        &self,
        messages: Vec<v1::ReportUsageRequest>,
    ) -> Result<v1::ReportUsageResponse, Status> {
        let token = match &self.login {
            Some(login) => {
                Some(login.token().await.map_err(|why| Status::unauthenticated(why.to_string()))?)
            }
            None => None,
        };
        let channel = self.broker.connect().await;
        let channel = channel.map_err(|why| Status::unavailable(why.to_string()))?;
        let mut request = Request::new(tokio_stream::iter(messages));
        if let Some(token) = token {
            let bearer = signed(&token).map_err(|why| Status::unauthenticated(why.to_string()))?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = UsageServiceClient::new(channel).report_usage(request).await?;
        Ok(answer.into_inner())
    }
}

/// What no repetition changes.
fn is_final(code: Code) -> bool {
    match code {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Half of a pause to all of it, so that a fleet does not report at once.
fn spread(pause: Duration) -> Duration {
    let share = u32::from(u16::from_be_bytes(protem_clock::random::bytes()));
    let half = pause / 2;
    half.saturating_add(half.saturating_mul(share) / u32::from(u16::MAX))
}
