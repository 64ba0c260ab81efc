//! Holding a task while a command runs: heartbeats, reconnecting inside the lease, and renewing in time.

use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_verify::time::Time;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::cli::client::Client;
use crate::cli::exit::Failure;
use crate::cli::show;

/// What happened to a held task.
#[derive(Debug)]
pub enum News {
    /// A fresh credential.
    Fresh(Zeroizing<String>),
    /// The grant is over, and why.
    Ended(Box<v1::Grant>),
    /// The connection to the broker is lost, and why; it is being tried again.
    Lost(String),
    /// The connection is back.
    Back,
    /// Nothing is tried any more, and why: access ends with the lease, or with the credential.
    GaveUp(String),
}

/// Holds a task until it is dropped. Dropping is a loss, not a completion: the lease then ends the task.
pub struct Holder {
    /// What happens to it.
    pub news: mpsc::Receiver<News>,
    client: Client,
    grant: String,
    tell: mpsc::Sender<News>,
    /// The credential at hand may be void: its grant lives on, so a fresh one is there for the asking.
    void: Arc<Notify>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// What may wait to be read: a command that runs reads at once.
const NEWS_MAX: usize = 16;
/// The first pause before connecting again; doubled, up to a second, so that every lease allows many tries.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause before showing a login again that was refused: it may count again later, and each refusal is work.
const PAUSE_REFUSED_MAX: Duration = Duration::from_secs(30);
/// Over how long the holders of void credentials spread their calls.
const SPREAD: Duration = Duration::from_millis(200);

impl Holder {
    /// Begins to hold `task`, and to watch its `grant`. Returns once the broker has said that it is held, or after a first
    /// try that failed, which goes on in the background.
    pub async fn start(client: &Client, task: &str, lease: Duration, grant: &str) -> Self {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let (held, is_held) = tokio::sync::oneshot::channel();
        let void = Arc::new(Notify::new());
        let hold = Hold {
            void: Arc::clone(&void),
            client: client.clone(),
            task: task.to_owned(),
            lease,
            grant: grant.to_owned(),
            tell: tell.clone(),
            held: Some(held),
            open: false,
        };
        let tasks = vec![tokio::spawn(hold.keep())];
        // A broker that is away right now must not keep the command from starting: access ends by itself.
        let _ = tokio::time::timeout(Duration::from_secs(2), is_held).await;
        Self { news, client: client.clone(), grant: grant.to_owned(), tell, void, tasks }
    }

    /// Forgets connections that were lost and found while the request waited: whoever waited was told.
    pub fn forget_waiting(&mut self) {
        let mut kept = Vec::new();
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Lost(_) | News::Back => {}
                News::Fresh(_) | News::Ended(_) | News::GaveUp(_) => kept.push(news),
            }
        }
        for news in kept {
            let _ = self.tell.try_send(news);
        }
    }

    /// Begins to renew the grant's credential in time.
    pub fn renew(&mut self, credential: &v1::Credential) {
        let (client, grant) = (self.client.clone(), self.grant.clone());
        let renewal = Renewal { client, grant, tell: self.tell.clone(), void: self.void.clone() };
        self.tasks.push(tokio::spawn(renewal.keep(credential.clone())));
    }
}

/// A stream never ends well: it is lost, or its holder is dropped.
enum Never {}

struct Hold {
    client: Client,
    task: String,
    lease: Duration,
    grant: String,
    tell: mpsc::Sender<News>,
    void: Arc<Notify>,
    held: Option<tokio::sync::oneshot::Sender<()>>,
    /// Whether the stream at hand was answered.
    open: bool,
}

impl Hold {
    /// Opens the stream, and opens it again whenever it is lost.
    async fn keep(mut self) {
        let mut pause = PAUSE_FIRST;
        let mut lost = false;
        loop {
            self.open = false;
            let Err(status) = self.stream(&mut lost, &mut pause).await;
            // A stream ends with its caller's token; the next one begins with a fresh one, and nothing was lost.
            if self.open && status.code() == Code::Unauthenticated {
                continue;
            }
            if is_no(status.code()) {
                // The task is over, or somebody else's: the grant says which way.
                self.look_at_grant().await;
                return;
            }
            let refused = status.code() == Code::Unauthenticated;
            if refused && let Some(why) = self.client.login().spent() {
                let _ = self.tell.send(News::GaveUp(why.what)).await;
                return;
            }
            if !lost {
                lost = true;
                let why = self.client.failure(&status);
                let _ = self.tell.send(News::Lost(why.what)).await;
            }
            tokio::time::sleep(jitter(pause)).await;
            pause = longer(pause, refused);
        }
    }

