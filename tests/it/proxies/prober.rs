//! Asks several times a second, and writes down when each question was asked and what was decided.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::until;

/// One question and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When the question was sent: the decision was taken no earlier.
    pub sent: Instant,
    /// The answer's status; none when there was no answer.
    pub status: Option<u16>,
}

impl Asked {
    /// Whether it was let through.
    pub fn passed(&self) -> bool {
        self.status == Some(200)
    }
}

/// Asks until dropped. A question that gets no answer does not keep the next ones waiting.
pub struct Prober {
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The pause between two questions of one thread.
const EVERY: Duration = Duration::from_millis(100);
/// Threads: while one waits for a gate that is stopped, the others ask on.
const THREADS: usize = 3;

impl Prober {
    /// Starts it; the question tells the status of its answer.
    pub fn start(ask: impl Fn() -> Option<u16> + Send + Sync + 'static) -> Self {
        let (asked, over) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicBool>::default());
        let ask = Arc::new(ask);
        let thread = |_| {
            let (asked, over, ask) = (Arc::clone(&asked), Arc::clone(&over), Arc::clone(&ask));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    let status = ask();
                    asked.lock().unwrap().push(Asked { sent, status });
                    std::thread::sleep(EVERY);
                }
            })
        };
        let threads = (0..THREADS).map(thread).collect();
        Self { asked, over, threads }
    }

    /// All so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits for answers, as many as this, that let questions through which were sent after a moment.
    #[track_caller]
    pub fn passes(&self, what: &str, after: Instant, count: usize) {
        until(what, || {
            let asked = self.asked.lock().unwrap();
            asked.iter().filter(|one| one.sent > after && one.passed()).count() >= count
        });
    }

    /// Waits for answers, as many as this, whatever they say, to questions that were sent after a moment.
    #[track_caller]
    pub fn hears(&self, what: &str, after: Instant, count: usize) {
        until(what, || {
            let asked = self.asked.lock().unwrap();
            asked.iter().filter(|one| one.sent > after && one.status.is_some()).count() >= count
        });
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
