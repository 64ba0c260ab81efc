//! `HoldTask`: a task lives as long as its stream; half-closing completes it, losing it starts the lease.

use std::sync::Arc;
use std::time::Duration;

use protem_core::refusal::Refusal;
use protem_proto::wire::v1;
use protem_verify::codes::wire;
use protem_verify::names::{TaskId, Words};
use protem_verify::time::Time;
use tonic::{Code as Grpc, Streaming};

use crate::engine::broker::Broker;
use crate::engine::granted::Granted;
use crate::engine::tasks::Hold;
use crate::serve::answers::{Answers, Gone, Sink};
use crate::serve::caller::SignedIn;
use crate::serve::parse;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::watch::Watch;
use crate::serve::who;

/// Opens a hold: its first message names the task.
///
/// # Errors
/// When that message does not come, is wrong, or the law refuses the hold.
pub async fn open(
    broker: &Broker,
    watch: &Watch,
    signed_in: Arc<SignedIn>,
    mut beats: Streaming<v1::HoldTaskRequest>,
) -> Result<Answers<v1::HoldTaskResponse>, Problem> {
    let caller = signed_in.caller()?;
    who::workload(caller)?;
    let first = beats.message().await.map_err(|_| undecodable())?;
    let first = first.ok_or(parse::missing("task_id"))?;
    let task = parse::task_id("task_id", &first.task_id)?;
    let lease = parse::lease(first.lease.as_ref())?;
    let hold = broker.hold_task(caller, task.clone(), Some(lease)).await?;
    let (sink, answers) = Sink::new();
    let holding = Holding { broker: broker.clone(), task, lease, sink };
    let watch = watch.clone();
    tokio::spawn(async move {
        tokio::select! {
            end = holding.follow(&hold, &mut beats) => holding.end(hold, end).await,
            // The stream ends; the lease forgives until its client is back.
            problem = watch.over(signed_in) => { holding.sink.fail(problem); }
        }
    });
    Ok(answers)
}

struct Holding {
    broker: Broker,
    task: TaskId,
    lease: Duration,
    sink: Sink<v1::HoldTaskResponse>,
}

/// How a held stream ended.
enum End {
    /// Half-closed: the task is complete.
    Closed,
    /// Anything else: the lease runs.
    Lost,
    /// Somebody else holds the task now, or it is over.
    Replaced,
    /// The client broke the contract; the lease runs.
    Wrong(Problem),
}

impl Holding {
    async fn follow(&self, hold: &Hold, beats: &mut Streaming<v1::HoldTaskRequest>) -> End {
        let mut changes = hold.changes();
        if let Err(end) = self.tell(hold, None).await {
            return end;
        }
        // A hold that nobody tells of its end finds out by itself.
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let sent = tokio::select! {
                beat = beats.message() => match beat {
                    Ok(None) => return End::Closed,
                    Err(_) => return End::Lost,
                    Ok(Some(beat)) => {
                        if !beat.task_id.is_empty() && beat.task_id != self.task.as_str() {
                            return End::Wrong(other_task());
                        }
                        if !hold.holds() {
                            return End::Replaced;
                        }
                        hold.beat();
                        self.tell(hold, None).await
                    }
                },
                change = changes.next() => match change {
                    None => return End::Lost,
                    Some(Err(stop)) => return End::Wrong(stop.into()),
                    Some(Ok(granted)) => self.tell(hold, Some(&granted)).await,
                },
                _ = look.tick() => {
                    if !hold.holds() {
                        return End::Replaced;
                    }
                    Ok(())
                }
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    /// Tells the client that it holds the task, for as long as it does.
    async fn tell(&self, hold: &Hold, granted: Option<&Granted>) -> Result<(), End> {
        while_held(self.alive(granted), || hold.holds()).await
    }

    /// Tells the client how often to beat, how long it has, and what changed.
    async fn alive(&self, granted: Option<&Granted>) -> Result<(), Gone> {
        let now = Time::from(self.broker.clock().unix());
        let (changed, credential) = match granted {
            None => (None, None),
            Some(granted) => {
                let (grant, credential) = show::granted(granted);
                (Some(grant), credential)
            }
        };
        let answer = v1::HoldTaskResponse {
            beat_every: Some(show::duration(self.lease / BEATS)),
            lease_until: Some(show::time(now + self.lease)),
            changed,
            credential,
        };
        self.sink.send(answer).await
    }

    async fn end(&self, hold: Hold, end: End) {
        match end {
            End::Closed => {
                if let Err(stop) = hold.complete(Words::default()).await {
                    self.sink.fail(stop.into());
                }
            }
            // Dropping the hold is the loss.
            End::Lost => {}
            End::Replaced => {
                let refusal = Refusal::HoldReplaced(self.task.clone());
                self.sink.fail(refusal.into());
            }
            End::Wrong(problem) => {
                self.sink.fail(problem);
            }
        }
    }
}

/// Waits for a slow reader, and no longer than the task is held: who reads nothing keeps no stream open that means nothing.
async fn while_held(
    sent: impl Future<Output = Result<(), Gone>>,
    holds: impl Fn() -> bool,
) -> Result<(), End> {
    let replaced = async {
        while holds() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        sent = sent => sent.map_err(|_| End::Lost),
        () = replaced => Err(End::Replaced),
    }
}

fn other_task() -> Problem {
    Problem::field(wire::MALFORMED, "task_id", "names another task than the stream's first message")
}

fn undecodable() -> Problem {
    let why = "the stream's first message cannot be decoded";
    Problem::new(Grpc::InvalidArgument, wire::UNDECODABLE, why)
}

/// Beats in one lease: two may be lost.
const BEATS: u32 = 3;
/// How often a silent stream looks whether it still holds its task.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::serve::limits::STREAM_BUFFER;

    #[tokio::test]
    async fn who_reads_nothing_holds_no_task_that_another_holds() {
        let (sink, _unread) = Sink::new();
        for count in 0..STREAM_BUFFER {
            assert!(while_held(sink.send(count), || true).await.is_ok());
        }
        let held = AtomicBool::new(true);
        let holds = || held.swap(false, Ordering::Relaxed);
        let end = while_held(sink.send(STREAM_BUFFER), holds);
        let end = tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends");
        assert!(matches!(end, Err(End::Replaced)));
    }
}