    /// One stream, from its opening to its loss.
    async fn stream(&mut self, lost: &mut bool, pause: &mut Duration) -> Result<Never, Status> {
        let (beats, outgoing) = mpsc::channel::<v1::HoldTaskRequest>(4);
        let opening = v1::HoldTaskRequest {
            task_id: self.task.clone(),
            lease: Some(show::to_wire(self.lease)),
        };
        let gone = |_| Status::unavailable("the stream has ended");
        beats.send(opening).await.map_err(|_| Status::unavailable("the stream has ended"))?;
        // INVARIANT(only_a_word_completes): the outgoing side never closes by itself, as a half-close would complete the task.
        let outgoing = ReceiverStream::new(outgoing).chain(tokio_stream::pending());
        let mut answers = self.client.access().hold_task(outgoing).await?.into_inner();
        let mut every = (self.lease / 3).max(Duration::from_millis(200));
        let mut beat = tokio::time::interval(every);
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let Some(answer) = answer? else { return Err(gone(())) };
                    if std::mem::take(lost) {
                        let _ = self.tell.send(News::Back).await;
                    }
                    *pause = PAUSE_FIRST;
                    self.open = true;
                    if let Some(held) = self.held.take() {
                        let _ = held.send(());
                    }
                    let asked = show::duration(answer.beat_every.as_ref());
                    if asked >= Duration::from_millis(50) && asked != every {
                        every = asked;
                        beat = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
                    }
                    self.told(answer).await;
                }
                _ = beat.tick() => {
                    let message = v1::HoldTaskRequest::default();
                    beats.send(message).await.map_err(|_| Status::unavailable("the stream has ended"))?;
                }
            }
        }
    }

    /// Passes on what an answer says of our grant.
    async fn told(&self, answer: v1::HoldTaskResponse) {
        let Some(grant) = answer.changed.filter(|grant| grant.id == self.grant) else { return };
        if grant.state() == GrantState::Ended {
            // Nobody reads while a request waits, and its end is found there, too: never wait for a reader here.
            let _ = self.tell.try_send(News::Ended(Box::new(grant)));
        } else if let Some(credential) = answer.credential {
            let _ = self.tell.try_send(News::Fresh(Zeroizing::new(credential.token)));
        } else if grant.state() == GrantState::Active {
            // Something changed that brought no credential, as when the key was cut off that signed it.
            self.void.notify_one();
        }
    }

    async fn look_at_grant(&self) {
        if let Some(grant) = ended(&self.client, &self.grant).await {
            let _ = self.tell.send(News::Ended(Box::new(grant))).await;
        }
    }
}

/// The grant, if it has ended.
async fn ended(client: &Client, grant: &str) -> Option<v1::Grant> {
    let asked = v1::WatchGrantRequest { grant_id: grant.to_owned() };
    let mut changes = client.access().watch_grant(asked).await.ok()?.into_inner();
    let first = changes.message().await.ok()??.grant?;
    (first.state() == GrantState::Ended).then_some(first)
}

/// Asks for fresh credentials of one grant.
struct Renewal {
    client: Client,
    grant: String,
    tell: mpsc::Sender<News>,
    void: Arc<Notify>,
}

impl Renewal {
    /// Asks when the credential at hand is due or may be void; a lost answer is asked for again, more often than it ends.
    async fn keep(self, mut newest: v1::Credential) {
        let mut wait = Life::of(&newest).wait(Time::from(SystemClock.unix()));
        // It lives as long as its grant: nothing but a void one is left to renew.
        let mut last = false;
        let mut pause = PAUSE_MAX;
        loop {
            let early = tokio::select! {
                () = tokio::time::sleep(wait), if !last => false,
                () = self.void.notified() => {
                    // Everybody whose key was cut off comes now.
                    tokio::time::sleep(jitter(SPREAD)).await;
                    true
                }
            };
            let asked = v1::RenewCredentialRequest { grant_id: self.grant.clone() };
            match self.client.access().renew_credential(asked).await {
                Ok(answer) => {
                    pause = PAUSE_MAX;
                    let answer = answer.into_inner();
                    let Some(credential) = answer.credential else { return };
                    let life = Life::of(&credential);
                    let until = answer.grant.and_then(|grant| grant.active_until);
                    last = until.is_some_and(|until| life.ends + SECOND > time(&until));
                    if credential.token == newest.token {
                        // The broker says that it is not due, whatever our clock says.
                        wait = life.again();
                        continue;
                    }
                    wait = life.wait(Time::from(SystemClock.unix()));
                    newest = credential;
                    let fresh = News::Fresh(Zeroizing::new(newest.token.clone()));
                    if self.tell.send(fresh).await.is_err() {
                        return;
                    }
                }
                // Anything but a clear no may pass: a rate, a broker that is busy or has no key at this moment.
                Err(status) if !is_no(status.code()) => {
                    let refused = status.code() == Code::Unauthenticated;
                    if refused && self.client.login().spent().is_some() {
                        return; // the hold says so
                    }
                    wait = jitter(pause);
                    pause = longer(pause, refused);
                    if early {
                        tokio::time::sleep(wait).await;
                        self.void.notify_one();
                    }
                }
                Err(status) => {
                    let said = match ended(&self.client, &self.grant).await {
                        Some(grant) => News::Ended(Box::new(grant)),
                        None => News::Lost(refused(&self.client, &status).what),
                    };
                    let _ = self.tell.send(said).await;
                    return;
                }
            }
        }
    }
}

/// From when to when a credential lives, by its broker's clock; ours may stand minutes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    due: Time,
    ends: Time,
}

impl Life {
    fn of(credential: &v1::Credential) -> Self {
        let at = |at: &Option<prost_types::Timestamp>| at.as_ref().map_or(Time::from_secs(0), time);
        Self { due: at(&credential.renew_at), ends: at(&credential.expires_at) }
    }

    /// How long until it is due: never longer than a fresh one may wait, which is two thirds of its life, so that a clock
    /// that is slow misses nothing.
    fn wait(self, now: Time) -> Duration {
        self.due.since(now).min(self.ends.since(self.due).saturating_mul(2))
    }

    /// How long until asking again, when the broker says that it is not due: a few times in what is left of its life.
    fn again(self) -> Duration {
        let rest = self.ends.since(self.due);
        (rest / 4).clamp(AGAIN_MIN, AGAIN_MAX)
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// The shortest pause between two questions whether a credential is due: clocks that agree differ by milliseconds.
const AGAIN_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two questions whether a credential is due.
const AGAIN_MAX: Duration = Duration::from_secs(30);

fn time(at: &prost_types::Timestamp) -> Time {
    let millis = u64::try_from(at.nanos).unwrap_or(0) / 1_000_000;
    let whole = Time::from_secs(u64::try_from(at.seconds).unwrap_or(0));
    whole + Duration::from_millis(millis)
}

/// The pause after this one. `refused`: it is not the way that is broken, but the login that is not taken.
fn longer(pause: Duration, refused: bool) -> Duration {
    pause.saturating_mul(2).min(if refused { PAUSE_REFUSED_MAX } else { PAUSE_MAX })
}

/// Whether asking again cannot help.
fn is_no(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied)
}

fn refused(client: &Client, status: &Status) -> Failure {
    client.failure(status)
}

/// Between half of `of` and all of it, so that many holders of a restarted broker do not come at once.
fn jitter(of: Duration) -> Duration {
    let [byte] = random::bytes::<1>();
    of / 2 + (of / 2).mul_f64(f64::from(byte) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A credential of five minutes, renewed after 200 s, read at `now` by a clock that stands `off` seconds ahead.
    #[track_caller]
    fn check(now: u64, off: i64, expect: u64) {
        let life = Life { due: Time::from_secs(100_200), ends: Time::from_secs(100_300) };
        let shown = now.checked_add_signed(off).unwrap();
        assert_eq!(life.wait(Time::from_secs(shown)), Duration::from_secs(expect), "{now} {off}");
    }

    #[test]
    fn a_clock_ten_minutes_off_misses_no_renewal() {
        check(100_000, 0, 200);
        check(100_150, 0, 50);
        check(100_250, 0, 0);
        // Slow: as long as a fresh one may wait, which is before its end. Fast: at once, and then as the broker says.
        check(100_000, -600, 200);
        check(100_000, 600, 0);
        let life = Life { due: Time::from_secs(100_200), ends: Time::from_secs(100_300) };
        assert_eq!(life.again(), Duration::from_secs(25));
    }

    #[test]
    fn a_login_that_is_refused_is_shown_ever_more_seldom() {
        let pauses = |refused: bool| {
            let mut pause = PAUSE_FIRST;
            let step = |_| {
                let now = pause;
                pause = longer(pause, refused);
                now
            };
            (0..16).map(step).collect()
        };
        let (lost, refused): (Vec<Duration>, Vec<Duration>) = (pauses(false), pauses(true));
        assert_eq!(lost.last(), Some(&PAUSE_MAX));
        assert_eq!(refused.last(), Some(&PAUSE_REFUSED_MAX));
        // A login that counts again within a lease of 15 s is found out in time.
        assert!(refused.iter().take(8).sum::<Duration>() < Duration::from_secs(15));
        assert_eq!(longer(PAUSE_REFUSED_MAX, false), PAUSE_MAX);
    }
}
